"""Learning curves as the Gaussian process sees them: thinned and standardised."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search.forecasting.kernel import Array

SMOOTHED = 0.12
"""A value is the mean of the epochs of this last part of the curve."""
WORST_Z = -1.5
"""Scores below are pressed together: how bad the bad ones are is of no interest."""
FAILED_Z = -4.5
"""What a trial counts that broke: worse than all others, so that its region is avoided."""


def thin(values: Mapping[int, float]) -> list[tuple[int, float]]:
    """At most three (epoch, value) pairs of a curve: its first, middle and last epoch.

    Each value is the mean of the last 1 + ⌊0.12 t⌋ epochs that are known.
    """
    return _thin(tuple(values.items()))


@functools.lru_cache(10_000)  # most curves are the same ones from decision to decision
def _thin(values: tuple[tuple[int, float], ...]) -> list[tuple[int, float]]:
    known = sorted((epoch, value) for epoch, value in values if math.isfinite(value))
    found = []
    for index in sorted({0, len(known) // 2, len(known) - 1} if known else ()):
        epoch = known[index][0]
        before = math.floor(SMOOTHED * epoch)
        recent = known[max(index - before, 0) : index + 1]
        window = [value for t, value in recent if t >= epoch - before]
        found.append((epoch, sum(window) / len(window)))
    return found


def relative_epoch(epochs: Array, max_epochs: int) -> Array:
    """τ = ln t / ln E."""
    return np.log(epochs) / math.log(max(max_epochs, 2))


def milestones(max_epochs: int) -> tuple[int, ...]:
    """The epochs at which it is decided whether a trial goes on: 1, 2, 4, 7, 13, 23, 41, 74 …"""
    found = [1]
    while (following := round(1.8 * found[-1])) < max_epochs:
        found.append(following)
    return tuple(found)


@dataclass(frozen=True)
class Scale:
    """Standardises scores: 0 is the median trial's last value, 2 the best one's."""

    centre: float
    spread: float

    @classmethod
    def of(cls, last_values: Sequence[float]) -> "Scale":
        """From the last value of each trial."""
        centre = float(np.median(last_values))
        return cls(centre, max((max(last_values) - centre) / 2, 1e-4))

    def standardise(self, values: float | Array) -> Array:
        """z = (value − centre) / spread, pressed together below −1.5."""
        z = (np.asarray(values, dtype=float) - self.centre) / self.spread
        low = np.maximum(WORST_Z - z, 0)
        return np.maximum(np.where(low > 0, WORST_Z - np.log1p(low), z), FAILED_Z)

    def restore(self, z: float) -> float:
        """The score of a standardised one above −1.5."""
        return self.centre + self.spread * z
