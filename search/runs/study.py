"""The study of a run: Optuna's journal file, which holds parameters, scores and states."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.runs.attributes import is_paused
from search.runs.folder import RunFolder
from segcore.errors import UserError
from segcore.files import cut_torn_line

LOCK_GRACE_S = 5
"""A lock older than this was left by a killed driver: a write takes milliseconds."""


class SearchStudy(optuna.Study):
    """A study whose trials may be paused, and go on in another process than began them."""

    def __init__(
        self, name: str, storage: BaseStorage, sampler: optuna.samplers.BaseSampler | None
    ) -> None:
        # Stopping is the scheduler's task: no pruner.
        super().__init__(name, storage, sampler, optuna.pruners.NopPruner())
        self.storage = storage

    def begun_trial(self, number: int) -> optuna.Trial:
        """A running trial that another process asked for."""
        study_id = self.storage.get_study_id_from_name(self.study_name)
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, number)
        return optuna.Trial(self, trial_id)

    def paused_trials(self) -> dict[int, FrozenTrial]:
        """The paused trials by their numbers."""
        running = self.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        return {trial.number: trial for trial in running if is_paused(trial)}

    def stop_paused(self, number: int) -> None:
        """Count a paused trial as stopped: it never goes on, and keeps its values."""
        self.tell(number, state=TrialState.PRUNED)


class _WholeLines(JournalFileBackend):
    """A journal file in which a full disk leaves no half of a line.

    The next line would be added to it, and Optuna would never read the file again. Only one process
    writes the file (``RunFolder.claimed``).
    """

    def __init__(self, journal: Path) -> None:
        lock = JournalFileSymlinkLock(str(journal), grace_period=LOCK_GRACE_S)
        super().__init__(str(journal), lock_obj=lock)
        self._journal = journal

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines. Raises ``OSError`` where they can't be written, and then adds none."""
        size = self._journal.stat().st_size
        try:
            super().append_logs(logs)
        except OSError:
            os.truncate(self._journal, size)
            raise


def read_study(run: RunFolder) -> optuna.Study:
    """The run's study as it is at this moment. A search that is going on isn't disturbed.

    Raises ``UserError`` where no trial was begun.
    """
    if not run.study.is_file():
        raise UserError(f"{run.address}: no trial has begun, there is no {run.study.name}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(run.study)))
    names = optuna.get_all_study_names(storage)
    if not names:
        raise UserError(f"{run.address}: no trial has begun, {run.study.name} is empty")
    return optuna.load_study(study_name=names[0], storage=storage)  # the folder may be renamed


def open_study(
    journal: Path, *, name: str, create: bool, sampler: optuna.samplers.BaseSampler | None = None
) -> SearchStudy:
    """Begin a study in a journal file, or open the one that is there; its metric is maximised.

    ``name`` is that of a new study: a run's folder may be renamed, and its study keeps its name.

    Without a sampler it has Optuna's own until ``study.sampler`` is set.
    Optuna's own tools open it too: ``JournalStorage(JournalFileBackend("…/study.journal"))``.
    Raises ``UserError`` where it exists already or, unless ``create``, where there is no such file,
    or several studies in it, or where it minimises.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not create:
        if not journal.is_file():
            raise UserError(f"{journal}: there is no such study; begin one without resuming")
        cut_torn_line(journal)  # Optuna would never read the file again
    storage = JournalStorage(_WholeLines(journal))
    names = optuna.get_all_study_names(storage)
    if create and name in names:
        raise UserError(
            f"{journal}: study {name!r} is there already; resume it, or use another name"
        )
    # A file without one whole line was left by a search that died, or was cut off, as it began.
    if not create and names:
        if len(names) > 1:
            raise UserError(
                f"{journal}: more than one study ({', '.join(names)}); a run has a single one"
            )
        (name,) = names
    optuna.create_study(
        study_name=name, storage=storage, direction="maximize", load_if_exists=not create
    )
    study = SearchStudy(name, storage, sampler)
    if study.directions != [StudyDirection.MAXIMIZE]:
        raise UserError(
            f"{journal}: study {name!r} does not maximise one score, as a search does; "
            "begin one under another name"
        )
    return study


def enqueue_baselines(study: optuna.Study, baselines: Sequence[Mapping[str, Any]]) -> None:
    """Have known-good parameters tried first; a study that knows them already isn't asked again."""
    for baseline in baselines:
        study.enqueue_trial(dict(baseline), skip_if_exists=True)
