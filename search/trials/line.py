"""The line that moves while a search goes on: what is being done, how far it is, the time left."""

import html
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

TOLD_FROM = 0.1
"""Of a phase, so much must be done before it is said how long the rest takes."""


class Line:
    """The last line of a terminal, or a bar in the output of a notebook's cell.

    Elsewhere there is none: in a file, each of its states would be a line.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._phase, self._since_s = "", 0.0
        self._begun_s = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.fields[phase]}", style="bold", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=False)),
            console=console,
            transient=True,
            disable=console.quiet or not console.is_terminal or console.is_jupyter,
        )
        self._task = self._bar.add_task("", total=None, phase="")
        self._cell = _NotebookBar() if console.is_jupyter and not console.quiet else None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if self._cell is not None:  # rich takes its own line away, a cell's stays
            how = "done" if kind is None else "ended"
            self._cell.show(1, 1, f"{how} after {show_about(time.monotonic() - self._begun_s)}")

    def step(self, phase: str, done: int = 0, total: int = 0) -> None:
        """Show a phase whose parts take about as long as each other; how many may not be known."""
        now_s = time.monotonic()
        if phase != self._phase:
            self._phase, self._since_s = phase, now_s
        parts = [f"{done} of {total}"] if total else []
        if TOLD_FROM * total <= done < total and done:
            parts.append(show_left((now_s - self._since_s) / done * (total - done)))
        self.show(phase, done, total, *parts)

    def show(self, phase: str, done: float, total: float, *parts: str) -> None:
        """Show a phase, how much of it is done (``total`` 0: not known), and more about it."""
        self._phase, text = phase, " · ".join(parts)
        self._bar.update(
            self._task, phase=phase, description=text, completed=done, total=total or None
        )
        if self._cell is not None:
            self._cell.show(done, total, f"{phase} {text}")


def show_left(seconds: float) -> str:
    """Such as ``about 25 min left``."""
    return f"about {show_about(seconds)} left"


def show_about(seconds: float) -> str:
    """A time that is known only roughly, such as ``40 s``, ``25 min``, ``5 h`` or ``3 days``."""
    if seconds < 100:
        return f"{max(1, round(seconds, -1 if seconds > 20 else 0)):.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


class _NotebookBar:
    """A bar in the output of a notebook's cell, which is replaced in place.

    rich has one too, but it needs a widget extension in the notebook's program.
    """

    def __init__(self) -> None:
        self._shown: Any = None
        self._content = ""

    def show(self, done: float, total: float, text: str) -> None:
        """Show the bar, or show it anew."""
        from IPython.display import HTML, display  # there is one wherever there is a notebook

        share = f' value="{done}" max="{total}"' if total else ""
        content = f"<progress{share}></progress> {html.escape(text)}"
        if content == self._content:
            return
        self._content, bar = content, HTML(content)
        if self._shown is None:
            self._shown = display(bar, display_id=True)
        else:
            self._shown.update(bar)
