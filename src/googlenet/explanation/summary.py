"""Every layer's output shape, parameters and cost, without computing anything."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from googlenet.errors import UserError
from googlenet.model.googlenet import AuxiliaryHead, Convolution, GlobalAveragePool, Inception, LocalResponseNorm


@dataclass(frozen=True)
class LayerRow:
    """One layer of a summary, with everything inside it."""

    name: str
    operation: str
    depth: int
    """1 for a child of the network, 2 for a branch of a block, ..."""
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activation_bytes: int


@dataclass(frozen=True)
class Summary:
    """What `summarize` found: a row for each layer, in the order of the computation."""

    input_shape: tuple[int, ...]
    rows: tuple[LayerRow, ...]
    parameters: int
    """Of the whole network, auxiliary heads included."""
    multiply_adds: int
    """Of a forward pass in eval mode, auxiliary heads not included."""
    activation_bytes: int
    """Of every output inside the network but the auxiliary heads': what a training step keeps, roughly."""
    auxiliary_parameters: int
    auxiliary_multiply_adds: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_table(self, depth: int = 2) -> Table:
        """Rows down to `depth`: 1 shows blocks, 2 their branches, 3 the layers of the branches, 4 each operation."""
        table = Table(title=f"input {_shape(self.input_shape)}", title_justify="left")
        for heading in ("layer", "operation", "output shape"):
            table.add_column(heading)
        for heading in ("parameters", "multiply-adds", "activations"):
            table.add_column(heading, justify="right")
        for row in self.rows:
            if row.depth <= depth:
                table.add_row(
                    "  " * (row.depth - 1) + row.name.rpartition(".")[2],
                    row.operation,
                    _shape(row.output_shape),
                    f"{row.parameters:,}" if row.parameters else "",
                    f"{row.multiply_adds:,}" if row.multiply_adds else "",
                    _mebibytes(row.activation_bytes),
                )
        table.add_section()
        costs = (f"{self.parameters:,}", f"{self.multiply_adds:,}", _mebibytes(self.activation_bytes))
        table.add_row("total", "", "", *costs, style="bold")
        if self.auxiliary_parameters:
            table.caption = (
                f"The auxiliary heads work in training only: their {self.auxiliary_parameters:,} parameters are in the "
                f"total, their {self.auxiliary_multiply_adds:,} multiply-adds are not."
            )
        return table


def parse_input_size(text: str) -> tuple[int, int, int]:
    """`3,224,224` as channels, height, width. Raises `UserError` for anything else."""
    try:
        channels, height, width = (int(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"an input size is C,H,W (3,224,224, say), not {text!r}") from error
    return channels, height, width


def summarize(net: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224), *, batch_size: int = 1) -> Summary:
    """Pass shapes, and nothing but shapes, through a network in eval mode.

    Multiply-adds are those of convolutions and fully connected layers: half of what `torch.utils.flop_counter` counts.
    Activations are the outputs of all layers that do not work in place, in the network's own precision.

    Args:
        net: any variant, or another network that makes logits of images, on any device; it is not changed.
        input_size: (C, H, W).
        batch_size: N; costs are those of the whole batch.

    Raises:
        UserError: for sizes that the network cannot take.
    """
    if batch_size < 1:
        raise UserError(f"a batch is of 1 image or more, not {batch_size}")
    if len(input_size) != 3 or min(input_size) < 1:
        raise UserError(f"an input size is C,H,W, each 1 or more, not {','.join(map(str, input_size))}")
    shadow = copy.deepcopy(net).to("meta").eval()
    outputs: dict[str, Tensor] = {}
    for name, module in shadow.named_modules():
        module.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.__setitem__(name, output))
    example = torch.empty(batch_size, *input_size, device="meta", dtype=next(shadow.parameters()).dtype)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            shadow(example)
        flops = _flops(counter, "")
        for name, block in (("aux1", "inception4a"), ("aux2", "inception4d")):
            if (head := getattr(shadow, name, None)) is not None:
                with FlopCounterMode(display=False) as head_counter:
                    head(outputs[block])
                flops |= _flops(head_counter, name)
    rows = tuple(_rows(shadow, "", outputs, flops))
    heads = [row for row in rows if row.name in ("aux1", "aux2")]
    return Summary(
        input_shape=(batch_size, *input_size),
        rows=rows,
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        multiply_adds=counter.get_total_flops() // 2,
        activation_bytes=sum(row.activation_bytes for row in rows if row.depth == 1 and row not in heads),
        auxiliary_parameters=sum(row.parameters for row in heads),
        auxiliary_multiply_adds=sum(row.multiply_adds for row in heads),
    )


