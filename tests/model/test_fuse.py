"""The faster forms of a network compute what the plain one computes, and step aside for hooks and replaced modules."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from googlenet import GoogLeNet, Inception, create_model
from googlenet.kernels.max_pool import CMaxPool2d
from googlenet.model import fuse
from googlenet.model.architecture import TABLE_1
from googlenet.model.fuse import folded, pointwise
from tests.model.test_googlenet import EVERY_VARIANT, output
from tests.networks import one_block

fused = functools.partial(fuse.fused, merge=True)


def training_net(variant: str = "bn", **changes: object) -> GoogLeNet:
    torch.manual_seed(0)
    settings = {"num_classes": 10, "in_channels": 1, "dropout": 0.0, "auxiliary_dropout": 0.0, "stem_stride": 1}
    net = create_model(variant, initialization="he", **{**settings, **changes}).train()
    return net.to(memory_format=torch.channels_last)


def batch(count: int = 2, side: int = 24) -> Tensor:
    return torch.randn(count, 1, side, side).contiguous(memory_format=torch.channels_last)


def train_step(net: nn.Module, images: Tensor, *, bf16: bool = True) -> Tensor:
    """Forward and backward; the logits."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        result = net(images)
    outputs = result if isinstance(result, tuple) else (result,)
    sum(output.float().square().mean() for output in outputs).backward()
    return outputs[0].detach().float()


def merged_blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each merged product of several convolutions."""
    calls: list[int] = []
    real = fuse.pointwise

    def counted(x: Tensor, convolutions: tuple[nn.Conv2d, ...]) -> Tensor:
        calls.extend([1] if len(convolutions) == 3 else [])
        return real(x, convolutions)

    monkeypatch.setattr(fuse, "pointwise", counted)
    return calls


@EVERY_VARIANT
def test_fused_equals_plain_in_bf16(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In output, gradients and running statistics; bf16 differs by rounding, since sums have another order."""
    net, images, calls, results = training_net(variant), batch(4), merged_blocks(monkeypatch), []
    for context, merged in ((contextlib.nullcontext, 0), (fused, len(TABLE_1))):
        twin = copy.deepcopy(net)
        with context(twin):
            logits = train_step(twin, images)
        assert len(calls) == merged
        gradients = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None])
        statistics = torch.cat([buffer.flatten().float() for buffer in twin.buffers()] or [torch.zeros(1)])
        results.append((logits, gradients, statistics))
    for plain, fast, tolerance in zip(*results, (0.05, 0.1, 0.02), strict=True):
        assert (plain - fast).norm() <= tolerance * plain.norm().clamp(min=1e-6)


@EVERY_VARIANT
def test_fused_equals_plain_in_fp32(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every output, gradient and statistic on its own, in the precision in which the two forms differ least."""
    net, images, results = training_net(variant), batch(4), []
    monkeypatch.setattr(fuse, "_is_faster", lambda x: True)
    for context in (contextlib.nullcontext, fused):
        twin = copy.deepcopy(net)
        with context(twin):
            logits = train_step(twin, images, bf16=False)
        gradients = {f"gradient of {name}": p.grad for name, p in twin.named_parameters()}
        results.append({"logits": logits, **gradients, **dict(twin.named_buffers())})
    for name, plain in results[0].items():
        difference = (results[1][name].float() - plain.float()).norm()
        assert difference <= 1e-3 * plain.float().norm() + 1e-6, name


def test_fusion_is_reversible_and_keeps_the_state_dict() -> None:
    net = training_net()
    classes, keys = [type(module) for module in net.modules()], list(net.state_dict())
    with fused(net):
        assert [type(module) for module in net.modules()] != classes
        assert list(net.state_dict()) == keys
        assert isinstance(net, GoogLeNet) and isinstance(net.inception3a, Inception)
        with fused(net):  # nested: the inner one changes nothing
            pass
        assert isinstance(net.maxpool1, CMaxPool2d)
    assert [type(module) for module in net.modules()] == classes


def test_a_plain_network_calls_every_layer_in_bf16() -> None:
    net, seen = training_net(), set[str]()
    for name, module in net.named_modules():
        module.register_forward_hook(lambda *_, name=name: seen.add(name))
    train_step(net, batch())
    assert seen == {name for name, _ in net.named_modules()}


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_hooks_on_every_layer_fire_in_a_fused_network(kind: str) -> None:
    net, seen = training_net(), set[str]()
    layers = {name: module for name, module in net.named_modules() if not any(module.children())}
    for name, module in layers.items():
        getattr(module, kind)(lambda *_, name=name: seen.add(name))
    for module in net.modules():  # backward hooks do not work on layers that change their input in place
        if isinstance(module, nn.ReLU):
            module.inplace = False
    with fused(net):
        train_step(net, batch())
    assert seen == set(layers)


def test_a_hook_sees_what_the_layer_gives_in_the_plain_network() -> None:
    net, images, seen = training_net("tutorial"), batch(), []
    for name in ("conv1", "maxpool1", "conv3", "inception3a"):
        net.get_submodule(name).register_forward_hook(lambda _m, _i, output: seen.append(output.detach().clone()))
    train_step(net, images)
    with fused(net):
        train_step(net, images)
    for plain, fast in zip(seen[:4], seen[4:], strict=True):
        torch.testing.assert_close(fast, plain, rtol=0.02, atol=0.02)


class LowRank(nn.Module):
    """A LoRA-like wrapper."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv, self.calls = conv, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.conv(x)


@pytest.mark.parametrize("where", ["inception3a.branch1", "inception4c.branch2.0", "inception5b.branch4.1", "conv2"])
def test_a_module_in_place_of_a_convolution_is_called(where: str) -> None:
    net = training_net()
    unit = net.get_submodule(where)
    unit.conv = LowRank(unit.conv)
    with fused(net):
        train_step(net, batch())
    assert unit.conv.calls == 1


REPLACEMENTS: dict[str, Callable[[GoogLeNet], object]] = {
    "3x3 for 1x1": lambda net: setattr(net.inception3a.branch1, "conv", nn.Conv2d(192, 64, 3, padding=1, bias=False)),
    "groups": lambda net: setattr(net.inception3b.branch4[1], "conv", nn.Conv2d(256, 64, 1, groups=4, bias=False)),
    "bias": lambda net: setattr(net.inception4a.branch2[0], "conv", nn.Conv2d(480, 96, 1)),
    "no batch norm": lambda net: setattr(net.inception4b.branch1, "bn", None),
    "longer branch": lambda net: net.inception5a.branch2.append(nn.ReLU()),
    "3x3 in the stem": lambda net: setattr(net.conv2, "conv", nn.Conv2d(64, 64, 3, padding=1, bias=False)),
    "dilated pool": lambda net: setattr(net.maxpool3, "dilation", 2),
    "pool of a pair": lambda net: setattr(net.maxpool4, "kernel_size", (3, 3)),
}


@pytest.mark.parametrize("change", REPLACEMENTS.values(), ids=REPLACEMENTS)
def test_a_changed_network_computes_what_it_says(change: Callable[[GoogLeNet], object]) -> None:
    net, images = training_net(), batch()
    change(net)
    net.to(memory_format=torch.channels_last)
    twin = copy.deepcopy(net)
    expected = train_step(net, images)
    with fused(twin):
        torch.testing.assert_close(train_step(twin, images), expected, rtol=0.05, atol=0.05)


def test_global_hooks_fire_on_every_layer_of_a_fused_network() -> None:
    net, seen = training_net(), set[nn.Module]()
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.add(module))
    try:
        with fused(net):
            train_step(net, batch())
    finally:
        handle.remove()
    assert seen == set(net.modules())


