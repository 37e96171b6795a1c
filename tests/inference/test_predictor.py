from __future__ import annotations

import copy
import dataclasses
import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import googlenet
from googlenet import Predictor, RunError, TrainingResult, UserError
from googlenet.data.decode import decode_resized, image_files
from googlenet.inference import predictor as predictor_module
from googlenet.inference.backends import BackendName, open_exported
from tests.inference.conftest import Exports
from tests.networks import fitted, one_block

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
    expected = predictor.predict(files[0])
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
        alone = predictor.predict(one)
        for found in (alone, other):
            assert found.error is None
            assert found.classes == expected.classes
            assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    batch = torch.tensor(np.stack([array] * 3))[:, None]
    for many in (batch, batch.permute(0, 2, 3, 1).numpy(), iter(types[:3]), tuple(types[:3])):
        found_many = list(predictor.predict(many))
        assert [found.classes for found in found_many] == [expected.classes] * 3


def test_bytes_that_are_not_an_image_have_an_error(trained: TrainingResult) -> None:
    prediction = Predictor(trained.model).predict(b"not an image")
    assert (prediction.file, prediction.classes) == ("image 0", ())
    assert prediction.error


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (np.zeros((4, 4)), r"uint8.*float64"),
        (np.zeros((4, 4), np.uint16), "uint8.*uint16"),
        (np.zeros((3, 5, 5), np.uint8), r"\(H, W, C\).*\(3, 5, 5\)"),
        (torch.zeros(5, 5, 3, dtype=torch.uint8), r"\(C, H, W\).*\(5, 5, 3\)"),
        (torch.zeros(3, 0, 4, dtype=torch.uint8), r"\(3, 0, 4\)"),
        (np.zeros(4, np.uint8), r"\(4,\)"),
        (None, "NoneType"),
        (5, "int"),
        (BytesIO(b"not the path of a file, nor its content"), "BytesIO"),
        (bytearray(b"BM"), "bytearray"),
        (Image.new("L", (0, 3)), "0x3"),
    ],
)
def test_another_type_or_shape_says_what_was_expected(wrong: Any, expected: str, trained: TrainingResult) -> None:
    predictor = Predictor(trained.model)
    for method in (predictor.predict, predictor.embed):
        for images in (wrong, [wrong], iter([wrong])):
            with pytest.raises(UserError, match=expected):
                list(method(images))


def test_one_result_for_one_image_a_list_or_an_iterator(trained: TrainingResult, files: list[Path]) -> None:
    predictor = Predictor(trained.model, precision="fp32")
    one, many, lazy = (predictor.predict(images) for images in (files[0], files[:3], iter(files[:3])))
    assert isinstance(one, googlenet.Prediction) and isinstance(many, list) and not isinstance(lazy, list)
    assert list(lazy) == many and many[0].classes == one.classes
    assert predictor.predict([]) == []
    features, rows = predictor.embed(files[0]), predictor.embed(files[:3])
    assert (features.shape, rows.shape, features.dtype) == ((1024,), (3, 1024), np.float32)
    np.testing.assert_allclose(rows[0], features, atol=1e-5)
    np.testing.assert_array_equal(np.stack(list(predictor.embed(iter(files[:3])))), rows)
    assert predictor.embed([], block="4a").shape == (0, 512)


@pytest.mark.parametrize("block", ["3a", "4e", "5b"])
def test_features_are_the_mean_of_each_map(block: str, trained: TrainingResult, files: list[Path]) -> None:
    net, maps = googlenet.load(trained.model), {}
    layer = getattr(net, f"inception{block}")
    layer.register_forward_hook(lambda _net, _x, output: maps.update({block: output}))
    with torch.no_grad():
        net(net.info.input.prepare(decode_resized(files[0], 1, net.info.input.size)[None]))
    features = Predictor(trained.model, precision="fp32").embed(files[0], block=block)
    np.testing.assert_allclose(features, maps[block][0].mean(dim=(1, 2)).numpy(), atol=1e-4, rtol=1e-4)


def test_features_that_do_not_exist(trained: TrainingResult, files: list[Path], exports: Exports) -> None:
    predictor = Predictor(trained.model)
    with pytest.raises(UserError, match=r"4f.*5b"):
        predictor.embed(files, block="4f")
    with pytest.raises(UserError, match="exported"):
        Predictor(exports("torch-export").file).embed(files)
    files[1].write_bytes(b"")
    with pytest.raises(UserError, match=files[1].name):
        predictor.embed(files[:3])
    errors = [embedding.error for embedding in predictor.embeddings(files[:3])]
    assert [error is None for error in errors] == [True, False, True]


def test_threads_share_a_predictor(trained: TrainingResult, files: list[Path]) -> None:
    """Each with other images; one image, whose file is not read yet, is shared too."""
    predictor, shared = Predictor(trained.model, precision="fp32"), Image.open(files[0])
    tasks: list[list[Any]] = [[shared, *files[number : number + 5], shared] for number in range(8)]
    other = Predictor(trained.model, precision="fp32")
    alone = [other.predict(task[1:-1]) for task in tasks]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda task: (predictor.predict(task), predictor.embed(task)), tasks))
    for (found, features), expected in zip(together, alone, strict=True):
        assert [each.classes for each in found[1:-1]] == [each.classes for each in expected]
        for mine, its in zip(found[1:-1], expected, strict=True):
            assert mine.probabilities == pytest.approx(its.probabilities, abs=1e-5)
        np.testing.assert_allclose(features[0], features[-1], atol=1e-5)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (TypeError("first line\nsecond line"), r"Engine.*1x1x28x28 \(first line\)"),
        (OSError(), r"Engine.*1x1x28x28 \(OSError\)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), r"^DefaultCPUAllocator"),  # as elsewhere
    ],
)
def test_an_error_of_the_engine_is_one_line(
    failure: Exception, expected: str, trained: TrainingResult, files: list[Path]
) -> None:
    def fail(_: torch.Tensor) -> torch.Tensor:
        raise failure

    predictor = Predictor(trained.model)
    predictor._model = dataclasses.replace(predictor._model, backend=fail, name="Engine")
    with pytest.raises(RuntimeError, match=expected) as raised:
        predictor.predict(files[0])
    assert isinstance(raised.value, RunError) == expected.startswith("Engine")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_engine_that_cannot_compute(backend: BackendName, exports: Exports) -> None:
    opened = open_exported(exports("onnx").file, backend=backend)
    with pytest.raises(RunError, match="2x3x5x5"):
        opened.run(torch.zeros(2, 3, 5, 5, dtype=torch.uint8))


def test_images_in_memory_with_an_exported_file(exports: Exports, files: list[Path]) -> None:
    exported = Predictor(exports("onnx", preprocessing=True).file)
    expected = exported.predict(files[0])
    found = exported.predict(np.asarray(Image.open(files[0])))
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
    from_folder = Predictor(trained.folder).predict(files[0])
    assert Predictor(str(trained.model)).predict(files[0]) == from_folder
    assert Predictor(googlenet.load(trained.model)).predict(files[0]) == from_folder
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
    net = fitted(data.test, data.classes, create=one_block).train().bfloat16()
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
