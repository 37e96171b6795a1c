"""Evaluation as values: accuracy, scores per class, calibration, coverage; and the logits that they are computed from.

Every image counts exactly once, in eval mode, without gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from googlenet.data.dataset import ImageSplit
from googlenet.data.transforms import InputSpec
from googlenet.device import DTYPES
from googlenet.evaluation.calibration import Reliability, reliability
from googlenet.model.fuse import fused


@dataclass(frozen=True)
class Coverage:
    """How many images are confident, their predicted class at least as likely as a threshold, and correct."""

    confidence: Tensor  # float64, (T,): the thresholds
    confident: Tensor  # int64, (T,): confident images
    correct: Tensor  # int64, (T,): confident images whose predicted class is the true one
    images: int  # all images, confident or not

    @property
    def fraction(self) -> Tensor:
        """float64, (T,): the fraction of all images that is confident, known as coverage."""
        return self.confident.double() / self.images

    @property
    def accuracy(self) -> Tensor:
        """float64, (T,): accuracy on the confident images; NaN if there are none."""
        return self.correct.double() / self.confident

    def to_dict(self) -> dict[str, list[Any]]:
        """Lists of length T; accuracy is None if no image is confident."""
        values = {"confidence": self.confidence, "coverage": self.fraction, "accuracy": self.accuracy}
        return {
            name: [None if math.isnan(value) else round(value, 4) for value in tensor.tolist()]
            for name, tensor in values.items()
        }


def coverage_at(probabilities: Tensor, labels: Tensor, thresholds: Sequence[float]) -> Coverage:
    """The coverage of probabilities (N, classes) of images with labels (N,) at each threshold."""
    confidence, predicted = probabilities.double().max(dim=1)
    confidence, order = confidence.sort(descending=True)
    correct_among_first = torch.cat((torch.zeros(1, dtype=torch.int64), (predicted == labels)[order].cumsum(0)))
    minimum = torch.tensor(thresholds, dtype=torch.float64)
    confident = torch.searchsorted(-confidence, -minimum, right=True)
    return Coverage(minimum, confident, correct_among_first[confident], len(labels))


@dataclass(frozen=True)
class Evaluation:
    """The logits of a network for the images of a split, and every metric computed from them."""

    classes: tuple[str, ...]
    logits: Tensor  # float32, (N, classes), in the order of the split
    labels: Tensor  # int64, (N,)
    images_per_second: float
    temperature: float = 1.0  # logits are divided by it before the softmax; it does not change the predicted class
    confidence: float = 0.0  # the threshold of `coverage`: a probability from 0 to 1

    @property
    def loss(self) -> float:
        """Mean cross-entropy per image in nats, at temperature 1, as in training."""
        return float(F.cross_entropy(self.logits, self.labels))

    @property
    def accuracy(self) -> float:
        """Fraction of images whose label is the predicted class; of equally likely classes, the first is predicted."""
        return float((self.logits.argmax(dim=1) == self.labels).double().mean())

    def top_k(self, k: int) -> float:
        """Fraction of images whose label is among the `k` most likely classes."""
        most_likely = self.logits.topk(k, dim=1).indices
        return float((most_likely == self.labels[:, None]).any(dim=1).double().mean())

    @property
    def probabilities(self) -> Tensor:
        """float32, (N, classes), at the temperature."""
        return (self.logits / self.temperature).softmax(dim=1)

    @property
    def reliability(self) -> Reliability:
        """Confidence and accuracy in bins, at the temperature."""
        return reliability(self.probabilities, self.labels)

    @property
    def coverage(self) -> Coverage:
        """At the one threshold `confidence`."""
        return coverage_at(self.probabilities, self.labels, [self.confidence])

    @property
    def coverage_curve(self) -> Coverage:
        """At the thresholds 0.00, 0.01, ..., 1.00."""
        return coverage_at(self.probabilities, self.labels, [percent / 100 for percent in range(101)])

    @property
    def confusion_matrix(self) -> Tensor:
        """int64, (true class, predicted class): counts."""
        count = len(self.classes)
        return (self.labels * count + self.logits.argmax(dim=1)).bincount(minlength=count**2).view(count, count)

    @property
    def captions(self) -> list[str]:
        """For each image, two lines: the predicted class with its probability, and the true class."""
        confidence, predicted = (values.tolist() for values in self.probabilities.max(dim=1))
        names, rows = self.classes, zip(predicted, confidence, self.labels.tolist(), strict=True)
        return [f"{names[guess]} ({probability:.0%})\n{names[label]}" for guess, probability, label in rows]

    def worst_mistakes(self, count: int) -> Tensor:
        """Indices of the misclassified images with the highest confidence, highest first: int64, at most (count,)."""
        confidence, predicted = self.probabilities.max(dim=1)
        confidence = confidence.masked_fill(predicted == self.labels, -1)
        mistakes = int((predicted != self.labels).sum())
        return confidence.argsort(descending=True, stable=True)[: min(count, mistakes)]

    def to_dict(self) -> dict[str, Any]:
        """Every metric, ready for JSON. Calibration errors are over 15 bins (Guo et al. 2017)."""
        from torchmetrics.functional import classification  # Imported here: takes a second

        bins, coverage, count = self.reliability, self.coverage, len(self.classes)
        options: dict[str, Any] = {"num_classes": count, "average": "none"}
        per_class = {
            "images": torch.bincount(self.labels, minlength=count),
            "precision": classification.multiclass_precision(self.logits, self.labels, **options),
            "recall": classification.multiclass_recall(self.logits, self.labels, **options),
            "f1": classification.multiclass_f1_score(self.logits, self.labels, **options),
        }
        error_before = replace(self, temperature=1.0).reliability.expected_calibration_error
        return {
            "images": len(self.labels),
            "loss": self.loss,
            "accuracy": self.accuracy,
            "top_3_accuracy": self.top_k(min(3, count)),
            "balanced_accuracy": float(per_class["recall"][per_class["images"] > 0].mean()),
            "expected_calibration_error": bins.expected_calibration_error,
            "images_per_second": round(self.images_per_second, 1),
            "calibration": {
                "temperature": self.temperature,
                "expected_calibration_error_before": error_before,
                "loss": float(F.cross_entropy(self.logits / self.temperature, self.labels)),
                "bins": bins.to_dict(),
            },
            "coverage": {"images": int(coverage.confident), **{name: x for name, (x,) in coverage.to_dict().items()}},
            "coverage_curve": self.coverage_curve.to_dict(),
            "per_class": {
                name: {key: values[number].item() for key, values in per_class.items()}
                for number, name in enumerate(self.classes)
            },
            "confusion_matrix": self.confusion_matrix.tolist(),
        }


def collect_logits(
    net: nn.Module, split: ImageSplit, spec: InputSpec, *, device: torch.device, precision: str,
    batch_size: int = 256, advance: Callable[[int], None] | None = None,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """The logits for every image of a split, in order: float32, (N, classes), on the CPU.

    The network must be on the device; it is left as it was. `advance` is called with the size of each batch. `forward`
    replaces the forward pass of the network on a batch.
    """
    collected, is_half = [], precision != "fp32"
    with eval_mode(net), fused(net), torch.inference_mode():
        for start in range(0, len(split), batch_size):
            images, _ = split.__getitems__(torch.arange(start, min(start + batch_size, len(split))))
            batch = spec.prepare(images.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, DTYPES[precision] if is_half else None, enabled=is_half):
                collected.append((forward or net)(batch).float().cpu())
            if advance is not None:
                advance(len(images))
    return torch.cat(collected)


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Within it, the network is in eval mode. Restored module by module: a frozen batch norm stays in eval mode."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def on_device(net: nn.Module, device: torch.device) -> Iterator[None]:
    """Within it, the network is on the device, channels-last; then it is moved back."""
    origin = next((tensor.device for tensor in chain(net.parameters(), net.buffers())), device)
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        net.to(origin)
