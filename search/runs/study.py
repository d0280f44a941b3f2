"""The study of a run: Optuna's journal file, which holds parameters, scores and states."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from search.runs.folder import RunFolder
from segcore.errors import UserError


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


LOCK_GRACE_S = 5
"""A lock older than this was left by a killed driver: a write takes milliseconds."""


def open_study(
    journal: Path, *, name: str, create: bool, sampler: optuna.samplers.BaseSampler | None = None
) -> optuna.Study:
    """Begin a study in a journal file, or open the one that is there; its metric is maximised.

    Without a sampler it has Optuna's own until ``study.sampler`` is set.
    Optuna's own tools open it too: ``JournalStorage(JournalFileBackend("…/study.journal"))``.
    Raises ``UserError`` where it exists already or, unless ``create``, where there is no such file,
    or only other studies in it.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not create:
        if not journal.is_file():
            raise UserError(f"{journal}: there is no such study; begin one without resuming")
        _drop_torn_line(journal)
    lock = JournalFileSymlinkLock(str(journal), grace_period=LOCK_GRACE_S)
    storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))
    names = optuna.get_all_study_names(storage)
    if create and name in names:
        raise UserError(
            f"{journal}: study {name!r} is there already; resume it, or use another name"
        )
    # A file without one whole line is that of a search which died, or was cut off, as it began.
    if not create and names and name not in names:
        raise UserError(f"{journal}: no study {name!r}; there: {', '.join(names)}")
    return optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=sampler,
        pruner=optuna.pruners.NopPruner(),  # stopping is the scheduler's
        direction="maximize",
        load_if_exists=not create,
    )


def _drop_torn_line(journal: Path) -> None:
    # A full disk or a power cut can leave half a line: Optuna would glue the next one to it, and
    # never read the file again.
    text = journal.read_bytes()
    if not text.endswith(b"\n"):
        os.truncate(journal, text.rfind(b"\n") + 1)


def enqueue_baselines(study: optuna.Study, baselines: Sequence[Mapping[str, Any]]) -> None:
    """Have known-good parameters tried first; a study that knows them already isn't asked again."""
    for baseline in baselines:
        study.enqueue_trial(dict(baseline), skip_if_exists=True)
