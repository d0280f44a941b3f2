"""What a person sees while trials run: a bar, and a line for each trial that ends."""

import html
import time
from types import TracebackType
from typing import Any, Self

from ray import tune
from ray.tune.experiment import Trial
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from search.runs.rows import show_duration


class SearchProgress:
    """Trials done and running, the best score so far, and the time left."""

    def __init__(
        self, console: Console, *, metric: str, planned_trials: int, ended_trials: int
    ) -> None:
        self._console = console
        self._metric = metric
        self._planned, self._ended = planned_trials, ended_trials
        self._ended_before = ended_trials
        self._started_at = time.monotonic()
        self._running: dict[int, tuple[int, float | None]] = {}
        self._best: tuple[float, int] | None = None
        self._said = ""
        self._bar = Progress(
            TextColumn("[bold]trials"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            # In a file, each state of the bar would be a line.
            disable=console.quiet or not console.is_terminal or console.is_jupyter,
        )
        self._task = self._bar.add_task("", total=planned_trials, completed=ended_trials)
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

    def best_so_far(self, score: float | None, number: int) -> None:
        """Note a trial's score, of this session or an earlier one."""
        if score is not None and (self._best is None or score > self._best[0]):
            self._best = (score, number)

    def epoch_done(self, number: int, epoch: int, score: float | None) -> None:
        """Show that a running trial reported an epoch; ``score`` is None before the first one."""
        before, best = self._running.get(number, (0, None))
        epoch = max(epoch, before)  # a trial that starts again has not lost what it did
        if score is not None:
            best = score if best is None else max(best, score)
        self._running[number] = (epoch, best)
        self.best_so_far(score, number)
        self._show()

    def trial_ended(self, number: int, what: str, status: str, failure: str | None) -> None:
        """Print the line of a trial that ended; ``what`` is its main parameters in short."""
        epoch, best = self._running.pop(number, (0, None))
        self._ended += 1
        score = "no score" if best is None else f"{self._metric} {best:.4f}"
        colour = {"finished": "green", "stopped": "yellow", "failed": "red"}[status]
        self._bar.console.print(
            f"trial {number:>3}  [{colour}]{status:<8}[/]  {epoch:>3} epochs  {score}  {what}",
            soft_wrap=True,
        )
        if failure:
            self._bar.console.print(f"  {failure}", style="red", markup=False, soft_wrap=True)
        self._show()

    def say(self, what: str) -> None:
        """Print what went wrong without ending the search, but no line twice in a row."""
        if what != self._said:
            self._bar.console.print(what, style="yellow", markup=False, soft_wrap=True)
            self._said = what

    def _show(self) -> None:
        parts = [f"{len(self._running)} running"]
        if self._best is not None:
            parts.append(f"best {self._metric} {self._best[0]:.4f} (trial {self._best[1]})")
        here = self._ended - self._ended_before
        if here and self._ended < self._planned:
            spent_s = time.monotonic() - self._started_at
            left_s = spent_s / here * (self._planned - self._ended)
            parts.append(f"about {show_duration(left_s)} left")
        self._bar.update(self._task, completed=self._ended, description=" · ".join(parts))
        if self._cell is not None:
            self._cell.update(self._ended, self._planned, " · ".join(parts))


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

    def update(self, done: int, planned: int, text: str) -> None:
        """Show the bar, or show it anew."""
        from IPython.display import HTML, display  # there is one wherever there is a notebook

        bar = HTML(
            f'<progress value="{done}" max="{planned}"></progress> '
            f"trials {done}/{planned} · {html.escape(text)}"
        )
        if self._shown is None:
            self._shown = display(bar, display_id=True)
        else:
            self._shown.update(bar)
