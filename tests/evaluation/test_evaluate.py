from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from torch import nn

from googlenet import UserError
from googlenet.data.dataset import ImageSplit
from googlenet.data.transforms import InputSpec
from googlenet.evaluation import drawing
from googlenet.evaluation.metrics import Evaluation, evaluate
from googlenet.evaluation.plots import captions_of, plot_confusion_matrix, plot_contact_sheet, plot_curves
from googlenet.evaluation.report import evaluation_table, write_report

CLASSES = ("a", "b", "c")


class FirstPixel(nn.Module):
    """Says the class that an image's first pixel names, and counts what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen.append(len(x))
        return nn.functional.one_hot((x[:, 0, 0, 0] * 255).round().long(), 3) * 5.0


def split_of(said: list[int], labels: list[int]) -> ImageSplit:
    images = torch.tensor(said, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    return ImageSplit(images, torch.tensor(labels))


SPEC = InputSpec(1, 2, (0.0,), (1.0,))


@settings(max_examples=40, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40), batch=st.integers(1, 50)
)
def test_every_image_once_whatever_the_batch(pairs: list[tuple[int, int]], batch: int) -> None:
    said, labels = ([pair[side] for pair in pairs] for side in (0, 1))
    net = FirstPixel().train()
    evaluation = evaluate(net, split_of(said, labels), SPEC, CLASSES, precision="fp32", batch_size=batch)
    assert sum(net.seen) == len(pairs)
    assert net.training
    right = sum(one == other for one, other in pairs)
    assert evaluation.accuracy == pytest.approx(right / len(pairs))
    matrix = evaluation.confusion_matrix
    assert int(matrix.sum()) == len(pairs)
    for label in range(3):
        for answer in range(3):
            assert int(matrix[label, answer]) == pairs.count((answer, label))
    figures = evaluation.to_dict()
    for label, name in enumerate(CLASSES):
        among, predicted = labels.count(label), said.count(label)
        hits = pairs.count((label, label))
        assert figures["per_class"][name]["recall"] == pytest.approx(hits / among if among else 0)
        assert figures["per_class"][name]["precision"] == pytest.approx(hits / predicted if predicted else 0)
    assert figures["top_3_accuracy"] == 1
    json.dumps(figures)


def test_calibration_error_of_known_confidence() -> None:
    """Always sure to 0.9 of the first of two classes, and right half of the time."""
    logits = torch.tensor([[0.9, 0.1]]).log().expand(100, 2)
    evaluation = Evaluation(("a", "b"), logits, torch.arange(100) % 2, 1.0)
    assert evaluation.to_dict()["expected_calibration_error"] == pytest.approx(0.4, abs=1e-4)


def test_a_temperature_changes_how_sure_not_what_is_said() -> None:
    """Sure to 0.9 and right in 6 of 10; at the temperature that makes of 0.9 a 0.6 the error is gone."""
    logits = torch.tensor([[0.9, 0.1]]).log().expand(100, 2)
    labels = (torch.arange(100) % 10 >= 6).long()
    plain = Evaluation(("a", "b"), logits, labels, 1.0)
    cooled = dataclasses.replace(plain, temperature=math.log(9) / math.log(1.5))
    assert cooled.probabilities[0].tolist() == pytest.approx([0.6, 0.4])
    assert (cooled.accuracy, cooled.loss) == (plain.accuracy, plain.loss)
    figures = cooled.to_dict()
    assert figures["expected_calibration_error"] == pytest.approx(0, abs=1e-6)
    assert figures["calibration"]["expected_calibration_error_before"] == pytest.approx(0.3, abs=1e-6)
    assert figures["calibration"]["loss"] < figures["loss"]
    assert "without it the calibration error is 30.00%" in str(evaluation_table(cooled).caption)
    assert "temperature" not in str(evaluation_table(plain).caption)
    assert captions_of(cooled, [0]) == ["a (60%)\na"]


def test_what_is_answered_at_a_confidence_is_counted() -> None:
    logits = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.45, 0.55]]).log()
    evaluation = Evaluation(("a", "b"), logits, torch.tensor([0, 1, 1, 1]), 1.0, confidence=0.65)
    assert evaluation.to_dict()["answers"] == {"images": 3, "confidence": 0.65, "coverage": 0.75, "accuracy": 0.6667}
    caption = " ".join(str(evaluation_table(evaluation).caption).split())
    assert "at confidence 0.65 and above: 3 answered (75.00%), 66.67% of the answers right" in caption
    none = dataclasses.replace(evaluation, confidence=0.95)
    assert none.to_dict()["answers"]["accuracy"] is None
    assert "0 answered" in str(evaluation_table(none).caption)


def test_classes_without_a_picture_are_no_part_of_the_balanced_accuracy() -> None:
    logits = torch.tensor([[9.0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]])
    figures = Evaluation(CLASSES, logits, torch.tensor([0, 0, 1, 1]), 1.0).to_dict()
    assert figures["balanced_accuracy"] == 0.75


def test_of_classes_as_likely_the_first_is_the_answer_in_every_figure() -> None:
    logits = torch.randint(0, 2, (500, 3), generator=torch.Generator().manual_seed(0)).float()
    figures = Evaluation(CLASSES, logits, torch.arange(500) % 3, 1.0).to_dict()
    hits = sum(row[number] for number, row in enumerate(figures["confusion_matrix"]))
    assert figures["accuracy"] == pytest.approx(hits / 500)


def test_worst_mistakes_come_first_and_are_mistakes() -> None:
    logits = torch.tensor([[9.0, 0, 0], [3, 0, 0], [6, 0, 0], [0, 8, 0]])
    evaluation = Evaluation(CLASSES, logits, torch.tensor([0, 1, 1, 2]), 1.0)
    assert evaluation.worst_mistakes(2).tolist() == [3, 2]
    assert evaluation.worst_mistakes(9).tolist() == [3, 2, 1]


def test_data_that_the_model_does_not_fit() -> None:
    with pytest.raises(UserError, match=r"3 channel\(s\), the data has 1"):
        evaluate(FirstPixel(), split_of([0], [0]), InputSpec(3, 2, (0.0,) * 3, (1.0,) * 3), CLASSES)
    with pytest.raises(UserError, match="knows 3 classes, the data has 5"):
        evaluate(FirstPixel(), split_of([0], [4]), SPEC, CLASSES)
    with pytest.raises(UserError, match="batch_size"):
        evaluate(FirstPixel(), split_of([0], [0]), SPEC, CLASSES, batch_size=0)
    with pytest.raises(UserError, match="confidence"):
        evaluate(FirstPixel(), split_of([0], [0]), SPEC, CLASSES, confidence=80)


def test_a_report_is_figures_and_pictures(tmp_path: Path) -> None:
    split = split_of([0, 1, 2, 1], [0, 1, 1, 1])
    evaluation = evaluate(FirstPixel(), split, SPEC, CLASSES, precision="fp32", temperature=2.5, confidence=0.8)
    write_report(evaluation, split, tmp_path / "deep" / "report")
    assert json.loads((tmp_path / "deep/report/evaluation.json").read_text())["accuracy"] == 0.75
    for name in ("confusion_matrix.png", "mistakes.png", "reliability.png", "coverage.png"):
        with Image.open(tmp_path / "deep/report" / name) as image:
            assert image.size[0] > 100
    assert "accuracy 75.00%" in str(evaluation_table(evaluation).caption)


def test_pictures_of_little_or_nothing(tmp_path: Path) -> None:
    plot_curves([], tmp_path / "curves.png")
    plot_contact_sheet(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), [], tmp_path / "sheet.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "sheet.png"]


def test_names_of_classes_are_taken_as_they_are(tmp_path: Path) -> None:
    names = ("dogs [old]", "[/b]", "$_$")
    evaluation = Evaluation(names, torch.eye(3), torch.tensor([0, 1, 0]), 1.0)
    console = Console(width=200, file=io.StringIO())
    console.print(evaluation_table(evaluation))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(name in said for name in names)
    images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    write_report(evaluation, ImageSplit(images, evaluation.labels), tmp_path)
    assert (tmp_path / "confusion_matrix.png").exists()


@pytest.mark.parametrize("captions", [["a", "b", "c"], ["long " * 40, "two\nlines", "three\nlines\n" + "long " * 40]])
def test_a_contact_sheet_shows_pictures_row_by_row_whatever_their_captions(captions: list[str], tmp_path: Path) -> None:
    """The first one's upper half is red, the second one is green, the third one's left half is blue."""
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    images[0, 0, :4] = images[1, 1] = images[2, 2, :, :4] = 255
    plot_contact_sheet(images, captions, tmp_path / "sheet.png", columns=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))

    def box(channel: int) -> tuple[int, int, int, int]:
        """Left, top, width, height of what has that color alone."""
        rows, columns = np.nonzero((pixels[..., channel] == 255) & (pixels.sum(axis=2) == 255))
        return columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1

    red, green, blue = map(box, range(3))
    assert green[2] > 120 and green[3] == pytest.approx(green[2], abs=2)
    assert red == pytest.approx((red[0], green[1], green[2], green[3] / 2), abs=2)
    assert blue == pytest.approx((red[0], blue[1], green[2] / 2, green[3]), abs=2)
    assert red[0] + red[2] < green[0] and green[1] + green[3] < blue[1]


def test_signs_that_no_font_has_are_told_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drawing, "fonts", lambda: ["DejaVu Sans"])
    drawing._say_that_signs_are_missing.cache_clear()
    for number in range(2):
        images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
        plot_contact_sheet(images, ["短", "靴子"], tmp_path / f"{number}.png")
    said = capsys.readouterr().err
    assert said.startswith("googlenet: no font here has all signs") and said.count("\n") == 1
    assert not recwarn.list


def test_a_font_for_other_signs_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    serif = drawing.font_manager.findfont("DejaVu Serif")
    (tmp_path / "simhei.ttf").symlink_to(serif)
    for found, expected in (
        ([str(tmp_path / "simhei.ttf"), serif], ["DejaVu Sans", "DejaVu Serif"]),
        ([serif], ["DejaVu Sans"]),
    ):
        monkeypatch.setattr(drawing.font_manager, "findSystemFonts", lambda found=found: found)
        assert drawing.fonts.__wrapped__() == expected


def test_the_confusion_matrix_has_room_whatever_the_names(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    names = tuple(f"{number} " + "a name of many words " * 5 for number in range(3))
    labels = torch.tensor([0, 1, 2, 1])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 2]), 3).double()
    plot_confusion_matrix(Evaluation(names, logits, labels, 1.0), tmp_path / "matrix.png")
    assert not recwarn.list
