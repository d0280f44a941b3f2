"""Ways to make one model of a search's trials, scored by the cluster's workers."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from search.candidates import (
    CandidatePrediction,
    MixtureScores,
    Soup,
    Workplace,
    make_soup,
    score_mixture,
)
from search.cluster import Slots
from search.leaderboard import TrialRow
from search.plan import Plan
from search.result import Alternative, Evaluated, SplitScores
from search.space import network_key
from search.trial import StoredCheckpoint
from segcore.config import MetricName
from segcore.intervals import bootstrap_interval
from segcore.metrics import Scores

TOP_MEAN = 5
"""The plain mean of this many of the best trials is what an ensemble is compared with."""


@dataclass(frozen=True)
class Candidate:
    """A trial that may become a member, and what it says of the validation split."""

    row: TrialRow
    stored: StoredCheckpoint
    prediction: CandidatePrediction

    @property
    def number(self) -> int:
        """The trial's."""
        return self.row.number


Mixture = Sequence[tuple[Candidate, float]]
"""Candidates and their weights, which sum to 1."""


@dataclass(frozen=True)
class ScoredMixture:
    """A mixture's scores on both splits."""

    val: MixtureScores
    test: MixtureScores

    def evaluated(self) -> Evaluated:
        """For the result, with intervals."""
        return Evaluated(SplitScores.of(self.val.scores), SplitScores.of(self.test.scores))

    def named(self, name: str, metric: MetricName) -> Alternative:
        """For the result, with the intervals of one metric."""
        return _alternative(name, self.val.scores, self.test.scores, metric)


def _alternative(name: str, val: Scores, test: Scores, metric: MetricName) -> Alternative:
    return Alternative(
        name,
        bootstrap_interval(val.counts_P3K, metric),
        bootstrap_interval(test.counts_P3K, metric),
    )


class Workers:
    """Starts tasks on the cluster, each with what a trial gets."""

    def __init__(self, plan: Plan, slots: Slots) -> None:
        self.place = Workplace(plan.data_on_nodes, slots.cpus_per_trial, slots.gpus_per_trial)
        self._resources = {"num_cpus": slots.cpus_per_trial, "num_gpus": slots.gpus_per_trial}

    def start(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Ray's reference to what a function of ``search.candidates`` will give."""
        return ray.remote(function).options(**self._resources).remote(*arguments)

    def start_scoring(self, mixture: Mixture) -> Callable[[], ScoredMixture]:
        """Call the result to wait for the mixture's scores on both splits."""
        members = [(candidate.stored, weight) for candidate, weight in mixture]
        val, test = (
            self.start(score_mixture, members, self.place, split) for split in ("val", "test")
        )
        return lambda: ScoredMixture(ray.get(val), ray.get(test))


def start_alternatives(
    candidates: Sequence[Candidate], workers: Workers, metric: MetricName
) -> list[Callable[[], list[Alternative]]]:
    """What else one could make of these trials; call each result to wait for it."""
    pending: list[Callable[[], list[Alternative]]] = []
    top = candidates[:TOP_MEAN]
    if len(top) > 1:
        finish = workers.start_scoring([(candidate, 1 / len(top)) for candidate in top])
        name = f"mean of the top {len(top)}"
        pending.append(lambda: [finish().named(name, metric)])
    alike: dict[tuple[object, ...], list[Candidate]] = {}
    for candidate in candidates:
        alike.setdefault(network_key(candidate.stored.info.config), []).append(candidate)
    for group in alike.values():
        if len(group) > 1:
            stored = [candidate.stored for candidate in group]
            task = workers.start(make_soup, stored, workers.place, metric)
            numbers = [candidate.number for candidate in group]
            pending.append(functools.partial(_finish_soup, task, numbers, metric))
    return pending


def _finish_soup(task: Any, numbers: Sequence[int], metric: MetricName) -> list[Alternative]:
    soup: Soup = ray.get(task)
    if len(soup.kept) == 1:
        return []  # the best of the group itself
    name = f"soup of trials {', '.join(str(numbers[i]) for i in soup.kept)}"
    return [_alternative(name, soup.val, soup.test, metric)]
