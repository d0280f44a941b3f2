"""What to do about trials that break: when to go on, when to give up a trial, when the search.

A trial whose worker process died goes on from its checkpoint a few times, one that hung once, one
whose machine went away always, if need be in another session of Ray. A failure that a trial reports
itself is its configuration's own, and final; but when the first trials all fail alike it isn't, and
the search ends.
"""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from search.runs.rows import show_duration

WORKER_DEATHS = 3
"""A trial whose worker process died goes on from its checkpoint this many times, then it failed."""

ALIKE = 3
"""The search ends when this many trials, or all, failed for one reason before any had a score."""

NOT_THE_TRIALS_FAULT = ("node has died", "temporarily unavailable", "preempted")
"""In Ray's words: the machine went away, or its network."""


class Faults(tune.Callback):
    """Counts what breaks, in all of Ray's sessions, and says so.

    It also ends the search: ``reason`` is why, if it did.
    """

    def __init__(
        self, *, hang_timeout_s: float, planned_trials: int, say: Callable[[str], None]
    ) -> None:
        self.reason: str | None = None
        self._say = say
        self._hang_timeout_s = hang_timeout_s
        self._alike_needed = min(ALIKE, planned_trials)
        self._failures: list[str] = []
        self._any_score = False
        # By the number that a trial has in the study.
        self._heard_at: dict[int, float] = {}
        self._hung: Counter[int] = Counter()
        self._ended_for_hanging: set[int] = set()
        self._deaths: Counter[int] = Counter()

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles its Tuner for a restore that isn't used; a console can't be.
        return {}

    def why(self, trial: Trial) -> str | None:
        """Why a trial that Ray won't try again is given up; None where it is not.

        Ray drops trials of its own accord: it handles the error of a worker that dies just when it
        takes up its next trial twice, and one that ran out of deaths is dropped for its machine's.
        """
        number = _number(trial)
        if self._hung[number] > 1:
            timeout = show_duration(self._hang_timeout_s)
            return f"it hung twice: no epoch within {timeout} (--hang-timeout)"
        error = _last_error(trial)
        if self._deaths[number] < WORKER_DEATHS or _is_the_machines(error):
            return None
        last_line = error.strip().rpartition("\n")[2]
        return f"its worker died {WORKER_DEATHS + 1} times: {last_line.partition('. ')[0]}"

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Begin to wait for its first epoch."""
        self._heard_at[_number(trial)] = time.monotonic()

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """It lives."""
        self._heard_at[_number(trial)] = time.monotonic()
        if "fatal" in result:
            self.reason = result["fatal"]
        elif "failure" not in result:
            self._any_score = True

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """End the workers that have been silent for too long."""
        now = time.monotonic()
        for trial in trials:
            number = _number(trial)
            heard_at = self._heard_at.get(number, now)
            if trial.status == Trial.RUNNING and now - heard_at > self._hang_timeout_s:
                self._hung[number] += 1
                if self._hung[number] > 1:
                    _give_up_next_time(trial)
                self._ended_for_hanging.add(number)
                self._heard_at[number] = now
                ray.kill(trial.temporary_state.ray_actor)

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Its worker is gone, and it goes on with another."""
        number = _number(trial)
        self._heard_at[number] = time.monotonic()
        what = "its worker died"
        if number in self._ended_for_hanging:
            self._ended_for_hanging.remove(number)
            what = "it hung"
        elif _is_the_machines(_last_error(trial)):
            what = "its machine went away"
        self._say(f"trial {number:>3}  {what}; it goes on from its last checkpoint")
        if what != "its worker died":
            return
        self._deaths[number] += 1
        if self._deaths[number] >= WORKER_DEATHS:
            _give_up_next_time(trial)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """End the search when its first trials all failed for one reason."""
        self._heard_at.pop(_number(trial), None)
        if "failure" in trial.last_result:
            self._count_failure(trial.last_result["failure"])

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Likewise, where it was given up."""
        self._heard_at.pop(_number(trial), None)
        reason = self.why(trial)
        if reason is None:
            self._say(f"trial {_number(trial):>3}  Ray dropped it; it goes on at the search's end")
        else:
            self._count_failure(reason)

    def _count_failure(self, failure: str) -> None:
        self._failures.append(failure)
        enough = len(self._failures) >= self._alike_needed
        if enough and not self._any_score and len(set(self._failures)) == 1:
            self.reason = f"the first {len(self._failures)} trials all failed alike: {failure}"


class EndOnFault(tune.Stopper):
    """Ray Tune's way to end all trials: when ``faults`` says so."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether one trial should end: never."""
        return False

    def stop_all(self) -> bool:
        """Whether nothing more should run."""
        return self._faults.reason is not None


def _number(trial: Trial) -> int:
    return int(trial.config["trial_number"])


def _is_the_machines(error: str) -> bool:
    return any(words in error for words in NOT_THE_TRIALS_FAULT)


def _give_up_next_time(trial: Trial) -> None:
    # Ray gives a trial up that failed more often than this; it is -1 (never) before.
    trial.max_failures = trial.run_metadata.num_failures


def _last_error(trial: Trial) -> str:
    return Path(trial.error_file).read_text().rpartition("Failure #")[2]
