"""Every format, compared with PyTorch by the test itself."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from torch import Tensor

import googlenet
from googlenet import (
    Exported,
    GoogLeNet,
    ImageSplit,
    InputSpec,
    ModelInfo,
    Predictor,
    RunError,
    TrainingResult,
    UserError,
    export,
)
from googlenet.inference import export as export_module
from googlenet.inference.backends import SUFFIXES, BackendName, Format, open_exported
from googlenet.inference.export import quietly
from googlenet.inference.graph import ExportableModel
from googlenet.recipe import Resize
from googlenet.weights.model_file import KnownRule
from tests.conftest import write_photos
from tests.inference.conftest import Exports
from tests.networks import tiny, with_info

pytestmark = pytest.mark.usefixtures("small_data")


def described(spec: InputSpec, classes: tuple[str, ...] = ("a", "b", "c"), **recipe: Any) -> GoogLeNet:
    net = tiny(len(classes), spec.channels).eval()
    net.info = ModelInfo(net.architecture, classes, spec, recipe=recipe)
    return net


def always_first(**recipe: Any) -> GoogLeNet:
    """A network that predicts boot for every image: the true accuracy on as many trousers is 50%."""
    net = described(InputSpec(1, 28, (0.5,), (0.5,)), ("boot", "trouser"), **recipe)
    with torch.no_grad():
        net.fc.weight.zero_()
        net.fc.bias.copy_(torch.tensor([1.0, 0.0]))
    return net


TWO_CHANNELS = described(InputSpec(2, 48, (0.4, 0.5), (0.2, 0.3)))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(1, 48),
    resize=st.sampled_from(["stretch", "crop", "pad"]),
    crop_pct=st.sampled_from([1.0, 0.875, 0.5]),
    contrast=st.sampled_from([1, 2, 255]),
)
def test_preprocessing_in_the_file_equals_input_spec(
    height: int, width: int, size: int, resize: Any, crop_pct: float, contrast: int
) -> None:
    """Low contrast too: averages of two values are often halves, which must be rounded the same way."""
    spec = InputSpec(2, size, (0.4, 0.5), (0.2, 0.3), resize=resize, crop_pct=crop_pct)
    darkest = int(torch.randint(0, 256 - contrast, ()))
    images = torch.randint(darkest, darkest + contrast + 1, (2, 2, height, width), dtype=torch.uint8)
    info = dataclasses.replace(TWO_CHANNELS.info, input=spec)
    prepared = ExportableModel(TWO_CHANNELS, info, preprocessing=True).prepare(images)
    levels = (prepared - spec.prepare(images)).abs() * 255 * torch.tensor([0.2, 0.3]).view(2, 1, 1)
    assert levels.max() < 1.01
    assert (levels > 0.01).sum() <= max(2, 0.01 * levels.numel())


def with_scores(logits: Tensor, net: GoogLeNet) -> Tensor:
    """What a file with preprocessing computes: probabilities, and the score for the rule for unknown images."""
    return torch.cat([(logits / net.info.temperature).softmax(1), net.info.known.scores(logits)[:, None]], dim=1)


@pytest.mark.parametrize("preprocessing", [False, True])
@pytest.mark.parametrize("to", list(SUFFIXES))
def test_a_file_computes_what_the_network_does(to: Format, preprocessing: bool, exports: Exports) -> None:
    exported = exports(to, preprocessing=preprocessing)
    folder = exported.file.parent
    assert exported.largest_difference < 1e-4
    assert exported.agreement == 1
    parts = {"openvino": {"x.xml", "x.bin"}}.get(to, {f"x{SUFFIXES[to]}"})
    assert {file.name for file in folder.iterdir()} == parts | {f"x{SUFFIXES[to]}.json"}
    metadata = json.loads((folder / f"x{SUFFIXES[to]}.json").read_text(encoding="utf-8"))
    assert (len(metadata["classes"]), metadata["exported"]) == (10, {"preprocessing": preprocessing, "int8": False})
    opened = open_exported(exported.file, precision="fp32")
    net = exports.net
    assert opened.info == net.info
    images = googlenet.load_dataset("fashion-mnist").test.images[:5]
    with torch.no_grad():
        logits = net(net.info.input.prepare(images))
    found = opened.run(images)
    torch.testing.assert_close(found, with_scores(logits, net) if preprocessing else logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_int8_is_smaller_and_measures_its_accuracy(to: Format, exports: Exports) -> None:
    exported = exports(to, int8=True)
    assert exported.megabytes < exports(to).megabytes / 3.5
    test = exports.data.test
    assert exported.images_compared == len(test)
    opened = open_exported(exported.file, backend="onnxruntime" if to == "onnx" else "auto", precision="fp32")
    predicted = opened.run(test.images).argmax(1)
    assert exported.accuracy_after == pytest.approx(float((predicted == test.labels).double().mean()), abs=0.02)
    assert exported.accuracy_before == pytest.approx(googlenet.evaluate(exports.net, test, precision="fp32").accuracy)
    assert exported.agreement > 0.8


def test_int8_that_costs_too_much_is_not_kept(
    tmp_path: Path, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a file made before, instead of a graph made again, and one that predicts the same class for every image."""
    import onnx

    def badly(path: Path, target: Path, batches: Any) -> None:
        model = onnx.load(path)
        for weights in model.graph.initializer:
            if tuple(weights.dims) == tuple(exports.net.fc.weight.shape):
                weights.CopyFrom(onnx.numpy_helper.from_array(np.zeros(weights.dims, np.float32), weights.name))
        onnx.save(model, target)

    file, few = exports("onnx").file, exports.data.test.spread(40)
    monkeypatch.setattr(export_module, "write_graph", lambda model, to, path: shutil.copy(file, path))
    monkeypatch.setattr(export_module, "quantize_onnx", badly)
    write = partial(export, exports.net, "onnx", tmp_path / "q.onnx", int8=True, calibration_data=few)
    with pytest.raises(RunError, match=r"--max-accuracy-drop.*--force"):
        write()
    assert list(tmp_path.iterdir()) == []
    assert write(force=True).accuracy_drop > 0.5


