"""What happened in a search, read from the outbox that MLflow is told from.

No other file of a run holds every class's Dice in every epoch of every trial (checkpoints keep only
some epochs, and those of a run in a bucket are not on this machine), and when each trial ran. The
outbox is there whether MLflow is or not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from search.tracking.metric_names import metric_keys
from search.tracking.outbox import read_records

EPOCH_S, VALIDATION_S = "train/epoch_s", "train/validation_s"
CLASS_DICE = "dice/"


@dataclass
class TrialHistory:
    """One trial, over all sessions of its search."""

    class_dice: dict[int, dict[str, float]] = field(default_factory=dict)
    """On the validation split, by epoch, then by class; a class that it lacks is missing."""
    worker_s: float = 0.0
    """How long it had a worker."""
    training_s: float = 0.0
    """How much of that it trained; the rest is starting, validation and keeping checkpoints."""


@dataclass
class History:
    """All trials of a search, by number."""

    trials: dict[int, TrialHistory] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    """Those of the search's own run: versions, and what else the search was begun with."""
    sessions: int = 0
    is_going_on: bool = False
    """Whether the last session hasn't noted its end: it goes on, or its driver was killed."""
    end: str | None = None
    """Why the last session ended early, where it noted that."""
    started_ms: int | None = None
    ended_ms: int | None = None
    """The time of the last record."""

    @property
    def wall_s(self) -> float:
        """From the first record to the last, the pauses between sessions included."""
        return ((self.ended_ms or 0) - (self.started_ms or 0)) / 1000

    @property
    def gpus_per_trial(self) -> float | None:
        """None where the search didn't say."""
        value = self.tags.get("gpus_per_trial")
        return None if value is None else float(value)


def read_history(outbox: Path, class_names: Sequence[str] = ()) -> History:
    """Read a search's outbox, finished or growing; the history is empty where there is none."""
    history = History()
    if not outbox.is_file():
        return history
    keys = metric_keys(CLASS_DICE + name for name in class_names)
    class_of = {key: name.removeprefix(CLASS_DICE) for name, key in keys.items()}
    running_since: dict[int, int] = {}
    for record in read_records(outbox):
        number, now_ms = record["trial"], record["time_ms"]
        if record["kind"] == "artifact":
            continue  # files are logged after the trial's end
        history.started_ms = history.started_ms or now_ms
        history.ended_ms = now_ms
        if number is None:
            match record["kind"]:
                case "start":
                    history.tags = record["tags"]
                    history.sessions += 1
                    history.is_going_on, history.end = True, None
                    running_since.clear()  # those of a driver that was killed had no end
                case "end":
                    history.is_going_on, history.end = False, record.get("reason")
            continue
        trial = history.trials.setdefault(number, TrialHistory())
        since_ms = running_since.pop(number, None)
        if record["kind"] == "start":
            running_since[number] = now_ms
        elif since_ms is not None:  # else it tells what was missing, or lets go a paused trial
            # Time counts up to each record, because a driver that is killed notes no end.
            trial.worker_s += (now_ms - since_ms) / 1000
            if record["kind"] == "epoch":
                running_since[number] = now_ms
        if record["kind"] == "epoch":
            metrics = record["metrics"]
            trial.training_s += metrics.get(EPOCH_S, 0.0) - metrics.get(VALIDATION_S, 0.0)
            trial.class_dice[record["epoch"]] = {
                class_of[key]: value for key, value in metrics.items() if key in class_of
            }
    return history
