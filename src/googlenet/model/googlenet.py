"""The network, and how fresh weights are drawn.

Every variant is the one class `GoogLeNet`: `architecture.py` says which layers it has, `layers.py` makes them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from googlenet.errors import UserError
from googlenet.model.architecture import HEADS, VARIANTS, Architecture, Initialization
from googlenet.model.layers import AuxiliaryHead, GlobalAveragePool, LocalResponseNorm, classifier, make_layer
from googlenet.model.tables import Block, ResponseNorm, channels_after


class GoogLeNetOutput(NamedTuple):
    """What a network with auxiliary heads returns in training mode, each (N, num_classes)."""

    logits: Tensor
    aux1: Tensor  # From the head after block 4a; in version 3, after 6e
    aux2: Tensor | None = None  # From the head after block 4d; version 3 has one head


class GoogLeNet(nn.Module):
    """A network of the Inception family: a stem, Inception blocks, one classifier. Version 1 is GoogLeNet (section 5).

    (N, in_channels, H, W) -> (N, num_classes) logits; in training mode with auxiliary heads, a `GoogLeNetOutput`.
    H and W are free down to `architecture.smallest_input()`.

    Its layers are those of `architecture.layers`, under the same names. Without auxiliary heads, passing a batch
    through `named_children()` one by one gives what `forward` gives, which is how the tutorial checks its shapes.
    Raises `UserError` for an impossible architecture, and in `forward` for a batch of another shape or of fewer pixels
    than the pools allow.
    """

    if TYPE_CHECKING:  # conv1, inception3a, ...: what the architecture names

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        _check(architecture)
        self.architecture = architecture
        self.info: Any = None  # The `ModelInfo` of the model file that the network came from, or None
        epsilon = architecture.batch_norm_epsilon if architecture.normalization == "batch" else None
        layers, channels = architecture.layers, architecture.in_channels
        for name, row in layers.items():
            if isinstance(row, ResponseNorm):
                has_norm = architecture.normalization == "lrn"
                self.add_module(name, LocalResponseNorm(*architecture.lrn) if has_norm else nn.Identity())
            else:
                self.add_module(name, make_layer(row, channels, epsilon))
            channels = channels_after(row, channels)
        self.num_features = channels  # Features that the classifier reads: 1024 in version 1
        self.avgpool = GlobalAveragePool()
        self.dropout = nn.Dropout(architecture.dropout)
        self.fc = classifier(self.num_features, architecture.num_classes)
        self._read_by_heads = {f"inception{head.block}" for head in architecture.heads.values()}
        self.aux1: AuxiliaryHead | None = None
        self.aux2: AuxiliaryHead | None = None
        in_channels = {block.name: block.out_channels for block in architecture.blocks}
        for name, head in architecture.heads.items():
            setattr(self, name, AuxiliaryHead(head, in_channels[head.block], architecture, epsilon))
        first = next(number for number, row in enumerate(layers.values()) if isinstance(row, Block))
        self._stem_names, self._body_names = tuple(layers)[:first], tuple(layers)[first:]
        initialize(self, architecture.initialization)

    def forward(self, x: Tensor) -> Tensor | GoogLeNetOutput:
        features, read = self._backbone(x)
        logits = self.forward_head(features)
        if not self.training or self.aux1 is None:
            return logits
        return GoogLeNetOutput(logits, self.aux1(read[0]), None if self.aux2 is None else self.aux2(read[1]))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps, before pooling: (N, in_channels, H, W) -> (N, num_features, H/32, W/32)."""
        return self._backbone(x)[0]

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits from the last feature maps: (N, num_features, H, W) -> (N, num_classes)."""
        x = self.avgpool(features)  # (N, num_features)
        x = self.dropout(x)
        return self.fc(x)  # (N, num_classes)

    def _backbone(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The maps after the last block, and those that the auxiliary heads read."""
        self._check_input(x)
        x, read = self._stem(x), []
        for name in self._body_names:
            x = getattr(self, name)(x)
            if name in self._read_by_heads:
                read.append(x)
        return x, read

    def _stem(self, x: Tensor) -> Tensor:
        for name in self._stem_names:
            x = getattr(self, name)(x)
        return x

    def reset_classifier(self, num_classes: int) -> None:
        """Put fresh classifiers, auxiliary ones too, for `num_classes` classes; 0 leaves the pooled features."""
        self.architecture = dataclasses.replace(self.architecture, num_classes=num_classes)
        like = self.conv1.conv.weight
        self.fc = classifier(self.num_features, num_classes).to(like.device, like.dtype)
        for head in (self.aux1, self.aux2):
            if head is not None:
                head.fc2 = classifier(head.num_features, num_classes).to(like.device, like.dtype)
        for layer in self.classifiers():
            initialize(layer, self.architecture.initialization)

    def get_classifier(self) -> nn.Module:
        """The layer that turns features into logits, as in timm."""
        return self.fc

    def classifiers(self) -> list[nn.Module]:
        """The layers that give logits: the network's own, then those of the auxiliary heads."""
        return [self.fc, *(head.fc2 for head in (self.aux1, self.aux2) if head is not None)]

    def matches_architecture(self) -> bool:
        """Whether the network has exactly the layers that its architecture describes, so that a model file can too."""
        with torch.device("meta"):
            twin = GoogLeNet(dataclasses.replace(self.architecture, initialization="default"))  # draws faster

        def layers(net: nn.Module) -> list[tuple[str, str]]:
            return [(name, repr(module)) for name, module in net.named_modules() if not any(module.children())]

        return type(self) is GoogLeNet and layers(self) == layers(twin)

    def check_size(self, height: int, width: int) -> None:
        """Raises `UserError` if an image of that many pixels is too small for the pools."""
        architecture = self.architecture
        if not (architecture.fits(height) and architecture.fits(width)):
            smallest, problem = architecture.smallest_input(), "is too small for"
            way_out = f"the smallest is {smallest}x{smallest}"
            if min(height, width) >= smallest:  # pools that round up, next to convolutions with stride 2
                problem = f"does not fit pool = {architecture.pool!r} of"
                way_out = f"use a multiple of {16 * architecture.stem_stride}"
            variant = architecture.variant
            raise UserError(f"an input of {height}x{width} pixels {problem} variant {variant!r}: {way_out}")

    def _check_input(self, x: Tensor) -> None:
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return  # the shapes of a traced or exported network are fixed already
        if x.ndim != 4 or x.shape[1] != self.architecture.in_channels:
            raise UserError(
                f"the network takes batches of shape (N, {self.architecture.in_channels}, H, W), not {tuple(x.shape)}"
            )
        self.check_size(x.shape[2], x.shape[3])


