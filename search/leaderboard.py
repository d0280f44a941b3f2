"""What each trial was and scored, read from the study."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import optuna
import rich.box
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from segcore.config import TrialConfig

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


@dataclass(frozen=True)
class TrialRow:
    """One trial, for people and for choosing an ensemble."""

    number: int
    status: str
    score: float | None
    """The best over its epochs, on the validation split; None before the first."""
    epochs: int
    duration: timedelta | None
    config: TrialConfig | None
    """None for a trial that waits for its turn."""
    failure: str | None


def read_rows(study: optuna.Study) -> list[TrialRow]:
    """All trials, best first; those without a score last."""
    rows = [_row(trial) for trial in study.get_trials(deepcopy=False)]
    return sorted(rows, key=lambda row: (row.score is None, -(row.score or 0.0), row.number))


def _row(trial: FrozenTrial) -> TrialRow:
    config: dict[str, Any] | None = trial.user_attrs.get("config")
    values = trial.intermediate_values
    return TrialRow(
        number=trial.number,
        status=STATUS[trial.state],
        score=max(values.values(), default=None),
        epochs=max(values, default=0),
        duration=trial.duration,
        config=TrialConfig.from_dict(config) if config else None,
        failure=trial.user_attrs.get("failure"),
    )


def leaderboard_table(rows: Sequence[TrialRow], metric: str, *, top: int = 10) -> Table:
    """The best trials, and all that failed; of each, the parameters in which trials differ."""
    table = Table(
        title=f"Best trials by {metric} on the validation split",
        title_justify="left",
        box=rich.box.SIMPLE,
    )
    for column in ("trial", metric, "epochs", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("configuration")
    differing = varying_parameters(rows)
    failed = [row for row in rows[top:] if row.status == "failed"]
    for row in [*rows[:top], *failed]:
        table.add_row(
            str(row.number),
            "–" if row.score is None else f"{row.score:.4f}",
            str(row.epochs),
            "–" if row.duration is None else show_duration(row.duration.total_seconds()),
            row.status,
            show_config(row.config, differing) if row.config else "",
        )
    return table


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