def _flops(counter: FlopCounterMode, path: str) -> dict[str, int]:
    """Floating-point operations by module; `path` is the name of the module that was counted, empty for the network."""
    found = {}
    for name, operations in counter.get_flop_counts().items():
        inner = name.partition(".")[2]
        if inner or name != "Global":
            found[f"{path}.{inner}".strip(".")] = sum(operations.values())
    return found


def _rows(module: nn.Module, path: str, outputs: dict[str, Tensor], flops: dict[str, int]) -> Iterator[LayerRow]:
    """The rows of everything inside a module, each parent before its children, the concatenation after the branches."""
    depth = path.count(".") + 2 if path else 1
    for child_name, child in module.named_children():
        name = f"{path}.{child_name}" if path else child_name
        if isinstance(child, nn.Identity) or name not in outputs:
            continue
        yield LayerRow(
            name,
            _operation(child),
            depth,
            tuple(outputs[name].shape),
            sum(parameter.numel() for parameter in child.parameters()),
            flops.get(name, 0) // 2,
            _activation_bytes(child, name, outputs),
        )
        yield from _rows(child, name, outputs, flops)
    if isinstance(module, Inception):
        concatenated = outputs[path]
        yield LayerRow(f"{path}.concat", "concatenation", depth, tuple(concatenated.shape), 0, 0, concatenated.nbytes)


def _activation_bytes(module: nn.Module, name: str, outputs: dict[str, Tensor]) -> int:
    children = {f"{name}.{key}": child for key, child in module.named_children()}
    inside = sum(_activation_bytes(child, child_name, outputs) for child_name, child in children.items())
    if name not in outputs or isinstance(module, nn.Identity | nn.Flatten) or getattr(module, "inplace", False):
        return inside
    # A sum or a concatenation is made by the parent; anything else that it hands on is its last child's
    handed_on = any(outputs[name] is outputs.get(child_name) for child_name in children)
    return inside + (0 if handed_on else outputs[name].nbytes)


def _operation(module: nn.Module) -> str:
    """What a layer does, in the field's words."""
    match module:
        case Inception():
            return "Inception block"
        case AuxiliaryHead():
            return "auxiliary classifier"
        case Convolution():
            return " + ".join(_operation(layer) for layer in module.children())
        case nn.Sequential():
            return " -> ".join(_operation(layer).partition(" + ")[0] for layer in module)
        case nn.Conv2d():
            return f"{module.kernel_size[0]}x{module.kernel_size[1]} convolution" + _stride(module.stride[0])
        case nn.MaxPool2d():
            return f"{module.kernel_size}x{module.kernel_size} max pool" + _stride(_side(module.stride))
        case nn.AvgPool2d():
            return f"{module.kernel_size}x{module.kernel_size} average pool" + _stride(_side(module.stride))
        case nn.AdaptiveAvgPool2d():
            return f"average pool to {module.output_size}x{module.output_size}"
        case nn.BatchNorm2d():
            return "batch norm"
        case LocalResponseNorm():
            return "local response norm"
        case GlobalAveragePool():
            return "global average pool"
        case nn.Dropout():
            return f"dropout {module.p:g}"
        case nn.Linear():
            return "fully connected"
        case _:
            return type(module).__name__


def _side(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]


def _stride(stride: int) -> str:
    return f", stride {stride}" if stride > 1 else ""


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.2f} MiB"
