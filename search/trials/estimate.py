"""How long a search will take: from a few measured steps, and then from what its trials took."""

import heapq
import math
import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import ray

from search.planning.plan import Plan
from search.planning.strategies import decision_epochs, epoch_budget, most_epochs
from search.runs.options import SearchOptions
from search.runs.rows import TrialRow
from search.runs.storage import NodeCopy
from search.trials.cluster import Slots
from search.trials.worker import prepare_process
from segcore.config import TrialConfig
from segcore.data.building import Tell
from segcore.data.prepared import PreparedData, open_prepared
from segcore.training.fit import time_steps
from segcore.training.loading import windows_per_epoch

SIMULATED_TRIALS = 240
"""So many trials to come, at most, are simulated for one answer: it takes some 10 ms."""
IMAGINED_TRIALS, IMAGINED_SHARE = 8, 0.5
"""So many trials are imagined at each rung beside those that reached it, and the share of them that
go on: more than halving means, because the first at a rung have few others to be worse than."""


def estimate_s(plan: Plan, slots: Slots, tell: Tell) -> float:
    """Seconds for all trials, from training steps measured where trials will run.

    The same number of pixels goes through each network in an epoch. Validation isn't measured: each
    of its pixels counts as a third of a trained one, because nothing is learned from it.
    """
    options = plan.options
    steps_s = zip(measure(plan, slots, tell), plan.networks, strict=True)
    epoch_s = [
        step_s / config.batch_size / _window_px(config) * _epoch_px(plan.data, config)
        for step_s, config in steps_s
    ]
    mean_s = sum(epoch_s) / len(epoch_s) / slots.count
    search_s = most_epochs(options) * mean_s
    if options.pauses:
        search_s = min(search_s, options.time_budget_s or math.inf)
    return search_s + options.final_trainings * options.max_epochs * mean_s


def _epoch_px(data: PreparedData, config: TrialConfig) -> float:
    """Pixels of an epoch, with a third of those that the network sees of the validation split."""
    trained_px = windows_per_epoch(data, config) * _window_px(config)
    grids = (data.grid(photo, config.view) for photo in data.of_split("val"))
    return trained_px + sum(max(grid.area_px, _window_px(config)) for grid in grids) / 3


def _window_px(config: TrialConfig) -> int:
    return config.height_px * config.width_px


def measure(plan: Plan, slots: Slots, tell: Tell) -> list[float]:
    """Seconds of a training step of each of the plan's networks, in the same order."""
    cpus, gpus = slots.cpus_per_trial, slots.gpus_per_trial
    task = ray.remote(_measure_one).options(num_cpus=cpus, num_gpus=gpus)
    data = plan.data_on_nodes
    tasks = [task.remote(config, data, cpus, gpus) for config in plan.networks]
    steps_s = []
    for done, measured in enumerate(tasks):
        tell("measuring a few steps of each network", done, len(tasks))
        steps_s.append(ray.get(measured))
    return steps_s


def _measure_one(config: TrialConfig, data: NodeCopy, cpus: int, gpus: float) -> float:
    device = prepare_process(cpus, gpus)
    return time_steps(
        config,
        open_prepared(data.folder()),
        device=device,
        loader_workers=cpus if device.type != "cpu" else 0,
    )


@dataclass
class _Known:
    """A trial that was begun, in this session or before."""

    scores: dict[int, float]
    is_over: bool = False
    begun_at: float | None = None
    """When it last got a worker; None while it has none."""
    reported_at: float | None = None
    """When it reported its last epoch since; None before the first."""

    @property
    def epochs(self) -> int:
        return max(self.scores, default=0)


@dataclass
class _Spent:
    """What workers spent on some epochs."""

    seconds: float = 0.0
    epochs: int = 0

    def add(self, seconds: float) -> None:
        self.seconds += seconds
        self.epochs += 1

    @property
    def mean_s(self) -> float:
        return self.seconds / self.epochs if self.epochs else 0.0


