"""Optuna's TPE for trials that are stopped early: fitted at the largest rung with enough values.

What a sampler is told about stopped trials decides what it learns. Their last value is low because
they were stopped young, so comparing it with the final value of others teaches that slow starters
are bad. Values are comparable only at the same epoch: that is BOHB's rule (Falkner, Klein and
Hutter, ICML 2018, section 3.2), with Optuna's multivariate TPE in the place of BOHB's.
"""

import copy
import math
import warnings
from collections.abc import Container, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from segcore.errors import UserError


def rungs(grace_epochs: int, max_epochs: int, reduction_factor: int) -> tuple[int, ...]:
    """Epochs at which Ray's ASHAScheduler compares trials, and ``max_epochs`` as the last.

    Successive halving (Li et al., MLSys 2020): ``grace_epochs · reduction_factor^k``.
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


class RungTPESampler(TPESampler):
    """TPE over what every trial, stopped or not, was worth at one and the same epoch.

    A trial is observed at a rung once it has been that far, by its value there (``value_at``).
    TPE is fitted at the largest rung with at least ``min_observations``. Parameters are drawn at
    random until the lowest rung has as many, and at least ``n_startup_trials``. A running trial
    that is past the fitting rung is an observation like any other; the others are TPE's constant
    liars. A failed trial is worse than all others, so that its region is avoided: what ran out of
    memory or diverged would again. Stopped ones that never saw the rung are left out.

    ``min_observations`` None is BOHB's d + 1, where d is the largest number of parameters that one
    trial has: in a conditional space no trial has them all, and the prior of Optuna's TPE fits
    where BOHB's kernel densities can't.

    Single objective; a study without intermediate values is sampled as by Optuna's TPE.
    """

    def __init__(
        self,
        rungs: Sequence[int],
        *,
        min_observations: int | None = None,
        n_startup_trials: int = 0,
        seed: int | None = None,
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # ``group``
            # The view that TPE is given is empty until it may be fitted: it sees no start-up.
            super().__init__(
                n_startup_trials=1, seed=seed, multivariate=True, group=True, constant_liar=True
            )
        self._rungs = sorted(rungs, reverse=True)
        self._min_observations = min_observations
        self._startup = n_startup_trials

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample jointly, from the trials at the fitting rung."""
        groups = self._search_space_group.search_spaces if self._search_space_group else []
        if not search_space.keys() <= {name for group in groups for name in group}:
            # Asked for other parameters than were inferred last: stock TPE would sample none.
            self.infer_relative_search_space(study, trial)
        return super().sample_relative(self._at_fitting_rung(study), trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Sample one parameter that no finished trial has had, from the same trials."""
        return super().sample_independent(
            self._at_fitting_rung(study), trial, param_name, param_distribution
        )

    def _at_fitting_rung(self, study: Study) -> "_StudyAtRung":
        self._raise_error_if_multi_objective(study)
        past = study.get_trials(deepcopy=False)
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        trials = [trial for trial in past if trial.state in states]
        failed = [_observed(t, -math.inf) for t in past if t.state == TrialState.FAIL]
        needed = self._min_observations or 1 + max((len(t.params) for t in trials), default=0)
        if sum(value_at(t, self._rungs[-1]) is not None for t in trials) < self._startup:
            return _StudyAtRung(study, [])
        for rung in self._rungs:
            values = {t.number: v for t in trials if (v := value_at(t, rung)) is not None}
            if len(values) >= needed:
                observed = [_observed(t, values[t.number]) for t in trials if t.number in values]
                unknown = [t for t in trials if t.number not in values]
                liars = [t for t in unknown if t.state == TrialState.RUNNING]
                return _StudyAtRung(study, observed + failed + liars)
        return _StudyAtRung(study, [])


def value_at(trial: FrozenTrial, rung: int) -> float | None:
    """What a trial was worth at an epoch; None where it never came that far.

    Its value at the first epoch from ``rung`` on that has one that is not NaN, as Ray's scheduler
    counts it. A training that ended by itself at or before ``rung`` counts with its final value:
    it would not have become better.
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


class _StudyAtRung(Study):
    """The study as TPE is to see it: given trials in the place of the stored ones.

    Made as Optuna's HyperbandPruner makes its view of one bracket.
    """

    def __init__(self, study: Study, trials: Sequence[FrozenTrial]) -> None:
        super().__init__(study.study_name, study._storage, study.sampler, study.pruner)
        self._seen = trials

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return [trial for trial in self._seen if states is None or trial.state in states]
