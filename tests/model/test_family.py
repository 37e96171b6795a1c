"""Versions 2 to 4: what all tests of GoogLeNet check of version 1, mostly without computing."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

import googlenet
from googlenet import GoogLeNet, GoogLeNetOutput, UserError, ablate, create_model
from googlenet.explanation.draw import draw
from googlenet.explanation.explain import explain
from googlenet.inference.predictor import Predictor
from googlenet.model import fuse
from googlenet.model.architecture import VARIANTS
from googlenet.model.features import FeatureNet, find_block, levels
from googlenet.model.fuse import folded, fused
from googlenet.model.tables import Block, Conv, Pool, channels_after
from tests.conftest import TINY
from tests.networks import GOOGLENETS, thin, with_info

LATER = [variant for variant in VARIANTS if variant not in GOOGLENETS]


def shapes_only(variant: str, **changes: Any) -> GoogLeNet:
    """A network that computes shapes."""
    with torch.device("meta"):
        return create_model(variant, initialization="default", **changes)


@pytest.fixture(scope="module")
def v3() -> GoogLeNet:
    """Inception v3 for one channel and three classes, with its head. It is shared: tests must not change it."""
    return create_model("v3", initialization="default", num_classes=3, in_channels=1)


@pytest.mark.parametrize(
    ("variant", "changes", "parameters"),
    [
        # With a bias in each of the convolutions, 10,016 in all, as pretrainedmodels has them: 11,295,240
        ("v2", {}, 11_295_240 - 10_016),
        ("v3", {}, 27_161_264),
        ("v3", {"auxiliary": False}, 23_834_568),
        ("v4", {}, 42_679_816),
    ],
)
def test_parameters_are_the_published_ones(variant: str, changes: dict[str, bool], parameters: int) -> None:
    net = shapes_only(variant, **changes)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_the_rows_follow_each_other(variant: str) -> None:
    architecture = VARIANTS[variant]
    channels, names_of_branches = 3, set(architecture.branch_names)
    for name, layer in architecture.layers.items():
        if name.startswith("inception"):
            assert layer.in_channels == channels
            assert set(layer.branches) <= names_of_branches
        channels = channels_after(layer, channels)
    assert channels == architecture.num_features == architecture.blocks[-1].out_channels
    names = [block.name for block in architecture.blocks]
    assert len(set(names)) == len(names)


def layer_of_torch(step: Conv | Pool, x: Tensor) -> Tensor:
    """The step for one channel: (1, 1, H, W) -> (1, 1, H', W')."""
    if isinstance(step, Conv):
        sides = step.sides
        borders = [side // 2 if step.padding == "half" else 0 for side in sides]
        return torch.nn.functional.conv2d(x, torch.zeros(1, 1, *sides), None, step.stride, borders)
    padding = step.kernel // 2 if step.border == "padded" else 0
    return torch.nn.functional.max_pool2d(x, step.kernel, step.stride, padding, ceil_mode=step.border == "ceil")


@settings(max_examples=25, deadline=None)
@given(variant=st.sampled_from(list(VARIANTS)), size=st.integers(30, 120), stride=st.integers(1, 2))
def test_sizes_are_those_of_torch(variant: str, size: int, stride: int) -> None:
    architecture = dataclasses.replace(VARIANTS[variant], stem_stride=stride)
    sizes, x = architecture.spatial_sizes(size), torch.zeros(1, 1, size, size)
    assert architecture.fits(size) == (size >= architecture.smallest_input())
    for name, layer in architecture.layers.items():
        if sizes[name] < 1:
            break
        branches = layer.branches.values() if isinstance(layer, Block) else [(layer,)]
        outputs = []
        for branch in branches:
            y = x
            for step in branch:
                y = layer_of_torch(step, y) if isinstance(step, Conv | Pool) else y
            outputs.append(y)
        assert {output.shape[2:] for output in outputs} == {(sizes[name], sizes[name])}
        x = outputs[0]


@pytest.mark.parametrize(("variant", "smallest"), [("v2", (1, 1)), ("v3", (75, 39)), ("v4", (75, 39))])
def test_the_smallest_images(variant: str, smallest: tuple[int, int]) -> None:
    nets = [shapes_only(variant, stem_stride=stride) for stride in (2, 1)]
    assert tuple(net.architecture.smallest_input() for net in nets) == smallest
    for net, size in zip(nets, smallest, strict=True):
        net.check_size(size, size + 1)
        with pytest.raises(UserError, match=f"{size}x{size}"):
            net.check_size(size, size - 1)


def test_the_head_of_v3_is_used_in_training_only_and_reads_6e(v3: GoogLeNet) -> None:
    net, x = copy.deepcopy(v3).train(), torch.rand(2, 1, 75, 75)
    output = net(x)
    assert isinstance(output, GoogLeNetOutput) and output.aux2 is None
    assert [tuple(output.logits.shape), tuple(output.aux1.shape)] == [(2, 3)] * 2
    output.aux1.sum().backward()
    assert net.inception6e.branch1.conv.weight.grad is not None
    assert net.inception7a.branch1[0].conv.weight.grad is None
    net.reset_classifier(5)
    assert [layer.out_features for layer in net.classifiers()] == [5, 5]
    net.reset_classifier(0)
    with torch.no_grad():
        assert net.eval()(x).shape == (2, 2048)


@pytest.mark.parametrize(
    ("variant", "channels"),
    [("v2", [64, 192, 320, 608, 1024]), ("v3", [64, 192, 288, 768, 2048]), ("v4", [64, 192, 384, 1024, 1536])],
)
def test_the_five_levels_of_features(variant: str, channels: list[int]) -> None:
    info = levels(VARIANTS[variant])
    assert [level.num_chs for level in info] == channels and [level.reduction for level in info] == [2, 4, 8, 16, 32]


def test_feature_maps(v3: GoogLeNet) -> None:
    net = FeatureNet(v3)
    with torch.no_grad():
        maps = net(torch.rand(1, 1, 107, 75))
    assert [each.shape[1] for each in maps] == net.feature_info.channels()
    assert [tuple(each.shape[2:]) for each in maps] == [(51, 35), (23, 15), (11, 7), (5, 3), (2, 1)]


def merged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the products that replace several convolutions."""
    calls, real = [], fuse.pointwise

    def counted(x: Tensor, convolutions: Any) -> Tensor:
        calls.extend([1] if len(convolutions) > 1 else [])
        return real(x, convolutions)

    monkeypatch.setattr(fuse, "pointwise", counted)
    return calls


