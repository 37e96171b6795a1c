"""Every layer's output shape, parameters and cost, from a forward pass of one image."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from googlenet.errors import UserError, check_counts
from googlenet.model.googlenet import GoogLeNet
from googlenet.model.layers import (
    AuxiliaryHead,
    Convolution,
    EnlargeTo,
    GlobalAveragePool,
    Inception,
    LocalResponseNorm,
)


@dataclass(frozen=True)
class LayerSummary:
    """One layer, including everything in it."""

    name: str
    operation: str
    depth: int  # 1 for a child of the network, 2 for a branch of a block, ...
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activation_bytes: int


@dataclass(frozen=True)
class Summary:
    """The result of `summarize`: one row per layer, in the order of computation."""

    input_shape: tuple[int, ...]
    rows: tuple[LayerSummary, ...]
    parameters: int  # of the whole network, including the auxiliary heads
    multiply_adds: int  # of a forward pass in eval mode, without the auxiliary heads
    activation_bytes: int
    """Of all intermediate outputs without the auxiliary heads: roughly what a training step keeps in memory."""
    auxiliary_parameters: int
    auxiliary_multiply_adds: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_table(self, depth: int = 2) -> Table:
        """Rows down to `depth`: 1 shows blocks, 2 their branches, 3 the layers of the branches, 4 each operation."""
        table = Table("layer", "operation", "output shape", title=f"input {_shape(self.input_shape)}")
        table.title_justify = "left"
        for heading in ("parameters", "multiply-adds", "activations"):
            table.add_column(heading, justify="right")
        for row in self.rows:
            if row.depth <= depth:
                name = "  " * (row.depth - 1) + row.name.rpartition(".")[2]
                costs = (f"{count:,}" if count else "" for count in (row.parameters, row.multiply_adds))
                activations = _mebibytes(row.activation_bytes)
                table.add_row(name, row.operation, _shape(row.output_shape), *costs, activations)
        table.add_section()
        totals = (f"{self.parameters:,}", f"{self.multiply_adds:,}", _mebibytes(self.activation_bytes))
        table.add_row("total", "", "", *totals, style="bold")
        if self.auxiliary_parameters:
            table.caption = (
                f"The auxiliary heads are used in training only: the total includes their "
                f"{self.auxiliary_parameters:,} parameters, not their {self.auxiliary_multiply_adds:,} multiply-adds."
            )
        return table


def parse_input_size(text: str) -> tuple[int, int, int]:
    """`3,224,224` as (channels, height, width). Raises `UserError` for anything else."""
    try:
        channels, height, width = map(int, text.split(","))
    except ValueError as error:
        raise UserError(f"an input size is C,H,W, for example 3,224,224, not {text!r}") from error
    return channels, height, width


def summarize(net: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224), *, batch_size: int = 1) -> Summary:
    """Shapes, parameters and costs of every layer of a network in eval mode.

    Multiply-adds are those of convolutions and fully connected layers: half of what `torch.utils.flop_counter` counts.
    Activations are the outputs of all layers that do not work in place, in the network's precision.

    Args:
        net: any variant, or another network from images to logits, on any device; it is not changed.
        input_size: (C, H, W).
        batch_size: N; costs are those of the whole batch.

    Raises:
        UserError: if the network cannot take this input.
    """
    check_counts(batch_size=batch_size)
    if len(input_size) != 3 or min(input_size) < 1:
        raise UserError(f"an input size is C,H,W, each at least 1, not {','.join(map(str, input_size))}")
    shadow = copy.deepcopy(net).eval()
    outputs: dict[str, Tensor] = {}
    multiply_adds: dict[str, int] = {}  # of each layer that multiplies

    def record(module: nn.Module, output: Tensor, name: str) -> None:
        outputs[name] = output
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            each = module.weight[0].numel()
            multiply_adds[name] = multiply_adds.get(name, 0) + batch_size * output.numel() * each

    for name, module in shadow.named_modules():
        module.register_forward_hook(lambda module, _, output, name=name: record(module, output, name))
    # One image is computed for real, since PyTorch needs longer to import what computes shapes only. The costs of a
    # batch are proportional.
    weight = next(shadow.parameters())
    with torch.inference_mode():
        shadow(torch.zeros(1, *input_size, device=weight.device, dtype=weight.dtype))
        total = sum(multiply_adds.values())
        for name, head in shadow.architecture.heads.items() if isinstance(shadow, GoogLeNet) else ():
            getattr(shadow, name)(outputs[f"inception{head.block}"])
    rows = tuple(_rows(shadow, "", outputs, multiply_adds, batch_size))
    heads = [row for row in rows if row.name in ("aux1", "aux2")]
    return Summary(
        input_shape=(batch_size, *input_size),
        rows=rows,
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        multiply_adds=total,
        activation_bytes=sum(row.activation_bytes for row in rows if row.depth == 1 and row not in heads),
        auxiliary_parameters=sum(row.parameters for row in heads),
        auxiliary_multiply_adds=sum(row.multiply_adds for row in heads),
    )


def _rows(
    module: nn.Module, path: str, outputs: dict[str, Tensor], multiply_adds: dict[str, int], batch_size: int
) -> Iterator[LayerSummary]:
    """Everything in a module: parents before their children, the concatenation of a block after its branches."""
    depth = path.count(".") + 2 if path else 1

    def row(name: str, operation: str, parameters: int, cost: int, memory: int) -> LayerSummary:
        shape = (batch_size, *outputs[name].shape[1:])
        label = f"{path}.concat" if name == path else name
        return LayerSummary(label, operation, depth, shape, parameters, cost, batch_size * memory)

    for child_name, child in module.named_children():
        name = f"{path}.{child_name}" if path else child_name
        if isinstance(child, nn.Identity) or name not in outputs:
            continue
        parameters = sum(parameter.numel() for parameter in child.parameters())
        cost = sum(count for layer, count in multiply_adds.items() if f"{layer}.".startswith(f"{name}."))
        yield row(name, _operation(child), parameters, cost, _activation_bytes(child, name, outputs))
        yield from _rows(child, name, outputs, multiply_adds, batch_size)
    if isinstance(module, Inception):
        yield row(path, "concatenation", 0, 0, outputs[path].nbytes)


def _activation_bytes(module: nn.Module, name: str, outputs: dict[str, Tensor]) -> int:
    """Of one image."""
    children = {f"{name}.{key}": child for key, child in module.named_children()}
    inside = sum(_activation_bytes(child, child_name, outputs) for child_name, child in children.items())
    if name not in outputs or isinstance(module, nn.Identity | nn.Flatten) or getattr(module, "inplace", False):
        return inside
    # A parent's output is new memory (a sum, a concatenation) unless it is the output of its last child
    passed_on = any(outputs[name] is outputs.get(child_name) for child_name in children)
    return inside + (0 if passed_on else outputs[name].nbytes)


_NAMES = {
    Inception: "Inception block",
    AuxiliaryHead: "auxiliary classifier",
    nn.BatchNorm2d: "batch norm",
    nn.ZeroPad2d: "zero padding",
    LocalResponseNorm: "local response norm",
    EnlargeTo: "enlargement",
    GlobalAveragePool: "global average pool",
    nn.Linear: "fully connected",
}


def _operation(module: nn.Module) -> str:
    """What a layer does, in words."""
    match module:
        case Convolution():
            return " + ".join(map(_operation, module.children()))
        case Inception() if all(isinstance(branch, Convolution) for branch in module.children()):
            return " | ".join(_operation(branch).partition(" + ")[0] for branch in module.children())
        case nn.Sequential():
            return " -> ".join(_operation(layer).partition(" + ")[0] for layer in module)
        case nn.Conv2d():
            return f"{module.kernel_size[0]}x{module.kernel_size[1]} convolution" + _stride(module.stride)
        case nn.MaxPool2d() | nn.AvgPool2d():
            kind = "max" if isinstance(module, nn.MaxPool2d) else "average"
            return f"{module.kernel_size}x{module.kernel_size} {kind} pool" + _stride(module.stride)
        case nn.AdaptiveAvgPool2d():
            return f"average pool to {module.output_size}x{module.output_size}"
        case nn.Dropout():
            return f"dropout {module.p:g}"
    return next((name for kind, name in _NAMES.items() if isinstance(module, kind)), type(module).__name__)


def _stride(stride: int | tuple[int, ...]) -> str:
    side = stride if isinstance(stride, int) else stride[0]
    return f", stride {side}" if side > 1 else ""


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.2f} MiB"
