"""python -m search.leaderboard RUN: what each trial was and scored, read from the study."""

import json
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import optuna
import tyro
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from search.commands import run_command
from search.options import RunFolder
from search.result import SearchResult
from segcore.config import TrialConfig
from segcore.errors import UserError
from segcore.intervals import Resampled

STATUS = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}

MAIN_PARAMETERS = (
    "architecture", "encoder", "loss", "lr", "batch_size", "oversample_ratio", "rare_crop_prob",
)  # fmt: skip

SHORT_NAMES = {
    "batch_size": "batch",
    "oversample_ratio": "oversample",
    "rare_crop_prob": "crops",
}

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


@dataclass(frozen=True)
class TrialRow:
    """One trial, for people and for choosing an ensemble."""

    number: int
    status: str
    score: float | None
    """The best over its epochs, on the validation split; None before the first."""
    interval: tuple[float, float] | None
    """The ends of its 95 % interval."""
    plain_resampled: tuple[int, Sequence[float]] | None
    """As ``search.trial.RESAMPLED`` says; None before the first epoch."""
    epochs: int
    duration: timedelta | None
    plain_config: Mapping[str, Any] | None
    """As the study holds it; None for a trial that waits for its turn."""
    failure: str | None

    @cached_property
    def config(self) -> TrialConfig | None:
        """Checked only where it is asked for: the driver reads all rows at each trial's end."""
        return TrialConfig.from_dict(self.plain_config) if self.plain_config else None

    @cached_property
    def resampled(self) -> Resampled | None:
        """What it takes to compare the score with that of another trial."""
        if self.score is None or self.plain_resampled is None:
            return None
        photos, scores = self.plain_resampled
        return Resampled(self.score, photos, np.array(scores))


def read_study(run: RunFolder) -> optuna.Study:
    """The run's study as it is at this moment. A search that is going on isn't disturbed.

    Raises ``UserError`` where no trial was begun.
    """
    if not run.study.is_file():
        raise UserError(f"{run.address}: no trial has begun, there is no {run.study.name}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(run.study)))
    names = optuna.get_all_study_names(storage)
    if not names:
        raise UserError(f"{run.address}: no trial has begun, {run.study.name} is empty")
    return optuna.load_study(study_name=names[0], storage=storage)  # the folder may be renamed


def read_rows(study: optuna.Study) -> list[TrialRow]:
    """All trials, best first; those without a score last."""
    rows = [_row(trial) for trial in study.get_trials(deepcopy=False)]
    return sorted(rows, key=lambda row: (row.score is None, -(row.score or 0.0), row.number))


def _row(trial: FrozenTrial) -> TrialRow:
    values = trial.intermediate_values
    return TrialRow(
        number=trial.number,
        status=STATUS[trial.state],
        score=max(values.values(), default=None),
        interval=tuple(trial.user_attrs["interval"]) if "interval" in trial.user_attrs else None,
        plain_resampled=trial.user_attrs.get("resampled"),
        epochs=max(values, default=0),
        duration=trial.duration,
        plain_config=trial.user_attrs.get("config"),
        failure=trial.user_attrs.get("failure"),
    )


def leaderboard_table(
    rows: Sequence[TrialRow],
    metric: str,
    *,
    top: int = 10,
    title: str | None = None,
) -> RenderableType:
    """The first trials, and all that failed; below each, the parameters in which trials differ.

    A ``≈`` stands at those that can't be told from the best.
    """
    equals, differing = like_the_best(rows), varying_parameters(rows)
    shown = [*rows[:top], *(row for row in rows[top:] if row.status == "failed")]
    table = [("trial", metric, "95 %", "epochs", "time", "status")]
    table += [
        (
            str(row.number),
            "–" if row.score is None else f"{row.score:.4f}",
            _interval(row, equals),
            str(row.epochs),
            "–" if row.duration is None else show_duration(row.duration.total_seconds()),
            row.status,
        )
        for row in shown
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  " + "  ".join([*map(str.rjust, cells[:-1], widths), cells[-1]]) for cells in table]
    parts: list[RenderableType] = [
        Text(title or f"Best trials by {metric} on the validation split", style="italic"),
        Text(f"\n{lines[0]}", style="bold"),
    ]
    for row, line in zip(shown, lines[1:], strict=True):
        parts.append(Text(line))
        if what := _describe(row, differing):
            parts.append(Padding(what, (0, 0, 0, widths[0] + 4), expand=False))
    if equals:
        sentence = "≈ not distinguishable from the best: the difference may be chance"
        parts.append(Text(f"\n  {sentence}", style="dim italic"))
    return Group(*parts)


def like_the_best(rows: Sequence[TrialRow]) -> set[int]:
    """Numbers of the trials that can't be told from the best one, which isn't among them.

    The 95 % interval of the difference holds 0. Trials of another fold, which have other
    photographs, can't be compared.
    """
    known = [(row, row.resampled) for row in rows if row.resampled is not None]
    if not known:
        return set()
    best, best_score = max(known, key=lambda pair: (pair[1].value, -pair[0].number))
    return {
        row.number
        for row, score in known
        if row is not best and _fold(row) == _fold(best) and score.may_equal(best_score)
    }


def _fold(row: TrialRow) -> Any:
    return (row.plain_config or {}).get("fold")


def _interval(row: TrialRow, equals: Container[int]) -> str:
    if row.interval is None:
        return ""
    mark = "≈ " if row.number in equals else ""
    low, high = row.interval
    return f"{mark}{low:.3f}–{high:.3f}"


def _describe(row: TrialRow, names: Sequence[str]) -> Text:
    """The configuration in short, and why the trial failed."""
    text = Text(show_config(row.config, names) if row.config else "", style="dim")
    if row.failure:
        text.append("\n" if text else "")
        text.append(row.failure, style="not dim red")
    return text


def varying_parameters(rows: Sequence[TrialRow]) -> list[str]:
    """The main parameters that don't have the same value in all trials."""
    flats = [row.config.flat() for row in rows if row.config]
    return [name for name in MAIN_PARAMETERS if len({flat.get(name) for flat in flats}) > 1]


def show_config(config: TrialConfig, names: Sequence[str] = MAIN_PARAMETERS) -> str:
    """A configuration in short: words as they are, numbers with their names."""
    flat = config.flat()
    parts = []
    for name in names:
        match flat[name]:
            case None:
                continue
            case str(word):
                parts.append(word)
            case number:
                parts.append(f"{SHORT_NAMES.get(name, name)} {number:.3g}")
    return " · ".join(parts)


def show_duration(seconds: float) -> str:
    """Such as ``42 s``, ``3:07`` (minutes) or ``2:03:07``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


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
