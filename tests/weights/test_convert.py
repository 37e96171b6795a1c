from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import googlenet
from googlenet import InputSpec, ModelInfo, UserError, create_model
from googlenet.data.fashion_mnist import CLASSES
from googlenet.weights.convert import detect_variant, import_to_file
from tests.model.test_torchvision import published_weights, torchvision_forward
from tests.model.tutorial_reference import reference_network


def test_weights_of_the_tutorials_code_give_its_outputs(tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = reference_network().eval()
    torch.save(theirs.state_dict(), tmp_path / "tutorial.pt")
    ours = googlenet.import_weights(tmp_path / "tutorial.pt")
    assert ours.architecture.variant == "tutorial"
    assert ours.info.classes == CLASSES
    assert (ours.info.input.size, ours.info.input.mean, ours.info.input.std) == (224, (0.0,), (1.0,))
    x = torch.rand(2, 1, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("auxiliary", [True, False])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_torchvision_give_its_outputs(auxiliary: bool, suffix: str, tmp_path: Path) -> None:
    weights = published_weights(auxiliary=auxiliary)
    path = tmp_path / f"googlenet{suffix}"
    if suffix == ".pth":
        torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, path)
    else:
        save_file(weights, path)
    net = googlenet.import_weights(path)
    assert (net.architecture.variant, net.architecture.auxiliary) == ("torchvision", auxiliary)
    assert len(net.info.classes) == 1000
    images = torch.randint(0, 256, (1, 3, 300, 260), dtype=torch.uint8)
    x = net.info.input.prepare(images)
    assert x.shape == (1, 3, 224, 224)
    assert x.min() >= -1
    assert x.max() <= 1
    with torch.no_grad():
        torch.testing.assert_close(net(x), torchvision_forward(weights, x), rtol=1e-5, atol=1e-5)


def test_torchvisions_input_is_pixels_from_minus_1_to_1() -> None:
    """ImageNet's normalization, then `transform_input`, is the mean and standard deviation of the input spec."""
    pixels = torch.rand(3)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    transformed = (pixels - mean) / std * (std / 0.5) + (mean - 0.5) / 0.5
    torch.testing.assert_close(transformed, (pixels - 0.5) / 0.5)


@pytest.mark.parametrize(
    ("variant", "stem_stride"), [("bn", None), ("bn", 1), ("paper", None), ("tutorial", None), ("torchvision", None)]
)
def test_our_own_state_dicts(variant: str, stem_stride: int | None, tmp_path: Path) -> None:
    net = create_model(variant, num_classes=4, **({"stem_stride": stem_stride} if stem_stride else {})).eval()
    assert detect_variant(net.state_dict()) == variant
    torch.save({"state_dict": net.state_dict()}, tmp_path / "own.pt")
    state = torch.get_rng_state()
    imported = googlenet.import_weights(tmp_path / "own.pt", stem_stride=stem_stride)
    assert torch.equal(torch.get_rng_state(), state)
    assert imported.architecture == net.architecture
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(imported(images), net(images))


def test_a_model_file_needs_no_import(tmp_path: Path) -> None:
    net = create_model("bn", num_classes=2)
    info = ModelInfo(net.architecture, ("a", "b"), InputSpec(3, 32, (0.5,) * 3, (0.5,) * 3))
    googlenet.save(net, info, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="--weights"):
        googlenet.import_weights(tmp_path / "model.safetensors")


def test_an_import_writes_a_model_file(tmp_path: Path) -> None:
    torch.save(create_model("bn", num_classes=2).state_dict(), tmp_path / "own.pt")
    (tmp_path / "names.txt").write_text("\ufeffcat\n\n dog \n", encoding="utf-8")
    target, _ = import_to_file(tmp_path / "own.pt", None, class_file=tmp_path / "names.txt")
    assert target == tmp_path / "own.safetensors"
    assert googlenet.load(target).info.classes == ("cat", "dog")
    with pytest.raises(UserError, match="--output"):
        import_to_file(tmp_path / "own.pt", None)
    with pytest.raises(UserError, match="--output"):
        import_to_file(tmp_path / "own.pt", tmp_path / "own.pt")
    (tmp_path / "names.txt").write_bytes(b"\xff")
    for name in ("names.txt", "none.txt"):
        with pytest.raises(UserError, match=name):
            import_to_file(tmp_path / "own.pt", tmp_path / "new.safetensors", class_file=tmp_path / name)


@pytest.mark.parametrize(
    "content", [b"", b"not weights", {"conv1.weight": torch.zeros(3)}, [1, 2, 3], {}, {"epoch": 3}]
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_without_the_weights_of_a_googlenet(content: object, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=path.name) as error:
        googlenet.import_weights(path)
    assert "\n" not in str(error.value)


def test_batch_norm_counters_are_optional(tmp_path: Path) -> None:
    weights = create_model("bn", num_classes=2).state_dict()
    torch.save({name: w for name, w in weights.items() if not name.endswith("tracked")}, tmp_path / "x.pt")
    net = googlenet.import_weights(tmp_path / "x.pt")
    assert set(net.state_dict()) == set(weights)
    assert not any(tensor.is_meta for tensor in net.state_dict().values())


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    weights = create_model("bn", num_classes=2).state_dict()
    torch.save({**weights, "inception4a.branch1.conv.weight": torch.zeros(3, 3, 1, 1)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"'bn'.*inception4a\.branch1\.conv\.weight"):
        googlenet.import_weights(tmp_path / "x.pt")
    torch.save(weights, tmp_path / "y.pt")
    with pytest.raises(UserError, match="'tutorial'"):
        googlenet.import_weights(tmp_path / "y.pt", variant="tutorial")
    with pytest.raises(UserError, match="'v9'"):
        googlenet.import_weights(tmp_path / "y.pt", variant="v9")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="2 classes"):
        googlenet.import_weights(tmp_path / "y.pt", classes=("a", "b", "c"))
    with pytest.raises(UserError, match="'a'"):
        googlenet.import_weights(tmp_path / "y.pt", classes=("a", "a"))
    with pytest.raises(UserError, match=r"z\.pt"):
        googlenet.import_weights(tmp_path / "z.pt")


def test_inception_v1_of_the_onnx_zoo(tmp_path: Path) -> None:
    """It has the names and the BGR input of BVLC's Caffe model, and tensors that are not weights."""
    import onnx

    ours = googlenet.create_model("paper", auxiliary=False, num_classes=7).eval()
    part = {
        "branch1": "1x1",
        "branch2.0": "3x3_reduce",
        "branch2.1": "3x3",
        "branch3.0": "5x5_reduce",
        "branch3.1": "5x5",
        "branch4.1": "pool_proj",
    }
    stem = {"conv1": "conv1/7x7_s2", "conv2": "conv2/3x3_reduce", "conv3": "conv2/3x3", "fc": "loss3/classifier"}
    tensors = [onnx.numpy_helper.from_array(np.array([2, 3], np.int64), "OC2_DUMMY_1")]
    for name, tensor in ours.state_dict().items():
        layer, _, kind = name.replace(".conv.", ".").rpartition(".")
        block, _, branch = layer.partition(".")
        theirs = stem.get(layer) or f"inception_{block.removeprefix('inception')}/{part[branch]}"
        values = tensor.flip(1) if name == "conv1.conv.weight" else tensor
        tensors.append(onnx.numpy_helper.from_array(values.numpy(), f"{theirs}_{kind[0]}_0"))
    graph = onnx.helper.make_graph([], "inception_v1", [], [], initializer=tensors)
    onnx.save(onnx.helper.make_model(graph), tmp_path / "inception-v1.onnx")

    net = googlenet.import_weights(tmp_path / "inception-v1.onnx")
    assert (net.architecture.variant, net.architecture.auxiliary) == ("paper", False)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(net(images), ours(images))
    white = net.info.input.prepare(torch.full((1, 3, 300, 300), 255, dtype=torch.uint8))
    assert white[0, :, 0, 0].tolist() == pytest.approx([255 - 123, 255 - 117, 255 - 104], abs=1e-3)
    (tmp_path / "bad.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="ONNX"):
        googlenet.import_weights(tmp_path / "bad.onnx")
