"""What counts against a trial that breaks, and what a worker says when it is not its fault.

``test_faults_search.py`` has the same with real processes, one fault a trial; here they come
together.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial

from search.runs.storage import Location, NodeCopy
from search.trials import faults, worker
from search.trials.faults import WORKER_DEATHS, Faults
from search.trials.worker import TrialSetting, run_trial
from segcore.config import TrialConfig

WORKER_DIED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"
)
NODE_DIED = "The actor died because its node has died. Node Id: 0a1b"


@pytest.fixture
def broken(tmp_path: Path) -> Any:
    """A trial as Ray shows it to callbacks, and what it does when it is told of a failure."""
    metadata = SimpleNamespace(num_failures=0)
    return SimpleNamespace(
        trial_id="a", status=Trial.RUNNING, config={"trial_number": 7}, max_failures=-1,
        run_metadata=metadata, error_file=str(tmp_path / "error.txt"), last_result={},
        temporary_state=SimpleNamespace(ray_actor="actor"),
    )  # fmt: skip


def goes_on_after(watcher: Faults, broken: Any, error: str) -> bool:
    """As Ray does: whether the trial is tried again."""
    broken.run_metadata.num_failures += 1
    with Path(broken.error_file).open("a") as file:
        file.write(f"Failure # {broken.run_metadata.num_failures}\n{error}\n")
    goes_on = broken.max_failures < 0 or broken.run_metadata.num_failures <= broken.max_failures
    if goes_on:
        watcher.on_trial_recover(0, [], broken)
    return goes_on


def hang(watcher: Faults, broken: Any) -> None:
    watcher.on_trial_start(0, [], broken)
    watcher._heard_at[7] -= 100
    watcher.on_step_end(0, [broken])


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> Faults:
    monkeypatch.setattr(faults.ray, "kill", lambda actor: None)
    return Faults(hang_timeout_s=60, planned_trials=5, say=lambda line: None)


def test_a_machine_that_goes_away_never_counts(watcher: Faults, broken: Any) -> None:
    assert all(goes_on_after(watcher, broken, NODE_DIED) for _ in range(20))


def test_a_trial_that_hung_once_is_still_given_up_when_its_workers_keep_dying(
    watcher: Faults, broken: Any
) -> None:
    hang(watcher, broken)
    assert goes_on_after(watcher, broken, "it was killed by `ray.kill`.")
    assert all(goes_on_after(watcher, broken, WORKER_DIED) for _ in range(WORKER_DEATHS))
    assert not goes_on_after(watcher, broken, WORKER_DIED)
    assert watcher.why(broken).startswith("its worker died 4 times: The actor is dead because")


def test_a_trial_whose_machine_goes_away_after_its_last_chance_is_not_given_up(
    watcher: Faults, broken: Any
) -> None:
    assert all(goes_on_after(watcher, broken, WORKER_DIED) for _ in range(WORKER_DEATHS))
    assert not goes_on_after(watcher, broken, NODE_DIED), "Ray drops it"
    assert watcher.why(broken) is None


def test_a_second_hang_is_the_last(watcher: Faults, broken: Any) -> None:
    hang(watcher, broken)
    assert goes_on_after(watcher, broken, "it was killed by `ray.kill`.")
    hang(watcher, broken)
    assert not goes_on_after(watcher, broken, "it was killed by `ray.kill`.")
    assert "it hung twice" in watcher.why(broken)


def test_a_bucket_that_does_not_answer_is_not_the_trials_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(worker.tune, "report", lambda result, **_: reports.append(result))
    here = NodeCopy("", None, tmp_path)
    setting = TrialSetting(Location.parse("s3://bucket/run"), here, here, "dice", cpus=1, gpus=0)
    config = TrialConfig(architecture="scratch_unet", encoder=None).to_dict()
    run_trial({"trial_number": 0, "config": config, "known_epochs": 0}, setting=setting)
    (report,) = reports
    assert report["fatal"].startswith("s3://bucket/run: ") and "failure" not in report
