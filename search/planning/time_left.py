"""How long the trials of a search still take, told from what they took so far."""

import bisect
import heapq
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from search.planning.halving import ending_epoch
from search.planning.strategies import decision_epochs, epoch_budget
from search.runs.options import SearchOptions
from search.runs.rows import TrialRow

SIMULATED_TRIALS = 240
"""So many trials to come, at most, are simulated for one answer: it takes some 10 ms."""
PRIOR = 4
"""So many trials are imagined that stood anywhere among their predecessors."""
TINY = 1e-3
"""By how much, at most, a simulated trial is better than the best."""


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

    Successive halving is simulated from the rungs as they are: trials to come draw their ranks, and
    those that run keep theirs. Where another number ends the search (epochs, seconds), that is
    counted. Times are seconds of one clock, which begins with the session.
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
        past, rng = _Past.of(self._trials, self._rungs), random.Random(0)
        # The middle one, because one long training makes some of them twice as long.
        left_s = statistics.median(
            self._simulate(simulated, past, now_s, rng) for _ in range(times)
        )
        return left_s * to_come / simulated if simulated else left_s

    def _simulate(self, to_come: int, past: "_Past", now_s: float, rng: random.Random) -> float:
        """Let the search go on by chance: seconds until its last trial ends."""
        reached = {rung: [*values] for rung, values in past.reached.items()}

        def epochs_left(number: int | None, done: int) -> int:
            value = past.value_of.get(number)
            if value is None:
                value = past.draw(reached.get(self._rungs[0], []), rng)
            ahead = {rung: values for rung, values in reached.items() if rung > done}
            end = ending_epoch(value, ahead, self._rungs[-1], self._options.reduction_factor)
            return max(0, end - done)

        has_worker: list[float] = []
        waits: list[float] = []
        for number, trial in self._trials.items():
            if not trial.is_over:
                needs_s = self._needs_s(number, epochs_left(number, trial.epochs), now_s)
                (waits if trial.begun_at is None else has_worker).append(needs_s)
        waits += (self._needs_s(None, epochs_left(None, 0), now_s) for _ in range(to_come))
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


class _Past(NamedTuple):
    """What trials scored at the rungs, and how new ones compared with those before them."""

    reached: Mapping[int, list[float]]
    """By rung but the last, sorted: the scores at the first rung of all that came so far."""
    value_of: Mapping[int | None, float]
    """By trial: its score at the first rung."""
    beaten: Sequence[tuple[int, int]]
    """In the order of trials: how many earlier ones it was better than, of how many."""

    @classmethod
    def of(cls, trials: Mapping[int, _Known], rungs: Sequence[int]) -> Self:
        first, *_ = rungs
        value_of: dict[int | None, float] = {}
        earlier: list[float] = []
        beaten = []
        for number, trial in sorted(trials.items()):
            if later := [epoch for epoch in trial.scores if epoch >= first]:
                value = value_of[number] = trial.scores[min(later)]
                beaten.append((bisect.bisect(earlier, value), len(earlier)))
                bisect.insort(earlier, value)
        reached = {
            rung: sorted(value_of[n] for n, trial in trials.items() if trial.epochs >= rung)
            for rung in rungs[:-1]
        }
        return cls(reached, value_of, beaten)

    def draw(self, others: Sequence[float], rng: random.Random) -> float:
        """A new trial's score at the first rung, beside those that reached it.

        It stands among them where some earlier trial stood among its own predecessors: so it is
        seen whether a sampler's later trials are the better ones.
        """
        drawn = rng.randrange(len(self.beaten) + PRIOR)
        worse, of = self.beaten[drawn] if drawn < len(self.beaten) else (0, 0)
        place = (worse + rng.random()) / (of + 1) * (len(others) + 1)
        below, above = math.floor(place) - 1, math.floor(place)
        if not others:
            return 0.0
        if below < 0:
            return others[0] - rng.random() * TINY
        if above == len(others):
            return others[-1] + rng.random() * TINY
        return others[below] + (place % 1) * (others[above] - others[below])
