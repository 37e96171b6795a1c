from __future__ import annotations

import dataclasses
import errno
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

import googlenet
from googlenet import InputSpec, ModelInfo, RunError, UserError, create_model
from googlenet.model.architecture import VARIANTS
from googlenet.weights import model_file
from tests.networks import GOOGLENETS

KNOWN: dict[str, Any] = {"threshold": 1.5, "fitted_on": "validation", "images": 100, "digest": "ab"}


def saved(folder: Path, variant: str = "bn") -> Path:
    net = create_model(variant, num_classes=3, in_channels=1)
    info = ModelInfo(net.architecture, ("a", "b", "ü"), InputSpec(1, 32, (0.5,), (0.25,)), {"epochs": 1}, {"step": 5})
    googlenet.save(net, info, folder / "model.safetensors")
    return folder / "model.safetensors"


def rewrite(path: Path, change: Any) -> Path:
    """Change the metadata of a model file."""
    fields = json.loads(googlenet.load(path).info.to_json())
    change(fields)
    save_file(load_file(path), path, metadata={"googlenet": json.dumps(fields)})
    return path


@pytest.mark.parametrize("variant", GOOGLENETS)
def test_save_and_load(variant: str, tmp_path: Path) -> None:
    net = create_model(variant, num_classes=3, in_channels=1).eval()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    info = ModelInfo(net.architecture, ("a", "b", "c"), InputSpec(1, 32, (0.5,), (0.25,)), {"epochs": 1}, {"step": 5})
    googlenet.save(net, info, tmp_path / "m.safetensors")
    loaded = googlenet.load(tmp_path / "m.safetensors")
    assert loaded.info == info
    assert loaded.architecture == net.architecture
    assert not any(module.training for module in loaded.modules())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    x = torch.randn(2, 1, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), net(x), rtol=1e-5, atol=1e-5)


def test_load_draws_no_random_numbers(tmp_path: Path) -> None:
    path = saved(tmp_path)
    state = torch.get_rng_state()
    googlenet.load(path)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loaded_network_does_not_depend_on_its_file(tmp_path: Path) -> None:
    path = saved(tmp_path)
    net = googlenet.load(path)
    before = net.conv1.conv.weight.clone()
    with path.open("r+b") as file:
        file.truncate(1000)
    assert torch.equal(net.conv1.conv.weight, before)


def test_weights_have_our_state_dict_names(tmp_path: Path) -> None:
    assert set(load_file(saved(tmp_path))) == set(create_model("bn").state_dict())


def test_a_run_folder_stands_for_its_model(tmp_path: Path) -> None:
    saved(tmp_path)
    assert googlenet.load(str(tmp_path)).info.classes == ("a", "b", "ü")


def test_others_may_read_a_model_file_as_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    assert saved(tmp_path).stat().st_mode == (tmp_path / "other").stat().st_mode


