"""GoogLeNet (Inception v1): its layers, the network, and how fresh weights are drawn.

Every variant is the one class `GoogLeNet`; `architecture.py` has the numbers. Weights have torchvision's names (`conv`,
`bn`, `branch2.0.conv`, ...), so state dicts fit both ways.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from googlenet.errors import UserError
from googlenet.model.architecture import Architecture, InceptionRow, Initialization


class Convolution(nn.Module):
    """Convolution, batch norm (optional), ReLU: (N, C_in, H, W) -> (N, C_out, H', W').

    Kernels of 1x1, 3x3, 5x5 or 7x7 are padded so that stride 1 keeps the size; `padding` (left, right, top, bottom)
    replaces that. With batch norm there is no convolution bias, because the normalization would subtract it again.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, *,
        batch_norm_epsilon: float | None = None, padding: tuple[int, int, int, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        bias, symmetric = batch_norm_epsilon is None, kernel_size // 2 if padding is None else 0
        self.pad = nn.ZeroPad2d(padding) if padding is not None else None
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, symmetric, bias=bias)
        self.bn = nn.BatchNorm2d(out_channels, eps=batch_norm_epsilon) if batch_norm_epsilon is not None else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.pad is not None:
            x = self.pad(x)
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        return self.relu(x)


class Inception(nn.Module):
    """One Inception block: four branches over the same input, concatenated along the channels (paper, figure 2b).

    (N, in_channels, H, W) -> (N, branch1 + branch2[1] + branch3[1] + branch4, H, W). The positional arguments are the
    tutorial's: `Inception(192, 64, (96, 128), (16, 32), 32)` is block 3a.

    Args:
        in_channels: channels of the input.
        branch1: channels of the 1x1 convolution.
        branch2: channels of the 1x1 reduction, and of the 3x3 convolution after it.
        branch3: channels of the 1x1 reduction, and of the 5x5 convolution after it.
        branch4: channels of the 1x1 convolution after the 3x3 max pool.
        third_branch_kernel: 5 as in the paper, or 3 as in torchvision.
        batch_norm_epsilon: adds batch norm with this epsilon to every convolution.
    """

    def __init__(
        self, in_channels: int, branch1: int, branch2: tuple[int, int], branch3: tuple[int, int], branch4: int, *,
        third_branch_kernel: int = 5, batch_norm_epsilon: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        conv = functools.partial(Convolution, batch_norm_epsilon=batch_norm_epsilon)
        self.branch1 = conv(in_channels, branch1, 1)
        self.branch2 = nn.Sequential(conv(in_channels, branch2[0], 1), conv(*branch2, 3))
        self.branch3 = nn.Sequential(conv(in_channels, branch3[0], 1), conv(*branch3, third_branch_kernel))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), conv(in_channels, branch4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)), dim=1)


class LocalResponseNorm(nn.Module):
    """Each value divided by (k + alpha / size * sum of squares over `size` neighboring channels) ** beta.

    (N, C, H, W) -> (N, C, H, W). Krizhevsky et al. 2012, section 3.3, with the constants of BVLC's GoogLeNet. The sum
    is in float32 and over shifted slices, because PyTorch's own layer does not take float16 on a CPU.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        squares = F.pad(x.float().square(), (0, 0, 0, 0, self.size // 2, self.size // 2))
        window = squares[:, :channels]
        for shift in range(1, self.size):
            window = window + squares[:, shift : shift + channels]
        return x * (self.k + self.alpha / self.size * window).pow(-self.beta).to(x.dtype)

    def extra_repr(self) -> str:
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class GlobalAveragePool(nn.Module):
    """The mean of every feature map: (N, C, H, W) -> (N, C), for any H and W."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class AuxiliaryHead(nn.Module):
    """A classifier on an intermediate map, whose loss gives the lower layers more gradient (paper, section 5).

    (N, in_channels, H, W) -> (N, num_classes). At 224x224 the paper's 5x5 pool turns 14x14 maps into 4x4. For other
    sizes an adaptive pool to 4x4 follows, because the fully connected layer needs 128 x 4 x 4 inputs; maps smaller than
    5x5 skip the first pool.
    """

    def __init__(self, in_channels: int, architecture: Architecture, batch_norm_epsilon: float | None) -> None:
        super().__init__()
        is_paper = architecture.auxiliary_pool == "average"
        self.avgpool = nn.AvgPool2d(kernel_size=5, stride=3) if is_paper else nn.Identity()
        self.fit = nn.AdaptiveAvgPool2d(4)
        self.conv = Convolution(in_channels, 128, 1, batch_norm_epsilon=batch_norm_epsilon)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(architecture.auxiliary_dropout)
        self.fc2 = _classifier(1024, architecture.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) >= 5:
            x = self.avgpool(x)
        x = self.fit(x)  # (N, C, 4, 4)
        x = self.conv(x)  # (N, 128, 4, 4)
        x = self.relu(self.fc1(torch.flatten(x, 1)))  # (N, 1024)
        return self.fc2(self.dropout(x))  # (N, num_classes)


