"""What a choice is worth: it is made on some photographs, and judged on those that were left out.

A *bag* is a resample of the independent units: groups of photographs, or single photographs where
the data set has no groups. A rule that makes a model of candidates is applied to each bag, and what
it makes is judged on the photographs of the units that the bag lacks. Each photograph is left out
by about a third of the bags; the mean of their counts is what the rule scores there (the out-of-bag
estimate of Breiman 1996).

By how much one rule is better than another one is taken from those means. How sure that is, is not:
a mean over what several bags made varies less from photograph to photograph than any single model
does, and its error would be too small by a fifth (benchmarks/README.md, "Selection"). The error is
that of the two models that the rules make of all photographs.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segcore.config import MetricName
from segcore.facts import FEWEST_UNITS
from segcore.scores.intervals import Jackknife, standard_error
from segcore.scores.metrics import metric_of_counts

BAGS = 20


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
    made_P3K: NDArray[np.float64]
    """Of these photographs, the counts of what the rule makes of all."""

    def score(self, metric: MetricName) -> float:
        """NaN where no photograph was left out."""
        return metric_of_counts(metric, self.counts_P3K)

    def minus(self, other: "LeftOut", metric: MetricName) -> Difference:
        """How much better this is, on the photographs that were left out for both.

        NaN, with an infinite error, where there is none, as with a single unit.
        """
        shared = sorted(set(self.photos) & set(other.photos))
        if not shared:
            return Difference(math.nan, math.inf)
        ours, theirs = self.of_photos(shared), other.of_photos(shared)
        without_U, without_them_U = (
            Jackknife.of(one.made_P3K, metric, one.units).score_U for one in (ours, theirs)
        )
        enough = len(without_U) >= FEWEST_UNITS
        error = standard_error(without_U - without_them_U) if enough else math.inf
        return Difference(ours.score(metric) - theirs.score(metric), error)

    def of_photos(self, photos: Sequence[int]) -> "LeftOut":
        """The same of some of its photographs, in this order."""
        places = {photo: p for p, photo in enumerate(self.photos)}
        at = [places[photo] for photo in photos]
        units = tuple(self.units[p] for p in at)
        return LeftOut(tuple(photos), units, self.counts_P3K[at], self.made_P3K[at])


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
            if count > 1:  # One of ten thousand units is in every bag by chance.
                always_U = np.flatnonzero((times_BU > 0).all(axis=0))
                times_BU[rng.integers(bags, size=len(always_U)), always_U] = 0
            if times_BU.any(axis=1).all():
                return cls(tuple(photos), tuple(units), times_BU[:, unit_P])

    def left_out(
        self, counts: Iterable[NDArray[np.float64]], made_P3K: NDArray[np.float64]
    ) -> LeftOut:
        """``counts`` are those of what a rule made of each bag, ``made_P3K`` of all photographs."""
        out_BP = self.times_BP == 0
        sum_P3K: NDArray[np.float64] | float = 0.0
        for out_P, counts_P3K in zip(out_BP, counts, strict=True):
            sum_P3K = sum_P3K + out_P[:, None, None] * counts_P3K
        known = np.flatnonzero(out_BP.any(axis=0))
        mean_P3K = np.asarray(sum_P3K)[known] / out_BP.sum(axis=0)[known, None, None]
        return LeftOut(
            tuple(self.photos[p] for p in known),
            tuple(self.units[p] for p in known),
            mean_P3K,
            made_P3K[known],
        )
