"""How fresh weights are drawn. Without batch normalisation this decides whether the network learns at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from torch import Tensor, nn

from googlenet.errors import UserError
from googlenet.network.architecture import Initialization


def _he(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, mode="fan_in", nonlinearity="relu")


def _truncated_normal(weight: Tensor) -> None:
    nn.init.trunc_normal_(weight, mean=0.0, std=0.01, a=-2.0, b=2.0)


def _orthogonal(weight: Tensor) -> None:
    nn.init.orthogonal_(weight, gain=nn.init.calculate_gain("relu"))


_DRAW: dict[str, Callable[[Tensor], object]] = {
    "he": _he,
    "xavier": nn.init.xavier_uniform_,
    "truncated-normal": _truncated_normal,
    "orthogonal": _orthogonal,
}


def initialize(net: nn.Module, scheme: Initialization) -> None:
    """Draw the weights of every convolution and fully connected layer anew, in place, from torch's global generator.

    - `default`: what PyTorch's layers do by themselves: uniform with variance 1 / (3 fan_in), biases likewise.
    - `he`: normal with variance 2 / fan_in, biases 0 (He et al. 2015, https://arxiv.org/abs/1502.01852).
    - `xavier`: uniform with variance 2 / (fan_in + fan_out), biases 0 (Glorot and Bengio 2010).
    - `truncated-normal`: standard deviation 0.01 and biases 0, as torchvision draws its GoogLeNet.
    - `orthogonal`: rows (or columns, where these are fewer) orthogonal, of length sqrt(2), biases 0 (Saxe et al. 2013,
      https://arxiv.org/abs/1312.6120).

    Raises:
        UserError: for a name that is none of these.
    """
    if scheme not in get_args(Initialization):
        raise UserError(f"there is no initialization {scheme!r}; there are: {', '.join(get_args(Initialization))}")
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if scheme == "default":
                module.reset_parameters()
                continue
            _DRAW[scheme](module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
