"""A warm start: what earlier runs found is tried among the first, and what they learnt counts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from search.forecasting.earlier import EARLIER, EarlierTrial, earlier_trials
from search.forecasting.proposals import Proposal, SpaceFunction, draw
from search.planning.space import Space
from search.runs.folder import RunFolder
from search.runs.study import enqueue_baselines, read_study
from segcore.errors import UserError

TAKEN = 2
"""Configurations of each earlier run. A run on other data may mislead: then no more is lost."""


@dataclass(frozen=True)
class EarlierRun:
    """What a search takes from an earlier one."""

    bests: Sequence[Mapping[str, Any]]
    """Parameters of its best trials (``TAKEN``)."""
    trials: Sequence[EarlierTrial]
    """What freeze-thaw's forecasts learn from."""

    @classmethod
    def of(
        cls, task: int, trials: Sequence[FrozenTrial], space: SpaceFunction, max_epochs: int
    ) -> "EarlierRun":
        """From its trials: those that the space can make.

        Numbers out of the space's range are moved to its end. ``task`` tells this run from others.
        """
        scored = [trial for trial in trials if trial.intermediate_values]
        scored.sort(key=lambda trial: -max(trial.intermediate_values.values()))
        found = list(_fitting(scored, space))
        bests = [params for params, _ in found[:TAKEN]]
        return cls(bests, earlier_trials(task, found, max_epochs))


def read_earlier(address: str, space: Space, task: int) -> EarlierRun:
    """As ``EarlierRun.of``. Raises ``UserError`` where there is no such run, or no trial fits."""
    run = RunFolder.opened(address)
    trials = read_study(run).get_trials(deepcopy=False)
    earlier = EarlierRun.of(task, trials, space.sample, run.read().options.max_epochs)
    if not earlier.bests:
        scored = sum(bool(trial.intermediate_values) for trial in trials)
        raise UserError(
            f"--warm-start {address}: none of its {scored} trials with a score has all "
            f"parameters and choices that {space.path} asks for; give a run of a space like it"
        )
    return earlier


def begin_warm(study: Study, runs: Sequence[EarlierRun]) -> None:
    """Tell a new study what it takes from earlier runs, which may be gone when it is resumed."""
    if runs:
        study.set_user_attr(EARLIER, [trial.to_dict() for run in runs for trial in run.trials])
    enqueue_baselines(study, [params for run in runs for params in run.bests])


def _fitting(
    trials: Sequence[FrozenTrial], space: SpaceFunction
) -> Iterator[tuple[dict[str, Any], dict[int, float]]]:
    """Parameters and scores."""
    for trial in trials:
        try:
            made = draw(space, np.random.default_rng(0), trial.params)
        except UserError:  # such as of a word where the space asks for a number
            continue
        if all(_is_of(trial, made, name) for name in made.params):
            yield dict(made.params), dict(trial.intermediate_values)


def _is_of(trial: FrozenTrial, made: Proposal, name: str) -> bool:
    """Whether a parameter was made of the trial's own; a number may have been moved."""
    if name not in trial.params:
        return False
    is_choice = isinstance(made.distributions[name], CategoricalDistribution)
    return not is_choice or bool(trial.params[name] == made.params[name])
