"""Configurations as vectors whose distances mean something, also in conditional spaces."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from search.forecasting.kernel import Array

Number = FloatDistribution | IntDistribution


def to_unit(distribution: Number, value: float) -> float:
    """Where a number lies in its range: 0 at the lower end, 1 at the upper one."""
    low, high = _ends(distribution)
    transformed = math.log(value) if distribution.log else value
    return (transformed - low) / (high - low) if high > low else 0.5


def from_unit(distribution: Number, unit: float) -> float | int:
    """The allowed number nearest to a place in the range."""
    low, high = _ends(distribution)
    value = low + unit * (high - low)
    value = math.exp(value) if distribution.log else value
    if distribution.step is not None:
        steps = round((value - distribution.low) / distribution.step)
        value = distribution.low + steps * distribution.step
    value = min(max(value, distribution.low), distribution.high)
    return int(value) if isinstance(distribution, IntDistribution) else float(value)


def _ends(distribution: Number) -> tuple[float, float]:
    """The ends of the range that is drawn from: each step, also the first and last, is as wide."""
    half = (distribution.step or 0) / 2
    low, high = distribution.low - half, distribution.high + half
    return (math.log(low), math.log(high)) if distribution.log else (low, high)


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
        for index, (name, distribution) in enumerate(self._distributions.items()):
            self._first[name] = len(columns)
            choices = getattr(distribution, "choices", (None,))
            columns += [index] * len(choices)
        self.column_D: NDArray[np.int64] = np.array(columns, dtype=np.int64)
        """Index in ``names`` of the parameter that each column belongs to."""
        self._inactive = [
            0.0 if isinstance(self._distributions[self.names[i]], CategoricalDistribution) else 0.5
            for i in columns
        ]

    def encode(self, configurations: Sequence[Mapping[str, Any]]) -> Array:
        """One row per configuration. Parameters that the encoder doesn't know are left out."""
        rows = []
        for params in configurations:
            row = self._inactive.copy()
            for name, value in params.items():
                match self._distributions.get(name):
                    case CategoricalDistribution(choices=choices):
                        row[self._first[name] + choices.index(value)] = math.sqrt(0.5)
                    case FloatDistribution() | IntDistribution() as number:
                        row[self._first[name]] = to_unit(number, value)
            rows.append(row)
        return np.array(rows).reshape(len(rows), len(self._inactive))
