"""A training step as a CUDA graph: recorded once, then replayed with one call from Python."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
_EAGER_STEPS = 3  # before recording: libraries choose their kernels, and the optimizer makes its state


class GraphedStep:
    """A training step that the GPU repeats without waiting for Python to start each kernel.

    GoogLeNet has many small layers: on a fast GPU, starting their kernels from Python takes longer than running them.
    The first batches, and batches of another shape than the recorded one, run as they are. Numbers from Python would
    be recorded as they are at the time, so the optimizer's learning rate becomes a tensor.
    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture
    """

    def __init__(self, step: Step, optimizer: torch.optim.Optimizer) -> None:
        """`step` takes inputs (N, C, H, W) and targets, and returns loss and logits; it must not wait for the GPU."""
        self._step = step
        self._graph: torch.cuda.CUDAGraph | None = None
        self._eager_steps = 0
        for group in optimizer.param_groups:
            device = group["params"][0].device
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
            group["capturable"] = True

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and logits; a later call overwrites them."""
        if self._graph is None and self._eager_steps < _EAGER_STEPS:
            self._eager_steps += 1
            return self._step(inputs, targets)
        if self._graph is None:
            self._inputs, self._targets = inputs.clone(), targets.clone()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._outputs = self._step(self._inputs, self._targets)
        if inputs.shape != self._inputs.shape or targets.shape != self._targets.shape:
            return self._step(inputs, targets)
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        self._graph.replay()
        return self._outputs
