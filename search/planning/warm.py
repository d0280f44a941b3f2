"""A warm start: what earlier searches found is tried early, and what they learnt counts."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from optuna import Study
from optuna.distributions import CategoricalChoiceType, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from search.forecasting.earlier import (
    EARLIER,
    EarlierSearch,
    EarlierTrial,
    Tried,
    earlier_trials,
)
from search.forecasting.proposals import AnsweringTrial, SpaceFunction
from search.planning.space import Space
from search.runs.credentials import without_credentials
from search.runs.folder import RunFolder
from search.runs.study import enqueue_baselines, read_study
from segcore.errors import UserError

TAKEN = 2
"""Configurations of each earlier search. One on other data may mislead: then no more is lost."""


@dataclass(frozen=True)
class EarlierRun:
    """What a search takes from an earlier one."""

    bests: Sequence[Mapping[str, Any]]
    """Parameters of its best trials (``TAKEN``)."""
    trials: Sequence[EarlierTrial]
    """What freeze-thaw's forecasts learn from."""
    misfits: Sequence[str] = ()
    """Why the space can't make some of its trials, the most frequent reason first."""

    @classmethod
    def of(cls, task: int, search: EarlierSearch, space: SpaceFunction) -> "EarlierRun":
        """From its trials: those that the space can make.

        Numbers out of the space's range are moved to its end. ``task`` tells this search from
        others.
        """
        misfits: Counter[str] = Counter()
        found = []
        for trial in sorted(search.trials, key=lambda trial: -trial.best):
            asked = _Reader(trial.params)
            try:
                space(asked)
            except UserError:
                misfits[asked.misfit or "the space can't take its values"] += 1
            else:
                found.append(dataclasses.replace(trial, params=asked.params))
        reasons = [f"{reason} ({count})" for reason, count in misfits.most_common()]
        bests = [trial.params for trial in found[:TAKEN]]
        return cls(bests, earlier_trials(task, found, search.max_epochs), reasons)


def tried(trials: Sequence[FrozenTrial]) -> list[Tried]:
    """Those trials of a study that have a score."""
    return [
        Tried.of(trial.params, trial.intermediate_values)
        for trial in trials
        if trial.intermediate_values
    ]


def read_earlier(
    address: str, space: Space, task: int, logged: Mapping[str, EarlierSearch]
) -> EarlierRun:
    """As ``EarlierRun.of``, from a run's folder, unless ``logged`` has what MLflow knows.

    Raises ``UserError`` where there is no such run, or no trial fits.
    """
    search = logged[address] if address in logged else _of_folder(address)
    earlier = EarlierRun.of(task, search, space.sample)
    if not earlier.bests:
        why = f" ({'; '.join(earlier.misfits[:3])})" if earlier.misfits else ""
        raise UserError(
            f"--warm-start {without_credentials(address)}: none of its {len(search.trials)} trials "
            f"with a score has all parameters and choices that {space.path} asks for{why}; give a "
            "search of a space like it"
        )
    return earlier


def _of_folder(address: str) -> EarlierSearch:
    run = RunFolder.opened(address)
    trials = read_study(run).get_trials(deepcopy=False)
    return EarlierSearch(tried(trials), run.read().options.max_epochs)


def begin_warm(study: Study, runs: Sequence[EarlierRun]) -> None:
    """Tell a new study what it takes from earlier runs, which may be gone when it is resumed."""
    if runs:
        study.set_user_attr(EARLIER, [trial.to_dict() for run in runs for trial in run.trials])
    enqueue_baselines(study, [params for run in runs for params in run.bests])


class _Reader(AnsweringTrial):
    """Answers a space from a trial's parameters, which may be text, and may be anybody's.

    What the space takes is its own choice, or a number in its own range. Raises ``UserError`` where
    a parameter is missing, is none of the choices, or no number, and keeps the reason.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._read = dict(params)
        super().__init__(self._read, np.random.default_rng(0))
        self.misfit: str | None = None

    def suggest_categorical(  # type: ignore[override]  # Optuna has an overload for each type
        self, name: str, choices: Sequence[CategoricalChoiceType]
    ) -> CategoricalChoiceType:
        """The choice that the parameter is, or that it spells."""
        if name not in self._params:
            value = self._value(name)
            same = [choice for choice in choices if choice == value or _spells(value, choice)]
            if not same:
                self._refuse(f"{name} is {_shown(value)}, which is no choice")
            self._read[name] = same[0]
        return super().suggest_categorical(name, choices)

    def _number(self, name: str, distribution: FloatDistribution | IntDistribution) -> float:
        if name not in self._params:
            value = self._value(name)
            number = _finite(value)
            if number is None:
                self._refuse(f"{name} is {_shown(value)}, which is no number")
            self._read[name] = min(max(number, distribution.low), distribution.high)
        return super()._number(name, distribution)

    def _value(self, name: str) -> Any:
        if name not in self._read:
            self._refuse(f"no {name}")
        return self._read[name]

    def _refuse(self, misfit: str) -> NoReturn:
        self.misfit = misfit
        raise UserError(misfit)


def _spells(value: Any, choice: CategoricalChoiceType) -> bool:
    """Whether a text is how a program may have written a choice down: 8 as "8" or "8.0"."""
    if not isinstance(value, str):
        return False
    is_number = isinstance(choice, int | float) and not isinstance(choice, bool)
    return value == str(choice) or (is_number and _finite(value) == choice)


def _finite(value: Any) -> float | None:
    """A finite number; None where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
