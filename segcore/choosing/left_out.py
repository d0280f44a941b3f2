"""What a choice is worth: it is made on some photographs, and judged on those that were left out.

A *bag* is a resample of the independent units: groups of photographs, or single photographs where
the data set has no groups. A rule that makes a model of candidates is applied to each bag, and what
it makes is judged on the photographs of the units that the bag lacks. Each photograph is left out
by about a third of the bags; the mean of their counts is what the rule scores there (the out-of-bag
estimate of Breiman 1996).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segcore.config import MetricName
from segcore.scores.metrics import metric_of_counts

BAGS = 20
LEAST_UNITS = 6
"""With fewer independent units, nobody can say how large the error of a difference is."""


@dataclass(frozen=True)
class Difference:
    """By how much one model is better than another one, and the standard error of that."""

    value: float
    error: float
    """Infinite where there are too few independent units to tell."""


@dataclass(frozen=True, eq=False)
class LeftOut:
    """What a rule scores on photographs that were left out when it was applied."""

    photos: tuple[int, ...]
    """Numbers of the photographs that were left out by one bag at least."""
    units: tuple[str, ...]
    """The unit of each."""
    counts_P3K: NDArray[np.float64]

    def score(self, metric: MetricName) -> float:
        """NaN where no photograph was left out."""
        return metric_of_counts(metric, self.counts_P3K)

    def minus(self, other: "LeftOut", metric: MetricName) -> Difference:
        """How much better this is, on the photographs that were left out for both."""
        places = {photo: p for p, photo in enumerate(other.photos)}
        shared = [p for p, photo in enumerate(self.photos) if photo in places]
        theirs = [places[self.photos[p]] for p in shared]
        units = [self.units[p] for p in shared]
        return paired_difference(self.counts_P3K[shared], other.counts_P3K[theirs], metric, units)


@dataclass(frozen=True, eq=False)
class Bags:
    """Resamples of the units to which photographs belong."""

    photos: tuple[int, ...]
    """The number of each photograph (P)."""
    units: tuple[str, ...]
    """The unit of each photograph: those of one unit are alike, and are left out together."""
    times_BP: NDArray[np.int64]
    """How often each photograph counts in each bag."""

    @classmethod
    def draw(
        cls, photos: Sequence[int], units: Sequence[str], *, bags: int = BAGS, seed: int = 0
    ) -> "Bags":
        """Each photograph is left out by one bag at least, unless all are of one unit."""
        rng = np.random.default_rng(seed)
        names, unit_P = np.unique(np.array(units), return_inverse=True)
        count = len(names)
        while True:
            times_BU = rng.multinomial(count, np.full(count, 1 / count), size=bags)
            if count == 1 or (times_BU == 0).any(axis=0).all():
                return cls(tuple(photos), tuple(units), times_BU[:, unit_P])

    def left_out(self, counts: Iterable[NDArray[np.float64]]) -> LeftOut:
        """``counts`` are those of what a rule made of each bag (``counts_P3K``)."""
        out_BP = self.times_BP == 0
        sum_P3K: NDArray[np.float64] | float = 0.0
        for out_P, counts_P3K in zip(out_BP, counts, strict=True):
            sum_P3K = sum_P3K + out_P[:, None, None] * counts_P3K
        known = np.flatnonzero(out_BP.any(axis=0))
        mean_P3K = np.asarray(sum_P3K)[known] / out_BP.sum(axis=0)[known, None, None]
        return LeftOut(
            tuple(self.photos[p] for p in known), tuple(self.units[p] for p in known), mean_P3K
        )


def paired_difference(
    ours_P3K: NDArray[np.float64],
    theirs_P3K: NDArray[np.float64],
    metric: MetricName,
    unit_P: Sequence[str],
) -> Difference:
    """The difference of two models' scores, with the delete-one-unit jackknife's standard error
    (Efron and Stein 1981).
    """
    value = metric_of_counts(metric, ours_P3K) - metric_of_counts(metric, theirs_P3K)
    names, number_P = np.unique(np.array(unit_P), return_inverse=True)
    units = len(names)
    if units < LEAST_UNITS:
        return Difference(value, math.inf)
    without_U = np.array(
        [
            metric_of_counts(metric, ours_P3K[number_P != unit])
            - metric_of_counts(metric, theirs_P3K[number_P != unit])
            for unit in range(units)
        ]
    )
    error = math.sqrt((units - 1) * float(np.nanvar(without_U)))
    return Difference(value, error)
