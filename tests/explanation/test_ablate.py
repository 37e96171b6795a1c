from __future__ import annotations

import copy
import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from googlenet import GoogLeNet, UserError, ablate, create_model, evaluate, load
from googlenet.data.loader import load_dataset
from googlenet.data.dataset import ImageSplit
from googlenet.explanation.ablation import Ablation, draw_ablation
from googlenet.model.architecture import TABLE_1, VARIANTS
from googlenet.training.loop import TrainingResult
from tests.explanation.see_through import carry, described, see_through

CLASSES = ("a", "b", "c", "d")


def own_answers(net: GoogLeNet, count: int) -> ImageSplit:
    """Random pictures with the network's own answers for labels: whatever a silenced branch changes is an error."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(0, 256, (count, net.architecture.in_channels, 4, 4), generator=generator, dtype=torch.uint8)
    images = cells.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    with torch.no_grad():
        logits = net.eval()(net.info.input.prepare(images))
        net.fc.bias -= logits.mean(dim=0)  # else one class may win everywhere
        return ImageSplit(images, net(net.info.input.prepare(images)).argmax(dim=1))


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_silenced_branch_is_one_with_zero_weights(variant: str) -> None:
    torch.manual_seed(0)
    net = described(create_model(variant, num_classes=4, in_channels=2, initialization="he"), CLASSES, 32)
    split = own_answers(net, 48)
    found = ablate(net, split, precision="fp32", batch_size=20)
    assert found.accuracy == 1
    assert found.lost.max() > 0
    for block, branch in ((0, 0), (1, 1), (4, 2), (6, 3), (8, 0), (8, 3)):
        changed = copy.deepcopy(net)
        layer = getattr(getattr(changed, f"inception{TABLE_1[block].name}"), f"branch{branch + 1}")
        last = layer if branch == 0 else layer[-1]
        for parameter in last.parameters():
            parameter.data.zero_()
        expected = evaluate(changed, split, net.info.input, CLASSES, precision="fp32")
        right = expected.logits.argmax(dim=1) == split.labels
        assert torch.equal(found.silenced[block, branch], right)


def test_the_branch_that_carries_everything_is_found() -> None:
    """Two classes told apart by their channel, which goes through the pool branch of 4b and 1x1 everywhere else."""
    net = see_through("bn", 64)
    net.inception4b.branch1.conv.weight.data.zero_()
    for channel in (0, 1):
        carry(net.inception4b.branch4[1].conv, channel, channel)
        carry(net.inception4c.branch1.conv, 160 + 224 + 64 + channel, channel)
    images = torch.zeros(10, 3, 64, 64, dtype=torch.uint8)
    labels = torch.arange(10) % 2
    images[torch.arange(10), labels] = 255
    found = ablate(net, ImageSplit(images, labels), precision="fp32")
    assert found.accuracy == 1
    leaned_on = torch.zeros(9, 4)
    leaned_on[:, 0] = 0.5  # with all logits alike, the first class is said, which is right for half
    leaned_on[3] = torch.tensor([0, 0, 0, 0.5])
    torch.testing.assert_close(found.lost.float(), leaned_on)


@pytest.mark.usefixtures("small_data")
def test_the_whole_networks_accuracy_is_the_evaluations(trained: TrainingResult) -> None:
    net = load(trained.model)
    test = load_dataset("fashion-mnist").test
    evaluation = evaluate(net, test, net.info.input, net.info.classes, precision="fp32")
    found = ablate(net.train(), test, precision="fp32", batch_size=64)
    assert net.training
    assert found.accuracy == evaluation.accuracy
    assert found.silenced.shape == (9, 4, 160)
    tenth = ablate(net, test, precision="fp32", limit=16)
    assert torch.equal(tenth.whole, found.whole[::10])
    assert torch.equal(tenth.silenced, found.silenced[:, :, ::10])
    assert len(ablate(net, test, precision="fp32", limit=1000).whole) == 160


def some_ablation() -> Ablation:
    """Of 100 images 90 right; silencing 3a's 1x1 makes 20 of them wrong, 3b's pool makes 1 wrong and 2 right."""
    whole = torch.arange(100) < 90
    silenced = whole.repeat(9, 4, 1)
    silenced[0, 0, :20] = False
    silenced[1, 3, 0] = False
    silenced[1, 3, 98:] = True
    blocks = tuple(row.name for row in TABLE_1)
    return Ablation(blocks, ("1x1", "3x3", "5x5", "pool"), whole, silenced)


def test_figures_by_hand() -> None:
    figures = json.loads(json.dumps(some_ablation().to_dict()))
    assert (figures["images"], figures["accuracy"]) == (100, 0.9)
    assert figures["accuracy_lost"]["3a"] == pytest.approx({"1x1": 0.2, "3x3": 0, "5x5": 0, "pool": 0})
    assert figures["accuracy_lost"]["3b"]["pool"] == pytest.approx(-0.01)
    assert figures["chance"]["3a"]["1x1"] == pytest.approx(1.96 * 20**0.5 / 100)
    assert figures["chance"]["3b"]["pool"] == pytest.approx(1.96 * 3**0.5 / 100)


def test_table_and_picture(tmp_path: Path) -> None:
    console = Console(width=80, file=StringIO(), record=True)
    console.print(some_ablation().to_table())
    lines = console.export_text().splitlines()
    (first,) = [line for line in lines if "3a" in line]
    assert first.replace("│", " ").split() == ["3a", "20.00", *["0.00", "~"] * 3]
    assert "100 images, whole network: 90.00%" in "\n".join(lines)
    draw_ablation(some_ablation(), tmp_path / "new" / "ablation.png")
    with Image.open(tmp_path / "new" / "ablation.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500


def test_what_cannot_be_ablated() -> None:
    net = see_through("bn", 64)
    split = ImageSplit(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.tensor([0, 5]))
    with pytest.raises(UserError, match="knows 3 classes"):
        ablate(net, split)
    with pytest.raises(UserError, match="1 or more"):
        ablate(net, split, limit=0)
    with pytest.raises(UserError, match=r"googlenet\.load"):
        ablate(create_model("bn"), split)


def test_a_network_of_fewer_blocks(tmp_path: Path) -> None:
    net = described(create_model("bn", num_classes=10, in_channels=1, blocks=2), tuple("0123456789"), 32)
    split = ImageSplit(torch.randint(0, 256, (6, 1, 32, 32), dtype=torch.uint8), torch.arange(6))
    found = ablate(net, split)
    assert found.blocks == ("3a", "3b")
    assert found.lost.shape == (2, 4)
    draw_ablation(found, tmp_path / "lost.png")
