"""What a person sees while trials run: a bar, and a line for each trial that ends or is paused."""

import html
import math
import time
from types import TracebackType
from typing import Any, Literal, Self

from ray import tune
from ray.tune.experiment import Trial
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from search.runs.rows import TrialRow, show_config, show_duration

COLOURS = {"finished": "green", "stopped": "yellow", "paused": "cyan", "failed": "red"}
SHOWN_PARAMETERS = ("architecture", "encoder", "scale", "metres_per_px", "loss", "lr")


class SearchProgress:
    """How much of a search is done, what runs, the best score so far, and the time left.

    The bar counts what ends the search: ``total`` trials, epochs or seconds. Of the first two,
    ``done`` were done in earlier sessions.
    """

    def __init__(
        self,
        console: Console,
        *,
        metric: str,
        unit: Literal["trials", "epochs", "time"],
        total: float,
        done: int = 0,
    ) -> None:
        self._metric = metric
        self._unit, self._total, self._done = unit, total, done
        self._done_before = done
        self._started_at = time.monotonic()
        self._running: set[int] = set()
        self._paused: set[int] = set()
        self._best: tuple[float, int] | None = None
        self._said = ""
        self._bar = Progress(
            TextColumn(f"[bold]{unit}"),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            # In a file, each state of the bar would be a line.
            disable=console.quiet or not console.is_terminal or console.is_jupyter,
        )
        self._task = self._bar.add_task("", total=total, completed=done)
        self._cell = _NotebookBar() if console.is_jupyter and not console.quiet else None

    def __enter__(self) -> Self:
        self._bar.start()
        self._show()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def trial_known(self, row: TrialRow) -> None:
        """Note a trial of an earlier session."""
        self._note_score(row.number, row.score)
        if row.status == "paused":
            self._paused.add(row.number)

    def trial_begun(self, number: int) -> None:
        """Show that a trial runs."""
        self._running.add(number)
        self._paused.discard(number)
        self._show()

    def epoch_done(self, number: int, score: float) -> None:
        """Show that a running trial reported an epoch."""
        self._note_score(number, score)
        if self._unit == "epochs":
            self._done += 1
        self._show()

    def trial_ended(self, row: TrialRow, failure: str | None = None) -> None:
        """Print the line of a trial that ended, or that is paused."""
        self._running.discard(row.number)
        if row.status == "paused":
            self._paused.add(row.number)
        elif self._unit == "trials":
            self._done += 1
        score = "no score" if row.score is None else f"{self._metric} {row.score:.4f}"
        what = show_config(row.config, SHOWN_PARAMETERS) if row.config else ""
        self._bar.console.print(
            f"trial {row.number:>3}  [{COLOURS[row.status]}]{row.status:<8}[/]  {row.epochs:>3} "
            f"epochs  {score}  {what}",
            soft_wrap=True,
        )
        if failure:
            self._bar.console.print(f"  {failure}", style="red", markup=False, soft_wrap=True)
        self._show()

    def trial_let_go(self, number: int) -> None:
        """Note that a paused trial will not go on."""
        self._paused.discard(number)

    def say(self, what: str) -> None:
        """Print what went wrong without ending the search, but no line twice in a row."""
        if what != self._said:
            self._bar.console.print(what, style="yellow", markup=False, soft_wrap=True)
            self._said = what

    def _note_score(self, number: int, score: float | None) -> None:
        if score is None or not math.isfinite(score):
            return
        if self._best is None or score > self._best[0]:
            self._best = (score, number)

    def _show(self) -> None:
        spent_s = time.monotonic() - self._started_at
        done: float = self._done
        amount = f"{self._done}/{self._total:.0f}"
        if self._unit == "time":
            done = spent_s
            amount = f"{show_duration(spent_s)} of {show_duration(self._total)}"
        parts = [amount, f"{len(self._running)} running"]
        if self._paused:
            parts.append(f"{len(self._paused)} paused")
        if self._best is not None:
            parts.append(f"best {self._metric} {self._best[0]:.4f} (trial {self._best[1]})")
        here = self._done - self._done_before
        if here and done < self._total:
            left_s = spent_s / here * (self._total - self._done)
            parts.append(f"about {show_duration(left_s)} left")
        text = " · ".join(parts)
        self._bar.update(self._task, completed=done, description=text)
        if self._cell is not None:
            self._cell.update(done, self._total, f"{self._unit} {text}")


class NothingOfRays(tune.ProgressReporter):
    """Ray's own report, left out: in a notebook it would clear the cell and show its own table."""

    def should_report(self, trials: list[Trial], done: bool = False) -> bool:
        """Never."""
        return False


class _NotebookBar:
    """A bar in the output of a notebook's cell, which is replaced in place.

    rich has one too, but it needs a widget extension in the notebook's program.
    """

    def __init__(self) -> None:
        self._shown: Any = None

    def update(self, done: float, total: float, text: str) -> None:
        """Show the bar, or show it anew."""
        from IPython.display import HTML, display  # there is one wherever there is a notebook

        bar = HTML(f'<progress value="{done}" max="{total}"></progress> {html.escape(text)}')
        if self._shown is None:
            self._shown = display(bar, display_id=True)
        else:
            self._shown.update(bar)
