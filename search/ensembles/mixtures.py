"""Ways to make one model of a search's trials, scored by the cluster's workers."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayTaskError

from search.ensembles.tasks import (
    CandidatePrediction,
    MixtureScores,
    Soup,
    Workplace,
    make_soup,
    score_mixture,
)
from search.planning.plan import Plan
from search.planning.space import network_key
from search.runs.result import Alternative, Evaluated, SplitScores
from search.runs.rows import TrialRow
from search.trials.cluster import Slots
from search.trials.worker import StoredCheckpoint
from segcore.config import MetricName
from segcore.scores.intervals import bootstrap_interval
from segcore.scores.metrics import Scores

TOP_MEAN = 5
"""The plain mean of this many of the best trials is what an ensemble is compared with."""


@dataclass(frozen=True)
class Candidate:
    """A trial that may become a member, and what it says of the validation split."""

    row: TrialRow
    networks: tuple[StoredCheckpoint, ...]
    """Its trial's; with --folds one for each fold, which was validated there."""
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
        """Begin a function of ``search.ensembles.tasks``; ``finished`` waits for what it gives."""
        return ray.remote(function).options(**self._resources).remote(*arguments)

    def start_scoring(self, mixture: Mixture) -> Callable[[], ScoredMixture]:
        """Call the result to wait for the mixture's scores on both splits."""
        # On "val" networks of one fold are mixed with each other, on "test" all of them.
        parts = zip(*(candidate.networks for candidate, _ in mixture), strict=True)
        weights = [weight for _, weight in mixture]
        val = [
            self.start(score_mixture, list(zip(part, weights, strict=True)), self.place, "val")
            for part in parts
        ]
        test = self.start(score_mixture, networks_of(mixture), self.place, "test")
        return lambda: ScoredMixture(
            MixtureScores.joined([finished(task) for task in val]), finished(test)
        )


def networks_of(mixture: Mixture) -> list[tuple[StoredCheckpoint, float]]:
    """All networks of a mixture, with their weights, which sum to 1."""
    return [
        (network, weight / len(candidate.networks))
        for candidate, weight in mixture
        for network in candidate.networks
    ]


def finished(task: Any) -> Any:
    """Wait for what ``Workers.start`` began. Raises what the function raised, as it was."""
    try:
        return ray.get(task)
    except RayTaskError as error:
        raise error.cause from error


Pending = tuple[str, Callable[[], list[Alternative]]]
"""What is being computed, and what to call to wait for it."""


def start_alternatives(
    candidates: Sequence[Candidate], workers: Workers, metric: MetricName
) -> list[Pending]:
    """What else one could make of these trials.

    Networks of several folds have no weights in common to average.
    """
    pending: list[Pending] = []
    top = candidates[:TOP_MEAN]
    if len(top) > 1:
        finish = workers.start_scoring([(candidate, 1 / len(top)) for candidate in top])
        name = f"mean of the top {len(top)}"
        pending.append((name, lambda: [finish().named(name, metric)]))
    alike: dict[tuple[object, ...], list[Candidate]] = {}
    for candidate in candidates:
        if len(candidate.networks) == 1:
            key = network_key(candidate.networks[0].info.config)
            alike.setdefault(key, []).append(candidate)
    for group in alike.values():
        if len(group) > 1:
            stored = [candidate.networks[0] for candidate in group]
            task = workers.start(make_soup, stored, workers.place, metric)
            numbers = [candidate.number for candidate in group]
            finish_soup = functools.partial(_finish_soup, task, numbers, metric)
            pending.append((_soup_name(numbers), finish_soup))
    return pending


def _finish_soup(task: Any, numbers: Sequence[int], metric: MetricName) -> list[Alternative]:
    soup: Soup = finished(task)
    if len(soup.kept) == 1:
        return []  # the best of the group itself
    name = _soup_name([numbers[i] for i in soup.kept])
    return [_alternative(name, soup.val, soup.test, metric)]


def _soup_name(numbers: Sequence[int]) -> str:
    return f"soup of trials {', '.join(map(str, numbers))}"
