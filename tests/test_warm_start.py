"""What was best in an earlier run is tried among the first of the next one."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import BaseTrial, TrialState, create_trial

from search.forecasting.earlier import MOST_EARLIER, EarlierSearch, Tried
from search.planning.space import Space
from search.planning.warm import EarlierRun, read_earlier
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
    earlier = read_earlier(address, SPACE, 3, {})
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
    with pytest.raises(
        UserError, match="none of its 1 trials with a score has all parameters"
    ) as e:
        read_earlier(address, SPACE, 1, {})
    assert "asks for (loss is 'dice', which is no choice (1)); give a search" in str(e.value)
    with pytest.raises(UserError, match="no trial has begun"):
        read_earlier(str(tmp_path / "none"), SPACE, 1, {})


def reads(params: Mapping[str, Any], space: Callable[[BaseTrial], object] = function) -> EarlierRun:
    """A trial of these parameters alone."""
    return EarlierRun.of(1, EarlierSearch([Tried.of(params, {1: 0.5})], 4), space)


def typed(trial: BaseTrial) -> None:
    trial.suggest_categorical("batch", [4, 8])
    trial.suggest_categorical("crop", [True, False, None])
    trial.suggest_categorical("share", [0.5, 1e-3])
    trial.suggest_int("depth", 2, 5)
    trial.suggest_float("decay", 1e-6, 1e-1, log=True)


SPELLED = {"batch": "8.0", "crop": "False", "share": "0.0010", "depth": "4", "decay": "1e-3"}


def test_what_is_text_in_mlflow_becomes_the_spaces_own_values() -> None:
    (best,) = reads({**SPELLED, "of another": "program"}, typed).bests
    assert best == {
        "batch": 8, "crop": False, "share": 1e-3, "depth": 4, "decay": pytest.approx(1e-3),
    }  # fmt: skip
    assert [type(value) for value in best.values()] == [int, bool, float, int, float]
    (best,) = reads({**SPELLED, "crop": "None", "decay": "-3", "depth": "99"}, typed).bests
    assert best["crop"] is None and (best["decay"], best["depth"]) == (pytest.approx(1e-6), 5)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("decay", "nan", "decay is 'nan', which is no number"),
        ("decay", "-inf", "decay is '-inf', which is no number"),
        ("depth", "9" * 999, f"depth is '{'9' * 39}…, which is no number"),
        ("depth", "", "depth is '', which is no number"),
        ("depth", [4], "depth is [4], which is no number"),
        ("batch", "16", "batch is '16', which is no choice"),
        ("batch", {"a": 1}, "batch is {'a': 1}, which is no choice"),
        ("crop", "nothing\x1b[2J", "crop is 'nothing\\x1b[2J', which is no choice"),
    ],
)
def test_values_that_the_space_can_not_take_are_told(name: str, value: Any, reason: str) -> None:
    earlier = reads({**SPELLED, name: value}, typed)
    assert (earlier.bests, earlier.trials) == ([], [])
    assert earlier.misfits == [f"{reason} (1)"]


def test_only_the_curves_that_count_are_read() -> None:
    """From a server each takes a request."""
    read = []

    def trial(number: int) -> Tried:
        def curve() -> dict[int, float]:
            read.append(number)
            return {} if number == 997 else dict.fromkeys(range(1, 9), number / 1000)

        lr = 1e-3 * (1 + number / 1000)
        return Tried({"loss": "ce", "lr": lr}, number / 1000, number / 1000, curve)

    earlier = EarlierRun.of(1, EarlierSearch([trial(n) for n in range(1000)], None), function)
    assert read[:2] == [999, 997] and len(read) == len(set(read)) <= MOST_EARLIER
    assert len(earlier.trials) == len(read) - 1, "one has no curve any more"
    assert earlier.trials[0].curve[-1][0] == 1, "the longest curve is as long as a training"


def test_a_run_remembers_what_it_was_warmed_by() -> None:
    names = ("/runs/a", "s3://user:secret@bucket/b", "https://user:secret@lab#x", "mlflow:x")
    options = SearchOptions(warm_start=names)
    again = SearchOptions.from_dict(options.to_dict())
    assert (again.warm_start[0], again.warm_start[3]) == (names[0], names[3]) and hash(again)
    assert "secret" not in str(again.warm_start)
    with pytest.raises(
        UserError, match=r"--warm-start s3://\*\*\*@bucket/b: its password isn't kept"
    ):
        again.check_complete()
    dataclasses.replace(again, resume="/runs/b").check_complete()
