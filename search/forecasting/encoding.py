"""Configurations as vectors whose distances mean something, also in conditional spaces."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from search.forecasting.kernel import Array

Number = FloatDistribution | IntDistribution


def to_unit(distribution: Number, values: Array) -> Array:
    """Where numbers lie in their range: 0 at the lower end, 1 at the upper one."""
    low, width = _ends(distribution.low, distribution.high, distribution.step, distribution.log)
    transformed = np.log(values) if distribution.log else values
    return (transformed - low) / width if width > 0 else 0.5 + 0 * transformed


def from_unit(distribution: Number, unit: float) -> float | int:
    """The allowed number nearest to a place in the range."""
    low, width = _ends(distribution.low, distribution.high, distribution.step, distribution.log)
    value = low + unit * width
    value = math.exp(value) if distribution.log else value
    if distribution.step is not None:
        steps = round((value - distribution.low) / distribution.step)
        value = distribution.low + steps * distribution.step
    value = min(max(value, distribution.low), distribution.high)
    return int(value) if type(distribution) is IntDistribution else float(value)


@functools.lru_cache(maxsize=1024)
def _ends(low: float, high: float, step: float | None, log: bool) -> tuple[float, float]:
    """Lower end and width of the range that is drawn from, on the logarithmic scale with ``log``.

    Each step, also the first and last, is as wide.
    """
    half = (step or 0) / 2
    low, high = low - half, high + half
    if log:
        low, high = math.log(low), math.log(high)
    return low, high - low


class Encoder:
    """Encodes the parameters of trials, of which each may have others.

    A number becomes its place in its range, and ½ where it is not active. A category becomes one
    column per choice, √½ in the chosen one's and 0 in the others, so that different choices are 1
    apart, and a choice and none ½ (squared distances).
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self._distributions = dict(sorted(distributions.items()))
        self.names = tuple(self._distributions)
        columns: list[int] = []
        self._first: dict[str, int] = {}
        for index, name in enumerate(self.names):
            self._first[name] = len(columns)
            columns += [index] * max(len(self._choices(name)), 1)
        self.column_D: NDArray[np.int64] = np.array(columns, dtype=np.int64)
        """Index in ``names`` of the parameter that each column belongs to."""
        self._rows: dict[int, Array] = {}
        self._inactive_D = np.array(
            [0.0 if self._choices(self.names[index]) else 0.5 for index in self.column_D]
        )

    def _choices(self, name: str) -> tuple[CategoricalChoiceType, ...]:
        """Of a category; none of a number."""
        return getattr(self._distributions[name], "choices", ())

    @classmethod
    def of(cls, trials: Sequence[FrozenTrial], before: "Encoder | None" = None) -> "Encoder":
        """The encoder of trials: the one of ``before``, if it knows all their parameters."""
        if before is not None:
            new = (trial for trial in trials if trial.number not in before._rows)
            if all(before._first.keys() >= trial.distributions.keys() for trial in new):
                return before
        return cls({name: d for trial in trials for name, d in trial.distributions.items()})

    def encode_trials(self, trials: Sequence[FrozenTrial]) -> Array:
        """One row per trial. Each is encoded once: a study's trials keep their parameters."""
        new = [trial for trial in trials if trial.number not in self._rows]
        for trial, x_D in zip(new, self.encode([trial.params for trial in new]), strict=True):
            self._rows[trial.number] = x_D
        return np.array([self._rows[trial.number] for trial in trials])

    def encode(self, configurations: Sequence[Mapping[str, Any]]) -> Array:
        """One row per configuration. Parameters that the encoder doesn't know are left out."""
        x_ND = np.tile(self._inactive_D, (len(configurations), 1))
        for name, first in self._first.items():
            rows = [row for row, params in enumerate(configurations) if name in params]
            values = [configurations[row][name] for row in rows]
            match self._distributions[name]:
                case CategoricalDistribution(choices=choices):
                    x_ND[rows, [first + choices.index(value) for value in values]] = math.sqrt(0.5)
                case FloatDistribution() | IntDistribution() as number if rows:
                    x_ND[rows, first] = to_unit(number, np.array(values, dtype=float))
        return x_ND
