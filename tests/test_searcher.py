"""The study tells the truth about every trial, through real Ray sessions and a killed one."""

import functools
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import optuna
import pytest
import ray
import torch
from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.exceptions import RayActorError

from search.planning.halving import Halving, rungs
from search.planning.sampler import RungTPESampler
from search.planning.space import Space
from search.planning.strategy import Resume, Start
from search.runs.attributes import is_paused
from search.runs.rows import read_rows, status_of
from search.runs.study import SearchStudy, enqueue_baselines, open_study
from search.trials.cluster import result_of
from search.trials.faults import last_error
from search.trials.searcher import EPOCH_S, StudyScheduler, StudySearcher
from search.trials.slot import prepare_process
from segcore.config import TrialConfig
from segcore.errors import UserError

MAX_EPOCHS = 9
METRIC = "val/dice"
PAUSED_PLANNED, EPOCH_BUDGET = 6, 30
"""Of a search whose trials are paused."""
BASELINES = [  # the second is the best there is: it is never stopped
    {"loss": "ce", "lr": 1e-2, "batch_size": 8},
    {"loss": "ce", "lr": 1e-1, "batch_size": 8},
]
RAY_SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a reported failure has no score
    "TUNE_GLOBAL_CHECKPOINT_S": "10000",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def last_chance(trial: Any) -> str | None:
    """Why a trial is given up: it raised an error. One whose worker died goes on."""
    error = last_error(trial)
    return None if isinstance(error, RayActorError) else str(error).strip().rpartition("\n")[2]


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


def score(config: TrialConfig, epoch: int) -> float:
    return (1 + math.log10(config.lr) / 4) * epoch / MAX_EPOCHS


class BestFirst:
    """Pauses every trial after epochs 1, 2 and 5, and goes on with the best of three at a time."""

    def __init__(self, study: SearchStudy) -> None:
        self._study = study

    def next(self) -> Resume | Start:
        paused = self._study.paused_trials().values()
        if len(paused) < 3 and len(self._study.trials) < PAUSED_PLANNED:
            return Start({"loss": "ce", "lr": 10 ** -(1 + len(self._study.trials) / 10)})
        best = max(paused, key=lambda t: max(t.intermediate_values.values()), default=None)
        return Start(None) if best is None else Resume(best.number)

    def goes_on(self, number: int, epoch: int) -> bool:
        return epoch not in (1, 2, 5)


def train(config: dict[str, Any], *, folder: Path, epoch_s: float, flawed: bool) -> None:
    """Report every epoch that the study doesn't know; ``trained`` lists all epochs.

    Where ``flawed``, trial 1 loses its worker after epoch 2, and raises when it goes on from there;
    2 reports why it can't go on, and 3 scores NaN.
    """
    number = config["trial_number"]
    first = config["known_epochs"] + 1
    for epoch in range(first, MAX_EPOCHS + 1):
        time.sleep(epoch_s)
        if flawed and number == 1 and epoch == 3:
            if first == 1:
                os._exit(1)
            raise RuntimeError("out of memory")
        if flawed and number == 2:
            tune.report({"epoch": epoch, "finished": False, "failure": "the loss is infinite"})
            return
        value = math.nan if flawed and number == 3 else score(config["config"], epoch)
        with (folder / "trained").open("a") as file:
            file.write(f"{number} {epoch}\n")
        result = {"epoch": epoch, METRIC: value, "finished": epoch == MAX_EPOCHS}
        tune.report(result | {EPOCH_S: epoch_s})


def run_search(
    folder: Path, *, create: bool, planned: int, epoch_s: float = 0, flawed: bool = False,
    pauses: bool = False,
) -> None:  # fmt: skip
    study = open_study(
        folder / "study.journal",
        name="test",
        sampler=RungTPESampler(rungs(1, MAX_EPOCHS, 3), seed=0),
        create=create,
    )
    enqueue_baselines(study, BASELINES)
    searcher = pausing_searcher_of(study) if pauses else searcher_of(study, planned)
    tuner = tune.Tuner(
        functools.partial(train, folder=folder, epoch_s=epoch_s, flawed=flawed),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=StudyScheduler(searcher, why=last_chance),
            num_samples=-1,
            max_concurrent_trials=2,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder),
            name=f"ray-{create}",
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
        # Workers then need not import this module and all that it imports.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.mark.searches