def test_a_batch_norm_in_eval_mode_keeps_its_statistics() -> None:
    net = training_net()
    frozen = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)][5::7]
    before = [copy.deepcopy(norm.state_dict()) for norm in frozen]
    for norm in frozen:
        norm.eval()
    with fused(net):
        train_step(net, batch())
    for norm, state in zip(frozen, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in norm.state_dict().items())


def test_a_cumulative_batch_norm_updates() -> None:
    """momentum=None averages over all batches."""
    results = []
    for context in (contextlib.nullcontext, fused):
        net = training_net()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        with context(net):
            train_step(net, batch())
            torch.manual_seed(1)
            train_step(net, batch())
        results.append(net.inception4a.branch1.bn.running_mean.clone())
    assert results[0].abs().sum() > 0
    torch.testing.assert_close(results[1], results[0], rtol=0.05, atol=0.05)


def test_pointwise_equals_the_convolution() -> None:
    convolution = nn.Conv2d(24, 32, 1)
    x = torch.randn(2, 24, 7, 7).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pointwise(x, (convolution,)), convolution(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_maps_of_one_pixel_train_in_bf16(count: int) -> None:
    net = training_net("tutorial", stem_stride=2)
    with fused(net):
        train_step(net, batch(count, 28))
    assert all(parameter.grad is not None for parameter in net.parameters())


def used_net(variant: str) -> GoogLeNet:
    """A network whose batch norms are not those of a fresh one."""
    torch.manual_seed(0)
    net = create_model(variant, num_classes=5, in_channels=3).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net


@EVERY_VARIANT
def test_folded_equals_plain(variant: str) -> None:
    net, images = used_net(variant), torch.rand(2, 3, 96, 96)
    before = copy.deepcopy(net.state_dict())
    copied = folded(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copied.modules())
    with torch.inference_mode():
        expected = net(images)
        assert torch.allclose(copied(images), expected, atol=1e-5 * float(expected.abs().max()))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_folding_keeps_a_module_in_place_of_a_convolution() -> None:
    net, images = used_net("bn"), torch.rand(1, 3, 64, 64)
    unit: nn.Module = net.inception3a.branch1
    unit.conv = LowRank(net.inception3a.branch1.conv)
    torch.testing.assert_close(output(folded(net), images), output(net, images), rtol=1e-4, atol=1e-4)


def test_the_plain_network_compiles_and_transforms() -> None:
    net = one_block(4, 1).eval()  # one Inception block is enough: they are alike
    images = torch.randn(2, 1, 48, 48)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(output(compiled, images), output(net, images), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        each = torch.func.vmap(lambda image: net(image[None])[0])(images)
    torch.testing.assert_close(each, output(net, images), rtol=1e-4, atol=1e-4)
