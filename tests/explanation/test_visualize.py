from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import googlenet
from googlenet import GoogLeNet, ImageSplit, TrainingResult, UserError, create_model, visualize
from googlenet.explanation import visualize as module
from googlenet.explanation.contact_sheet import draw_visualization
from googlenet.explanation.units import Probe, parse_unit, similarity
from googlenet.weights.model_file import save
from tests.conftest import Call, bundled
from tests.networks import fitted, thin, with_info

STEPS = 30


@pytest.fixture(scope="module")
def net(trained: TrainingResult) -> GoogLeNet:
    return googlenet.load(trained.model)


@pytest.fixture(scope="module")
def split() -> ImageSplit:
    images, labels = bundled("t10k-images-idx3-ubyte")[:64], bundled("t10k-labels-idx1-ubyte")[:64]
    return ImageSplit(torch.from_numpy(images.copy())[:, None], torch.from_numpy(labels.astype("int64")))


@pytest.mark.parametrize("unit", ["conv2:3", "3a:70:1,2", "class:sandal"])
def test_a_made_image_excites_a_unit_more_than_data_and_noise(unit: str, net: GoogLeNet, split: ImageSplit) -> None:
    if unit == "class:sandal":
        net = fitted(split, net.info.classes, create=thin)
    result = visualize(net, unit, steps=STEPS, data=split, examples=3)
    made = float(result.activations[0, 0])
    assert result.images.shape == (1, 1, 1, 28, 28) and result.images.dtype == torch.uint8
    assert result.example_activations is not None and made > result.example_activations.max()
    noise = torch.randint(0, 256, (64, 1, 28, 28), dtype=torch.uint8)
    target = parse_unit(unit, net, net.info.classes)
    with torch.no_grad():
        probe = Probe(net, target.layer)
        assert made > target.activation(probe(net.info.input.prepare(noise))).max()
        assert made == pytest.approx(float(target.activation(probe(net.info.input.prepare(result.images[0])))), 1e-3)
        # The examples are the best of the data, in order
        values = target.activation(probe(net.info.input.prepare(split.images)))
    best = values.topk(3)
    torch.testing.assert_close(result.example_activations[0], best.values, rtol=1e-3, atol=1e-4)
    assert result.example_files == (tuple(map(str, best.indices.tolist())),)
    assert torch.equal(result.examples[0, 0], split.images[best.indices[0]])


