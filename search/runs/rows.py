"""The trials of a study as rows: what each was and scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from search.runs.attributes import (
    EPOCH_SECONDS,
    INTERRUPTED,
    PAUSED,
    is_interrupted,
    is_paused,
)
from search.runs.options import SearchOptions
from segcore.config import TrialConfig
from segcore.scores.intervals import Jackknife, SeedNoise
from segcore.scores.units import caution

Status = Literal["finished", "stopped", "failed", "paused", "interrupted", "running", "waiting"]

_STATUS: dict[TrialState, Status] = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
"""What people read for Optuna's states; but a trial that is RUNNING there may be paused or
interrupted (``status_of``)."""

MAIN_PARAMETERS = (
    "architecture", "encoder", "scale", "metres_per_px", "height_px", "width_px", "loss", "lr",
    "batch_size", "oversample_ratio", "rare_crop_prob",
)  # fmt: skip


SHORT_NAMES = {
    "metres_per_px": "m per px",
    "height_px": "height",
    "width_px": "width",
    "batch_size": "batch",
    "oversample_ratio": "oversample",
    "rare_crop_prob": "crops",
}


@dataclass(frozen=True)
class TrialRow:
    """One trial, for people and for choosing an ensemble."""

    number: int
    status: Status
    score: float | None
    """The best over its epochs, on the validation split; None before the first."""
    interval: tuple[float, float] | None
    """The ends of its 95 % interval."""
    plain_jackknife: Sequence[float] | None
    """As ``search.trials.worker.JACKKNIFE`` says; None before the first epoch."""
    epochs: int
    duration: timedelta | None
    plain_config: Mapping[str, Any] | None
    """As the study holds it; None for a trial that waits for its turn."""
    failure: str | None
    values: Mapping[int, float] = field(default_factory=dict)
    """The score after each epoch that had a finite one."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended, so that it will never go on."""
        return self.status in ("finished", "stopped", "failed")

    @cached_property
    def config(self) -> TrialConfig | None:
        """Parsed when it is first asked for: the driver reads all rows whenever a trial ends."""
        return TrialConfig.from_dict(self.plain_config) if self.plain_config else None

    @cached_property
    def jackknife(self) -> Jackknife | None:
        """What it takes to compare the score with that of another trial."""
        if self.score is None or self.plain_jackknife is None:
            return None
        return Jackknife(self.score, np.array(self.plain_jackknife))


def read_rows(study: optuna.Study) -> list[TrialRow]:
    """All trials, best first; those without a score last."""
    rows = [_row(trial) for trial in study.get_trials(deepcopy=False)]
    return sorted(rows, key=lambda row: (row.score is None, -(row.score or 0.0), row.number))


def read_row(study: optuna.Study, number: int) -> TrialRow:
    """One trial."""
    return _row(study.get_trials(deepcopy=False)[number])


def _row(trial: FrozenTrial) -> TrialRow:
    values = trial.intermediate_values
    return TrialRow(
        number=trial.number,
        status=status_of(trial),
        score=max(values.values(), default=None),
        interval=tuple(trial.user_attrs["interval"]) if "interval" in trial.user_attrs else None,
        plain_jackknife=trial.user_attrs.get("jackknife"),
        epochs=max(values, default=0),
        duration=_duration(trial),
        plain_config=trial.user_attrs.get("config"),
        failure=trial.user_attrs.get("failure"),
        values=values,
    )


def _duration(trial: FrozenTrial) -> timedelta | None:
    """From a trial's begin to its end; of one that rested meanwhile, what its epochs took."""
    if trial.user_attrs.keys().isdisjoint((PAUSED, INTERRUPTED)):
        return trial.duration
    epoch_seconds = trial.user_attrs.get(EPOCH_SECONDS, 0.0)
    return timedelta(seconds=epoch_seconds * len(trial.intermediate_values))


def status_of(trial: FrozenTrial) -> Status:
    """What became of a trial, or what it does now."""
    if is_paused(trial):
        return "paused"
    return "interrupted" if is_interrupted(trial) else _STATUS[trial.state]


def show_status(row: TrialRow) -> str:
    """What became of a trial, in words."""
    if row.status == "paused":
        return f"paused at epoch {row.epochs}, may go on"
    if row.status == "interrupted":
        return "interrupted, can be resumed"
    return row.status


def show_counts(rows: Sequence[TrialRow], options: SearchOptions) -> str:
    """How far a search is, such as ``6 of 12 ended``, of which all are begun sooner or later.

    Where trials may be paused: ``9 of at most 12 begun, 4 paused, 3 ended``.
    """
    ended = sum(row.is_over for row in rows)
    if not options.pauses:
        return f"{ended} of {options.trials} ended"
    begun = sum(row.status != "waiting" for row in rows)
    paused = sum(row.status == "paused" for row in rows)
    return f"{begun} of at most {options.trials} begun, {paused} paused, {ended} ended"


def like_the_best(rows: Sequence[TrialRow], noise: SeedNoise | None = None) -> set[int]:
    """Numbers of the trials that may be as good as the best one, which isn't among them.

    For these, the 95 % interval of the difference to the best score holds 0; where the seed noise
    is known, it is the interval of configurations, whatever their seeds. Trials of another fold
    have other photographs, and can't be compared.
    """
    known = [(row, row.jackknife) for row in rows if row.jackknife is not None]
    if not known:
        return set()
    best, best_score = max(known, key=lambda pair: (pair[1].value, -pair[0].number))
    return {
        row.number
        for row, score in known
        if row is not best and _fold(row) == _fold(best) and score.may_equal(best_score, noise)
    }


def interval_caution(rows: Sequence[TrialRow]) -> str | None:
    """That the trials' intervals are a guess; None where they rest on enough units."""
    units = min((len(row.plain_jackknife) for row in rows if row.plain_jackknife), default=None)
    return None if units is None else caution(None, units)


def _fold(row: TrialRow) -> Any:
    return (row.plain_config or {}).get("fold")


def varying_parameters(rows: Sequence[TrialRow]) -> list[str]:
    """The main parameters that don't have the same value in all trials; all where none differs."""
    flats = [row.config.flat() for row in rows if row.config]
    differ = [name for name in MAIN_PARAMETERS if len({flat.get(name) for flat in flats}) > 1]
    return differ or list(MAIN_PARAMETERS)


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
    """Such as ``42 s``, ``3:07 min`` or ``2:03:07 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"
