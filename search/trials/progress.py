"""What a person sees while trials run: a moving line, and one for each that ends or is paused."""

import math
import time
from dataclasses import dataclass
from typing import Literal

from ray import tune
from ray.tune.experiment import Trial

from search.planning.strategies import epoch_budget
from search.reporting.terminal import Line, show_left
from search.runs.options import SearchOptions
from search.runs.rows import TrialRow, show_config, show_duration
from search.tracking.tracker import Tracker
from search.trials.cluster import Slots
from search.trials.estimate import TimeLeft

COLOURS = {"finished": "green", "stopped": "yellow", "paused": "cyan", "failed": "red"}
SHOWN_PARAMETERS = ("architecture", "encoder", "scale", "metres_per_px", "loss", "lr")

BEAT_S = 1.0
"""The line is renewed so often where nothing happens."""
FORECAST_S = 5.0
"""The time left is told anew so often; between, it only passes."""
OUTAGE_S = 10.0
"""An outage of MLflow that lasts so long gets a line of its own."""


class SearchProgress:
    """How much of a search is done, what runs, the best score so far, and the time left.

    The bar counts what ends the search: trials, epochs or time.
    """

    def __init__(
        self, line: Line, options: SearchOptions, slots: Slots, tracker: Tracker, phase: str
    ) -> None:
        self._line, self._options, self._slots, self._tracker = line, options, slots, tracker
        self._phase = phase
        self._unit: Literal["trials", "epochs", "time"] = "trials"
        self._total: float = options.trials
        if (budget := epoch_budget(options)) is not None:
            self._unit, self._total = "epochs", budget
        elif options.pauses and options.time_budget_s is not None:
            self._unit, self._total = "time", options.time_budget_s
        self._done = 0
        self._started_at = self._shown_at = time.monotonic()
        self._time_left = TimeLeft(options, lambda: slots.count)
        self._ends_at: float | None = None
        self._forecast_at = -math.inf
        self._running: set[int] = set()
        self._paused: set[int] = set()
        self._waiting = 0
        self._best: TrialScore | None = None
        self._said = ""
        self._outage_since: float | None = None

    @property
    def _now_s(self) -> float:
        return time.monotonic() - self._started_at

    def trial_known(self, row: TrialRow) -> None:
        """Note a trial of an earlier session."""
        if row.status == "waiting":
            return
        self._note_score(row.number, row.score, row.interval)
        self._time_left.known(row)
        if self._unit == "epochs":
            self._done += len(row.values)
        elif self._unit == "trials":
            self._done += row.is_over
        if row.status == "paused":
            self._paused.add(row.number)

    def trial_begun(self, number: int) -> None:
        """Show that a trial runs."""
        self._running.add(number)
        self._waiting = max(0, self._waiting - 1)
        self._paused.discard(number)
        self._time_left.begun(number, self._now_s)
        self._show()

    def epoch_done(
        self, number: int, epoch: int, score: float, interval: tuple[float, float] | None
    ) -> None:
        """Show that a running trial reported an epoch."""
        self._note_score(number, score, interval)
        if math.isfinite(score):
            self._time_left.epoch_done(number, epoch, score, self._now_s)
        if self._unit == "epochs":
            self._done += 1
        self._show()

    def trial_ended(self, row: TrialRow, failure: str | None = None) -> None:
        """Print the line of a trial that ended, or that is paused."""
        self._running.discard(row.number)
        self._time_left.ended(row.number, is_over=row.is_over)
        if row.status == "paused":
            self._paused.add(row.number)
        elif self._unit == "trials":
            self._done += 1
        score = "no score" if row.score is None else f"{self._options.metric} {row.score:.4f}"
        what = show_config(row.config, SHOWN_PARAMETERS) if row.config else ""
        console = self._line.console
        console.print(
            f"trial {row.number:>3}  [{COLOURS[row.status]}]{row.status:<8}[/]  {row.epochs:>3} "
            f"epochs  {score}  {what}",
            soft_wrap=True,
        )
        if failure:
            console.print(f"  {failure}", style="red", markup=False, soft_wrap=True)
        self._show()

    def trial_let_go(self, number: int) -> None:
        """Note that a paused trial will not go on."""
        self._paused.discard(number)

    def beat(self, waiting: int) -> None:
        """Renew the line where nothing happens; so many trials wait for a worker."""
        if time.monotonic() - self._shown_at > BEAT_S:
            self._waiting = waiting
            self._tell_outage()
            self._show()

    def say(self, what: str) -> None:
        """Print what went wrong without ending the search, but no line twice in a row."""
        if what != self._said:
            self._line.console.print(what, style="yellow", markup=False, soft_wrap=True)
            self._said = what

    def _tell_outage(self) -> None:
        problem = self._tracker.problem
        if problem is None:
            self._outage_since = None
        elif self._outage_since is None:
            self._outage_since = self._now_s
        elif self._now_s - self._outage_since > OUTAGE_S:
            reason = problem.partition("\n")[0]
            self.say(f"MLflow takes no records: {reason}; they wait on disk, the search goes on")

    def _note_score(
        self, number: int, score: float | None, interval: tuple[float, float] | None
    ) -> None:
        if score is None or not math.isfinite(score):
            return
        if self._best is None or score > self._best.value:
            self._best = TrialScore(score, number, interval)

    def _show(self) -> None:
        self._shown_at = time.monotonic()
        done: float = self._done
        parts = [f"{self._done} of {self._total:.0f} {self._unit}"]
        if self._unit == "time":
            done = self._now_s
            parts = [f"{show_duration(done)} of {show_duration(self._total)}"]
        phase = self._phase
        if not self._running and done < self._total:
            phase = "waiting for nodes" if self._slots.present < 1 else "starting workers"
        left_s = self._left_s()
        if left_s is not None and done < self._total:
            parts.append(show_left(left_s))
        if self._best is not None:
            parts.append(self._best.show(self._options.metric))
        if self._tracker.problem is not None:
            parts.append(f"MLflow takes no records, {self._tracker.unsent} wait")
        counts = {"running": len(self._running), "paused": len(self._paused)}
        beyond = len(self._running) + self._waiting - self._slots.present
        if self._running and self._waiting and beyond > 0:
            counts["waiting for a node"] = min(beyond, self._waiting)
        parts.append(", ".join(f"{count} {name}" for name, count in counts.items() if count))
        self._line.show(phase, done, self._total, *filter(None, parts))

    def _left_s(self) -> float | None:
        """What was forecast a moment ago, less what has passed since."""
        now_s = self._now_s
        if now_s - self._forecast_at > FORECAST_S or self._ends_at is None:
            left_s = self._time_left.seconds(now_s)
            self._ends_at = None if left_s is None else now_s + left_s
            self._forecast_at = now_s
        return None if self._ends_at is None else max(0.0, self._ends_at - now_s)


@dataclass(frozen=True)
class TrialScore:
    """A trial's score on the validation split."""

    value: float
    number: int
    interval: tuple[float, float] | None

    def show(self, metric: str) -> str:
        """Such as ``best dice 0.7312 (0.701–0.759, trial 4)``."""
        ends = "" if self.interval is None else "{:.3f}–{:.3f}, ".format(*self.interval)
        return f"best {metric} {self.value:.4f} ({ends}trial {self.number})"


class NothingOfRays(tune.ProgressReporter):
    """Ray's own report, left out: in a notebook it would clear the cell and show its own table."""

    def should_report(self, trials: list[Trial], done: bool = False) -> bool:
        """Never."""
        return False
