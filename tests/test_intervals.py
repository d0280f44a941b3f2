"""Intervals cover what they promise, and comparisons see what photographs share."""

import math

import numpy as np
import pytest
from scipy import stats

from segcore.config import MetricName
from segcore.scores.intervals import Resampled, bootstrap_interval, resampled_scores, resamples
from segcore.scores.metrics import METRICS, metric_of_counts


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
    return Resampled.of(counts_a, metric).may_equal(Resampled.of(counts_b, metric))


@pytest.mark.parametrize("photos", [5, 40])
def test_the_interval_of_a_mean_is_students(photos: int) -> None:
    accuracy_P = np.random.default_rng(0).normal(0.7, 0.05, photos)
    interval = bootstrap_interval(counts_of(accuracy_P), "dice_per_image", samples=20_000)
    half = stats.t.ppf(0.975, photos - 1) * accuracy_P.std(ddof=1) / math.sqrt(photos)
    assert interval.value == pytest.approx(accuracy_P.mean(), abs=1e-3)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.12)


def test_95_percent_of_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        interval = bootstrap_interval(
            counts_of(rng.normal(0.7, 0.05, 10)), "pixel_accuracy", samples=400
        )
        held += interval.low <= 0.7 <= interval.high
    assert 0.91 <= held / 300 <= 0.985


@pytest.mark.parametrize("metric", METRICS)
def test_a_resample_scores_what_its_photographs_score(metric) -> None:  # type: ignore[no-untyped-def]
    counts = random_counts(np.random.default_rng(2))
    times_SP = resamples(len(counts), 20, seed=3)
    expected = [
        metric_of_counts(metric, np.repeat(counts, times_P.astype(int), axis=0))
        for times_P in times_SP
    ]
    np.testing.assert_allclose(resampled_scores(counts, metric, times_SP), expected)


def test_a_resample_without_the_hard_rare_class_is_no_easy_one() -> None:
    counts = counts_of(np.full(20, 0.9))
    rare = np.zeros((20, 3, 1), np.int64)
    rare[0, :, 0] = (10, 100, 100)  # Dice 0.1, in one photograph only
    interval = bootstrap_interval(np.concatenate([counts, rare], axis=2), "dice")
    assert interval.value == pytest.approx((0.9 + 0.9 + 0.1) / 3)
    assert interval.high < 0.65


def test_one_photograph_says_nothing() -> None:
    interval = bootstrap_interval(counts_of(np.array([0.9])), "dice")
    assert (interval.value, interval.low, interval.high) == (0.9, 0.0, 1.0)
    assert may_be_equal(counts_of(np.array([0.9])), counts_of(np.array([0.1])), "dice")


def test_what_photographs_share_falls_out_of_a_comparison() -> None:
    rng = np.random.default_rng(4)
    difficulty_P = rng.normal(0, 0.1, 40)
    worse = counts_of(0.7 + difficulty_P)
    better = counts_of(0.72 + difficulty_P + rng.normal(0, 0.005, 40))
    alone = bootstrap_interval(better, "dice")
    both = Resampled.of(better, "dice").minus(Resampled.of(worse, "dice"))
    assert alone.low < 0.7 < alone.high  # by itself it doesn't say that it is better
    assert 0.015 < both.low < both.value < both.high < 0.025
    assert not may_be_equal(worse, better, "dice")


def test_equal_and_nearly_equal_models_are_indistinguishable() -> None:
    rng = np.random.default_rng(5)
    accuracy_P = rng.normal(0.7, 0.1, 40)
    counts = counts_of(accuracy_P)
    assert may_be_equal(counts, counts, "iou")
    assert may_be_equal(counts, counts_of(accuracy_P + rng.normal(0, 0.05, 40)), "iou")


def test_the_same_seed_gives_the_same_interval() -> None:
    counts = random_counts(np.random.default_rng(6))
    assert bootstrap_interval(counts, "iou") == bootstrap_interval(counts, "iou")
    assert bootstrap_interval(counts, "iou") != bootstrap_interval(counts, "iou", seed=1)
