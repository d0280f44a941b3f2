"""The tracker: what a search logs, delivered to MLflow without ever waiting for it.

Everything is logged from the driver. A call appends a record to the run's outbox and returns; one
thread delivers the records in order. A server that is down, slow or hanging costs training nothing,
and what it missed arrives when it is back, or when the same outbox is opened again. A delivery may
be repeated: runs are found again by a tag, and MLflow keeps a metric of the same name, step, time
and value only once, so each record carries its own time.

Where MLflow doesn't know a search of which the outbox has sent records (the run was moved to a
folder whose database is new, or is resumed with another server), all of it is delivered there.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from search.runs.credentials import without_credentials
from search.runs.rows import Status
from search.tracking.metric_names import BEST_SCORE, metric_keys
from search.tracking.mlflow_runs import MlflowRuns, is_refusal
from search.tracking.outbox import Outbox, Record, read_records
from segcore.config import Scalar, TrialConfig

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
"""Between attempts to deliver; doubled after each failure."""

CLOSE_TIMEOUT_S = 30.0
"""So long the end of a search waits for an MLflow that takes no records …"""
LONGEST_CLOSE_S = 600.0
"""… and so long for one that takes them, be it slowly."""


class Tracker:
    """The owner of one search's runs. No call waits for MLflow; all calls come from one thread.

    Opened on the outbox of an earlier session, it first delivers what that session could not.
    Calls raise ``UserError`` where the outbox can't be written.
    """

    problem: str | None = None
    """What stands in the way of the delivery now, without credentials; None where nothing does."""
    refused: int = 0
    """How many records MLflow will never take."""

    def __init__(
        self,
        uri: str,
        *,
        experiment: str,
        search_name: str,
        search_id: str,
        score: str,
        outbox: Path,
    ) -> None:
        self._search_name = search_name
        self._folder = outbox.parent.resolve()
        self._runs = MlflowRuns(uri, experiment, search_id, self._folder)
        self._outbox = Outbox(outbox)
        self._score = score
        self._last_epoch: dict[int | None, int] = {}
        self._best: dict[int | None, float] = {}
        self._status: dict[int | None, str] = {}
        for record in read_records(outbox):
            self._note(record)
        self.refusals: dict[str, str] = {}
        """Why MLflow refused records, by their kinds; the last reason of each."""
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._deliver_all, name="mlflow", daemon=True)
        self._thread.start()

    def start_search(self, params: Mapping[str, Scalar], tags: Mapping[str, str]) -> None:
        """Begin the search's own run, or go on in it."""
        self._append("start", None, name=self._search_name, params={**params}, tags={**tags})

    def start_trial(self, number: int, config: TrialConfig, tags: Mapping[str, str]) -> None:
        """Begin a trial's run, such as "007-unet-resnet34", or go on in it."""
        name = "-".join(filter(None, (f"{number:03d}", config.architecture, config.encoder)))
        self._append("start", number, name=name, params=config.flat(), tags={**tags})

    def log_epoch(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log an epoch, counted from 1; one that was logged already, before a resume, is left out.

        Adds ``best_score``, the best so far of the metric that the tracker was given as ``score``.
        Values that are not finite are left out, because MLflow would draw them as numbers.
        """
        if epoch <= self.last_epoch(number):
            return
        keys = metric_keys(metrics)
        finite = {keys[name]: float(v) for name, v in metrics.items() if math.isfinite(v)}
        score = finite.get(keys.get(self._score, ""), -math.inf)
        self._append_epoch(number, epoch, finite, score)
        if score > self._best.get(None, -math.inf):
            epochs = sum(last for trial, last in self._last_epoch.items() if trial is not None)
            self._append_epoch(None, epochs, {}, score)

    def end_trial(self, number: int, status: Status, reason: str | None = None) -> None:
        """End a trial's run, or note why it rests; ``start_trial`` opens it again."""
        self._append("end", number, status=status, reason=reason)

    def end_search(self, status: Status, reason: str | None = None) -> None:
        """End the search's own run; ``start_search`` opens it again."""
        self._append("end", None, status=status, reason=reason)

    def log_artifacts(self, number: int | None, *files: Path, artifact_path: str = "") -> None:
        """Copy files to a trial's run, or with None to the search's.

        They are read when they are delivered: leave them in place.
        """
        for file in files:
            self._append("artifact", number, file=self._relative(file), folder=artifact_path)

    def register(self, record: Record) -> None:
        """Make the ensemble the next version of a model, by a ``registry.model_record``.

        The bundle is read when the record is delivered: leave it in place.
        """
        bundle = self._relative(Path(record["bundle"]))
        self._append("model", None, **{**record, "bundle": bundle})

    def _relative(self, file: Path) -> str:
        """A path that stays right where the run's folder is moved before the record is sent."""
        path = file.resolve()
        return str(path.relative_to(self._folder) if path.is_relative_to(self._folder) else path)

    def status_of(self, number: int) -> str | None:
        """How a trial's run ended last, or "running"; None where it never began."""
        return self._status.get(number)

    def last_epoch(self, number: int) -> int:
        """The last epoch of a trial that was logged; 0 where there is none."""
        return self._last_epoch.get(number, 0)

    @property
    def unsent(self) -> int:
        """How many records wait to be delivered."""
        return self._outbox.unsent_count

    @property
    def trials_url(self) -> str | None:
        """The page of this search's trials alone, best first; None before the first delivery."""
        return self._runs.trials_url()

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S, longest_s: float = LONGEST_CLOSE_S) -> int:
        """Deliver what is left, unless MLflow takes nothing for ``timeout_s``; how many are left.

        A server that is slow, but well, gets all of them.
        """
        self._outbox.finish()
        began = waits_since = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(min(0.1, timeout_s))
            now = time.monotonic()
            if self.problem is None:
                waits_since = now
            if now - waits_since >= timeout_s or now - began >= longest_s:
                break
        self._abandoned.set()
        if not self._thread.is_alive():
            self._outbox.close()
        return self._outbox.unsent_count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Who has pressed Ctrl-C doesn't want to wait, and nothing is lost.
        is_hasty = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.close(longest_s=CLOSE_TIMEOUT_S if is_hasty else LONGEST_CLOSE_S)

    def _append_epoch(
        self, number: int | None, epoch: int, metrics: dict[str, float], score: float
    ) -> None:
        best = max(score, self._best.get(number, -math.inf))
        if math.isfinite(best):
            metrics = {BEST_SCORE: best, **metrics}
        self._append("epoch", number, epoch=epoch, metrics=metrics)

    def _append(self, kind: str, number: int | None, **content: object) -> None:
        time_ms = time.time_ns() // 1_000_000
        record: Record = {"kind": kind, "trial": number, "time_ms": time_ms, **content}
        self._outbox.append(record)
        self._note(record)

    def _note(self, record: Record) -> None:
        """Remember how far a trial is."""
        number = record["trial"]
        match record["kind"]:
            case "start":
                self._status[number] = "running"
            case "epoch":
                self._last_epoch[number] = record["epoch"]
                self._best[number] = record["metrics"].get(BEST_SCORE, -math.inf)
            case "end":
                self._status[number] = record["status"]

    def _deliver_all(self) -> None:
        if self._outbox.is_any_sent:
            self._insist(self._make_known)
        while batch := self._outbox.next_batch():
            for group in _grouped(batch.records):
                self._insist(partial(self._deliver, group))
            self._insist(partial(self._outbox.mark_sent, batch))
            if self._abandoned.is_set():
                return

    def _make_known(self) -> None:
        if not self._runs.is_known():
            self._outbox.send_again()

    def _deliver(self, group: list[Record]) -> None:
        try:
            self._runs.write(group)
        except Exception as error:
            if not is_refusal(error):
                raise
            reason = without_credentials(str(error))
            self._outbox.refuse(group, reason)
            self.refused += len(group)
            self.refusals[group[0]["kind"]] = reason.partition("\n")[0]

    def _insist(self, step: Callable[[], None]) -> None:
        """Repeat a step until it succeeds, or the tracker was closed meanwhile."""
        pause_s = FIRST_PAUSE_S
        while not self._abandoned.is_set():
            try:
                step()
            except Exception as error:
                # An outage has many faces: a refused connection, a proxy's page, a locked database.
                self.problem = without_credentials(str(error))
                self._abandoned.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                self.problem = None
                return


def _grouped(records: Sequence[Record]) -> list[list[Record]]:
    """Records to deliver in one request each: a trial's epochs together, all others alone.

    The records of each trial stay in order.
    """
    groups: list[list[Record]] = []
    open_groups: dict[int | None, list[Record]] = {}
    for record in records:
        trial = record["trial"]
        if record["kind"] == "epoch" and trial in open_groups:
            open_groups[trial].append(record)
            continue
        groups.append([record])
        if record["kind"] == "epoch":
            open_groups[trial] = groups[-1]
        else:
            open_groups.pop(trial, None)
    return groups
