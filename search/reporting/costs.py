"""Where a search's time went."""

from dataclasses import dataclass

from search.reporting.facts import RunFacts

STATUSES = ("finished", "stopped", "failed", "running")


@dataclass(frozen=True)
class StatusCost:
    """All trials of one status together."""

    status: str
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
    by_status = []
    for status in STATUSES:
        rows = [row for row in facts.rows if row.status == status]
        pasts = [history.trials[row.number] for row in rows if row.number in history.trials]
        if rows:
            by_status.append(
                StatusCost(
                    status,
                    trials=len(rows),
                    epochs=sum(row.epochs for row in rows),
                    worker_s=sum(past.worker_s for past in pasts),
                    training_s=sum(past.training_s for past in pasts),
                )
            )
    wall_ms = (history.ended_ms or 0) - (history.started_ms or 0)
    return Costs(tuple(by_status), wall_ms / 1000, history.sessions, history.gpus_per_trial)
