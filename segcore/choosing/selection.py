"""Models that can be made of candidates, each with what it scores on what was left out."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segcore.choosing.factors import Contest, fit_factors
from segcore.choosing.left_out import Bags, LeftOut
from segcore.choosing.pool import Pool, SumLKB
from segcore.config import MetricName
from segcore.scores.metrics import metric_of_counts

MAX_PICKS = 15
PATIENCE_PICKS = 3
"""A bag ends after this many picks in a row that didn't improve the score."""
LEAST_SHARE = 0.05
"""The least share of all votes that a member needs: each member costs time at every prediction."""
LEAST_KNOWN = 0.2
"""A member scores alone at least this share of what the best candidate gains over one class that is
named everywhere. A network that is barely trained scores less: it knows nothing of places, and in
an ensemble it would only move the decision between frequent and rare classes, which is what factors
are for (``with_factors``)."""
SHRUNK = (0.25, 0.5, 0.75, 1.0)
"""Exponents by which fitted factors are shrunk towards 1."""
KEPT_BYTES = 1 << 28
"""So much memory may hold the counts of mixtures, of which bags often need the same ones."""

Way = Literal["single", "soup", "mean", "small", "greedy"]
"""How a model is made of candidates: the best one; a soup; the plain mean of the best N; the greedy
ensemble, and as few of its members as score about the same."""
Picks = tuple[int, ...]
"""Candidates, each as often as it counts."""
Rule = Callable[[NDArray[np.int64]], Picks]
"""From how often each photograph counts (``times_P``) to what is picked."""


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


@dataclass(frozen=True, eq=False)
class Proposal:
    """A model that could be made of the candidates, and what its way of making promises."""

    way: Way
    weights: tuple[float, ...]
    """Of each candidate. They sum to 1; a candidate that is no member has 0."""
    left_out: LeftOut
    """What was made in this way of each bag, on the photographs that the bag left out."""
    bag_picks: tuple[Picks, ...]
    """What was made of each bag."""
    factors: tuple[float, ...] | None = None
    """What each class's probability is multiplied with before the largest one is named."""

    @property
    def members(self) -> tuple[int, ...]:
        """Candidates with a weight."""
        return tuple(c for c, weight in enumerate(self.weights) if weight > 0)


def propose(
    pool: Pool, bags: Bags, metric: MetricName, limits: Limits | None = None
) -> list[Proposal]:
    """The best single candidate, and ensembles within ``limits``, which must allow each candidate
    alone. The simplest come first.

    An ensemble's classes get factors where these gain more than their error (``with_factors``); the
    single candidate stands there twice then, with them and without.
    """
    rules = Rules(pool, metric, limits or Limits())
    single = _by_rule("single", rules.best_single, rules, bags)
    made = [single]
    if rules.limits.members > 1 and len(pool.probs) > 1:
        mean = _by_rule("mean", rules.best_mean, rules, bags)
        made += [mean, *_ensembles(rules, mean.bag_picks, bags)]
    made = [single, *(proposal for proposal in made if len(proposal.members) > 1)]
    fitted = [with_factors(proposal, pool, bags, metric) for proposal in made]
    return fitted if fitted[0] is single else [single, *fitted]


def propose_soup(
    pool: Pool, bag_picks: Sequence[Picks], bags: Bags, metric: MetricName
) -> Proposal:
    """The first candidate of a pool of soups, with factors where these gain more than their error.

    The others are what its way of making makes of the bags (``bag_picks``).
    """
    rules = Rules(pool, metric, Limits())
    alone = [1.0, *[0.0] * (len(pool.probs) - 1)]
    return with_factors(_proposal("soup", alone, bag_picks, rules, bags), pool, bags, metric)


