"""Files as people have them: checkpoints of training scripts, prefixes of wrappers, damaged downloads."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

import googlenet
from googlenet import UserError, create_model
from googlenet.weights.convert import _recognize
from googlenet.weights.readers import read_tensors
from googlenet.weights.sources import INCEPTION5H, MINDCV, OURS
from tests.weights.references import frozen_graph, message, mindspore_checkpoint

Weights = dict[str, Tensor]
KEY = "inception3a.branch1.conv.weight"


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return create_model("torchvision", num_classes=2, auxiliary=False).eval()


def _prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def _twice(weights: Weights) -> Weights:
    return {name: 2 * tensor for name, tensor in weights.items()}


@pytest.mark.parametrize("use_ema", [True, False])
@pytest.mark.parametrize("script", ["torchvision", "timm"])
def test_checkpoints_of_training_scripts(script: str, use_ema: bool, net: nn.Module, tmp_path: Path) -> None:
    """The layout of vision/references/classification/train.py and of timm.utils.CheckpointSaver."""
    weights, args = net.state_dict(), argparse.Namespace(model="googlenet", lr=0.1, output_dir=None, opt_betas=[0.9])
    if script == "torchvision":
        averaged = {"n_averaged": torch.tensor(5), **_prefixed("module.", _twice(weights))}
        checkpoint = {"model": weights, "optimizer": {"state": {}}, "epoch": 3, "args": args, "model_ema": averaged}
    else:
        checkpoint = {"epoch": 3, "arch": "googlenet", "state_dict": _prefixed("module._orig_mod.", weights)}
        checkpoint |= {"args": args, "version": 2, "metric": 71.2, "state_dict_ema": _twice(weights)}
    torch.save(checkpoint, tmp_path / "checkpoint.pth.tar")
    imported = googlenet.import_weights(tmp_path / "checkpoint.pth.tar", use_ema=use_ema)
    expected = _twice(weights) if use_ema else weights
    assert all(torch.equal(tensor, expected[name]) for name, tensor in imported.state_dict().items())


def test_a_lightning_checkpoint_of_a_compiled_network(net: nn.Module, tmp_path: Path) -> None:
    """`.ckpt` is a suffix of Lightning's too; its content tells it from MindSpore's."""
    weights = _prefixed("model._orig_mod.", net.state_dict())
    checkpoint = {"state_dict": weights, "pytorch-lightning_version": "2.5.0", "hyper_parameters": {"lr": 1}}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    imported = googlenet.import_weights(tmp_path / "last.ckpt")
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in imported.state_dict().items())


@given(st.lists(st.sampled_from(["_orig_mod.", "module.", "model.", "net.", "backbone."]), max_size=4), st.booleans())
def test_any_combination_of_prefixes(prefixes: list[str], compiled_block: bool) -> None:
    block = "inception3a._orig_mod." if compiled_block else "inception3a."
    weights = {KEY: torch.tensor(1.0), "conv1.conv.weight": torch.tensor(2.0)}
    prefixed = _prefixed("".join(prefixes), {name.replace("inception3a.", block): w for name, w in weights.items()})
    assert _recognize(Path("x.pt"), prefixed) == (OURS, weights)


@pytest.mark.parametrize(
    ("names", "mentioned"),
    [
        (("layer1.0.conv1.weight",), ("layer1.0.conv1.weight", KEY)),
        ((f"model.{KEY}", "loss.weight"), ("'loss.weight'", "'model.'")),
        ((f"student.{KEY}", f"teacher.{KEY}"), ("student.", "teacher.")),
        ((f"model.{KEY}", "inception3a.b1.conv.weight"), (f"model.{KEY}", "inception3a.b1.conv.weight")),
    ],
)
def test_names_that_are_not_one_network(names: tuple[str, ...], mentioned: tuple[str, ...], tmp_path: Path) -> None:
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt") as error:
        googlenet.import_weights(tmp_path / "x.pt")
    assert all(name in str(error.value) for name in mentioned)


def test_an_unknown_weight_is_named(net: nn.Module, tmp_path: Path) -> None:
    torch.save(_prefixed("module.", {**net.state_dict(), "criterion.weight": torch.zeros(2)}), tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"criterion\.weight"):
        googlenet.import_weights(tmp_path / "x.pt")


def test_checkpoints_that_no_script_writes(net: nn.Module, tmp_path: Path) -> None:
    checkpoint: dict[str, object] = {}
    checkpoint["model"] = checkpoint
    weights = net.state_dict()
    for content in (checkpoint, weights | {"fc.weight": weights["fc.weight"].to_sparse()}):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(UserError, match=r"x\.pt"):
            googlenet.import_weights(tmp_path / "x.pt")


FILES: dict[str, Callable[[Weights], bytes]] = {
    "x.ckpt": mindspore_checkpoint,
    "x.pb": frozen_graph,
    "x.onnx": lambda weights: message(
        (
            7,
            message(
                *((5, message((1, 2), (2, 1), (8, name), (9, w.numpy().tobytes()))) for name, w in weights.items())
            ),
        )
    ),
}


@pytest.mark.parametrize("name", FILES)
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_files_are_one_clear_line(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    weights = {"conv1.conv.weight": torch.rand(2), "b": torch.rand(2)}
    path = tmp_path_factory.mktemp("damaged") / name
    content = FILES[name](weights)
    path.write_bytes(content)
    assert torch.equal(read_tensors(path)["b"], weights["b"])
    position = data.draw(st.integers(1, len(content) - 1))
    damage = data.draw(st.binary(max_size=4))
    path.write_bytes(content[:position] + damage + content[position + len(damage) + 1 :])
    try:
        read_tensors(path)
    except UserError as error:
        assert name in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("name", [*FILES, "x.pth", "x.safetensors"])
def test_a_truncated_file(name: str, net: nn.Module, tmp_path: Path) -> None:
    if name in FILES:
        (tmp_path / name).write_bytes(FILES[name]({"b": torch.rand(100)}))
    elif name == "x.pth":
        torch.save({"b": torch.rand(100)}, tmp_path / name)
    else:
        from safetensors.torch import save_file

        save_file({"b": torch.rand(100)}, tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-130])
    with pytest.raises(UserError, match=name) as error:
        read_tensors(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [*FILES, "x.pth", "x.safetensors"])
@pytest.mark.parametrize(
    ("content", "mentioned"),
    [
        (b"\n<!DOCTYPE html>\n<html><title>404</title></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ],
)
def test_what_arrived_is_not_the_file(name: str, content: bytes, mentioned: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as error:
        read_tensors(tmp_path / name)
    assert mentioned in str(error.value)


def test_what_a_pickle_would_run_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "optimizer": nn.Linear(2, 2)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt.*torch\.nn\.modules\.linear\.Linear"):
        read_tensors(tmp_path / "x.pt")


def test_constants_of_equal_values_are_written_once(tmp_path: Path) -> None:
    """TensorFlow shortens them, and leaves attributes with their default value out."""
    sides = message((2, message((1, 3))), (2, message((1, 2))))
    value = message((8, message((1, 1), (2, sides), (5, 0.5))))
    nodes = [
        (1, message((1, "b"), (2, "Const"), (5, message((1, "value"), (2, value))))),
        (1, message((1, "norm"), (2, "LRN"))),
    ]
    (tmp_path / "x.pb").write_bytes(message(*nodes))
    tensors = read_tensors(tmp_path / "x.pb")
    assert torch.equal(tensors["b"], torch.full((3, 2), 0.5))
    assert {name: float(value) for name, value in tensors.items() if name != "b"} == {
        "norm/depth_radius": 5, "norm/bias": 1, "norm/alpha": 1, "norm/beta": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(("source", "name"), [(MINDCV, "x.ckpt"), (INCEPTION5H, "x.pb")])
def test_another_network_of_the_same_program(source: object, name: str, tmp_path: Path) -> None:
    """A file with one familiar name is missing the others."""
    key = MINDCV.key if source is MINDCV else INCEPTION5H.key
    (tmp_path / name).write_bytes(FILES[name]({key: torch.rand(1, 1, 1, 1), "other": torch.rand(2)}))
    with pytest.raises(UserError, match=name) as error:
        googlenet.import_weights(tmp_path / name)
    assert "\n" not in str(error.value)


def test_what_weights_do_not_show(net: nn.Module, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "x.pt")
    spec = googlenet.import_weights(tmp_path / "x.pt").info.input
    assert (spec.mean, spec.std, spec.size, spec.resize, spec.crop_pct) == ((0.5,) * 3, (0.5,) * 3, 224, "crop", 0.875)
    changed = googlenet.import_weights(tmp_path / "x.pt", mean=(0.1, 0.2, 0.3), std=0.4, size=96, resize="stretch")
    assert changed.info.input == googlenet.InputSpec(3, 96, (0.1, 0.2, 0.3), (0.4,) * 3)
    for wrong, mentioned in (
        ({"mean": (0.1, 0.2)}, "mean"),
        ({"mean": (123.7,)}, "255"),
        ({"std": (0.0,)}, "std"),
        ({"std": (58.4,)}, "255"),
        ({"size": 3}, "3x3"),
        ({"resize": "shrink"}, "stretch"),
    ):
        with pytest.raises(UserError, match=mentioned):
            googlenet.import_weights(tmp_path / "x.pt", **wrong)  # type: ignore[arg-type]
