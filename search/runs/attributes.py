"""User attributes of a study's trials: what a search notes that Optuna itself has no place for."""

from optuna.trial import FrozenTrial, TrialState

PAUSED = "paused"
"""Of a trial that is paused: its last epoch. None once it goes on. Optuna knows no such state: to
it the trial is RUNNING."""

EPOCH_SECONDS = "epoch_seconds"
"""Mean seconds per epoch so far."""

STARTED_SECONDS = "started_seconds"
"""Seconds from when a trial was last given to a worker to its first step there."""


def is_paused(trial: FrozenTrial) -> bool:
    """Whether a trial waits, with its checkpoint, until it may go on."""
    return trial.state == TrialState.RUNNING and trial.user_attrs.get(PAUSED) is not None
