"""Trials of earlier searches, which the Gaussian process takes for those of another task.

What they say of a configuration counts as much as the tasks are alike, which is fitted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from search.forecasting.curves import Scale, relative_epoch, thin

EARLIER = "earlier"
"""User attribute of the study: what ``EarlierTrial.to_dict`` gives, for each such trial."""

MOST_EARLIER = 40
"""So many trials of each earlier search count."""


@dataclass(frozen=True)
class Tried:
    """A trial of an earlier search with a score, as a run's folder or MLflow has it."""

    params: Mapping[str, Any]
    """By name. MLflow has text in place of numbers."""
    best: float
    last: float
    """The best of its scores, and the last one. Of other programs' runs the last one is both."""
    read_curve: Callable[[], Mapping[int, float]]
    """Its scores by epoch; to read them from a server takes a moment."""

    @classmethod
    def of(cls, params: Mapping[str, Any], values: Mapping[int, float]) -> "Tried":
        """From scores by epoch that are known, of which one at least is finite."""
        curve = thin(values)
        return cls(params, max(values.values()), curve[-1][1], lambda: values)


@dataclass(frozen=True)
class EarlierSearch:
    """What is known of an earlier search."""

    trials: Sequence[Tried]
    max_epochs: int | None
    """Epochs of its longest trainings; None where only their curves can say it."""


@dataclass(frozen=True)
class EarlierTrial:
    """A trial that another search has ended, on its own scale of scores."""

    task: int
    """The earlier search: 1, 2 …"""
    params: Mapping[str, Any]
    """Those that this search's space would ask for."""
    curve: Sequence[tuple[float, float]]
    """(τ, z) of at most three of its epochs: ln t / ln E, and the standardised score."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the study's user attributes."""
        return asdict(self)


def earlier_trials(
    task: int, trials: Sequence[Tried], max_epochs: int | None
) -> list[EarlierTrial]:
    """Of an earlier search's trials, which come best first: the best ones, and fewer of the others.

    Only of these the curves are read.
    """
    if not trials:
        return []
    scale = Scale.of([trial.last for trial in trials])
    places = len(trials) * np.linspace(0, 1, MOST_EARLIER, endpoint=False) ** 2
    chosen = [trials[place] for place in sorted({int(place) for place in places})]
    curves = [(trial.params, thin(trial.read_curve())) for trial in chosen]
    longest = max([max_epochs or 1, *(points[-1][0] for _, points in curves if points)])
    found = []
    for params, points in curves:
        if points:
            epoch_T, value_T = np.array(points, dtype=float).T
            tau_T, z_T = relative_epoch(epoch_T, longest), scale.standardise(value_T)
            curve = tuple(zip(tau_T.tolist(), z_T.tolist(), strict=True))
            found.append(EarlierTrial(task, params, curve))
    return found
