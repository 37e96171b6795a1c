"""The experiment that adds classes, without training."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.grow import main, parse_arguments, write_images

pytestmark = pytest.mark.usefixtures("small_data")


def test_images_of_old_and_new_classes(tmp_path: Path) -> None:
    arguments = parse_arguments(["--train-images", "40", "--test-images", "20", "--old", "9"])
    write_images(tmp_path, arguments)
    folders = {path.parent.relative_to(tmp_path).parts for path in tmp_path.rglob("*.png")}
    assert {name for part, _, name in folders if part == "new"} == {"Ankle boot"}
    assert len({name for part, _, name in folders if part == "old"}) == 9
    assert len(list(tmp_path.glob("*/train/*/*.png"))) == 40


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--old", "10"])
    (tmp_path / "result").write_text("")
    with pytest.raises(SystemExit, match="--work"):
        main(["--work", str(tmp_path)])
