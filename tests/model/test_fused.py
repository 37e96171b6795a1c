"""The faster forms of a network, held equal to the plain ones."""

from __future__ import annotations

import copy
from unittest.mock import Mock

import pytest
import torch

from googlenet import create_model
from googlenet.network import fused
from googlenet.model.architecture import TABLE_1
from tests.model.test_googlenet import output


def test_compiled_network_answers_alike() -> None:
    net = create_model("bn", num_classes=4, in_channels=1).eval()
    x = torch.randn(2, 1, 48, 48)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(output(compiled, x), output(net, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["tutorial", "bn"])
def test_fused_forms_equal_the_plain_ones_in_bf16(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In output, gradient and running statistics; bf16 differs by rounding, the same sums being ordered otherwise."""
    torch.manual_seed(0)
    net = create_model(variant, num_classes=10, in_channels=1, dropout=0.0, initialization="he", stem_stride=1).train()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(8, 1, 28, 28).contiguous(memory_format=torch.channels_last)
    results = []
    merged_calls = Mock(wraps=fused.merged_pointwise)
    monkeypatch.setattr(fused, "merged_pointwise", merged_calls)
    for form, calls in ((fused.plain, 0), (torch.enable_grad, len(TABLE_1))):
        twin = copy.deepcopy(net)
        with form(), torch.autocast("cpu", torch.bfloat16):
            logits = twin(x)
            logits.float().square().mean().backward()
        assert merged_calls.call_count == calls
        gradients = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None])
        statistics = torch.cat([buffer.flatten().float() for buffer in twin.buffers()] or [torch.zeros(1)])
        results.append((logits.float(), gradients, statistics))
    for plain, merged, tolerance in zip(*results, (0.05, 0.1, 0.02), strict=True):
        assert (plain - merged).norm() <= tolerance * plain.norm().clamp(min=1e-6)


@pytest.mark.parametrize("variant", ["tutorial", "bn"])
def test_fused_forms_equal_the_plain_ones_in_fp32(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every output, gradient and statistic by itself, in the precision where the two forms differ least."""
    torch.manual_seed(0)
    net = create_model(variant, num_classes=10, in_channels=1, dropout=0.0, initialization="he", stem_stride=1).train()
    net.to(memory_format=torch.channels_last)
    x = torch.randn(8, 1, 28, 28).contiguous(memory_format=torch.channels_last)
    results = []
    for pays in (False, True):
        monkeypatch.setattr(fused, "pays", lambda x, pays=pays: pays)
        twin = copy.deepcopy(net)
        logits = twin(x)
        logits.square().mean().backward()
        gradients = {f"gradient of {name}": p.grad for name, p in twin.named_parameters()}
        results.append({"logits": logits, **gradients, **dict(twin.named_buffers())})
    for name, plain in results[0].items():
        difference = (results[1][name].float() - plain.float()).norm()
        assert difference <= 1e-3 * plain.float().norm() + 1e-6, name


def test_pointwise_equals_the_convolution_in_fp32() -> None:
    convolution = torch.nn.Conv2d(24, 32, 1)
    x = torch.randn(2, 24, 7, 7).contiguous(memory_format=torch.channels_last)
    product = fused.pointwise(x, convolution.weight, convolution.bias)
    torch.testing.assert_close(product, convolution(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_maps_of_one_pixel_train_in_bf16(batch: int) -> None:
    net = create_model("tutorial", num_classes=3, in_channels=1).to(memory_format=torch.channels_last)
    images = torch.rand(batch, 1, 28, 28).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        net(images).float().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_torch_func_may_transform_a_network() -> None:
    net, images = create_model("bn", num_classes=3).eval(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        each = torch.func.vmap(lambda image: net(image[None])[0])(images)
        torch.testing.assert_close(each, net(images), rtol=1e-4, atol=1e-4)
