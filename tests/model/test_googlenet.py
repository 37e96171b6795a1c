from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

import googlenet
from googlenet import GoogLeNetOutput, Inception, UserError, create_model
from googlenet.model.architecture import TABLE_1
from tests.networks import GOOGLENETS

EVERY_VARIANT = pytest.mark.parametrize("variant", GOOGLENETS)


def count(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def output(net: torch.nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = net.eval()(x)
    return result


@pytest.mark.parametrize(
    ("variant", "changes", "parameters"),
    [
        ("tutorial", {"in_channels": 1, "num_classes": 10}, 5_977_530),
        ("tutorial", {}, 6_998_552),
        ("paper", {"auxiliary": False}, 6_998_552),
        ("torchvision", {}, 13_004_888),
        ("torchvision", {"auxiliary": False}, 6_624_904),
    ],
)
def test_parameters_are_the_published_ones(variant: str, changes: dict[str, int], parameters: int) -> None:
    assert count(create_model(variant, **changes)) == parameters


def test_the_rows_of_table_1_follow_each_other() -> None:
    for before, after in pairwise(TABLE_1):
        assert before.out_channels == after.in_channels
    assert TABLE_1[-1].out_channels == 1024


def test_inception_takes_the_tutorials_arguments() -> None:
    assert Inception(192, 64, (96, 128), (16, 32), 32)(torch.randn(2, 192, 28, 28)).shape == (2, 256, 28, 28)


@EVERY_VARIANT
def test_shapes_at_224(variant: str) -> None:
    net = create_model(variant, num_classes=10, in_channels=1).eval()
    x = torch.randn(1, 1, 224, 224)
    expected = {"conv1": 112, "maxpool1": 56, "conv3": 56, "maxpool2": 28, "inception3b": 28, "inception4e": 14}
    seen = {}
    for name in expected:
        net.get_submodule(name).register_forward_hook(lambda _m, _i, o, name=name: seen.update({name: o.shape[-1]}))
    assert output(net, x).shape == (1, 10)
    assert seen == expected
    assert output(net, x).dtype == torch.float32
    with torch.no_grad():
        assert net.forward_features(x).shape == (1, 1024, 7, 7)


def test_children_one_by_one_are_the_network() -> None:
    net = create_model("tutorial", num_classes=10, in_channels=1).eval()
    x = images = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        for _, child in net.named_children():
            x = child(x)
    torch.testing.assert_close(x, output(net, images))


@EVERY_VARIANT
def test_auxiliary_heads_are_used_in_training_only(variant: str) -> None:
    net = create_model(variant, num_classes=7, auxiliary=True).train()
    x = torch.randn(2, 3, 96, 96)
    result = net(x)
    assert isinstance(result, GoogLeNetOutput)
    assert [tuple(head.shape) for head in result] == [(2, 7)] * 3
    assert isinstance(output(net, x), Tensor)


def test_auxiliary_heads_read_4a_and_4d() -> None:
    net = create_model("paper", num_classes=3)
    net.train()(torch.randn(2, 3, 96, 96)).aux1.sum().backward()
    assert net.inception4a.branch1.conv.weight.grad is not None
    assert net.inception4b.branch1.conv.weight.grad is None
    net = create_model("paper", num_classes=3)
    net.train()(torch.randn(2, 3, 96, 96)).aux2.sum().backward()
    assert net.inception4d.branch1.conv.weight.grad is not None
    assert net.inception4e.branch1.conv.weight.grad is None


@EVERY_VARIANT
def test_the_smallest_input_works_and_one_less_is_refused_by_size(variant: str) -> None:
    net = create_model(variant, num_classes=2, in_channels=1, auxiliary=False)
    smallest = net.architecture.smallest_input()
    assert output(net, torch.randn(1, 1, smallest, smallest)).shape == (1, 2)
    if smallest > 1:
        with pytest.raises(UserError, match=f"{smallest}x{smallest}"):
            net(torch.randn(1, 1, smallest - 1, smallest))


@pytest.mark.parametrize("variant", ["paper", "torchvision"])
def test_auxiliary_heads_take_every_size_that_the_network_takes(variant: str) -> None:
    net = create_model(variant, num_classes=2, normalization="none").train()
    for size in (net.architecture.smallest_input(), 60, 224):
        assert net(torch.randn(2, 3, size, size)).aux1.shape == (2, 2)
    pooled = net.aux1.fit(net.aux1.avgpool(torch.ones(1, 512, 14, 14)))
    assert pooled.shape == (1, 512, 4, 4)


@settings(max_examples=25, deadline=None)
@given(
    variant=st.sampled_from(GOOGLENETS),
    height=st.integers(16, 80),
    width=st.integers(16, 80),
    channels=st.integers(1, 5),
    classes=st.integers(1, 12),
    stride=st.integers(1, 2),
)
def test_any_size_channels_and_classes(
    variant: str, height: int, width: int, channels: int, classes: int, stride: int
) -> None:
    settings = {"in_channels": channels, "num_classes": classes, "stem_stride": stride, "initialization": "default"}
    with torch.device("meta"):  # shapes only: to draw weights takes longest
        net = create_model(variant, **settings).eval()
    x = torch.empty(2, channels, height, width, device="meta")
    smallest = net.architecture.smallest_input()
    if min(height, width) < smallest:
        with pytest.raises(UserError, match="pixels"):
            net(x)
        return
    assert net(x).shape == (2, classes)
    sizes = net.architecture.spatial_sizes(height)["maxpool4"], net.architecture.spatial_sizes(width)["maxpool4"]
    assert net.forward_features(x).shape == (2, 1024, *sizes)


@EVERY_VARIANT
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_precision_and_memory_format(variant: str, dtype: torch.dtype) -> None:
    net = create_model(variant, num_classes=4, in_channels=1).to(dtype)
    x = torch.randn(2, 1, 48, 48).to(dtype)
    contiguous = output(net, x)
    assert contiguous.dtype == dtype
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    channels_last = output(net, x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(channels_last, contiguous, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("variant", ["paper", "torchvision"])  # which have every kind of layer
def test_traced_exported_and_copied_networks_compute_the_same(variant: str) -> None:
    net = create_model(variant, num_classes=4, in_channels=1).eval()
    x = torch.randn(2, 1, 48, 48)
    expected = output(net, x)
    traced = torch.jit.trace(net, x)  # type: ignore[no-untyped-call]
    exported = torch.export.export(net, (x,)).module()
    for other in (traced, exported, copy.deepcopy(net)):
        with torch.no_grad():
            torch.testing.assert_close(other(x), expected, rtol=1e-4, atol=1e-5)


def test_reset_classifier() -> None:
    net = create_model("paper", num_classes=10)
    net.reset_classifier(3)
    assert net.architecture.num_classes == 3
    assert [tuple(head.shape) for head in net.train()(torch.randn(2, 3, 96, 96))] == [(2, 3)] * 3
    net.reset_classifier(0)
    assert output(net, torch.randn(2, 3, 96, 96)).shape == (2, 1024)


@pytest.mark.parametrize("variant", ["paper", "torchvision", "bn"])
def test_no_classes_from_the_start_or_later_are_the_same_network(variant: str) -> None:
    start, later = create_model(variant, num_classes=0), create_model(variant, num_classes=10)
    later.reset_classifier(0)
    assert start.architecture == later.architecture
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (start, later)]
    assert shapes[0] == shapes[1]
    assert output(start, torch.randn(2, 3, 96, 96)).shape == (2, 1024)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_local_response_norm_is_torchs(dtype: torch.dtype) -> None:
    x = torch.randn(2, 16, 5, 5, dtype=dtype) * 30
    expected = torch.nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)(x)
    from googlenet.model.googlenet import LocalResponseNorm

    torch.testing.assert_close(LocalResponseNorm()(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_model("resnet"), "resnet"),
        (lambda: create_model("bn", widht=3), "widht"),
        (lambda: create_model("bn", in_channels=0), "in_channels"),
        (lambda: create_model("bn", num_classes=-1), "num_classes"),
        (lambda: create_model("bn", dropout=1.0), "dropout"),
        (lambda: create_model("bn", initialization="zeros"), "zeros"),
        (lambda: create_model("bn", in_channels=1)(torch.randn(2, 3, 64, 64)), r"\(N, 1, H, W\)"),
        (lambda: create_model("bn")(torch.randn(3, 64, 64)), r"\(N, 3, H, W\)"),
    ],
)
def test_mistakes_name_the_argument_in_one_line(call: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        call()  # type: ignore[operator]
    assert "\n" not in str(raised.value)


def test_initializations_differ_as_they_should() -> None:
    spread = {}
    for scheme in ("default", "he", "xavier", "truncated-normal"):
        torch.manual_seed(0)
        net = create_model("tutorial", num_classes=10, in_channels=1, initialization=scheme)
        weight = net.inception4a.branch2[1].conv.weight
        fan_in = weight[0].numel()
        fan_out = weight.shape[0] * 9
        expected = {
            "default": (1 / (3 * fan_in)) ** 0.5,
            "he": (2 / fan_in) ** 0.5,
            "xavier": (2 / (fan_in + fan_out)) ** 0.5,
            "truncated-normal": 0.01,
        }[scheme]
        assert float(weight.detach().std()) == pytest.approx(expected, rel=0.05)
        spread[scheme] = float(output(net, torch.rand(16, 1, 96, 96)).std(dim=0).mean())
    assert spread["default"] < spread["xavier"] < spread["he"]


def test_unknown_names_are_attribute_errors() -> None:
    for name in googlenet.__all__:
        assert getattr(googlenet, name) is not None
    with pytest.raises(AttributeError):
        getattr(googlenet, "nothing")  # noqa: B009


def test_orthogonal_kernels_keep_lengths() -> None:
    net = create_model("tutorial", num_classes=10, in_channels=1, initialization="orthogonal")
    kernel = net.inception4a.branch2[0].conv.weight.flatten(1)
    torch.testing.assert_close(kernel @ kernel.T, 2 * torch.eye(len(kernel)), atol=1e-4, rtol=0)
    assert not net.fc.bias.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalization": "bn"}, "normalization"),
        ({"pool": "pad"}, "pool"),
        ({"third_branch_kernel": 7}, "third_branch_kernel"),
        ({"stem_stride": 0}, "stem_stride"),
        ({"stem_stride": 1, "stem_padding": "same"}, "stem_padding"),
    ],
)
def test_impossible_values_name_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_model("bn", **changes)


@pytest.mark.parametrize("size", [32, 65, 96])
def test_same_padding_of_the_first_convolution(size: int) -> None:
    """As TensorFlow pads an even size: the first output sees 2 pixels of border, not 3."""
    net = create_model("tutorial", in_channels=1, stem_padding="same").eval()
    image = torch.zeros(1, 1, size, size)
    image[..., 4, 4] = 1  # the last pixel of the first window
    with torch.no_grad():
        net.conv1.conv.weight.fill_(1)
        torch.nn.init.zeros_(net.conv1.conv.bias)  # type: ignore[arg-type]
        map = net.conv1(image)
        assert net(image).shape == (1, 1000)
    assert map[0, 0, 0, 0] == 1
    assert map.shape[2] == net.architecture.spatial_sizes(size)["conv1"]
