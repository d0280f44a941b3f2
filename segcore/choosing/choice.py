"""Which of several models to take: the cheapest of those that may well be the best."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segcore.choosing.left_out import Bags, Difference, LeftOut
from segcore.config import MetricName, Prefer
from segcore.scores.metrics import metric_of_counts

TOLERANCE: dict[Prefer, float] = {"accuracy": 0.0, "balance": 1.0, "speed": 2.0}
"""A model may be worse than the best one by so many standard errors of their difference. 1 is the
one-standard-error rule (Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3).
"""

ABOUT_EQUAL = 1.1
"""Costs are measured, and differ by so much by chance."""

REHEARSALS = 60
"""So often the choice is made again, to tell what it promises."""


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
    promise: Difference
    """By how much what is taken is better than the first model (``_rehearse``)."""


def choose(
    left_out: Sequence[LeftOut], costs: Sequence[float], metric: MetricName, prefer: Prefer
) -> Choice:
    """Take the cheapest model that is within ``prefer``'s tolerance of the best one.

    Of about equally cheap ones the first is taken, so the plainest should come first. Where there
    are too few independent photographs to tell models apart, the very first one is taken, unless
    accuracy is preferred.
    """

    @functools.cache
    def apart(one: int, other: int) -> Difference:
        return left_out[one].minus(left_out[other], metric)

    def cheapest(best: int, behind: Sequence[float]) -> int:
        if prefer == "accuracy":
            return best
        if not can_tell:
            return 0
        most = [TOLERANCE[prefer] * apart(best, i).error for i in models]
        within = [i for i in models if i == best or behind[i] <= most[i]]
        least = min(costs[i] for i in within)
        return next(i for i in within if costs[i] <= ABOUT_EQUAL * least)

    def again(scores: Sequence[float]) -> int:
        best = max(models, key=scores.__getitem__)
        return cheapest(best, [scores[best] - score for score in scores])

    models = range(len(left_out))
    best = max(models, key=lambda i: apart(i, 0).value)
    can_tell = math.isfinite(apart(best, 0).error)
    behind = tuple(apart(best, i) for i in models)
    taken = cheapest(best, [lost.value for lost in behind])
    promised = _rehearse(left_out, metric, again) if taken else 0.0
    return Choice(best, taken, behind, can_tell, Difference(promised, apart(taken, 0).error))


def _rehearse(
    left_out: Sequence[LeftOut], metric: MetricName, again: Callable[[Sequence[float]], int]
) -> float:
    """By how much a choice is better than the first model on photographs that had no part in it.

    The best of several scores is too high, because it is partly the luckiest. So the choice is made
    ``again`` by the scores of resamples, and what it takes is judged by the units that a resample
    lacks (Tsamardinos et al. 2018, "Bootstrapping the out-of-sample predictions for efficient and
    accurate cross-validation").
    """
    shared = set.intersection(*(set(one.photos) for one in left_out))
    of_shared = [one.of_photos(sorted(shared)) for one in left_out]
    first = of_shared[0]
    bags = Bags.draw(first.photos, first.units, bags=REHEARSALS)
    chosen = [
        again([metric_of_counts(metric, one.counts_P3K, times_P) for one in of_shared])
        for times_P in bags.times_BP
    ]
    judged = bags.left_out((of_shared[i].counts_P3K for i in chosen), first.made_P3K)
    return judged.score(metric) - first.score(metric)
