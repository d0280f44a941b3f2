"""What counts against a trial that breaks, and what a worker says when it is not its fault.

``test_faults_search.py`` has the same with real processes, one fault a trial; here they come
together.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayTaskError

from search.runs.storage import Location, NodeCopy
from search.trials import worker
from search.trials.cluster import result_of
from search.trials.faults import WORKER_DEATHS, Faults, machine_went_away
from search.trials.slot import ClusterError
from search.trials.worker import TrialSetting, run_trial
from segcore.config import TrialConfig
from segcore.errors import UserError

WORKER_DIED = ActorDiedError()
NODE_DIED = RayActorError("a", "The actor died because its node has died. Node Id: 0a1b")
HANG_S = 1.0


def test_what_stands_in_the_way_on_a_node_is_said_without_a_workers_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    why = "node a has a GPU by Ray's word, but torch finds none"
    raised = RayTaskError("measure", "Traceback (most recent call last): …", ClusterError(why))
    monkeypatch.setattr(ray, "get", MagicMock(side_effect=raised.as_instanceof_cause()))
    with pytest.raises(UserError, match=f"^{why}$"):
        result_of("a task")


class Broken:
    """A trial that breaks again and again, and what the user is told of it."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.faults = Faults(hang_timeout_s=HANG_S, planned_trials=5, say=self.said.append)

    def breaks(self, error: Exception, after_s: float = 0.0) -> str | None:
        """Why it is given up, if it is, when a worker breaks so long after it was last heard."""
        self.faults.heard(7)
        time.sleep(after_s)
        return self.faults.broke(7, error)


def test_a_machine_that_goes_away_never_counts() -> None:
    trial = Broken()
    unavailable = ActorUnavailableError("The actor is temporarily unavailable", b"1" * 16)
    for error in (NODE_DIED, unavailable, RayActorError(preempted=True)):
        assert [trial.breaks(error) for _ in range(10)] == [None] * 10
    assert set(trial.said) == {
        "trial   7  its machine went away; it goes on from its last checkpoint"
    }


def test_a_trial_that_hung_once_is_still_given_up_when_its_workers_keep_dying() -> None:
    trial = Broken()
    assert trial.breaks(WORKER_DIED, after_s=HANG_S) is None
    assert [trial.breaks(WORKER_DIED) for _ in range(WORKER_DEATHS)] == [None] * WORKER_DEATHS
    reason = trial.breaks(WORKER_DIED)
    assert reason is not None
    assert reason.startswith("its worker died 4 times: The actor died unexpectedly")
    assert [line.partition(";")[0] for line in trial.said] == [
        "trial   7  it hung",
        *["trial   7  its worker died"] * WORKER_DEATHS,
    ]


def test_a_trial_whose_machine_goes_away_after_its_last_chance_is_not_given_up() -> None:
    trial = Broken()
    assert [trial.breaks(WORKER_DIED) for _ in range(WORKER_DEATHS)] == [None] * WORKER_DEATHS
    assert trial.breaks(NODE_DIED) is None


def test_a_second_hang_is_the_last() -> None:
    trial = Broken()
    assert trial.breaks(WORKER_DIED, after_s=HANG_S) is None
    reason = trial.breaks(WORKER_DIED, after_s=HANG_S)
    assert reason == "it hung twice: no epoch within 1 s (--hang-timeout)"


def test_trials_that_fail_alike_end_the_search_unless_one_had_a_score() -> None:
    for any_score in (False, True):
        faults = Broken().faults
        if any_score:
            faults.scored()
        for _ in range(2):
            faults.failed("a bug")
            assert faults.reason is None
        faults.failed("a bug")
        assert (faults.reason is None) == any_score


def test_a_worker_that_hangs_ends_itself_and_logs_where() -> None:
    code = (
        "import time; from search.trials.worker import watch_for_hang\n"
        "watch_for_hang(0.5)\n"
        "def hang(): time.sleep(100)\n"
        "hang()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 1 and "in hang" in done.stderr


@pytest.mark.faults
def test_ray_says_in_its_error_that_a_node_died() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        node = cluster.add_node(num_cpus=1)
        sleeper = ray.remote(num_cpus=1)(Sleeper).remote()
        ray.get(sleeper.sleep.remote(0))
        answer = sleeper.sleep.remote(1000)
        cluster.remove_node(node, allow_graceful=False)
        with pytest.raises(RayActorError) as caught:
            ray.get(answer, timeout=120)
        assert machine_went_away(caught.value)
    finally:
        ray.shutdown()
        cluster.shutdown()


class Sleeper:
    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def test_a_bucket_that_does_not_answer_is_not_the_trials_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(worker.tune, "report", lambda result, **_: reports.append(result))
    here = NodeCopy("", None, tmp_path)
    setting = TrialSetting(
        Location.parse("s3://bucket/run"), here, here, "dice", cpus=1, gpus=0, hang_timeout_s=600
    )
    config = TrialConfig(architecture="scratch_unet", encoder=None)
    run_trial({"trial_number": 0, "config": config, "known_epochs": 0}, setting=setting)
    (report,) = reports
    assert report["fatal"].startswith("s3://bucket/run: ") and "failure" not in report
