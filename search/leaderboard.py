"""What each trial was and scored, read from the study."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from segcore.config import Scalar, TrialConfig

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
    """The best trials, with those parameters in which trials differ; and all that failed."""
    table = Table(title=f"Best trials by {metric} on the validation split", title_justify="left")
    parameters = varying_parameters(rows)
    for column in ("trial", metric, "status", "epochs", "time"):
        table.add_column(column, justify="left" if column == "status" else "right", no_wrap=True)
    for name in parameters:
        table.add_column(name.replace("_", " "))
    failed = [row for row in rows if row.status == "failed" and row not in rows[:top]]
    for row in [*rows[:top], *failed]:
        flat = row.config.flat() if row.config else {}
        table.add_row(
            str(row.number),
            "–" if row.score is None else f"{row.score:.4f}",
            row.status,
            str(row.epochs),
            "–" if row.duration is None else show_duration(row.duration.total_seconds()),
            *(show_value(flat.get(name)) for name in parameters),
        )
    return table


def varying_parameters(rows: Sequence[TrialRow]) -> list[str]:
    """The main parameters that don't have the same value in all trials."""
    flats = [row.config.flat() for row in rows if row.config]
    return [name for name in MAIN_PARAMETERS if len({flat.get(name) for flat in flats}) > 1]


def show_value(value: Scalar) -> str:
    """A parameter in a table: floats with three digits, nothing as a dash."""
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def show_duration(seconds: float) -> str:
    """Such as ``42 s``, ``3:07`` (minutes) or ``2:03:07``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
