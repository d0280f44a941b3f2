"""python -m search.leaderboard RUN: what each trial was and scored, read from the study."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from search.reporting.command_line import leave, run_command
from segcore.arguments import read_arguments
from segcore.errors import UserError

if TYPE_CHECKING:
    from search.runs.repeats import Repeats
    from search.runs.rows import TrialRow

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


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.leaderboard") -> int:
    """Print the leaderboard, and return the exit code: 0 done, 2 bad input."""
    options = read_arguments(LeaderboardOptions, arguments, prog)
    return run_command(lambda: _print_leaderboard(options))


def _print_leaderboard(options: LeaderboardOptions) -> int:
    # Imported here: torch takes seconds, and --help needs none of them.
    from search.reporting.terminal import leaderboard_table
    from search.runs.folder import RunFolder
    from search.runs.repeats import read_repeats
    from search.runs.result import SearchResult
    from search.runs.rows import read_rows, show_counts
    from search.runs.study import read_study

    if options.top < 1:
        raise UserError(f"--top {options.top}: must be at least 1")
    run = RunFolder.opened(options.run)
    record = run.read()
    metric = record.options.metric
    # Sorting keeps the order of equals: the best first.
    rows = sorted(read_rows(read_study(run)), key=_SORT_KEYS[options.sort])
    repeats = read_repeats(run)
    if options.json:
        plain = {
            "run": run.address,
            "metric": metric,
            "split": "val",
            "seed_noise": asdict(repeats.noise) if repeats.noise else None,
            "trials": _plain(rows, repeats),
        }
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return 0
    title = f"{run.path.name} · {metric} on the validation split"
    if SearchResult.read(run.path) is None:
        title += f" · {show_counts(rows, record.options)}"
    table = leaderboard_table(rows, metric, repeats, top=options.top, title=title)
    Console(highlight=False).print(table)
    return 0


_SORT_KEYS: dict[SortKey, Callable[["TrialRow"], float]] = {
    "score": lambda row: 0.0,  # they come with the best first
    "trial": lambda row: -row.number,
    "epochs": lambda row: -row.epochs,
    "time": lambda row: -row.duration.total_seconds() if row.duration else 0.0,
}


def _plain(rows: Sequence["TrialRow"], repeats: "Repeats") -> list[dict[str, Any]]:
    """The trials as JSON values; what isn't known is null."""
    from search.runs.rows import like_the_best

    equals = like_the_best(rows, repeats.noise)
    return [
        {
            "trial": row.number,
            "status": row.status,
            "score": row.score,
            "low": row.interval[0] if row.interval else None,
            "high": row.interval[1] if row.interval else None,
            "like_the_best": row.number in equals,
            "other_seeds": list(repeats.scores.get(row.number, ())),
            "epochs": row.epochs,
            "duration_s": row.duration.total_seconds() if row.duration else None,
            "failure": row.failure,
            "config": row.plain_config,
        }
        for row in rows
    ]


if __name__ == "__main__":
    leave(main)
