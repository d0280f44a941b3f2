"""Which candidates become an ensemble's members: greedy selection by the score, with bags."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segcore.choosing.pool import Pool, SumLKB
from segcore.config import MetricName
from segcore.scores.metrics import metric_of_counts

BAGS = 20
MAX_PICKS = 15
PATIENCE_PICKS = 3
"""A bag ends after this many picks in a row that didn't improve the score."""
LEAST_SHARE = 0.05
"""The least share of all votes that a member needs: each member costs time at every prediction."""


@dataclass(frozen=True)
class Limits:
    """What an ensemble may cost."""

    members: int = 8
    latency_s: float = math.inf
    """The most time that all members together may take for one image."""
    member_latency_s: tuple[float, ...] = ()
    """The measured time of each candidate; needed only with a finite ``latency_s``."""

    def allow(self, members: Sequence[int]) -> bool:
        """Whether these candidates (repeated ones count once) may be an ensemble."""
        distinct = set(members)
        fast = self.latency_s == math.inf or (
            sum(self.member_latency_s[c] for c in distinct) <= self.latency_s
        )
        return fast and len(distinct) <= self.members


@dataclass(frozen=True)
class Selection:
    """What was selected, and what it promises."""

    weights: tuple[float, ...]
    """Of each candidate. They sum to 1; a candidate that is no member has 0."""
    expected_gain: float
    """By how much the bags' ensembles scored better than the bags' best single candidates, on
    average and on the photographs that each bag left out. NaN where no bag left any out."""


def select(
    pool: Pool,
    metric: MetricName,
    limits: Limits | None = None,
    *,
    bags: int = BAGS,
    bag_share: float = 1.0,
    seed: int = 0,
) -> Selection:
    """Select and weigh members within ``limits``, which must allow each candidate alone.

    Each bag is a resample of the photographs, for which candidates are picked greedily
    (``greedy_picks``); their weights in it are its votes. The candidates with the most votes become
    members, as far as ``limits`` allow, with weights in proportion to their votes. But where the
    plain mean of the best N is as good, it is taken instead, because it owes less to luck. On the
    photographs that a bag left out, its ensemble is compared with its best single candidate.

    Caruana et al. 2006 ("Getting the most out of ensemble selection") give each bag a share of
    their thousands of candidates. A ``bag_share`` below 1 does that too; it harms where there are
    only tens (benchmarks/selection.py).
    """
    limits = limits or Limits()
    rng = np.random.default_rng(seed)
    candidates = range(len(pool.probs))
    single_counts = [pool.counts(pool.mix([c])) for c in candidates]
    votes_C = np.zeros(len(candidates))
    gains = []
    for _ in range(bags):
        among = sorted(rng.permutation(candidates)[: math.ceil(len(candidates) * bag_share)])
        times_P = rng.multinomial(pool.photos, np.full(pool.photos, 1 / pool.photos))
        picks = greedy_picks(pool, metric, limits, among=among, times_P=times_P)
        votes_C += np.bincount(picks, minlength=len(candidates)) / len(picks)
        left_out_P = (times_P == 0).astype(np.int64)
        if left_out_P.any():
            single = max(candidates, key=lambda c: _score(single_counts[c], metric, times_P))
            gains.append(
                _score(pool.counts(pool.mix(picks)), metric, left_out_P)
                - _score(single_counts[single], metric, left_out_P)
            )
    members: list[int] = []
    for c in sorted(candidates, key=lambda c: -votes_C[c]):
        worth_it = not members or votes_C[c] >= LEAST_SHARE * bags
        if worth_it and limits.allow([*members, c]):
            members.append(c)
    kept_C = [votes_C[c] if c in members else 0.0 for c in candidates]
    return Selection(
        _best_weights(pool, metric, limits, kept_C, single_counts),
        float(np.mean(gains)) if gains else math.nan,
    )


def _best_weights(
    pool: Pool,
    metric: MetricName,
    limits: Limits,
    votes_C: Sequence[float],
    single_counts: Sequence[NDArray[np.float64]],
) -> tuple[float, ...]:
    """Weights in proportion to the votes, unless the plain mean of the best N is as good."""
    best_first = sorted(
        range(len(votes_C)), key=lambda c: -metric_of_counts(metric, single_counts[c])
    )
    simple_first = [
        np.bincount(best_first[:n], minlength=len(votes_C)) / n
        for n in range(1, min(len(votes_C), MAX_PICKS) + 1)
        if limits.allow(best_first[:n])
    ]
    options = [*simple_first, np.array(votes_C) / sum(votes_C)]
    scores = []
    for weights_C in options:
        picks = np.repeat(np.arange(len(votes_C)), np.round(100 * weights_C).astype(int))
        scores.append(metric_of_counts(metric, pool.counts(pool.mix(picks.tolist()))))
    return tuple(options[int(np.argmax(scores))].tolist())


def greedy_picks(
    pool: Pool,
    metric: MetricName,
    limits: Limits,
    *,
    among: Sequence[int],
    times_P: NDArray[np.int64],
) -> list[int]:
    """Pick candidates one by one, each time the one whose addition scores best.

    The first picks are the best N candidates, with the N whose mean scores best. After that a
    candidate may be picked again: its number of picks is its weight. The picks up to the best score
    are kept (Caruana et al. 2004, "Ensemble selection from libraries of models"). ``times_P`` says
    how often each photograph counts.
    """

    def score(sum_LKB: SumLKB, plus: int | None = None) -> float:
        return _score(pool.counts(sum_LKB, plus), metric, times_P)

    alone = {c: score(pool.mix([c])) for c in among}
    best_first = sorted(among, key=lambda c: -alone[c])
    picks, scores = best_first[:1], [alone[best_first[0]]]
    sum_LKB = pool.mix(picks)
    for c in best_first[1:MAX_PICKS]:
        if limits.allow([*picks, c]):
            scores.append(score(sum_LKB, c))
            sum_LKB += pool.probs[c]
            picks.append(c)
    best, length = max(scores), int(np.argmax(scores)) + 1
    picks = picks[:length]
    sum_LKB = pool.mix(picks)
    while len(picks) < min(MAX_PICKS, length + PATIENCE_PICKS):
        tried = {c: score(sum_LKB, c) for c in among if limits.allow([*picks, c])}
        pick = max(tried, key=tried.__getitem__)
        picks.append(pick)
        sum_LKB += pool.probs[pick]
        if tried[pick] > best:
            best, length = tried[pick], len(picks)
    return picks[:length]


def _score(
    counts_P3K: NDArray[np.float64], metric: MetricName, times_P: NDArray[np.int64]
) -> float:
    return metric_of_counts(metric, np.repeat(counts_P3K, times_P, axis=0))
