"""How sure a score is: 95 % intervals over photographs, and comparisons of two models.

A resample draws as many photographs as there are, with replacement. The 95 % interval of a score
is the middle of what its resamples score. With few photographs that is too narrow, so it is widened
as Student's t distribution is wider than the normal one (the expanded percentile interval of
Hesterberg 2015, "What teachers should know about the bootstrap", section 5.3).

No interval knows that a model was chosen: the score of the best of many trials is too high, and so
is its whole interval.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t  # type: ignore[import-untyped]

from segcore.config import MetricName
from segcore.scores.metrics import (
    CLASS_MEANS,
    METRICS,
    PHOTO_MEANS,
    Counts,
    Scores,
    class_scores,
    metric_of_counts,
    metric_of_each,
)

CONFIDENCE = 0.95
SAMPLES = 2000


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
    """How many photographs were scored."""
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

        return cls(
            photos=len(scores.counts_P3K),
            metrics={name: bootstrap_interval(scores.counts_P3K, name) for name in METRICS},
            class_dice=known(scores.class_dice_K),
            class_iou=known(scores.class_iou_K),
            confusion=tuple(map(tuple, scores.confusion_KK.tolist())),
        )


@dataclass(frozen=True, eq=False)
class Resampled:
    """A score and the scores of resamples of its photographs: all that a comparison needs.

    Two models' scores of the same photographs, with the same number of samples and the same seed,
    come from the same resamples.
    """

    value: float
    photos: int
    score_S: NDArray[np.float64]

    @classmethod
    def of(
        cls, counts_P3K: Counts, metric: MetricName, *, samples: int = SAMPLES, seed: int = 0
    ) -> "Resampled":
        """Score photographs, and ``samples`` resamples of them."""
        photos = len(counts_P3K)
        score_S = resampled_scores(counts_P3K, metric, resamples(photos, samples, seed))
        return cls(metric_of_counts(metric, counts_P3K), photos, score_S)

    def interval(self) -> Interval:
        """The score with its interval, which is 0 to 1 where there is only one photograph."""
        if self.photos < 2:
            return Interval(self.value, 0.0, 1.0)
        return _interval(self.value, self.score_S, self.photos)

    def minus(self, other: "Resampled") -> Interval:
        """How much better this is than another model on the same photographs.

        A resample that is hard for one model is mostly hard for the other one too, so the interval
        of the difference is narrower than those of the two scores suggest.
        """
        value = self.value - other.value
        if self.photos < 2:
            return Interval(value, -1.0, 1.0)
        return _interval(value, self.score_S - other.score_S, self.photos)

    def may_equal(self, other: "Resampled") -> bool:
        """Whether the interval of their difference holds 0, so that either may be better."""
        difference = self.minus(other)
        return difference.low <= 0 <= difference.high


def bootstrap_interval(
    counts_P3K: Counts, metric: MetricName, *, samples: int = SAMPLES, seed: int = 0
) -> Interval:
    """The score of these photographs, and its interval."""
    return Resampled.of(counts_P3K, metric, samples=samples, seed=seed).interval()


@functools.lru_cache(maxsize=8)
def resamples(photos: int, samples: int, seed: int) -> NDArray[np.float64]:
    """``times_SP``: how often each resample draws each photograph; the same for the same seed."""
    rng = np.random.default_rng(seed)
    times_SP = rng.multinomial(photos, np.full(photos, 1 / photos), size=samples).astype(np.float64)
    times_SP.setflags(write=False)
    return times_SP


def resampled_scores(
    counts_P3K: Counts, metric: MetricName, times_SP: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The score of each resample (S), given how often it has each photograph.

    A class that a resample happens to lack keeps the score that it has on all photographs. If it
    were left out of the mean, a resample without a hard rare class would count as an easy one.
    """
    if metric in PHOTO_MEANS:
        score_P = metric_of_each(metric, counts_P3K[:, None])
        known_P = ~np.isnan(score_P)
        times_SP = times_SP[:, known_P]
        with np.errstate(invalid="ignore"):  # NaN where a resample has no scored photograph
            scores_S: NDArray[np.float64] = times_SP @ score_P[known_P] / times_SP.sum(axis=1)
        return scores_S
    photos, _, num_classes = counts_P3K.shape
    sums_SC = times_SP @ counts_P3K.reshape(photos, -1).astype(np.float64)
    sums_S3K = sums_SC.reshape(-1, 3, num_classes)
    if metric not in CLASS_MEANS:
        return metric_of_each(metric, sums_S3K[:, None])
    whole_K = class_scores(metric, counts_P3K.sum(axis=0))
    occurs_K = ~np.isnan(whole_K)
    if not occurs_K.any():
        return np.full(len(times_SP), math.nan)
    score_SK = class_scores(metric, sums_S3K[..., occurs_K])
    return np.where(np.isnan(score_SK), whole_K[occurs_K], score_SK).mean(axis=1)


def _interval(value: float, resampled_S: NDArray[np.float64], photos: int) -> Interval:
    # The bootstrap of a mean has a variance that is (n-1)/n of the right one, and its tails are
    # those of the normal distribution instead of Student's.
    quantile = student_t.ppf((1 + CONFIDENCE) / 2, photos - 1) * math.sqrt(photos / (photos - 1))
    tail = NormalDist().cdf(-quantile)
    known_S = resampled_S[~np.isnan(resampled_S)]
    if not known_S.size:
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(known_S, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
