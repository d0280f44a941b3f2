"""The check, before a search begins, that MLflow will take its records; and questions to it."""

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from search.runs.credentials import without_credentials
from search.tracking.addresses import default_uri, sqlite_path
from segcore.errors import UserError
from segcore.files import digest, locked, user_cache

Answer = TypeVar("Answer")

SERVER_ANSWERS_WITHIN_S = 10.0
MIGRATION_TAKES_AT_MOST_S = 120.0
"""A new SQLite file goes through a hundred migrations, which take 5 s on an idle core."""


def check(uri: str, experiment: str) -> None:
    """Make sure, within seconds, that MLflow can take records; a new SQLite file is made ready.

    Raises ``UserError`` that says what stands in the way.
    """
    where = f"MLflow at {without_credentials(uri)}"
    path = sqlite_path(uri)
    if path is not None:
        _check_sqlite(path, where)
        timeout_s = MIGRATION_TAKES_AT_MOST_S
        mend = "move the file away to begin a new one"
    elif uri.startswith(("http://", "https://")):
        timeout_s = SERVER_ANSWERS_WITHIN_S
        mend = "start it with `mlflow server`, or leave the address out to use a local file"
    else:
        raise UserError(
            f"{where}: only a server, such as http://127.0.0.1:5000, or a SQLite file, such as "
            f"{default_uri(Path('runs'))}, can be used; give one of them, or leave the address out"
        )
    known = ask(
        lambda: MlflowClient(uri).get_experiment_by_name(experiment),
        uri,
        where=where,
        mend=mend,
        timeout_s=timeout_s,
    )
    refuse_deleted(known, where)


def ask(
    question: Callable[[], Answer], uri: str, *, where: str, mend: str, timeout_s: float
) -> Answer:
    """What MLflow at ``uri`` answers.

    Raises ``UserError`` where it doesn't within ``timeout_s``: ``where``, why, and how to ``mend``
    it, without credentials.
    """
    with _alone(sqlite_path(uri)):
        answer = _answer_within(timeout_s, question)
    match answer:
        case TimeoutError():
            raise UserError(f"{where}: no answer within {timeout_s:.0f} s; {mend}")
        case MlflowException(error_code="UNAUTHENTICATED" | "PERMISSION_DENIED"):
            raise UserError(
                f"{where}: it doesn't let this user in; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment"
            ) from answer
        case Exception():
            reason = without_credentials(str(answer)).partition("\n")[0]
            raise UserError(f"{where}: {reason or type(answer).__name__}; {mend}") from answer
    return answer


def refuse_deleted(experiment: Experiment | None, where: str) -> None:
    """Raise ``UserError`` where an experiment was deleted."""
    if experiment is not None and experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise UserError(
            f"{where}: the experiment {experiment.name!r} was deleted; `mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}` brings it back"
        )


def _alone(path: Path | None) -> AbstractContextManager[None]:
    """Only one process of this machine at a time makes a SQLite file ready: MLflow's migrations
    fail where two do.
    """
    if path is None:
        return nullcontext()
    return locked(user_cache() / "mlflow" / f"{digest(str(path.absolute()))[:24]}.lock")


def _check_sqlite(path: Path, where: str) -> None:
    # MLflow itself would try for minutes to open such a file.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA user_version").fetchone()
    except (OSError, sqlite3.Error) as error:
        raise UserError(
            f"{where}: {error}; make the folder writable, or move the file away"
        ) from error
    # MLflow would read a file of somebody else, and take no record; SQLite writes beside it, too.
    if not all(os.access(name, os.W_OK, effective_ids=True) for name in (path, path.parent)):
        raise UserError(f"{where}: can't be written; make the file and its folder writable")


def _answer_within(timeout_s: float, question: Callable[[], Answer]) -> Answer | Exception:
    """Ask in a thread of its own, because a call to a server that hangs can't be interrupted."""
    answers: SimpleQueue[Answer | Exception] = SimpleQueue()

    def put_answer() -> None:
        try:
            answers.put(question())
        except Exception as error:
            answers.put(error)

    threading.Thread(target=put_answer, daemon=True).start()
    try:
        return answers.get(timeout=timeout_s)
    except Empty:
        return TimeoutError()
