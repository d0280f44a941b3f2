"""Asynchronous successive halving: which trials are stopped early, decided from the study alone.

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020). The decisions are
those of Ray's ASHAScheduler with one bracket. But Ray's rungs live in its scheduler and die with a
session, whereas these are made of the epochs and scores that the study holds.
"""

import math
import random
from collections.abc import Iterable

import numpy as np
from optuna import Study

from search.planning.strategy import Start
from segcore.errors import UserError

SIMULATED_TRIALS = 1000
"""So many trials are simulated to tell how long a search will take."""


def rungs(grace_epochs: int, max_epochs: int, reduction_factor: int) -> tuple[int, ...]:
    """Epochs at which trials are compared, ascending, and ``max_epochs`` as the last.

    They are ``grace_epochs · reduction_factor^k``.
    Raises ``UserError`` unless 1 ≤ ``grace_epochs`` ≤ ``max_epochs`` and ``reduction_factor`` ≥ 2.
    """
    if not 1 <= grace_epochs <= max_epochs:
        raise UserError(f"grace epochs {grace_epochs}: must be from 1 to max epochs {max_epochs}")
    if reduction_factor < 2:
        raise UserError(f"reduction factor {reduction_factor}: must be 2 or more")
    milestones = []
    milestone = grace_epochs
    while milestone < max_epochs:
        milestones.append(milestone)
        milestone *= reduction_factor
    return (*milestones, max_epochs)


def stops(value: float, others: Iterable[float], reduction_factor: int) -> bool:
    """Whether a trial with this value at a rung is stopped there.

    It is where it is not among the best 1/``reduction_factor`` of the ``others`` that reached the
    rung before. The first trial at a rung always goes on.
    """
    reached = list(others)
    if not reached:
        return False
    return bool(value < np.percentile(reached, (1 - 1 / reduction_factor) * 100))


def simulated_epochs(
    trials: int, *, grace_epochs: int, max_epochs: int, reduction_factor: int
) -> float:
    """Epochs of all trials of a search together.

    Trials are simulated that come one after another, with random values that stay the same from
    epoch to epoch. It is about twice what the share 1/``reduction_factor`` would give, because the
    first trials at a rung have few others to be worse than.
    """
    rng = random.Random(0)
    milestones = rungs(grace_epochs, max_epochs, reduction_factor)
    simulated = min(trials, SIMULATED_TRIALS)
    searches = SIMULATED_TRIALS // simulated
    total = 0
    for _ in range(searches):
        reached: dict[int, list[float]] = {milestone: [] for milestone in milestones}
        for _ in range(simulated):
            value = rng.random()
            for milestone, others in reached.items():
                stopped = stops(value, others, reduction_factor)
                others.append(value)
                if stopped or milestone == max_epochs:
                    total += milestone
                    break
    return total / searches * trials / simulated


class Halving:
    """The strategy: a trial that is stopped never goes on, and the sampler draws all new ones.

    A trial's value at a rung is its first finite one at that epoch or later. Trials are known by
    their number in the study, so a trial that is resumed has one value at each rung, and it is not
    judged a second time where it repeats an epoch.
    """

    def __init__(
        self, study: Study, *, grace_epochs: int, max_epochs: int, reduction_factor: int
    ) -> None:
        self._study = study
        self._max_epochs, self._reduction_factor = max_epochs, reduction_factor
        *milestones, _ = rungs(grace_epochs, max_epochs, reduction_factor)
        # From the highest rung to the lowest: milestone → number of a trial → its value.
        self._value_of: dict[int, dict[int, float]] = {m: {} for m in reversed(milestones)}
        for trial in study.get_trials(deepcopy=False):
            for epoch, value in sorted(trial.intermediate_values.items()):
                self._record(trial.number, epoch, value)

    def next(self) -> Start:
        """A new trial: those that were stopped never go on."""
        return Start(None)

    def goes_on(self, number: int, epoch: int) -> bool:
        """Whether a trial goes on after an epoch.

        A value that is not finite is not in the study, and decides nothing.
        """
        values = self._study.get_trials(deepcopy=False)[number].intermediate_values
        value = values.get(epoch, math.nan)
        reached = self._record(number, epoch, value)
        if epoch >= self._max_epochs:
            return False
        if not reached:
            return True
        others = [v for n, v in self._value_of[reached[0]].items() if n != number]
        return not stops(value, others, self._reduction_factor)

    def _record(self, number: int, epoch: int, value: float) -> list[int]:
        """The rungs that the trial hereby reached, from the highest one."""
        if not math.isfinite(value):
            return []
        reached = [
            milestone
            for milestone, value_of in self._value_of.items()
            if milestone <= epoch and number not in value_of
        ]
        for milestone in reached:
            self._value_of[milestone][number] = value
        return reached
