"""Muon: momentum whose every update of a kernel is made orthogonal, so that all its directions are learnt at once.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. torch's own Muon takes matrices only; a
convolution's kernel is one of (C_out, C_in * height * width), which is all that this adds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Of the quintics that drive singular values towards 1, the first two of Amsel et al. 2025 (Polar Express,
# https://arxiv.org/abs/2505.16932): they lift small ones 34-fold, nearly as much as three rounds of Jordan et al.'s one
# quintic, for two thirds of the work. How near to 1 the others come matters little.
_QUINTICS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
)


class Muon(torch.optim.AdamW):
    """Muon for the groups of parameters that say `orthogonal=True`, AdamW for the others.

    An orthogonal update is scaled to the size that AdamW's would have (Liu et al. 2025, https://arxiv.org/abs/2502.16982,
    section 2.2), so one learning rate serves both.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.bfloat16,
        **adamw: Any,
    ) -> None:
        super().__init__([{"orthogonal": False, **group} for group in groups], lr, **adamw)
        self.momentum = momentum
        self.dtype = dtype
        """Of the orthogonalization; bfloat16 is enough, and slow where the device does not compute in it."""
        # A gradient scaler must unscale, and skip a step that overflowed, before we see it.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["orthogonal"]]
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["orthogonal"]:
                for kernel in group["params"]:
                    if kernel.grad is not None:
                        self._step_kernel(kernel, kernel.grad, group)
        return loss

    def _step_kernel(self, kernel: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[kernel]
        if not state:
            # AdamW looks for a step in every parameter's state when it is loaded.
            state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(kernel)
        state["step"] += 1
        state["momentum"].lerp_(gradient, 1 - self.momentum)
        ahead = gradient.lerp(state["momentum"], self.momentum)  # Nesterov's look ahead
        # In the order in which a channels-last kernel lies in memory; which columns come first does not matter.
        rows = ahead.permute(0, 2, 3, 1)
        update = orthogonalized(rows.flatten(1).to(self.dtype))
        size = 0.2 * max(update.shape) ** 0.5
        if group["weight_decay"]:
            kernel.mul_(1 - group["lr"] * group["weight_decay"])
        kernel.add_(update.view(rows.shape).permute(0, 3, 1, 2), alpha=-group["lr"] * size)


def orthogonalized(matrix: Tensor) -> Tensor:
    """Nearly U V^T of the singular value decomposition U S V^T, of norm 1e19 at the most: (rows, columns) -> the same.

    Each round multiplies the matrix by a polynomial of its Gram matrix. These are small and symmetric and commute, so
    both rounds are done with them alone, and the matrix itself, several times as wide, is multiplied once.
    """
    tall = len(matrix) > matrix.shape[1]
    wide = matrix.mT if tall else matrix
    gram = wide @ wide.mT
    squared_norm = gram.diagonal().sum(dtype=torch.float32) + 1e-14
    gram /= squared_norm
    first = _polynomial(gram, _QUINTICS[0])
    second = _polynomial(first @ gram @ first, _QUINTICS[1])
    wide = (second @ first / squared_norm.sqrt()) @ wide
    return wide.mT if tall else wide


def _polynomial(gram: Tensor, coefficients: tuple[float, float, float]) -> Tensor:
    constant, linear, square = coefficients
    result = torch.addmm(gram, gram, gram, beta=linear, alpha=square)
    result.diagonal().add_(constant)
    return result
