from __future__ import annotations

import copy
import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import googlenet
from googlenet import Predictor, TrainingResult, UserError
from googlenet.data.decode import image_files
from googlenet.inference import predictor as predictor_module
from googlenet.inference.backends import BackendName
from tests.inference.conftest import Exports
from tests.networks import fitted

pytestmark = pytest.mark.usefixtures("small_data")


def at_temperature(net: googlenet.GoogLeNet, temperature: float) -> googlenet.GoogLeNet:
    net.info = dataclasses.replace(net.info, temperature=temperature)
    return net


@pytest.mark.parametrize(("batch_size", "temperature"), [(1, 1.0), (7, 3.0), (64, 0.5)])
def test_predictions_equal_the_evaluation(
    batch_size: int, temperature: float, trained: TrainingResult, files: list[Path]
) -> None:
    net = at_temperature(googlenet.load(trained.model), temperature)
    evaluation = googlenet.evaluate(net, precision="fp32")
    predictor = Predictor(net, precision="fp32")
    predictions = list(predictor.predict(files, top=10, batch_size=batch_size))
    assert [prediction.file for prediction in predictions] == [str(path) for path in files]
    for prediction, probabilities in zip(predictions, evaluation.probabilities, strict=False):
        assert prediction.error is None
        assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-5)
        for name, probability in zip(prediction.classes, prediction.probabilities, strict=True):
            assert float(probabilities[evaluation.classes.index(name)]) == pytest.approx(probability, abs=1e-4)
        assert list(prediction.probabilities) == sorted(prediction.probabilities, reverse=True)


def test_images_of_every_type(trained: TrainingResult, files: list[Path]) -> None:
    predictor = Predictor(trained.model, precision="fp32")
    (expected,) = predictor.predict(files[0])
    with Image.open(files[0]) as image:
        image.load()
    array = np.asarray(image)
    types: list[Any] = [
        str(files[0]),
        files[0].read_bytes(),
        image,
        image.convert("RGB"),
        array,
        np.stack([array] * 3, axis=2),
        torch.tensor(array),
        torch.tensor(array)[None],
    ]
    predictions = list(predictor.predict(types))
    assert [prediction.file for prediction in predictions] == [str(files[0]), *(f"image {i}" for i in range(1, 8))]
    for one, other in zip(types, predictions, strict=True):
        (alone,) = predictor.predict(one)
        for found in (alone, other):
            assert found.error is None
            assert found.classes == expected.classes
            assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    batch = torch.tensor(np.stack([array] * 3))[:, None]
    for many in (batch, batch.permute(0, 2, 3, 1).numpy(), iter(types[:3]), tuple(types[:3])):
        found_many = list(predictor.predict(many))
        assert [found.classes for found in found_many] == [expected.classes] * 3


@pytest.mark.parametrize("wrong", [b"not an image", np.zeros((4, 4)), torch.zeros(2, 4, 4, dtype=torch.uint8)])
def test_an_invalid_image_in_memory_has_an_error(wrong: Any, trained: TrainingResult) -> None:
    (prediction,) = Predictor(trained.model).predict([wrong])
    assert (prediction.file, prediction.classes) == ("image 0", ())
    assert prediction.error


def test_images_in_memory_with_an_exported_file(exports: Exports, files: list[Path]) -> None:
    exported = Predictor(exports("onnx", preprocessing=True).file)
    (expected,) = exported.predict(files[0])
    (found,) = exported.predict(np.asarray(Image.open(files[0])))
    assert found.probabilities == pytest.approx(expected.probabilities)


def test_the_temperature_changes_probabilities_but_not_the_order(trained: TrainingResult, files: list[Path]) -> None:
    plain, hot = (
        list(Predictor(at_temperature(googlenet.load(trained.model), temperature)).predict(files))
        for temperature in (1.0, 4.0)
    )
    for before, after in zip(plain, hot, strict=True):
        assert before.classes == after.classes
        assert before.probabilities[0] > after.probabilities[0]


