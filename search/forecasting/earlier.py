"""Trials of earlier searches, which the Gaussian process takes for those of another task.

What they say of a configuration counts as much as the tasks are alike, which is fitted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from search.forecasting.curves import Scale, relative_epoch, thin

EARLIER = "earlier"
"""User attribute of the study: what ``EarlierTrial.to_dict`` gives, for each such trial."""

MOST_EARLIER = 40
"""So many trials of each earlier search count."""


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
    task: int, trials: Sequence[tuple[Mapping[str, Any], Mapping[int, float]]], max_epochs: int
) -> list[EarlierTrial]:
    """Of an earlier search's trials, which come best first: the best ones, and fewer of the others.

    Each is (parameters, score by epoch), with a score at least.
    """
    if not trials:
        return []
    curves = [thin(values) for _, values in trials]
    scale = Scale.of([points[-1][1] for points in curves])
    places = len(trials) * np.linspace(0, 1, MOST_EARLIER, endpoint=False) ** 2
    found = []
    for place in sorted({int(place) for place in places}):
        epoch_T, value_T = np.array(curves[place], dtype=float).T
        tau_T, z_T = relative_epoch(epoch_T, max_epochs), scale.standardise(value_T)
        curve = tuple(zip(tau_T.tolist(), z_T.tolist(), strict=True))
        found.append(EarlierTrial(task, trials[place][0], curve))
    return found