def test_activations_are_what_the_network_computes(net: GoogLeNet, split: ImageSplit) -> None:
    outputs: dict[str, torch.Tensor] = {}
    hook = net.inception4c.register_forward_hook(lambda _net, _x, output: outputs.update(maps=output))
    x = net.info.input.prepare(split.images)
    with hook, torch.no_grad():
        logits = net(x)
        expected = outputs["maps"][:, 447].mean(dim=(1, 2))
        channel, bag = (parse_unit(name, net, net.info.classes) for name in ("4c:447", "bag"))
        channels = channel.activation(Probe(net, "4c")(x))
        torch.testing.assert_close(channels, expected, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(bag.activation(Probe(net, "class")(x)), logits[:, 8], rtol=1e-3, atol=1e-4)


def test_negative_images_are_below_those_of_the_data(net: GoogLeNet, split: ImageSplit) -> None:
    result = visualize(net, "conv2:3", steps=STEPS, negative=True)
    unit = parse_unit("conv2:3", net, net.info.classes)
    with torch.no_grad():
        lowest = unit.activation(Probe(net, "conv2")(net.info.input.prepare(split.images)), sign=-1).max()
    assert result.negative_activations is not None and result.negative_activations[0, 0] > lowest
    assert not torch.equal(result.negative, result.images)


def test_diverse_images_differ_in_style(net: GoogLeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    def mean_similarity() -> float:
        images = visualize(net, "conv3:20", steps=20, diversity=2).images[0]
        return float(similarity(Probe(net, "conv3").maps(net.info.input.prepare(images))))

    diverse = mean_similarity()
    monkeypatch.setattr(module, "DIVERSITY", 0.0)
    assert diverse < mean_similarity()


def test_a_block_is_a_sheet_of_channels_from_every_branch(net: GoogLeNet, split: ImageSplit, tmp_path: Path) -> None:
    result = visualize(net, "3a", steps=1, max_units=8, data=split, examples=2, negative=True)
    assert len(result.units) == len(set(result.units)) == 8 and result.units[0] == "3a:0"
    assert list(dict.fromkeys(result.branches)) == ["1x1", "3x3", "5x5", "pool"]
    assert result.images.shape == (8, 1, 1, 28, 28) and result.examples.shape == (8, 2, 1, 28, 28)
    draw_visualization(result, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 500
    assert visualize(net, "class", steps=1, max_units=99).units == net.info.classes


def test_the_seed_decides_and_the_network_stays_as_it_was(net: GoogLeNet) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    try:
        once, again, other = (visualize(net, "conv1:0", steps=3, seed=seed).images for seed in (1, 1, 2))
        assert all(module.training for module in net.modules())
    finally:
        net.eval()
    assert torch.equal(once, again) and not torch.equal(once, other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


def test_colors_vary_together_as_in_the_data() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.tensor([[0.2, 0.05, 0.0], [0.2, 0.0, 0.03], [0.1, -0.05, 0.0]])
    pixels = (0.5 + 0.4 * torch.einsum("dc,nchw->ndhw", mixing, torch.randn(50, 3, 8, 8, generator=generator))) * 255
    split = ImageSplit(pixels.clamp(0, 255).to(torch.uint8), torch.zeros(50, dtype=torch.int64))
    root = module._colors(split, 3)
    expected = torch.cov(split.images.transpose(0, 1).flatten(1).double() / 255).float()
    torch.testing.assert_close(root @ root.T, expected, rtol=1e-3, atol=1e-5)
    spec = googlenet.InputSpec(3, 32, (0.5,) * 3, (0.5,) * 3)
    canvas = module.Canvas(spec, 32, module._colors(None, 3), 0, torch.device("cpu"))
    drawn = canvas.pixels(100 * canvas.noise(4)).detach()
    assert torch.corrcoef(drawn.transpose(0, 1).flatten(1)).min() > 0.5  # ImageNet's are almost gray
    assert float(drawn.min()) > 0 and float(drawn.max()) < 1


def test_any_number_of_channels_and_other_sizes() -> None:
    net = with_info(create_model("torchvision", num_classes=2, in_channels=4, initialization="he"), ("3a", "b"), 32)
    assert visualize(net, "3b:3x3 (third)", steps=1, size=47).images.shape == (1, 1, 4, 47, 47)
    assert parse_unit("class:3a", net, net.info.classes).kind == "class"


def test_a_class_whose_name_is_no_file_name(net: GoogLeNet, tmp_path: Path, call: Call) -> None:
    names = ("!!!", "x" * 300)
    save(net, replace(net.info, classes=(*names, *net.info.classes[2:])), tmp_path / "model.safetensors")
    for name, stem in zip(names, ("unit", "x" * 80), strict=True):
        out, _ = call("visualize", tmp_path / "model.safetensors", name, "--steps", 1)
        assert out.strip() == f"{stem}-visualized.png" and Path(out.strip()).is_file()


@pytest.mark.parametrize(
    "unit",
    ["4c:512", "4c:-1", "4c:1:4,0", "4c:1:0,4", "4c:7x7", "4c:1:2", "4z:1", "conv1:64", "conv1:1x1", "boots", ""],
)
def test_a_unit_that_does_not_exist(unit: str, net: GoogLeNet, trained: TrainingResult, call: Call) -> None:
    with pytest.raises(UserError, match="UNIT"):
        visualize(net, unit, steps=1)


def test_the_command(trained: TrainingResult, images: Path, call: Call) -> None:
    arguments = ("visualize", trained.model, "ankle BOOT", "--steps", 1, "--data", images)
    _, err = call(*arguments, code=2)
    assert "broken.png" in err and not list(Path().iterdir())
    out, _ = call(*arguments, "--skip-unreadable", "--examples", 9, "--json")
    result = json.loads(out)
    assert result["unit"] == "Ankle boot" and len(result["units"][0]["examples"]) == 5
    assert result["plot"] == "ankle-BOOT-visualized.png"  # not the image of a boot that a user may have here
    with Image.open(result["plot"]) as plot:
        assert plot.format == "PNG"
    few = json.loads(call(*arguments, "--max-images", 2, "--json")[0])  # 0.png and 3.png: broken.png is not decoded
    assert {Path(each["file"]).name for each in few["units"][0]["examples"]} == {"0.png", "3.png"}
    _, err = call("visualize", trained.model, "4c:512", code=2)
    assert "UNIT" in err and "511" in err
    _, err = call("visualize", trained.model, "4c:1", "--steps", 0, code=2)
    assert "steps" in err
    _, err = call("visualize", trained.model, "4c:1", "-o", "x.jpg", code=2)
    assert ".png" in err
