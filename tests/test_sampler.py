"""The sampler keeps Optuna's contracts, and compares trials at the same epoch only."""

import math
import time
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)
from optuna.trial import FrozenTrial, TrialState

from search.planning.sampler import RungTPESampler, value_at


class TestOptunaContracts(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    """Optuna's own tests for samplers, every one that applies to a single objective."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: RungTPESampler([1, 3, 9], min_observations=1)


class TestOptunaContractsWithDefaults(BasicSamplerTestCase, SingleOnlySamplerTestCase):
    """Without the relative tests: those want a model after one trial."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: RungTPESampler([1, 3, 9])


def test_a_trial_counts_at_the_rungs_that_it_reached() -> None:
    stopped = past_trial(0, {1: 0.1, 2: 0.2, 3: 0.3}, TrialState.PRUNED)
    assert [value_at(stopped, rung) for rung in (1, 3, 9)] == [0.1, 0.3, None]


def test_a_hole_in_the_values_is_filled_by_the_next_epoch_as_in_rays_scheduler() -> None:
    trial = past_trial(0, {1: 0.1, 2: math.nan, 4: 0.4}, TrialState.PRUNED)
    assert [value_at(trial, rung) for rung in (2, 3)] == [0.4, 0.4]


def test_a_training_that_ended_by_itself_counts_from_then_on_with_its_final_value() -> None:
    finished = past_trial(0, {1: 0.1, 2: 0.7, 3: 0.6}, TrialState.COMPLETE, value=0.7)
    assert [value_at(finished, rung) for rung in (1, 3, 9)] == [0.1, 0.7, 0.7]


def test_a_trial_without_intermediate_values_counts_with_its_final_value() -> None:
    assert value_at(past_trial(0, {}, TrialState.COMPLETE, value=0.5), 9) == 0.5
    assert value_at(past_trial(0, {}, TrialState.PRUNED), 9) is None


def test_what_the_model_is_fitted_on_is_the_largest_rung_with_enough_trials() -> None:
    trials = [past_trial(number, {1: 0.1, 3: 0.3}, TrialState.PRUNED) for number in range(3)]
    trials += [past_trial(3, {1: 0.2}, TrialState.PRUNED), past_trial(4, {1: 0.4}, TrialState.FAIL)]
    study = study_with(trials, RungTPESampler([1, 3, 9], min_observations=3))
    failed = {4: -math.inf}
    assert fitted_values(study) == {0: 0.3, 1: 0.3, 2: 0.3} | failed
    study.sampler = RungTPESampler([1, 3, 9], min_observations=4)
    assert fitted_values(study) == {0: 0.1, 1: 0.1, 2: 0.1, 3: 0.2} | failed
    study.sampler = RungTPESampler([1, 3, 9], min_observations=5)
    assert fitted_values(study) == {}


def test_the_start_is_random_until_enough_trials_reached_the_lowest_rung() -> None:
    trials = [past_trial(number, {1: 0.1, 3: 0.3}, TrialState.PRUNED) for number in range(5)]
    study = study_with(trials, RungTPESampler([1, 3], n_startup_trials=6))
    assert fitted_values(study) == {}
    study.add_trial(past_trial(5, {1: 0.2}, TrialState.PRUNED))
    assert fitted_values(study) == dict.fromkeys(range(5), 0.3)


def test_enough_is_one_more_than_the_parameters_of_the_largest_trial() -> None:
    trials = [past_trial(number, {1: 0.1}, TrialState.PRUNED) for number in range(2)]
    study = study_with(trials, RungTPESampler([1]))
    assert fitted_values(study) == {}  # two parameters want three trials
    study.add_trial(past_trial(2, {1: 0.1}, TrialState.PRUNED))
    assert len(fitted_values(study)) == 3


def test_a_running_trial_is_an_observation_where_it_has_been_and_a_liar_beyond() -> None:
    sampler = RungTPESampler([1, 3], min_observations=1)
    study = study_with([], sampler)
    trial = study.ask({"x": FloatDistribution(0, 1)})
    trial.report(0.5, 1)
    observed = sampler.observations(study)
    assert [(t.state, t.value) for t in observed] == [(TrialState.COMPLETE, 0.5)]
    study.add_trial(past_trial(1, {1: 0.1, 3: 0.3}, TrialState.PRUNED))
    assert {t.number: t.state for t in sampler.observations(study)} == {
        0: TrialState.RUNNING,
        1: TrialState.COMPLETE,
    }
    assert study.trials[0].state == TrialState.RUNNING  # the study itself is left alone


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_failed_trial_is_worse_than_all_others_in_either_direction(direction: str) -> None:
    trials = [past_trial(number, {1: 0.1}, TrialState.PRUNED) for number in range(3)]
    trials.append(past_trial(3, {}, TrialState.FAIL))
    sampler = RungTPESampler([1], min_observations=3)
    study = optuna.create_study(direction=direction, sampler=sampler)
    study.add_trials(trials)
    worst = -math.inf if direction == "maximize" else math.inf
    assert {t.number: t.value for t in sampler.observations(study)}[3] == worst


def test_what_was_drawn_for_a_running_trial_is_avoided_in_all_branches() -> None:
    """TPE notes in the study what it drew, also where the space then took another branch."""
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(
        storage=storage,
        direction="maximize",
        sampler=RungTPESampler([1], min_observations=1, storage=storage),
    )
    study.add_trials([past_trial(n, {1: 0.1 * n}, TrialState.PRUNED) for n in range(4)])
    asked = study.ask({"lr": FloatDistribution(0, 1)})
    assert list(asked.params) == ["lr"]
    noted = "".join(map(str, study.trials[-1].system_attrs.values()))
    assert '"lr"' in noted and '"kind"' in noted


def test_a_region_where_trials_fail_is_avoided() -> None:
    space = {"network": CategoricalDistribution(["small", "huge"]), "x": FloatDistribution(0, 1)}
    study = optuna.create_study(direction="maximize", sampler=RungTPESampler([1], seed=0))
    for number in range(40):
        huge = number % 2 == 1
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.FAIL if huge else TrialState.PRUNED,
                params={"network": "huge" if huge else "small", "x": number / 40},
                distributions=space,
                intermediate_values={} if huge else {1: number / 40},
            )
        )
    asked = [study.ask(space).params["network"] for _ in range(20)]
    assert asked.count("small") >= 17