def test_fused_and_folded_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    keep, options = ("5b", "6a", "6b"), {"auxiliary": False, "dropout": 0.0, "initialization": "default"}
    net, calls, results = thin(3, 3, "v3", keep, **options).train(), merged(monkeypatch), []
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.rand(2, 3, 75, 75).contiguous(memory_format=torch.channels_last)
    for is_fused in (False, True):
        twin = copy.deepcopy(net)
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            if is_fused:
                stack.enter_context(fused(twin, merge=True))
            logits = twin(x)
        logits.float().square().sum().backward()
        results.append((logits.float(), twin.conv1.conv.weight.grad, twin.inception5b.branch1.bn.running_mean))
    assert len(calls) == 2  # 5b and 6b: not all branches of 6a and 7c end with one convolution
    for plain, fast in zip(*results, strict=True):
        assert (plain - fast).norm() <= 0.1 * plain.norm()
    with torch.no_grad():
        torch.testing.assert_close(folded(net)(x), net.eval()(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", LATER)
def test_the_drawing_has_every_block_branch_and_shape(variant: str) -> None:
    architecture = dataclasses.replace(VARIANTS[variant])
    svg = draw(variant)
    for block in architecture.blocks:
        assert f">inception {block.name}<" in svg
        for channels in block.branch_channels:
            assert f">{channels}<" in svg
    sizes = architecture.spatial_sizes(architecture.usual_size)
    last = f"inception{architecture.blocks[-1].name}"
    assert f"{architecture.num_features} × {sizes[last]} × {sizes[last]}" in svg
    assert ("auxiliary head," in svg) == architecture.auxiliary
    assert ("1×3·384" in svg) == (variant == "v3")
    with pytest.raises(UserError, match="minimum"):
        draw(variant, input_size=(3, 0, 74))


@pytest.mark.parametrize(("side", "pools"), [(299, True), (448, True), (224, False), (80, False)])
def test_the_drawing_of_a_head_says_how_its_maps_are_pooled(v3: GoogLeNet, side: int, pools: bool) -> None:
    assert v3.aux1 is not None
    sides = v3.architecture.spatial_sizes(side)["inception6e"]
    maps = torch.empty(1, 1, sides, sides)
    maps = v3.aux1.avgpool(maps) if sides >= 5 else maps
    assert (v3.aux1.fit(maps).shape == maps.shape) == pools
    svg = draw("v3", input_size=(3, side, side))
    assert (">5×5 average pool / 3<" in svg, "at least 5×5<" in svg) == (pools, not pools)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_model("v2", auxiliary=True), "auxiliary"),
        (lambda: create_model("v3", normalization="lrn"), "normalization"),
        (lambda: create_model("v3", pool="ceil"), "pool"),
        (lambda: create_model("v4", third_branch_kernel=3), "third_branch_kernel"),
        (lambda: find_block(VARIANTS["v3"], "3a"), "7c"),
    ],
)
def test_what_a_version_does_not_have(call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


def test_explanations_and_features_of_blocks_that_lack_a_branch(v3: GoogLeNet) -> None:
    net = with_info(copy.deepcopy(v3), ("a", "b", "c"), 75)
    images = torch.randint(0, 256, (2, 1, 75, 75), dtype=torch.uint8)
    explanation = explain(net, images[0])
    assert list(explanation.shares) == [block.name for block in net.architecture.blocks]
    assert list(explanation.shares["6a"]) == ["nxn", "double nxn", "pool"]
    assert sum(explanation.shares["7b"].values()) == pytest.approx(1)
    split = googlenet.ImageSplit(images, torch.tensor([0, 1]))
    prepared = net.info.input.prepare(images)
    with torch.no_grad():  # the classifier reads one branch, and without it predicts class b
        net.fc.weight.zero_()
        net.fc.bias.zero_()
        net.fc.weight[0, 320:1088] = 1
        net.fc.bias[1] = net(prepared)[:, 0].min() / 2
    result = ablate(net, split, precision="fp32")
    assert set(result.to_dict()["accuracy_drop"]["7a"]) == {"nxn", "double nxn", "pool"}
    assert result.intact.tolist() == [True, False]
    assert result.ablated[-1].tolist() == [[True, False], [False, True], [True, False], [True, False]]
    changed = copy.deepcopy(net)
    for name in ("weight", "bias"):
        getattr(changed.inception7c.branch2[1].branch2.bn, name).data.zero_()
        getattr(changed.inception7c.branch2[1].branch1.bn, name).data.zero_()
    with torch.no_grad():
        correct = changed(prepared).argmax(dim=1) == split.labels
    assert torch.equal(result.ablated[-1, 1], correct)
    predictor = Predictor(net)
    assert predictor.embed(images[0]).shape == (2048,)
    assert predictor.embed(images[0], block="6a").shape == (768,)


def test_a_network_is_trained_and_used(small_data: Path, tmp_path: Path) -> None:
    settings = {**TINY, "max_steps": 2, "variant": "v2", "whiten": True}
    result = googlenet.train(output=tmp_path / "run", data_dir=str(small_data), **settings)
    net = googlenet.load(result.folder)
    assert net.architecture.variant == "v2" and net.info.input.size == 16
    assert len(Predictor(net).predict(torch.zeros(1, 20, 20, dtype=torch.uint8)).classes) == 3


def test_an_exported_network_computes_the_same(tmp_path: Path) -> None:
    net = with_info(thin(3, 1, "v3", initialization="default"), ("a", "b", "c"), 75)
    split = googlenet.ImageSplit(torch.randint(0, 256, (4, 1, 75, 75), dtype=torch.uint8), torch.tensor([0, 1, 2, 0]))
    exported = googlenet.export(net, "torch-export", tmp_path / "model.pt2", calibration_data=split)
    assert exported.largest_difference < 1e-4
    ours, theirs = (Predictor(model).predict(split.images[0]) for model in (net, tmp_path / "model.pt2"))
    assert ours.classes == theirs.classes
