"""What the trials of a study, at this moment, say about epochs and configurations to come."""

import bisect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from search.forecasting.costs import predict_seconds
from search.forecasting.curves import FAILED_Z, Scale, milestones, relative_epoch, thin
from search.forecasting.earlier import EarlierTrial
from search.forecasting.encoding import Encoder
from search.forecasting.kernel import (
    LEVEL_VARIANCE,
    SCALARS,
    WEIGHT,
    Array,
    Hyperparameters,
    Points,
    covariance,
)
from search.forecasting.process import Posterior, fit
from search.forecasting.proposals import Proposal
from search.runs.attributes import EPOCH_SECONDS, STARTED_SECONDS, is_paused

MOST_TRIALS = 120
"""No more trials are conditioned on."""
MOST_FITTED = 70
"""Hyperparameters are fitted to no more trials: about 200 observations."""


class Forecast:
    """The Gaussian process, conditioned on the curves of a study, and on those of ``earlier`` ones.

    ``known`` are the hyperparameters of the forecast before (``Forecast.remembered``); without
    them they are fitted. ``encoder`` is that forecast's. Raises ``ValueError`` where no trial has a
    score.
    """

    def __init__(
        self,
        trials: Sequence[FrozenTrial],
        max_epochs: int,
        rng: np.random.Generator,
        known: Mapping[str, Any] | None = None,
        *,
        earlier: Sequence[EarlierTrial] = (),
        refit: bool = False,
        encoder: Encoder | None = None,
        current: int | None = None,
    ) -> None:
        self.max_epochs = max_epochs
        curves = {t.number: thin(t.intermediate_values) for t in trials}
        self._trials, self._current = trials, current
        self._failed = {t.number for t in trials if t.state == TrialState.FAIL}
        self._known = [t.number for t in trials if curves[t.number] or t.number in self._failed]
        self.last_epoch = {number: points[-1][0] for number, points in curves.items() if points}
        self.scale = Scale.of([points[-1][1] for points in curves.values() if points])
        values = [value for points in curves.values() for _, value in points]
        z = iter(self.scale.standardise(np.array(values)).tolist())
        self._z = {number: [next(z) for _ in points] for number, points in curves.items()}
        self._curves = curves
        self.encoder = Encoder.of(trials, encoder)
        self._x_ND = self.encoder.encode_trials(trials)
        self._row = {t.number: row for row, t in enumerate(self._trials)}
        self._earlier = self._points_of(earlier)
        start = self._recall(known)
        if refit or start is None:
            points, z_N = self._observations(self._choose(MOST_FITTED, rng))
            start = fit(points, z_N, self.encoder.column_D, start)
        self._hyperparameters = start
        chosen = self._choose(MOST_TRIALS, rng)
        points, z_N = self._observations(chosen)
        self.posterior = Posterior.of(points, z_N, self.encoder.column_D, start)
        self.seen = [number for number in chosen if number in self.last_epoch]
        """The trials with scores that were conditioned on."""

    @property
    def remembered(self) -> dict[str, Any]:
        """The hyperparameters, as plain values by name."""
        h = self._hyperparameters
        weights = dict(zip(self.encoder.names, h.weights_P.tolist(), strict=True))
        return {"amplitudes": dict(h.scalars), "weights": weights}

    def _recall(self, known: Mapping[str, Any] | None) -> Hyperparameters | None:
        """What ``remembered`` gave; a parameter that it doesn't name has the prior's median."""
        if known is None:
            return None
        weights = [known["weights"].get(name, WEIGHT[0]) for name in self.encoder.names]
        scalars = {name: known["amplitudes"].get(name, SCALARS[name][0]) for name in SCALARS}
        return Hyperparameters(scalars, np.array(weights))

    def at(self, numbers: Sequence[int], epochs: Sequence[int] | Array) -> Points:
        """Points on the curves of trials."""
        rows = [self._row[number] for number in numbers]
        tau_N = relative_epoch(np.asarray(epochs, dtype=float), self.max_epochs)
        return _of_this_search(self._x_ND[rows], tau_N, np.array(numbers, dtype=np.int64))

    def untried(self, x_ND: Array, epochs_N: Array) -> Points:
        """Points of configurations that were never tried."""
        tau_N = relative_epoch(epochs_N, self.max_epochs)
        return _of_this_search(x_ND, tau_N, np.full(len(x_ND), -1, dtype=np.int64))

    def repeats(self, x_D: Array) -> bool:
        """Whether a configuration's end differs from some trial's by less than the noise.

        By the square that is expected of the difference, apart from that of two seeds.
        """
        h, end = self._hyperparameters, self.max_epochs
        new = self.untried(x_D[None], np.array([end]))
        tried = self.untried(self._x_ND, np.full(len(self._x_ND), end))
        alike = covariance(new, tried, self.encoder.column_D, h).max()
        same = LEVEL_VARIANCE + sum(h.variances[part] for part in ("shared", "level", "shape"))
        return bool(2 * (same - alike) < h.variances["noise"])

    def epoch_seconds(self, x_MD: Array) -> Array:
        """Predicted seconds per epoch of encoded configurations."""
        rows = [self._row[number] for number in self._measured]
        return predict_seconds(self._x_ND[rows], np.array([*self._measured.values()]), x_MD)

    def epoch_seconds_of(self, numbers: Sequence[int]) -> Array:
        """Seconds per epoch of trials: measured, or predicted where they have none."""
        missing = [number for number in numbers if number not in self._measured]
        predicted = self.epoch_seconds(self._x_ND[[self._row[number] for number in missing]])
        known = self._measured | dict(zip(missing, predicted.tolist(), strict=True))
        return np.array([known[number] for number in numbers])

    @cached_property
    def _measured(self) -> dict[int, float]:
        """Seconds per epoch of the trials that have any, by number."""
        timed = ((t.number, t.user_attrs.get(EPOCH_SECONDS)) for t in self._trials)
        return {number: float(seconds) for number, seconds in timed if seconds}

    @cached_property
    def start_seconds(self) -> float:
        """Usual seconds that it takes to start a trial, or to resume one; 0 where none is known.

        The median: a worker's first trial waits for imports and for the GPU, those after it don't.
        """
        known = [t.user_attrs.get(STARTED_SECONDS) for t in self._trials]
        return float(np.median([seconds for seconds in known if seconds is not None] or [0.0]))

    @cached_property
    def best_z(self) -> float:
        """The highest standardised score that is believed of a trial at its newest epoch."""
        points = self.posterior.points
        is_last_N = np.append(points.trial_N[1:] != points.trial_N[:-1], True)
        return float(self.posterior.mean_of_seen()[is_last_N & (points.task_N == 0)].max())

    @cached_property
    def best_seen(self) -> list[int]:
        """``seen``, those first that are believed to end best."""
        mean_N = self.posterior.mean(self.at(self.seen, [self.max_epochs] * len(self.seen)))
        return [self.seen[index] for index in np.argsort(-mean_N, kind="stable")]

    def proposal(self, number: int) -> Proposal:
        """The configuration of a trial."""
        trial = self._trials[self._row[number]]
        return Proposal(trial.params, trial.distributions)

    def _observations(self, numbers: Sequence[int]) -> tuple[Points, Array]:
        rows = [
            (number, epoch, z)
            for number in numbers
            if number not in self._failed
            for (epoch, _), z in zip(self._curves[number], self._z[number], strict=True)
        ]
        rows += [(n, self.last_epoch.get(n, 1), FAILED_Z) for n in numbers if n in self._failed]
        numbers_N, epochs_N, z_N = zip(*rows, strict=True)
        earlier, earlier_z_N = self._earlier
        return earlier + self.at(numbers_N, epochs_N), np.array([*earlier_z_N, *z_N])

    def _points_of(self, earlier: Sequence[EarlierTrial]) -> tuple[Points, list[float]]:
        """Points of earlier searches, and their standardised scores."""
        x_ND = self.encoder.encode([trial.params for trial in earlier])
        rows = [(n, *point) for n, trial in enumerate(earlier) for point in trial.curve]
        trial_N = np.array([n for n, _, _ in rows], dtype=np.int64)
        task_N = np.array([earlier[n].task for n in trial_N], dtype=np.int64)
        tau_N = np.array([tau for _, tau, _ in rows])
        return Points(x_ND[trial_N], tau_N, trial_N, task_N), [z for _, _, z in rows]

    def _choose(self, most: int, rng: np.random.Generator) -> list[int]:
        """The trials that count: those that run, the best among those that came as far, others.

        A trial is compared with those that reached the same milestone: what a young one may become
        can't be seen from its score among old ones. Where very many run, they are chosen as the
        others are, but for the current one.
        """
        numbers = self._known
        if len(numbers) <= most:
            return numbers
        chosen = {
            t.number
            for t in self._trials
            if t.state == TrialState.RUNNING and t.number in self.last_epoch and not is_paused(t)
        }
        if len(chosen) > most // 2:
            chosen &= {self._current}
        groups = self._by_milestone()
        for rank in range(most):
            for group in groups:
                if rank < len(group) and len(chosen) < most * 2 // 3:
                    chosen.add(group[rank])
        others = [number for number in numbers if number not in chosen]
        chosen |= set(rng.permutation(others)[: most - len(chosen)].tolist())
        return sorted(chosen)

    def _by_milestone(self) -> list[list[int]]:
        """Trials by the last milestone that they reached, each group from the best to the worst."""
        steps = milestones(self.max_epochs)
        groups: dict[int, list[int]] = {}
        for number, epoch in self.last_epoch.items():
            groups.setdefault(bisect.bisect(steps, epoch), []).append(number)
        for group in groups.values():
            group.sort(key=lambda number: -self._z[number][-1])
        return [groups[key] for key in sorted(groups, reverse=True)]


def _of_this_search(x_ND: Array, tau_N: Array, trial_N: NDArray[np.int64]) -> Points:
    return Points(x_ND, tau_N, trial_N, np.zeros_like(trial_N))