def test_slow_starters_are_sampled_where_stock_tpe_avoids_them() -> None:
    # "slow" is behind at epoch 1, where most trials are stopped, and far ahead at epoch 9.
    trials = []
    for number in range(60):
        kind = "slow" if number % 2 else "fast"
        lr = 0.1 + 0.8 * (number % 10) / 10
        values = {1: 0.1, 9: 0.8 + 0.001 * number} if kind == "slow" else {1: 0.5, 9: 0.6}
        if number % 3:
            trials.append(past_trial(number, {1: values[1]}, TrialState.PRUNED, kind, lr))
        else:
            trials.append(past_trial(number, values, TrialState.COMPLETE, kind, lr, values[9]))
    space = {"kind": CategoricalDistribution(["fast", "slow"]), "lr": FloatDistribution(0, 1)}
    study = study_with(trials, RungTPESampler([1, 9], seed=0))
    kinds = [study.ask(space).params["kind"] for _ in range(20)]
    assert kinds.count("slow") >= 15


def test_the_same_seed_samples_the_same() -> None:
    def params() -> list[dict[str, Any]]:
        trials = [past_trial(n, {1: 0.01 * n}, TrialState.PRUNED, lr=n / 20) for n in range(20)]
        study = study_with(trials, RungTPESampler([1, 3], seed=7))
        return [study.ask({"lr": FloatDistribution(0, 1)}).params for _ in range(5)]

    assert params() == params()


def test_a_thousand_past_trials_slow_asking_little_more_than_they_slow_tpe() -> None:
    space = {f"x{i}": FloatDistribution(0, 1) for i in range(8)}
    rung_tpe = RungTPESampler([3, 9, 27], seed=0)
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        tpe = optuna.samplers.TPESampler(seed=0, group=True)
    seconds = {}
    for name, sampler in {"ours": rung_tpe, "stock": tpe}.items():
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for number in range(1000):
            last = 27 if number % 9 == 0 else 9 if number % 3 == 0 else 3
            study.add_trial(
                optuna.trial.create_trial(
                    params={key: (number * (i + 1) % 97) / 97 for i, key in enumerate(space)},
                    distributions=dict(space),
                    intermediate_values={epoch: epoch / 27 for epoch in range(1, last + 1)},
                    value=last / 27,
                    state=TrialState.COMPLETE if last == 27 else TrialState.PRUNED,
                )
            )
        study.ask(space)
        start = time.perf_counter()
        for _ in range(5):
            study.ask(space)
        seconds[name] = (time.perf_counter() - start) / 5
    assert seconds["ours"] < 2 * seconds["stock"] + 0.02, seconds


def past_trial(
    number: int,
    values: dict[int, float],
    state: TrialState,
    kind: str = "fast",
    lr: float = 0.5,
    value: float | None = None,
) -> FrozenTrial:
    trial = optuna.trial.create_trial(
        params={"kind": kind, "lr": lr},
        distributions={
            "kind": CategoricalDistribution(["fast", "slow"]),
            "lr": FloatDistribution(0, 1),
        },
        intermediate_values=values,
        value=value,
        state=state,
    )
    trial.number = number
    return trial


def study_with(trials: list[FrozenTrial], sampler: BaseSampler) -> optuna.Study:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(trials)
    return study


def fitted_values(study: optuna.Study) -> dict[int, float]:
    assert isinstance(study.sampler, RungTPESampler)
    observed = study.sampler.observations(study)
    done = [trial for trial in observed if trial.state == TrialState.COMPLETE]
    return {trial.number: trial.value for trial in done if trial.value is not None}
