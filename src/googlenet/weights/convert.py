"""Third-party weights: detect what they are from, and rename them to our state-dict names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from googlenet.choices import Resize
from googlenet.data import fashion_mnist
from googlenet.data.imagenet import imagenet_classes
from googlenet.data.transforms import InputSpec
from googlenet.errors import UserError, plural, reason_of
from googlenet.files import expand
from googlenet.model.architecture import VARIANTS, Architecture, Variant
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.model_file import ModelInfo, build, save, unnamed_classes, unreadable_as_user_error
from googlenet.weights.readers import Weights, read_tensors
from googlenet.weights.sources import CAFFE, MINDCV, OURS, OURS_LATER, SOURCES, TORCHVISION, V2, V3, V4, Source

_READABLE = "docs/weights.md lists the networks whose weights can be converted"
_CROP_PCT = 0.875  # 224 of 256 pixels, as everyone evaluates on ImageNet


def import_weights(
    path: str | Path, *, variant: Variant | None = None, stem_stride: int | None = None,
    classes: Sequence[str] | None = None, mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None, size: int | None = None, resize: Resize | None = None,
    use_ema: bool = True,
) -> GoogLeNet:  # fmt: skip
    """A network in eval mode from weights without our description; its `info` is a `ModelInfo`, as after `load`.

    Supported (docs/weights.md): files of torchvision's `googlenet` and `inception_v3`, timm's `inception_v3` and
    `inception_v4`, pretrainedmodels' `bninception`, the tutorial's code, d2l.ai's chapter 8.4 and our networks (`.pt`,
    `.pth`, `.ckpt`, `.safetensors`), also as checkpoints of training scripts and with prefixes such as `module.` and
    `_orig_mod.`; the ONNX model zoo's Inception v1 (`.onnx`); MindCV's GoogLeNet (`.ckpt` of MindSpore); and
    TensorFlow's inception5h (`.pb`).

    Args:
        path: the file. Pickles are read with `weights_only=True`: they cannot run code.
        variant: the variant, if names and shapes do not determine it.
        stem_stride: stride of the first convolution in pixels. Default: the variant's, 2; recipes for 28x28 use 1.
        classes: class names. Default: Fashion-MNIST's for the weights of tutorials, ImageNet's for 1,000 classes of
            torchvision, Caffe and MindCV, else numbers.
        mean: of pixels in 0..1, subtracted from them; one value, or one for each channel. Default: the source's.
        std: of pixels in 0..1, which they are divided by; like `mean`.
        size: height and width of the input in pixels. Default: the source's, mostly 224, or 299 for v3 and v4.
        resize: how images are made square: `stretch`, `crop` (7/8 of the shorter side) or `pad`. Default: the source's.
        use_ema: prefer the moving average of the weights, if a checkpoint has one.

    Raises:
        UserError: if the file is missing or damaged, would run code, or holds other weights, or if an argument does
            not fit them.
    """
    path = expand(path)
    source, weights = _recognize(path, read_tensors(path, use_ema=use_ema))
    try:
        if source in (OURS, OURS_LATER):
            variant = variant or detect_variant(weights)
        changes = {**source.changes, **(source.adapt(weights) if source.adapt else {})}
        in_channels, num_classes = weights["conv1.conv.weight"].shape[1], weights["fc.weight"].shape[0]
    except KeyError as error:
        raise UserError(f"{path} holds the weights of another network: {error} is missing; {_READABLE}") from error
    except (IndexError, RuntimeError, ValueError) as error:
        raise UserError(f"{path} holds the weights of another network ({reason_of(error)}); {_READABLE}") from error
    variant = variant or source.variant
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r}; use one of: {', '.join(VARIANTS)}")
    if stem_stride is not None:
        changes["stem_stride"] = stem_stride
    found = dataclasses.replace(
        VARIANTS[variant],
        in_channels=in_channels, num_classes=num_classes, auxiliary="aux1.fc2.weight" in weights, **changes,
    )  # fmt: skip
    if source is OURS and variant == "torchvision":
        source = TORCHVISION
    spec = _input_spec(found, source, mean=mean, std=std, size=size, resize=resize)
    try:
        net = build(found, weights)
    except (RuntimeError, ValueError) as error:  # sparse tensors cannot be copied as others are
        raise UserError(
            f"{path} does not fit variant {variant!r} ({reason_of(error)}); name another, or none"
        ) from error
    net.check_size(spec.size, spec.size)
    net.info = ModelInfo(found, _class_names(found, source, classes), spec)
    return net


def import_to_file(
    path: Path, output: Path | None, *, class_file: Path | None = None, variant: Variant | None = None,
    stem_stride: int | None = None, mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
    size: int | None = None, resize: Resize | None = None, use_ema: bool = True,
) -> tuple[Path, ModelInfo]:  # fmt: skip
    """Import weights and write them to a model file. Default output: `path` with the suffix .safetensors.

    Raises `UserError` like `import_weights`, if the class file cannot be read, or if `path` would be overwritten;
    `RunError` if the model file cannot be written.
    """
    classes = None
    if class_file is not None:
        with unreadable_as_user_error(class_file, "class names"):
            text = expand(class_file).read_text(encoding="utf-8-sig")
        classes = [name for line in text.split("\n") if (name := line.strip())]
    target = output or path.with_suffix(".safetensors")
    if target.resolve() == path.resolve() or (output is None and target.exists()):
        raise UserError(f"{target} would be overwritten: name another file with --output")
    net = import_weights(
        path, variant=variant, stem_stride=stem_stride, classes=classes, mean=mean, std=std, size=size, resize=resize,
        use_ema=use_ema,
    )  # fmt: skip
    save(net, net.info, target)
    return target, net.info


def _recognize(path: Path, weights: Weights) -> tuple[Source, Weights]:
    """The source of weights, and the weights under our names and without the prefix of a wrapper."""
    # torch.compile adds its prefix wherever it was called, also to a single block
    weights = {name.replace("_orig_mod.", ""): tensor for name, tensor in weights.items()}
    found = [
        (source, name.removesuffix(source.key))
        for source in SOURCES
        for name in weights
        if name == source.key or name.endswith((f".{source.key}", f"/{source.key}"))
    ]
    if not found:
        raise UserError(
            f"{path} holds the weights of another network: GoogLeNet has names like {OURS.key!r}, the file has names "
            f"like {next(iter(weights))!r}; {_READABLE}"
        )
    if len(found) > 1:
        prefixes = " and ".join(repr(prefix + source.key) for source, prefix in found[:2])
        raise UserError(f"{path} holds several networks, with {prefixes}: save the state dict of one of them")
    source, prefix = found[0]
    renamed = {}
    for name, tensor in weights.items():
        unprefixed = name.removeprefix(prefix)
        if name.startswith(prefix) and unprefixed in source.names:
            renamed[source.names[unprefixed]] = tensor
        elif source.is_graph or name == "n_averaged":  # a counter of torch's AveragedModel
            continue
        elif name.startswith(prefix):
            renamed[unprefixed] = tensor
        else:
            raise UserError(
                f"{path} holds more than one network: {name!r} does not start with {prefix!r} as the others do; save "
                "the state dict of the network alone"
            )
    return source, renamed


def detect_variant(weights: Weights) -> Variant:
    """The variant of weights under our names. Raises `KeyError` or `IndexError` for those of another network."""
    if "inception6b.branch1.conv.weight" in weights:
        return "v4" if "inception7d.branch1.conv.weight" in weights else "v3"
    if "inception3a.branch3.2.conv.weight" in weights:
        return "v2"
    third_branch_kernel = weights["inception3a.branch3.1.conv.weight"].shape[2]
    if "conv1.bn.weight" in weights:
        return "torchvision" if third_branch_kernel == 3 else "bn"
    return "paper" if "aux1.fc2.weight" in weights else "tutorial"


def _class_names(found: Architecture, source: Source, classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes is None:
        is_tutorial = found.variant == "tutorial" and source is not MINDCV
        if is_tutorial and (found.in_channels, found.num_classes) == (1, 10):
            return fashion_mnist.CLASSES
        if source in (TORCHVISION, CAFFE, MINDCV, V2, V3, V4) and (found.in_channels, found.num_classes) == (3, 1000):
            return imagenet_classes()
        return unnamed_classes(found.num_classes)
    if len(classes) != found.num_classes:
        raise UserError(f"the weights have {plural(found.num_classes, 'class')}, but {len(classes)} names are given")
    if repeated := [name for number, name in enumerate(classes) if name in classes[:number]]:
        raise UserError(f"the class name {repeated[0]!r} is given more than once: class names must be unique")
    return tuple(classes)


def _input_spec(
    found: Architecture, source: Source, *, mean: float | Sequence[float] | None, std: float | Sequence[float] | None,
    size: int | None, resize: Resize | None,
) -> InputSpec:  # fmt: skip
    """The source's, with what the user says instead."""

    def of_channels(name: str, given: float | Sequence[float] | None, usual: tuple[float, ...]) -> tuple[float, ...]:
        if given is None:  # the average for images with other channels than the source's
            given = usual if len(usual) in (1, found.in_channels) else (sum(usual) / len(usual),)
        values = (given,) if isinstance(given, int | float) else tuple(given)
        if len(values) not in (1, found.in_channels):
            raise UserError(
                f"{name} has {len(values)} values: give one, or one for each of {found.in_channels} channels"
            )
        lowest = 0 if name == "mean" else 1e-6
        if wrong := [value for value in values if not lowest <= value <= 1]:
            raise UserError(f"{name} is of pixels from 0 to 1, not {wrong[0]}: divide values of 0 to 255 by 255")
        return values if len(values) > 1 else values * found.in_channels

    if size is None:
        size = source.size or found.usual_size
    if found.stem_padding == "same" and size % 32:
        raise UserError(
            f"size must be a multiple of 32 for weights of {source.name}, not {size}: it pads other sizes differently"
        )
    if resize is None:
        resize = "crop" if source.crop else "stretch"
    if resize not in get_args(Resize):
        raise UserError(f"resize must be one of {', '.join(get_args(Resize))}, not {resize!r}")
    return InputSpec(
        found.in_channels,
        size,
        of_channels("mean", mean, source.mean),
        of_channels("std", std, source.std),
        resize=resize,
        crop_pct=_CROP_PCT if resize == "crop" else 1.0,
    )
