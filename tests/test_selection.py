"""Selection picks what helps, within limits; its short cuts change no score."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch

from segcore.choosing.choice import choose
from segcore.choosing.left_out import Bags
from segcore.choosing.pool import WHOLE, Pool, ProbsNK, draw_pixels
from segcore.choosing.selection import Limits, Proposal, Rules, propose
from segcore.config import IGNORE_INDEX, MetricName
from segcore.scores.counting import score
from segcore.scores.metrics import METRICS, metric_of_counts

K = 3


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    """Four photographs; class 2 is rare, and a border counts nowhere."""
    masks = np.random.default_rng(0).choice(K, (4, 32, 16), p=[0.6, 0.35, 0.05]).astype(np.uint8)
    masks[:, 0] = IGNORE_INDEX
    return masks


def noisy(
    masks: np.ndarray, rng: np.random.Generator, noise: float, sure: float = 1.0
) -> np.ndarray:
    """``probs_MKHW``, in whole numbers."""
    truth = np.eye(K)[np.minimum(masks, K - 1)].transpose(0, 3, 1, 2)
    raw = np.exp(sure * (2 * truth + rng.normal(0, noise, truth.shape)))
    return np.round(raw / raw.sum(axis=1, keepdims=True) * WHOLE).astype(np.uint16)


def pool_of(masks: np.ndarray, candidates: list[np.ndarray], limit: int = 10**9) -> Pool:
    pixels = draw_pixels(masks, K, limit=limit)
    return Pool.of(pixels, [at(pixels.position_N, probs) for probs in candidates])


def at(position_N: np.ndarray, probs_MKHW: np.ndarray) -> ProbsNK:
    return probs_MKHW.transpose(0, 2, 3, 1).reshape(-1, K)[position_N]


def brute_force(masks: np.ndarray, candidates: list[np.ndarray], picks: tuple[int, ...]) -> object:
    """``Scores`` of all pixels, without any short cut."""
    total = np.sum([candidates[c].astype(np.int64) for c in picks], axis=0)
    everything = (total.argmax(axis=1), masks.astype(np.int64), np.arange(4))
    classes, truth, photo = map(torch.from_numpy, everything)
    return score([(classes, truth, photo)], K, tuple("abcd"), "cpu")


def proposals(pool: Pool, metric: MetricName, *limits: Limits, seed: int = 0) -> list[Proposal]:
    bags = Bags.draw(range(pool.photos), [f"{p}.jpg" for p in range(pool.photos)], seed=seed)
    return propose(pool, bags, metric, *limits)


def greedy(pool: Pool, metric: MetricName, times_P: np.ndarray) -> list[int]:
    rules = Rules(pool, metric, Limits())
    return list(rules.greedy(rules.best_mean(times_P), times_P))


def every_photo() -> np.ndarray:
    return np.ones(4, np.int64)


@pytest.mark.parametrize("metric", METRICS)
def test_contested_pixels_alone_give_every_score_exactly(metric, masks: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(1)
    candidates = [noisy(masks, rng, noise, sure=3) for noise in (0.5, 0.7, 0.9)]
    pool = pool_of(masks, candidates)
    assert (pool.weight_N > 0).sum() < 0.7 * (masks != IGNORE_INDEX).sum()
    for picks in [(0,), (1, 2), (0, 0, 1), (0, 1, 2, 2, 2)]:
        expected = brute_force(masks, candidates, picks)
        for counts in (pool.counts(pool.mix(picks)), pool.counts(pool.mix(picks[1:]), picks[0])):
            np.testing.assert_array_equal(counts, expected.counts_P3K)
            assert metric_of_counts(metric, counts) == expected.metric(metric)


def test_a_sample_stands_for_every_pixel_and_keeps_the_rare_ones(masks: np.ndarray) -> None:
    pixels = draw_pixels(masks, K, limit=700)
    assert 600 < len(pixels.position_N) <= 712  # rounded up in each of 12 strata
    assert (np.diff(pixels.position_N) > 0).all()
    np.testing.assert_array_equal(masks.ravel()[pixels.position_N], pixels.truth_N)
    for p in range(4):
        for k in range(K):
            here = (pixels.photo_N == p) & (pixels.truth_N == k)
            size = (masks[p] == k).sum()
            assert pixels.weight_N[here].sum() == pytest.approx(size)
    share = [(pixels.truth_N == k).sum() / (masks == k).sum() for k in range(K)]
    assert share[2] > 0.6 > share[0]


def test_of_very_many_photographs_some_are_drawn_whole_and_the_others_not_at_all(
    masks: np.ndarray,
) -> None:
    """There are more pairs of a photograph and a class than pixels that may be drawn."""
    pixels = draw_pixels(list(masks), K, limit=7)
    assert 6 <= len(pixels.position_N) <= 7 and pixels.photos == 4
    drawn = np.unique(pixels.photo_N)
    assert len(drawn) == 2
    assert pixels.weight_N.sum() == (masks[drawn] != IGNORE_INDEX).sum()
    others = np.unique(draw_pixels(list(masks), K, limit=7, seed=1).photo_N)
    assert drawn.tolist() != others.tolist()


def test_photographs_differ_in_size_and_are_sorted_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(12)
    masks = [rng.choice([0, 1, 2, IGNORE_INDEX], size).astype(np.uint8)
             for size in ((5, 9), (40, 30), (1, 1), (16, 70))]  # fmt: skip
    masks[2][:] = IGNORE_INDEX
    flat = np.concatenate([mask.ravel() for mask in masks])
    photo = np.repeat(np.arange(4), [mask.size for mask in masks])
    pixels = draw_pixels(masks, K, limit=10**6)
    np.testing.assert_array_equal(pixels.position_N, np.flatnonzero(flat != IGNORE_INDEX))
    few = draw_pixels(masks, K, limit=300)
    monkeypatch.setattr("segcore.choosing.pool.PIECE_PX", 64)
    pieces = draw_pixels(masks, K, limit=300)
    for drawn in (pixels, few, pieces):
        np.testing.assert_array_equal(flat[drawn.position_N], drawn.truth_N)
        np.testing.assert_array_equal(photo[drawn.position_N], drawn.photo_N)
    np.testing.assert_array_equal(few.position_N, pieces.position_N)
    assert few.weight_N.sum() == pytest.approx(pixels.weight_N.sum())


def test_a_mosaic_is_counted_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segcore.choosing.pool.PIECE_PX", 1 << 14)
    mosaic = np.random.default_rng(0).integers(0, K, (1024, 1024), dtype=np.uint8)
    tracemalloc.start()
    draw_pixels([mosaic], K, limit=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < mosaic.nbytes


def test_a_sample_scores_nearly_what_all_pixels_score(masks: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    candidates = [noisy(masks, rng, 1.2) for _ in range(2)]
    pool = pool_of(masks, candidates, limit=900)
    sampled = metric_of_counts("dice", pool.counts(pool.mix((0, 1))))
    assert sampled == pytest.approx(brute_force(masks, candidates, (0, 1)).dice, abs=0.03)


def test_selection_prefers_different_errors_over_the_second_best(masks: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    best = noisy(masks, rng, 1.5)
    candidates = [best, best.copy(), noisy(masks, rng, 1.8)]  # a twin is as good, and of no help
    single, *_, ensemble = proposals(pool_of(masks, candidates), "dice")
    assert (single.way, ensemble.way) == ("single", "greedy")
    assert ensemble.weights[2] > 0.2
    assert ensemble.left_out.score("dice") > single.left_out.score("dice")


def test_where_others_only_harm_the_best_stays_alone(masks: np.ndarray) -> None:
    rng = np.random.default_rng(4)
    perfect, wrong = noisy(masks, rng, 0.0), noisy((masks + 1) % K, rng, 0.0)
    (single,) = proposals(pool_of(masks, [wrong, perfect]), "iou")
    assert (single.way, single.weights, single.left_out.score("iou")) == ("single", (0.0, 1.0), 1.0)


def test_no_mixture_of_three_picks_is_much_better_than_the_greedy_one(masks: np.ndarray) -> None:
    rng = np.random.default_rng(5)
    candidates = [noisy(masks, rng, noise) for noise in (1.4, 1.5, 1.6, 1.8)]
    pool = pool_of(masks, candidates)
    scores = {
        picks: brute_force(masks, candidates, picks).dice_per_image
        for count in (1, 2, 3)
        for picks in itertools.combinations_with_replacement(range(4), count)
    }
    picks = greedy(pool, "dice_per_image", every_photo())
    found = metric_of_counts("dice_per_image", pool.counts(pool.mix(picks)))
    best_single = max(scores[(c,)] for c in range(4))
    assert found > best_single
    assert found >= max(scores.values()) - 0.005


def test_the_picks_begin_with_the_best_few_and_end_at_the_best_score(masks: np.ndarray) -> None:
    rng = np.random.default_rng(6)
    candidates = [noisy(masks, rng, noise) for noise in (2.2, 1.3, 1.4, 1.5)]
    pool = pool_of(masks, candidates)
    picks = greedy(pool, "dice", every_photo())
    alone = [brute_force(masks, candidates, (c,)).dice for c in range(4)]
    assert picks[0] == int(np.argmax(alone))
    assert picks[:2] == sorted(range(4), key=lambda c: -alone[c])[:2]
    final = metric_of_counts("dice", pool.counts(pool.mix(picks)))
    for c in range(4):  # every further pick was tried, and did not help
        assert metric_of_counts("dice", pool.counts(pool.mix(picks), c)) <= final


def test_a_photograph_that_does_not_count_changes_nothing(masks: np.ndarray) -> None:
    rng = np.random.default_rng(7)
    candidates = [noisy(masks, rng, 1.5) for _ in range(3)]
    times_P = np.array([2, 1, 1, 0])
    picks = greedy(pool_of(masks, candidates), "dice", times_P)
    for probs in candidates:
        probs[3:] = rng.integers(0, WHOLE, probs[3:].shape)
    assert picks == greedy(pool_of(masks, candidates), "dice", times_P)


def test_the_same_seed_selects_the_same_members(masks: np.ndarray) -> None:
    rng = np.random.default_rng(8)
    pool = pool_of(masks, [noisy(masks, rng, 1.6) for _ in range(5)])

    def weights(seed: int) -> list[tuple[float, ...]]:
        return [proposal.weights for proposal in proposals(pool, "dice", seed=seed)]

    assert weights(1) == weights(1) != weights(2)


@pytest.mark.parametrize("members", [1, 2, 3])
def test_an_ensemble_has_no_more_members_than_allowed(members: int, masks: np.ndarray) -> None:
    rng = np.random.default_rng(9)
    pool = pool_of(masks, [noisy(masks, rng, 1.6) for _ in range(5)])
    made = proposals(pool, "dice", Limits(members))
    assert max(len(proposal.members) for proposal in made) == members
    assert all(sum(proposal.weights) == pytest.approx(1) for proposal in made)


def test_an_ensemble_is_as_fast_as_asked_for(masks: np.ndarray) -> None:
    rng = np.random.default_rng(10)
    latency_s = (0.5, 0.2, 0.2, 0.05, 0.3)
    pool = pool_of(masks, [noisy(masks, rng, 1.6) for _ in range(5)])
    made = proposals(pool, "dice", Limits(8, 0.5, latency_s))
    assert all(sum(latency_s[c] for c in proposal.members) <= 0.5 for proposal in made)
    assert len(made[-1].members) > 1


def test_one_candidate_is_selected_alone(masks: np.ndarray) -> None:
    pool = pool_of(masks, [noisy(masks, np.random.default_rng(11), 1.0)])
    assert [proposal.weights for proposal in proposals(pool, "pixel_accuracy")] == [(1.0,)]


def test_where_nothing_can_be_left_out_the_best_candidate_is_taken_as_it_is(
    masks: np.ndarray,
) -> None:
    """A validation split of one photograph."""
    rng = np.random.default_rng(4)
    found = proposals(pool_of(masks[:1], [noisy(masks[:1], rng, n) for n in (2, 1, 1, 1)]), "dice")
    assert [len(proposal.members) for proposal in found].count(1) == 1
    assert found[0].factors is None and found[0].left_out.photos == ()
    left_out = [proposal.left_out for proposal in found]
    choice = choose(left_out, [1.0] * len(found), "dice", "balance")
    assert (choice.taken, choice.can_tell) == (0, False)


def test_a_member_that_costs_nothing_when_it_is_taken_out_is_taken_out(masks: np.ndarray) -> None:
    """A nearly constant network says the same everywhere: whatever it is good for, it knows
    nothing."""
    rng = np.random.default_rng(12)
    masks = np.concatenate([masks] * 3)
    masks = rng.permuted(masks, axis=1)
    constant = np.full((12, K, 32, 16), 0.3) + rng.normal(0, 0.001, (12, K, 32, 16))
    constant = np.round(constant * WHOLE).astype(np.uint16)
    candidates = [noisy(masks, rng, 1.5), noisy(masks, rng, 1.6), constant]
    for proposal in proposals(pool_of(masks, candidates), "dice"):
        assert proposal.weights[2] == 0


def test_what_says_the_same_everywhere_is_no_member_even_where_it_would_help(
    masks: np.ndarray,
) -> None:
    """It moves the decision between frequent and rare classes, which is what factors are for."""
    rng = np.random.default_rng(13)
    masks = rng.permuted(np.concatenate([masks] * 3), axis=1)
    biased = [noisy(masks, rng, noise).astype(np.float64) for noise in (1.5, 1.6)]
    for probs in biased:  # for the rare class far too often
        probs[:, 2] *= 3
        probs *= WHOLE / probs.sum(axis=1, keepdims=True)
    trained = [np.round(probs).astype(np.uint16) for probs in biased]
    share = np.array([0.6, 0.35, 0.05])[:, None, None] + rng.normal(0, 0.002, (12, K, 32, 16))
    constant = np.round(share.clip(0, 1) * WHOLE).astype(np.uint16)
    pool = pool_of(masks, [*trained, constant])
    all_three = metric_of_counts("dice", pool.counts(pool.mix((0, 1, 2, 2))))
    assert all_three > metric_of_counts("dice", pool.counts(pool.mix((0, 1)))) + 0.02
    made = proposals(pool, "dice")
    assert len(made[-1].members) == 2 and made[-1].factors is not None
    assert all(proposal.weights[2] == 0 for proposal in made)
    assert made[-1].left_out.score("dice") > all_three - 0.02


def test_the_last_photograph_may_have_no_labelled_pixel(masks: np.ndarray) -> None:
    """Sparse labels may all lie between the pixels of a coarser score grid."""
    masks = masks.copy()
    masks[-1] = IGNORE_INDEX
    rng = np.random.default_rng(0)
    pool = pool_of(masks, [noisy(masks, rng, noise, sure=3) for noise in (0.5, 0.7)])
    assert pool.photos == len(masks)
    bags = Bags.draw(range(len(masks)), [f"{p}.jpg" for p in range(len(masks))])
    single, *_ = propose(pool, bags, "dice")
    assert single.members == (0,) and single.left_out.photos == tuple(range(len(masks)))


def test_photographs_of_one_group_are_left_out_together() -> None:
    groups = [name for name in "abcdefgh" for _ in range(3)]
    bags = Bags.draw(range(24), groups, seed=1)
    by_group = bags.times_BP.reshape(-1, 8, 3)
    assert (by_group == by_group[:, :, :1]).all()
    assert (bags.times_BP == 0).any(axis=0).all(), "each is left out at least once"
    counts = [np.full((24, 3, K), float(bag)) for bag in range(len(bags.times_BP))]
    left_out = bags.left_out(counts, counts[0])
    for p in range(24):
        expected = np.flatnonzero(bags.times_BP[:, p] == 0).mean()
        assert left_out.counts_P3K[p] == pytest.approx(expected)
    many = Bags.draw(range(120_000), [str(photo) for photo in range(120_000)])
    assert (many.times_BP == 0).any(axis=0).all()
    alone = Bags.draw(range(3), ["a"] * 3)
    ones = np.ones((3, 3, K))
    assert alone.left_out([ones] * len(alone.times_BP), ones).photos == ()
