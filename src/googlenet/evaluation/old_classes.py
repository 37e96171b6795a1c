"""What a network that was trained further lost on the classes that it knew before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from googlenet.data.dataset import ImageSplit
from googlenet.evaluation.comparison import paired_interval
from googlenet.evaluation.metrics import Evaluation, collect_logits, on_device
from googlenet.files import printable
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.adapt import adapt, kept_rows


@dataclass(frozen=True)
class OldClasses:
    """Whether the network was correct for each test image of the old classes, before and after training."""

    classes: tuple[str, ...]  # that it knew before and knows now
    labels: Tensor  # int64, (N,): numbers of `classes`
    before: Tensor  # bool, (N,): among all classes that it knew
    after: Tensor  # bool, (N,): among all classes that it knows now
    after_among_old: Tensor  # bool, (N,): among `classes`, so that the new ones do not count

    def to_dict(self) -> dict[str, Any]:
        """The result, ready for JSON. The difference is after - before; its 95% interval is for paired images."""
        before, after, images = int(self.before.sum()), int(self.after.sum()), len(self.labels)
        lost, gained = int((self.before & ~self.after).sum()), int((self.after & ~self.before).sum())
        per_class = {}
        for number, name in enumerate(self.classes):
            own = self.labels == number
            if count := int(own.sum()):
                correct = (int(each[own].sum()) / count for each in (self.before, self.after))
                per_class[name] = dict(zip(("images", "before", "after"), (count, *correct), strict=True))
        return {
            "images": images,
            "accuracy_before": before / images,
            "accuracy_after": after / images,
            "accuracy_after_among_old": int(self.after_among_old.sum()) / images,
            "difference": (after - before) / images,
            "difference_interval": paired_interval(lost, gained, images),
            "per_class": per_class,
        }

    def line(self) -> str:
        """The result in one line, with the class that lost most, if one did."""
        result = self.to_dict()
        low, high = (100 * end for end in result["difference_interval"])
        name, worst = min(result["per_class"].items(), key=lambda item: item[1]["after"] - item[1]["before"])
        lost_most = f"; {printable(name)} lost most: {worst['before']:.1%} before, {worst['after']:.1%} after"
        return (
            f"old classes, {result['images']:,} test images: accuracy {result['accuracy_before']:.2%} before, "
            f"{result['accuracy_after']:.2%} after, {100 * result['difference']:+.2f} points "
            f"(95% interval {low:+.2f} to {high:+.2f})"
            f"{lost_most if worst['after'] < worst['before'] else ''}"
        )


def compare_old_classes(
    source: GoogLeNet, evaluation: Evaluation, split: ImageSplit, *, device: torch.device, precision: str
) -> OldClasses | None:
    """Compare the evaluation of a network on a split with the network that it started from, `source`, which has an
    `info` and is not changed. None if no image of the split is of a class that both know."""
    rows = kept_rows(source.info, evaluation.classes)
    chosen = torch.nonzero(torch.isin(evaluation.labels, torch.tensor(sorted(rows), dtype=torch.int64))).squeeze(1)
    if not len(chosen):
        return None
    images, labels = split.subset(chosen), evaluation.labels[chosen]
    with torch.random.fork_rng(devices=[]):
        before = adapt(source, source.info.classes, split.channels)  # its first convolution may be for other channels
    with on_device(before, device):
        predicted = collect_logits(before, images, before.info.input, device=device, precision=precision).argmax(dim=1)
    numbers = sorted(rows)
    position = {label: number for number, label in enumerate(numbers)}
    own = torch.tensor([position[label] for label in labels.tolist()])
    return OldClasses(
        tuple(evaluation.classes[label] for label in numbers), own,
        predicted == torch.tensor([rows[label] for label in labels.tolist()]),
        evaluation.correct[chosen],
        evaluation.logits[chosen][:, numbers].argmax(dim=1) == own,
    )  # fmt: skip
