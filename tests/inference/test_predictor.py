from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

import googlenet
from googlenet import Predictor, UserError
from googlenet.data.dataset import load_dataset
from googlenet.data.decode import image_files
from googlenet.deploy import predictor
from googlenet.inference.export import export
from googlenet.evaluation.metrics import evaluate
from googlenet.training.loop import TrainingResult

pytestmark = pytest.mark.usefixtures("small_data")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """The first 20 test images of Fashion-MNIST as PNG files."""
    files = []
    for number, image in enumerate(load_dataset("fashion-mnist").test.images[:20]):
        files.append(tmp_path / f"{number:02}.png")
        Image.fromarray(image[0].numpy()).save(files[-1])
    return files


def at_temperature(net: googlenet.GoogLeNet, temperature: float) -> googlenet.GoogLeNet:
    net.info = dataclasses.replace(net.info, temperature=temperature)
    return net


@pytest.mark.parametrize(("batch_size", "temperature"), [(1, 1.0), (7, 3.0), (64, 0.5)])
def test_files_are_answered_as_the_evaluation_answers(
    batch_size: int, temperature: float, trained: TrainingResult, pictures: list[Path]
) -> None:
    net = at_temperature(googlenet.load(trained.model), temperature)
    test = load_dataset("fashion-mnist").test
    evaluation = evaluate(
        net, test, net.info.input, net.info.classes, precision="fp32", temperature=net.info.temperature
    )
    predictor = Predictor(net, precision="fp32")
    answers = list(predictor.predict(pictures, top=10, batch_size=batch_size))
    assert [answer.file for answer in answers] == [str(path) for path in pictures]
    for alone in (pictures[0], str(pictures[0])):
        assert [answer.file for answer in predictor.predict(alone)] == [str(pictures[0])]
    for answer, probabilities in zip(answers, evaluation.probabilities, strict=False):
        assert answer.error is None
        assert sum(answer.probabilities) == pytest.approx(1, abs=1e-5)
        for name, probability in zip(answer.classes, answer.probabilities, strict=True):
            assert float(probabilities[evaluation.classes.index(name)]) == pytest.approx(probability, abs=1e-4)
        assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)


def test_the_temperature_changes_how_sure_not_what_is_said(trained: TrainingResult, pictures: list[Path]) -> None:
    plain, hot = (
        list(Predictor(at_temperature(googlenet.load(trained.model), temperature)).predict(pictures))
        for temperature in (1.0, 4.0)
    )
    for before, after in zip(plain, hot, strict=True):
        assert before.classes == after.classes
        assert before.probabilities[0] > after.probabilities[0]


def test_a_picture_below_the_confidence_is_unsure(trained: TrainingResult, pictures: list[Path]) -> None:
    predictor = Predictor(trained.model)
    pictures[3].write_bytes(b"")
    plain = list(predictor.predict(pictures))
    assert [answer.sure for answer in plain] == [answer.error is None for answer in plain]
    highest = sorted(answer.probabilities[0] for answer in plain if answer.error is None)
    threshold = highest[len(highest) // 2]
    answers = list(predictor.predict(pictures, confidence=threshold))
    assert 0 < sum(answer.sure for answer in answers) < len(highest)
    for answer in answers:
        assert answer.sure == (answer.error is None and answer.probabilities[0] >= threshold)
        assert answer.to_dict()["sure"] is answer.sure
    with pytest.raises(UserError, match="confidence is a probability"):
        predictor.predict(pictures, confidence=80)


def test_an_unreadable_file_is_named_and_the_others_answered(trained: TrainingResult, pictures: list[Path]) -> None:
    pictures[1].write_bytes(b"")
    pictures[2].unlink()
    answers = list(Predictor(trained.model).predict(pictures[:5], top=2))
    assert [answer.error is None for answer in answers] == [True, False, False, True, True]
    assert (answers[1].file, answers[1].error) == (str(pictures[1]), "is no picture that can be read")
    assert "no such file" in str(answers[2].error)
    assert all(len(answer.classes) == 2 for answer in answers if answer.error is None)


def test_pictures_of_every_size_and_mode(trained: TrainingResult, tmp_path: Path) -> None:
    files = []
    for number, (size, mode) in enumerate([((1, 1), "L"), ((300, 20), "RGB"), ((28, 500), "RGBA"), ((64, 64), "P")]):
        files.append(tmp_path / f"{number}.png")
        Image.new(mode, size).save(files[-1])
    assert all(answer.error is None for answer in Predictor(trained.model).predict(files))


def test_a_loaded_network_serves_and_one_without_a_description_does_not(
    trained: TrainingResult, pictures: list[Path]
) -> None:
    from_file = next(Predictor(trained.folder).predict(pictures))
    assert next(Predictor(googlenet.load(trained.model)).predict(pictures)) == from_file
    with pytest.raises(UserError, match=r"googlenet\.load"):
        Predictor(googlenet.create_model("bn"))
    with pytest.raises(UserError, match="1 or more"):
        Predictor(trained.model).predict(pictures, top=0)


def test_pictures_are_found_in_folders(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "notes.txt", "deep/ü.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = list(image_files([tmp_path, tmp_path / "notes.txt"]))
    assert [path.name for path in found] == ["a.jpg", "b.PNG", "ü.webp", "notes.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        list(image_files([tmp_path / "empty"]))


def test_predictions_are_lazy(trained: TrainingResult, pictures: list[Path]) -> None:
    """A batch is read while the one before it is classified, so a long list does not fill the memory."""
    taken = []

    def listing() -> object:
        for path in pictures:
            taken.append(path)
            yield path

    next(Predictor(trained.model).predict(listing(), batch_size=4))  # type: ignore[arg-type]
    assert len(taken) == 8
    assert torch.is_grad_enabled()


def test_a_predictor_keeps_to_the_network_that_it_was_given(trained: TrainingResult, pictures: list[Path]) -> None:
    net = googlenet.load(trained.model)
    ours = Predictor(net)
    digest, before = ours.digest, list(ours.predict(pictures[:2]))
    with torch.no_grad():
        net.fc.bias.add_(torch.arange(10))
    assert list(ours.predict(pictures[:2])) == before
    assert ours.digest == digest != Predictor(net).digest


def test_pictures_read_in_threads_leave_warnings_as_they_were(trained: TrainingResult, pictures: list[Path]) -> None:
    before = list(warnings.filters)
    list(Predictor(trained.model).predict(pictures, batch_size=20))
    assert list(warnings.filters) == before


def test_a_network_may_be_anywhere_and_of_any_type(trained: TrainingResult, pictures: list[Path]) -> None:
    net = googlenet.load(trained.model)
    expected = [answer.classes[0] for answer in Predictor(net).predict(pictures[:4])]
    net.train().bfloat16()
    for engine in ("torch", "openvino"):
        answers = Predictor(net, backend=backend).predict(pictures[:4])  # type: ignore[arg-type]
        assert [answer.classes[0] for answer in answers] == expected
    assert net.training and net.fc.weight.dtype == torch.bfloat16


def test_a_picture_that_is_too_long_for_a_file_is_told(
    trained: TrainingResult, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(trained.model, "torch-export", tmp_path / "m.pt2", preprocessing=True)
    monkeypatch.setattr(predictor, "LONGEST_SIDE", 27)
    (answer,) = Predictor(tmp_path / "m.pt2").predict(pictures[:1])
    assert answer.error == "a side is longer than 27 pixels"
