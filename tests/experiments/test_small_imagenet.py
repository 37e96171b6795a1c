"""The small-scale experiment with the recipes for ImageNet, with two classes and one step."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.small_imagenet import SHORTER_SIDE, draw, run, table, write_images
from tests.data.conftest import write_image


@pytest.fixture
def drawings(tmp_path: Path) -> Path:
    for number in range(14):
        write_image(
            tmp_path / "png" / ("food/fruit", "animals")[number % 2] / f"{number}.png", number, (20, 30), "RGBA"
        )
    (tmp_path / "png/animals/copy.png").write_bytes((tmp_path / "png/animals/1.png").read_bytes())
    write_image(tmp_path / "png/few/1.png", 99)
    write_images(tmp_path / "data", tmp_path / "png", classes=2, most=6)
    return tmp_path / "data"


def test_the_largest_folders_become_classes(drawings: Path) -> None:
    found = sorted(str(path.relative_to(drawings)) for path in drawings.rglob("*.png"))
    classes = ("animals", "food-fruit")
    assert found == sorted(
        f"{'val' if number == 4 else 'train'}/{name}/{number:03}.png" for name in classes for number in range(6)
    )


def test_a_recipe_is_trained_and_evaluated(drawings: Path, tmp_path: Path) -> None:
    settings = {"image_size": 32, "batch_size": 4, "max_steps": 1, "device": "cpu"}
    result = run("imagenet", drawings, tmp_path / "run", 1, (1, 10), **settings)
    assert result["test_images"] == 2 and set(result["crops"]) == {1, 10}
    assert len(table([result]).splitlines()) == 4
    draw([result], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert SHORTER_SIDE >= 64 * 352 / 224
