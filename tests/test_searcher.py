"""The study tells the truth about every trial, through real Ray sessions and a killed one."""

import functools
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
from optuna.trial import FrozenTrial, TrialState
from ray import tune

from search.sampler import RungTPESampler, rungs
from search.searcher import StudyScheduler, StudySearcher, enqueue_baselines, open_study
from segcore.config import TrialConfig

MAX_EPOCHS = 9
METRIC = "val/dice"
RAY_SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a reported failure has no score
    "TUNE_GLOBAL_CHECKPOINT_S": "10000",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def space(trial: optuna.Trial) -> TrialConfig:
    loss = trial.suggest_categorical("loss", ["ce", "focal"])
    gamma = {"gamma": trial.suggest_float("focal_gamma", 0.5, 5.0)} if loss == "focal" else {}
    return TrialConfig(
        loss=loss,
        loss_kwargs=gamma,
        lr=trial.suggest_float("lr", 1e-4, 1e-1, log=True),
        batch_size=trial.suggest_int("batch_size", 2, 16, step=2),
    )


def finish(config: TrialConfig, trial_number: int) -> TrialConfig:
    return config.model_copy(update={"max_epochs": MAX_EPOCHS, "seed": trial_number})


def score(config: dict[str, Any], epoch: int) -> float:
    return float((1 + math.log10(config["lr"]) / 4) * epoch / MAX_EPOCHS)


def train(config: dict[str, Any], *, folder: Path, epoch_s: float, flawed: bool) -> None:
    """Report every epoch; ``trial-N`` holds the last one, as a checkpoint would.

    Where ``flawed``, trial 1 raises, 2 reports why it can't go on, 3 scores NaN, and 4 loses its
    worker once.
    """
    number = config["trial_number"]
    done = folder / f"trial-{number}"
    first = int(done.read_text()) + 1 if done.exists() else 1
    for epoch in range(first, MAX_EPOCHS + 1):
        time.sleep(epoch_s)
        if flawed and number == 1:
            raise RuntimeError("out of memory")
        if flawed and number == 2:
            tune.report({"epoch": epoch, "finished": False, "failure": "the loss is infinite"})
            return
        value = math.nan if flawed and number == 3 else score(config["config"], epoch)
        tune.report({"epoch": epoch, METRIC: value, "finished": epoch == MAX_EPOCHS})
        done.write_text(str(epoch))
        if flawed and number == 4 and epoch == 2:
            os._exit(1)


def run_search(
    folder: Path, *, create: bool, planned: int, epoch_s: float = 0, flawed: bool = False
) -> None:
    study = open_study(
        folder / "study.journal",
        name="test",
        sampler=RungTPESampler(rungs(1, MAX_EPOCHS, 3), seed=0),
        create=create,
    )
    enqueue_baselines(study, space, [{"loss": "ce", "lr": 1e-2, "batch_size": 8}])
    searcher = StudySearcher(study, space, metric=METRIC, planned_trials=planned, finish=finish)
    scheduler = StudyScheduler(searcher, grace_epochs=1, max_epochs=MAX_EPOCHS, reduction_factor=3)
    tuner = tune.Tuner(
        functools.partial(train, folder=folder, epoch_s=epoch_s, flawed=flawed),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=planned,
            max_concurrent_trials=2,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder),
            name=f"ray-{create}",
            failure_config=tune.FailureConfig(max_failures=1),
            verbose=0,
        ),
    )
    tuner.fit()


def trials_of(folder: Path) -> list[FrozenTrial]:
    """What Optuna's own tools read."""
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    )
    return optuna.load_study(study_name="test", storage=storage).trials


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        for name, value in RAY_SETTINGS.items():
            environment.setenv(name, value)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.mark.usefixtures("ray_session")
def test_every_state_and_every_value_in_the_study_is_what_happened(tmp_path: Path) -> None:
    run_search(tmp_path, create=True, planned=10, flawed=True)
    trials = trials_of(tmp_path)
    assert [trial.number for trial in trials] == list(range(10))
    assert trials[0].params == {"loss": "ce", "lr": 1e-2, "batch_size": 8}
    failures = {t.number: t.user_attrs.get("failure") for t in trials if t.state == TrialState.FAIL}
    assert failures == {
        1: "RuntimeError: out of memory",
        2: "the loss is infinite",
        3: "no epoch had a finite val/dice",
    }
    assert all(trials[number].intermediate_values == {} for number in failures)
    for trial in trials:
        config = trial.user_attrs["config"]
        assert TrialConfig.from_dict(config).seed == trial.number
        if trial.number not in failures:
            last_epoch = max(trial.intermediate_values)
            truth = {epoch: score(config, epoch) for epoch in range(1, last_epoch + 1)}
            assert trial.intermediate_values == truth
            if trial.state == TrialState.COMPLETE:
                assert (last_epoch, trial.value) == (MAX_EPOCHS, truth[MAX_EPOCHS])
            else:
                assert (trial.state, last_epoch in (1, 3)) == (TrialState.PRUNED, True)
    assert {t.state for t in trials} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}


@pytest.mark.usefixtures("ray_session")
def test_a_search_whose_driver_was_killed_ends_with_the_planned_trials(tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path)],
        env={**os.environ, **RAY_SETTINGS, "PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(ended_trials(tmp_path)) < 2:
        assert driver.poll() is None, "the driver ended before it was killed"
        time.sleep(0.2)
    driver.kill()
    driver.wait()
    before = trials_of(tmp_path)
    running = [trial.number for trial in before if trial.state == TrialState.RUNNING]
    assert running

    run_search(tmp_path, create=False, planned=6)
    after = trials_of(tmp_path)
    assert len(after) == 6
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in after)
    for old, new in zip(before, after, strict=False):
        assert old.params.items() <= new.params.items()
        assert old.intermediate_values.items() <= new.intermediate_values.items()
    for trial in after:
        for epoch, value in trial.intermediate_values.items():
            assert value == score(trial.user_attrs["config"], epoch)


def ended_trials(folder: Path) -> list[FrozenTrial]:
    if not (folder / "study.journal").exists():
        return []
    return [trial for trial in trials_of(folder) if trial.state.is_finished()]


if __name__ == "__main__":  # the driver that a test kills
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    run_search(Path(sys.argv[1]), create=True, planned=6, epoch_s=0.3)
