"""MLflow's runs of a search: one for the search itself, and one for each trial.

What a person finds there:

- parameters: ``TrialConfig.flat()`` under the same names.
- metrics: by ``metric_keys``, the step being the epoch, counted from 1; and ``best_score``. The
  search's run has ``best_score`` too, over all trials' epochs: without it, a comparison would show
  no metric at all when that run is selected together with the trials.
- tags: ``segsearch.search_id`` on the search's run, ``segsearch.trial`` ("<search_id>/<number>") on
  a trial's; ``segsearch.status`` (running, paused, interrupted, finished, stopped or failed) and
  ``segsearch.reason``; ``segsearch.sampled``, the parameters that the space asked for, as JSON,
  because they may have other names than the configuration's. On trainings that follow a search
  ``segsearch.final_trial``, the trial whose configuration it is, and ``segsearch.final_fold`` or
  ``segsearch.final_repeat``.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.tracking import MlflowClient

from search.tracking.addresses import sqlite_path, trials_url
from search.tracking.outbox import Record
from segcore.errors import UserError

SEARCH_ID, TRIAL = "segsearch.search_id", "segsearch.trial"
"""Tags by which runs are found again."""
SAMPLED = "segsearch.sampled"
"""Tag of a trial's run."""

RUN_STATUS = {
    "finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED",
    "paused": "SCHEDULED", "interrupted": "SCHEDULED",
}  # fmt: skip
"""A trial that was stopped is no failure, and MLflow draws KILLED like one, in red. One that is
paused or interrupted gets MLflow's clock: it has not ended, but nothing runs."""

REFUSALS = {"INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST"}
"""MLflow's codes for a bad record or a deleted run. The error page of a proxy has none of them."""


class ArtifactError(Exception):
    """A file can't be stored although MLflow answers: it is gone, or too large for the store."""


def is_refusal(error: Exception) -> bool:
    """Whether no further attempt can deliver a record, so that the next one should be sent."""
    if isinstance(error, MlflowException):
        return error.error_code in REFUSALS
    return isinstance(error, ArtifactError)


class MlflowRuns:
    """Writes records to the runs of one search. To write a record again changes nothing.

    A record says what to do (``kind``), to which trial (None: to the search), and when. Paths of
    files are relative to ``folder``, or absolute.
    """

    def __init__(self, uri: str, experiment: str, search_id: str, folder: Path) -> None:
        self._uri = uri
        self._experiment = experiment
        self._search_id = search_id
        self._folder = folder
        self._run_ids: dict[int | None, str] = {}

    def trials_url(self) -> str | None:
        """The page of the search's trials; None until something was written."""
        if "_experiment_id" not in vars(self):
            return None
        return trials_url(self._uri, self._experiment_id, self._search_id)

    def is_known(self) -> bool:
        """Whether MLflow has the search's own run. Raises whatever MLflow raises."""
        return bool(self._find(None))

    def write(self, group: Sequence[Record]) -> None:
        """Write a single record, or several epochs of one trial.

        Raises whatever MLflow raises; ``is_refusal`` tells if trying again can help.
        """
        first = group[0]
        match first["kind"]:
            case "start":
                self._start(first)
            case "epoch":
                metrics = [
                    Metric(key, value, record["time_ms"], record["epoch"])
                    for record in group
                    for key, value in record["metrics"].items()
                ]
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
        texts = {key: _sendable(text) for key, text in record["tags"].items()}
        tags = {**texts, tag: value, "segsearch.status": "running"}
        if number is not None:
            tags["mlflow.parentRunId"] = self._run_id(None)
        runs = self._find(number)
        if runs:
            run_id = runs[0].info.run_id
            self._client.update_run(run_id, status="RUNNING")
            if "segsearch.reason" in runs[0].data.tags:
                self._client.delete_tag(run_id, "segsearch.reason")
        else:
            run = self._client.create_run(
                self._experiment_id,
                record["time_ms"],
                tags=tags,
                run_name=_sendable(record["name"]),
            )
            run_id = run.info.run_id
        self._run_ids[number] = run_id
        params = [Param(key, _sendable(str(value))) for key, value in record["params"].items()]
        self._log(run_id, tags, params)

    def _log_artifact(self, record: Record) -> None:
        run_id = self._run_id(record["trial"])
        file = str(self._folder / record["file"])
        store = partial(self._client.log_artifact, run_id, file, record["folder"] or None)
        try:
            store()
        except Exception:
            self._client.get_run(run_id)  # raises in an outage, after which one may try again
            try:
                store()
            except Exception as error:
                raise ArtifactError(f"{file}: {error}") from error

    def _register(self, record: Record) -> None:
        # Imported here because it takes seconds, and only a search that ends needs it.
        from search.tracking.registry import register

        run_id = self._run_id(None)
        record = {**record, "bundle": str(self._folder / record["bundle"])}
        try:
            register(self._client, record, self._experiment_id, run_id)
        except (OSError, UserError) as error:
            raise ArtifactError(f"{record['bundle']}: {error}") from error

    def _end(self, record: Record) -> None:
        number, status = record["trial"], record["status"]
        run_id = self._run_id(number)
        reason = {"segsearch.reason": _sendable(record["reason"])} if record["reason"] else {}
        self._log(run_id, {"segsearch.status": status, **reason})
        self._client.set_terminated(run_id, RUN_STATUS[status], record["time_ms"])
        # A server that hung may have created the run long after we gave up and created another.
        for run in self._find(number):
            if run.info.run_id != run_id:
                self._client.delete_run(run.info.run_id)

    def _log(self, run_id: str, tags: Mapping[str, str], params: Sequence[Param] = ()) -> None:
        entities = [RunTag(key, value) for key, value in tags.items()]
        self._client.log_batch(run_id, params=params, tags=entities, synchronous=True)

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
        """The runs of a trial. Where a hanging server made several, the one in use is the first."""
        tag, value = self._identity(number)
        runs = self._client.search_runs([self._experiment_id], f"tags.`{tag}` = '{value}'")
        return sorted(runs, key=lambda run: len(run.data.params), reverse=True)

    def _identity(self, number: int | None) -> tuple[str, str]:
        """The tag that tells a run from all others."""
        if number is None:
            return SEARCH_ID, self._search_id
        return TRIAL, f"{self._search_id}/{number}"

    @cached_property
    def _client(self) -> MlflowClient:
        # MLFLOW_REGISTRY_URI in somebody's environment would be taken for the model's store.
        return MlflowClient(self._uri, registry_uri=self._uri)

    @cached_property
    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        # Artifacts lie beside a file, where `mlflow ui` finds them; a server has its own place.
        path = sqlite_path(self._uri)
        artifacts = (path.resolve().parent / "mlartifacts").as_uri() if path else None
        return str(self._client.create_experiment(self._experiment, artifacts))


def _sendable(text: str) -> str:
    """A text without what no request or database takes, so that it would wait for ever.

    That is NUL, and the half of a character that Python has for a byte of a file's name which is no
    UTF-8.
    """
    return text.encode(errors="replace").decode().replace("\0", "?")
