"""How sure a score is: 95 % intervals, and comparisons of two models, by leaving units out.

A *unit* is what is independent of the others: a photograph, or, where dataset.yaml has a ``group``,
all photographs of one group. The score is computed again without each unit in turn (the delete-one
jackknife), and its interval is that of Student's t. A unit that differs much from the others makes
the estimated error itself uncertain, so the degrees of freedom follow from the kurtosis of what the
units contribute (Satterthwaite 1946). The interval of a score is built on the logit scale, so that
it stays within 0 and 1; that of a difference on the plain one.

An interval covers the score that the model has, on average, on splits of as many units from the
same source. It isn't that of all photographs in the world taken as one split: the Dice of a rare
class is lower in a small split than in a large one. No interval knows that a model was chosen: the
score of the best of many trials is too high, and so is its whole interval. benchmarks/intervals.py
measures how often intervals hold.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # type: ignore[import-untyped]

from segcore.config import MetricName
from segcore.facts import FEWEST_UNITS
from segcore.scores.metrics import (
    CLASS_MEANS,
    METRICS,
    PHOTO_MEANS,
    Counts,
    Scores,
    class_scores,
    metric_of_counts,
    metric_of_each,
    ratio,
)
from segcore.scores.units import caution

CONFIDENCE = 0.95

MOST_UNITS = 400
"""More units are dealt out to this many hands: that is as good, and what is stored stays small."""


@dataclass(frozen=True)
class Interval:
    """A score, or a difference of two scores, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f} – {self.high:.4f})"


@dataclass(frozen=True)
class Evaluation:
    """How a model did on some photographs, with an interval for every score; JSON can hold it."""

    photos: int
    """How many photographs have a labelled pixel: the others say nothing."""
    units: int
    """How many of them, or of their groups, are independent of each other."""
    metrics: dict[MetricName, Interval]
    """All of ``METRICS``."""
    class_dice: tuple[float | None, ...]
    """Over all photographs; None for a class that is in no truth."""
    class_iou: tuple[float | None, ...]
    """Over all photographs; None for a class that is in no truth."""
    confusion: tuple[tuple[int, ...], ...]
    """Pixels; rows are the truth, columns what was predicted."""

    @classmethod
    def of(cls, scores: Scores) -> "Evaluation":
        """What these counts say."""

        def known(values: Iterable[float]) -> tuple[float | None, ...]:
            return tuple(None if math.isnan(value) else float(value) for value in values)

        labelled = np.flatnonzero(scores.counts_P3K[:, 2].sum(axis=1))
        return cls(
            photos=len(labelled),
            units=len({scores.groups[photo] for photo in labelled}),
            metrics={
                name: score_interval(scores.counts_P3K, name, scores.groups) for name in METRICS
            },
            class_dice=known(scores.class_dice_K),
            class_iou=known(scores.class_iou_K),
            confusion=tuple(map(tuple, scores.confusion_KK.tolist())),
        )

    @property
    def caution(self) -> str | None:
        """A sentence to print beside the intervals where they are a guess."""
        return caution(self.photos, self.units)


def unit_numbers(groups: Sequence[str]) -> NDArray[np.int64]:
    """The number (0…U−1, at most ``MOST_UNITS``) of each photograph's unit, from its group's name.

    Photographs of one name have one number; the same names have the same numbers.
    """
    _, unit_P = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return (unit_P % MOST_UNITS).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Jackknife:
    """A score, and the score without each unit: all that a comparison with another model needs.

    Both models must have been scored on the same photographs. A class that is gone with a unit
    keeps the score that it has on all photographs: which classes a split happens to hold moves
    both models alike.
    """

    value: float
    score_U: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        counts_P3K: Counts | NDArray[np.float64],
        metric: MetricName,
        groups: Sequence[str] | None = None,
    ) -> "Jackknife":
        """Score photographs, and all of them but each group; without groups, but each alone."""
        score_U = scores_without_each(counts_P3K, metric, groups, keep_classes=True)
        return cls(metric_of_counts(metric, counts_P3K), score_U)

    def minus(self, other: "Jackknife", noise: "SeedNoise | None" = None) -> Interval:
        """How much better this is than another model on the same photographs.

        A photograph that is hard for one model is mostly hard for the other one too, so the
        interval of the difference is narrower than those of the two scores suggest. With ``noise``
        the interval is that of two configurations, whatever seeds they were trained with.
        """
        value = self.value - other.value
        if len(self.score_U) < 2:
            return Interval(value, -1.0, 1.0)
        half = _half_width(self.score_U - other.score_U)
        if noise is not None:
            half = math.hypot(half, noise.half_width)
        return Interval(value, value - half, value + half)

    def may_equal(self, other: "Jackknife", noise: "SeedNoise | None" = None) -> bool:
        """Whether the interval of their difference holds 0, so that either may be better.

        Fewer than ``FEWEST_UNITS`` units tell no two models apart: by chance, a difference may be
        nearly the same on all of them.
        """
        if len(self.score_U) < FEWEST_UNITS:
            return True
        difference = self.minus(other, noise)
        return difference.low <= 0 <= difference.high