def initialize(net: nn.Module, scheme: Initialization) -> None:
    """Draw the weights of every convolution and fully connected layer, in place, from torch's global generator.

    Without batch norm, this decides whether the network learns at all (docs/convergence.md).

    - `default`: PyTorch's default: uniform with variance 1 / (3 fan_in), biases likewise.
    - `he`: normal with variance 2 / fan_in, biases 0 (He et al. 2015, https://arxiv.org/abs/1502.01852).
    - `xavier`: uniform with variance 2 / (fan_in + fan_out), biases 0 (Glorot and Bengio 2010).
    - `truncated-normal`: standard deviation 0.01, biases 0, as torchvision draws its GoogLeNet.
    - `orthogonal`: orthogonal rows (or columns, if there are fewer) of length sqrt(2), biases 0 (Saxe et al. 2013,
      https://arxiv.org/abs/1312.6120).
    """
    draw: dict[str, Callable[[Tensor], object]] = {
        "he": functools.partial(nn.init.kaiming_normal_, mode="fan_in", nonlinearity="relu"),
        "xavier": nn.init.xavier_uniform_,
        "truncated-normal": functools.partial(nn.init.trunc_normal_, std=0.01),
        "orthogonal": functools.partial(nn.init.orthogonal_, gain=nn.init.calculate_gain("relu")),
    }
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            if scheme == "default":
                module.reset_parameters()
                continue
            draw[scheme](module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _check(architecture: Architecture) -> None:
    for name, hint in get_type_hints(Architecture).items():
        value, choices = getattr(architecture, name), get_args(hint)
        if get_origin(hint) is Literal and value not in choices:
            raise UserError(f"{name} = {value!r}: use one of {', '.join(map(str, choices))}")
    for name, lowest in (("num_classes", 0), ("in_channels", 1), ("stem_stride", 1)):
        value = getattr(architecture, name)
        if value < lowest:
            raise UserError(f"{name} must be {lowest} or more, not {value}")
    if architecture.stem_padding == "same" and architecture.stem_stride != 2:
        raise UserError("stem_padding 'same' is for a stem_stride of 2: omit one of them")
    _check_version(architecture)
    for name in ("dropout", "auxiliary_dropout"):
        value = getattr(architecture, name)
        if not 0 <= value < 1:
            raise UserError(f"{name} is a probability, at least 0 and below 1, not {value}")


_OF_VERSION_1 = ("lrn", "reduction_5a", "stem_padding", "last_pool_kernel", "third_branch_kernel", "auxiliary_pool")


def _check_version(architecture: Architecture) -> None:
    """Raises `UserError` for a choice that the version of the network does not have."""
    version, usual = architecture.version, VARIANTS[architecture.variant]
    names = () if version == 1 else _OF_VERSION_1 if version == 2 else (*_OF_VERSION_1, "pool")
    for name in names:
        if getattr(architecture, name) != getattr(usual, name):
            raise UserError(f"variant {architecture.variant!r} has no choice of {name}: omit it")
    if version > 1 and architecture.normalization == "lrn":
        raise UserError(f"normalization 'lrn' is not for variant {architecture.variant!r}: use 'batch' or 'none'")
    if architecture.auxiliary and version not in HEADS:
        raise UserError(f"variant {architecture.variant!r} has no auxiliary heads: omit auxiliary")
