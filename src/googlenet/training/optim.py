"""What changes the weights: the loss, the update rules, the learning rate over the run, the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from googlenet.device import resolve_precision
from googlenet.model.googlenet import GoogLeNetOutput
from googlenet.recipe import Recipe

# Of the quintics that drive singular values towards 1, the first two of Amsel et al. 2025 (Polar Express,
# https://arxiv.org/abs/2505.16932): they raise small ones 34-fold, nearly as much as three rounds of Jordan et al.'s
# one quintic, for two thirds of the work. How close to 1 the others come matters little.
_QUINTICS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
)


def training_loss(
    output: Tensor | GoogLeNetOutput, targets: Tensor, recipe: Recipe, class_weights: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy per image, in nats, plus the weighted losses of the auxiliary heads (paper, section 5).

    `targets` are labels (N,) or class probabilities (N, num_classes); `class_weights` are (num_classes,).
    """

    def loss(logits: Tensor) -> Tensor:
        smoothing = recipe.label_smoothing
        each = F.cross_entropy(logits.float(), targets, class_weights, reduction="none", label_smoothing=smoothing)
        return each.mean()  # PyTorch's own weighted mean depends on which images share a part of a batch

    if isinstance(output, tuple):
        heads = [loss(logits) for logits in output[1:] if logits is not None]
        return loss(output[0]) + recipe.auxiliary_weight * sum(heads[1:], heads[0])
    return loss(output)


def balanced_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Class weights (num_classes,) with which every class counts the same; their mean over the images is 1."""
    counts = torch.bincount(labels, minlength=num_classes)
    return len(labels) / (num_classes * counts.clamp(min=1).float())


def learning_rate_at(step: int, total_steps: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """The learning rate of one step, counted from 0. It depends on nothing but the step, so nothing has to be saved.

    - `constant`
    - `step`: times `step_factor` every `step_epochs` epochs.
    - `polynomial`: times (1 - step / total_steps) ** `power`.
    - `linear`: linear warm-up over the `warmup` fraction of the steps, then linear decay to 0.
    - `cosine`: the same warm-up, then half a cosine down to 0.
    """
    match recipe.schedule:
        case "constant":
            factor = 1.0
        case "step":
            factor = recipe.step_factor ** (step // (steps_per_epoch * recipe.step_epochs))
        case "polynomial":
            factor = (1 - step / total_steps) ** recipe.power
        case "linear" | "cosine":
            warmup = recipe.warmup * total_steps
            if step < warmup:
                factor = (step + 1) / (warmup + 1)
            else:
                left = 1 - (step - warmup) / (total_steps - warmup)
                factor = left if recipe.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
    return recipe.learning_rate * factor


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float, recipe: Recipe) -> None:
    """Of an optimizer from `make_optimizer`."""
    for group in optimizer.param_groups:
        value = rate * (recipe.backbone_lr_scale if group["backbone"] else 1.0)
        if isinstance(group["lr"], Tensor):  # a CUDA graph reads it
            group["lr"].fill_(value)
        else:
            group["lr"] = value


def make_optimizer(net: nn.Module, heads: Sequence[nn.Module], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's update rule. Weight decay is for kernels and matrices, not for biases and batch norm.

    If the network starts from weights, the groups of all but the `heads` (the classifiers) have `backbone=True`: their
    learning rate is scaled by `backbone_lr_scale`.
    """
    head_parameters = {id(parameter) for head in heads for parameter in head.parameters()}
    kernels = {id(module.weight) for module in net.modules() if isinstance(module, nn.Conv2d)}
    groups: dict[tuple[bool, bool, bool], dict[str, Any]] = {}
    for parameter in net.parameters():
        orthogonal = recipe.optimizer == "muon" and id(parameter) in kernels
        backbone = recipe.weights is not None and id(parameter) not in head_parameters
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        group = {"params": [], "weight_decay": decay, "backbone": backbone, "orthogonal": orthogonal}
        groups.setdefault((orthogonal, parameter.ndim > 1, backbone), group)["params"].append(parameter)
    parameter_groups, rate, momentum = list(groups.values()), recipe.learning_rate, recipe.momentum
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameter_groups, rate, momentum=momentum, nesterov=recipe.nesterov, fused=True)
    if recipe.optimizer == "muon":
        native = resolve_precision("auto", next(net.parameters()).device) == "bf16"
        dtype = torch.bfloat16 if native else torch.float32
        return Muon(parameter_groups, rate, momentum=momentum, dtype=dtype, betas=(0.9, 0.999), fused=True)
    rule = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return rule(parameter_groups, rate, betas=(momentum, 0.999), fused=True)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Take over what an optimizer of the same recipe remembers; its settings are those of the recipe.

    Raises an error of Python, such as `ValueError`, if `saved` is not what `state_dict` of that optimizer returned.
    """
    groups, inner = optimizer.state_dict()["param_groups"], getattr(optimizer, "optimizer", optimizer)
    if [group["params"] for group in groups] != [group["params"] for group in saved["param_groups"]]:
        raise ValueError("the optimizer has other parameters")
    for group, named in zip(groups, inner.param_groups, strict=True):
        names = {"step", "momentum"} if group["orthogonal"] and isinstance(inner, Muon) else _STATE[type(inner)]
        for number, parameter in zip(group["params"], named["params"], strict=True):
            state = saved["state"].get(number, {})
            if state and state.keys() != names:
                raise ValueError(f"the optimizer remembers {', '.join(map(str, state))}")
            if any(value.shape != (() if name == "step" else parameter.shape) for name, value in state.items()):
                raise ValueError("what the optimizer remembers has another shape than the weights")
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


class Muon(torch.optim.AdamW):
    """Muon (momentum with orthogonalized updates) for groups that are `orthogonal`, AdamW for the others.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. PyTorch's own Muon takes matrices only; here
    a convolution's kernel is a matrix of (C_out, C_in * height * width). Orthogonal updates are scaled to the size that
    AdamW's would have (Liu et al. 2025, https://arxiv.org/abs/2502.16982, section 2.2): one learning rate serves both.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, momentum: float = 0.95, dtype: torch.dtype = torch.bfloat16,
        **adamw: Any,
    ) -> None:  # fmt: skip
        super().__init__(groups, lr, **adamw)
        self.momentum = momentum
        self.dtype = dtype
        """Of the orthogonalization; bfloat16 is enough, and slow if the device does not compute in it."""
        # A gradient scaler must unscale, and skip a step that overflowed, before this optimizer sees the gradients
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
            # AdamW expects a step in every parameter's state when it is loaded
            state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(kernel)
        state["momentum"].lerp_(gradient, 1 - self.momentum)
        ahead = gradient.lerp(state["momentum"], self.momentum)  # Nesterov momentum
        # In the memory order of a channels-last kernel; the order of the columns does not matter
        rows = ahead.permute(0, 2, 3, 1)
        update = orthogonalize(rows.flatten(1).to(self.dtype))
        size = 0.2 * max(update.shape) ** 0.5
        if group["weight_decay"]:
            kernel.mul_(1 - group["lr"] * group["weight_decay"])
        kernel.sub_((group["lr"] * size * update).view(rows.shape).permute(0, 3, 1, 2))


