"""What freeze-thaw decides, on studies whose best answer anybody can see."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import BaseTrial, FrozenTrial, TrialState, create_trial
from scipy.stats import norm

from search.forecasting.earlier import EARLIER, Tried, earlier_trials
from search.forecasting.proposals import draw
from search.planning.freeze_thaw import FreezeThaw, log_rate
from search.planning.strategy import Resume, Start
from search.runs.study import open_study

MAX_EPOCHS = 20


def space(trial: BaseTrial) -> float:
    if trial.suggest_categorical("network", ["plain", "tuned"]) == "tuned":
        trial.suggest_float("momentum", 0.0, 1.0)
    return trial.suggest_float("lr", 0.0, 1.0)


DISTRIBUTIONS = {
    "network": CategoricalDistribution(["plain", "tuned"]),
    "momentum": FloatDistribution(0.0, 1.0),
    "lr": FloatDistribution(0.0, 1.0),
}


def begun(
    params: dict[str, Any], scores: Sequence[float], **attributes: float | None
) -> FrozenTrial:
    """A trial that is paused after these scores, unless the attributes say otherwise."""
    return create_trial(
        state=TrialState.RUNNING,
        params=params,
        distributions={name: DISTRIBUTIONS[name] for name in params},
        intermediate_values=dict(enumerate(scores, start=1)),
        user_attrs={"paused": len(scores), "epoch_seconds": 60.0, "started_seconds": 20.0}
        | attributes,
    )


def plain(lr: float) -> dict[str, Any]:
    return {"network": "plain", "lr": float(lr)}


def rising(top: float, epochs: int, rate: float = 0.5) -> list[float]:
    """A curve with a little noise, always the same."""
    noise_T = 0.005 * np.random.default_rng(epochs).standard_normal(epochs)
    return [top * (1 - rate ** (epoch + 1)) + noise_T[epoch] for epoch in range(epochs)]


def study_of(trials: Sequence[FrozenTrial]) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    return study


def poor_trials(n: int, rng: np.random.Generator) -> list[FrozenTrial]:
    """Whatever the parameters, they come to little."""
    drawn = [dict(draw(space, rng).params) for _ in range(n)]
    return [
        begun(params, rising(rng.uniform(0.2, 0.4), (1, 2, 4, 7, 13)[i % 5], rng.uniform(0.4, 0.6)))
        for i, params in enumerate(drawn)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_a_clearly_best_curve_is_continued_and_a_clearly_bad_one_is_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    poor = poor_trials(20, rng)
    best = study_of([*poor, begun(plain(0.5), rising(0.8, 4), paused=None)])
    assert FreezeThaw(best, space, max_epochs=MAX_EPOCHS, seed=seed).goes_on(20, 4)
    promising = begun(plain(0.5), rising(0.8, 4))
    bad = study_of([*poor, promising, begun(plain(0.9), rising(0.1, 4), paused=None)])
    assert not FreezeThaw(bad, space, max_epochs=MAX_EPOCHS, seed=seed).goes_on(21, 4)


def test_a_free_worker_resumes_a_clearly_best_trial() -> None:
    rng = np.random.default_rng(0)
    trials = [*poor_trials(20, rng), begun(plain(0.5), rising(0.8, 7))]
    answers = [
        FreezeThaw(study_of(trials), space, max_epochs=MAX_EPOCHS, seed=seed).next()
        for seed in range(5)
    ]
    assert answers.count(Resume(20)) >= 3
    assert all(isinstance(answer, Start) or answer == Resume(20) for answer in answers)


def test_a_trial_that_runs_or_ended_is_never_resumed() -> None:
    rng = np.random.default_rng(0)
    ended = create_trial(
        state=TrialState.COMPLETE, value=0.9, params=plain(0.5),
        distributions={name: DISTRIBUTIONS[name] for name in plain(0.5)},
        intermediate_values=dict(enumerate(rising(0.9, MAX_EPOCHS), start=1)),
    )  # fmt: skip
    running = begun(plain(0.5), rising(0.8, 7), paused=None)
    for seed in range(5):
        study = study_of([*poor_trials(12, rng), running, ended])
        answer = FreezeThaw(study, space, max_epochs=MAX_EPOCHS, seed=seed).next()
        assert answer not in (Resume(12), Resume(13))


def test_the_study_on_disk_gives_the_same_decisions_as_the_one_that_was_killed(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(1)
    study = open_study(tmp_path / "study.journal", name="run", create=True)
    study.add_trials([*poor_trials(10, rng), begun(plain(0.5), rising(0.6, 2), paused=None)])
    searched = FreezeThaw(study, space, max_epochs=MAX_EPOCHS, seed=3)
    goes_on, answer = searched.goes_on(10, 2), searched.next()
    reread = open_study(tmp_path / "study.journal", name="run", create=False)
    resumed = FreezeThaw(reread, space, max_epochs=MAX_EPOCHS, seed=3)
    assert (resumed.goes_on(10, 2), resumed.next()) == (goes_on, answer)


def test_baselines_come_first_then_random_trials_of_one_epoch() -> None:
    study = study_of([])
    baseline = {"network": "tuned", "momentum": 0.9, "lr": 0.1}
    study.enqueue_trial(baseline)
    searched = FreezeThaw(study, space, max_epochs=MAX_EPOCHS, first_trials=4)
    assert searched.next() == Start(None)
    first = study.ask()
    space(first)
    assert first.params == baseline
    drawn = []
    for _ in range(3):
        answer = searched.next()
        assert isinstance(answer, Start) and answer.params is not None
        study.enqueue_trial(dict(answer.params))
        trial = study.ask()
        space(trial)
        assert trial.params == answer.params
        trial.report(0.5, 1)
        drawn.append(answer.params)
        assert searched.goes_on(trial.number, 1) is False or len(drawn) == 3
    assert len({tuple(params.values()) for params in drawn}) == 3


def test_a_look_costs_little_where_it_tells_what_becomes_of_a_trial() -> None:
    chance = 0.01
    threshold_z = float(norm.isf(chance))
    mean, sd, first_s, rest_s = np.zeros(3), np.ones(3), np.full(3, 1.0), np.full(3, 49.0)
    sd_then = np.array([1.0, 0.1, 0.6])  # nothing is told, nearly all, a part
    rates = np.exp(log_rate((mean, sd, sd_then), threshold_z, first_s, rest_s))
    assert rates[0] == pytest.approx(chance / 50, rel=0.01), "all seconds are spent on each"
    assert rates[1] == pytest.approx(chance / (1 + 49 * chance), rel=0.15), "only on the good ones"
    rng = np.random.default_rng(0)
    told = 0.8 * rng.standard_normal(400_000)
    ends = told + 0.6 * rng.standard_normal(len(told))
    tried = [
        np.mean((told > bar) & (ends > threshold_z)) / (1 + 49 * np.mean(told > bar))
        for bar in np.linspace(-1, 2.5, 30)
    ]
    assert rates[2] == pytest.approx(max(tried), rel=0.05)


def test_what_an_earlier_search_learnt_counts_where_nothing_speaks_against_it() -> None:
    """It was best where lr is 0.8; here nothing is known but first epochs near 0, all alike."""
    lrs = np.linspace(0, 1, 30)
    ended = sorted((Tried.of(plain(lr), {20: float(1 - (lr - 0.8) ** 2)}) for lr in lrs),
                   key=lambda trial: -trial.best)  # fmt: skip
    here = [begun(plain(0.02 * i), [(0.1, 0.11, 0.12)[i % 3]]) for i in range(8)]
    begun_near = {0: 0, len(ended): 0}
    for seed in range(6):
        for trials in ([], ended):
            study = study_of(here)
            earlier = [trial.to_dict() for trial in earlier_trials(1, trials, MAX_EPOCHS)]
            study.set_user_attr(EARLIER, earlier)
            answer = FreezeThaw(study, space, max_epochs=MAX_EPOCHS, seed=seed).next()
            if isinstance(answer, Start) and answer.params is not None:
                begun_near[len(trials)] += abs(answer.params["lr"] - 0.8) < 0.1
    assert begun_near == {0: 0, len(ended): 6}


def test_trials_that_failed_keep_others_away() -> None:
    rng = np.random.default_rng(2)
    params = [dict(draw(space, rng).params) for _ in range(30)]
    trials = [begun(p, [0.5 + 0.01 * rng.random()], paused=None) for p in params if p["lr"] < 0.5]
    trials += [
        create_trial(state=TrialState.FAIL, params=p,
                     distributions={name: DISTRIBUTIONS[name] for name in p})
        for p in params if p["lr"] >= 0.5
    ]  # fmt: skip
    answers = [
        FreezeThaw(study_of(trials), space, max_epochs=MAX_EPOCHS, seed=seed).next()
        for seed in range(12)
    ]
    rates = [answer.params["lr"] for answer in answers if isinstance(answer, Start)]
    assert np.mean(np.array(rates) < 0.5) >= 0.8


def test_nothing_is_begun_that_can_not_be_trained_in_the_time_left() -> None:
    rng = np.random.default_rng(3)
    slow = [begun(plain(lr), [0.5 + 0.1 * float(lr)], epoch_seconds=600.0) for lr in rng.random(9)]
    trials = [*slow, begun(plain(0.5), rising(0.5, MAX_EPOCHS - 2))]
    for seed in range(4):
        searched = FreezeThaw(
            study_of(trials), space, max_epochs=MAX_EPOCHS, seed=seed, seconds_left=lambda: 90.0
        )
        assert searched.next() == Resume(9)


def test_of_many_trials_on_one_plateau_none_is_trained_on_for_an_improvement_within_the_noise() -> (
    None
):
    rng = np.random.default_rng(5)

    def flat(epochs: int) -> list[float]:
        return (0.3 + 0.005 * rng.standard_normal(epochs)).tolist()

    trials = [begun(plain(rng.random()), flat(13)) for _ in range(12)]
    trials += [begun(plain(rng.random()), [0.1 * rng.random()]) for _ in range(12)]
    answers = [
        FreezeThaw(study_of(trials), space, max_epochs=MAX_EPOCHS, seed=seed).next()
        for seed in range(10)
    ]
    assert sum(isinstance(answer, Start) for answer in answers) >= 8


def test_the_best_trial_is_trained_to_the_end_while_there_is_just_time_for_it() -> None:
    """Also a slow one, while others would have time for much."""
    rng = np.random.default_rng(6)
    slow = begun(plain(0.5), rising(0.5, 7, 0.8), epoch_seconds=600.0)
    trials = [*poor_trials(20, rng), slow]
    rest_s = 20.0 + (MAX_EPOCHS - 7) * 600.0  # its start, and the epochs that it lacks

    def resumed(seconds_left: float) -> int:
        answers = [
            FreezeThaw(
                study_of(trials), space, max_epochs=MAX_EPOCHS, seed=seed,
                seconds_left=lambda: seconds_left,
            ).next()
            for seed in range(5)
        ]  # fmt: skip
        return answers.count(Resume(20))

    assert resumed(1.2 * rest_s) == 5
    assert resumed(3 * rest_s) < 5, "there will be time for it later"


def test_four_workers_that_are_free_at_once_begin_four_different_configurations() -> None:
    rng = np.random.default_rng(7)
    study = study_of(poor_trials(20, rng))
    searched = FreezeThaw(study, space, max_epochs=MAX_EPOCHS, seed=1)
    begun_now = []
    while len(begun_now) < 4:
        answer = searched.next()
        if isinstance(answer, Resume):
            study._storage.set_trial_user_attr(
                study.trials[answer.number]._trial_id, "paused", None
            )
            continue
        study.enqueue_trial(dict(answer.params or {}))
        trial = study.ask()
        space(trial)
        begun_now.append(tuple(trial.params.values()))
    rates = [params[-1] for params in begun_now]
    assert min(abs(a - b) for i, a in enumerate(rates) for b in rates[:i]) > 1e-6


def test_a_study_without_any_score_goes_on_with_random_trials() -> None:
    trials = [begun(plain(0.1), []) for _ in range(12)]
    assert isinstance(FreezeThaw(study_of(trials), space, max_epochs=MAX_EPOCHS).next(), Start)


def test_a_decision_among_200_trials_takes_a_fifth_of_a_second_of_one_core() -> None:
    rng = np.random.default_rng(4)

    def wide(trial: BaseTrial) -> None:
        space(trial)
        for i in range(13):
            trial.suggest_float(f"x{i}", 1e-5, 1.0, log=True)

    proposals = [draw(wide, rng) for _ in range(200)]
    trials = [
        create_trial(
            state=TrialState.RUNNING,
            params=dict(proposal.params),
            distributions=dict(proposal.distributions),
            intermediate_values=dict(enumerate(rising(rng.random(), 1 + i % 13), start=1)),
            user_attrs={"paused": 1 + i % 13, "epoch_seconds": 60.0, "started_seconds": 20.0},
        )
        for i, proposal in enumerate(proposals)
    ]
    searched = FreezeThaw(study_of(trials), wide, max_epochs=MAX_EPOCHS)
    searched.next()  # the first one fits hyperparameters
    seconds = []
    for _ in range(3):
        began = time.thread_time()
        searched.next()
        seconds.append(time.thread_time() - began)
    assert min(seconds) < 0.2
