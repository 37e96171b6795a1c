"""The public API from end to end: every argument of a public function comes from a public name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import googlenet

SIZE = 32


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark images, 20 of each, in a folder per class."""
    folder = tmp_path_factory.mktemp("api") / "photos"
    generator = np.random.default_rng(0)
    for name, low in (("bright", 128), ("dark", 0)):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            Image.fromarray(generator.integers(low, low + 128, (40, 50), np.uint8)).save(
                folder / name / f"{number}.png"
            )
    return folder


@pytest.fixture(scope="module")
def result(photos: Path) -> googlenet.TrainingResult:
    return googlenet.train(
        "fast",
        data=photos,
        output=photos.parent / "run",
        image_size=SIZE,
        stem_stride=2,
        batch_size=8,
        epochs=1,
        precision="fp32",
        plots=False,
    )


def test_every_public_name_exists_and_has_a_docstring() -> None:
    for name in googlenet.__all__:
        value = getattr(googlenet, name)
        assert name == "__version__" or value.__doc__, name
    assert set(googlenet.__all__) <= set(dir(googlenet))


def test_train_load_and_evaluate(photos: Path, result: googlenet.TrainingResult) -> None:
    assert isinstance(result, googlenet.TrainingResult)
    net = googlenet.load(result.folder)
    assert isinstance(net, googlenet.GoogLeNet) and not net.training
    assert googlenet.RunFolder(result.folder).rows()
    trained_on = googlenet.evaluate(net)
    assert isinstance(trained_on, googlenet.Evaluation)
    assert isinstance(trained_on.coverage, googlenet.Coverage)
    assert len(trained_on.labels) == 8
    assert trained_on.accuracy == pytest.approx(result.metrics["test"]["accuracy"])
    dataset = googlenet.load_dataset(photos, size=SIZE, seed=net.info.recipe["seed"])
    assert isinstance(dataset, googlenet.ImageDataset) and isinstance(dataset.test, googlenet.ImageSplit)
    for data in (photos, str(photos), dataset, dataset.test):
        assert googlenet.evaluate(net, data=data).accuracy == trained_on.accuracy
    assert googlenet.evaluate(result.model, confidence=0.9).confidence == 0.9


def test_ablate_and_explain(photos: Path, result: googlenet.TrainingResult) -> None:
    net = googlenet.load(result.folder)
    ablation = googlenet.ablate(net, data=photos, max_images=6)
    assert isinstance(ablation, googlenet.Ablation)
    assert ablation.accuracy_drop.shape == (9, 4)
    file = photos / "bright" / "0.png"
    with Image.open(file) as image:
        explanations = [googlenet.explain(net, source) for source in (file, str(file), file.read_bytes(), image)]
    assert all(isinstance(explanation, googlenet.Explanation) for explanation in explanations)
    assert {explanation.explained for explanation in explanations} <= set(net.info.classes)
    assert explanations[0].heat.shape == (40, 50)


def test_create_save_and_load(tmp_path: Path) -> None:
    net = googlenet.create_model("tutorial", num_classes=2, in_channels=1)
    spec = googlenet.InputSpec(channels=1, size=SIZE, mean=(0.5,), std=(0.5,))
    assert isinstance(net.architecture, googlenet.Architecture)
    info = googlenet.ModelInfo(net.architecture, ("bright", "dark"), spec)
    googlenet.save(net, info, tmp_path / "model.safetensors")
    loaded = googlenet.load(tmp_path / "model.safetensors")
    images = torch.randint(0, 256, (2, 1, 50, 40), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded(spec.prepare(images)), net.eval()(spec.prepare(images)))
    split = googlenet.ImageSplit(images, torch.tensor([0, 1]))
    assert len(googlenet.evaluate(loaded, split).labels) == 2


def test_import_weights(tmp_path: Path) -> None:
    net = googlenet.create_model("torchvision", num_classes=3)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    imported = googlenet.import_weights(tmp_path / "weights.pth", classes=("a", "b", "c"))
    assert imported.architecture == net.architecture
    assert googlenet.explain(imported, np.zeros((60, 60, 3), np.uint8)).classes
    googlenet.save(imported, imported.info, tmp_path / "model.safetensors")


def test_summarize() -> None:
    summary = googlenet.summarize(googlenet.create_model("bn"), (3, 224, 224))
    assert isinstance(summary, googlenet.Summary)
    assert summary.parameters == 7_005_832


def test_a_block_of_the_tutorial() -> None:
    block = googlenet.Inception(192, 64, (96, 128), (16, 32), 32)
    assert block(torch.zeros(1, 192, 14, 14)).shape == (1, 256, 14, 14)


def test_errors_are_public() -> None:
    with pytest.raises(googlenet.UserError, match="v9"):
        googlenet.create_model("v9")
    with pytest.raises(googlenet.UserError, match="nothing"):
        googlenet.load("nothing")
    assert issubclass(googlenet.RunError, RuntimeError)