@dataclass(frozen=True)
class SeedNoise:
    """How far scores of one configuration differ that was trained with several seeds."""

    deviation: float
    """The standard deviation of a training's score, pooled over configurations."""
    freedom: int
    """Its degrees of freedom: trainings less configurations."""

    @classmethod
    def pooled(cls, scores: Iterable[Sequence[float]]) -> "SeedNoise | None":
        """From each configuration's scores; None where none was trained twice."""
        several = [np.asarray(own) for own in scores if len(own) > 1]
        freedom = sum(len(own) - 1 for own in several)
        if not freedom:
            return None
        return cls(math.sqrt(sum(len(own) * own.var() for own in several) / freedom), freedom)

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval of the difference of two trainings."""
        quantile = float(stdtrit(self.freedom, (1 + CONFIDENCE) / 2))
        return quantile * math.sqrt(2) * self.deviation


def score_interval(
    counts_P3K: Counts, metric: MetricName, groups: Sequence[str] | None = None
) -> Interval:
    """The score of photographs with its interval, which is 0 to 1 where there is only one unit."""
    value = metric_of_counts(metric, counts_P3K)
    score_U = scores_without_each(counts_P3K, metric, groups, keep_classes=False)
    if math.isnan(value):
        return Interval(value, math.nan, math.nan)
    if len(score_U) < 2:
        return Interval(value, 0.0, 1.0)
    half = _half_width(score_U)
    if half == 0 or value in (0.0, 1.0):
        return Interval(value, value, value)
    # The error on the logit scale follows from that of the score (delta method), because the score
    # without a unit may be 0 or 1, which has no logit.
    logit, half = math.log(value / (1 - value)), half / (value * (1 - value))
    return Interval(value, *(0.5 + 0.5 * math.tanh((logit + end) / 2) for end in (-half, half)))


def scores_without_each(
    counts_P3K: Counts | NDArray[np.float64],
    metric: MetricName,
    groups: Sequence[str] | None,
    *,
    keep_classes: bool,
) -> NDArray[np.float64]:
    """The score of all photographs but those of one unit, for each unit (U) that counts.

    A unit that has no labelled pixel counts for "dice_kaggle" only. ``keep_classes`` says whether a
    class that is gone with a unit keeps its score, or is gone from the mean.
    """
    photos, _, num_classes = counts_P3K.shape
    unit_P = np.arange(photos) % MOST_UNITS if groups is None else unit_numbers(groups)
    units = int(unit_P.max(initial=-1)) + 1
    if metric in PHOTO_MEANS:
        score_P = metric_of_each(metric, counts_P3K[:, None])
        known_P = ~np.isnan(score_P)
        sum_U = np.bincount(unit_P[known_P], score_P[known_P], units)
        photos_U = np.bincount(unit_P[known_P], minlength=units)
        return ratio(sum_U.sum() - sum_U, photos_U.sum() - photos_U)[photos_U > 0]
    belongs_UP = (np.arange(units)[:, None] == unit_P).astype(np.float64)
    sums_U3K = (belongs_UP @ counts_P3K.reshape(photos, -1)).reshape(units, 3, num_classes)
    sums_U3K = sums_U3K[sums_U3K[:, 2].any(axis=1)]
    whole_3K = sums_U3K.sum(axis=0)
    without_U3K = whole_3K - sums_U3K
    if metric not in CLASS_MEANS or not keep_classes:
        return metric_of_each(metric, without_U3K[:, None])
    whole_K = class_scores(metric, whole_3K)
    occurs_K = ~np.isnan(whole_K)
    score_UK = class_scores(metric, without_U3K)[:, occurs_K]
    return np.where(np.isnan(score_UK), whole_K[occurs_K], score_UK).mean(axis=1)


def standard_error(score_U: NDArray[np.float64]) -> float:
    """The error of a score, or of a difference of scores, that is this without each unit.

    The delete-one jackknife (Efron and Stein 1981, "The jackknife estimate of variance").
    """
    return math.sqrt((len(score_U) - 1) * float(score_U.var()))


def _half_width(score_U: NDArray[np.float64]) -> float:
    """Half of the interval of a value that is this without each unit."""
    units, error = len(score_U), standard_error(score_U)
    if error == 0 or math.isnan(error):
        return error
    # The variance of an estimated variance is s⁴ (2 / (n−1) + kurtosis / n), and that of one with f
    # degrees of freedom 2 s⁴ / f.
    far_U = (score_U - score_U.mean()) / score_U.std()
    kurtosis = max(0.0, float((far_U**4).mean()) - 3)
    freedom = max(1.0, 2 / (2 / (units - 1) + kurtosis / units))
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
