"""Faster forms of a network, as explicit transformations. Each computes what the plain network computes (tested).

For training and evaluation on a CPU, `fused` swaps the classes of some modules within a `with` block: max pools become
the C max pool, and in bf16 the 1x1 convolutions of a block become one matrix product. oneDNN is slow at the gradients
of a 1x1 convolution on a small map, and two thirds of GoogLeNet's convolutions are 1x1; as matrix products they take a
quarter to a half of the time. In fp32 there is nothing to gain. Parameters and their names do not change.
docs/performance.md has the measurements.

A fused module uses its fast form only while its parts are the plain ones: with a hook on a part, a module put in its
place (LoRA, quantization), or batch norms in different modes, it computes as the plain network does.

For inference, `folded` makes a copy whose convolutions include the batch norm that follows them.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from googlenet.kernels.max_pool import CMaxPool2d
from googlenet.model.googlenet import GoogLeNet
from googlenet.model.layers import Convolution, Inception, LocalResponseNorm


@contextlib.contextmanager
def fused(net: nn.Module, *, merge: bool = False) -> Iterator[None]:
    """Within it, any network on a CPU has the C max pool; with `merge`, for training in bf16, GoogLeNet and its blocks
    also compute their 1x1 convolutions as merged products."""
    swapped = [module for module in net.modules() if type(module) is nn.MaxPool2d or (merge and type(module) in _FAST)]
    for module in swapped:
        module.__class__ = _FAST[type(module)]
    try:
        yield
    finally:
        plain = {fast: slow for slow, fast in _FAST.items()}
        for module in swapped:
            module.__class__ = plain[type(module)]


def folded(net: GoogLeNet, dtype: torch.dtype = torch.float32) -> GoogLeNet:
    """A copy for inference: batch norm folded into the convolutions, the C max pool, channels-last, eval mode.

    Folding is done in float32, so that values are rounded to `dtype` once.
    """
    copied = copy.deepcopy(net).float().eval()
    for module in copied.modules():
        if isinstance(module, Convolution) and type(module.bn) is nn.BatchNorm2d and type(module.conv) is nn.Conv2d:
            module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), None
        elif type(module) is nn.MaxPool2d:
            module.__class__ = CMaxPool2d
    copied.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copied


class _FusedInception(Inception):
    """The 1x1 convolutions of the block's input as one product, then one batch norm and one ReLU for all branches."""

    def forward(self, x: Tensor) -> Tensor:
        branches: list[Any] = [list(each) if isinstance(each, nn.Sequential) else [each] for each in self.children()]
        if not (_is_faster(x) and _is_plain(self) and all(isinstance(each[-1], Convolution) for each in branches)):
            return super().forward(x)
        single = [each[0] for each in branches if len(each) == 1]
        reducing = [each[0] for each in branches if len(each) > 1 and isinstance(each[0], Convolution)]
        if not (reducing and branches[: len(single)] == [[unit] for unit in single]):
            return super().forward(x)
        if not _are_pointwise(*single, *reducing):
            return super().forward(x)
        widths = [unit.conv.out_channels for unit in (*single, *reducing)]
        merged = pointwise(x, [unit.conv for unit in (*single, *reducing)])
        finished, reduced = merged.split((sum(widths[: len(single)]), sum(widths[len(single) :])), dim=1)
        # Batch norm is slow on memory with gaps, which a slice of the channels has, and what `split` returns may not be
        # changed in place
        reduced = reduced.clone(memory_format=torch.channels_last)
        reduced = F.relu_(_batch_norm(reduced, [unit.bn for unit in reducing]))
        begun = iter(reduced.split(widths[len(single) :], dim=1))
        outputs = [finished]
        for first, *middle, last in (each for each in branches if len(each) > 1):
            y = next(begun) if isinstance(first, Convolution) else first(x)
            for layer in middle:
                y = layer(y)
            outputs.append(_convolved(y, last))
        return F.relu_(_batch_norm(torch.cat(outputs, dim=1), [each[-1].bn for each in branches]))


