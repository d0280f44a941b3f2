"""A warm start: what was best in earlier runs is tried among the first."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from search.forecasting.proposals import Proposal, draw
from search.planning.space import Space
from search.runs.folder import RunFolder
from search.runs.study import read_study
from segcore.errors import UserError

TAKEN = 2
"""Configurations of each earlier run. A run on other data may mislead: then no more is lost."""


def earlier_bests(address: str, space: Space) -> list[dict[str, Any]]:
    """Parameters of an earlier run's two best trials that the space can make.

    Numbers out of the space's range are moved to its end.
    Raises ``UserError`` where there is no such run, or no trial of it fits.
    """
    run = RunFolder.opened(address)
    trials = [t for t in read_study(run).get_trials(deepcopy=False) if t.intermediate_values]
    trials.sort(key=lambda trial: -max(trial.intermediate_values.values()))
    found = list(itertools.islice(_fitting(trials, space), TAKEN))
    if not found:
        raise UserError(
            f"--warm-start {address}: none of its {len(trials)} trials with a score has all "
            f"parameters and choices that {space.path} asks for; give a run of a space like it"
        )
    return found


def _fitting(trials: list[FrozenTrial], space: Space) -> Iterator[dict[str, Any]]:
    for trial in trials:
        try:
            made = draw(space.sample, np.random.default_rng(0), trial.params)
        except UserError:  # such as of a word where the space asks for a number
            continue
        if all(_is_of(trial, made, name) for name in made.params):
            yield dict(made.params)


def _is_of(trial: FrozenTrial, made: Proposal, name: str) -> bool:
    """Whether a parameter was made of the trial's own; a number may have been moved."""
    if name not in trial.params:
        return False
    is_choice = isinstance(made.distributions[name], CategoricalDistribution)
    return not is_choice or bool(trial.params[name] == made.params[name])
