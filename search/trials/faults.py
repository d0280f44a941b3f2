"""What to do about trials that break: when to go on, when to give up a trial, when the search.

A trial whose worker process died goes on from its checkpoint a few times, and one that hung goes on
once. One whose machine went away always goes on. A failure that a trial reports itself is its
configuration's own, and final. But when the first trials all fail alike, the cause lies elsewhere,
and the search ends.
"""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import ray
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.tune.experiment import Trial

from search.runs.rows import show_duration

WORKER_DEATHS = 3
"""A trial goes on this many times after its worker process died; the next death fails it."""

ALIKE = 3
"""A session ends when this many of its trials, or all, failed for one reason before any scored."""


class Faults:
    """Counts what breaks, by the number that a trial has in the study, and says so.

    ``reason`` is why the search must end, once it must, and ``given_up`` why some trials are not
    tried again.
    """

    def __init__(
        self, *, hang_timeout_s: float, planned_trials: int, say: Callable[[str], None]
    ) -> None:
        self.reason: str | None = None
        self.given_up: dict[int, str] = {}
        self._hang_timeout_s = hang_timeout_s
        self._alike_needed = min(ALIKE, planned_trials)
        self._say = say
        self._failures: list[str] = []
        self._any_score = False
        self._heard_at: dict[int, float] = {}
        self._hangs: Counter[int] = Counter()
        self._deaths: Counter[int] = Counter()

    def heard(self, number: int) -> None:
        """A trial has started, or reported an epoch."""
        self._heard_at[number] = time.monotonic()

    def scored(self) -> None:
        """Some trial had a score: trials that fail alike no longer end the search."""
        self._any_score = True

    def broke(self, number: int, error: Exception) -> str | None:
        """Count a trial that ended with an error of Ray's.

        Gives the reason why the trial is given up, or says that it goes on and gives None. A worker
        ends itself when it hangs, so a worker that died after a long silence hung.
        """
        now = time.monotonic()
        if machine_went_away(error):
            what = "its machine went away"
        elif now - self._heard_at.get(number, now) >= self._hang_timeout_s:
            what = "it hung"
            self._hangs[number] += 1
            if self._hangs[number] > 1:
                timeout = show_duration(self._hang_timeout_s)
                self.given_up[number] = f"it hung twice: no epoch within {timeout} (--hang-timeout)"
        else:
            what = "its worker died"
            self._deaths[number] += 1
            if self._deaths[number] > WORKER_DEATHS:
                last_line = str(error).strip().rpartition("\n")[2]
                died = f"its worker died {self._deaths[number]} times"
                self.given_up[number] = f"{died}: {last_line.partition('. ')[0]}"
        if number not in self.given_up:
            self._say(f"trial {number:>3}  {what}; it goes on from its last checkpoint")
        return self.given_up.get(number)

    def failed(self, failure: str) -> None:
        """Count a trial that failed; end the search where its first trials all failed alike."""
        self._failures.append(failure)
        enough = len(self._failures) >= self._alike_needed
        if enough and not self._any_score and len(set(self._failures)) == 1:
            self.reason = f"the first {len(self._failures)} trials all failed alike: {failure}"


def last_error(trial: Trial) -> Exception:
    """The error for which a trial of Ray's broke; Ray hands it to callbacks in a file only."""
    if trial.pickled_error_file is None:
        return RuntimeError(Path(trial.error_file).read_text())
    # This process wrote the file a moment ago, into a folder of its own session: nobody else could.
    error: Exception = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    return error


def machine_went_away(error: Exception) -> bool:
    """Whether Ray lost a worker together with its machine, or the network to it.

    That a node died is said in the text of the error alone (checked with Ray 2.60.0).
    """
    if not isinstance(error, RayActorError):
        return False
    lost = isinstance(error, ActorUnavailableError) or error.preempted
    return lost or "node has died" in str(error)
