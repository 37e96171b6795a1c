"""torchvision cannot be installed everywhere, so its network is written down here from plain layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from googlenet import create_model
from tests.model.tutorial_reference import BLOCKS


def unit(x: Tensor, weights: dict[str, Tensor], name: str, **how: int) -> Tensor:
    """Convolution, batch normalization of epsilon 0.001, ReLU, as torchvision's BasicConv2d computes them."""
    x = F.conv2d(x, weights[f"{name}.conv.weight"], **how)
    bn = [weights[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
    return F.relu(F.batch_norm(x, *bn, training=False, eps=0.001))


def block(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    one = unit(x, weights, f"{name}.branch1")
    two = unit(unit(x, weights, f"{name}.branch2.0"), weights, f"{name}.branch2.1", padding=1)
    three = unit(unit(x, weights, f"{name}.branch3.0"), weights, f"{name}.branch3.1", padding=1)
    four = unit(F.max_pool2d(x, 3, 1, 1, ceil_mode=True), weights, f"{name}.branch4.1")
    return torch.cat([one, two, three, four], 1)


def torchvision_forward(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    x = F.max_pool2d(unit(x, weights, "conv1", stride=2, padding=3), 3, 2, ceil_mode=True)
    x = unit(unit(x, weights, "conv2"), weights, "conv3", padding=1)
    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    for name in BLOCKS:
        if name == "4a":
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        if name == "5a":
            x = F.max_pool2d(x, 2, 2, ceil_mode=True)
        x = block(x, weights, f"inception{name}")
    return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), weights["fc.weight"], weights["fc.bias"])


def published_names_and_shapes(*, auxiliary: bool) -> dict[str, tuple[int, ...]]:
    """The entries of torchvision's `googlenet().state_dict()`."""

    def basic(name: str, c_in: int, c_out: int, kernel: int) -> dict[str, tuple[int, ...]]:
        bn = {f"{name}.bn.{key}": (c_out,) for key in ("weight", "bias", "running_mean", "running_var")}
        return {f"{name}.conv.weight": (c_out, c_in, kernel, kernel), **bn, f"{name}.bn.num_batches_tracked": ()}

    found = basic("conv1", 3, 64, 7) | basic("conv2", 64, 64, 1) | basic("conv3", 64, 192, 3)
    for name, (c, one, two, three, four) in BLOCKS.items():
        where = f"inception{name}"
        found |= basic(f"{where}.branch1", c, one, 1) | basic(f"{where}.branch4.1", c, four, 1)
        found |= basic(f"{where}.branch2.0", c, two[0], 1) | basic(f"{where}.branch2.1", *two, 3)
        found |= basic(f"{where}.branch3.0", c, three[0], 1) | basic(f"{where}.branch3.1", *three, 3)
    for head, channels in (("aux1", 512), ("aux2", 528)) if auxiliary else ():
        found |= basic(f"{head}.conv", channels, 128, 1)
        found |= {f"{head}.fc1.weight": (1024, 2048), f"{head}.fc1.bias": (1024,)}
        found |= {f"{head}.fc2.weight": (1000, 1024), f"{head}.fc2.bias": (1000,)}
    return found | {"fc.weight": (1000, 1024), "fc.bias": (1000,)}


def published_weights(*, auxiliary: bool) -> dict[str, Tensor]:
    """Random weights under torchvision's names, of a size that keeps activations in range."""
    torch.manual_seed(1)
    weights = {}
    for name, shape in published_names_and_shapes(auxiliary=auxiliary).items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
        elif len(shape) > 1:
            weights[name] = torch.empty(shape)
            nn.init.kaiming_normal_(weights[name])
        else:
            weights[name] = torch.rand(shape) + 0.5
    return weights


def test_accepts_torchvisions_state_dict_and_computes_the_same() -> None:
    x = torch.randn(2, 3, 224, 224)
    for auxiliary in (True, False):
        weights = published_weights(auxiliary=auxiliary)
        net = create_model("torchvision", auxiliary=auxiliary).eval()
        net.load_state_dict(weights, strict=True)
        with torch.no_grad():
            torch.testing.assert_close(net(x), torchvision_forward(weights, x), rtol=1e-5, atol=1e-5)


def test_sizes_that_the_pools_round_up() -> None:
    weights = published_weights(auxiliary=False)
    net = create_model("torchvision", auxiliary=False).eval()
    net.load_state_dict(weights)
    for size in (65, 96, 130):
        x = torch.randn(1, 3, size, size)
        with torch.no_grad():
            torch.testing.assert_close(net(x), torchvision_forward(weights, x), rtol=1e-5, atol=1e-5)