def with_factors(proposal: Proposal, pool: Pool, bags: Bags, metric: MetricName) -> Proposal:
    """The proposal with factors for its classes, or as it is where these don't pay.

    Factors are fitted to each bag. What is kept is their geometric mean over the bags, shrunk by
    the exponent that scores best on what the bags left out, if it is better there than no factors
    by more than the error of that difference.
    """
    logs = [
        fit_factors(Contest.of(pool, pool.mix(picks)), metric, times_P)
        for picks, times_P in zip(proposal.bag_picks, bags.times_BP, strict=True)
    ]
    mean_K = np.mean(logs, axis=0)

    def counts(picks: Picks, log_K: NDArray[np.float64]) -> NDArray[np.float64]:
        return pool.counts(pool.mix(picks), factors_K=np.exp(log_K))

    def shrunk(share: float) -> LeftOut:
        of_bags = (
            counts(picks, share * log_K)
            for picks, log_K in zip(proposal.bag_picks, logs, strict=True)
        )
        return bags.left_out(of_bags, counts(as_picks(proposal.weights), share * mean_K))

    tried = {share: shrunk(share) for share in SHRUNK}
    best = max(SHRUNK, key=lambda share: tried[share].score(metric))
    gain = tried[best].minus(proposal.left_out, metric)
    if not gain.value > gain.error:
        return proposal
    return replace(proposal, left_out=tried[best], factors=tuple(np.exp(best * mean_K).tolist()))


def _by_rule(way: Way, rule: Rule, rules: "Rules", bags: Bags) -> Proposal:
    picks = rule(np.ones(rules.pool.photos, np.int64))
    weights_C = np.bincount(picks, minlength=len(rules.pool.probs)) / len(picks)
    bag_picks = [rule(times_P) for times_P in bags.times_BP]
    return _proposal(way, weights_C.tolist(), bag_picks, rules, bags)


def _proposal(
    way: Way, weights: Sequence[float], bag_picks: Sequence[Picks], rules: "Rules", bags: Bags
) -> Proposal:
    left_out = bags.left_out(map(rules.counts, bag_picks), rules.counts(as_picks(weights)))
    return Proposal(way, tuple(weights), left_out, tuple(bag_picks))


def least_score(
    metric: MetricName, best: float, pixels_PK: NDArray[np.float64] | NDArray[np.int64]
) -> float:
    """What a member must score alone (``LEAST_KNOWN``), where the best candidate scores ``best``.

    ``pixels_PK`` are the pixels of each class in each photograph.
    """
    classes = range(pixels_PK.shape[1])
    blind = max(metric_of_counts(metric, _counts_of_one(k, pixels_PK)) for k in classes)
    return min(best, blind + LEAST_KNOWN * (best - blind))


def _counts_of_one(
    k: int, pixels_PK: NDArray[np.float64] | NDArray[np.int64]
) -> NDArray[np.float64]:
    """``counts_P3K`` of one class that is named at every pixel."""
    counts_P3K = np.zeros((len(pixels_PK), 3, pixels_PK.shape[1]))
    counts_P3K[:, 0, k], counts_P3K[:, 1, k] = pixels_PK[:, k], pixels_PK.sum(axis=1)
    counts_P3K[:, 2] = pixels_PK
    return counts_P3K