def test_confident(trained: TrainingResult, files: list[Path]) -> None:
    predictor = Predictor(trained.model)
    files[3].write_bytes(b"")
    plain = list(predictor.predict(files))
    assert [prediction.confident for prediction in plain] == [prediction.error is None for prediction in plain]
    highest = sorted(prediction.probabilities[0] for prediction in plain if prediction.error is None)
    threshold = highest[len(highest) // 2]
    predictions = list(predictor.predict(files, confidence=threshold))
    assert 0 < sum(prediction.confident for prediction in predictions) < len(highest)
    for prediction in predictions:
        assert prediction.confident == (prediction.error is None and prediction.probabilities[0] >= threshold)
        assert prediction.to_dict()["confident"] is prediction.confident


@pytest.mark.parametrize("wrong", [{"confidence": 80}, {"confidence": -0.1}, {"top": 0}, {"batch_size": 0}])
def test_arguments_out_of_range(wrong: dict[str, Any], trained: TrainingResult) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Predictor(trained.model).predict([], **wrong)


def test_an_unreadable_file_has_an_error_and_the_others_are_predicted(
    trained: TrainingResult, files: list[Path]
) -> None:
    files[1].write_bytes(b"")
    files[2].unlink()
    predictions = list(Predictor(trained.model).predict(files[:5], top=2))
    assert [prediction.error is None for prediction in predictions] == [True, False, False, True, True]
    for prediction, path in zip(predictions[1:3], files[1:3], strict=True):
        assert prediction.file == str(path)
        assert path.name not in str(prediction.error)
    assert all(len(prediction.classes) == 2 for prediction in predictions if prediction.error is None)


def test_images_of_every_size_and_mode(trained: TrainingResult, tmp_path: Path) -> None:
    files = []
    for number, (size, mode) in enumerate([((1, 1), "L"), ((300, 20), "RGB"), ((28, 500), "RGBA"), ((64, 64), "P")]):
        files.append(tmp_path / f"{number}.png")
        Image.new(mode, size).save(files[-1])
    assert all(prediction.error is None for prediction in Predictor(trained.model).predict(files))


def test_models_as_folder_file_and_network(trained: TrainingResult, files: list[Path]) -> None:
    from_folder = next(Predictor(trained.folder).predict(files))
    assert next(Predictor(str(trained.model)).predict(files)) == from_folder
    assert next(Predictor(googlenet.load(trained.model)).predict(files)) == from_folder
    with pytest.raises(UserError, match=r"googlenet\.load"):
        Predictor(googlenet.create_model("bn"))
    with pytest.raises(UserError, match="tensorrt"):
        Predictor(trained.model, backend="tensorrt")  # type: ignore[arg-type]


def test_a_link_to_itself_does_not_stop_a_folder(trained: TrainingResult, files: list[Path]) -> None:
    (files[0].parent / "loop").symlink_to("loop")
    (files[0].parent / "loop.png").symlink_to("loop.png")
    predictions = list(Predictor(trained.model).predict(image_files([files[0].parent])))
    assert [Path(p.file).name for p in predictions if p.error is None] == [path.name for path in files]


def test_predictions_are_lazy(trained: TrainingResult, files: list[Path]) -> None:
    """A batch is decoded while the one before it is classified, so a long list does not fill the memory."""
    taken = []

    def listing() -> Any:
        for path in files:
            taken.append(path)
            yield path

    next(Predictor(trained.model).predict(listing(), batch_size=4))
    assert len(taken) == 8
    assert torch.is_grad_enabled()


def test_a_predictor_keeps_its_own_copy_of_the_network(trained: TrainingResult, files: list[Path]) -> None:
    net = googlenet.load(trained.model)
    ours = Predictor(net)
    digest, before = ours.digest, list(ours.predict(files[:2]))
    with torch.no_grad():
        net.fc.bias.add_(torch.arange(10))
    assert list(ours.predict(files[:2])) == before
    assert ours.digest == digest != Predictor(net).digest


def test_decoding_in_threads_keeps_the_warnings_filters(trained: TrainingResult, files: list[Path]) -> None:
    before = list(warnings.filters)
    list(Predictor(trained.model).predict(files, batch_size=20))
    assert list(warnings.filters) == before


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_a_network_in_any_mode_and_type(backend: BackendName, files: list[Path]) -> None:
    data = googlenet.load_dataset("fashion-mnist")
    net = fitted(data.test, data.classes, is_thin=True).train().bfloat16()
    predictor = Predictor(net, backend=backend, precision="fp32")
    rounded = copy.deepcopy(net).float().eval()
    for found, expected in zip(
        predictor.predict(files[:4]), Predictor(rounded, precision="fp32").predict(files[:4]), strict=True
    ):
        assert found.classes == expected.classes
        assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
    assert net.training and net.fc.weight.dtype == torch.bfloat16


def test_an_image_too_large_for_an_exported_file(
    exports: Exports, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor_module, "MAX_SIDE", 27)
    (prediction,) = Predictor(exports("torch-export", preprocessing=True).file).predict(files[:1])
    assert "27" in str(prediction.error)
