"""A trained model exported to every format, each once per session."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from googlenet import Exported, TrainingResult, export, load_dataset
from googlenet.data import fashion_mnist
from googlenet.inference.backends import SUFFIXES, Format


class Exports:
    """`trained` as an exported file, made when first asked for."""

    def __init__(self, model: Path, folder: Path, data: tuple[Path, dict[str, str]]) -> None:
        self.model, self.folder, self.data = model, folder, data
        self.made = dict[tuple[Format, bool, bool], Exported]()

    def __call__(self, to: Format, *, preprocessing: bool = False, int8: bool = False) -> Exported:
        key = (to, preprocessing, int8)
        if key not in self.made:
            target = self.folder / f"{to} {preprocessing} {int8}" / f"x{SUFFIXES[to]}"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(fashion_mnist, "DIGESTS", self.data[1])
                self.made[key] = export(
                    self.model, to, target, preprocessing=preprocessing, int8=int8, data_dir=self.data[0], force=int8
                )
        return self.made[key]


@pytest.fixture(scope="session")
def exports(
    trained: TrainingResult, small_files: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Exports:
    return Exports(trained.model, tmp_path_factory.mktemp("exported"), small_files)


@pytest.fixture
def files(small_data: Path, tmp_path: Path) -> list[Path]:
    """The first 20 test images of Fashion-MNIST as PNG files."""
    files = []
    for number, image in enumerate(load_dataset("fashion-mnist").test.images[:20]):
        files.append(tmp_path / f"{number:02}.png")
        Image.fromarray(image[0].numpy()).save(files[-1])
    return files
