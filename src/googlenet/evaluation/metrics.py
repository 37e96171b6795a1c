"""Evaluation as values: predictions, accuracy, scores per class, calibration, coverage; and the logits behind them.

Every image counts exactly once, in eval mode, without gradients.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from googlenet.data.crops import average, crops_of
from googlenet.data.dataset import ImageSplit
from googlenet.data.transforms import InputSpec
from googlenet.device import DTYPES
from googlenet.errors import UserError
from googlenet.evaluation.calibration import Reliability, reliability
from googlenet.evaluation.scores import (
    RESAMPLES,
    balanced_accuracy_interval,
    defined,
    interval_of,
    mean_defined,
    roc_auc,
    scores_by_class,
)
from googlenet.files import printable
from googlenet.model.fuse import fused
from googlenet.weights.model_file import KnownRule

PASS_RATE = 0.95  # of the images that a `KnownRule` is fitted on
WORST = 32  # mistakes that a report shows


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
    """The logits of a network for the images of a split, and every metric computed from them.

    Intervals are at 95%: Wilson's for fractions of images, a bootstrap for the balanced accuracy. A score that is
    undefined, for example the recall of a class without images, is NaN in a tensor and None in `to_dict`.
    """

    classes: tuple[str, ...]
    logits: Tensor  # float32, (N, classes), in the order of the split
    labels: Tensor  # int64, (N,)
    images_per_second: float
    temperature: float = 1.0  # logits are divided by it before the softmax; it does not change the predicted class
    confidence: float = 0.0  # the threshold of `coverage`: a probability from 0 to 1
    files: Sequence[str] = ()  # the name of each image; default: its number
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of a table of files: N values each
    rule: KnownRule | None = None  # which images belong to one of the classes
    unknown_logits: Tensor | None = None  # float32, (M, classes): of images of none of the classes
    crops: int = 1  # of each image, whose predictions are averaged

    def __post_init__(self) -> None:
        if not self.files:
            object.__setattr__(self, "files", tuple(map(str, range(len(self.labels)))))

    @property
    def loss(self) -> float:
        """Mean cross-entropy per image in nats, at temperature 1, as in training."""
        return float(F.cross_entropy(self.logits, self.labels))

    @property
    def correct(self) -> Tensor:
        """bool, (N,): whether the label is the predicted class; of equally likely classes, the first is predicted."""
        return self.logits.argmax(dim=1) == self.labels

    @property
    def accuracy(self) -> float:
        """Fraction of images whose label is the predicted class."""
        return float(self.correct.double().mean())

    @property
    def ranks(self) -> Tensor:
        """int64, (N,): the place of the label among the classes, the most likely one first; 1 is correct."""
        own, classes = self.logits.gather(1, self.labels[:, None]), torch.arange(len(self.classes))
        is_before = (self.logits > own) | ((self.logits == own) & (classes < self.labels[:, None]))
        return 1 + is_before.sum(dim=1)

    def top_k(self, k: int) -> float:
        """Fraction of images whose label is among the `k` most likely classes."""
        return float((self.ranks <= k).double().mean())

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
        cells = self.labels * count + self.logits.argmax(dim=1)
        return torch.bincount(cells, minlength=count * count).view(count, count)

    @property
    def captions(self) -> list[str]:
        """For each image, two lines: the predicted class with its probability, and the true class."""
        confidence, predicted = (values.tolist() for values in self.probabilities.max(dim=1))
        names, rows = self.classes, zip(predicted, confidence, self.labels.tolist(), strict=True)
        return [f"{names[guess]} ({probability:.0%})\n{names[label]}" for guess, probability, label in rows]

    @property
    def is_known(self) -> Tensor | None:
        """bool, (N,): whether the rule takes each image for one of the classes; None without a rule."""
        return None if self.rule is None else self.rule.accepts(self.rule.scores(self.logits))

    @property
    def digest(self) -> str:
        """SHA-256 of the names and labels of the images, to recognize them."""
        lines = zip(self.files, self.labels.tolist(), strict=True)
        return sha256("".join(f"{printable(file)} {label}\n" for file, label in lines).encode()).hexdigest()

    def fit_known(self, fitted_on: str) -> KnownRule:
        """The rule that 95% of these images pass, or the next larger fraction that is possible."""
        scores = KnownRule.scores(self.logits).sort().values
        rejected = math.floor((1 - PASS_RATE) * len(scores) + 1e-9)
        return KnownRule(float(scores[rejected]), fitted_on, len(scores), self.digest)

    def known_to_dict(self) -> dict[str, Any] | None:
        """How many images the rule takes for known, and of those of none of the classes, if there are any."""
        if self.rule is None and self.unknown_logits is None:
            return None
        result: dict[str, Any] = {}
        if self.rule is not None and (known := self.is_known) is not None:
            result = {
                "fraction": float(known.double().mean()),
                "fraction_interval": interval_of(int(known.sum()), len(known)),
                "threshold": self.rule.threshold,
                "fitted_on": self.rule.fitted_on,
                "fitted_on_these_images": self.rule.digest == self.digest,
            }
        if self.unknown_logits is not None:
            scores = KnownRule.scores(self.unknown_logits)
            area, interval = roc_auc(KnownRule.scores(self.logits), scores)
            result["unknown"] = {"images": len(scores), "roc_auc": area, "roc_auc_interval": interval}
            if self.rule is not None:
                rejected = int((~self.rule.accepts(scores)).sum())
                result["unknown"] |= {
                    "rejected": rejected / len(scores),
                    "rejected_interval": interval_of(rejected, len(scores)),
                }
        return result

    def worst_mistakes(self, count: int) -> Tensor:
        """Indices of the misclassified images with the highest confidence, highest first: int64, at most (count,)."""
        mistakes = (~self.correct).nonzero().squeeze(1)
        # In double precision: rounded to 1, the highest probabilities would be equal
        confidence = (self.logits[mistakes].double() / self.temperature).softmax(dim=1).amax(dim=1)
        return mistakes[confidence.argsort(descending=True, stable=True)[:count]]

    @cached_property
    def class_scores(self) -> dict[str, Tensor]:
        """Precision, recall, F1, ROC AUC, average precision and intervals by class; see `scores_by_class`.

        ROC AUC and average precision compare one class with all others by its probability, at the temperature.
        """
        # Logarithms in double precision: rounded to 1, the highest probabilities would be equal
        scores = (self.logits.double() / self.temperature).log_softmax(dim=1)
        return scores_by_class(self.confusion_matrix, scores, self.labels)

    def predictions(self, chosen: Tensor | None = None) -> dict[str, list[Any]]:
        """Columns with a value for each image, or for those with the indices `chosen`, in this order.

        `probability` is that of the predicted class at the temperature, `loss` the cross-entropy in nats at temperature
        1, `confident` whether the probability is at least the threshold, `rank` as in `ranks`, `known` as in `is_known`
        if there is a rule. The columns of a table of files follow; one that has the name of ours becomes `NAME (data)`.
        """
        chosen = torch.arange(len(self.labels)) if chosen is None else chosen
        confidence, predicted = (values[chosen] for values in self.probabilities.double().max(dim=1))
        losses = F.cross_entropy(self.logits[chosen], self.labels[chosen], reduction="none")
        names, indices = [printable(name) for name in self.classes], chosen.tolist()
        own: dict[str, list[Any]] = {
            "file": [printable(self.files[index]) for index in indices],
            "class": [names[label] for label in self.labels[chosen].tolist()],
            "predicted": [names[label] for label in predicted.tolist()],
            "probability": [round(value, 6) for value in confidence.tolist()],
            "loss": [round(value, 6) for value in losses.tolist()],
            "confident": (confidence >= self.confidence).tolist(),
            "rank": self.ranks[chosen].tolist(),
        }
        if (known := self.is_known) is not None:
            own["known"] = known[chosen].tolist()
        return own | {
            f"{name} (data)" if name in own else printable(name): [printable(values[index]) for index in indices]
            for name, values in self.columns.items()
        }

    def worst(self, count: int) -> list[dict[str, Any]]:
        """Rows of `predictions` for the `worst_mistakes`."""
        columns = self.predictions(self.worst_mistakes(count))
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def by(self, column: str) -> list[dict[str, Any]]:
        """Images, accuracy and its interval for each value of a column of the data, the most frequent value first.

        Raises `UserError` for an unknown column.
        """
        check_column(self.columns, column)
        images = Counter(self.columns[column])
        correct = Counter(
            value for value, is_correct in zip(self.columns[column], self.correct.tolist(), strict=True) if is_correct
        )
        return [
            {
                "value": printable(value),
                "images": count,
                "accuracy": correct[value] / count,
                "accuracy_interval": interval_of(correct[value], count),
            }
            for value, count in images.most_common()
        ]

    def to_dict(self, by: str | None = None) -> dict[str, Any]:
        """Every metric, ready for JSON; with `by`, also those by the value of that column, `by` in the result.

        Calibration errors are over 15 bins (Guo et al. 2017). Raises `UserError` for an unknown column.
        """
        bins, coverage, count = self.reliability, self.coverage, len(self.classes)
        matrix, scores = self.confusion_matrix, self.class_scores
        images, correct, k = matrix.sum(dim=1), matrix.diag(), min(3, count)
        per_class = {name: values.tolist() for name, values in scores.items()}
        error_before = replace(self, temperature=1.0).reliability.expected_calibration_error
        confident = {key: value for key, (value,) in coverage.to_dict().items()}
        return {
            "images": len(self.labels),
            "crops": self.crops,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "accuracy_interval": interval_of(int(correct.sum()), len(self.labels)),
            "top_3_accuracy": self.top_k(k),
            "top_3_accuracy_interval": interval_of(int((self.ranks <= k).sum()), len(self.labels)),
            "balanced_accuracy": mean_defined(scores["recall"]),
            "balanced_accuracy_interval": balanced_accuracy_interval(correct, images),
            "roc_auc": mean_defined(scores["roc_auc"]),
            "average_precision": mean_defined(scores["average_precision"]),
            "intervals": {"level": 0.95, "bootstrap_resamples": RESAMPLES},
            "expected_calibration_error": bins.expected_calibration_error,
            "images_per_second": round(self.images_per_second, 1),
            "calibration": {
                "temperature": self.temperature,
                "expected_calibration_error_before": error_before,
                "loss": float(F.cross_entropy(self.logits / self.temperature, self.labels)),
                "bins": bins.to_dict(),
            },
            "coverage": {"images": int(coverage.confident), **confident},
            "coverage_curve": self.coverage_curve.to_dict(),
            "per_class": {
                name: {"images": int(images[number])}
                | {key: defined(values[number]) for key, values in per_class.items()}
                for number, name in enumerate(self.classes)
            },
            **({} if (known := self.known_to_dict()) is None else {"known": known}),
            **({} if by is None else {"by": {"column": printable(by), "values": self.by(by)}}),
            "worst_mistakes": self.worst(WORST),
            "confusion_matrix": matrix.tolist(),
        }


def check_column(columns: Mapping[str, Sequence[str]], name: str) -> None:
    """Raises `UserError` unless the data has this column."""
    if name not in columns:
        known = ", ".join(map(printable, columns))
        way_out = f"its columns are {known}" if known else "only a table of files has columns"
        raise UserError(f"the data has no column {name!r}; {way_out}")


def collect_logits(
    net: nn.Module, split: ImageSplit, spec: InputSpec, *, device: torch.device, precision: str,
    batch_size: int = 256, advance: Callable[[int], None] | None = None,
    forward: Callable[[Tensor], Tensor] | None = None, crops: int = 1,
) -> Tensor:  # fmt: skip
    """The logits for every image of a split, in order: float32, (N, classes), on the CPU.

    The network must be on the device; it is left as it was. `advance` is called with the number of images of each
    batch. `forward` replaces the forward pass of the network on a batch. With several `crops` of each image, their
    predictions are averaged (`googlenet.data.crops`), and a batch has at most `batch_size` crops.
    """
    collected, is_half = [], precision != "fp32"

    def run(images: Tensor, prepare: Callable[[Tensor], Tensor]) -> Tensor:
        batch = prepare(images.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, DTYPES[precision] if is_half else None, enabled=is_half):
            return (forward or net)(batch).float().cpu()

    with eval_mode(net), fused(net), torch.inference_mode():
        if crops == 1:
            for images, _ in split.batches(torch.arange(len(split)).split(batch_size)):
                collected.append(run(images, spec.prepare))
                if advance is not None:
                    advance(len(images))
        else:
            cut = crops_of(split, spec, crops)
            while group := list(islice(cut, max(1, batch_size // crops))):
                parts = torch.cat(group).split(batch_size)
                logits = torch.cat([run(part, spec.normalize) for part in parts])
                collected.append(average(logits.unflatten(0, (len(group), crops))))
                if advance is not None:
                    advance(len(group))
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
