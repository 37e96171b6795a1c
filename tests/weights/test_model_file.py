from __future__ import annotations

import errno
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import googlenet
from googlenet import RunError, UserError, create_model
from googlenet.artifact import model_file
from googlenet.weights.model_file import ModelInfo
from googlenet.data.transforms import InputSpec
from googlenet.model.architecture import VARIANTS


def saved(folder: Path, variant: str = "bn", **changes: Any) -> Path:
    net = create_model(variant, num_classes=3, in_channels=1, **changes)
    info = ModelInfo(net.architecture, ("a", "b", "ü"), InputSpec(1, 32, (0.5,), (0.25,)), {"epochs": 1}, {"step": 5})
    googlenet.save(net, info, folder / "model.safetensors")
    net.reset_classifier(5)
    with pytest.raises(UserError, match="make a ModelInfo for it"):
        googlenet.save(net, info, folder / "other.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_model_comes_back_as_it_went(variant: str, tmp_path: Path) -> None:
    net = create_model(variant, num_classes=3, in_channels=1).eval()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    info = ModelInfo(net.architecture, ("a", "b", "c"), InputSpec(1, 32, (0.5,), (0.25,)), {"epochs": 1}, {"step": 5})
    googlenet.save(net, info, tmp_path / "m.safetensors")
    back = googlenet.load(tmp_path / "m.safetensors")
    assert back.info == info
    assert not back.training
    x = torch.randn(2, 1, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(back(x), net(x), rtol=1e-5, atol=1e-5)


def test_weights_lie_under_their_canonical_names(tmp_path: Path) -> None:
    assert set(load_file(saved(tmp_path))) == set(create_model("bn").state_dict())


def test_a_run_folder_serves_for_its_model(tmp_path: Path) -> None:
    saved(tmp_path)
    assert googlenet.load(tmp_path).info.classes == ("a", "b", "ü")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_one_clear_line(share: float, tmp_path: Path) -> None:
    path = saved(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="no whole model file") as raised:
        googlenet.load(path)
    assert "\n" not in str(raised.value)


def rewritten(path: Path, change: Any) -> Path:
    described = json.loads(model_file.read(path)[1].to_json())
    change(described)
    save_file(load_file(path), path, metadata={"googlenet": json.dumps(described)})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.update(format_version=2), "format version 2; this googlenet reads version 1"),
        (lambda fields: fields.pop("classes"), "damaged"),
        (lambda fields: fields["architecture"].update(num_classes=4), "damaged"),
        (lambda fields: fields["architecture"].update(branches=4), "unknown architecture field 'branches'"),
        (lambda fields: fields["architecture"].update(variant="bn", in_channels=0), "at least 1 input channel"),
        (lambda fields: fields.update(input=None), "damaged"),
        (lambda fields: fields["classes"].pop(), "2 class names for 3 classes"),
    ],
)
def test_metadata_that_will_not_do(change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        googlenet.load(rewritten(saved(tmp_path), change))


def test_the_temperature_travels_and_a_file_from_before_has_none(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert googlenet.load(path).info.temperature == 1
    rewritten(path, lambda fields: fields.update(temperature=1.75))
    net = googlenet.load(path)
    assert net.info.temperature == 1.75
    googlenet.save(net, net.info, path)
    assert googlenet.load(path).info.temperature == 1.75
    assert googlenet.load(rewritten(path, lambda fields: fields.pop("temperature"))).info.temperature == 1


@pytest.mark.parametrize("value", [0, -1.5, float("nan"), float("inf"), "1.5", None, True])
def test_a_temperature_that_will_not_do(value: Any, tmp_path: Path) -> None:
    path = rewritten(saved(tmp_path), lambda fields: fields.update(temperature=value))
    with pytest.raises(UserError, match="damaged: temperature is a positive number"):
        googlenet.load(path)


def test_files_that_are_no_model_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no model file"):
        googlenet.load(tmp_path / "missing.safetensors")
    plain = tmp_path / "plain.safetensors"
    save_file({"weight": torch.zeros(3)}, plain)
    with pytest.raises(UserError, match="googlenet import"):
        googlenet.load(plain)


class Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_pickle_that_would_run_code_is_refused(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"evil{suffix}"
    path.write_bytes(pickle.dumps(Payload()))
    torch.save(Payload(), tmp_path / "evil.pth")
    for read, file in (
        (googlenet.load, path),
        (googlenet.import_weights, path),
        (googlenet.import_weights, "evil.pth"),
    ):
        with pytest.raises(UserError):
            read(file)  # type: ignore[operator]
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()

    def full(weights: object, target: Path, metadata: object) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model_file, "save_file", full)
    with pytest.raises(RunError, match="No space left on device"):
        saved(tmp_path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        saved(tmp_path / "file")
