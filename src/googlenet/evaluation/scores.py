"""Scores per class, and intervals that show how much a number of test images can tell."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

Z = 1.959963984540054  # 95% of a normal distribution is within this many standard deviations
RESAMPLES = 2000


def wilson(correct: Tensor, total: Tensor) -> Tensor:
    """95% interval of a fraction: float64, (..., 2), from counts (...); NaN if the total is 0.

    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference", J. Am. Stat. Assoc. 22.
    """
    correct, total = correct.double(), total.double()
    margin = Z * (Z**2 + 4 * correct * (total - correct) / total).sqrt()
    # Of the wrong images the lower bound is 1 - the upper one: so computed, the bounds 0 and 1 are exact
    lower, wrong = ((2 * count + Z**2 - margin) / (2 * (total + Z**2)) for count in (correct, total - correct))
    return torch.stack((lower, 1 - wrong), dim=-1)


def interval_of(correct: int, total: int) -> list[float]:
    """`wilson` of one fraction."""
    return wilson(torch.tensor(correct), torch.tensor(total)).tolist()


def scores_by_class(confusion_matrix: Tensor, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The columns of the table by class: float64, (C,), and intervals (C, 2); NaN if undefined.

    Every score of a class without images is undefined, and the precision of a class that was never predicted.
    Arguments: counts (true class, predicted class), and as in `ranking_scores`.
    """
    correct = confusion_matrix.diag().double()
    images, predicted = confusion_matrix.sum(dim=1), confusion_matrix.sum(dim=0)
    roc_auc, average_precision = ranking_scores(scores, labels)
    columns = {
        "precision": correct / predicted,
        "precision_interval": wilson(correct, predicted),
        "recall": correct / images,
        "recall_interval": wilson(correct, images),
        "f1": 2 * correct / (images + predicted),
        "roc_auc": roc_auc,
        "average_precision": average_precision,
    }
    for column in columns.values():
        column[images == 0] = math.nan
    return columns


def ranking_scores(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How well the scores of each class separate its images from the others: ROC AUC and average precision.

    `scores` are (N, C), `labels` (N,); the results are float64, (C,). The AUC is the fraction of pairs of an image of
    the class and another image in which the former has the higher score; equal scores count half. The average precision
    is the mean, over the images of the class, of the precision at their score. Without an image of the class both are
    NaN; without another image the AUC is.
    """
    count, of_images = len(labels), labels.numpy()
    results = torch.full((2, scores.shape[1]), math.nan, dtype=torch.float64)
    for number, column in enumerate(scores.numpy().T):
        positives = np.sort(column[of_images == number])
        if not len(positives):
            continue
        everything = np.sort(column)  # only here is the work of all images; NumPy sorts faster than PyTorch
        at_least, above = (count - np.searchsorted(everything, positives, side) for side in ("left", "right"))
        own_at_least, own_above = (
            len(positives) - np.searchsorted(positives, positives, side) for side in ("left", "right")
        )
        results[1, number] = float((own_at_least / at_least).mean())
        if others := count - len(positives):
            lost = ((at_least - own_at_least) + (above - own_above)).mean() / 2
            results[0, number] = 1 - float(lost) / others
    return results[0], results[1]


def roc_auc(positives: Tensor, negatives: Tensor) -> tuple[float, list[float]]:
    """ROC AUC of scores (N,) and (M,), neither empty, and its 95% interval.

    DeLong, DeLong, Clarke-Pearson 1988, "Comparing the Areas under Two or More Correlated Receiver Operating
    Characteristic Curves", Biometrics 44.
    """
    above = _fraction_below(negatives, positives)  # of each positive: the negatives that it beats
    below = 1 - _fraction_below(positives, negatives)
    area = float(above.mean())
    variance = sum(float(each.var()) / len(each) for each in (above, below) if len(each) > 1)
    margin = Z * math.sqrt(variance)
    return area, [max(area - margin, 0.0), min(area + margin, 1.0)]


def _fraction_below(reference: Tensor, values: Tensor) -> Tensor:
    """The fraction of `reference` (N,) that is below each value (M,), equal ones counting half: float64, (M,)."""
    ordered = reference.double().sort().values
    first, last = (torch.searchsorted(ordered, values.double(), right=right) for right in (False, True))
    return (first + last).double() / (2 * len(reference))


def balanced_accuracy_interval(correct: Tensor, images: Tensor) -> list[float]:
    """95% interval of the mean recall of classes that have images, from counts (C,).

    A bootstrap (Efron 1979) that draws the images of each class again, with replacement, `RESAMPLES` times. The seed is
    fixed, and no other random number is drawn.
    """
    correct, images = correct[images > 0].double(), images[images > 0].double()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.binomial(images.expand(RESAMPLES, -1), (correct / images).expand(RESAMPLES, -1), generator=generator)
    means = (drawn / images).mean(dim=1)
    return means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()


def defined(value: float | list[float]) -> float | list[float] | None:
    """For JSON: a score or an interval, None instead of NaN."""
    return None if any(map(math.isnan, value if isinstance(value, list) else [value])) else value


def mean_defined(values: Tensor) -> float | None:
    """The mean of those that are not NaN; None if there are none."""
    known = values[~values.isnan()]
    return float(known.mean()) if len(known) else None
