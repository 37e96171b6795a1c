"""How good a network is on a split: every image exactly once, in eval mode, without gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from googlenet.data.dataset import ImageSplit
from googlenet.data.transforms import InputSpec
from googlenet.device import autocast, resolve_device, resolve_precision
from googlenet.errors import UserError, check_counts
from googlenet.evaluation.calibration import Reliability, reliability

BATCH_SIZE = 256


@dataclass(frozen=True)
class Evaluation:
    """What a network said of a split, and how good that is."""

    classes: tuple[str, ...]
    logits: Tensor
    """float32, (N, number of classes), in the split's order."""
    labels: Tensor
    """int64, (N,)."""
    images_per_second: float
    temperature: float = 1.0
    """What the logits are divided by before they are made probabilities. It changes no ranks."""
    confidence: float = 0.0
    """The probability that the likeliest class must reach for the network to answer; 0: it always does."""

    @property
    def loss(self) -> float:
        """Mean cross-entropy per image, in nats, as in training: at temperature 1."""
        return float(F.cross_entropy(self.logits, self.labels))

    @property
    def accuracy(self) -> float:
        """Share of images whose label is the likeliest class, the first of several that are as likely."""
        return float((self.logits.argmax(dim=1) == self.labels).double().mean())

    def top_k(self, k: int) -> float:
        """Share of images whose label is among the `k` likeliest classes."""
        best = self.logits.topk(k, dim=1).indices
        return float((best == self.labels[:, None]).any(dim=1).double().mean())

    @property
    def probabilities(self) -> Tensor:
        """float32, (N, number of classes), at the temperature."""
        return (self.logits / self.temperature).softmax(dim=1)

    @property
    def reliability(self) -> Reliability:
        """Confidence beside accuracy, at the temperature."""
        return reliability(self.probabilities, self.labels)

    @property
    def reliability_before(self) -> Reliability:
        """The same at temperature 1."""
        return reliability(self.logits.softmax(dim=1), self.labels)

    @property
    def answers(self) -> Coverage:
        """What is answered at the confidence asked for: one threshold."""
        return coverage_at(self.probabilities, self.labels, [self.confidence])

    @property
    def coverage_curve(self) -> Coverage:
        return coverage_curve(self.probabilities, self.labels)

    @property
    def confusion_matrix(self) -> Tensor:
        """int64, (true class, predicted class)."""
        return multiclass_confusion_matrix(self.logits, self.labels, num_classes=len(self.classes))

    def worst_mistakes(self, count: int) -> Tensor:
        """Indices of the wrongly classified images that the network was most confident of, the worst first."""
        confidence, predicted = self.probabilities.max(dim=1)
        confidence = confidence.masked_fill(predicted == self.labels, -1)
        wrong = int((predicted != self.labels).sum())
        return confidence.argsort(descending=True, stable=True)[: min(count, wrong)]

    def to_dict(self) -> dict[str, Any]:
        """Every figure, as JSON takes it. The calibration error is over 15 bins of confidence (Guo et al. 2017)."""
        bins, answers = self.reliability, self.answers.to_dict()
        count = len(self.classes)
        per_class = {
            "precision": multiclass_precision(self.logits, self.labels, num_classes=count, average="none"),
            "recall": multiclass_recall(self.logits, self.labels, num_classes=count, average="none"),
            "f1": multiclass_f1_score(self.logits, self.labels, num_classes=count, average="none"),
        }
        images = torch.bincount(self.labels, minlength=count)
        return {
            "images": len(self.labels),
            "loss": self.loss,
            "accuracy": self.accuracy,
            "top_3_accuracy": self.top_k(min(3, count)),
            "balanced_accuracy": float(per_class["recall"][images > 0].mean()),
            "expected_calibration_error": bins.expected_calibration_error,
            "images_per_second": round(self.images_per_second, 1),
            "calibration": {
                "temperature": self.temperature,
                "expected_calibration_error_before": self.reliability_before.expected_calibration_error,
                "loss": float(F.cross_entropy(self.logits / self.temperature, self.labels)),
                "bins": bins.to_dict(),
            },
            "answers": {"images": int(self.answers.answered), **{name: value for name, (value,) in answers.items()}},
            "coverage_curve": self.coverage_curve.to_dict(),
            "per_class": {
                name: {"images": int(images[i]), **{key: float(values[i]) for key, values in per_class.items()}}
                for i, name in enumerate(self.classes)
            },
            "confusion_matrix": self.confusion_matrix.tolist(),
        }