def test_save_refuses_the_info_of_another_network(tmp_path: Path) -> None:
    net = googlenet.load(saved(tmp_path))
    net.reset_classifier(5)
    with pytest.raises(UserError, match="ModelInfo"):
        googlenet.save(net, net.info, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="ModelInfo"):
        model_file.model_info(net)


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_one_clear_line(fraction: float, tmp_path: Path) -> None:
    path = saved(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(UserError, match=r"model\.safetensors") as error:
        googlenet.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda fields: fields.update(format_version=2), "version 2"),
        (lambda fields: fields.pop("classes"), "classes"),
        (lambda fields: fields["architecture"].update(num_classes=4), "4"),
        (lambda fields: fields["architecture"].update(branches=4), "branches"),
        (lambda fields: fields["architecture"].update(variant="bn", in_channels=0), "in_channels"),
        (lambda fields: fields["architecture"].update(stem_stride=0), "stem_stride"),
        (lambda fields: fields["architecture"].update(third_branch_kernel=3), "branch3"),
        (lambda fields: fields["architecture"].update(normalization="none"), r"\.bn\.|bias"),
        (lambda fields: fields["architecture"].update(auxiliary=True), "aux1"),
        (lambda fields: fields.update(input=None), "None"),
        (lambda fields: fields["classes"].pop(), "2"),
        *((lambda fields, t=t: fields.update(temperature=t), "temperature") for t in (0, -1.5, "1.5", None, True)),
        *((lambda fields, t=t: fields.update(temperature=t), "temperature") for t in (float("nan"), float("inf"))),
    ],
)
def test_damaged_metadata_is_one_clear_line(change: Any, name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=name) as error:
        googlenet.load(rewrite(saved(tmp_path), change))
    assert "model.safetensors" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda fields: fields["classes"].__setitem__(0, "\x1b[31m"), "class name"),
        (lambda fields: fields["classes"].__setitem__(0, 3), "class name"),
        (lambda fields: fields["architecture"].update(stem_stride=True), "stem_stride"),
        (lambda fields: fields["architecture"].update(dropout="a"), "dropout"),
        (lambda fields: fields["architecture"].update(dropout=1e300), "dropout"),
        (lambda fields: fields["architecture"].update(lrn=[5, 1e-4, 0.75]), "lrn"),
        (lambda fields: fields["architecture"].update(lrn="5555"), "lrn"),
        (lambda fields: fields["input"].update(size=10**9), "size"),
        (lambda fields: fields["input"].update(size=4097), "size"),
        (lambda fields: fields["input"].update(size=0), "size"),
        (lambda fields: fields["input"].update(size=28.0), "size"),
        (lambda fields: fields["input"].update(channels=2, mean=[0, 0], std=[1, 1]), "in_channels"),
        (lambda fields: fields["input"].update(mean=[0.5, 0.5]), "mean"),
        (lambda fields: fields["input"].update(mean=[float("nan")]), "mean"),
        (lambda fields: fields["input"].update(mean=[10**400]), "mean"),
        (lambda fields: fields["input"].update(std=[0]), "std"),
        (lambda fields: fields["input"].update(std=[-1.0]), "std"),
        (lambda fields: fields["input"].update(resize="tile"), "tile"),
        (lambda fields: fields["input"].update(crop_pct=0.01), "0.01"),
        (lambda fields: fields["input"].update(crop_pct=1.5), "1.5"),
        (lambda fields: fields.update(recipe=[]), "recipe"),
        (lambda fields: fields.update(metrics="a"), "metrics"),
        (lambda fields: fields.update(data_digest=3), "data_digest"),
        (lambda fields: fields.update(recipe={"data": ["a"]}), "data"),
        (lambda fields: fields.update(recipe={"seed": True}), "seed"),
        (lambda fields: fields.update(metrics={"test": {"loss": 1.0}}), "test"),
        (lambda fields: fields.update(metrics={"test": {"loss": float("nan"), "accuracy": 1.0}}), "test"),
        (lambda fields: fields.update(metrics={"validation": 3}), "validation"),
        *(
            (lambda fields, c=c: fields.update(known={**KNOWN, **c}), "known")
            for c in ({"threshold": True}, {"threshold": 10**400}, {"images": "a"}, {"digest": 1}, {"fitted_on": None})
        ),
    ],
)
def test_odd_values_in_the_description(change: Any, name: str) -> None:
    architecture = dataclasses.replace(VARIANTS["bn"], num_classes=3, in_channels=1)
    info = ModelInfo(architecture, ("a", "b", "ü"), InputSpec(1, 32, (0.5,), (0.25,)))
    fields = json.loads(info.to_json())
    assert ModelInfo.from_json(json.dumps(fields)) == info
    change(fields)
    with pytest.raises(ValueError, match=name):
        ModelInfo.from_json(json.dumps(fields))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("conv1.conv.weight", torch.zeros(64, 1, 5, 5)),
        ("conv1.conv.weight", torch.zeros(64, 1, 7, 7, dtype=torch.int64)),
        ("conv1.bn.num_batches_tracked", torch.zeros(())),
        ("conv1.bn.running_mean", None),
        ("conv9.conv.weight", torch.zeros(1)),
        ("fc.bias", None),
    ],
)
def test_weights_that_do_not_fit_are_named(name: str, tensor: torch.Tensor | None, tmp_path: Path) -> None:
    path = saved(tmp_path)
    info, weights = googlenet.load(path).info, load_file(path)
    weights = {key: value for key, value in {**weights, name: tensor}.items() if value is not None}
    save_file(weights, path, metadata={"googlenet": info.to_json()})
    with pytest.raises(UserError, match=name):
        googlenet.load(path)


def test_sizes_and_nesting_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    monkeypatch.setattr(model_file, "_MAX_HEADER", length)
    googlenet.load(path)
    monkeypatch.setattr(model_file, "_MAX_HEADER", length - 1)
    with pytest.raises(UserError, match="header"):
        googlenet.load(path)
    monkeypatch.undo()
    save_file(load_file(path), path, metadata={"googlenet": "[" * 100_000})
    with pytest.raises(UserError, match="nested"):
        googlenet.load(path)


