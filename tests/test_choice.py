"""Which model is taken: the one that scores best, or a cheaper one that may well be as good."""

import dataclasses
import itertools
import math
import re

import numpy as np
import pytest

from search.ensembles.drafts import Draft
from search.ensembles.models import Model
from search.ensembles.reasons import reason
from search.runs.result import Cost, WeightedTrial
from segcore.choosing.choice import choose
from segcore.choosing.factors import TRIED, Contest, fit_factors
from segcore.choosing.left_out import Bags, Difference, LeftOut
from segcore.choosing.pool import REACH, WHOLE, Pool, draw_pixels
from segcore.choosing.selection import propose
from segcore.config import IGNORE_INDEX, MetricName, Prefer
from segcore.scores.metrics import METRICS, metric_of_counts

PHOTOS = 30


def scoring(score: float, spread: float, *, units: int = PHOTOS) -> LeftOut:
    """A model whose accuracy is about ``score`` on each photograph of 1,000 pixels."""
    rng = np.random.default_rng(int(1e6 * spread))
    right_P = np.round(1000 * (score + spread * rng.permutation(np.linspace(-1, 1, PHOTOS))))
    counts_P3K = np.zeros((PHOTOS, 3, 2))
    counts_P3K[:, 0, 0], counts_P3K[:, 1:, 0] = right_P, 1000
    unit_P = tuple(str(photo * units // PHOTOS) for photo in range(PHOTOS))
    return LeftOut(tuple(range(PHOTOS)), unit_P, counts_P3K, counts_P3K)


def taken(models: list[LeftOut], costs: list[float]) -> list[int]:
    """The places of those that each preference takes."""
    wishes = ("accuracy", "balance", "speed")
    return [choose(models, costs, "pixel_accuracy", wish).taken for wish in wishes]


def test_the_error_of_a_difference_is_that_of_a_mean_of_differences() -> None:
    ours, theirs = scoring(0.8, 0.05), scoring(0.7, 0.1)
    difference = ours.minus(theirs, "pixel_accuracy")
    each_P = (ours.counts_P3K[:, 0, 0] - theirs.counts_P3K[:, 0, 0]) / 1000
    assert difference.value == pytest.approx(each_P.mean())
    assert difference.error == pytest.approx(each_P.std(ddof=1) / math.sqrt(PHOTOS))
    counts_P3K = theirs.counts_P3K[10:]
    half = LeftOut(theirs.photos[10:], theirs.units[10:], counts_P3K, counts_P3K)
    assert ours.minus(half, "pixel_accuracy").value == pytest.approx(each_P[10:].mean())


def test_a_mean_over_bags_is_no_surer_than_the_models_that_are_compared() -> None:
    """Of each photograph bags made something else: their mean hardly varies, each model does."""
    ours, theirs = scoring(0.8, 0.05), scoring(0.7, 0.1)
    smooth = dataclasses.replace(ours, counts_P3K=ours.counts_P3K.mean(axis=0, keepdims=True))
    smooth = dataclasses.replace(smooth, counts_P3K=np.repeat(smooth.counts_P3K, PHOTOS, axis=0))
    found, whole = smooth.minus(theirs, "pixel_accuracy"), ours.minus(theirs, "pixel_accuracy")
    assert found.value == pytest.approx(whole.value) and found.error == whole.error


def test_groups_that_are_alike_make_a_difference_less_sure() -> None:
    ours, theirs = np.zeros((12, 3, 1)), np.zeros((12, 3, 1))
    ours[:, 1:] = theirs[:, 1:] = 1000
    ours[:, 0, 0] = np.repeat([900, 500, 700, 900, 500, 700], 2)
    theirs[:, 0, 0] = 600

    def difference(units: list[str]) -> Difference:
        better, worse = (LeftOut(tuple(range(12)), tuple(units), c, c) for c in (ours, theirs))
        return better.minus(worse, "pixel_accuracy")

    alone, groups = (difference([str(p // size) for p in range(12)]) for size in (1, 2))
    assert groups.value == alone.value and groups.error > 1.3 * alone.error


def test_the_cheapest_model_within_the_error_of_the_best_is_taken() -> None:
    # Differences of 0.03 and 0.07, each with an error of about 0.02, and costs of 1, 2 and 8.
    models = [scoring(0.63, 0.1), scoring(0.69, 0.05), scoring(0.70, 0.2)]
    errors = [models[2].minus(one, "pixel_accuracy").error for one in models]
    assert 0.018 < errors[0] < 0.03 and 0.018 < errors[1] < 0.03
    assert taken(models, [1.0, 2.0, 8.0]) == [2, 1, 1]
    assert taken([scoring(0.66, 0.1), *models[1:]], [1.0, 2.0, 8.0]) == [2, 1, 0]
    assert taken(models, [9.0, 8.4, 8.0]) == [2, 1, 1], "within a tenth costs count as equal"


def test_where_photographs_are_too_few_the_plainest_is_taken() -> None:
    models = [scoring(0.6, 0.1, units=5), scoring(0.9, 0.1, units=5)]
    assert taken(models, [2.0, 1.0]) == [1, 0, 0]
    assert not choose(models, [2.0, 1.0], "pixel_accuracy", "balance").can_tell


def test_the_winners_luck_is_no_part_of_what_is_promised() -> None:
    """Of models that are equally good, the best one is only the luckiest."""
    rng, promised, apparent = np.random.default_rng(5), [], []
    for _ in range(40):
        right_MP = 700 + np.round(rng.normal(0, 60, (8, PHOTOS)))
        models = []
        for right_P in right_MP:
            counts_P3K = np.full((PHOTOS, 3, 1), 1000.0)
            counts_P3K[:, 0, 0] = right_P
            units = tuple(map(str, range(PHOTOS)))
            models.append(LeftOut(tuple(range(PHOTOS)), units, counts_P3K, counts_P3K))
        choice = choose(models, [1.0] * 8, "pixel_accuracy", "accuracy")
        apparent.append(choice.behind[0].value)
        promised.append(choice.promise.value)
        assert choice.promise.error == models[choice.taken].minus(models[0], "pixel_accuracy").error
    assert np.mean(apparent) > 0.012
    assert abs(np.mean(promised)) < 0.004
    better = [scoring(0.6, 0.05), scoring(0.7, 0.05)]
    found = choose(better, [1.0, 1.0], "pixel_accuracy", "balance")
    assert found.promise.value == pytest.approx(found.behind[0].value), "no other was as good"
    assert choose(better[::-1], [1.0, 1.0], "pixel_accuracy", "balance").promise.value == 0


def sentence(models: list[LeftOut], costs: list[float], prefer: Prefer) -> str:
    names = ["trial 7", "mean of the best 2", "ensemble of 5"]
    drafts = [
        Draft(Model(name, (WeightedTrial(7, 1.0),), ()), left_out, Cost(1, cost, 1))
        for name, left_out, cost in zip(names, models, costs, strict=False)
    ]
    choice = choose(models, costs, "pixel_accuracy", prefer)
    return reason(drafts, choice, "pixel_accuracy", prefer)


def test_a_sentence_says_why_a_model_was_taken() -> None:
    models, costs = [scoring(0.63, 0.1), scoring(0.69, 0.05), scoring(0.70, 0.2)], [1.0, 2.0, 8.0]
    best = sentence(models, costs, "accuracy")
    assert best.startswith("Ensemble of 5 was taken because it scores best on validation photogr")
    assert re.search(
        r"made \(pixel_accuracy 0\.7\d+\)\. By photographs that had no part in the choice either, "
        r"0\.0\d+ ± 0\.0\d+ is gained over the best single trial\.$",
        best,
    )
    cheap = sentence(models, costs, "balance")
    assert cheap.startswith(
        "Mean of the best 2 was taken because it is the cheapest whose score on "
    )
    assert "is within the standard error of the best one's: ensemble of 5 is better by 0.0" in cheap
    assert "and takes 4.0 times as long. By photographs that had no part in the choice" in cheap
    few = [scoring(0.6, 0.1, units=5), scoring(0.9, 0.1, units=5)]
    assert sentence(few, costs, "balance") == (
        "Trial 7 was taken as the plainest model: the validation split has too few independent "
        "photographs (30 in 5 groups) to tell whether another one is better."
    )
    assert "which is a guess" in sentence(few, costs, "accuracy")
    alone = [
        dataclasses.replace(one, photos=(), units=(), counts_P3K=one.counts_P3K[:0]) for one in few
    ]
    for prefer in ("accuracy", "speed"):
        assert sentence(alone, costs, prefer) == (
            "Trial 7 was taken as the plainest model: the validation split is a single photograph "
            "or group, so none can be left out to compare models by."
        )
    assert sentence(few[:1], costs, "speed").endswith("no other trial could add to it.")


def rare(photos: int, rng: np.random.Generator, *, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Masks with a rare class, and probabilities that are too low for it by a factor."""
    masks = rng.choice(3, (photos, 24, 24), p=[0.62, 0.35, 0.03]).astype(np.uint8)
    logits = 2 * np.eye(3)[masks] + rng.normal(0, 1.0, (*masks.shape, 3)) - [0, 0, shift]
    probs = np.exp(logits)
    return masks, np.round(probs / probs.sum(-1, keepdims=True) * WHOLE).astype(np.uint16)


def pool_of(masks: np.ndarray, *candidates: np.ndarray) -> Pool:
    pixels = draw_pixels(list(masks), 3, limit=masks.size)
    return Pool.of(pixels, [probs.reshape(-1, 3)[pixels.position_N] for probs in candidates])


@pytest.mark.parametrize("metric", ["dice", "dice_per_image"])
def test_factors_find_the_rare_class_that_a_network_names_too_seldom(metric) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    pool = pool_of(*rare(20, rng, shift=2.0))
    unseen = pool_of(*rare(20, rng, shift=2.0))
    sum_LKB = pool.mix([0])
    times_P = np.ones(20, np.int64)
    log_K = fit_factors(Contest.of(pool, sum_LKB), metric, times_P)
    assert log_K.mean() == pytest.approx(0, abs=1e-9)
    assert np.ptp(log_K) <= np.log(REACH) + 1e-9 and log_K.argmax() == 2
    factors_K = np.exp(log_K)
    for of in (pool, unseen):
        plain = metric_of_counts(metric, of.counts(of.mix([0])))
        assert metric_of_counts(metric, of.counts(of.mix([0]), factors_K=factors_K)) > plain + 0.05
    for tried in (factors_K**0.5, factors_K * [1, 1, 1.4], factors_K * [1, 1, 0.7]):
        best = metric_of_counts(metric, pool.counts(sum_LKB, factors_K=factors_K))
        assert metric_of_counts(metric, pool.counts(sum_LKB, factors_K=tried)) <= best + 1e-9


@pytest.mark.parametrize("photos", [1, 9])
@pytest.mark.parametrize("metric", METRICS)
def test_factors_are_the_best_that_one_class_alone_could_have(
    metric: MetricName, photos: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photographs count several times or not at all, and one has no labelled pixel."""
    monkeypatch.setattr("segcore.choosing.factors.ROUNDS", 9)
    masks, probs = rare(photos, np.random.default_rng(4), shift=1.0)
    masks[3:4] = IGNORE_INDEX
    pool = pool_of(masks, probs)
    times_P = np.arange(1, photos + 1) % 4
    settled_P3K, sum_LKB = pool.settled_P3K.copy(), pool.mix([0])
    log_K = fit_factors(Contest.of(pool, sum_LKB), metric, times_P)
    np.testing.assert_array_equal(pool.settled_P3K, settled_P3K)

    def score(log_K: np.ndarray) -> float:
        return metric_of_counts(metric, pool.counts(sum_LKB, factors_K=np.exp(log_K)), times_P)

    step = TRIED[1] - TRIED[0]
    for k, change in itertools.product(range(3), (-2 * step, -step, step, 2 * step)):
        assert score(log_K + change * np.eye(3)[k]) <= score(log_K) + 2e-4
    assert score(log_K) > score(np.zeros(3))


@pytest.mark.parametrize("metric", ["dice", "dice_per_image"])
def test_factors_of_a_sample_of_the_pixels_are_nearly_those_of_all(
    metric: MetricName, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_of(*rare(20, np.random.default_rng(3), shift=2.0))
    sum_LKB = pool.mix([0])

    def fitted(most_px: int) -> tuple[int, float]:
        monkeypatch.setattr("segcore.choosing.factors.MOST_PX", most_px)
        contest = Contest.of(pool, sum_LKB)
        factors_K = np.exp(fit_factors(contest, metric, np.ones(20, np.int64)))
        counts_P3K = pool.counts(sum_LKB, factors_K=factors_K)
        return len(contest.class_NT), metric_of_counts(metric, counts_P3K)

    every_px, best = fitted(10**6)
    sampled_px, score = fitted(every_px // 4)
    assert every_px == len(pool.weight_N) and sampled_px == every_px // 4
    assert score > best - 0.01


def test_counts_with_factors_are_those_of_all_pixels() -> None:
    rng = np.random.default_rng(1)
    masks, first = rare(4, rng, shift=0.0)
    _, second = rare(4, rng, shift=0.0)
    pool = pool_of(masks, first, second)
    assert (pool.weight_N > 0).sum() < masks.size, "some pixels are settled"
    factors_K = np.array([0.5, 1.0, 4.0])
    classes = ((first.astype(float) + second) * factors_K).argmax(-1)
    counts_P3K = pool.counts(pool.mix([0, 1]), factors_K=factors_K)
    for k in range(3):
        named, true = classes == k, masks == k
        expected = [(named & true).sum((1, 2)), named.sum((1, 2)), true.sum((1, 2))]
        np.testing.assert_allclose(counts_P3K[:, :, k], np.transpose(expected), atol=2)


def test_factors_are_kept_only_where_they_pay_on_what_was_left_out() -> None:
    rng = np.random.default_rng(2)
    bags = Bags.draw(range(12), [str(p) for p in range(12)])
    (plain, fitted) = propose(pool_of(*rare(12, rng, shift=2.0)), bags, "dice")
    assert plain.factors is None and fitted.factors is not None
    assert fitted.factors[2] > max(fitted.factors[:2])
    gain = fitted.left_out.minus(plain.left_out, "dice")
    assert gain.value > gain.error > 0
    perfect = np.round(np.eye(3)[rare(12, rng, shift=0.0)[0]] * WHOLE).astype(np.uint16)
    masks = perfect.argmax(-1).astype(np.uint8)
    (only,) = propose(pool_of(masks, perfect), bags, "dice")
    assert only.factors is None
