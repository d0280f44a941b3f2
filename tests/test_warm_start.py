"""What was best in an earlier run is tried among the first of the next one."""

from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import BaseTrial, TrialState, create_trial

from search.planning.space import Space
from search.planning.warm import read_earlier
from search.runs.folder import RunFolder, RunRecord
from search.runs.options import SearchOptions
from search.runs.study import open_study
from segcore.config import TrialConfig
from segcore.errors import UserError


def function(trial: BaseTrial) -> TrialConfig:
    loss = trial.suggest_categorical("loss", ["ce", "focal"])
    gamma = {"gamma": trial.suggest_float("gamma", 0.5, 5.0)} if loss == "focal" else {}
    return TrialConfig(loss=loss, loss_kwargs=gamma, lr=trial.suggest_float("lr", 1e-4, 1e-2))


SPACE = Space("tests.test_warm_start:function", function, (), "")
RANGES = {
    "gamma": FloatDistribution(0.0, 9.0),
    "lr": FloatDistribution(1e-5, 1.0),
}


def run_of(path: Path, trials: list[tuple[float, dict[str, Any]]]) -> str:
    run = RunFolder.at(str(path))
    run.write(RunRecord("id", SearchOptions(max_epochs=4), {"data": "abc"}))
    study = open_study(path / "study.journal", name="run", create=True)
    for score, params in trials:
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED,
                params=params,
                distributions={
                    name: CategoricalDistribution([value])
                    if isinstance(value, str)
                    else RANGES[name]
                    for name, value in params.items()
                },
                intermediate_values={1: score, 2: score / 2},
            )
        )
    return str(path)


def test_the_two_best_that_the_space_can_make_are_taken(tmp_path: Path) -> None:
    address = run_of(
        tmp_path / "earlier",
        [
            (0.1, {"loss": "ce", "lr": 3e-3}),
            (0.9, {"loss": "dice", "lr": 1e-3}),  # the space has no such loss
            (0.8, {"loss": "focal", "lr": 1e-3}),  # the space asks for gamma
            (0.75, {"loss": "ce", "lr": "high"}),  # the space asks for a number
            (0.7, {"loss": "focal", "gamma": 2.0, "lr": 0.5}),
            (0.6, {"loss": "ce", "lr": 2e-3, "gamma": 1.0}),
        ],
    )
    earlier = read_earlier(address, SPACE, task=3)
    assert earlier.bests == [
        {"loss": "focal", "gamma": 2.0, "lr": 1e-2},
        {"loss": "ce", "lr": pytest.approx(2e-3)},
    ]
    best, _, worst = earlier.trials
    assert best.params == earlier.bests[0] and worst.params["lr"] == pytest.approx(3e-3)
    assert {trial.task for trial in earlier.trials} == {3}
    # Last values are 0.35, 0.3 and 0.05: the median is 0 and the best 2, after half of ln 4.
    assert best.curve == ((0, pytest.approx(16)), (0.5, pytest.approx(2)))


def test_a_run_of_another_space_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    address = run_of(tmp_path / "earlier", [(0.9, {"loss": "dice", "lr": 1e-3})])
    with pytest.raises(UserError, match="none of its 1 trials with a score has all parameters"):
        read_earlier(address, SPACE, task=1)
    with pytest.raises(UserError, match="no trial has begun"):
        read_earlier(str(tmp_path / "none"), SPACE, task=1)


def test_a_run_remembers_what_it_was_warmed_by() -> None:
    options = SearchOptions(warm_start=("/runs/a", "s3://user:secret@bucket/b"))
    again = SearchOptions.from_dict(options.to_dict())
    assert again.warm_start[0] == "/runs/a" and hash(again)
    assert "secret" not in again.warm_start[1]
