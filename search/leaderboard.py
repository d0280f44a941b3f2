"""python -m search.leaderboard RUN: what each trial was and scored, read from the study."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from search.reporting.terminal import leaderboard_table, run_command
from search.runs.folder import RunFolder
from search.runs.result import SearchResult
from search.runs.rows import (
    TrialRow,
    like_the_best,
    read_rows,
)
from search.runs.study import read_study
from segcore.errors import UserError

SortKey = Literal["score", "trial", "epochs", "time"]


@dataclass(frozen=True)
class LeaderboardOptions:
    """The trials of a search, finished or going on: what each was and scored."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder, runs/NAME, or its s3:// or gs:// address."""
    sort: SortKey = "score"
    """What comes first: the best score, the newest trial, the most epochs, or the longest time."""
    top: int = 20
    """How many trials to show; failed ones are shown besides."""
    json: bool = False
    """Print everything about all trials, as JSON."""


def main(arguments: list[str] | None = None) -> int:
    """Print the leaderboard, and return the exit code: 0 done, 2 bad input."""
    options = tyro.cli(LeaderboardOptions, args=arguments, prog="python -m search.leaderboard")
    return run_command(lambda: _print_leaderboard(options))


def _print_leaderboard(options: LeaderboardOptions) -> int:
    if options.top < 1:
        raise UserError(f"--top {options.top}: must be at least 1")
    run = RunFolder.opened(options.run)
    record = run.read()
    result = SearchResult.read(run.path)
    # Sorting keeps the order of equals: the best first.
    rows = sorted(read_rows(read_study(run)), key=_SORT_KEYS[options.sort])
    if options.json:
        plain = _plain(run, record.options.metric, rows)
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return 0
    ended = sum(row.status not in ("running", "waiting") for row in rows)
    state = "" if result else f" · {ended} of {record.options.trials} ended"
    Console(highlight=False).print(
        leaderboard_table(
            rows,
            record.options.metric,
            top=options.top,
            title=f"{run.path.name} · {record.options.metric} on the validation split{state}",
        )
    )
    return 0


_SORT_KEYS: dict[SortKey, Callable[[TrialRow], float]] = {
    "score": lambda row: 0.0,  # as they come
    "trial": lambda row: -row.number,
    "epochs": lambda row: -row.epochs,
    "time": lambda row: -row.duration.total_seconds() if row.duration else 0.0,
}


def _plain(run: RunFolder, metric: str, rows: Sequence[TrialRow]) -> dict[str, Any]:
    """JSON values; what isn't known is null."""
    equals = like_the_best(rows)
    trials = [
        {
            "trial": row.number,
            "status": row.status,
            "score": row.score,
            "low": row.interval[0] if row.interval else None,
            "high": row.interval[1] if row.interval else None,
            "like_the_best": row.number in equals,
            "epochs": row.epochs,
            "duration_s": row.duration.total_seconds() if row.duration else None,
            "failure": row.failure,
            "config": row.plain_config,
        }
        for row in rows
    ]
    return {"run": run.address, "metric": metric, "split": "val", "trials": trials}


if __name__ == "__main__":
    sys.exit(main())
