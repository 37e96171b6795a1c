from __future__ import annotations

from io import StringIO

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from googlenet import UserError, create_model, summarize
from googlenet.explanation.summary import Summary, parse_input_size
from tests.networks import GOOGLENETS


def text(summary: Summary, depth: int) -> str:
    console = Console(width=200, file=StringIO(), record=True)
    console.print(summary.to_table(depth))
    return console.export_text()


@pytest.mark.parametrize("variant", GOOGLENETS)
@pytest.mark.parametrize("size", [(1, 64, 64), (3, 224, 224), (3, 97, 161)])
def test_totals_agree_with_torchs_counter_and_the_parameters(variant: str, size: tuple[int, int, int]) -> None:
    net = create_model(variant, num_classes=10, in_channels=size[0]).eval()
    summary = summarize(net, size, batch_size=2)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.randn(2, *size))
    assert summary.multiply_adds * 2 == counter.get_total_flops()
    assert summary.parameters == sum(parameter.numel() for parameter in net.parameters())
    top = [row for row in summary.rows if row.depth == 1]
    assert sum(row.parameters for row in top) == summary.parameters
    assert sum(row.multiply_adds for row in top) == summary.multiply_adds + summary.auxiliary_multiply_adds
    leaves = [row for row in summary.rows if row.name.endswith((".conv", "fc", "fc1", "fc2"))]
    convolutions = [row for row in leaves if row.name not in ("aux1.conv", "aux2.conv")]
    assert sum(row.multiply_adds for row in convolutions) == sum(row.multiply_adds for row in top)


def test_shapes_are_those_of_a_forward_pass() -> None:
    net = create_model("tutorial", num_classes=10, in_channels=1).eval()
    shapes = {}
    for name, module in net.named_modules():
        module.register_forward_hook(lambda _m, _i, o, name=name: shapes.update({name: tuple(o.shape)}))
    with torch.no_grad():
        net(torch.randn(1, 1, 224, 224))
    rows = {row.name: row for row in summarize(net, (1, 224, 224)).rows}
    assert rows["inception3a.branch2"].output_shape == (1, 128, 28, 28)
    assert rows["inception3a.concat"].output_shape == (1, 256, 28, 28)
    for name, row in rows.items():
        if not name.endswith("concat"):
            assert row.output_shape == shapes[name]


def test_activation_memory_of_a_layer_by_hand() -> None:
    rows = {row.name: row for row in summarize(create_model("bn"), (3, 224, 224)).rows}
    convolution_and_norm = 2 * 64 * 112 * 112 * 4
    assert rows["conv1"].activation_bytes == convolution_and_norm
    assert rows["conv1.relu"].activation_bytes == 0
    half = summarize(create_model("bn").bfloat16(), (3, 224, 224))
    assert half.activation_bytes * 2 == summarize(create_model("bn"), (3, 224, 224)).activation_bytes


def test_the_table_shows_branches_at_depth_2() -> None:
    summary = summarize(create_model("paper"), (3, 224, 224))
    assert "branch4" not in text(summary, 1)
    second = text(summary, 2)
    for text_shown in (
        "branch4",
        "concatenation",
        "3x3 max pool -> 1x1 convolution",
        "local response norm",
        "13,378,280",
    ):
        assert text_shown in second
    assert "branch2.1" not in second
    assert f"{summary.auxiliary_parameters:,}" in second


def test_the_network_is_not_changed() -> None:
    net = create_model("bn", num_classes=3).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    summarize(net, (3, 64, 64))
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("wrong", ["224", "3,224", "3,224,x", "1,2,3,4", ""])
def test_invalid_input_sizes(wrong: str) -> None:
    with pytest.raises(UserError, match="C,H,W"):
        parse_input_size(wrong)


@pytest.mark.parametrize(
    ("variant", "size", "batch_size", "name"),
    [
        ("bn", (3, 0, 64), 1, "C,H,W"),
        ("bn", (3, 64, 64), 0, "batch_size"),
        ("bn", (1, 64, 64), 1, r"\(N, 3, H, W\)"),
        ("torchvision", (3, 5, 5), 1, "5x5"),
    ],
)
def test_inputs_that_a_network_cannot_take(
    variant: str, size: tuple[int, int, int], batch_size: int, name: str
) -> None:
    with pytest.raises(UserError, match=name):
        summarize(create_model(variant), size, batch_size=batch_size)
