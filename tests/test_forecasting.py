"""The Gaussian process over learning curves: gradients, algebra, and forecasts of real curves."""

import csv
import gzip
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.optimize import approx_fprime

from search.forecasting.costs import predict_seconds
from search.forecasting.curves import FAILED_Z, Scale, milestones, thin
from search.forecasting.encoding import Encoder, from_unit, to_unit
from search.forecasting.forecast import Forecast
from search.forecasting.kernel import LEVEL_VARIANCE, Hyperparameters, Points
from search.forecasting.process import LogPosterior, Posterior, fit, prior

REAL_CURVES = Path(__file__).parents[2] / "shared" / "curves" / "nnunet_baselines.csv.gz"
COLUMN_D = np.array([0, 1, 1, 2])


def some_points(n: int, rng: np.random.Generator) -> Points:
    """Of this search and two earlier ones."""
    tau_N = rng.choice(np.log([1, 2, 4, 7, 20]) / np.log(20), n)
    return Points(rng.random((n, 4)), tau_N, rng.integers(0, n // 2, n), rng.integers(0, 3, n))


def part_of(points: Points, rows: Sequence[int]) -> Points:
    x_ND, tau_N, trial_N = points.x_ND[rows], points.tau_N[rows], points.trial_N[rows]
    return Points(x_ND, tau_N, trial_N, points.task_N[rows])


def some_hyperparameters(rng: np.random.Generator) -> Hyperparameters:
    mean_H, sd_H = prior(3)
    return Hyperparameters.from_logs(mean_H + 0.5 * sd_H * rng.standard_normal(len(mean_H)))


def test_the_gradient_of_the_log_posterior_is_that_of_finite_differences() -> None:
    rng = np.random.default_rng(0)
    log_posterior = LogPosterior(some_points(25, rng), rng.standard_normal(25), COLUMN_D)
    logs_H = some_hyperparameters(rng).to_logs()
    value, slope_H = log_posterior(logs_H)
    numeric_H = approx_fprime(logs_H, lambda logs_H: log_posterior(logs_H)[0], 1e-6)
    assert math.isfinite(value)
    np.testing.assert_allclose(slope_H, numeric_H, atol=1e-3)


def dense_covariance(a: Points, b: Points, h: Hyperparameters) -> NDArray[np.float64]:
    """The formula of the docstring, point by point."""

    def matern(distance: float) -> float:
        r = math.sqrt(5) * distance
        return (1 + r + r * r / 3) * math.exp(-r)

    s, k_AB = h.scalars, np.empty((len(a), len(b)))
    for i in range(len(a)):
        for j in range(len(b)):
            lag = abs(a.tau_N[i] - b.tau_N[j])
            alike = matern(
                math.sqrt(
                    sum(
                        h.weights_P[parameter] * (a.x_ND[i, d] - b.x_ND[j, d]) ** 2
                        for d, parameter in enumerate(COLUMN_D)
                    )
                )
            )
            same_task = a.task_N[i] == b.task_N[j]
            alike *= 1 if same_task else math.exp(-s["difference"])
            same = same_task and a.trial_N[i] == b.trial_N[j] >= 0
            own = matern(lag / 0.7)
            differing = alike * (s["level"] ** 2 + s["shape"] ** 2 * own)
            differing += same * (s["trial_level"] ** 2 + s["trial_shape"] ** 2 * own)
            growth = s["growth"] ** (a.tau_N[i] + b.tau_N[j] - 2)
            k_AB[i, j] = LEVEL_VARIANCE + s["shared"] ** 2 * matern(lag / 0.4) + growth * differing
    return k_AB


def predict(
    posterior: Posterior, points: Points
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation."""
    mean_M, sd_M, _ = posterior.foresee(points, points)
    return mean_M, sd_M


def test_the_posterior_is_that_of_dense_algebra() -> None:
    rng = np.random.default_rng(1)
    seen, others, h = some_points(20, rng), some_points(9, rng), some_hyperparameters(rng)
    z_N = rng.standard_normal(20)
    k_NN = dense_covariance(seen, seen, h) + h.scalars["noise"] ** 2 * np.eye(20)
    k_MN = dense_covariance(others, seen, h)
    posterior = Posterior.of(seen, z_N, COLUMN_D, h)
    mean_M, sd_M = predict(posterior, others)
    np.testing.assert_allclose(mean_M, k_MN @ np.linalg.solve(k_NN, z_N), atol=1e-4)
    variance_M = np.diag(dense_covariance(others, others, h) - k_MN @ np.linalg.solve(k_NN, k_MN.T))
    np.testing.assert_allclose(sd_M, np.sqrt(variance_M), rtol=1e-3)
    np.testing.assert_allclose(posterior.mean_of_seen(), posterior.mean(seen), atol=1e-9)


def test_a_configuration_that_was_not_tried_shares_no_seed_with_another() -> None:
    h = some_hyperparameters(np.random.default_rng(2))
    new = Points(np.zeros((1, 4)), np.ones(1), np.array([-1]), np.array([0]))
    seen = Points(np.zeros((1, 4)), np.ones(1), np.array([0]), np.array([0]))
    posterior = Posterior.of(seen, np.ones(1), COLUMN_D, h)
    _, (again_sd, new_sd) = predict(posterior, seen + new)
    assert new_sd > again_sd


def test_what_is_fantasised_moves_no_mean_and_leaves_less_doubt() -> None:
    rng = np.random.default_rng(3)
    seen, others, h = some_points(20, rng), some_points(9, rng), some_hyperparameters(rng)
    posterior = Posterior.of(seen, rng.standard_normal(20), COLUMN_D, h)
    mean_M, sd_M = predict(posterior, others)
    first = part_of(others, [0, 1])
    fantasy_M, less_M = predict(posterior.fantasise(first), others)
    np.testing.assert_allclose(fantasy_M, mean_M, atol=1e-4)
    assert (less_M <= sd_M + 1e-9).all() and (less_M[:2] < sd_M[:2]).all()


def test_a_look_at_a_milestone_leaves_the_doubt_that_it_would_leave() -> None:
    rng = np.random.default_rng(6)
    seen, sooner, h = some_points(20, rng), some_points(9, rng), some_hyperparameters(rng)
    trial_N = np.arange(9) + 6  # some were never seen
    sooner = Points(sooner.x_ND, 0.5 * sooner.tau_N, trial_N, sooner.task_N)
    later = Points(sooner.x_ND, np.ones(9), trial_N, sooner.task_N)
    posterior = Posterior.of(seen, rng.standard_normal(20), COLUMN_D, h)
    _, sd_M, sd_then_M = posterior.foresee(sooner, later)
    for i in range(9):
        first, last = part_of(sooner, [i]), part_of(later, [i])
        _, (looked,) = predict(posterior.fantasise(first), last)
        assert looked == pytest.approx(sd_then_M[i], rel=1e-3) and looked < sd_M[i]


def test_the_fit_finds_which_parameter_matters() -> None:
    rng = np.random.default_rng(4)
    x_ND, n = rng.random((60, 4)), 60
    points = Points(x_ND, np.ones(n), np.arange(n), np.zeros(n, int))
    z_N = np.sin(5 * x_ND[:, 3]) + 0.05 * rng.standard_normal(n)
    weights_P = fit(points, z_N, COLUMN_D).weights_P
    assert weights_P[2] > 10 * weights_P[:2].max()


@pytest.mark.parametrize("are_alike", [True, False])
def test_the_fit_finds_whether_an_earlier_search_is_alike(are_alike: bool) -> None:
    rng = np.random.default_rng(5)
    x_ND, task_N = rng.random((60, 4)), np.arange(60) % 2
    sign_N = np.where((task_N == 0) | are_alike, 1, -1)
    points = Points(x_ND, np.ones(60), np.arange(60), task_N)
    z_N = sign_N * np.sin(5 * x_ND[:, 3]) + 0.05 * rng.standard_normal(60)
    h = fit(points, z_N, COLUMN_D)
    _, across = h.relation(np.array([True, False]))
    assert across > 0.8 if are_alike else across < 0.3


# Encoding


def test_numbers_and_choices_lie_where_they_should() -> None:
    encoder = Encoder(
        {
            "lr": FloatDistribution(1e-4, 1e-2, log=True),
            "loss": CategoricalDistribution(["ce", "focal"]),
            "gamma": FloatDistribution(0, 5),
        }
    )
    a, b, c = encoder.encode(
        [{"lr": 1e-3, "loss": "ce"}, {"lr": 1e-2, "loss": "focal", "gamma": 5.0}, {"lr": 1e-4}]
    )
    by_name = dict(zip(["gamma", "loss", "loss", "lr"], a, strict=True))
    assert encoder.names == ("gamma", "loss", "lr")
    assert by_name["gamma"] == 0.5 and by_name["lr"] == pytest.approx(0.5)
    loss = encoder.column_D == 1
    assert ((a - b) ** 2)[loss].sum() == pytest.approx(1)
    assert ((a - c) ** 2)[loss].sum() == pytest.approx(0.5)


@pytest.mark.parametrize(
    "distribution",
    [
        FloatDistribution(1e-5, 1e-1, log=True), FloatDistribution(-2, 3),
        FloatDistribution(0, 2, step=0.5), IntDistribution(1, 9), IntDistribution(0, 12, step=3),
        IntDistribution(16, 512, log=True),
    ],
)  # fmt: skip
def test_a_number_comes_back_from_its_place(distribution: FloatDistribution) -> None:
    for value in (distribution.low, distribution.high):
        assert from_unit(distribution, to_unit(distribution, value)) == pytest.approx(value)
    drawn = [from_unit(distribution, unit) for unit in np.linspace(0, 1, 101)]
    assert min(drawn) == distribution.low and max(drawn) == distribution.high


def test_every_step_of_a_number_is_drawn_as_often() -> None:
    distribution = IntDistribution(1, 4)
    drawn = [from_unit(distribution, (i + 0.5) / 1000) for i in range(1000)]
    assert [drawn.count(value) for value in (1, 2, 3, 4)] == [250] * 4


# Curves


def test_a_long_curve_is_thinned_to_three_smoothed_values() -> None:
    values = {epoch: float(epoch) for epoch in range(1, 51)} | {50: math.nan}
    assert thin(values) == [(1, 1.0), (25, 23.5), (49, 46.5)]
    assert thin({3: 0.5}) == [(3, 0.5)] and thin({1: math.nan}) == []


def test_scores_are_standardised_by_the_median_and_the_best() -> None:
    scale = Scale.of([0.1, 0.5, 0.9])
    z = scale.standardise(np.array([0.5, 0.9, 0.2, 0.1, -1e9]))
    assert z[:3] == pytest.approx([0, 2, -1.5])
    assert -1.5 > z[3] > z[4] >= FAILED_Z
    assert scale.restore(2.0) == pytest.approx(0.9)


def test_trials_are_judged_at_a_few_epochs() -> None:
    assert milestones(81) == (1, 2, 4, 7, 13, 23, 41, 74)
    assert milestones(1) == (1,)


def test_seconds_are_learned_from_trials() -> None:
    rng = np.random.default_rng(5)
    x_ND = rng.random((40, 3))
    seconds_N = 60 * np.exp(1.5 * x_ND[:, 0])
    predicted = predict_seconds(x_ND, seconds_N, np.array([[0.0, 0.5, 0.5], [1.0, 0.5, 0.5]]))
    assert predicted == pytest.approx([60, 60 * math.exp(1.5)], rel=0.15)
    assert predict_seconds(x_ND[:0], seconds_N[:0], x_ND) == pytest.approx(1)


# Forecasts


def begun(number: int, encoder: str, scores: Sequence[float]) -> FrozenTrial:
    trial = create_trial(
        state=TrialState.RUNNING,
        params={"encoder": encoder},
        distributions={"encoder": CategoricalDistribution(["small", "large", "attention"])},
        intermediate_values=dict(enumerate(scores, start=1)),
    )
    trial.number = number
    return trial


def test_a_forecast_remembers_what_it_fitted() -> None:
    trials = [
        begun(number, encoder, [0.1 * number, 0.2 * number])
        for number, encoder in enumerate(["small", "large", "attention", "small"])
    ]
    first = Forecast(trials, 10, np.random.default_rng(0))
    again = Forecast(trials, 10, np.random.default_rng(1), first.remembered)
    points = first.at([0, 3], [10, 10])
    np.testing.assert_allclose(predict(first.posterior, points), predict(again.posterior, points))


def test_the_first_trials_of_new_workers_do_not_make_starts_seem_slow() -> None:
    trials = [begun(number, "small", [0.1]) for number in range(5)]
    assert Forecast(trials, 10, np.random.default_rng(0)).start_seconds == 0
    for trial, seconds in zip(trials, (40.0, 44.0, 3.0, 4.0, 5.0), strict=True):
        trial.set_user_attr("started_seconds", seconds)
    assert Forecast(trials, 10, np.random.default_rng(0)).start_seconds == 5


def test_what_differs_by_less_than_the_noise_repeats_a_trial() -> None:
    rng = np.random.default_rng(7)
    trials = [
        begun(number, encoder, [score + 0.01 * rng.standard_normal()])
        for number, (encoder, score) in enumerate([("small", 0.1), ("large", 0.5)] * 6)
    ]
    forecast = Forecast(trials, 10, rng)
    proposals = forecast.encoder.encode([{"encoder": "small"}, {"encoder": "attention"}])
    assert [forecast.repeats(x_D) for x_D in proposals] == [True, False]


def test_many_trials_are_thinned_and_the_best_ones_stay() -> None:
    rng = np.random.default_rng(6)
    trials = [begun(number, "small", rng.random(3).tolist()) for number in range(300)]
    trials[7].intermediate_values[3] = 2.0
    for trial in trials:
        trial.set_user_attr("paused", 3)
    forecast = Forecast(trials, 10, rng)
    assert len(forecast.seen) == 120 and 7 in forecast.seen


def test_where_very_many_trials_run_only_the_best_and_the_current_one_count() -> None:
    rng = np.random.default_rng(6)
    trials = [begun(number, "small", rng.random(1 + number % 3).tolist()) for number in range(400)]
    trials[9].intermediate_values[1] = -1.0  # the worst of all, about which it is decided
    trials[8].intermediate_values[3] = 2.0
    forecast = Forecast(trials, 10, rng, current=9)
    assert len(forecast.seen) == 120 and {8, 9} <= set(forecast.seen)
    few = Forecast(trials[:130], 10, rng, current=9)
    assert len(few.seen) == 120 and {8, 9} <= set(few.seen)


@pytest.mark.skipif(not REAL_CURVES.is_file(), reason="real learning curves are not at hand")
def test_intervals_of_real_curves_hold_what_they_promise() -> None:
    """Of each data set's 15 trainings, 5 are cut after 3, 10 or 30 % of their 200 first epochs."""
    held = [hit for scores in real_curves().values() for hit in hits(scores)]
    assert len(held) == 150
    assert 0.8 <= np.mean(held) <= 0.98


def real_curves() -> dict[str, list[tuple[str, list[float]]]]:
    curves: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    with gzip.open(REAL_CURVES, "rt") as file:
        for row in csv.DictReader(file):
            key = (row["dataset"], row["encoder"], row["fold"])
            curves[key].append(float(row["val_mean_dice"]))
    by_data = defaultdict(list)
    encoders = dict(zip(sorted({key[1] for key in curves}), ["small", "large", "attention"],
                        strict=True))  # fmt: skip
    for (data, encoder, _), scores in curves.items():
        by_data[data].append((encoders[encoder], scores[:200]))
    return by_data


def hits(trainings: list[tuple[str, list[float]]]) -> list[bool]:
    """Whether the 90 % interval of each cut curve's end holds it."""
    found = []
    for first in range(3):
        cut = range(first, 15, 3)
        trials = [
            begun(number, encoder, scores[: (6, 20, 60)[number % 3]] if number in cut else scores)
            for number, (encoder, scores) in enumerate(trainings)
        ]
        forecast = Forecast(trials, 200, np.random.default_rng(0))
        mean_N, sd_N = predict(forecast.posterior, forecast.at(list(cut), [200] * 5))
        noise = forecast.remembered["amplitudes"]["noise"]
        truth_N = forecast.scale.standardise(
            np.array([thin(dict(enumerate(trainings[n][1], start=1)))[-1][1] for n in cut])
        )
        found += (np.abs(truth_N - mean_N) <= 1.645 * np.hypot(sd_N, noise)).tolist()
    return found