@pytest.mark.usefixtures("ray_session")
def test_every_state_and_every_value_in_the_study_is_what_happened(tmp_path: Path) -> None:
    run_search(tmp_path, create=True, planned=10, flawed=True)
    trials = trials_of(tmp_path)
    assert [trial.number for trial in trials] == list(range(10))
    assert [trial.params for trial in trials[:2]] == BASELINES
    failures = {t.number: t.user_attrs["failure"] for t in trials if t.state == TrialState.FAIL}
    assert failures == {
        1: "RuntimeError: out of memory",
        2: "the loss is infinite",
        3: "no epoch had a finite val/dice",
    }
    assert [list(trials[n].intermediate_values) for n in failures] == [[1, 2], [], []]
    for trial in trials:
        config = TrialConfig.from_dict(trial.user_attrs["config"])
        assert config.seed == trial.number
        if trial.number not in failures:
            last_epoch = max(trial.intermediate_values)
            truth = {epoch: score(config, epoch) for epoch in range(1, last_epoch + 1)}
            assert trial.intermediate_values == truth
            if trial.state == TrialState.COMPLETE:
                assert (last_epoch, trial.value) == (MAX_EPOCHS, truth[MAX_EPOCHS])
            else:
                assert (trial.state, last_epoch in (1, 3)) == (TrialState.PRUNED, True)
    assert {t.state for t in trials} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}


@pytest.mark.searches
@pytest.mark.usefixtures("ray_session")
@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU")
def test_where_torch_finds_no_gpu_a_task_of_a_check_ends_with_a_line() -> None:
    task = ray.remote(prepare_process).remote(1, gpus=1.0)
    with pytest.raises(UserError, match="has a GPU by Ray's word, but torch finds none") as caught:
        result_of(task)
    assert "\n" not in str(caught.value)


@pytest.mark.searches
@pytest.mark.usefixtures("ray_session")
def test_a_search_whose_driver_was_killed_ends_with_the_planned_trials(tmp_path: Path) -> None:
    kill_driver(tmp_path, lambda trials: sum(t.state.is_finished() for t in trials) >= 2)
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
            assert value == score(TrialConfig.from_dict(trial.user_attrs["config"]), epoch)


@pytest.mark.searches
@pytest.mark.usefixtures("ray_session")
def test_a_driver_is_killed_while_trials_are_paused_and_resumed(tmp_path: Path) -> None:
    """Nothing is lost, none is trained twice, and all epochs that there are for are used."""

    def in_the_midst(trials: list[FrozenTrial]) -> bool:
        resumed = [t for t in trials if len(t.intermediate_values) > 2]
        return bool(resumed) and any(is_paused(t) for t in trials)

    kill_driver(tmp_path, in_the_midst, "pauses")
    before = trials_of(tmp_path)
    run_search(tmp_path, create=False, planned=PAUSED_PLANNED, pauses=True)
    after = trials_of(tmp_path)

    assert len(after) == PAUSED_PLANNED
    n_epochs = sum(len(trial.intermediate_values) for trial in after)
    assert EPOCH_BUDGET <= n_epochs <= EPOCH_BUDGET + 1, "two run at a time"
    assert any(trial.state == TrialState.COMPLETE for trial in after)
    for trial in after:
        assert trial.state == TrialState.COMPLETE or is_paused(trial)
        values = trial.intermediate_values
        config = TrialConfig.from_dict(trial.user_attrs["config"])
        assert values == {epoch: score(config, epoch) for epoch in range(1, max(values) + 1)}
        if is_paused(trial):
            assert trial.user_attrs["paused"] == max(values)
        # A killed driver may have noted an epoch and not yet its time.
        assert 0 <= trial.user_attrs.get("epoch_seconds", 0.0) <= 0.3
        assert trial.user_attrs["started_seconds"] >= 0
    for old, new in zip(before, after, strict=False):
        assert old.params.items() <= new.params.items()
        assert old.intermediate_values.items() <= new.intermediate_values.items()
    assert after[3].params["lr"] == pytest.approx(10**-1.3), "which the strategy chose"
    trained = Counter((tmp_path / "trained").read_text().splitlines())
    was_running = [t.number for t in before if status_of(t) == "running"]
    twice = {int(line.split()[0]) for line, count in trained.items() if count > 1}
    assert twice <= set(was_running), "whose last epoch nobody had heard of"


