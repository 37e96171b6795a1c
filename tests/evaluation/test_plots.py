from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import font_manager
from PIL import Image

from googlenet import Evaluation, ImageSplit, RunError, UserError
from googlenet.data.transforms import Augmentation
from googlenet.evaluation import plots
from googlenet.evaluation.plots import (
    plot_augmented,
    plot_confusion_matrix,
    plot_contact_sheet,
    plot_curves,
    plot_learning_rates,
    plot_predictions,
    plot_sample,
)
from tests.evaluation.test_metrics import CLASSES


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


def test_plots_of_little_or_nothing(tmp_path: Path) -> None:
    plot_curves([], tmp_path / "curves.png")
    plot_contact_sheet(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), [], tmp_path / "sheet.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "sheet.png"]


def test_curves_and_learning_rates(tmp_path: Path) -> None:
    rows = [
        {"split": split, "step": step, "loss": 1 / step, "accuracy": 0.5, "learning_rate": 0.1}
        for split in ("train", "validation", "test")
        for step in (1, 2)
    ]
    plot_curves(rows, tmp_path / "curves.png")
    plot_learning_rates([1e-4, 1e-3, 1e-2], [2.0, 1.0, 9.0], 1e-3, tmp_path / "rates.png")
    assert min(*size_of(tmp_path / "curves.png"), *size_of(tmp_path / "rates.png")) > 300
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file"):
        plot_curves(rows, tmp_path / "file" / "curves.png")


@pytest.mark.parametrize("captions", [["a", "b", "c"], ["long " * 40, "two\nlines", "three\nlines\n" + "long " * 40]])
def test_contact_sheet_shows_images_row_by_row_whatever_their_captions(captions: list[str], tmp_path: Path) -> None:
    """The upper half of the first image is red, the second is green, the left half of the third is blue."""
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    images[0, 0, :4] = images[1, 1] = images[2, 2, :, :4] = 255
    plot_contact_sheet(images, captions, tmp_path / "sheet.png", columns=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))

    def box(channel: int) -> tuple[int, int, int, int]:
        """Left, top, width, height of the pixels of that color."""
        rows, columns = np.nonzero((pixels[..., channel] == 255) & (pixels.sum(axis=2) == 255))
        return columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1

    red, green, blue = map(box, range(3))
    assert green[2] > 120 and green[3] == pytest.approx(green[2], abs=2)
    assert red == pytest.approx((red[0], green[1], green[2], green[3] / 2), abs=2)
    assert blue == pytest.approx((red[0], blue[1], green[2] / 2, green[3]), abs=2)
    assert red[0] + red[2] < green[0] and green[1] + green[3] < blue[1]


def test_predictions_are_spread_over_a_split_sorted_by_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(3).repeat_interleave(50)
    evaluation = Evaluation(CLASSES, torch.eye(3)[labels], labels, 1.0)
    shown: list[str] = []
    monkeypatch.setattr(plots, "plot_contact_sheet", lambda images, captions, *_, **__: shown.extend(captions))
    images = torch.zeros(150, 1, 2, 2, dtype=torch.uint8)
    plot_predictions(ImageSplit(images, labels), evaluation.captions, tmp_path / "predictions.png", count=12)
    assert sorted(caption.split("\n")[1] for caption in shown) == [*"aaaabbbbcccc"]


def test_captions_show_the_calibrated_confidence_and_the_true_class() -> None:
    logits = torch.tensor([[0.9, 0.1]]).log()
    evaluation = Evaluation(("a", "b"), logits, torch.tensor([1]), 1.0)
    assert evaluation.captions == ["a (90%)\nb"]
    hotter = dataclasses.replace(evaluation, temperature=2 * np.log(3) / np.log(1.5))
    assert hotter.captions == ["a (60%)\nb"]


@pytest.mark.usefixtures("small_data")
def test_sheets_of_training_images(tmp_path: Path) -> None:
    from googlenet import load_dataset

    dataset = load_dataset("fashion-mnist")
    plot_sample(dataset, tmp_path / "sample.png", count=12, seed=0)
    state = torch.get_rng_state()
    augmentation = Augmentation(hflip=True, mixup=0.5, cutmix=0.5)
    plot_augmented(dataset, augmentation, tmp_path / "augmented.png", count=16, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert min(*size_of(tmp_path / "sample.png"), *size_of(tmp_path / "augmented.png")) > 200
    with pytest.raises(UserError, match="count"):
        plot_sample(dataset, tmp_path / "none.png", count=0, seed=0)
    with pytest.raises(UserError, match="count"):
        plot_augmented(dataset, augmentation, tmp_path / "none.png", count=15, seed=0)


def test_characters_without_a_glyph_are_logged_once(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plots, "font_families", lambda: ["DejaVu Sans"])
    plots._log_missing_glyphs.cache_clear()
    for number in range(2):
        images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
        plot_contact_sheet(images, ["短", "靴子"], tmp_path / f"{number}.png")
    out, err = capsys.readouterr()
    assert (out + err).count("fonts-noto-cjk") == 1
    assert not recwarn.list


def test_a_cjk_font_is_used_if_one_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    serif = font_manager.findfont("DejaVu Serif")
    (tmp_path / "simhei.ttf").symlink_to(serif)
    for installed, expected in (
        ([str(tmp_path / "simhei.ttf"), serif], ["DejaVu Sans", "DejaVu Serif"]),
        ([serif], ["DejaVu Sans"]),
    ):
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda installed=installed: installed)
        assert plots.font_families.__wrapped__() == expected


def test_the_confusion_matrix_has_room_for_long_names(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    names = tuple(f"{number} " + "a name of many words " * 5 for number in range(3))
    plot_confusion_matrix(torch.eye(3, dtype=torch.int64), names, tmp_path / "matrix.png")
    assert not recwarn.list


def test_drawing_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    log, settings = logging.getLogger("matplotlib.font_manager"), dict(matplotlib.rcParams)
    level = log.level
    plot_curves([], tmp_path / "curves.png")
    assert log.level == level
    assert dict(matplotlib.rcParams) == settings
