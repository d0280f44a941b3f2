"""Where a search's time went."""

from collections.abc import Sequence
from dataclasses import dataclass

from search.reporting.facts import RunFacts
from search.reporting.history import History
from search.runs.rows import TrialRow

STATUSES = ("finished", "stopped", "failed", "running")


@dataclass(frozen=True)
class StatusCost:
    """All trials of one status together."""

    status: str
    """Or "on folds": of --folds, whatever became of them."""
    trials: int
    epochs: int
    worker_s: float
    training_s: float


@dataclass(frozen=True)
class Costs:
    """Time of workers, and what they were."""

    by_status: tuple[StatusCost, ...]
    wall_s: float
    """From the search's beginning to the last word of it, pauses between sessions included."""
    sessions: int
    gpus_per_trial: float | None
    """None where the search didn't say."""

    @property
    def worker_s(self) -> float:
        """Time for which trials had workers."""
        return sum(cost.worker_s for cost in self.by_status)

    @property
    def training_s(self) -> float:
        """How much of it they learned."""
        return sum(cost.training_s for cost in self.by_status)

    @property
    def gpu_hours(self) -> float | None:
        """What a provider of GPUs would charge for the trials."""
        return None if self.gpus_per_trial is None else self.gpus_per_trial * self.worker_s / 3600


def costs(facts: RunFacts) -> Costs:
    """Add up the trials."""
    history = facts.history
    by_status = [
        _cost(status, rows, history)
        for status in STATUSES
        if (rows := [row for row in facts.rows if row.status == status])
    ]
    if facts.folded is not None:
        by_status.append(_cost("on folds", *facts.folded))
    wall_ms = (history.ended_ms or 0) - (history.started_ms or 0)
    return Costs(tuple(by_status), wall_ms / 1000, history.sessions, history.gpus_per_trial)


def _cost(status: str, rows: Sequence[TrialRow], history: History) -> StatusCost:
    pasts = [history.trials[row.number] for row in rows if row.number in history.trials]
    return StatusCost(
        status,
        trials=len(rows),
        epochs=sum(row.epochs for row in rows),
        worker_s=sum(past.worker_s for past in pasts),
        training_s=sum(past.training_s for past in pasts),
    )
