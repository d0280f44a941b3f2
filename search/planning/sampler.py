"""Optuna's TPE for trials that are stopped early: fitted at the largest rung with enough values.

What a sampler is told about stopped trials decides what it learns. The last value of a stopped
trial is low because the trial was stopped young, so comparing it with the final value of others
teaches that slow starters are bad. Values are comparable only at the same epoch: that is BOHB's
rule (Falkner, Klein and Hutter, ICML 2018, section 3.2), with Optuna's multivariate TPE in the
place of BOHB's.
"""

import copy
import math
import warnings
from collections.abc import Container, Sequence
from typing import Any

import optuna
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState


class RungTPESampler(BaseSampler):
    """TPE over what every trial, stopped or not, was worth at one and the same epoch.

    A trial is observed at a rung once it has been that far, by its value there (``value_at``).
    TPE is fitted at the largest rung with at least ``min_observations``. Parameters are drawn at
    random until the lowest rung has as many, and at least ``n_startup_trials``. A running trial
    that is past the fitting rung is an observation like any other; the other running trials are
    TPE's constant liars. A failed trial counts as worse than all others, so that its region is
    avoided: what ran out of memory or diverged would again. Stopped trials that never reached the
    rung are left out.

    ``min_observations`` None is BOHB's d + 1, where d is the largest number of parameters that one
    trial has: in a conditional space no trial has them all, and the prior of Optuna's TPE fits
    where BOHB's kernel densities can't.

    ``storage`` is the study's. TPE notes there what it drew for a running trial, also where the
    space then took another branch, and avoids the same for the next one.

    Single objective; a study without intermediate values is sampled as by Optuna's TPE.
    """

    def __init__(
        self,
        rungs: Sequence[int],
        *,
        min_observations: int | None = None,
        n_startup_trials: int = 0,
        seed: int | None = None,
        storage: BaseStorage | None = None,
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # ``group``
            # The view that TPE is given is empty until it may be fitted: it sees no start-up.
            self._tpe = TPESampler(
                n_startup_trials=1, seed=seed, multivariate=True, group=True, constant_liar=True
            )
        self._rungs = sorted(rungs, reverse=True)
        self._min_observations = min_observations
        self._startup = n_startup_trials
        self._storage = storage
        self._inferred: set[str] = set()

    def reseed_rng(self) -> None:
        """Let a copy of this sampler in another process draw other numbers."""
        self._tpe.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters of all trials that ended."""
        space = self._tpe.infer_relative_search_space(study, trial)
        self._inferred = set(space)
        return space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample jointly, from the trials at the fitting rung."""
        if not search_space.keys() <= self._inferred:
            # TPE samples none but the parameters that it inferred last.
            self.infer_relative_search_space(study, trial)
        return self._tpe.sample_relative(self._view(study), trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Sample one parameter that no finished trial has had, from the same trials."""
        return self._tpe.sample_independent(
            self._view(study), trial, param_name, param_distribution
        )

    def _view(self, study: Study) -> Study:
        """The study as TPE is to see it: a few chosen trials, with their values at one rung."""
        if len(study.directions) > 1:
            raise ValueError("RungTPESampler supports only a single objective")
        seen = _ChosenTrials(self.observations(study), self._storage)
        return optuna.create_study(storage=seen, direction=study.direction)

    def observations(self, study: Study) -> list[FrozenTrial]:
        """The trials that TPE is fitted to; none while parameters are still drawn at random."""
        past = study.get_trials(deepcopy=False)
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        trials = [trial for trial in past if trial.state in states]
        needed = self._min_observations or 1 + max((len(t.params) for t in trials), default=0)
        if sum(value_at(t, self._rungs[-1]) is not None for t in trials) < self._startup:
            return []
        worst = -math.inf if study.direction == StudyDirection.MAXIMIZE else math.inf
        failed = [_observed(t, worst) for t in past if t.state == TrialState.FAIL]
        for rung in self._rungs:
            values = {t.number: v for t in trials if (v := value_at(t, rung)) is not None}
            if len(values) >= needed:
                observed = [_observed(t, values[t.number]) for t in trials if t.number in values]
                unknown = [t for t in trials if t.number not in values]
                liars = [t for t in unknown if t.state == TrialState.RUNNING]
                return observed + failed + liars
        return []


def value_at(trial: FrozenTrial, rung: int) -> float | None:
    """What a trial was worth at an epoch; None where it never came that far.

    That is its first value that is not NaN at this epoch or later, as halving counts it. A training
    that ended by itself at or before ``rung`` counts with the trial's value, that of its best
    epoch: it would not have become better.
    """
    values = trial.intermediate_values
    if trial.state == TrialState.COMPLETE and max(values, default=rung) <= rung:
        return trial.value
    epochs = (epoch for epoch, value in values.items() if epoch >= rung and not math.isnan(value))
    epoch = min(epochs, default=None)
    return None if epoch is None else values[epoch]


def _observed(trial: FrozenTrial, value: float) -> FrozenTrial:
    observed = copy.copy(trial)
    observed.state = TrialState.COMPLETE
    observed.value = value
    return observed


class _ChosenTrials(InMemoryStorage):
    """A storage whose only study has given trials; notes on trials go to their own ``storage``."""

    def __init__(self, trials: Sequence[FrozenTrial], storage: BaseStorage | None) -> None:
        super().__init__()
        self._chosen, self._own_storage = trials, storage

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        return [trial for trial in self._chosen if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if self._own_storage is not None:
            self._own_storage.set_trial_system_attr(trial_id, key, value)
