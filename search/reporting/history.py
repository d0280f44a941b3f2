"""What a search went through, from its tracking journal.

The journal has what no other file of a run has all of: every class's Dice in every epoch of every
trial (beside checkpoints only those of kept epochs stay, and of a run in a bucket none are here),
and when each trial ran. It is there whether MLflow is or not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from search.tracking.mlflow_runs import metric_key
from search.tracking.outbox import Record, read_records

TRAINING_S = "train/epoch_s"
CLASS_DICE = "dice/"


@dataclass
class TrialHistory:
    """One trial, over all sessions of its search."""

    class_dice: dict[int, dict[str, float]] = field(default_factory=dict)
    """By epoch, then by ``metric_key`` of the class."""
    worker_s: float = 0.0
    """How long it had a worker."""
    training_s: float = 0.0
    """How much of that it learned: the rest is starting, loading, validation and checkpoints."""

    def dice(self, epoch: int, class_name: str) -> float | None:
        """A class's Dice on the validation split; None where the split lacks it, or isn't known."""
        return self.class_dice.get(epoch, {}).get(metric_key(CLASS_DICE + class_name))


@dataclass
class History:
    """All trials of a search, by number."""

    trials: dict[int, TrialHistory] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    """Of the search's own run: versions, and what else it was begun with."""
    sessions: int = 0
    started_ms: int | None = None
    ended_ms: int | None = None
    """Of the last record."""

    @property
    def gpus_per_trial(self) -> float | None:
        """None where the search didn't say."""
        value = self.tags.get("gpus_per_trial")
        return None if value is None else float(value)


def read_history(journal: Path) -> History:
    """Read a search's journal, finished or growing; an empty history where there is none."""
    history = History()
    if not journal.is_file():
        return history
    running_since: dict[int, int] = {}
    for record in read_records(journal):
        if record["kind"] == "artifact":
            continue  # after the trial's end
        history.started_ms = history.started_ms or record["time_ms"]
        history.ended_ms = record["time_ms"]
        if record["trial"] is not None:
            _add(history.trials.setdefault(record["trial"], TrialHistory()), record, running_since)
        elif record["kind"] == "start":
            history.tags = record["tags"]
            history.sessions += 1
    return history


def _add(trial: TrialHistory, record: Record, running_since: dict[int, int]) -> None:
    number, now_ms = record["trial"], record["time_ms"]
    if record["kind"] != "start" and number in running_since:
        # Up to each record: a trial that was interrupted has no end, and doesn't run till its next.
        trial.worker_s += (now_ms - running_since[number]) / 1000
    running_since[number] = now_ms
    if record["kind"] == "epoch":
        metrics = record["metrics"]
        trial.training_s += metrics.get(TRAINING_S, 0.0)
        trial.class_dice[record["epoch"]] = {
            name: value for name, value in metrics.items() if name.startswith(CLASS_DICE)
        }
