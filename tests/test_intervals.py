"""Intervals cover what they promise, and comparisons see what photographs share."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.intervals import SOURCES, draw_photos, draw_skill, predict
from segcore.config import MetricName
from segcore.scores.intervals import (
    MOST_UNITS,
    Evaluation,
    Jackknife,
    SeedNoise,
    score_interval,
    scores_without_each,
    unit_numbers,
)
from segcore.scores.metrics import METRICS, Scores, metric_of_counts


def counts_of(accuracy_P: np.ndarray, pixels: int = 1000) -> np.ndarray:
    """Two classes, of which each photograph has as many pixels; errors are symmetric."""
    right = np.round(accuracy_P * pixels).astype(np.int64)
    true_positive = np.stack([right, right], axis=1)
    whole = np.full_like(true_positive, pixels)
    return np.stack([true_positive, whole, whole], axis=1)


def random_counts(rng: np.random.Generator, photos: int = 12, classes: int = 4) -> np.ndarray:
    truth = rng.integers(0, 500, (photos, classes))
    true_positive = (truth * rng.random((photos, classes))).astype(np.int64)
    predicted = true_positive + rng.integers(1, 200, (photos, classes))
    return np.stack([true_positive, predicted, truth], axis=1)


def may_be_equal(counts_a: np.ndarray, counts_b: np.ndarray, metric: MetricName) -> bool:
    return Jackknife.of(counts_a, metric).may_equal(Jackknife.of(counts_b, metric))


@pytest.mark.parametrize("photos", [5, 40])
def test_the_interval_of_a_difference_of_means_is_students(photos: int) -> None:
    rng = np.random.default_rng(0)
    a_P, b_P = (np.round(rng.uniform(0.6, 0.8, photos), 3) for _ in range(2))
    metric: MetricName = "dice_per_image"
    interval = Jackknife.of(counts_of(a_P), metric).minus(Jackknife.of(counts_of(b_P), metric))
    expected = stats.ttest_rel(a_P, b_P).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_a_score_is_computed_anew_without_each_photograph(metric: MetricName) -> None:
    counts = random_counts(np.random.default_rng(2))
    expected = [metric_of_counts(metric, np.delete(counts, p, axis=0)) for p in range(len(counts))]
    for keep in (False, True):
        found = scores_without_each(counts, metric, None, keep_classes=keep)
        np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("metric", METRICS)
def test_a_group_is_left_out_as_a_whole(metric: MetricName) -> None:
    counts = random_counts(np.random.default_rng(3))
    groups = [f"area {number % 4}" for number in range(len(counts))]
    found = scores_without_each(counts, metric, groups, keep_classes=False)
    expected = [
        metric_of_counts(metric, counts[[group != f"area {left}" for group in groups]])
        for left in range(4)
    ]
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("classes", SOURCES)
@pytest.mark.parametrize("metric", ["dice", "pixel_accuracy"])
def test_95_percent_of_intervals_hold_the_truth(classes: int, metric: MetricName) -> None:
    # The wide bounds are for the noise of 300 splits; benchmarks/intervals.py has the narrow ones.
    rng = np.random.default_rng(classes)
    photos = draw_photos(rng, classes, splits=300, units=20, unit_photos=1)
    counts_SP3K = predict(rng, draw_skill(rng, classes, 1.5), photos)
    truth = np.mean([metric_of_counts(metric, counts_P3K) for counts_P3K in counts_SP3K])
    intervals = [score_interval(counts_P3K, metric) for counts_P3K in counts_SP3K]
    held = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.915 <= held <= 0.98


def test_photographs_of_one_group_say_no_more_than_one() -> None:
    accuracy_G = np.random.default_rng(7).uniform(0.5, 0.9, 8)
    alone = score_interval(counts_of(accuracy_G), "dice")
    counts = np.repeat(counts_of(accuracy_G), 10, axis=0)
    groups = [f"area {number // 10}" for number in range(80)]
    grouped = score_interval(counts, "dice", groups)
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high))
    taken_apart = score_interval(counts, "dice")
    assert taken_apart.high - taken_apart.low < 0.4 * (alone.high - alone.low)


def test_few_units_are_a_guess_and_it_is_said() -> None:
    def caution(units: int, photos: int = 12) -> str | None:
        counts = random_counts(np.random.default_rng(8), photos)
        groups = [str(number % units) for number in range(photos)]
        return Evaluation.of(Scores.of(counts, np.zeros((4, 4), np.int64), groups)).caution

    assert caution(6) is None
    assert "rest on 5 independent groups of photographs, and 6 are needed" in caution(5)  # type: ignore
    assert "rest on 3 independent photographs" in caution(3, photos=3)  # type: ignore
    assert "rest on one group of photographs" in caution(1)  # type: ignore


def test_photographs_without_a_labelled_pixel_make_no_interval_surer() -> None:
    counts = random_counts(np.random.default_rng(8), 9)
    counts[3:] = 0
    evaluation = Evaluation.of(Scores.of(counts, np.zeros((4, 4), np.int64)))
    assert (evaluation.photos, evaluation.units) == (3, 3)
    assert "rest on 3 independent photographs" in evaluation.caution  # type: ignore


def test_few_units_tell_no_two_models_apart() -> None:
    """Even where one is better by the same on each of them."""
    better, worse = np.full(6, 0.9), np.full(6, 0.6)
    for photos, same in ((5, True), (6, False)):
        two = counts_of(better[:photos]), counts_of(worse[:photos])
        assert may_be_equal(*two, "dice") == same


def test_leaving_out_the_only_photograph_of_a_class_widens_the_interval() -> None:
    counts = counts_of(np.linspace(0.89, 0.91, 20))
    rare = np.zeros((20, 3, 1), np.int64)
    rare[0, :, 0] = (10, 100, 100)  # Dice 0.1, in one photograph only
    interval = score_interval(np.concatenate([counts, rare], axis=2), "dice")
    assert interval.value == pytest.approx((0.9 + 0.9 + 0.1) / 3, abs=1e-3)
    assert interval.high > 0.9, "on another split it may be missing"


def test_one_photograph_says_nothing() -> None:
    interval = score_interval(counts_of(np.array([0.9])), "dice")
    assert (interval.value, interval.low, interval.high) == (0.9, 0.0, 1.0)
    assert may_be_equal(counts_of(np.array([0.9])), counts_of(np.array([0.1])), "dice")


@pytest.mark.parametrize("accuracy_P", [[0.0] * 8, [1.0] * 8, [0.0] * 7 + [0.4], [1.0] * 7 + [0.6]])
@pytest.mark.parametrize("metric", METRICS)
def test_an_interval_stays_within_0_and_1(metric: MetricName, accuracy_P: list[float]) -> None:
    interval = score_interval(counts_of(np.array(accuracy_P)), metric)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_photographs_without_a_labelled_pixel_change_nothing() -> None:
    counts = random_counts(np.random.default_rng(9))
    more = np.concatenate([counts, np.zeros_like(counts)])
    for metric in set(METRICS) - {"dice_kaggle"}:
        assert score_interval(more, metric) == score_interval(counts, metric)  # type: ignore
    nothing = score_interval(np.zeros_like(counts), "dice")
    assert math.isnan(nothing.value) and math.isnan(nothing.low)


def test_very_many_photographs_are_dealt_out_to_fewer_hands() -> None:
    rng = np.random.default_rng(10)
    accuracy_P = rng.uniform(0.4, 0.9, 3 * MOST_UNITS)
    interval = score_interval(counts_of(accuracy_P), "dice_per_image")
    half = 1.96 * accuracy_P.std() / math.sqrt(len(accuracy_P))
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)
    assert len(Jackknife.of(counts_of(accuracy_P), "dice").score_U) == MOST_UNITS
    assert unit_numbers(["b", "a", "b"]).tolist() == [1, 0, 1]


def test_what_photographs_share_falls_out_of_a_comparison() -> None:
    rng = np.random.default_rng(4)
    difficulty_P = rng.normal(0, 0.1, 40)
    worse = counts_of(0.7 + difficulty_P)
    better = counts_of(0.72 + difficulty_P + rng.normal(0, 0.005, 40))
    alone = score_interval(better, "dice")
    both = Jackknife.of(better, "dice").minus(Jackknife.of(worse, "dice"))
    assert alone.low < 0.7 < alone.high  # by itself it doesn't say that it is better
    assert 0.015 < both.low < both.value < both.high < 0.025
    assert not may_be_equal(worse, better, "dice")


def test_equal_and_nearly_equal_models_are_indistinguishable() -> None:
    rng = np.random.default_rng(5)
    accuracy_P = rng.normal(0.7, 0.1, 40)
    counts = counts_of(accuracy_P)
    assert may_be_equal(counts, counts, "iou")
    assert may_be_equal(counts, counts_of(accuracy_P + rng.normal(0, 0.05, 40)), "iou")


def test_seed_noise_is_the_deviation_within_configurations() -> None:
    rng = np.random.default_rng(6)
    scores = [rng.normal(mean, 0.02, 3) for mean in rng.uniform(0.3, 0.7, 2000)]
    noise = SeedNoise.pooled([*scores, [0.9]])
    assert noise is not None and noise.freedom == 4000
    assert noise.deviation == pytest.approx(0.02, rel=0.03)
    assert noise.half_width == pytest.approx(1.96 * math.sqrt(2) * noise.deviation, rel=1e-3)
    few = SeedNoise.pooled([[0.5, 0.52]])
    assert few is not None and few.deviation == pytest.approx(0.02 / math.sqrt(2))
    assert few.half_width == pytest.approx(12.7 * 0.02, rel=0.01), "two say nearly nothing"
    assert SeedNoise.pooled([[0.5], []]) is None


def test_a_difference_that_another_seed_may_make_tells_nothing() -> None:
    """95 % of the intervals of equal configurations hold 0, each trained with one seed."""
    rng, held, narrow = np.random.default_rng(7), 0, 0
    for _ in range(400):
        difficulty_P, seeds = rng.normal(0.7, 0.1, 40), rng.normal(0, 0.02, 2)
        ours, theirs = (
            Jackknife.of(counts_of(difficulty_P + seed + rng.normal(0, 0.05, 40)), "dice_per_image")
            for seed in seeds
        )
        noise = SeedNoise.pooled(rng.normal(0, 0.02, (4, 3)))
        held += ours.may_equal(theirs, noise)
        narrow += ours.may_equal(theirs)
    assert 0.93 <= held / 400 <= 0.99
    assert narrow / 400 < 0.7