class TimeLeft:
    """The time that is left, from trials' beginnings, epochs and ends in this session.

    Successive halving is simulated from where it stands: at each rung a trial goes on with the
    probability with which trials went on so far. Where another number ends the search (epochs,
    seconds), that is counted. Times are seconds of one clock, which begins with the session.
    """

    def __init__(self, options: SearchOptions, slots: Callable[[], int]) -> None:
        self._options, self._slots = options, slots
        self._rungs = decision_epochs(options)
        self._epoch_budget = epoch_budget(options)
        self._trials: dict[int, _Known] = {}
        # The first epoch on a worker comes with the worker's start.
        self._first, self._later = _Spent(), _Spent()
        self._own: dict[int, _Spent] = {}

    def known(self, row: TrialRow) -> None:
        """Note a trial of an earlier session."""
        self._trials[row.number] = _Known(dict(row.values), row.is_over)

    def begun(self, number: int, now_s: float) -> None:
        """Note that a trial got a worker."""
        trial = self._trials.setdefault(number, _Known({}))
        trial.begun_at, trial.reported_at = now_s, None

    def epoch_done(self, number: int, epoch: int, score: float, now_s: float) -> None:
        """Note an epoch."""
        trial = self._trials[number]
        trial.scores[epoch] = score
        if trial.reported_at is not None:
            self._later.add(now_s - trial.reported_at)
            self._own.setdefault(number, _Spent()).add(now_s - trial.reported_at)
        elif trial.begun_at is not None:
            self._first.add(now_s - trial.begun_at)
        trial.reported_at = now_s

    def ended(self, number: int, *, is_over: bool) -> None:
        """Note that a trial has no worker any more, and whether it will never get one again."""
        trial = self._trials[number]
        trial.is_over, trial.begun_at, trial.reported_at = is_over, None, None

    def seconds(self, now_s: float) -> float | None:
        """The seconds that are left; None before the first epoch."""
        budget_s = self._options.time_budget_s
        left_s = None if budget_s is None else max(0.0, budget_s - now_s)
        if self._options.pauses and left_s is not None:
            return left_s
        if not self._first.epochs:
            return None
        trials_s = self._of_epochs() if self._epoch_budget is not None else self._of_trials(now_s)
        return trials_s if left_s is None else min(trials_s, left_s)

    def _of_epochs(self) -> float:
        seconds = self._first.seconds + self._later.seconds
        done = sum(len(trial.scores) for trial in self._trials.values())
        left = max(0, (self._epoch_budget or 0) - done)
        return left * seconds / (self._first.epochs + self._later.epochs) / self._slots()

    def _of_trials(self, now_s: float) -> float:
        to_come = max(0, self._options.trials - len(self._trials))
        simulated = min(to_come, SIMULATED_TRIALS)
        times = max(1, SIMULATED_TRIALS // (simulated + 8))
        going_on, rng = self._going_on(), random.Random(0)
        left_s = statistics.fmean(
            self._simulate(simulated, going_on, now_s, rng) for _ in range(times)
        )
        return left_s * to_come / simulated if simulated else left_s

    def _going_on(self) -> dict[int, float]:
        """At each rung but the last, the share of trials that go on there.

        It is that of the trials so far, and of a few that are imagined beside them.
        """
        shares = {}
        for rung in self._rungs[:-1]:
            reached = [trial for trial in self._trials.values() if trial.epochs >= rung]
            went_on = sum(trial.epochs > rung or not trial.is_over for trial in reached)
            imagined = IMAGINED_TRIALS * IMAGINED_SHARE
            shares[rung] = (went_on + imagined) / (len(reached) + IMAGINED_TRIALS)
        return shares

    def _simulate(
        self, to_come: int, going_on: Mapping[int, float], now_s: float, rng: random.Random
    ) -> float:
        """Let the search go on by chance: seconds until its last trial ends."""

        def epochs_left(done: int) -> int:
            stops = (r for r, share in going_on.items() if r > done and rng.random() > share)
            return max(0, next(stops, self._rungs[-1]) - done)

        has_worker: list[float] = []
        waits: list[float] = []
        for number, trial in self._trials.items():
            if not trial.is_over:
                needs_s = self._needs_s(number, epochs_left(trial.epochs), now_s)
                (waits if trial.begun_at is None else has_worker).append(needs_s)
        waits += (self._needs_s(None, epochs_left(0), now_s) for _ in range(to_come))
        free_at_s = has_worker + [0.0] * (self._slots() - len(has_worker))
        heapq.heapify(free_at_s)
        for needs_s in waits:
            heapq.heapreplace(free_at_s, free_at_s[0] + needs_s)
        return max(free_at_s)

    def _needs_s(self, number: int | None, epochs: int, now_s: float) -> float:
        """How long a trial needs its worker for so many epochs more."""
        typical_s = self._later.mean_s or self._first.mean_s
        if number is None or (trial := self._trials[number]).reported_at is None:
            start_s = max(0.0, self._first.mean_s - typical_s)
            begun_at = None if number is None else self._trials[number].begun_at
            return max(0.0, start_s + epochs * typical_s - (now_s - (begun_at or now_s)))
        own = self._own.get(number)
        epoch_s = own.mean_s if own else typical_s
        return max(0.0, epochs * epoch_s - (now_s - trial.reported_at))
