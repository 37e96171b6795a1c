from __future__ import annotations

import copy
import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from googlenet import Ablation, GoogLeNet, ImageSplit, UserError, ablate, create_model, evaluate, save
from googlenet.explanation.ablation import draw_ablation
from googlenet.model.architecture import TABLE_1
from tests.explanation.pass_through import connect, pass_through
from tests.networks import GOOGLENETS, fitted, with_info

CLASSES = ("a", "b", "c", "d")


def labeled_by(net: GoogLeNet, count: int) -> ImageSplit:
    """Random images with the predictions of the network as labels: every changed prediction is an error."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(0, 256, (count, net.architecture.in_channels, 4, 4), generator=generator, dtype=torch.uint8)
    images = cells.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    with torch.no_grad():
        logits = net.eval()(net.info.input.prepare(images))
        net.fc.bias -= logits.mean(dim=0)  # else one class may be predicted for all
        return ImageSplit(images, net(net.info.input.prepare(images)).argmax(dim=1))


@pytest.mark.parametrize("variant", GOOGLENETS)
def test_an_ablated_branch_is_one_with_zero_weights(variant: str) -> None:
    torch.manual_seed(0)
    net = with_info(create_model(variant, num_classes=4, in_channels=2, initialization="he"), CLASSES, 32)
    split = labeled_by(net, 16)
    ablation = ablate(net, split, precision="fp32", batch_size=7)
    assert ablation.accuracy == 1
    assert ablation.accuracy_drop.max() > 0
    for block, branch in ((0, 0), (1, 1), (4, 2), (8, 3)):
        changed = copy.deepcopy(net)
        layer = getattr(getattr(changed, f"inception{TABLE_1[block].name}"), f"branch{branch + 1}")
        last = layer if branch == 0 else layer[-1]
        for parameter in last.parameters():
            parameter.data.zero_()
        correct = evaluate(changed, split, precision="fp32").logits.argmax(dim=1) == split.labels
        assert torch.equal(ablation.ablated[block, branch], correct)


def test_the_only_branch_with_the_signal_is_found() -> None:
    """Two classes, each a channel, which passes through the pool branch of 4b, and through 1x1 branches elsewhere."""
    net = pass_through("bn", 64)
    net.inception4b.branch1.conv.weight.data.zero_()
    for channel in (0, 1):
        connect(net.inception4b.branch4[1].conv, channel, channel)
        connect(net.inception4c.branch1.conv, 160 + 224 + 64 + channel, channel)
    images = torch.zeros(10, 3, 64, 64, dtype=torch.uint8)
    labels = torch.arange(10) % 2
    images[torch.arange(10), labels] = 255
    ablation = ablate(net, ImageSplit(images, labels), precision="fp32")
    assert ablation.accuracy == 1
    expected = torch.zeros(9, 4)
    expected[:, 0] = 0.5  # if all logits are equal, the first class is predicted, which is correct for half
    expected[3] = torch.tensor([0, 0, 0, 0.5])
    torch.testing.assert_close(ablation.accuracy_drop.float(), expected)


def test_the_intact_accuracy_is_that_of_evaluate(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (40, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    split = ImageSplit(images, torch.arange(4).repeat_interleave(10))  # sorted by class, as a folder is
    net = fitted(split, CLASSES).train()
    net.inception4a.branch1.bn.eval()
    modes = [module.training for module in net.modules()]
    ablation = ablate(net, split, precision="fp32", batch_size=32)
    assert [module.training for module in net.modules()] == modes
    assert type(net.maxpool1) is nn.MaxPool2d
    assert ablation.accuracy == evaluate(net, split, precision="fp32").accuracy > 0.5
    assert ablation.ablated.shape == (9, 4, 40)
    save(net, net.info, tmp_path / "model.safetensors")
    spread = ablate(net, split, precision="fp32", max_images=8)
    assert torch.equal(ablate(tmp_path, split, precision="fp32", max_images=8).ablated, spread.ablated)
    assert len(ablate(net, split.spread(4), precision="fp32", max_images=1000).intact) == 4
    assert torch.equal(spread.intact, ablate(net, split.spread(8), precision="fp32").intact)
    assert split.spread(8).labels.bincount().tolist() == [2, 2, 2, 2]


def some_ablation() -> Ablation:
    """90 of 100 images are correct; 20 of them not without 3a's 1x1, 1 not without 3b's pool but 2 others."""
    intact = torch.arange(100) < 90
    ablated = intact.repeat(9, 4, 1)
    ablated[0, 0, :20] = False
    ablated[1, 3, 0] = False
    ablated[1, 3, 98:] = True
    return Ablation(tuple(row.name for row in TABLE_1), ("1x1", "3x3", "5x5", "pool"), intact, ablated)


def test_figures_by_hand() -> None:
    figures = json.loads(json.dumps(some_ablation().to_dict()))
    assert (figures["images"], figures["accuracy"]) == (100, 0.9)
    assert figures["accuracy_drop"]["3a"] == pytest.approx({"1x1": 0.2, "3x3": 0, "5x5": 0, "pool": 0})
    assert figures["accuracy_drop"]["3b"]["pool"] == pytest.approx(-0.01)
    assert figures["margin"]["3a"]["1x1"] == pytest.approx(1.96 * 20**0.5 / 100)
    assert figures["margin"]["3b"]["pool"] == pytest.approx(1.96 * 3**0.5 / 100)


def test_table_and_plot(tmp_path: Path) -> None:
    console = Console(width=80, file=StringIO(), record=True)
    console.print(some_ablation().to_table())
    lines = console.export_text().splitlines()
    (first,) = [line for line in lines if "3a" in line]
    assert first.replace("│", " ").split() == ["3a", "20.00", *["0.00", "~"] * 3]
    assert "90.00%" in "\n".join(lines)
    draw_ablation(some_ablation(), tmp_path / "new" / "ablation.png")
    with Image.open(tmp_path / "new" / "ablation.png") as plot:
        assert plot.format == "PNG"
        assert min(plot.size) > 500


def test_what_cannot_be_ablated() -> None:
    net = pass_through("bn", 64)
    split = ImageSplit(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.tensor([0, 5]))
    with pytest.raises(UserError, match="3 classes"):
        ablate(net, split)
    with pytest.raises(UserError, match="max_images"):
        ablate(net, split, max_images=0)
    with pytest.raises(UserError, match="batch_size"):
        ablate(net, split, batch_size=0)
    with pytest.raises(UserError, match=r"googlenet\.load"):
        ablate(create_model("bn"), split)