class Rules:
    """What to pick from a pool, where photographs count so and so often."""

    def __init__(self, pool: Pool, metric: MetricName, limits: Limits) -> None:
        self.pool, self.metric, self.limits = pool, metric, limits

        @functools.lru_cache(max(1, KEPT_BYTES // pool.settled_P3K.nbytes))
        def counts(picks: Picks) -> NDArray[np.float64]:
            return pool.counts(pool.mix(picks))

        self._counts = counts

    @functools.cached_property
    def eligible(self) -> list[int]:
        """Candidates that know something of places, and so may be members (``LEAST_KNOWN``)."""
        every = range(len(self.pool.probs))
        scores = [self._score((c,)) for c in every]
        least = least_score(self.metric, max(scores), self.pool.settled_P3K[:, 2])
        return [c for c in every if scores[c] >= least]

    def counts(self, picks: Picks) -> NDArray[np.float64]:
        """``counts_P3K`` of a mixture; one that several bags pick is computed once."""
        return self._counts(tuple(sorted(picks)))

    def best_first(self, times_P: NDArray[np.int64]) -> list[int]:
        """The candidates that may be members."""
        scores = {c: self._score((c,), times_P) for c in self.eligible}
        return sorted(self.eligible, key=lambda c: -scores[c])

    def best_single(self, times_P: NDArray[np.int64]) -> Picks:
        """The best candidate."""
        return tuple(self.best_first(times_P)[:1])

    def best_mean(self, times_P: NDArray[np.int64]) -> Picks:
        """The best N candidates, with the N whose plain mean scores best."""
        best_first = self.best_first(times_P)
        picks = best_first[:1]
        scores = [self._score(tuple(picks), times_P)]
        sum_LKB = self.pool.mix(picks)
        for c in best_first[1:MAX_PICKS]:
            if self.limits.allow([*picks, c]):
                scores.append(self._score_with(sum_LKB, c, times_P))
                sum_LKB += self.pool.probs[c]
                picks.append(c)
        return tuple(picks[: int(np.argmax(scores)) + 1])

    def greedy(self, start: Picks, times_P: NDArray[np.int64]) -> Picks:
        """Candidates picked one by one, each time the one whose addition scores best.

        The first picks are ``start``, those of ``best_mean``. After that a candidate may be picked
        again: its number of picks is its weight. The picks up to the best score are kept (Caruana
        et al. 2004, "Ensemble selection from libraries of models").
        """
        picks, length = list(start), len(start)
        best = self._score(start, times_P)
        sum_LKB = self.pool.mix(picks)
        while len(picks) < min(MAX_PICKS, length + PATIENCE_PICKS):
            tried = {
                c: self._score_with(sum_LKB, c, times_P)
                for c in self.eligible
                if self.limits.allow([*picks, c])
            }
            pick = max(tried, key=tried.__getitem__)
            picks.append(pick)
            sum_LKB += self.pool.probs[pick]
            if tried[pick] > best:
                best, length = tried[pick], len(picks)
        return tuple(picks[:length])

    def _score(self, picks: Picks, times_P: NDArray[np.int64] | None = None) -> float:
        return metric_of_counts(self.metric, self.counts(picks), times_P)

    def _score_with(self, sum_LKB: SumLKB, plus: int, times_P: NDArray[np.int64]) -> float:
        return metric_of_counts(self.metric, self.pool.counts(sum_LKB, plus), times_P)


def _ensembles(rules: Rules, means: Sequence[Picks], bags: Bags) -> list[Proposal]:
    """The greedy ensemble, and before it one of as few members as score about the same.

    ``means`` are the picks of ``Rules.best_mean`` in each bag, with which the greedy ones begin.

    The picks of each bag are its votes. The candidates with the most votes become members, as far
    as ``limits`` allow, with weights in proportion to their votes (bags of photographs instead of
    Caruana's bags of candidates, which harm where there are only tens: benchmarks/selection.py).
    Then members are taken out one by one, each time the one that costs the least on what bags left
    out: first all that cost nothing, which makes the greedy ensemble, and then as long as what is
    left is worse by no more than the error of that difference.
    """
    metric = rules.metric
    every_picks = [
        rules.greedy(start, times_P) for start, times_P in zip(means, bags.times_BP, strict=True)
    ]
    votes_C = np.zeros(len(rules.pool.probs))
    for picks in every_picks:
        votes_C += np.bincount(picks, minlength=len(votes_C)) / len(picks)
    members: list[int] = []
    for c in np.argsort(-votes_C, kind="stable").tolist():
        worth_it = not members or votes_C[c] >= LEAST_SHARE * len(every_picks)
        if worth_it and rules.limits.allow([*members, c]):
            members.append(c)

    def of(way: Way, members: Sequence[int]) -> Proposal:
        kept = [tuple(c for c in picks if c in members) for picks in every_picks]
        kept = [picks or (members[0],) for picks in kept]
        weights_C = np.where(np.isin(np.arange(len(votes_C)), members), votes_C, 0.0)
        return _proposal(way, (weights_C / weights_C.sum()).tolist(), kept, rules, bags)

    def smaller(proposal: Proposal) -> Proposal:
        """The best one with a member less."""
        own = sorted(proposal.members, key=lambda c: -votes_C[c])
        tried = [of("small", [c for c in own if c != out]) for out in own]
        return max(tried, key=lambda one: one.left_out.score(metric))

    greedy = of("greedy", members)
    while len(greedy.members) > 1:
        less = smaller(greedy)
        if less.left_out.score(metric) < greedy.left_out.score(metric):
            break
        greedy = replace(less, way="greedy")
    small = greedy
    while len(small.members) > 2:
        less = smaller(small)
        loss = greedy.left_out.minus(less.left_out, metric)
        if math.isinf(loss.error) or loss.value > loss.error:
            break
        small = less
    return [greedy] if small is greedy else [small, greedy]


def as_picks(weights: Sequence[float]) -> Picks:
    """Weights as repeated candidates, about 100 together."""
    return tuple(c for c, weight in enumerate(weights) for _ in range(round(100 * weight)))
