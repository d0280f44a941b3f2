"""User attributes of a study's trials: what a search notes that Optuna itself has no place for."""

from optuna.trial import FrozenTrial, TrialState

PAUSED = "paused"
"""Of a trial that is paused: its last epoch. None once it goes on. Optuna knows no such state: to
it the trial is RUNNING."""

INTERRUPTED = "interrupted"
"""True of a trial that the end of its session cut off. None once it goes on. To Optuna such a trial
is RUNNING, and so it is to us where the driver was killed and could note nothing."""

EPOCH_SECONDS = "epoch_seconds"
"""Mean seconds per epoch so far."""

STARTED_SECONDS = "started_seconds"
"""Seconds from when a trial was last given to a worker to its first step there."""


def is_paused(trial: FrozenTrial) -> bool:
    """Whether a trial waits, with its checkpoint, until it may go on."""
    return trial.state == TrialState.RUNNING and trial.user_attrs.get(PAUSED) is not None


def is_interrupted(trial: FrozenTrial) -> bool:
    """Whether a trial was cut off by the end of a session, and has not gone on since."""
    return trial.state == TrialState.RUNNING and trial.user_attrs.get(INTERRUPTED) is not None
