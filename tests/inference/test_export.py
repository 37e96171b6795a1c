"""Every format, held against PyTorch by the test itself."""

from __future__ import annotations

import json
import logging
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import googlenet
from googlenet import Predictor, RunError, UserError
from googlenet.weights.model_file import ModelInfo, save
from googlenet.data.dataset import load_dataset
from googlenet.data.transforms import InputSpec
from googlenet.deploy import export as export_module
from googlenet.inference.formats import ExportableModel
from googlenet.inference.backends import BackendName, network_backend, open_exported
from googlenet.inference.export import Exported, export
from googlenet.inference.formats import SUFFIX, Format, quietly
from googlenet.model.googlenet import GoogLeNet
from googlenet.training.loop import TrainingResult

pytestmark = pytest.mark.usefixtures("small_data")


def described(spec: InputSpec) -> tuple[GoogLeNet, ModelInfo]:
    net = googlenet.create_model("bn", num_classes=3, in_channels=spec.channels)
    return net, ModelInfo(net.architecture, ("a", "b", "c"), spec)


class Files:
    """The trained model as a file of a format, with or without the preparing of pictures: each made once."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.folder, self.made = model, folder, dict[tuple[Format, bool], Exported]()

    def __call__(self, to: Format, *, preprocessing: bool) -> Exported:
        if (to, preprocessing) not in self.made:
            target = self.folder / f"{to} {preprocessing}" / f"x{SUFFIX[to]}"
            self.made[to, preprocessing] = export(self.model, to, target, preprocessing=preprocessing)
        return self.made[to, preprocessing]


@pytest.fixture(scope="module")
def files(trained: TrainingResult, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(trained.model, tmp_path_factory.mktemp("exported"))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(1, 48),
    resize=st.sampled_from(["stretch", "crop"]),
    share=st.sampled_from([1.0, 0.875, 0.5]),
)
def test_preparing_inside_the_file_is_preparing_outside(
    height: int, width: int, size: int, resize: str, share: float
) -> None:
    spec = InputSpec(2, size, (0.4, 0.5), (0.2, 0.3), resize=resize, crop_pct=share)
    images = torch.randint(0, 256, (2, 2, height, width), dtype=torch.uint8)
    prepared = ExportableModel(*described(spec), preprocessing=True)._prepared(images)
    torch.testing.assert_close(prepared, spec.prepare(images), atol=2e-4, rtol=0)


@pytest.mark.parametrize("preprocessing", [False, True])
@pytest.mark.parametrize("to", list(SUFFIX))
def test_a_file_computes_what_the_model_does(
    to: Format, preprocessing: bool, trained: TrainingResult, files: Files
) -> None:
    exported = files(to, preprocessing=preprocessing)
    folder = exported.file.parent
    assert exported.largest_difference < 1e-4
    assert exported.agreement == 1
    parts = {"openvino": {"x.xml", "x.bin"}}.get(to, {f"x{SUFFIX[to]}"})
    assert {file.name for file in folder.iterdir()} == parts | {f"x{SUFFIX[to]}.json"}
    described = json.loads((folder / f"x{SUFFIX[to]}.json").read_text(encoding="utf-8"))
    assert (len(described["classes"]), described["exported"]["preprocessing"]) == (10, preprocessing)
    opened = open_exported(exported.file, precision="fp32")
    net = googlenet.load(trained.model)
    assert opened.info == net.info
    images = load_dataset("fashion-mnist").test.images[:5]
    with torch.no_grad():
        logits = net(net.info.input.prepare(images))
    found = opened.run(images if preprocessing else net.info.input.prepare(images))
    torch.testing.assert_close(found, logits.softmax(1) if preprocessing else logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_int8_is_smaller_and_says_what_it_costs(
    to: Format, trained: TrainingResult, files: Files, tmp_path: Path
) -> None:
    exported = export(trained.model, to, tmp_path / f"q{SUFFIX[to]}", int8=True, force=True)
    assert exported.megabytes < files(to, preprocessing=False).megabytes / 3.5
    test = load_dataset("fashion-mnist").test
    assert exported.images_compared == len(test)
    net = googlenet.load(trained.model)
    opened = open_exported(exported.file, precision="fp32")
    said = opened.run(net.info.input.prepare(test.images)).argmax(1)
    assert exported.accuracy_after == pytest.approx(float((said == test.labels).double().mean()), abs=0.02)
    assert exported.agreement > 0.8


def test_int8_that_costs_too_much_is_not_kept(
    trained: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = export_module.quantize_graph

    def badly(to: Format, path: Path, target: Path, batches: list[torch.Tensor]) -> None:
        before(to, path, target, [torch.zeros_like(batch) for batch in batches])

    monkeypatch.setattr(export_module, "quantize_graph", badly)
    with pytest.raises(RunError, match="--force"):
        export(trained.model, "onnx", tmp_path / "q.onnx", int8=True)
    assert list(tmp_path.iterdir()) == []
    assert export(trained.model, "onnx", tmp_path / "q.onnx", int8=True, force=True).points_lost > 0.5


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_a_file_that_prepares_pictures_does_so_exactly_without_being_told(
    to: Format, trained: TrainingResult, files: Files
) -> None:
    net = googlenet.load(trained.model)
    pictures = torch.randint(0, 256, (2, 1, 400, 500), dtype=torch.uint8).cumsum(3).remainder(256).to(torch.uint8)
    with torch.no_grad():
        expected = net(net.info.input.prepare(pictures)).softmax(1)
    file = files(to, preprocessing=True).file
    found = open_exported(file, backend="openvino").run(pictures)  # bf16 places pixels up to two apart
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("to", ["onnx", "openvino", "torch-export"])
def test_the_middle_is_cut_out_inside_the_file_too(to: Format, tmp_path: Path) -> None:
    """Of pictures that are wide, tall and square; `export` itself refuses a file that differs."""
    for number, size in enumerate(((90, 50), (41, 70), (64, 64))):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    net, info = described(InputSpec(3, 32, (0.5,) * 3, (0.5,) * 3, resize="crop", crop_pct=0.875))
    save(net, info, tmp_path / "m.safetensors")
    exported = export(tmp_path / "m.safetensors", to, preprocessing=True, calibration=tmp_path)
    assert exported.images_compared == 3


def test_a_folder_of_pictures_calibrates_and_verifies(trained: TrainingResult, tmp_path: Path) -> None:
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (30 + number, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    exported = export(trained.model, "onnx", tmp_path / "x.onnx", calibration=tmp_path, preprocessing=True)
    assert (exported.images_compared, exported.accuracy_before) == (4, None)
    assert exported.largest_difference < 1e-4


def test_an_exported_file_predicts_as_the_model_does(trained: TrainingResult, files: Files, tmp_path: Path) -> None:
    file = tmp_path / "shoe.png"
    Image.fromarray(load_dataset("fashion-mnist").test.images[0, 0].numpy()).save(file)
    ours = next(Predictor(trained.model, precision="fp32").predict([file]))
    for preprocessing in (False, True):
        exported = files("onnx", preprocessing=preprocessing).file
        for engine in ("openvino", "onnxruntime"):
            theirs = next(Predictor(exported, backend=backend, precision="fp32").predict([file]))
            assert theirs.classes == ours.classes
            assert theirs.probabilities == pytest.approx(ours.probabilities, abs=1e-4)
    for engine in ("openvino", "onnxruntime"):
        theirs = next(Predictor(trained.model, backend=backend, precision="fp32").predict([file]))
        assert theirs.probabilities == pytest.approx(ours.probabilities, abs=1e-4)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_threads_may_share_an_engine(backend: BackendName, trained: TrainingResult) -> None:
    images = load_dataset("fashion-mnist").test.images[:64]
    net = googlenet.load(trained.model)
    run, batches = network_backend(net, backend, precision="fp32"), net.info.input.prepare(images).split(4)
    alone = [run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(run, batches), alone, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_exporting_in_threads_leaves_what_is_said_as_it_was() -> None:
    before = list(warnings.filters), logging.root.manager.disable

    def mute(number: int) -> None:
        with quietly():
            time.sleep(0.002 * number)  # or else none would begin before, and end after, another

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(mute, (4, 3, 2, 1)))
    assert (list(warnings.filters), logging.root.manager.disable) == before


def test_calls_that_will_not_do(trained: TrainingResult, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\*\.xml"):
        export(trained.model, "openvino", tmp_path / "x.onnx")
    with pytest.raises(UserError, match="int8 is for"):
        export(trained.model, "torch-export", tmp_path / "x.pt2", int8=True)
    net, info = described(InputSpec(1, 32, (0.0,), (1.0,)))
    save(net, info, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="--calibration"):
        export(tmp_path / "m.safetensors", "onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    for engine in ("openvino", "onnxruntime"):
        with pytest.raises(UserError, match=r"bad\.onnx"):
            open_exported(tmp_path / "bad.onnx", backend=backend)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no file"):
        open_exported(tmp_path / "none.xml")
    with pytest.raises(UserError, match="OpenVINO computes in"):
        Predictor(trained.model, backend="openvino", precision="fp16")


def test_the_description_travels(trained: TrainingResult, files: Files) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(files("onnx", preprocessing=True).file)
    said = json.loads(session.get_modelmeta().custom_metadata_map["googlenet"])
    assert said["classes"] == list(googlenet.load(trained.model).info.classes)
    assert said["exported"] == {"preprocessing": True, "int8": False}


def test_what_an_engine_does_not_have_is_refused(trained: TrainingResult, files: Files) -> None:
    file = files("torch-export", preprocessing=False).file
    for given_settings, message in (
        ({"precision": "bf16"}, "leave --precision out"),
        ({"device": "cuda"}, "torch runs on the CPU here"),
        ({"backend": "onnxruntime"}, "does not run a .pt2 file"),
    ):
        with pytest.raises(UserError, match=message):
            Predictor(file, **given_settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="leave --precision out"):
        Predictor(trained.model, backend="onnxruntime", precision="bf16")
    with pytest.raises(UserError, match="compiled runs on the CPU here"):
        Predictor(trained.model, backend="compiled", device="cuda")
    with pytest.raises(UserError, match=r"compiled does not run a \.pt2 file"):
        Predictor(file, backend="compiled")
