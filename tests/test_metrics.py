import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segcore.config import IGNORE_INDEX, MetricName
from segcore.scores import counting
from segcore.scores.metrics import METRICS, Scores, metric_of_counts

Photographs = list[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Prediction and truth of each photograph."""


def score(photographs: Photographs, num_classes: int) -> Scores:
    predictions = (
        (torch.from_numpy(predicted)[None], torch.from_numpy(truth)[None], torch.tensor([i]))
        for i, (predicted, truth) in enumerate(photographs)
    )
    return counting.score(
        predictions, num_classes, [str(i) for i in range(len(photographs))], "cpu"
    )


def random_photographs(seed: int, num_classes: int, count: int = 5) -> Photographs:
    """Photographs of 8 × 12 px with ignored pixels; each lacks some classes, the last class occurs
    in no truth, and the last photograph has no labelled pixel."""
    rng = np.random.default_rng(seed)
    photographs = []
    for _ in range(count):
        classes = rng.permutation(num_classes - 1)[: rng.integers(1, num_classes)]
        truth = rng.choice(classes, (8, 12))
        predicted = np.where(
            rng.random((8, 12)) < 0.6, truth, rng.integers(0, num_classes, (8, 12))
        )
        truth[rng.random((8, 12)) < 0.2] = IGNORE_INDEX
        photographs.append((predicted, truth))
    photographs[-1][1][:] = IGNORE_INDEX
    return photographs


def brute_force(photographs: Photographs, num_classes: int) -> dict[str, float]:
    """Every score once more, as plainly as its definition reads."""

    def dice(predicted, truth, k):
        both = np.sum((predicted == k) & (truth == k))
        return 2 * both / (np.sum(predicted == k) + np.sum(truth == k))

    def iou(predicted, truth, k):
        return np.sum((predicted == k) & (truth == k)) / np.sum((predicted == k) | (truth == k))

    labelled = [(p[t != IGNORE_INDEX], t[t != IGNORE_INDEX]) for p, t in photographs]
    all_predicted = np.concatenate([p for p, _ in labelled])
    all_truth = np.concatenate([t for _, t in labelled])
    kaggle_rows = []
    for predicted, truth in labelled:
        for k in range(1, num_classes):
            if k in predicted or k in truth:
                kaggle_rows.append(dice(predicted, truth, k))
            else:
                kaggle_rows.append(1.0)
    return {
        "pixel_accuracy": np.mean(all_predicted == all_truth),
        "dice": np.mean([dice(all_predicted, all_truth, k) for k in np.unique(all_truth)]),
        "iou": np.mean([iou(all_predicted, all_truth, k) for k in np.unique(all_truth)]),
        "dice_per_image": np.mean(
            [np.mean([dice(p, t, k) for k in np.unique(t)]) for p, t in labelled if t.size]
        ),
        "dice_kaggle": np.mean(kaggle_rows),
    }


@pytest.mark.parametrize("name", METRICS)
def test_a_photograph_may_count_several_times_or_not_at_all(name: MetricName) -> None:
    counts_P3K = score(random_photographs(3, 5), 5).counts_P3K
    for times in ([2, 0, 1, 3, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 2]):
        expected = metric_of_counts(name, np.repeat(counts_P3K, times, axis=0))
        found = metric_of_counts(name, counts_P3K, np.array(times))
        assert found == pytest.approx(expected, nan_ok=True)


def test_every_metric_has_a_definition() -> None:
    assert METRICS.keys() == set(get_args(MetricName))


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_a_plain_computation(seed: int) -> None:
    photographs = random_photographs(seed, num_classes=6)
    scores = score(photographs, num_classes=6)
    expected = brute_force(photographs, num_classes=6)
    for name in METRICS:
        assert scores.metric(name) == pytest.approx(expected[name], rel=1e-12), name


def test_scores_of_two_small_photographs_computed_by_hand() -> None:
    # Four classes, "." is ignored:
    #   first   truth 0 0 1 1 .    prediction 0 1 1 1 2
    #   second  truth 2 2 2 0 0    prediction 2 2 0 0 1
    # True positive, predicted and true pixels; the 2 predicted at "." isn't counted:
    #   first   class 0: 1, 1, 2   class 1: 2, 3, 2
    #   second  class 0: 1, 2, 2   class 1: 0, 1, 0   class 2: 2, 2, 3
    first = (np.array([[0, 1, 1, 1, 2]]), np.array([[0, 0, 1, 1, IGNORE_INDEX]]))
    second = (np.array([[2, 2, 0, 0, 1]]), np.array([[2, 2, 2, 0, 0]]))
    scores = score([first, second], num_classes=4)

    # Together: class 0: 2, 3, 4; class 1: 2, 4, 2; class 2: 2, 2, 3; class 3 has nothing.
    np.testing.assert_allclose(scores.class_dice_K, [4 / 7, 4 / 6, 4 / 5, math.nan])
    np.testing.assert_allclose(scores.class_iou_K, [2 / 5, 2 / 4, 2 / 3, math.nan])
    assert scores.dice == pytest.approx((4 / 7 + 4 / 6 + 4 / 5) / 3)
    assert scores.iou == pytest.approx((2 / 5 + 2 / 4 + 2 / 3) / 3)
    assert scores.pixel_accuracy == pytest.approx(6 / 9)
    # First: classes 0 and 1: 2/3 and 4/5. Second: classes 0 and 2: 2/4 and 4/5.
    assert scores.dice_per_image == pytest.approx(((2 / 3 + 4 / 5) / 2 + (2 / 4 + 4 / 5) / 2) / 2)
    # Rows of classes 1, 2, 3. First: 4/5, 1, 1. Second: 0, 4/5, 1.
    assert scores.dice_kaggle == pytest.approx((4 / 5 + 1 + 1 + 0 + 4 / 5 + 1) / 6)
    np.testing.assert_array_equal(
        scores.confusion_KK, [[2, 2, 0, 0], [0, 2, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(scores.counts_P3K[1], [[1, 0, 2, 0], [2, 1, 2, 0], [2, 0, 3, 0]])


def test_tiles_of_a_photograph_count_as_one_photograph_in_whatever_batches_they_come() -> None:
    photographs = random_photographs(seed=1, num_classes=6)
    # Four tiles of 4 × 6 px from each of five photographs, shuffled, in batches of three.
    tiles = [
        (i, *(array[rows : rows + 4, columns : columns + 6] for array in photograph))
        for i, photograph in enumerate(photographs)
        for rows in (0, 4)
        for columns in (0, 6)
    ]
    np.random.default_rng(0).shuffle(tiles)  # type: ignore[arg-type]
    batches = []
    for start in range(0, len(tiles), 3):
        images, predicted, truth = zip(*tiles[start : start + 3], strict=True)
        classes, masks = torch.from_numpy(np.stack(predicted)), torch.from_numpy(np.stack(truth))
        batches.append((classes, masks, torch.tensor(images)))
    whole, tiled = score(photographs, 6), counting.score(batches, 6, list("abcde"), "cpu")
    np.testing.assert_array_equal(tiled.counts_P3K, whole.counts_P3K)
    np.testing.assert_array_equal(tiled.confusion_KK, whole.confusion_KK)
    assert all(tiled.metric(name) == whole.metric(name) for name in METRICS)


def test_predictions_at_ignored_pixels_change_nothing() -> None:
    photographs = random_photographs(seed=2, num_classes=6)
    others = [(np.where(t == IGNORE_INDEX, 5 - p, p), t) for p, t in photographs]
    np.testing.assert_array_equal(score(photographs, 6).counts_P3K, score(others, 6).counts_P3K)


def test_a_class_that_is_only_predicted_lowers_dice_kaggle_but_is_no_class_present() -> None:
    truth = np.zeros((1, 4), dtype=np.int64)
    scores = score([(np.array([[0, 0, 0, 1]]), truth)], num_classes=3)
    assert math.isnan(scores.class_dice_K[1])
    assert scores.dice == pytest.approx(2 * 3 / (3 + 4))
    assert scores.dice_kaggle == pytest.approx((0 + 1) / 2)


@pytest.mark.filterwarnings("error")
def test_without_a_labelled_pixel_there_is_no_score_but_dice_kaggles_empty_rows() -> None:
    nothing = np.full((2, 2), IGNORE_INDEX, dtype=np.int64)
    scores = score([(np.ones((2, 2), dtype=np.int64), nothing)], num_classes=3)
    for name in ("dice", "iou", "dice_per_image", "pixel_accuracy"):
        assert math.isnan(scores.metric(name))
    assert scores.dice_kaggle == 1


def test_scores_of_some_photographs_follow_from_the_counts() -> None:
    photographs = random_photographs(seed=3, num_classes=6)
    counts = score(photographs, 6).counts_P3K
    resample = [3, 0, 3, 1]
    expected = brute_force([photographs[i] for i in resample], 6)
    for name in METRICS:
        assert metric_of_counts(name, counts[resample]) == pytest.approx(expected[name]), name


def test_photographs_that_no_batch_brings_are_not_part_of_the_split() -> None:
    # Else photographs of the other splits would be empty rows, which dice_kaggle counts as 1.
    photographs = random_photographs(seed=4, num_classes=6)
    predictions = (
        (torch.from_numpy(predicted)[None], torch.from_numpy(truth)[None], torch.tensor([90 - i]))
        for i, (predicted, truth) in enumerate(photographs)
    )
    scores = counting.score(predictions, 6, [str(i) for i in range(100)], "cpu")
    assert scores.dice_kaggle == pytest.approx(brute_force(photographs, 6)["dice_kaggle"])
    np.testing.assert_array_equal(scores.counts_P3K, score(photographs[::-1], 6).counts_P3K)


@pytest.mark.parametrize(("predicted", "truth"), [(3, 0), (0, 3), (-1, 0), (0, -1)])
def test_a_pixel_that_is_no_class_is_an_error_and_not_a_count_elsewhere(
    predicted: int, truth: int
) -> None:
    photograph = (np.array([[0, predicted]]), np.array([[0, truth]]))
    with pytest.raises(ValueError, match=r"1 labelled pixels: .* outside 0…2"):
        score([photograph], num_classes=3)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 2, 3, IGNORE_INDEX])),
        min_size=1,
        max_size=30,
    )
)
def test_scores_lie_between_0_and_1_and_iou_below_dice(pixels: list[tuple[int, int]]) -> None:
    predicted, truth = np.array(pixels).T[:, None]
    scores = score([(predicted, truth)], num_classes=4)
    values = np.array([scores.metric(name) for name in METRICS])
    assert np.all(np.isnan(values) | ((values >= 0) & (values <= 1)))
    assert not scores.iou > scores.dice
    assert scores.confusion_KK.sum() == np.sum(truth != IGNORE_INDEX)
    # One photograph: the mean over photographs is the photograph's own.
    assert scores.dice_per_image == scores.dice or math.isnan(scores.dice)


def test_scores_of_parts_are_joined_to_those_of_the_whole() -> None:
    photographs = random_photographs(seed=3, num_classes=4, count=7)
    whole, joined = (
        score(photographs, 4),
        Scores.joined([score(photographs[:3], 4), score(photographs[3:], 4)]),
    )
    for name in METRICS:
        assert joined.metric(name) == whole.metric(name)
    np.testing.assert_array_equal(joined.confusion_KK, whole.confusion_KK)
    np.testing.assert_array_equal(joined.counts_P3K, whole.counts_P3K)
