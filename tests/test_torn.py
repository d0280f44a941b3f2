"""A run's three state files, cut off at any byte by a disk: what is whole is read, and goes on."""

import random
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.planning.halving import Halving
from search.runs.folder import RunFolder, RunRecord, _warn_once
from search.runs.options import SearchOptions
from search.runs.rows import read_rows
from search.runs.study import SearchStudy, open_study, read_study
from search.tracking.outbox import Outbox, read_records
from search.trials.searcher import StudySearcher
from segcore.config import TrialConfig
from segcore.errors import UserError

PLANNED = 6


def cuts(content: bytes, count: int) -> Iterator[bytes]:
    """The beginnings of a file: none of it, at random bytes, and all but the last."""
    random_ = random.Random(0)
    places = {0, 1, len(content) - 1, *(random_.randrange(len(content)) for _ in range(count))}
    return (content[:place] for place in sorted(places))


def records() -> tuple[RunRecord, RunRecord]:
    """Of a search, and of the same with more trials."""
    first = RunRecord("id", SearchOptions(data="/data", trials=5), {"data": "abc"})
    return first, RunRecord("id", SearchOptions(data="/data", trials=9), {"data": "abc"})


def test_a_cut_off_record_is_recovered_from_its_predecessor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder(tmp_path)
    first, second = records()
    run.write(first)
    run.write(second)
    whole = run.record.read_bytes()
    assert run.read().options.trials == 9 and not caplog.messages
    for cut in cuts(whole, 50):
        _warn_once.cache_clear()
        caplog.clear()
        run.record.write_bytes(cut)
        for _ in range(2):  # the command line reads it, and then the search
            found = run.read()
            assert (found.search_id, found.identity) == ("id", {"data": "abc"})
            assert found.options.trials == 5
        assert len(caplog.messages) == 1 and "\n" not in caplog.messages[0]
        assert f"{tmp_path}: run.yaml is damaged" in caplog.messages[0]
        assert "run.yaml.previous" in caplog.messages[0]


def test_a_record_that_was_written_once_has_a_predecessor_too(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write(records()[0])
    run.record.write_bytes(run.record.read_bytes()[:40])
    assert run.read().options.trials == 5
    # What is written next doesn't push a damaged file into the predecessor's place.
    run.write(records()[1])
    assert run.read().options.trials == 9
    run.record.write_bytes(b"")
    assert run.read().options.trials == 9


def test_where_both_are_cut_off_the_error_is_of_the_record(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write(records()[0])
    for path in (run.record, run.previous_record):
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"not the folder of a run \(run.yaml: "):
        run.read()


def test_a_run_of_another_version_is_named_as_such(tmp_path: Path) -> None:
    newer, first = RunFolder(tmp_path / "newer"), RunFolder(tmp_path / "first")
    newer.write(records()[0])
    newer.record.write_text(newer.record.read_text().replace("format: 2", "format: 3"))
    first.path.mkdir()
    (first.path / "search.json").write_text("{}")  # as it was before there were formats
    for run in (newer, first):
        with pytest.raises(UserError, match=f"{run.path}: a run of another version") as found:
            run.read()
        assert "\n" not in str(found.value)


def space(trial: optuna.Trial) -> TrialConfig:
    return TrialConfig(lr=trial.suggest_float("lr", 1e-4, 1e-1, log=True), batch_size=4)


def opened(run: RunFolder, *, create: bool) -> SearchStudy:
    sampler = optuna.samplers.RandomSampler(seed=0)
    return open_study(run.study, name="torn", sampler=sampler, create=create)


def go_on(study: SearchStudy, until: int) -> None:
    """Train all trials that are unfinished, and start more; leave the last one RUNNING."""
    searcher = StudySearcher(
        study, space, Halving(study, grace_epochs=3, max_epochs=3, reduction_factor=3),
        metric="val/dice", planned_trials=PLANNED,
        finish=lambda config, number: config.model_copy(update={"seed": number}),
        capacity=lambda: 9,
    )  # fmt: skip
    for n in range(PLANNED + 1):
        work = searcher.suggest(str(n))
        if not isinstance(work, Mapping):
            return
        result: dict[str, Any] = {}  # as of a training that was at its end when it was resumed
        for epoch in range(work["known_epochs"] + 1, 4):
            result = {"epoch": epoch, "val/dice": epoch / 10, "finished": epoch == 3}
            searcher.on_trial_result(str(n), result)
            if work["trial_number"] == until:
                return
        searcher.on_trial_complete(str(n), result)


def what_it_knows(study: optuna.Study) -> list[tuple[Any, ...]]:
    """All but how long it took."""
    return [
        (t.state, t.params, t.intermediate_values, t.user_attrs | {"started_seconds": None})
        for t in study.trials
    ]


def test_a_cut_off_study_keeps_its_whole_lines_and_goes_on(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    go_on(opened(run, create=True), until=3)
    whole = run.study.read_bytes()
    for cut in cuts(whole, 40):
        run.study.write_bytes(cut[: cut.rfind(b"\n") + 1])
        expected = what_it_knows(opened(run, create=False))
        run.study.write_bytes(cut)
        if b"\n" in cut:  # the leaderboard reads it before anybody goes on
            assert len(read_rows(read_study(run))) == len(expected)
        study = opened(run, create=False)
        assert what_it_knows(study) == expected
        go_on(study, until=PLANNED)
        again = optuna.load_study(study_name="torn", storage=study.storage)
        assert [trial.state.name for trial in again.trials] == ["COMPLETE"] * PLANNED
        assert all(t.intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3} for t in again.trials)


def test_a_cut_off_outbox_keeps_its_whole_records_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "tracking.jsonl"
    outbox = Outbox(path)
    for number in range(30):
        outbox.append({"number": number, "text": "ä\n" * (number % 4)})
        if number == 17:
            batch = outbox.next_batch()
            assert batch is not None
            outbox.mark_sent(batch)
    outbox.close()
    whole, sent = path.read_bytes(), (tmp_path / "tracking.jsonl.sent").read_bytes()
    for cut in cuts(whole, 60):
        path.write_bytes(cut)
        (tmp_path / "tracking.jsonl.sent").write_bytes(sent)
        kept = cut.count(b"\n")
        assert [record["number"] for record in read_records(path)] == [*range(kept)]
        outbox = Outbox(path)
        assert [record["number"] for record in read_records(path)] == [*range(kept)]
        # Where what was delivered is cut off too, all that is left is delivered once more.
        assert outbox.unsent_count == (kept - 18 if kept >= 18 else kept)
        outbox.append({"number": 99})
        assert [record["number"] for record in read_records(path)] == [*range(kept), 99]
        outbox.close()
        assert path.stat().st_size == cut.rfind(b"\n") + 1 + len(b'{"number": 99}\n')


def test_a_journal_that_a_full_disk_cut_off_is_whole_when_it_is_written_to_again(
    tmp_path: Path,
) -> None:
    """A line in its middle that is half of one and half of another could never be read."""
    run = RunFolder(tmp_path)
    study = opened(run, create=True)
    trial = study.ask()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (run.study.stat().st_size + 20, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            trial.report(0.5, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    trial.report(0.6, 2)
    for again in (study, read_study(run), opened(run, create=False)):
        assert [t.intermediate_values for t in again.get_trials()] == [{2: 0.6}]
