"""Models that can be made of candidates, each with what it scores on what was left out."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
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
LEAST_PLACES = 0.5
"""What a member knows of places must be at least this share of what it is worth."""
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
        made += _ensembles(rules, bags)
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
    first_C = np.eye(len(pool.probs))[0]
    return with_factors(_proposal("soup", first_C, bag_picks, rules, bags), pool, bags, metric)


def with_factors(proposal: Proposal, pool: Pool, bags: Bags, metric: MetricName) -> Proposal:
    """The proposal with factors for its classes, or as it is where these don't pay.

    Factors are fitted to each bag. What is kept is their geometric mean over the bags, shrunk by
    the exponent that scores best on what the bags left out, if it is better there than no factors
    by more than the error of that difference.
    """
    logs, counts = [], []
    for picks, times_P in zip(proposal.bag_picks, bags.times_BP, strict=True):
        sum_LKB = pool.mix(picks)
        log_K = fit_factors(Contest.of(pool, sum_LKB), metric, times_P)
        logs.append(log_K)
        counts.append([pool.counts(sum_LKB, factors_K=np.exp(share * log_K)) for share in SHRUNK])
    made_LKB, mean_K = pool.mix(as_picks(proposal.weights)), np.mean(logs, axis=0)
    factors = [np.exp(share * mean_K) for share in SHRUNK]
    tried = [
        bags.left_out(of_share, pool.counts(made_LKB, factors_K=factors_K))
        for of_share, factors_K in zip(zip(*counts, strict=True), factors, strict=True)
    ]
    best = int(np.argmax([left_out.score(metric) for left_out in tried]))
    gain = tried[best].minus(proposal.left_out, metric)
    if not gain.value > gain.error:
        return proposal
    return replace(proposal, left_out=tried[best], factors=tuple(factors[best].tolist()))


def _by_rule(way: Way, rule: Rule, rules: "Rules", bags: Bags) -> Proposal:
    every_P = np.ones(rules.pool.photos, np.int64)
    weights_C = np.bincount(rule(every_P), minlength=len(rules.pool.probs)).astype(np.float64)
    return _proposal(way, weights_C, [rule(times_P) for times_P in bags.times_BP], rules, bags)


def _proposal(
    way: Way,
    weights_C: NDArray[np.float64],
    bag_picks: Sequence[Picks],
    rules: "Rules",
    bags: Bags,
    *,
    members: Sequence[int] | None = None,
    flat: int | None = None,
) -> Proposal:
    """A proposal with weights in these proportions, and what its way of making makes of the bags.

    Only ``members`` are kept of the weights and of the picks. The candidate ``flat`` says its mean
    at every pixel.
    """
    if members is not None:
        weights_C = np.where(np.isin(np.arange(len(weights_C)), members), weights_C, 0.0)
        heaviest = int(weights_C.argmax())
        bag_picks = [tuple(c for c in picks if c in members) or (heaviest,) for picks in bag_picks]
    weights = tuple((weights_C / weights_C.sum()).tolist())
    left_out = bags.left_out(
        (rules.counts(picks, flat) for picks in bag_picks), rules.counts(as_picks(weights), flat)
    )
    return Proposal(way, weights, left_out, tuple(bag_picks))


class Rules:
    """What to pick from a pool, where photographs count so and so often."""

    def __init__(self, pool: Pool, metric: MetricName, limits: Limits) -> None:
        self.pool, self.metric, self.limits = pool, metric, limits

        @functools.lru_cache(max(1, KEPT_BYTES // pool.settled_P3K.nbytes))
        def counts(picks: Picks, flat: int | None) -> NDArray[np.float64]:
            return pool.counts(pool.mix(picks, flat))

        self._counts = counts

    def counts(self, picks: Picks, flat: int | None = None) -> NDArray[np.float64]:
        """``counts_P3K`` of a mixture, in which the candidate ``flat`` says its mean everywhere.

        A mixture that several bags pick is computed once.
        """
        return self._counts(tuple(sorted(picks)), flat if flat in picks else None)

    def best_first(self, times_P: NDArray[np.int64]) -> list[int]:
        """All candidates."""
        every = range(len(self.pool.probs))
        scores = [_score(self.counts((c,)), self.metric, times_P) for c in every]
        return sorted(every, key=lambda c: -scores[c])

    def best_single(self, times_P: NDArray[np.int64]) -> Picks:
        """The best candidate."""
        return tuple(self.best_first(times_P)[:1])

    def best_mean(self, times_P: NDArray[np.int64]) -> Picks:
        """The best N candidates, with the N whose plain mean scores best."""
        best_first = self.best_first(times_P)
        picks = best_first[:1]
        scores = [_score(self.counts(tuple(picks)), self.metric, times_P)]
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
        best = _score(self.counts(start), self.metric, times_P)
        sum_LKB = self.pool.mix(picks)
        while len(picks) < min(MAX_PICKS, length + PATIENCE_PICKS):
            tried = {
                c: self._score_with(sum_LKB, c, times_P)
                for c in range(len(self.pool.probs))
                if self.limits.allow([*picks, c])
            }
            pick = max(tried, key=tried.__getitem__)
            picks.append(pick)
            sum_LKB += self.pool.probs[pick]
            if tried[pick] > best:
                best, length = tried[pick], len(picks)
        return tuple(picks[:length])

    def _score_with(self, sum_LKB: SumLKB, plus: int, times_P: NDArray[np.int64]) -> float:
        return _score(self.pool.counts(sum_LKB, plus), self.metric, times_P)


def _ensembles(rules: Rules, bags: Bags) -> list[Proposal]:
    """The plain mean of the best few, the greedy ensemble, and one of as few of its members as
    score about the same; the cheapest come first.
    """
    mean = _by_rule("mean", rules.best_mean, rules, bags)
    greedy = _worth_it(_voted(mean.bag_picks, rules, bags), rules, bags)
    small = greedy
    while len(small.members) > 2:
        less = _best(_smaller(small, rules, bags).values(), rules)
        loss = greedy.left_out.minus(less.left_out, rules.metric)
        if math.isinf(loss.error) or loss.value > loss.error:
            break
        small = replace(less, way="small")
    mean = _worth_it(mean, rules, bags)
    return [mean, greedy] if small is greedy else [mean, small, greedy]


def _voted(starts: Sequence[Picks], rules: Rules, bags: Bags) -> Proposal:
    """The greedy picks of each bag, which begin with ``starts``, are its votes.

    The candidates with the most votes become members, as far as the limits allow, with weights in
    proportion to their votes (bags of photographs instead of Caruana's bags of candidates, which
    harm where there are only tens: benchmarks/selection.py).
    """
    bag_picks = [
        rules.greedy(start, times_P) for start, times_P in zip(starts, bags.times_BP, strict=True)
    ]
    votes_C = np.zeros(len(rules.pool.probs))
    for picks in bag_picks:
        votes_C += np.bincount(picks, minlength=len(votes_C)) / len(picks)
    members: list[int] = []
    for c in np.argsort(-votes_C, kind="stable").tolist():
        worth_it = not members or votes_C[c] >= LEAST_SHARE * len(bag_picks)
        if worth_it and rules.limits.allow([*members, c]):
            members.append(c)
    return _proposal("greedy", votes_C, bag_picks, rules, bags, members=members)


def _worth_it(proposal: Proposal, rules: Rules, bags: Bags) -> Proposal:
    """The proposal without members that aren't worth their cost, taken out one by one.

    Such a member costs nothing on what bags left out when it is taken out; or it says nearly the
    same everywhere, as a barely trained network does, and most of what it is worth stays where its
    mean stands in its place (``LEAST_PLACES``). That only moves the decision between frequent and rare
    classes, which is what factors are for (``with_factors``).
    """
    metric = rules.metric
    while len(proposal.members) > 1:
        score = proposal.left_out.score(metric)
        without = _smaller(proposal, rules, bags)
        idle = [less for less in without.values() if less.left_out.score(metric) >= score]
        for c, less in without.items() if not idle else ():
            flat = _of(proposal, rules, bags, flat=c)
            places, worth = (score - one.left_out.score(metric) for one in (flat, less))
            if places < LEAST_PLACES * worth:
                idle.append(less)
        if not idle:
            break
        proposal = _best(idle, rules)
    return proposal


def _smaller(proposal: Proposal, rules: Rules, bags: Bags) -> dict[int, Proposal]:
    """The proposal without each of its members."""
    own = proposal.members
    return {out: _of(proposal, rules, bags, members=[c for c in own if c != out]) for out in own}


def _of(
    proposal: Proposal,
    rules: Rules,
    bags: Bags,
    *,
    members: Sequence[int] | None = None,
    flat: int | None = None,
) -> Proposal:
    """The proposal, changed as ``_proposal`` says."""
    weights_C = np.array(proposal.weights)
    made = (proposal.way, weights_C, proposal.bag_picks)
    return _proposal(*made, rules, bags, members=members, flat=flat)


def _best(proposals: Iterable[Proposal], rules: Rules) -> Proposal:
    return max(proposals, key=lambda proposal: proposal.left_out.score(rules.metric))


def as_picks(weights: Sequence[float]) -> Picks:
    """Weights as repeated candidates, about 100 together."""
    return tuple(c for c, weight in enumerate(weights) for _ in range(round(100 * weight)))


def _score(
    counts_P3K: NDArray[np.float64], metric: MetricName, times_P: NDArray[np.int64]
) -> float:
    return metric_of_counts(metric, np.repeat(counts_P3K, times_P, axis=0))
