"""What a session leaves behind, however it ends. Ray's part is played here."""

import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from ray.tune.error import TuneError

from search import driver
from search.planning.space import Space
from search.reporting.history import read_history
from search.runs.folder import RunFolder, RunRecord
from search.runs.options import SearchOptions
from search.runs.rows import read_rows
from search.tracking.outbox import read_records
from search.tracking.tracker import Tracker
from search.trials import session
from search.trials.session import open_plan_study, run_trials
from segcore.errors import UserError
from tests.drawn_run import NOWHERE
from tests.tiny_space import space


def finds_a_full_disk(watcher: Any) -> None:
    watcher.on_trial_result(trial=MagicMock(), result={"fatal": "the disk is full"})


def meets_a_broken_space(watcher: Any) -> None:
    try:
        raise UserError("space x: gave None")
    except UserError:
        raise TuneError("Traceback …")  # noqa: B904  # as Ray does


@pytest.mark.parametrize(
    ("error", "raised", "reason"),
    [
        (UserError("no trial finished"), UserError, "no trial finished"),
        (KeyError("scale"), KeyError, "KeyError: 'scale'"),
        (OSError(errno.ENOSPC, "No space left"), UserError, None),
        (KeyboardInterrupt(), KeyboardInterrupt, "interrupted"),
    ],
)
def test_mlflow_and_the_live_report_hear_that_a_search_ended_whatever_ended_it(
    error: BaseException, raised: type[BaseException], reason: str | None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Tracker, "__exit__", lambda tracker, *error: tracker.close(0) and None)
    options, run = SearchOptions(), RunFolder(tmp_path)
    plan: Any = SimpleNamespace(options=options, run=run, name="x")
    record = RunRecord("x", options, {})
    setup = driver._Setup(plan, record, NOWHERE, MagicMock(), 0, MagicMock())
    with pytest.raises(raised), driver._tracked(setup) as tracker:
        tracker.start_search({}, {})
        raise error
    *_, last = read_records(run.outbox)
    assert last.get("reason") == reason and read_history(run.outbox).is_going_on == (reason is None)


@pytest.mark.parametrize(
    ("time_budget", "happens", "ending"),
    [
        ("0.001s", lambda watcher: None, "out of time"),
        (None, lambda watcher: None, "interrupted"),
        (None, finds_a_full_disk, "the search failed"),
        (None, meets_a_broken_space, "the search failed"),
    ],
)
def test_trials_that_were_running_are_interrupted_and_the_next_session_begins_with_them(
    time_budget: str | None, happens: Callable[[Any], None], ending: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    plan: Any = SimpleNamespace(
        options=SearchOptions(trials=3, max_epochs=3, time_budget=time_budget),
        run=RunFolder(tmp_path), space=Space("x", space, (), ""), earlier=(), searched=None,
        data=SimpleNamespace(fingerprint="abc"),
    )  # fmt: skip
    study = open_plan_study(plan)
    began: list[dict[str, Any]] = []

    def tuner(plan: Any, searcher: Any, slots: Any, watcher: Any) -> MagicMock:
        def fit() -> None:
            assignment, waits = searcher.suggest("a"), searcher.suggest("b")
            watcher.on_trial_start(trial=SimpleNamespace(config=assignment))
            began.extend((assignment, waits))
            happens(watcher)

        return MagicMock(fit=fit)

    monkeypatch.setattr(session, "_tuner", tuner)
    slots: Any = SimpleNamespace(count=2)
    tracker = Tracker(
        NOWHERE, experiment="segsearch", search_name="x", search_id="x", score="val/dice",
        outbox=plan.run.outbox,
    )  # fmt: skip
    if ending == "the search failed":
        with pytest.raises(UserError, match=r"the disk is full|space x: gave None"):
            run_trials(plan, study, slots, tracker, MagicMock())
    else:
        assert run_trials(plan, study, slots, tracker, MagicMock()) == ending
    assert [row.status for row in read_rows(study)] == ["interrupted"] * 2
    ends = [record for record in read_records(plan.run.outbox) if record["kind"] == "end"]
    told = [(record["trial"], record["status"], record["reason"]) for record in ends]
    assert told == [(0, "interrupted", ending)], "MLflow has no run of the other one"

    first, happens = began[:], lambda watcher: None
    run_trials(plan, study, slots, tracker, MagicMock())
    assert began[2:] == first
    tracker.close(timeout_s=0)
