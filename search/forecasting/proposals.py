"""Configurations made by calling the space's function: conditions stay plain ``if``."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial

from search.forecasting.encoding import from_unit, to_unit

SpaceFunction = Callable[[BaseTrial], object]

MUTATED = 0.3
"""Probability that a parameter is mutated; one at least is."""
STEP = 0.15
"""Standard deviation of a number's mutation, as a share of its range."""


@dataclass(frozen=True)
class Proposal:
    """A configuration that the space can make."""

    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]


class AnsweringTrial(BaseTrial):
    """Stands in for a trial: answers from given values where they are allowed, else at random."""

    def __init__(self, given: Mapping[str, Any], rng: np.random.Generator) -> None:
        self._given, self._rng = given, rng
        self._params: dict[str, Any] = {}
        self._distributions: dict[str, BaseDistribution] = {}
        self._user_attrs: dict[str, Any] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number."""
        return float(self._number(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """A whole number."""
        return int(self._number(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(  # type: ignore[override]  # Optuna has an overload for each type
        self, name: str, choices: Sequence[CategoricalChoiceType]
    ) -> CategoricalChoiceType:
        """One of the choices."""
        if name not in self._params:
            distribution = CategoricalDistribution(choices)
            given = self._given.get(name)
            known = name in self._given and given in distribution.choices
            value = given if known else choices[int(self._rng.integers(len(choices)))]
            self._params[name], self._distributions[name] = value, distribution
        return self._params[name]

    def _number(self, name: str, distribution: FloatDistribution | IntDistribution) -> float:
        if name not in self._params:
            given = self._given.get(name)
            unit = self._rng.random() if given is None else to_unit(distribution, given)
            self._params[name] = from_unit(distribution, unit)
            self._distributions[name] = distribution
        return self._params[name]

    suggest_uniform = suggest_float

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        """A number on a logarithmic scale, by an older name."""
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        """A number in steps, by an older name."""
        return self.suggest_float(name, low, high, step=q)

    def report(self, value: float, step: int) -> None:
        """Nothing: no training follows."""

    def should_prune(self) -> bool:
        """Never."""
        return False

    def set_user_attr(self, key: str, value: Any) -> None:
        """Kept for the space to read again."""
        self._user_attrs[key] = value

    def set_constraint(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: no training follows."""

    @property
    def params(self) -> dict[str, Any]:
        """What has been answered so far."""
        return self._params

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What has been asked for so far."""
        return self._distributions

    @property
    def user_attrs(self) -> dict[str, Any]:
        """What the space has set."""
        return self._user_attrs

    @property
    def datetime_start(self) -> datetime.datetime | None:
        """None: it never starts."""
        return None


def draw(
    space: SpaceFunction, rng: np.random.Generator, given: Mapping[str, Any] | None = None
) -> Proposal:
    """A random configuration, with the given values wherever the space asks for them."""
    trial = AnsweringTrial(given or {}, rng)
    space(trial)
    return Proposal(trial.params, trial.distributions)


def mutate(space: SpaceFunction, rng: np.random.Generator, parent: Proposal) -> Proposal:
    """A neighbour: numbers moved a little, categories chosen anew; what becomes active is drawn."""
    names = list(parent.params)
    chosen = [name for name in names if rng.random() < MUTATED]
    given = dict(parent.params)
    for name in chosen or names[rng.integers(len(names)) :][:1]:
        match parent.distributions[name]:
            case CategoricalDistribution():
                del given[name]  # the space's next answer is a random choice
            case FloatDistribution() | IntDistribution() as number:
                unit = to_unit(number, given[name]) + STEP * rng.standard_normal()
                given[name] = from_unit(number, min(max(unit, 0.0), 1.0))
    return draw(space, rng, given)