def test_too_little_memory_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(safetensors, "safe_open", fail)
    with pytest.raises(RunError, match="memory"):
        googlenet.load(saved(tmp_path))


def test_the_known_rule_of_a_file(tmp_path: Path) -> None:
    net = googlenet.load(rewrite(saved(tmp_path), lambda fields: fields.update(known=KNOWN)))
    assert net.info.known == model_file.KnownRule(**KNOWN)
    assert net.info.known.accepts(torch.tensor([1.0, 1.5, 2.0])).tolist() == [False, True, True]
    logits = torch.tensor([[0.0, 0.0]])
    assert model_file.KnownRule.scores(logits).tolist() == pytest.approx([math.log(2)])


def test_a_network_saved_in_half_precision_is_loaded_in_float32(tmp_path: Path) -> None:
    path = saved(tmp_path)
    net = googlenet.load(path)
    googlenet.save(net.bfloat16(), net.info, path)
    loaded = googlenet.load(path)
    assert loaded.fc.weight.dtype == torch.float32
    assert torch.equal(loaded.fc.weight, net.fc.weight.float())


def test_files_of_version_0_1_load(tmp_path: Path) -> None:
    """Their architecture has three fields more, their input `crop_share`, and their recipe other names."""
    recipe = {"data": "fashion-mnist", "seed": 3, "colour": 0.4, "ema": 0.999, "blocks": 9, "schedule": "one-cycle"}

    def as_before(fields: dict[str, Any]) -> None:
        fields["architecture"].update(blocks=9, head_grid=1, head_width=0)
        fields["input"]["crop_share"] = fields["input"].pop("crop_pct")
        fields["recipe"] = recipe
        del fields["data_digest"]

    path = saved(tmp_path)
    new = googlenet.load(path)
    old = googlenet.load(rewrite(path, as_before))
    assert old.info.recipe == recipe
    assert (old.info.architecture, old.info.input) == (new.info.architecture, new.info.input)
    assert torch.equal(old.fc.weight, new.fc.weight)
    for name, value in (("blocks", 5), ("head_grid", 2), ("head_width", 64)):
        other = rewrite(path, lambda fields, change={name: value}: fields["architecture"].update(change))
        with pytest.raises(UserError, match=name):
            googlenet.load(other)
        saved(tmp_path)


VERSION_0_1 = Path(__file__).with_name("version_0_1.json")


def test_a_file_written_by_version_0_1_loads(tmp_path: Path) -> None:
    """The metadata is that of a model trained with the old package; the weights are fresh."""
    text = VERSION_0_1.read_text(encoding="utf-8")
    fields = json.loads(text)
    weights = create_model("bn", num_classes=10, in_channels=1).state_dict()
    path = tmp_path / "model.safetensors"
    save_file(weights, path, metadata={"format": "pt", "googlenet": text})
    net = googlenet.load(path)
    assert net.info.recipe == fields["recipe"] and net.info.metrics == fields["metrics"]
    assert net.info.classes[9] == "Ankle boot"
    assert torch.equal(net.fc.weight, weights["fc.weight"])
    googlenet.save(net, net.info, path)
    assert googlenet.load(path).info == net.info


def test_the_temperature_is_saved_and_1_if_the_file_has_none(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert googlenet.load(path).info.temperature == 1
    net = googlenet.load(rewrite(path, lambda fields: fields.update(temperature=1.75)))
    assert net.info.temperature == 1.75
    googlenet.save(net, net.info, path)
    assert googlenet.load(path).info.temperature == 1.75
    assert googlenet.load(rewrite(path, lambda fields: fields.pop("temperature"))).info.temperature == 1


def test_files_that_are_not_model_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.safetensors"):
        googlenet.load(tmp_path / "missing.safetensors")
    plain = tmp_path / "plain.safetensors"
    save_file({"weight": torch.zeros(3)}, plain)
    with pytest.raises(UserError, match="googlenet import"):
        googlenet.load(plain)
    assert list(model_file.read_weights(plain)) == ["weight"]


@pytest.mark.parametrize("device", ["tpu", "cuda:99"])
def test_load_to_a_device_that_does_not_exist(device: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=device):
        googlenet.load(saved(tmp_path), device)


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


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()

    def full(target: Path, content: bytes) -> None:
        with target.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match=r"model\.safetensors"):
        saved(tmp_path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file"):
        saved(tmp_path / "file")