@pytest.mark.parametrize("is_int8", [False, True])
def test_accuracy_is_of_images_spread_over_the_classes(
    is_int8: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder lists one class after the other: the first images are all boots."""
    write_photos(tmp_path / "photos", of_each=40)
    monkeypatch.setattr(export_module, "VERIFICATION_IMAGES", 8)
    monkeypatch.setattr(export_module, "quantize_onnx", lambda path, target, _: shutil.copy(path, target))
    net = always_first(data=str(tmp_path / "photos"))
    to: Format = "onnx" if is_int8 else "torch-export"
    exported = export(net, to, tmp_path / f"x{SUFFIXES[to]}", int8=is_int8)
    assert (exported.accuracy_before, exported.accuracy_after) == (0.5, 0.5)
    assert exported.images_compared == (16 if is_int8 else 8)


def test_calibration_data_as_dataset_and_split(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", of_each=60)
    dataset = googlenet.load_dataset(tmp_path / "photos", size=28, channels=1, test_fraction=1.0)
    assert len(dataset.train) == 0  # then the test images calibrate, too
    labels = dataset.test.labels.sort()
    split = ImageSplit(dataset.test.images[labels.indices], labels.values)
    for data, file in ((dataset, "d.pt2"), (split, "s.pt2")):
        exported = export(always_first(), "torch-export", tmp_path / file, calibration_data=data)
        assert (exported.images_compared, exported.accuracy_before) == (64, 0.5)
    wrong = ImageSplit(torch.zeros(4, 1, 28, 28, dtype=torch.uint8), torch.tensor([0, 1, 2, 3]))
    with pytest.raises(UserError, match="classes"):
        export(always_first(), "torch-export", tmp_path / "w.pt2", calibration_data=wrong)
    other = described(InputSpec(1, 28, (0.5,), (0.5,)))
    with pytest.raises(UserError, match="classes"):
        export(other, "torch-export", tmp_path / "w.pt2", calibration_data=dataset)
    assert not (tmp_path / "w.pt2").exists()


def test_a_folder_of_images_calibrates_and_verifies(tmp_path: Path) -> None:
    net = described(InputSpec(1, 28, (0.5,), (0.5,)))
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (30 + number, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    exported = export(net, "torch-export", tmp_path / "x.pt2", calibration_data=tmp_path, preprocessing=True)
    assert (exported.images_compared, exported.accuracy_before, exported.accuracy_after) == (4, None, None)
    assert exported.largest_difference < 1e-4
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"broken\.png"):
        export(net, "torch-export", tmp_path / "x.pt2", calibration_data=tmp_path)
    exported = export(net, "torch-export", tmp_path / "x.pt2", calibration_data=tmp_path, skip_unreadable=True)
    assert exported.images_compared == 4


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_preprocessing_of_large_images_is_exact_by_default(to: Format, exports: Exports) -> None:
    net = exports.net
    images = torch.randint(0, 256, (2, 1, 400, 500), dtype=torch.uint8).cumsum(3).remainder(256).to(torch.uint8)
    with torch.no_grad():
        expected = with_scores(net(net.info.input.prepare(images)), net)
    file = exports(to, preprocessing=True).file
    found = open_exported(file, backend="openvino").run(images)  # bf16 would shift pixels by up to two
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("to", "resize"), [*((to, "crop") for to in SUFFIXES), ("onnx", "pad"), ("openvino", "pad")])
def test_other_shapes_are_made_square_in_the_file_too(to: Format, resize: Resize, tmp_path: Path) -> None:
    """For wide, tall and square images; `export` itself rejects a file that differs."""
    for number, size in enumerate(((90, 50), (41, 70), (64, 64))):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    net = described(InputSpec(3, 32, (0.5,) * 3, (0.4,) * 3, resize=resize, crop_pct=0.875))
    exported = export(net, to, tmp_path / f"m{SUFFIXES[to]}", preprocessing=True, calibration_data=tmp_path)
    assert exported.images_compared == 3


def test_an_exported_file_predicts_as_the_model_does(exports: Exports, tmp_path: Path) -> None:
    file = tmp_path / "shoe.png"
    Image.fromarray(exports.data.test.images[0, 0].numpy()).save(file)
    plain, included, net = exports("onnx").file, exports("onnx", preprocessing=True).file, exports.net
    calls: list[tuple[Path | GoogLeNet, Path | GoogLeNet, BackendName]] = [
        *((model, net, backend) for model in (plain, included) for backend in ("openvino", "onnxruntime")),
        *((net, net, backend) for backend in ("openvino", "onnxruntime")),
    ]
    for model, original, backend in calls:
        expected = Predictor(original, precision="fp32").predict(file)
        found = Predictor(model, backend=backend, precision="fp32").predict(file)
        assert found.classes == expected.classes
        assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-4)


@pytest.mark.parametrize("to", list(SUFFIXES))
def test_threads_share_a_backend(to: Format, exports: Exports) -> None:
    opened = open_exported(exports(to).file, precision="fp32")
    batches = googlenet.load_dataset("fashion-mnist").test.images[:64].split(4)
    alone = [opened.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(opened.run, batches), alone, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_exporting_in_threads_keeps_the_process_settings() -> None:
    before = list(warnings.filters), logging.root.manager.disable

    def mute(number: int) -> None:
        with quietly():
            time.sleep(0.002 * number)  # so that each begins before, and ends after, another

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(mute, (4, 3, 2, 1)))
    assert (list(warnings.filters), logging.root.manager.disable) == before


def test_an_export_leaves_the_process_and_the_network_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def state() -> tuple[object, ...]:
        return (
            list(warnings.filters),
            logging.root.manager.disable,
            logging.getLoggerClass(),
            torch.is_grad_enabled(),
            torch.get_rng_state().tolist(),
        )

    data = googlenet.load_dataset("fashion-mnist")
    net = described(InputSpec(1, 28, (0.5,), (0.5,)), data.classes).train()
    monkeypatch.chdir(tmp_path)
    weights, before = {name: tensor.clone() for name, tensor in net.state_dict().items()}, state()
    exported = export(net, "openvino", int8=True, force=True, calibration_data=data.test.spread(20))
    assert exported.file == Path("model-int8.xml") and exported.file.exists()
    assert state() == before
    assert net.training and all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())
    assert capsys.readouterr().out == ""  # NNCF's progress bars would be in the way of JSON


def test_invalid_exports(trained: TrainingResult, tmp_path: Path) -> None:
    calls: list[tuple[Any, str, str, dict[str, Any], str]] = [
        (trained.model, "openvino", "x.onnx", {}, r"\.xml"),
        (trained.model, "torch-export", "x.pt2", {"int8": True}, "int8"),
        (trained.model, "tflite", "x.tflite", {}, "tflite"),
        (described(InputSpec(1, 32, (0.0,), (1.0,))), "onnx", "x.onnx", {}, "--calibration-data"),
        (googlenet.create_model("bn"), "onnx", "x.onnx", {}, r"googlenet\.load"),
        (tmp_path / "missing", "onnx", "x.onnx", {}, "missing"),
        (trained.model, "torch-export", "x.pt2", {"calibration_data": tmp_path / "nowhere"}, "nowhere"),
    ]
    for model, to, name, options, message in calls:
        with pytest.raises(UserError, match=message):
            export(model, to, tmp_path / name, **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_opened(trained: TrainingResult, tmp_path: Path) -> None:
    backends: tuple[BackendName, ...] = ("openvino", "onnxruntime")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    for backend in backends:
        with pytest.raises(UserError, match=r"bad\.onnx"):
            open_exported(tmp_path / "bad.onnx", backend=backend)
    with pytest.raises(UserError) as error:
        open_exported(tmp_path / "bad.onnx", backend="openvino")
    assert ".cpp" not in str(error.value)  # where in OpenVINO's source it was raised
    (tmp_path / "bad.pt2").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"bad\.pt2"):
        Predictor(tmp_path / "bad.pt2")
    with pytest.raises(UserError, match=r"none\.xml"):
        open_exported(tmp_path / "none.xml")


def test_an_onnx_file_without_our_metadata(tmp_path: Path) -> None:
    class Double(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images * 2

    with quietly():
        torch.onnx.export(Double(), (torch.zeros(1, 2),), tmp_path / "other.onnx", dynamo=True, verbose=False)
    for backend in ("openvino", "onnxruntime"):
        with pytest.raises(UserError, match=r"other\.onnx.*googlenet export"):
            Predictor(tmp_path / "other.onnx", backend=backend)  # type: ignore[arg-type]


def test_metadata_is_in_the_file(exports: Exports) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(exports("onnx", preprocessing=True).file)
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["googlenet"])
    assert metadata["classes"] == list(exports.net.info.classes)
    assert metadata["exported"] == {"preprocessing": True, "int8": False}


def test_what_a_backend_does_not_support(trained: TrainingResult, exports: Exports) -> None:
    file = exports("torch-export").file
    calls: list[tuple[Path, dict[str, str], str]] = [
        (file, {"precision": "bf16"}, "--precision"),
        (file, {"device": "cuda"}, "--device"),
        (file, {"backend": "onnxruntime"}, r"--backend.*\.pt2"),
        (file, {"backend": "compiled"}, r"--backend.*\.pt2"),
        (trained.model, {"backend": "onnxruntime", "precision": "bf16"}, "--precision"),
        (trained.model, {"backend": "openvino", "precision": "fp16"}, "--precision"),
        (trained.model, {"backend": "compiled", "device": "cuda"}, "--device"),
    ]
    for model, options, message in calls:
        with pytest.raises(UserError, match=message):
            Predictor(model, **options)  # type: ignore[arg-type]


def noise(width: int, height: int, contrast: int, suffix: str) -> bytes:
    """An image file of a level of gray, and levels up to `contrast` above it."""
    generator = np.random.default_rng((width, height, contrast))
    darkest = generator.integers(0, 256 - contrast)
    pixels = (darkest + generator.integers(0, contrast + 1, (height, width))).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, suffix, **({"quality": 95} if suffix == "jpeg" else {}))
    return file.getvalue()


@pytest.fixture(scope="module")
def opened(exports: Exports, trained: TrainingResult) -> tuple[Predictor, Predictor, Predictor, GoogLeNet]:
    """A network and its file, and another network twice: `explain` needs all blocks."""
    file = exports("onnx", preprocessing=True).file
    networks = Predictor(exports.net, precision="fp32"), Predictor(file, precision="fp32")
    return *networks, Predictor(trained.model, precision="fp32"), googlenet.load(trained.model)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    contrast=st.sampled_from([1, 2, 4, 255]),
    suffix=st.sampled_from(["png", "jpeg"]),
)
def test_every_way_to_predict_agrees_on_noise(
    width: int, height: int, contrast: int, suffix: str, opened: tuple[Predictor, Predictor, Predictor, GoogLeNet]
) -> None:
    """Noise of low contrast: an average of a half must be rounded alike, or the whole image is a level brighter."""
    content, (one, file, other, net) = noise(width, height, contrast, suffix), opened
    pairs: list[tuple[Predictor, Any]] = [
        (one, file.predict(content, top=10)),
        (other, googlenet.explain(net, content)),
    ]
    for predictor, found in pairs:
        expected = predictor.predict(content, top=10)
        assert dict(zip(found.classes, found.probabilities, strict=True)) == pytest.approx(
            dict(zip(expected.classes, expected.probabilities, strict=True)), abs=0.01
        )


def test_weights_in_int8_have_7_bits(exports: Exports) -> None:
    """Two products of 8 bits can add up to more than 16 bits, which processors without VNNI cut off."""
    import onnx

    graph = onnx.load(exports("onnx", int8=True).file).graph
    kernels = [
        onnx.numpy_helper.to_array(each) for each in graph.initializer if each.data_type == onnx.TensorProto.INT8
    ]
    kernels = [kernel for kernel in kernels if kernel.ndim == 4]
    assert len(kernels) == 10  # all convolutions
    for kernel in kernels:
        assert kernel.min() >= -64 and kernel.max() <= 64
        pairs = 255 * (kernel.astype(int).reshape(len(kernel), -1).clip(min=0))
        assert 2 * pairs.max() < 2**15


class FakeSession:
    """An ONNX Runtime session as with a GPU, which computes on the CPU."""

    def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
        self.real, self.providers = _Session(path, options, providers=["CPUExecutionProvider"]), providers

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def get_providers(self) -> list[str]:
        return [each if isinstance(each, str) else each[0] for each in self.providers]


_Session = onnxruntime.InferenceSession


@pytest.mark.parametrize(("device", "number"), [("cuda", "0"), ("cuda:1", "1")])
def test_an_onnx_file_on_a_gpu(
    device: str, number: str, exports: Exports, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, made = exports("onnx").file, list[FakeSession]()
    expected = Predictor(file, backend="onnxruntime").predict(files[0])
    with pytest.raises(UserError, match=f"CUDA.*{device}.*onnxruntime-gpu"):
        Predictor(file, device=device)

    def create(*arguments: Any, **settings: Any) -> FakeSession:
        made.append(FakeSession(*arguments, **settings))
        return made[-1]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(UserError, match=device):  # it has CUDA, but there is no GPU
        monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path, options, providers: _Session(path))
        Predictor(file, device=device)
    monkeypatch.setattr(onnxruntime, "InferenceSession", create)
    assert Predictor(file, device=device).predict(files[0]).probabilities == pytest.approx(expected.probabilities)
    assert made[-1].providers == [("CUDAExecutionProvider", {"device_id": number}), "CPUExecutionProvider"]
    with pytest.raises(UserError, match=r"openvino.*CPU"):
        Predictor(file, device=device, backend="openvino")
    with pytest.raises(UserError, match="cuda:x"):
        Predictor(file, device="cuda:x", backend="onnxruntime")


def test_the_example_predicts_as_the_model_does(exports: Exports, tmp_path: Path) -> None:
    """16 bits per channel, transparency, an orientation, a large JPEG."""
    model, predictor = exports("onnx", preprocessing=True).file, Predictor(exports.net, precision="fp32")
    script = Path(__file__).parents[2] / "examples" / "predict.py"
    shirt = Image.fromarray(googlenet.load_dataset("fashion-mnist").test.images[3, 0].numpy()).resize((300, 200))
    sixteen = Image.fromarray(np.asarray(shirt).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    transparent = shirt.convert("LA")
    transparent.putalpha(shirt.point(lambda value: 255 - value))
    images = {"16.png": sixteen, "dark.png": Image.fromarray(np.asarray(sixteen) // 600), "a.png": transparent}
    for name, image in {**images, "turned.jpg": shirt}.items():
        image.save(tmp_path / name, exif=exif)
        expected = predictor.predict(tmp_path / name)
        run = subprocess.run([sys.executable, script, model, tmp_path / name], capture_output=True, text=True)
        lines = [line.rpartition(" ") for line in run.stdout.splitlines()]
        assert tuple(line[0] for line in lines) == expected.classes, (name, run.stderr)
        found = [float(line[2].rstrip("%")) / 100 for line in lines]
        assert found == pytest.approx(expected.probabilities, abs=0.001)


def test_exported_to_dict(exports: Exports) -> None:
    exported: Exported = exports("onnx")
    fields = exported.to_dict()
    assert json.loads(json.dumps(fields)) == fields
    assert fields["accuracy_drop"] == pytest.approx(0, abs=1e-6)


def test_a_file_with_other_scores_of_known_images_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = with_info(tiny(2, 1), ("a", "b"), 28, known=KnownRule(0.0, "test", 1, "0" * 64))
    split = ImageSplit(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.tensor([0, 1]))
    write = partial(googlenet.export, net, "torch-export", tmp_path / "x.pt2", calibration_data=split)
    assert write(preprocessing=True).known_agreement == 1
    (tmp_path / "x.pt2").unlink()
    forward: Any = ExportableModel.forward

    def wrong(model: ExportableModel, images: Tensor) -> tuple[Tensor, Tensor]:
        probabilities, scores = forward(model, images)
        return probabilities, scores + 0.01

    monkeypatch.setattr(ExportableModel, "forward", wrong)
    with pytest.raises(RunError, match="known"):
        write(preprocessing=True)
    assert not (tmp_path / "x.pt2").exists()


@pytest.mark.parametrize("to", list(SUFFIXES))
@pytest.mark.parametrize("preprocessing", [False, True])
def test_exported_files_recognize_unknown_images_too(
    to: Format, preprocessing: bool, exports: Exports, files: list[Path]
) -> None:
    noise = torch.randint(0, 256, (1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = [*files, noise, torch.full((1, 28, 28), 255, dtype=torch.uint8)]
    expected = [each.known for each in Predictor(exports.net, precision="fp32").predict(images)]
    assert {True, False} == set(expected)
    predictor = Predictor(exports(to, preprocessing=preprocessing).file, precision="fp32")
    assert [each.known for each in predictor.predict(images)] == expected
