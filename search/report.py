"""python -m search.report RUN: one HTML page on a search, finished or going on.

The page needs nothing but itself: it opens from a file, without a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from search.reporting.command_line import leave, loading, run_command
from segcore.arguments import read_arguments


@dataclass(frozen=True)
class ReportOptions:
    """Write RUN/report.html: everything about a search on one page, also while it goes on."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder, runs/NAME, or its s3:// or gs:// address."""
    out: Path | None = None
    """Write this file instead."""
    live: bool = False
    """Write the page again and again until the search ends; the page in the browser follows by
    itself."""
    allow_plugins: bool = False
    """Allow the ensemble to import network code that it names. Only for a run that you trust."""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.report") -> int:
    """Write a report, and return the exit code: 0 done, 2 bad input."""
    options = read_arguments(ReportOptions, arguments, prog)

    def work() -> int:
        with loading("torch"):  # not for --help
            from search.reporting.page import REPORT, follow, write_report
            from search.runs.folder import RunFolder

        console = Console(highlight=False, markup=False)
        run = RunFolder.opened(options.run)
        if options.live:
            page = options.out or run.path / REPORT
            console.print(f"Report  {page} follows the search; Ctrl-C ends that", soft_wrap=True)
            follow(options.run, page, allow_plugins=options.allow_plugins)
        path = write_report(run, out=options.out, allow_plugins=options.allow_plugins)
        console.print(f"Report  {path}", soft_wrap=True)
        return 0

    return run_command(work)


if __name__ == "__main__":
    leave(main)