class _FusedGoogLeNet(GoogLeNet):
    """A stem whose ReLUs follow the max pools: the two commute, and after a pool a quarter of the values is left."""

    def _stem(self, x: Tensor) -> Tensor:
        layers = [getattr(self, name) for name in self._stem_names]
        norms = (nn.Identity, LocalResponseNorm)
        if not (_is_faster(x) and all(isinstance(layer, norms) or _is_plain(layer) for layer in layers)):
            return super()._stem(x)
        waits: Callable[[Tensor], Tensor] | None = None  # the ReLU of the last convolution
        for layer in layers:
            if waits is not None and not isinstance(layer, nn.Identity | nn.MaxPool2d):
                x, waits = waits(x), None
            if isinstance(layer, Convolution):
                x = _convolved(x, layer)
                x = x if layer.bn is None else layer.bn(x)
                # Not in place after a product: autograd would copy the gradient of its view
                waits = F.relu if _are_pointwise(layer) else F.relu_
            else:
                x = layer(x)
        return x if waits is None else waits(x)


_FAST: dict[type[nn.Module], type[nn.Module]] = {
    nn.MaxPool2d: CMaxPool2d,
    Inception: _FusedInception,
    GoogLeNet: _FusedGoogLeNet,
}
_PLAIN = (
    nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, CMaxPool2d, nn.Sequential, Convolution,
    _FusedInception,
)  # fmt: skip
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _is_faster(x: Tensor) -> bool:
    """Whether the merged forms are faster: a training step in bf16 on a CPU, channels-last."""
    return (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
        and (x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu"))
        and x.is_contiguous(memory_format=torch.channels_last)
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
    )


def _is_plain(block: nn.Module) -> bool:
    """Whether every part is a layer of the kind it was built with, without hooks, and all are alike."""
    norms, units = set(), set()
    for part in block.modules():
        if type(part) not in _PLAIN or "forward" in vars(part) or any(getattr(part, name) for name in _HOOKS):
            return False
        if isinstance(part, nn.BatchNorm2d):
            norms.add((part.training, part.momentum, part.eps, part.affine, part.track_running_stats))
        if isinstance(part, Convolution):
            units.add((part.bn is None, getattr(part.conv, "bias", None) is None))
    is_usual = all(momentum is not None and affine and track for _, momentum, _, affine, track in norms)
    return is_usual and len(norms) <= 1 and len(units) <= 1 and not nn.modules.module._has_any_global_hook()


def _are_pointwise(*units: Convolution) -> bool:
    """Whether these are 1x1 convolutions with stride 1."""
    usual = ((1, 1), (1, 1), (0, 0), 1)
    return all((c.kernel_size, c.stride, c.padding, c.groups) == usual for c in (unit.conv for unit in units))


def pointwise(x: Tensor, convolutions: Sequence[nn.Conv2d]) -> Tensor:
    """1x1 convolutions of one input as a matrix product: (N, C, H, W) -> (N, sum of C_out, H, W)."""
    weight = torch.cat([convolution.weight for convolution in convolutions]).flatten(1)
    biases = [convolution.bias for convolution in convolutions if convolution.bias is not None]
    return F.linear(x.permute(0, 2, 3, 1), weight, torch.cat(biases) if biases else None).permute(0, 3, 1, 2)


def _convolved(x: Tensor, unit: Convolution) -> Tensor:
    return pointwise(x, (unit.conv,)) if _are_pointwise(unit) else unit.conv(x)


def _batch_norm(y: Tensor, layers: Sequence[nn.BatchNorm2d | None]) -> Tensor:
    """Each batch norm on its part of the channels, as one; `y` itself if there are none."""
    norms = [norm for norm in layers if norm is not None]
    if not norms:
        return y
    mean = torch.cat([norm.get_buffer("running_mean") for norm in norms])
    variance = torch.cat([norm.get_buffer("running_var") for norm in norms])
    weight, bias = torch.cat([norm.weight for norm in norms]), torch.cat([norm.bias for norm in norms])
    training, momentum = norms[0].training, norms[0].momentum
    assert momentum is not None
    y = F.batch_norm(y, mean, variance, weight, bias, training, momentum, norms[0].eps)
    if training:
        sizes = [norm.num_features for norm in norms]
        for norm, new_mean, new_variance in zip(norms, mean.split(sizes), variance.split(sizes), strict=True):
            norm.get_buffer("running_mean").copy_(new_mean)
            norm.get_buffer("running_var").copy_(new_variance)
            norm.get_buffer("num_batches_tracked").add_(1)
    return y
