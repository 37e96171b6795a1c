"""A network exported to every format, each once per session."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from googlenet import Exported, GoogLeNet, ImageDataset, evaluate, export, load_dataset
from googlenet.data import fashion_mnist
from googlenet.inference.backends import SUFFIXES, Format
from tests.conftest import once
from tests.networks import fitted, one_block


class Exports:
    """`net` as an exported file, made when first asked for."""

    def __init__(self, net: GoogLeNet, data: ImageDataset, factory: pytest.TempPathFactory) -> None:
        self.net, self.data, self.factory = net, data, factory
        self.made = dict[tuple[Format, bool, bool], Exported]()

    def __call__(self, to: Format, *, preprocessing: bool = False, int8: bool = False) -> Exported:
        key = (to, preprocessing, int8)
        if key not in self.made:
            options = {"preprocessing": preprocessing, "int8": int8, "force": int8}

            def build(folder: Path) -> Exported:
                return export(self.net, to, folder / f"x{SUFFIXES[to]}", calibration_data=self.data, **options)

            self.made[key] = once(self.factory, f"exported-{to}-{preprocessing}-{int8}", build)
        return self.made[key]


@pytest.fixture(scope="session")
def exports(small_files: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Of a network that is right for most images and takes half of them for known. Others export all of GoogLeNet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fashion_mnist, "DIGESTS", small_files[1])
        data = load_dataset("fashion-mnist", data_dir=small_files[0])
    net = fitted(data.test, data.classes, create=one_block, temperature=1.5)
    rule = evaluate(net, data, precision="fp32").fit_known("test")
    scores = rule.scores(net(net.info.input.prepare(data.test.images)).detach())
    net.info = replace(net.info, known=replace(rule, threshold=float(scores.median())))
    return Exports(net, data, tmp_path_factory)


@pytest.fixture
def files(small_data: Path, tmp_path: Path) -> list[Path]:
    """The first 20 test images of Fashion-MNIST as PNG files."""
    files = []
    for number, image in enumerate(load_dataset("fashion-mnist").test.images[:20]):
        files.append(tmp_path / f"{number:02}.png")
        Image.fromarray(image[0].numpy()).save(files[-1])
    return files
