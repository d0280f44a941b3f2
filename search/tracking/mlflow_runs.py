"""What MLflow knows of a search: its addresses, and one run for the search and for each trial.

The only import of mlflow. What a person finds there:

- parameters: ``TrialConfig.flat()`` under the same names.
- metrics: by ``metric_key``, the step being the epoch, counted from 1; and ``best_score``, the best
  so far of what the search maximises. The page that compares trials takes the first metric that all
  of them have for its colours, so nothing must come before that name in the alphabet. The search's
  run has it too, over all trials' epochs: without it, comparing would show no metric at all when
  that run is selected with the trials.
- tags: ``segsearch.search_id`` on the search's run, ``segsearch.trial`` ("<search_id>/<number>") on
  a trial's; ``segsearch.status`` (running, finished, stopped or failed) and ``segsearch.reason``.
"""

import logging
import os
import re
import shlex
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property, partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal
from urllib.parse import quote, unquote

from search.tracking.outbox import Record
from segcore.errors import UserError

# Read when mlflow is imported. It would report its use to its makers; and it would itself repeat
# the creation of a run that timed out, which makes two. Its callers here repeat with care.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.tracking import MlflowClient

for noisy in ("mlflow", "alembic"):  # A line for each of the hundred migrations of a new database.
    logging.getLogger(noisy).setLevel(logging.ERROR)

Status = Literal["finished", "stopped", "failed"]

RUN_STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
"""A trial that halving stopped is no failure, and MLflow draws KILLED like one, in red."""

REFUSALS = {"INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST"}
"""MLflow's own words for a bad record or a deleted run; no proxy's error page is taken for them."""

UI_ADDRESS = "http://127.0.0.1:5000"
"""Where ``mlflow ui`` serves its pages."""

BEST_SCORE = "best_score"
METRICS_PER_REQUEST = 1000
PARAMS_PER_REQUEST = 100
"""MLflow takes no more."""

SERVER_ANSWERS_WITHIN_S = 10.0
MIGRATION_TAKES_AT_MOST_S = 120.0
"""A new SQLite file goes through a hundred migrations: 5 s on an idle core."""


def default_uri(runs_folder: Path) -> str:
    """Address of the embedded database: a SQLite file beside the runs."""
    path = str(runs_folder.resolve() / "mlflow.db")
    return "sqlite:///" + re.sub(r"[%?#]", lambda char: quote(char[0]), path)


def ui_command(uri: str) -> str:
    """What to type to look at the trials in a browser; for a server, its address."""
    if _sqlite_path(uri) is None:
        return without_credentials(uri)
    # Without its job runner the server is two processes instead of ten.
    command = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --backend-store-uri"
    return f"{command} {shlex.quote(uri)}"


def serve_command(uri: str, model: str) -> str:
    """What to type to serve the newest version of a registered model on this machine."""
    address = f"MLFLOW_TRACKING_URI={shlex.quote(without_credentials(uri))}"
    source = shlex.quote(f"models:/{model}/latest")
    return f"{address} mlflow models serve -m {source} --env-manager local --port 5001"


def check(uri: str, experiment: str) -> None:
    """Make sure, within seconds, that MLflow can take records; makes a new SQLite file ready.

    Raises ``UserError`` saying what stands in the way.
    """
    where = f"MLflow at {without_credentials(uri)}"
    path = _sqlite_path(uri)
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
    found = _get_experiment_within(timeout_s, uri, experiment, where, mend)
    if found is not None and found.lifecycle_stage == "deleted":
        raise UserError(
            f"{where}: the experiment {experiment!r} was deleted; `mlflow experiments restore "
            f"--experiment-id {found.experiment_id}` brings it back"
        )


def metric_key(name: str) -> str:
    """A name that MLflow takes: "dice/Trees / Shrubs" becomes "dice/Trees - Shrubs".

    What stands before the first "/" is the section of MLflow's charts; another "/" would make one
    more.
    """
    section, slash, rest = name.partition("/")
    rest = rest.replace("/", "-").replace("&", "and")
    return re.sub(r"[^\w.\- :/]", "_", section + slash + rest)


def without_credentials(text: str) -> str:
    """Mask user and password in every address in a text."""
    return re.sub(r"://[^/\s]*@", "://***@", text)


class ArtifactError(Exception):
    """A file can't be stored although MLflow answers: it is gone, or too large for its store."""


def is_refusal(error: Exception) -> bool:
    """Whether a record can't be delivered however often one tries, so that others should go on."""
    if isinstance(error, MlflowException):
        return error.error_code in REFUSALS
    return isinstance(error, ArtifactError)