class GoogLeNetOutput(NamedTuple):
    """What a network with auxiliary heads returns in training mode, each (N, num_classes)."""

    logits: Tensor
    aux1: Tensor  # From the head after block 4a
    aux2: Tensor  # From the head after block 4d


class GoogLeNet(nn.Module):
    """The network of Szegedy et al. 2014, section 5: a stem, nine Inception blocks, one classifier.

    (N, in_channels, H, W) -> (N, num_classes) logits; in training mode with auxiliary heads, a `GoogLeNetOutput`.
    H and W are free down to `architecture.smallest_input()`.

    Without auxiliary heads, passing a batch through `named_children()` one by one gives what `forward` gives, which is
    how the tutorial checks its shapes. Raises `UserError` for an impossible architecture, and in `forward` for a batch
    of another shape or of fewer pixels than the pools allow.
    """

    num_features = 1024  # Features that the classifier reads: the channels of block 5b

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        _check(architecture)
        self.architecture = architecture
        self.info: Any = None  # The `ModelInfo` of the model file that the network came from, or None
        epsilon = architecture.batch_norm_epsilon if architecture.normalization == "batch" else None
        conv = functools.partial(Convolution, batch_norm_epsilon=epsilon)

        def lrn() -> nn.Module:
            return LocalResponseNorm(*architecture.lrn) if architecture.normalization == "lrn" else nn.Identity()

        def max_pool(kernel_size: int = 3) -> nn.MaxPool2d:
            padded = architecture.pool == "padded" and kernel_size == 3
            return nn.MaxPool2d(kernel_size, stride=2, padding=int(padded), ceil_mode=not padded)

        def block(row: InceptionRow) -> Inception:
            kernel = architecture.third_branch_kernel
            return Inception(*row[1:], third_branch_kernel=kernel, batch_norm_epsilon=epsilon)

        def auxiliary_head(in_channels: int) -> AuxiliaryHead | None:
            return AuxiliaryHead(in_channels, architecture, epsilon) if architecture.auxiliary else None

        blocks = {row.name: block(row) for row in architecture.blocks}
        same = (2, 3, 2, 3) if architecture.stem_padding == "same" else None
        self.conv1 = conv(architecture.in_channels, 64, 7, architecture.stem_stride, padding=same)
        self.maxpool1 = max_pool()
        self.lrn1 = lrn()
        self.conv2 = conv(64, 64, 1)
        self.conv3 = conv(64, 192, 3)
        self.lrn2 = lrn()
        self.maxpool2 = max_pool()
        self.inception3a = blocks["3a"]
        self.inception3b = blocks["3b"]
        self.maxpool3 = max_pool()
        self.inception4a = blocks["4a"]
        self.inception4b = blocks["4b"]
        self.inception4c = blocks["4c"]
        self.inception4d = blocks["4d"]
        self.inception4e = blocks["4e"]
        self.maxpool4 = max_pool(architecture.last_pool_kernel)
        self.inception5a = blocks["5a"]
        self.inception5b = blocks["5b"]
        self.avgpool = GlobalAveragePool()
        self.dropout = nn.Dropout(architecture.dropout)
        self.fc = _classifier(self.num_features, architecture.num_classes)
        self.aux1 = auxiliary_head(512)
        self.aux2 = auxiliary_head(528)
        initialize(self, architecture.initialization)

    def forward(self, x: Tensor) -> Tensor | GoogLeNetOutput:
        features, map_4a, map_4d = self._backbone(x)
        logits = self.forward_head(features)
        if self.training and self.aux1 is not None and self.aux2 is not None:
            return GoogLeNetOutput(logits, self.aux1(map_4a), self.aux2(map_4d))
        return logits

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps, before pooling: (N, in_channels, H, W) -> (N, 1024, H/32, W/32)."""
        return self._backbone(x)[0]

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits from the last feature maps: (N, 1024, H, W) -> (N, num_classes)."""
        x = self.avgpool(features)  # (N, 1024)
        x = self.dropout(x)
        return self.fc(x)  # (N, num_classes)

    def _backbone(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The maps after blocks 5b, 4a and 4d. Shapes in the comments are those of a 224x224 input."""
        self._check_input(x)
        x = self._stem(x)  # (N, 192, 28, 28)
        x = self.inception3a(x)  # (N, 256, 28, 28)
        x = self.inception3b(x)  # (N, 480, 28, 28)
        x = self.maxpool3(x)  # (N, 480, 14, 14)
        x = map_4a = self.inception4a(x)  # (N, 512, 14, 14)
        x = self.inception4b(x)  # (N, 512, 14, 14)
        x = self.inception4c(x)  # (N, 512, 14, 14)
        x = map_4d = self.inception4d(x)  # (N, 528, 14, 14)
        x = self.inception4e(x)  # (N, 832, 14, 14)
        x = self.maxpool4(x)  # (N, 832, 7, 7)
        x = self.inception5a(x)  # (N, 832, 7, 7)
        x = self.inception5b(x)  # (N, 1024, 7, 7)
        return x, map_4a, map_4d

    def _stem(self, x: Tensor) -> Tensor:
        x = self.conv1(x)  # (N, 64, 112, 112)
        x = self.maxpool1(x)  # (N, 64, 56, 56)
        x = self.lrn1(x)
        x = self.conv2(x)  # (N, 64, 56, 56)
        x = self.conv3(x)  # (N, 192, 56, 56)
        x = self.lrn2(x)
        return self.maxpool2(x)  # (N, 192, 28, 28)

    def reset_classifier(self, num_classes: int) -> None:
        """Put fresh classifiers, auxiliary ones too, for `num_classes` classes; 0 leaves the 1024 pooled features."""
        self.architecture = dataclasses.replace(self.architecture, num_classes=num_classes)
        like = self.conv1.conv.weight
        self.fc = _classifier(self.num_features, num_classes).to(like.device, like.dtype)
        for head in (self.aux1, self.aux2):
            if head is not None:
                head.fc2 = _classifier(1024, num_classes).to(like.device, like.dtype)
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
        if min(height, width) >= 16 * self.architecture.stem_stride:
            return  # enough for every way of pooling
        if min(self.architecture.spatial_sizes(min(height, width)).values()) < 1:
            smallest = self.architecture.smallest_input()
            raise UserError(
                f"an input of {height}x{width} pixels is too small for variant {self.architecture.variant!r}: "
                f"the smallest is {smallest}x{smallest}"
            )

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


def _classifier(in_features: int, num_classes: int) -> nn.Module:
    return nn.Linear(in_features, num_classes) if num_classes > 0 else nn.Identity()


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
        raise UserError("stem_padding 'same' is for a stem_stride of 2")
    for name in ("dropout", "auxiliary_dropout"):
        value = getattr(architecture, name)
        if not 0 <= value < 1:
            raise UserError(f"{name} is a probability, at least 0 and below 1, not {value}")
