"""Several processes: how they start, wait for each other, and end when one of them is lost."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, distributed, nn

from googlenet.device import require, resolve_device, resolve_precision
from googlenet.errors import RunError, UserError, reason_of
from googlenet.recipe import Recipe

_DECODING = timedelta(days=7)
"""The longest that processes wait while the first one of a machine downloads and decodes the images."""


def make_accelerator(recipe: Recipe) -> Accelerator:
    """The device, precision and processes of a run. Raises `UserError` if one of these or the tracker is missing."""
    device = resolve_device(recipe.device)
    precision = resolve_precision(recipe.precision, device)
    if recipe.tracker != "none":
        require(recipe.tracker, f"tracker = {recipe.tracker!r}")
    # accelerate keeps its settings for the whole process; a second run in it may want others
    AcceleratorState._reset_state(reset_partial_state=os.environ.get("WORLD_SIZE", "1") == "1")
    with explained_losses(recipe.process_timeout):
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="no" if precision == "fp32" else precision,
            log_with=None if recipe.tracker == "none" else recipe.tracker,
            project_dir=".",  # trackers ask for one; `fit` sets it to the run folder
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=timedelta(seconds=recipe.process_timeout)),
                # Frozen parameters have no gradient, for which processes would wait. It also keeps the order of sums,
                # which PyTorch else changes after a first step: on a CPU, a resumed run matches to the bit
                DistributedDataParallelKwargs(
                    find_unused_parameters=recipe.freeze_fraction > 0 or device.type == "cpu"
                ),
            ],
        )
    if accelerator.num_processes == 1:
        accelerator.state.device = device  # accelerate takes the first GPU, whatever the index
    else:
        _destroy_process_group_at_exit()
    return accelerator


@functools.cache
def _destroy_process_group_at_exit() -> None:
    """Once, and not at the end of a run: the next run needs the other processes again."""
    atexit.register(lambda: distributed.destroy_process_group() if distributed.is_initialized() else None)


@contextlib.contextmanager
def main_process_first(accelerator: Accelerator) -> Iterator[None]:
    """The first process of each machine goes first, and the others wait, longer than they wait for anything else."""
    if accelerator.num_processes == 1:
        yield
        return
    group, is_first = distributed.new_group(backend="gloo", timeout=_DECODING), accelerator.is_local_main_process
    if not is_first:
        distributed.barrier(group)
    try:
        yield
    except UserError:
        if is_first:
            distributed.barrier(group)  # the others find the same mistake
        raise
    if is_first:
        distributed.barrier(group)
    distributed.barrier(group)  # and all are here
    distributed.destroy_process_group(group)


@contextlib.contextmanager
def explained_losses(seconds: float) -> Iterator[None]:
    """Turns PyTorch's errors about a process that is gone or silent for some `seconds` into a `RunError`."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, RunError) or not (
            isinstance(error, distributed.DistError) or "gloo" in str(error).lower()
        ):
            raise
        # Gloo's begins with a file of its source and ends with a guess
        reason = re.sub(r"^\[\S+\] ", "", reason_of(error)).partition(". This is")[0]
        raise RunError(
            f"lost another process, which ended or did not answer for {seconds:g} s, the --process-timeout ({reason}); "
            "see its output, and continue with --resume"
        ) from error


def job_id() -> str | None:
    """torchrun's identifier of the job: the same in all its processes, however often they are restarted."""
    job = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if job == "none" else job


def is_restarted(environment: Path | None) -> bool:
    """Whether torchrun has started these processes again, after one was lost or a machine joined.

    Only the machine that lost a process counts a restart. The others, and one that takes the place of another, find the
    job in the `environment` file that its first start has written.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0:
        return True
    if environment is None or job_id() is None:
        return False
    with contextlib.suppress(OSError, ValueError):
        return json.loads(environment.read_text(encoding="utf-8")).get("job") == job_id()
    return False


@contextlib.contextmanager
def synchronized(net: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Within it, batch norm in training uses the mean and variance over the images of all processes."""
    is_needed, is_cpu = accelerator.num_processes > 1, accelerator.device.type == "cpu"
    swapped = [module for module in net.modules() if is_needed and type(module) is nn.BatchNorm2d]
    for module in swapped:
        module.__class__ = _SyncBatchNorm2d if is_cpu else nn.SyncBatchNorm  # type: ignore[assignment]
        vars(module)["process_group"] = None
    try:
        yield
    finally:
        for module in swapped:
            module.__class__ = nn.BatchNorm2d
            del vars(module)["process_group"]


class _SyncBatchNorm2d(nn.BatchNorm2d):
    """`nn.SyncBatchNorm`, which exists on GPUs only, for a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.running_mean is None or self.running_var is None or self.momentum is None:
            return super().forward(x)
        values = x.float()
        count = _Sum.apply(torch.tensor(float(x[:, 0].numel())))
        mean = _Sum.apply(values.sum((0, 2, 3))) / count
        centered = values - mean[:, None, None]
        variance = _Sum.apply(centered.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.get_buffer("num_batches_tracked").add_(1)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        y = centered * scale[:, None, None]
        return (y + self.bias[:, None, None] if self.affine else y).to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        distributed.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)
