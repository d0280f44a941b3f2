"""Configurations made by calling the space's function: conditions stay plain ``if``."""

import datetime
import functools
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

from search.forecasting.encoding import Encoder, from_unit, to_unit
from search.forecasting.kernel import Array

SpaceFunction = Callable[[BaseTrial], object]

MUTATED = 0.3
"""Probability that a parameter is mutated; one at least is."""
RANDOM_CANDIDATES, MUTANTS = 100, 12
"""New configurations come from so many random ones, and so many mutants of each parent."""
RENEWED = 4
"""Others are drawn when so many more trials are begun."""
STEP = 0.15
"""Standard deviation of a number's mutation, as a share of its range."""

# A space asks thousands of times for the same few: Optuna's checks take longer than an answer.
_float_range = functools.lru_cache(1024)(FloatDistribution)
_int_range = functools.lru_cache(1024)(IntDistribution)


@functools.lru_cache(1024)
def _categories(
    choices: tuple[CategoricalChoiceType, ...], types: tuple[type, ...]
) -> CategoricalDistribution:
    """``types`` tell apart 1, 1.0 and True, which are equal."""
    return CategoricalDistribution(choices)


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
        return float(self._number(name, _float_range(low, high, log, step)))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """A whole number."""
        return int(self._number(name, _int_range(low, high, log, step)))

    def suggest_categorical(  # type: ignore[override]  # Optuna has an overload for each type
        self, name: str, choices: Sequence[CategoricalChoiceType]
    ) -> CategoricalChoiceType:
        """One of the choices."""
        if name not in self._params:
            distribution = _categories(tuple(choices), tuple(map(type, choices)))
            given = self._given.get(name)
            known = name in self._given and given in distribution.choices
            value = given if known else choices[int(self._rng.integers(len(choices)))]
            self._params[name], self._distributions[name] = value, distribution
        return self._params[name]

    def _number(self, name: str, distribution: FloatDistribution | IntDistribution) -> float:
        if name not in self._params:
            given = self._given.get(name)
            unit = self._rng.random() if given is None else float(to_unit(distribution, given))
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
                unit = float(to_unit(number, given[name])) + STEP * rng.standard_normal()
                given[name] = from_unit(number, min(max(unit, 0.0), 1.0))
    return draw(space, rng, given)


class Candidates:
    """Configurations that may be begun next: others after every fourth trial.

    They are not drawn for each decision, because that would take most of a decision's time.
    """

    def __init__(self, space: SpaceFunction, seed: int) -> None:
        self._space, self._seed = space, seed
        self._round: tuple[int, Encoder | None] = (-1, None)
        self._drawn: dict[int, tuple[list[Proposal], Array]] = {}

    def of(
        self, n_trials: int, parents: Mapping[int, Proposal], encoder: Encoder
    ) -> tuple[list[Proposal], Array]:
        """Random ones, and mutants of each parent, which is known by its trial's number; encoded.

        They are the same for the same number of trials, whatever was asked before.
        """
        if self._round != (n_trials // RENEWED, encoder):
            self._round, self._drawn = (n_trials // RENEWED, encoder), {}
        for number in (-1, *parents):
            if number not in self._drawn:
                rng = np.random.default_rng([self._seed, self._round[0], number + 1])
                drawn = self._draw(parents.get(number), rng)
                encoded_ND = encoder.encode([proposal.params for proposal in drawn])
                self._drawn[number] = drawn, encoded_ND
        found = [self._drawn[number] for number in (-1, *parents)]
        return [one for drawn, _ in found for one in drawn], np.concatenate([x for _, x in found])

    def _draw(self, parent: Proposal | None, rng: np.random.Generator) -> list[Proposal]:
        if parent is None:
            return [draw(self._space, rng) for _ in range(RANDOM_CANDIDATES)]
        return [mutate(self._space, rng, parent) for _ in range(MUTANTS)]