def orthogonalize(matrix: Tensor) -> Tensor:
    """Approximately U V^T of the singular value decomposition U S V^T: (rows, columns) -> (rows, columns).

    Each round multiplies the matrix by a polynomial of its Gram matrix. The Gram matrices are small and symmetric and
    commute, so both rounds work on them alone, and the matrix itself, several times as wide, is multiplied once.
    """

    def polynomial(gram: Tensor, coefficients: tuple[float, float, float]) -> Tensor:
        constant, linear, square = coefficients
        result = torch.addmm(gram, gram, gram, beta=linear, alpha=square)
        result.diagonal().add_(constant)
        return result

    tall = len(matrix) > matrix.shape[1]
    wide = matrix.mT if tall else matrix
    gram = wide @ wide.mT
    squared_norm = gram.diagonal().sum(dtype=torch.float32) + 1e-14
    gram /= squared_norm
    first = polynomial(gram, _QUINTICS[0])
    second = polynomial(first @ gram @ first, _QUINTICS[1])
    wide = (second @ first / squared_norm.sqrt()) @ wide
    return wide.mT if tall else wide


def make_ema(net: nn.Module, recipe: Recipe) -> AveragedModel | None:
    """The exponential moving average of the weights and batch norm statistics; None if it is off."""
    return AveragedModel(net, use_buffers=True) if recipe.ema_decay > 0 else None


def update_ema(ema: AveragedModel, net: nn.Module, step: int, decay: float) -> None:
    """Add the weights after `step` steps to the average.

    The decay ramps up, as in TensorFlow's ExponentialMovingAverage: with a constant one, the average of a short run
    would still be mostly the untrained network.
    """
    ema.multi_avg_fn = get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))
    ema.update_parameters(net)


_STATE: dict[type, set[str]] = {
    torch.optim.SGD: {"momentum_buffer"},
    **{rule: {"step", "exp_avg", "exp_avg_sq"} for rule in (torch.optim.Adam, torch.optim.AdamW, Muon)},
}
"""What each optimizer remembers of a parameter."""
