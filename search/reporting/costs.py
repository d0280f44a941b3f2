"""How much time the trials of a search took, by what became of them."""

from collections.abc import Sequence
from typing import NamedTuple

from search.reporting.facts import RunFacts
from search.reporting.history import History
from search.runs.rows import TrialRow

STATUSES = {
    "finished": "finished",
    "stopped": "were stopped",
    "failed": "failed",
    "paused": "are paused, and may go on",
    "interrupted": "were interrupted, and can be resumed",
    "running": "haven't ended",
}


class Cost(NamedTuple):
    """What all trials of one status took together."""

    trials_that: str
    """Such as "were stopped", or "followed, on folds" for the trainings after the search."""
    trials: int
    epochs: int
    worker_s: float
    """How long they had a worker."""
    training_s: float
    """How much of that they trained."""


def find_costs(facts: RunFacts) -> list[Cost]:
    """Add up the trials of each status that occurs, and the trainings that followed."""
    costs = [
        _add_up(words, rows, facts.history)
        for status, words in STATUSES.items()
        if (rows := [row for row in facts.rows if row.status == status])
    ]
    costs += [_add_up(f"followed, {words}", *final) for words, final in facts.finals.items()]
    return costs


def _add_up(words: str, rows: Sequence[TrialRow], history: History) -> Cost:
    pasts = [history.trials[row.number] for row in rows if row.number in history.trials]
    return Cost(
        words,
        trials=len(rows),
        epochs=sum(row.epochs for row in rows),
        worker_s=sum(past.worker_s for past in pasts),
        training_s=sum(past.training_s for past in pasts),
    )
