"""How good a network is on a split: every image exactly once, in eval mode, without gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from googlenet.data.dataset import ImageSplit
from googlenet.data.input_spec import InputSpec
from googlenet.errors import UserError
from googlenet.machine import autocast, resolve_device, resolve_precision

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

    @property
    def loss(self) -> float:
        """Mean cross-entropy per image, in nats."""
        return float(F.cross_entropy(self.logits, self.labels))

    @property
    def accuracy(self) -> float:
        return self.top_k(1)

    def top_k(self, k: int) -> float:
        """Share of images whose label is among the `k` likeliest classes."""
        best = self.logits.topk(k, dim=1).indices
        return float((best == self.labels[:, None]).any(dim=1).double().mean())

    @property
    def probabilities(self) -> Tensor:
        return self.logits.softmax(dim=1)

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
        count = len(self.classes)
        per_class = {
            "precision": multiclass_precision(self.logits, self.labels, num_classes=count, average="none"),
            "recall": multiclass_recall(self.logits, self.labels, num_classes=count, average="none"),
            "f1": multiclass_f1_score(self.logits, self.labels, num_classes=count, average="none"),
        }
        images = torch.bincount(self.labels, minlength=count)
        calibration = multiclass_calibration_error(self.logits, self.labels, num_classes=count, n_bins=15)
        macro = multiclass_accuracy(self.logits, self.labels, num_classes=count, average="macro")
        return {
            "images": len(self.labels),
            "loss": self.loss,
            "accuracy": self.accuracy,
            "top_3_accuracy": self.top_k(min(3, count)),
            "balanced_accuracy": float(macro),
            "expected_calibration_error": float(calibration),
            "images_per_second": round(self.images_per_second, 1),
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


def evaluate(
    net: nn.Module,
    split: ImageSplit,
    spec: InputSpec,
    classes: Sequence[str],
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = BATCH_SIZE,
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

    Raises:
        UserError: where the split's channels or labels are not what the network was made for.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is 1 or more, not {batch_size}")
    check_fits(split, spec, classes)
    where = resolve_device(device)
    how = resolve_precision(precision, where)
    net.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("evaluating", total=len(split))
        start = time.perf_counter()
        logits = collect_logits(
            net,
            split,
            spec,
            device=where,
            precision=how,
            batch_size=batch_size,
            progress=lambda images: progress.advance(task, images),
        )
        seconds = time.perf_counter() - start
    return Evaluation(tuple(classes), logits, split.labels, len(split) / seconds)


def check_fits(split: ImageSplit, spec: InputSpec, classes: Sequence[str]) -> None:
    """Raises `UserError` where a split's channels or labels are not what a network was made for."""
    if split.images.shape[1] != spec.channels:
        raise UserError(f"the model takes images of {spec.channels} channel(s), the data has {split.images.shape[1]}")
    if int(split.labels.max()) >= len(classes):
        raise UserError(f"the model knows {len(classes)} classes, the data has {int(split.labels.max()) + 1}")
