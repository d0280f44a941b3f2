"""What to do about trials that break: when to go on, when to give up a trial, when the search.

A trial whose worker process died goes on from its checkpoint a few times, one that hung once, one
whose machine went away always. A failure that a trial reports itself is its configuration's own,
and final; but when the first trials all fail alike it isn't, and the search ends.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from search.leaderboard import show_duration

WORKER_DEATHS = 3
"""A trial whose worker process died goes on from its checkpoint this many times, then it failed."""

ALIKE = 3
"""The search ends when this many trials, or all, failed for one reason before any had a score."""

NOT_THE_TRIALS_FAULT = ("node has died", "temporarily unavailable", "preempted")
"""In Ray's words: the machine went away, or its network."""


class Faults(tune.Callback):
    """Counts what breaks, and says so. It also ends the search: ``reason`` is why, if it did."""

    def __init__(
        self, *, hang_timeout_s: float, planned_trials: int, say: Callable[[str], None]
    ) -> None:
        self.reason: str | None = None
        self._say = say
        self._hang_timeout_s = hang_timeout_s
        self._alike_needed = min(ALIKE, planned_trials)
        self._failures: list[str] = []
        self._any_score = False
        self._heard_at: dict[str, float] = {}
        self._hung: dict[str, int] = {}
        self._ended_for_hanging: set[str] = set()
        self._deaths: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles its Tuner for a restore that isn't used; a console can't be.
        return {}

    def why(self, trial: Trial) -> str:
        """Why a trial was given up."""
        if self._hung.get(trial.trial_id, 0) > 1:
            timeout = show_duration(self._hang_timeout_s)
            return f"it hung twice: no epoch within {timeout} (--hang-timeout)"
        last_line = _last_error(trial).strip().rpartition("\n")[2]
        return f"its worker died {WORKER_DEATHS + 1} times: {last_line.partition('. ')[0]}"

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Begin to wait for its first epoch."""
        self._heard_at[trial.trial_id] = time.monotonic()

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """It lives."""
        self._heard_at[trial.trial_id] = time.monotonic()
        if "fatal" in result:
            self.reason = result["fatal"]
        elif "failure" not in result:
            self._any_score = True

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """End the workers that have been silent for too long."""
        now = time.monotonic()
        for trial in trials:
            heard_at = self._heard_at.get(trial.trial_id, now)
            if trial.status == Trial.RUNNING and now - heard_at > self._hang_timeout_s:
                self._hung[trial.trial_id] = self._hung.get(trial.trial_id, 0) + 1
                if self._hung[trial.trial_id] > 1:
                    _give_up_next_time(trial)
                self._ended_for_hanging.add(trial.trial_id)
                self._heard_at[trial.trial_id] = now
                ray.kill(trial.temporary_state.ray_actor)

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Its worker is gone, and it goes on with another."""
        self._heard_at[trial.trial_id] = time.monotonic()
        error = _last_error(trial)
        what = "its worker died"
        if trial.trial_id in self._ended_for_hanging:
            self._ended_for_hanging.remove(trial.trial_id)
            what = "it hung"
        elif any(words in error for words in NOT_THE_TRIALS_FAULT):
            what = "its machine went away"
        number = trial.config["trial_number"]
        self._say(f"trial {number:>3}  {what}; it goes on from its last checkpoint")
        if what != "its worker died":
            return
        self._deaths[trial.trial_id] = self._deaths.get(trial.trial_id, 0) + 1
        if self._deaths[trial.trial_id] >= WORKER_DEATHS:
            _give_up_next_time(trial)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """End the search when its first trials all failed for one reason."""
        self._heard_at.pop(trial.trial_id, None)
        if "failure" in trial.last_result:
            self._count_failure(trial.last_result["failure"])

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Likewise."""
        self._heard_at.pop(trial.trial_id, None)
        self._count_failure(self.why(trial))

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


def _give_up_next_time(trial: Trial) -> None:
    # Ray gives a trial up that failed more often than this; it is -1 (never) before.
    trial.max_failures = trial.run_metadata.num_failures


def _last_error(trial: Trial) -> str:
    return Path(trial.error_file).read_text().rpartition("Failure #")[2]