class MlflowRuns:
    """Writes records to the runs of one search; writing one again changes nothing.

    A record says what to do (``kind``), to which trial (None: to the search), and when.
    """

    def __init__(self, uri: str, experiment: str, search_id: str) -> None:
        self._uri = uri
        self._experiment = experiment
        self._search_id = search_id
        self._run_ids: dict[int | None, str] = {}

    def trials_url(self) -> str | None:
        """The page of the search's trials alone, best first; None until something was written.

        The search's own run has no parameters of training, and would disturb comparing there.
        """
        if "_experiment_id" not in vars(self):
            return None
        on_server = _sqlite_path(self._uri) is None
        server = without_credentials(self._uri).rstrip("/") if on_server else UI_ADDRESS
        trials = quote(f"tags.`segsearch.trial` LIKE '{self._search_id}/%'", safe="")
        score = quote(f"metrics.`{BEST_SCORE}`", safe="")
        return (
            f"{server}/#/experiments/{self._experiment_id}/runs"
            f"?searchFilter={trials}&orderByKey={score}&orderByAsc=false"
        )

    def write(self, group: Sequence[Record]) -> None:
        """Write a single record, or several epochs of one trial.

        Raises whatever MLflow raises; ``is_refusal`` tells if trying again can help.
        """
        first = group[0]
        match first["kind"]:
            case "start":
                self._start(first)
            case "epoch":
                metrics = [metric for record in group for metric in _metrics(record)]
                run_id = self._run_id(first["trial"])
                self._client.log_batch(run_id, metrics=metrics, synchronous=True)
            case "artifact":
                self._log_artifact(first)
            case "model":
                self._register(first)
            case "end":
                self._end(first)
            case kind:
                raise ValueError(f"a record of unknown kind {kind!r}")

    def _start(self, record: Record) -> None:
        number = record["trial"]
        tag, value = self._identity(number)
        tags = {**record["tags"], tag: value, "segsearch.status": "running"}
        if number is not None:
            tags["mlflow.parentRunId"] = self._run_id(None)
        runs = self._find(number)
        if runs:
            run_id = runs[0].info.run_id
            self._client.update_run(run_id, status="RUNNING")
            self._log_tags(run_id, tags)
            if "segsearch.reason" in runs[0].data.tags:
                self._client.delete_tag(run_id, "segsearch.reason")
        else:
            run = self._client.create_run(
                self._experiment_id, record["time_ms"], tags=tags, run_name=record["name"]
            )
            run_id = run.info.run_id
        self._run_ids[number] = run_id
        params = [Param(key, str(value)) for key, value in record["params"].items()]
        for start in range(0, len(params), PARAMS_PER_REQUEST):
            some = params[start : start + PARAMS_PER_REQUEST]
            self._client.log_batch(run_id, params=some, synchronous=True)

    def _log_artifact(self, record: Record) -> None:
        run_id = self._run_id(record["trial"])
        store = partial(self._client.log_artifact, run_id, record["file"], record["folder"] or None)
        try:
            store()
        except Exception:
            self._client.get_run(run_id)  # Raises in an outage, which passes.
            try:
                store()
            except Exception as error:
                raise ArtifactError(f"{record['file']}: {error}") from error

    def _register(self, record: Record) -> None:
        # Imported here: it takes seconds, and only a search that came to its end needs it.
        from search.tracking.registry import register

        run_id = self._run_id(None)
        try:
            register(self._client, record, self._experiment_id, run_id)
        except (OSError, UserError) as error:
            raise ArtifactError(f"{record['bundle']}: {error}") from error

    def _end(self, record: Record) -> None:
        number, status = record["trial"], record["status"]
        run_id = self._run_id(number)
        reason = {"segsearch.reason": record["reason"]} if record["reason"] else {}
        self._log_tags(run_id, {"segsearch.status": status, **reason})
        self._client.set_terminated(run_id, RUN_STATUS[status], record["time_ms"])
        # A server that hung may have created a run long after we gave up and created it again.
        for run in self._find(number):
            if run.info.run_id != run_id:
                self._client.delete_run(run.info.run_id)

    def _log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        entities = [RunTag(key, value) for key, value in tags.items()]
        self._client.log_batch(run_id, tags=entities, synchronous=True)

    def _run_id(self, number: int | None) -> str:
        if number not in self._run_ids:
            runs = self._find(number)
            if not runs:
                tag, value = self._identity(number)
                raise MlflowException(
                    f"no run has the tag {tag} = {value}", error_code=RESOURCE_DOES_NOT_EXIST
                )
            self._run_ids[number] = runs[0].info.run_id
        return self._run_ids[number]

    def _find(self, number: int | None) -> list[Run]:
        """The runs of a trial: none, one, or the one in use before its twins (see ``_end``)."""
        tag, value = self._identity(number)
        runs = self._client.search_runs([self._experiment_id], f"tags.`{tag}` = '{value}'")
        return sorted(runs, key=lambda run: len(run.data.params), reverse=True)

    def _identity(self, number: int | None) -> tuple[str, str]:
        """The tag that tells a run from all others."""
        if number is None:
            return "segsearch.search_id", self._search_id
        return "segsearch.trial", f"{self._search_id}/{number}"

    @cached_property
    def _client(self) -> MlflowClient:
        return MlflowClient(self._uri)

    @cached_property
    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        # Beside the file, where `mlflow ui` finds them; a server has a place of its own.
        path = _sqlite_path(self._uri)
        artifacts = (path.resolve().parent / "mlartifacts").as_uri() if path else None
        return str(self._client.create_experiment(self._experiment, artifacts))


def _metrics(record: Record) -> Iterator[Metric]:
    for key, value in record["metrics"].items():
        yield Metric(key, value, record["time_ms"], record["epoch"])


def _sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite address; None for any other address."""
    prefix = "sqlite:///"
    return Path(unquote(uri.removeprefix(prefix))) if uri.startswith(prefix) else None


def _check_sqlite(path: Path, where: str) -> None:
    # MLflow itself would try for minutes.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA user_version").fetchone()
    except (OSError, sqlite3.Error) as error:
        raise UserError(
            f"{where}: {error}; make the folder writable, or move the file away"
        ) from error


def _get_experiment_within(
    timeout_s: float, uri: str, experiment: str, where: str, mend: str
) -> Experiment | None:
    """In a thread of its own, because a hanging server can't be interrupted."""
    answers: SimpleQueue[Experiment | Exception | None] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(MlflowClient(uri).get_experiment_by_name(experiment))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_s)
    except Empty:
        raise UserError(f"{where}: no answer within {timeout_s:.0f} s; {mend}") from None
    if isinstance(answer, Exception):
        reason = without_credentials(str(answer)).splitlines()[0]
        raise UserError(f"{where}: {reason}; {mend}") from answer
    return answer