def kill_driver(folder: Path, when: Callable[[list[FrozenTrial]], bool], *arguments: str) -> None:
    """Kill the driver of a search once its trials are so."""
    driver = subprocess.Popen(
        [sys.executable, __file__, str(folder), *arguments],
        env={**os.environ, **RAY_SETTINGS, "PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not ((folder / "study.journal").exists() and when(trials_of(folder))):
        assert driver.poll() is None, "the driver ended before it was killed"
        time.sleep(0.2)
    driver.kill()
    driver.wait()


def study_in(folder: Path, sampler: optuna.samplers.BaseSampler | None = None) -> SearchStudy:
    sampler = sampler or RungTPESampler(rungs(1, MAX_EPOCHS, 3), seed=0)
    return open_study(folder / "study.journal", name="test", sampler=sampler, create=True)


def searcher_of(study: SearchStudy, planned: int) -> StudySearcher:
    halving = Halving(study, grace_epochs=1, max_epochs=MAX_EPOCHS, reduction_factor=3)
    return StudySearcher(
        study, space, halving, metric=METRIC, planned_trials=planned, finish=finish,
        capacity=lambda: 99,
    )  # fmt: skip


def pausing_searcher_of(study: SearchStudy, epoch_budget: int = EPOCH_BUDGET) -> StudySearcher:
    return StudySearcher(
        study, space, BestFirst(study), metric=METRIC, planned_trials=PAUSED_PLANNED,
        finish=finish, capacity=lambda: 2, pauses=True, epoch_budget=epoch_budget,
    )  # fmt: skip


def results(*values: float, finished: bool = False) -> Iterator[dict[str, Any]]:
    for epoch, value in enumerate(values, 1):
        yield {"epoch": epoch, METRIC: value, "finished": finished and epoch == len(values)}


def end(searcher: StudySearcher, trial_id: str, result: dict[str, Any]) -> None:
    """Report a last epoch."""
    searcher.on_trial_result(trial_id, result)
    searcher.on_trial_complete(trial_id, result)


def turn(searcher: StudySearcher, trial_id: str, *epochs: int, value: float) -> dict[str, Any]:
    """Hand out a trial, and report epochs until its turn ends as Ray's controller does it."""
    assignment = searcher.suggest(trial_id)
    assert isinstance(assignment, dict)
    scheduler = StudyScheduler(searcher, why=last_chance)
    trial = SimpleNamespace(trial_id=trial_id, config=assignment)
    for epoch in epochs:
        result = {"epoch": epoch, METRIC: value, "finished": epoch == MAX_EPOCHS, EPOCH_S: 2.0}
        decision = scheduler.on_trial_result(None, trial, result)
        assert (decision == StudyScheduler.STOP) == (epoch == epochs[-1])
    searcher.on_trial_complete(trial_id, result)
    return assignment


def test_a_paused_trial_goes_on_when_the_strategy_says_so_in_this_session_or_the_next(
    tmp_path: Path,
) -> None:
    study = study_in(tmp_path)
    searcher = pausing_searcher_of(study)
    first = turn(searcher, "a", 1, value=0.3)
    turn(searcher, "b", 1, value=0.5)
    turn(searcher, "c", 1, value=0.4)
    assert [row.status for row in read_rows(study)] == ["paused"] * 3
    assert [trial.params["lr"] for trial in study.trials] == pytest.approx(
        [0.1, 10**-1.1, 10**-1.2]
    )
    attributes = study.trials[0].user_attrs
    assert (attributes["paused"], attributes["epoch_seconds"]) == (1, 2.0)
    assert attributes["started_seconds"] == 0, "it was there before its epoch could have passed"

    again = turn(searcher, "d", 2, value=0.2)
    assert (again["trial_number"], again["attempt"], again["known_epochs"]) == (1, 2, 1)
    study.stop_paused(2)  # its checkpoint had to go
    assert study.trials[2].state == TrialState.PRUNED
    study.stop_paused(1)
    searcher = pausing_searcher_of(study)
    assert searcher.suggest("e")["trial_number"] == 3  # type: ignore[index,call-overload]
    searcher = pausing_searcher_of(study)
    interrupted = searcher.suggest("f")
    assert interrupted["trial_number"] == 3  # type: ignore[index,call-overload]
    assert study.trials[0].user_attrs["paused"] == 1, "it waits for the strategy"
    for trial_id in "gh":
        turn(searcher, trial_id, 1, value=0.1)
    assert turn(searcher, "i", 2, value=0.9) == first | {"known_epochs": 1}
    assert study.trials[0].user_attrs["paused"] == 2


def test_what_freeze_thaw_paused_goes_on_where_the_search_does_by_halving(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    searcher = pausing_searcher_of(study)
    first, second = (turn(searcher, trial_id, 1, value=0.4) for trial_id in "ab")
    searcher = searcher_of(study, planned=3)
    for trial_id, paused in zip("cd", (first, second), strict=True):
        assert searcher.suggest(trial_id) == paused | {"known_epochs": 1}
    assert [row.status for row in read_rows(study)] == ["running"] * 2
    assert searcher.suggest("e")["trial_number"] == 2  # type: ignore[index,call-overload]


def test_once_the_epochs_are_used_up_all_trials_are_paused_and_the_search_is_over(
    tmp_path: Path,
) -> None:
    study = study_in(tmp_path)
    searcher = pausing_searcher_of(study, epoch_budget=4)
    turn(searcher, "a", 1, value=0.3)
    turn(searcher, "b", 1, value=0.3)
    turn(searcher, "c", 1, value=0.3)
    assert not searcher.is_done
    turn(searcher, "d", 2, value=0.3)
    assert searcher.suggest("e") == StudySearcher.FINISHED
    assert searcher.is_done
    assert all(is_paused(trial) for trial in study.trials)
    # A driver that dies may leave a trial running. It ends its epoch before the search does.
    study.begun_trial(0).set_user_attr("paused", None)
    searcher = pausing_searcher_of(study, epoch_budget=4)
    turn(searcher, "f", 3, value=0.4)
    assert searcher.suggest("g") == StudySearcher.FINISHED
    more = pausing_searcher_of(study, epoch_budget=8)
    assert turn(more, "h", 4, 5, value=0.5)["known_epochs"] == 3, "it goes on from where it paused"


def test_a_trial_without_a_score_is_not_paused_but_has_failed(tmp_path: Path) -> None:
    """No forecast could be made of it, so it would wait for ever."""
    study = study_in(tmp_path)
    turn(pausing_searcher_of(study), "a", 1, value=math.nan)
    (row,) = read_rows(study)
    assert (row.status, row.failure) == ("failed", "no epoch had a finite val/dice")


def test_a_finished_trial_is_worth_its_best_epoch(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    searcher = searcher_of(study, planned=1)
    searcher.suggest("a")
    *before, last = results(0.1, 0.6, 0.4, finished=True)
    for result in before:
        searcher.on_trial_result("a", result)
    end(searcher, "a", last)
    assert (study.trials[0].state, study.trials[0].value) == (TrialState.COMPLETE, 0.6)


def test_interrupted_trials_come_first_then_baselines_then_new_ones(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    first = searcher_of(study, planned=4)
    configs = [first.suggest(trial_id) for trial_id in "ab"]
    assert isinstance(configs[1], dict)
    first.on_trial_result("b", {"epoch": 1, METRIC: 0.5, "finished": False})
    study.enqueue_trial({"loss": "ce", "lr": 1e-3, "batch_size": 4})

    second = searcher_of(study, planned=4)
    again = [second.suggest(trial_id) for trial_id in "cd"]
    assert again == [configs[0], configs[1] | {"known_epochs": 1}]
    third = second.suggest("e")
    assert isinstance(third, dict)
    assert (third["trial_number"], third["config"].lr) == (2, 1e-3)
    fourth = second.suggest("f")
    assert isinstance(fourth, dict)
    assert fourth["trial_number"] == 3
    assert second.suggest("g") is None, "one that runs may break, and would be handed out again"

    # "d" was at epoch 1 and is trained from the start: the study keeps what it knew.
    for result in results(0.9, 0.7):
        second.on_trial_result("d", result)
    assert study.trials[1].intermediate_values == {1: 0.5, 2: 0.7}


def test_a_resumed_trial_with_nothing_left_to_train_is_finished(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    first = searcher_of(study, planned=1)
    first.suggest("a")
    for result in results(0.3, 0.2, finished=True):
        first.on_trial_result("a", result)
    second = searcher_of(study, planned=1)
    second.suggest("b")
    second.on_trial_complete("b", {"done": True})
    assert (study.trials[0].state, study.trials[0].value) == (TrialState.COMPLETE, 0.3)


def test_a_resumed_search_compares_with_the_values_of_interrupted_trials_that_still_wait(
    tmp_path: Path,
) -> None:
    """With less room than before, some of them are not even handed out."""
    study = study_in(tmp_path)
    first = searcher_of(study, planned=4)
    for trial_id in "abcd":
        first.suggest(trial_id)
    for trial_id, value in {"b": 0.5, "c": 0.6, "d": 0.7}.items():
        first.on_trial_result(trial_id, {"epoch": 1, METRIC: value})

    stops = resumed(study, planned=4)
    assert stops(0, 1, 0.63), "two of the three that wait were better"
    assert not stops(1, 1, 0.5), "it was judged before, and trains the epoch a second time"


@pytest.mark.parametrize("killed", [False, True])
def test_a_session_that_goes_on_decides_as_the_one_before_would_have(
    tmp_path: Path, killed: bool
) -> None:
    study = study_in(tmp_path)
    stops = resumed(study, planned=9)
    scores = [[0.1, math.nan, 0.3], [0.5, 0.5, 0.6, 0.7], [math.nan, 0.8]]
    for number, values in enumerate(scores):
        for result in results(*values):
            assert not stops(number, result["epoch"], result[METRIC])
    if killed:
        stops = resumed(study, planned=9)
    # At epoch 1 there are 0.1, 0.5 and 0.8, at epoch 3 there are 0.3 and 0.6.
    assert [stops(n, 1, value) for n, value in ((3, 0.59), (4, 0.62))] == [True, False]
    assert [stops(n, 3, value) for n, value in ((3, 0.49), (4, 0.55))] == [True, False]
    assert not stops(2, 3, 0.9) and stops(1, MAX_EPOCHS, 0.99)


def resumed(study: SearchStudy, planned: int) -> Callable[[int, int, float], bool]:
    """The decision of a new session's scheduler on a trial's epoch and score."""
    handed_out: list[str] = []
    searcher = searcher_of(study, planned)
    scheduler = StudyScheduler(searcher, why=last_chance)

    def stops(number: int, epoch: int, value: float) -> bool:
        while len(handed_out) <= number:
            handed_out.append(str(len(handed_out)))
            assert searcher.suggest(handed_out[-1])["trial_number"] == int(handed_out[-1])  # type: ignore[index,call-overload]
        trial = SimpleNamespace(trial_id=str(number), config={"trial_number": number})
        decision = scheduler.on_trial_result(None, trial, {"epoch": epoch, METRIC: value})
        return decision == StudyScheduler.STOP

    return stops


def test_a_trial_that_broke_is_handed_out_again_unless_it_was_given_up(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    searcher = searcher_of(study, planned=2)
    first, _ = searcher.suggest("a"), searcher.suggest("b")
    searcher.on_trial_result("a", {"epoch": 1, METRIC: 0.3})
    end(searcher, "b", {"epoch": 1, METRIC: 0.5, "finished": True})
    searcher.on_trial_complete("a", error=True)
    searcher.on_trial_complete("a", error=True)  # Ray tells twice
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING, TrialState.COMPLETE]

    assert isinstance(first, dict)
    assert searcher.suggest("c") == first | {"known_epochs": 1, "attempt": 2}
    assert searcher.suggest("d") is None
    searcher.give_up("c", "its worker died")
    searcher.on_trial_complete("c", error=True)
    assert searcher.suggest("e") == StudySearcher.FINISHED
    assert study.trials[0].state == TrialState.FAIL
    assert study.trials[0].user_attrs["failure"] == "its worker died"


def test_a_failure_that_was_noted_but_not_told_is_forgotten_when_the_trial_goes_on(
    tmp_path: Path,
) -> None:
    """A driver may be killed between the two."""
    study = study_in(tmp_path)
    trial = study.ask()
    trial.set_user_attr("failure", "its worker died")
    trial.set_user_attr("interrupted", True)
    assert [row.status for row in read_rows(study)] == ["interrupted"]
    searcher = searcher_of(study, planned=1)
    searcher.suggest("a")
    assert [row.status for row in read_rows(study)] == ["running"]
    end(searcher, "a", {"epoch": 1, METRIC: 0.5, "finished": True})
    (row,) = read_rows(study)
    assert (row.status, row.failure) == ("finished", None)


def test_a_score_never_stands_beside_the_interval_of_another_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver may be killed between the two. The worker then tells the epoch again."""
    study = study_in(tmp_path)
    searcher = searcher_of(study, planned=1)
    searcher.suggest("a")
    told = [
        {"epoch": epoch, METRIC: score, f"{METRIC}_low": score - 0.1, f"{METRIC}_high": score + 0.1}
        for epoch, score in ((1, 0.3), (2, 0.5))
    ]
    searcher.on_trial_result("a", told[0])
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "set_user_attr", MagicMock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            searcher.on_trial_result("a", told[1])
    searcher = searcher_of(study, planned=1)
    known = searcher.suggest("b")["known_epochs"]  # type: ignore[index,call-overload]
    for result in told[known:]:
        searcher.on_trial_result("b", result)
    (row,) = read_rows(study)
    assert (row.score, row.interval) == (0.5, (0.4, 0.6))


def test_a_space_that_raises_names_what_it_had_sampled(tmp_path: Path) -> None:
    def bad_space(trial: optuna.Trial) -> TrialConfig:
        return TrialConfig(warmup_epochs=trial.suggest_int("warmup_epochs", 60, 60))

    study = study_in(tmp_path)
    sample = Space("mylab:bad_space", bad_space, (), "").sample
    halving = Halving(study, grace_epochs=1, max_epochs=MAX_EPOCHS, reduction_factor=3)
    searcher = StudySearcher(
        study, sample, halving, metric=METRIC, planned_trials=2, finish=finish,
        capacity=lambda: 99,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"leaves nothing of max_epochs.*warmup_epochs = 60"):
        searcher.suggest("a")
    assert study.trials[0].state == TrialState.FAIL


def test_baselines_are_enqueued_once(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    for _ in range(2):
        enqueue_baselines(study, BASELINES)
        assert len(study.trials) == 2
    searcher_of(study, planned=3).suggest("a")
    enqueue_baselines(study, BASELINES)
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING, TrialState.WAITING]


def test_opening_a_study_says_what_is_there(tmp_path: Path) -> None:
    journal, sampler = tmp_path / "study.journal", optuna.samplers.RandomSampler()
    with pytest.raises(UserError, match="there is no such study"):
        open_study(journal, name="test", sampler=sampler, create=False)
    study_in(tmp_path)
    with pytest.raises(UserError, match="'test' is there already"):
        study_in(tmp_path)
    assert open_study(journal, name="renamed", sampler=sampler, create=False).study_name == "test"
    open_study(journal, name="other", sampler=sampler, create=True)
    with pytest.raises(UserError, match=r"more than one study \(test, other\)"):
        open_study(journal, name="test", sampler=sampler, create=False)


def test_a_study_that_minimises_is_refused(tmp_path: Path) -> None:
    """Its failed trials would count as its best ones."""
    journal = tmp_path / "study.journal"
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(journal))
    )
    optuna.create_study(study_name="test", storage=storage, direction="minimize")
    with pytest.raises(UserError, match="study 'test' does not maximise one score"):
        open_study(journal, name="test", create=False)


def test_a_journal_whose_last_line_was_torn_opens_and_is_written_to(tmp_path: Path) -> None:
    study_in(tmp_path).ask()
    journal = tmp_path / "study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code":4,"worker')
    study = open_study(journal, name="test", sampler=optuna.samplers.RandomSampler(), create=False)
    study.ask()
    assert len(trials_of(tmp_path)) == 2


if __name__ == "__main__":  # the driver that a test kills
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    run_search(Path(sys.argv[1]), create=True, planned=6, epoch_s=0.3, pauses="pauses" in sys.argv)
