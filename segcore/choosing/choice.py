"""Which of several models to take: the cheapest of those that may well be the best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from segcore.choosing.left_out import Difference, LeftOut
from segcore.config import MetricName, Prefer

TOLERANCE: dict[Prefer, float] = {"accuracy": 0.0, "balance": 1.0, "speed": 2.0}
"""A model may be worse than the best one by so many standard errors of their difference. 1 is the
one-standard-error rule (Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3).
"""

ABOUT_EQUAL = 1.1
"""Costs are measured, and differ by so much by chance."""


@dataclass(frozen=True)
class Choice:
    """Positions among the models that were compared."""

    best: int
    """The one that scores best on what was left out."""
    taken: int
    behind: tuple[Difference, ...]
    """By how much the best one is better than each, on photographs that were left out for both."""
    can_tell: bool
    """Whether there are enough independent photographs to say how large the errors are."""


def choose(
    left_out: Sequence[LeftOut], costs: Sequence[float], metric: MetricName, prefer: Prefer
) -> Choice:
    """Take the cheapest model that is within ``prefer``'s tolerance of the best one.

    Of about equally cheap ones the first is taken, so the plainest should come first. Where there
    are too few independent photographs to tell models apart, the very first one is taken, unless
    accuracy is preferred.
    """
    ahead = [one.minus(left_out[0], metric) for one in left_out]
    best = max(range(len(ahead)), key=lambda i: ahead[i].value)
    behind = tuple(left_out[best].minus(one, metric) for one in left_out)
    can_tell = math.isfinite(ahead[best].error)
    if prefer == "accuracy":
        return Choice(best, best, behind, can_tell)
    if not can_tell:
        return Choice(best, 0, behind, can_tell)
    within = [i for i, lost in enumerate(behind) if lost.value <= TOLERANCE[prefer] * lost.error]
    cheapest = min(costs[i] for i in within)
    taken = next(i for i in within if costs[i] <= ABOUT_EQUAL * cheapest)
    return Choice(best, taken, behind, can_tell)
