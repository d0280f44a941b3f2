"""Scores: every one follows from counts of pixels (``segcore.scores.counting``).

``METRICS`` defines each score. Pixels whose truth is ``IGNORE_INDEX`` never count, whatever is
predicted there. The Dice of a class is 2·TP / (predicted + true pixels), and its IoU is
TP / (predicted + true pixels − TP).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segcore.config import MetricName

Counts = NDArray[np.int64]
"""``counts_P3K``: true positive, predicted and true pixels of each photograph and class."""

METRICS: dict[MetricName, str] = {
    "dice": (
        "Dice of each class from its pixels in the whole split, then the mean over the classes "
        "that occur in the split's truth."
    ),
    "iou": (
        "Intersection over union of each class from its pixels in the whole split, then the mean "
        "over the classes that occur in the split's truth."
    ),
    "dice_per_image": (
        "Mean Dice over the classes that occur in a photograph's truth, then the mean over "
        "photographs. Photographs without a labelled pixel are left out."
    ),
    "dice_kaggle": (
        "Mean Dice over all pairs of a photograph and a class except class 0. A pair without a "
        "pixel in both truth and prediction counts 1, without one in only one of them 0."
    ),
    "pixel_accuracy": "Share of the split's labelled pixels whose class is predicted.",
}

CLASS_MEANS: frozenset[MetricName] = frozenset({"dice", "iou"})
"""Scores that average over classes what each class scores on all photographs together."""

PHOTO_MEANS: frozenset[MetricName] = frozenset({"dice_per_image", "dice_kaggle"})
"""Scores that average over photographs what each photograph scores."""


@dataclass(frozen=True, eq=False)
class Scores:
    """All scores of some photographs; NaN where there is nothing to score."""

    pixel_accuracy: float
    dice: float
    iou: float
    dice_per_image: float
    dice_kaggle: float
    class_dice_K: NDArray[np.float64]
    """Over all photographs; NaN for a class that is in no truth."""
    class_iou_K: NDArray[np.float64]
    """Over all photographs; NaN for a class that is in no truth."""
    counts_P3K: Counts
    """In the order of the photographs' numbers; after ``joined``, part after part. Any choice of
    rows can be scored by ``metric_of_counts``."""
    groups: tuple[str, ...]
    """Of each photograph the name of its group. Photographs of one group aren't independent."""
    confusion_KK: NDArray[np.int64]
    """Pixels by [truth, prediction]."""

    @classmethod
    def of(
        cls,
        counts_P3K: Counts,
        confusion_KK: NDArray[np.int64],
        groups: Sequence[str] | None = None,
    ) -> "Scores":
        """All scores that follow from these counts; without groups each photograph is its own."""
        counts_3K = counts_P3K.sum(axis=0)
        alone = map(str, range(len(counts_P3K)))
        return cls(
            **{name: metric_of_counts(name, counts_P3K) for name in METRICS},
            class_dice_K=class_scores("dice", counts_3K),
            class_iou_K=class_scores("iou", counts_3K),
            counts_P3K=counts_P3K,
            groups=tuple(alone if groups is None else groups),
            confusion_KK=confusion_KK,
        )

    @classmethod
    def joined(cls, parts: Sequence["Scores"]) -> "Scores":
        """The scores of all photographs of some parts that have no photograph in common.

        Photographs of equal group names belong together, in whichever parts they are.
        """
        counts_P3K = np.concatenate([part.counts_P3K for part in parts])
        groups = [group for part in parts for group in part.groups]
        return cls.of(counts_P3K, np.sum([part.confusion_KK for part in parts], axis=0), groups)

    def metric(self, name: MetricName) -> float:
        """The score of that name."""
        value: float = getattr(self, name)
        return value


def metric_of_counts(
    name: MetricName,
    counts_P3K: Counts | NDArray[np.float64],
    times_P: NDArray[np.int64] | None = None,
) -> float:
    """One score of any choice of photographs, each of which counts ``times_P`` times, or once."""
    return float(metric_of_each(name, counts_P3K[None], times_P)[0])


def metric_of_each(
    name: MetricName,
    counts_SP3K: Counts | NDArray[np.float64],
    times_P: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """``metric_of_counts`` of each of S choices of as many photographs."""
    weight_P = np.ones(counts_SP3K.shape[1])
    if times_P is not None:
        weight_P *= times_P
    if name not in PHOTO_MEANS:
        sum_S3K = np.tensordot(weight_P, counts_SP3K.astype(np.float64, copy=False), axes=(0, 1))
        return _mean_of_classes(name, sum_S3K)
    score_SP = _mean_of_classes(name, counts_SP3K)
    known_SP = ~np.isnan(score_SP)
    sum_S = np.where(known_SP, weight_P * score_SP, 0.0).sum(axis=1)
    return ratio(sum_S, (weight_P * known_SP).sum(axis=1))


def _mean_of_classes(
    name: MetricName, counts_3K: Counts | NDArray[np.float64]
) -> NDArray[np.float64]:
    """Over the last two axes; NaN where nothing is labelled."""
    weight_K = class_weights(name, counts_3K[..., 2, :])
    sum_ = np.where(weight_K > 0, weight_K * class_scores(name, counts_3K), 0.0).sum(axis=-1)
    return ratio(sum_, weight_K.sum(axis=-1))


def class_scores(name: MetricName, counts_3K: Counts | NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each class, over the last two axes, what the metric is a weighted mean of.

    That is Dice or IoU, and for "pixel_accuracy" the share of its pixels that is named so. A class
    that isn't true anywhere has NaN, for "dice_kaggle" 0, or 1 where it isn't named either.
    """
    true_positive, predicted, truth = np.moveaxis(counts_3K, -2, 0)
    match name:
        case "dice" | "dice_per_image":
            return ratio(2 * true_positive, np.where(truth > 0, predicted + truth, 0))
        case "iou":
            return ratio(true_positive, np.where(truth > 0, predicted + truth - true_positive, 0))
        case "dice_kaggle":
            dice = ratio(2 * true_positive, predicted + truth)
            return np.where(np.isnan(dice), 1.0, dice)
        case "pixel_accuracy":
            return ratio(true_positive, truth)


def class_weights(name: MetricName, truth_K: Counts | NDArray[np.float64]) -> NDArray[np.float64]:
    """What each class counts in the mean of ``class_scores``, over the last axis."""
    match name:
        case "dice_kaggle":
            weight_K = np.ones(truth_K.shape)
            weight_K[..., 0] = 0.0
            return weight_K
        case "pixel_accuracy":
            return truth_K.astype(np.float64)
        case _:
            return (truth_K > 0).astype(np.float64)


def ratio(
    numerator: NDArray[np.int64] | NDArray[np.float64],
    denominator: NDArray[np.int64] | NDArray[np.float64],
) -> NDArray[np.float64]:
    """NaN where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)