@torch.inference_mode()
def collect_logits(
    net: nn.Module,
    split: ImageSplit,
    spec: InputSpec,
    *,
    device: torch.device,
    precision: str,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """The network's float32 logits for every image of a split, in order: (N, number of classes), on the CPU.

    `progress` is called with the number of images done, after each batch. The network is left in the mode it was in.
    """
    was_training = net.training
    net.eval()
    collected = []
    try:
        for start in range(0, len(split), batch_size):
            images, _ = split.__getitems__(torch.arange(start, min(start + batch_size, len(split))))
            batch = spec.prepare(images.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
            with autocast(device, precision):
                collected.append(net(batch).float().cpu())
            if progress is not None:
                progress(len(images))
    finally:
        net.train(was_training)
    return torch.cat(collected)


@contextmanager
def progress_bar(what: str, images: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where that is a terminal; what it gives is told how many images more are done."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=images)
        yield lambda done: progress.advance(task, done)


def evaluate(
    net: nn.Module,
    split: ImageSplit,
    spec: InputSpec,
    classes: Sequence[str],
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = BATCH_SIZE,
    temperature: float = 1.0,
    confidence: float = 0.0,
) -> Evaluation:
    """Run a network over a split, with a progress bar where there is a terminal.

    Args:
        net: the network; it is moved to the device.
        split: the images and their labels.
        spec: what the network expects of its input.
        classes: the names of the network's classes.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: auto, fp32, bf16, fp16; of the computation.
        batch_size: images a batch. It changes nothing but the speed and the memory needed.
        temperature: the network's; its model file says it (`net.info.temperature`).
        confidence: the probability, 0 to 1, that the likeliest class must reach for the network to answer.

    Raises:
        UserError: where the split's channels or labels are not what the network was made for, or the confidence is no
            probability.
    """
    check_confidence(confidence)
    check_counts(batch_size=batch_size)
    check_fits(split, spec, classes)
    where = resolve_device(device)
    how = resolve_precision(precision, where)
    net.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with progress_bar("evaluating", len(split)) as advance:
        start = time.perf_counter()
        logits = collect_logits(
            net,
            split,
            spec,
            device=where,
            precision=how,
            batch_size=batch_size,
            progress=advance,
        )
        seconds = time.perf_counter() - start
    return Evaluation(tuple(classes), logits, split.labels, len(split) / seconds, temperature, confidence)


def check_fits(split: ImageSplit, spec: InputSpec, classes: Sequence[str]) -> None:
    """Raises `UserError` where a split's channels or labels are not what a network was made for."""
    if split.images.shape[1] != spec.channels:
        raise UserError(f"the model takes images of {spec.channels} channel(s), the data has {split.images.shape[1]}")
    if int(split.labels.max()) >= len(classes):
        raise UserError(f"the model knows {len(classes)} classes, the data has {int(split.labels.max()) + 1}")


@dataclass(frozen=True)
class Coverage:
    """What is answered at each of some thresholds."""

    confidence: Tensor
    """float64, (thresholds,): the probability that an answer must reach."""
    answered: Tensor
    """int64, (thresholds,): images whose likeliest class reaches it."""
    right: Tensor
    """int64, (thresholds,): those among them whose likeliest class is the true one."""
    images: int

    @property
    def share(self) -> Tensor:
        """float64, (thresholds,): the share of all images that is answered."""
        return self.answered.double() / self.images

    @property
    def accuracy(self) -> Tensor:
        """float64, (thresholds,): the share of the answers that is right; not a number where nothing is answered."""
        return self.right.double() / self.answered

    def to_dict(self) -> dict[str, list[Any]]:
        """Lists of the same length; an accuracy without answers is None."""
        return {
            "confidence": [round(value, 4) for value in self.confidence.tolist()],
            "coverage": [round(value, 4) for value in self.share.tolist()],
            "accuracy": [
                round(value, 4) if count else None
                for value, count in zip(self.accuracy.tolist(), self.answered.tolist(), strict=True)
            ],
        }


def coverage_at(probabilities: Tensor, labels: Tensor, thresholds: Sequence[float]) -> Coverage:
    """Answer at each threshold: probabilities (N, number of classes) of images with labels (N,)."""
    confidence, said = probabilities.double().max(dim=1)
    confidence, order = confidence.sort(descending=True)
    right_among_first = torch.cat((torch.zeros(1, dtype=torch.int64), (said == labels)[order].cumsum(0)))
    needed = torch.tensor(thresholds, dtype=torch.float64)
    answered = torch.searchsorted(-confidence, -needed, right=True)
    return Coverage(needed, answered, right_among_first[answered], len(labels))


def coverage_curve(probabilities: Tensor, labels: Tensor) -> Coverage:
    """What is answered at the thresholds 0.00, 0.01, ..., 1.00."""
    return coverage_at(probabilities, labels, [number / 100 for number in range(101)])


def check_confidence(confidence: float) -> float:
    """A threshold as it was given. Raises `UserError` where it is no probability."""
    if not 0 <= confidence <= 1:
        raise UserError(f"confidence is a probability from 0 to 1, not {confidence}")
    return confidence
