"""What a search does about trials that break: real processes, killed, hanging and failing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from optuna.trial import FrozenTrial, TrialState

from search.runs.folder import RunFolder
from search.tracking.outbox import read_records
from tests.faulty_space import FAULTS
from tests.test_search import environment, study_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def search(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "search.run", *arguments], cwd=cwd,
        env=environment() | {"FAULTY_FOLDER": str(cwd)}, capture_output=True, text=True,
        timeout=360,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, blocks: Path) -> Path:
    """Where a search of one trial for each fault has ended."""
    cwd = tmp_path_factory.mktemp("faults")
    done = search(
        cwd, "--data", str(blocks), "--space", "tests.faulty_space", "--trials", str(len(FAULTS)),
        "--max-epochs", "3", "--grace-epochs", "3", "--name", "faults", "--hang-timeout", "20s",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (cwd / "output.txt").write_text(done.stdout + done.stderr)
    return cwd


def trial_of(folder: Path, fault: str) -> FrozenTrial:
    (trial,) = [
        t for t in study_of(folder / "runs/faults").get_trials() if t.params["fault"] == fault
    ]
    return trial


@pytest.mark.parametrize("fault", ["none", "dies_once", "hangs_once"])
def test_what_breaks_once_goes_on_to_its_last_epoch(folder: Path, fault: str) -> None:
    trial = trial_of(folder, fault)
    assert trial.state == TrialState.COMPLETE
    assert sorted(trial.intermediate_values) == [1, 2, 3]
    assert "failure" not in trial.user_attrs


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("always_dies", "its worker died 4 times: "),
        ("always_hangs", "it hung twice: no epoch within 20 s (--hang-timeout)"),
        ("bug", "ZeroDivisionError: a bug in a plug-in"),
    ],
)
def test_what_always_breaks_fails_with_its_reason(folder: Path, fault: str, reason: str) -> None:
    trial = trial_of(folder, fault)
    assert trial.state == TrialState.FAIL
    assert sorted(trial.intermediate_values) == [1], "its first epoch was good, and counts"
    assert trial.user_attrs["failure"].startswith(reason)
    lines = [line.strip() for line in (folder / "output.txt").read_text().splitlines()]
    assert any(line.startswith(reason) for line in lines)
    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("segsearch")
    runs = client.search_runs([experiment.experiment_id], "tags.`segsearch.status` = 'failed'")
    assert len(runs) == 3
    assert any(run.data.tags["segsearch.reason"].startswith(reason) for run in runs)


def test_the_log_of_a_bug_has_its_traceback(folder: Path) -> None:
    number = trial_of(folder, "bug").number
    text = (folder / f"runs/faults/failures/trial_{number:04d}.txt").read_text()
    assert "faulty_space.py" in text and "ZeroDivisionError: a bug in a plug-in" in text


def test_ray_adds_nothing_to_the_one_line_about_a_worker_that_died(folder: Path) -> None:
    output = (folder / "output.txt").read_text()
    assert "its worker died; it goes on from its last checkpoint" in output
    assert "raylet" not in output and "unexpected system error" not in output


def test_a_trial_whose_worker_dies_as_it_takes_it_up_is_trained_all_the_same(
    tmp_path: Path, blocks: Path
) -> None:
    done = search(
        tmp_path, "--data", str(blocks), "--space", "tests.reusing_space",
        "--trials", "4", "--max-epochs", "2", "--grace-epochs", "2", "--name", "reused",
        "--strategy", "freeze-thaw",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "its worker died; it goes on from its last checkpoint" in done.stdout
    states = [trial.state for trial in study_of(tmp_path / "runs/reused").get_trials()]
    assert states == [TrialState.COMPLETE] * 4


def test_mlflow_gets_what_a_killed_driver_had_told_the_study_alone(
    tmp_path: Path, blocks: Path
) -> None:
    done = search(
        tmp_path, "--data", str(blocks), "--space", "tests.tiny_space",
        "--trials", "3", "--max-epochs", "3", "--grace-epochs", "3", "--name", "killed",
        "--strategy", "freeze-thaw",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "At most 3 trials of up to 3 epochs, 9 epochs together" in done.stdout
    assert "  paused      1 epochs" in done.stdout, "before the third trial began"
    run = tmp_path / "runs/killed"
    for number in range(3):  # each turn of a trial has a folder of its own
        kept = list(run.glob(f"trials/*/trial_{number:04d}*/checkpoint_*/model.safetensors"))
        assert 1 <= len(kept) <= 2, "the best and the newest"
    outbox = RunFolder(run).outbox
    # Nothing of trials 1 and 2 was told, and not the last epoch of trial 0, nor its ends.
    told = [
        record
        for record in read_records(outbox)
        if record["trial"] is None
        or (record["trial"] == 0 and record["kind"] != "end" and record.get("epoch") != 3)
    ]
    outbox.write_text("".join(json.dumps(record) + "\n" for record in told))
    outbox.with_name(outbox.name + ".sent").unlink()
    (tmp_path / "runs/mlflow.db").unlink()
    done = search(tmp_path, "--resume", str(run))
    assert done.returncode == 0, done.stdout + done.stderr

    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("segsearch")
    runs = client.search_runs([experiment.experiment_id], "tags.`segsearch.status` = 'finished'")
    trials = {
        r.data.tags["segsearch.trial"].rpartition("/")[2]: r
        for r in runs
        if "segsearch.trial" in r.data.tags
    }
    assert sorted(trials) == ["0", "1", "2"]
    for trial in trials.values():
        history = client.get_metric_history(trial.info.run_id, "train/loss")
        assert sorted(metric.step for metric in history) == [1, 2, 3]


def test_a_search_ends_when_its_first_trials_all_fail_alike(tmp_path: Path, blocks: Path) -> None:
    done = search(
        tmp_path, "--data", str(blocks), "--space", "tests.broken_space",
        "--trials", "20", "--max-epochs", "2", "--name", "broken",
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    message = "the first 3 trials all failed alike: ZeroDivisionError: a bug in a plug-in"
    assert message in done.stderr
    states = [trial.state for trial in study_of(tmp_path / "runs/broken").get_trials()]
    assert 3 <= states.count(TrialState.FAIL) <= 4 and len(states) <= 6
