"""Choosing among many trials on few photographs: how much scores flatter, what selection costs.

    python -m benchmarks.selection bias [--searches 300]
    python -m benchmarks.selection ensembles [--searches 20]
    python -m benchmarks.selection run --run runs/NAME [--searches 20]
    python -m benchmarks.selection size [--candidates 50] [--photos 112]

"bias" simulates searches: 200 trials are scored on 40 validation photographs, the best is chosen
and scored on 40 test photographs. A naive report says the validation score; ours says the test
score, with its 95 % interval. The truth is the mean over 100 further splits of 40 photographs;
that of all 4,000 as one split is printed besides, as the Dice of a rare class is lower in a small
split than in a large one, whatever was chosen.

"ensembles" draws small maps of probabilities, of candidates whose errors are partly shared, and
selects by several rules on 20 validation photographs; what counts is the score on 150 others.

"run" does the same with a finished search of yours: its candidates predict all photographs that no
training saw, those of the validation and of the test split, which are then halved at random, again
and again: rules select on one half, and what counts is the score on the other.

"size" selects among 50 candidates on 112 photographs of 368×368 with 25 classes, from synthetic
probabilities at the pixels that workers would send; it times the driver's part, not the networks.

Predicted before the first run: the naive score is 1.5 Dice points too high, ours within 0.2 of the
truth on average, and 93 % of its intervals hold the truth. Bags of photographs beat one greedy
selection by 0.2 points; bags of half the candidates are a little worse than both. Size: 2 minutes
and 2.5 GB.
"""

import argparse
import dataclasses
import resource
import time

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from search.ensembles.tasks import Workplace
from search.ensembles.tasks import predict as predict_split
from search.replay import searched_data
from search.runs.folder import RunFolder
from search.runs.rows import read_rows
from search.runs.storage import NodeCopy
from search.runs.study import read_study
from search.trials.keeping import choose_candidates
from search.trials.worker import StoredCheckpoint, best_checkpoint
from segcore.choosing.pool import WHOLE, PixelSample, Pool, ProbsNK, draw_pixels
from segcore.choosing.selection import Limits, greedy_picks, select
from segcore.config import MetricName
from segcore.data.prepared import PreparedData
from segcore.data.splits import Split
from segcore.scores.intervals import score_interval
from segcore.scores.metrics import metric_of_counts, metric_of_each

TRIALS, VAL, TEST, TRUTH = 200, 40, 40, 4000
PIXELS = 20_000
SHARE_K = np.array([0.5, 0.3, 0.12, 0.06, 0.02])
OCCURS_K = np.array([1.0, 0.9, 0.5, 0.3, 0.15])
"""Of each class, its share of the pixels, and of the photographs in which it occurs."""


def main() -> None:
    """Run one part and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["bias", "ensembles", "run", "size"])
    parser.add_argument("--run")
    parser.add_argument("--searches", type=int)
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--photos", type=int, default=112)
    arguments = parser.parse_args()
    match arguments.part:
        case "bias":
            measure_bias(arguments.searches or 300)
        case "ensembles":
            compare_rules(arguments.searches or 20)
        case "run" if arguments.run is None:
            parser.error("name a finished search: --run runs/NAME")
        case "run":
            compare_rules_on(RunFolder.opened(arguments.run), arguments.searches or 20)
        case "size":
            measure_size(arguments.candidates, arguments.photos)


def draw_photos(
    rng: np.random.Generator, photos: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pixels of each class, and how hard each photograph and class is for every model (P×K)."""
    occurs_PK = rng.random((photos, len(SHARE_K))) < OCCURS_K
    share_PK = rng.gamma(2, SHARE_K / 2, (photos, len(SHARE_K))) * occurs_PK
    truth_PK = np.round(PIXELS * share_PK / share_PK.sum(axis=1, keepdims=True)).astype(np.int64)
    return truth_PK, rng.normal(0, 0.6, (photos, 1)) + rng.normal(0, 0.6, truth_PK.shape)


def predict(
    rng: np.random.Generator,
    skill_K: NDArray[np.float64],
    photos: tuple[NDArray[np.int64], NDArray[np.float64]],
) -> NDArray[np.int64]:
    """``counts_P3K`` of a trial: its skill, the photograph, and luck of the two together."""
    truth_PK, hardness_PK = photos
    logit_PK = skill_K - hardness_PK + rng.normal(0, 0.5, truth_PK.shape)
    hit_PK = np.round(truth_PK / (1 + np.exp(-logit_PK))).astype(np.int64)
    missed_P1 = (truth_PK - hit_PK).sum(axis=1, keepdims=True)
    wrong_PK = np.round(missed_P1 * rng.dirichlet(5 * SHARE_K, len(truth_PK))).astype(np.int64)
    return np.stack([hit_PK, hit_PK + wrong_PK, truth_PK], axis=1)


def measure_bias(searches: int) -> None:
    """Print how far reported scores are from the truth, in Dice points (hundredths)."""
    rng = np.random.default_rng(0)
    naive, ours, large, held = [], [], [], 0
    for _ in range(searches):
        skill_TK = np.array([2.0, 1.6, 1.2, 0.9, 0.5]) + rng.normal(0, 0.25, (TRIALS, 1))
        skill_TK = skill_TK + rng.normal(0, 0.15, skill_TK.shape)
        val, test, world = (draw_photos(rng, photos) for photos in (VAL, TEST, TRUTH))
        scores = [metric_of_counts("dice", predict(rng, skill_K, val)) for skill_K in skill_TK]
        chosen_K = skill_TK[int(np.argmax(scores))]
        counts_P3K = predict(rng, chosen_K, world)
        splits = counts_P3K.reshape(-1, TEST, *counts_P3K.shape[1:])
        truth = float(metric_of_each("dice", splits).mean())
        interval = score_interval(predict(rng, chosen_K, test), "dice")
        naive.append(100 * (max(scores) - truth))
        ours.append(100 * (interval.value - truth))
        large.append(100 * (metric_of_counts("dice", counts_P3K) - truth))
        held += interval.low <= truth <= interval.high
    for name, errors in (
        ("validation score of the best", naive),
        ("test score of the best", ours),
        ("score on 4,000 photographs as one split", large),
    ):
        print(
            f"{name}: {np.mean(errors):+.2f} ± {np.std(errors) / searches**0.5:.2f} Dice points "
            f"from the truth on average, ± {np.std(errors):.2f} in one search"
        )
    print(f"{held / searches:.1%} of the 95 % intervals hold the truth ({searches} searches)")


def draw_maps(
    rng: np.random.Generator, photos: int, candidates: int, classes: int, side_px: int
) -> tuple[NDArray[np.uint8], list[NDArray[np.float32]]]:
    """Masks of blobs, and each candidate's ``probs_MKHW``; 60 % of the noise is shared."""

    def blobs(sigma: float) -> NDArray[np.float32]:
        fields = rng.normal(size=(photos * classes, side_px, side_px)).astype(np.float32)
        smooth = np.stack([cv2.GaussianBlur(field, (0, 0), sigma) for field in fields])
        return (smooth / smooth.std()).reshape(photos, classes, side_px, side_px)

    rarity_K11 = 0.6 * np.log(np.arange(1, classes + 1))[:, None, None]
    masks_MHW = (blobs(4) - rarity_K11).argmax(axis=1).astype(np.uint8)
    truth_MKHW = np.eye(classes, dtype=np.float32)[masks_MHW].transpose(0, 3, 1, 2)
    common = blobs(2)
    probs = []
    for noise in rng.uniform(2.0, 3.0, candidates):
        logits = 3 * truth_MKHW + noise * (0.6**0.5 * common + 0.4**0.5 * blobs(2))
        raw = np.exp(logits - logits.max(axis=1, keepdims=True))
        probs.append(raw / raw.sum(axis=1, keepdims=True))
    return masks_MHW, probs


def pool_of(masks_MHW: NDArray[np.uint8], probs: list[NDArray[np.float32]], classes: int) -> Pool:
    """All pixels of some photographs."""
    pixels = draw_pixels(list(masks_MHW), classes, limit=masks_MHW.size)
    flat = (p.transpose(0, 2, 3, 1).reshape(-1, classes)[pixels.position_N] for p in probs)
    return Pool.of(pixels, [np.round(values * WHOLE).astype(np.uint16) for values in flat])


def compare_rules(searches: int) -> None:
    """Print each rule's score where it selected, and on photographs that it hasn't seen."""
    val, world, candidates, classes = 20, 150, 16, 6
    results = []
    for seed in range(searches):
        rng = np.random.default_rng(seed)
        masks, probs = draw_maps(rng, val + world, candidates, classes, side_px=32)
        seen = pool_of(masks[:val], [p[:val] for p in probs], classes)
        unseen = pool_of(masks[val:], [p[val:] for p in probs], classes)
        results.append(try_rules(seen, unseen, "dice"))
    print_rules(results)


@dataclasses.dataclass(frozen=True)
class Tried:
    """What the rules did with one choice of photographs."""

    scores: dict[str, tuple[float, float]]
    """By rule: where it selected, and on other photographs."""
    expected_gain: float


def try_rules(seen: Pool, unseen: Pool, metric: MetricName) -> Tried:
    """Select by several rules on one pool, and score on both."""

    def score(pool: Pool, members: list[int]) -> float:
        return metric_of_counts(metric, pool.counts(pool.mix(members)))

    candidates = range(len(seen.probs))
    best_first = sorted(candidates, key=lambda c: -score(seen, [c]))
    every_photo = np.ones(seen.photos, np.int64)
    bagged, halves = select(seen, metric), select(seen, metric, bag_share=0.5)
    ours = as_picks(bagged.weights)
    is_better = score(seen, ours) > score(seen, best_first[:1]) and bagged.expected_gain > 0
    picks = {
        "best single": best_first[:1],
        "mean of the top 5": best_first[:5],
        "greedy, once": greedy_picks(seen, metric, Limits(), among=candidates, times_P=every_photo),
        "bags, also of half the candidates": as_picks(halves.weights),
        "bags of photographs": ours,
        "the same where it promises to be better, else the best single (ours)": ours
        if is_better
        else best_first[:1],
    }
    scores = {name: (score(seen, picked), score(unseen, picked)) for name, picked in picks.items()}
    return Tried(scores, bagged.expected_gain)


def print_rules(results: list[Tried]) -> None:
    """Print the mean over searches, and by how much each rule beats the best single candidate."""
    print(f"| {len(results)} searches | selected on | unseen | over the best single, unseen |")
    print("| --- | --- | --- | --- |")
    single = np.array([tried.scores["best single"] for tried in results])
    for name in results[0].scores:
        pairs = np.array([tried.scores[name] for tried in results])
        gain = pairs[:, 1] - single[:, 1]
        error = gain.std() / len(gain) ** 0.5
        on, off = pairs.mean(axis=0)
        print(f"| {name} | {on:.4f} | {off:.4f} | {gain.mean():+.4f} ± {error:.4f} |")
    print(f"expected gain {np.mean([tried.expected_gain for tried in results]):+.4f}")


class Unseen(Workplace):
    """Where all photographs that no training saw are the validation split."""

    def open(self, network: StoredCheckpoint) -> tuple[PreparedData, torch.device]:
        """As ``Workplace`` does."""
        data, device = super().open(network)
        splits: list[Split] = ["train" if s == "train" else "val" for s in data.photo_splits]
        return dataclasses.replace(data, photo_splits=tuple(splits)), device


def compare_rules_on(run: RunFolder, searches: int) -> None:
    """Print each rule's score on random halves of a run's photographs."""
    record, rows = run.read(), read_rows(read_study(run))
    metric, limit = record.options.metric, record.options.ensemble_candidates
    found = [best_checkpoint(run.trials, row.number) for row in choose_candidates(rows, limit)]
    networks = [stored for stored in found if stored is not None]
    data = searched_data(record)
    place = Unseen(NodeCopy("", None, data.folder), cpus=torch.get_num_threads(), gpus=0)
    numbers = place.open(networks[0])[0].of_split("val").tolist()
    masks = [data.score_mask(number) for number in numbers]
    pixels = draw_pixels(masks, data.num_classes, limit=300_000)
    probs = [
        predict_split([(network, 1.0)], place, "val", pixels.position_N)[1] for network in networks
    ]
    photos = int(pixels.photo_N.max()) + 1
    print(f"{len(networks)} candidates, {photos} photographs, {metric}")
    rng, results = np.random.default_rng(0), []
    for _ in range(searches):
        is_seen_P = rng.permutation(photos) < photos // 2
        seen, unseen = (part_of(pixels, probs, part_P) for part_P in (is_seen_P, ~is_seen_P))
        results.append(try_rules(seen, unseen, metric))
    print_rules(results)


def part_of(pixels: PixelSample, probs: list[ProbsNK], wanted_P: NDArray[np.bool_]) -> Pool:
    """Some of the photographs."""
    wanted_N = wanted_P[pixels.photo_N]
    part = PixelSample(
        pixels.position_N[wanted_N],
        (wanted_P.cumsum() - 1)[pixels.photo_N[wanted_N]],
        pixels.truth_N[wanted_N],
        pixels.weight_N[wanted_N],
        pixels.num_classes,
    )
    return Pool.of(part, [probs_NK[wanted_N] for probs_NK in probs])


def as_picks(weights: tuple[float, ...]) -> list[int]:
    """Weights as repeated candidates, 100 together."""
    return [c for c, weight in enumerate(weights) for _ in range(round(100 * weight))]


def measure_size(candidates: int, photos: int) -> None:
    """Print the time and the peak memory of a large selection."""
    classes, side_px, budget = 25, 368, 1 << 30
    rng = np.random.default_rng(0)
    small = rng.integers(0, classes, (photos, 8, 8)) * rng.integers(0, 2, (photos, 8, 8))
    masks = np.stack(
        [
            cv2.resize(m.astype(np.uint8), (side_px,) * 2, interpolation=cv2.INTER_NEAREST)
            for m in small
        ]
    )
    started = time.perf_counter()
    pixels = draw_pixels(list(masks), classes, limit=budget // (2 * classes * candidates))
    drawn_s = time.perf_counter() - started
    hard_N = rng.random(len(pixels.truth_N)) < 0.35  # the others: sure and right, as most pixels
    probs = [_synthetic(rng, pixels.truth_N, hard_N, classes) for _ in range(candidates)]
    started = time.perf_counter()
    pool = Pool.of(pixels, probs)
    del probs
    selection = select(pool, "dice")
    selected_s = time.perf_counter() - started
    contested = int((pool.weight_N > 0).sum())
    print(
        f"{candidates} candidates × {photos} photographs: {len(pixels.truth_N)} of {masks.size} "
        f"pixels drawn in {drawn_s:.1f} s; {contested} contested; "
        f"{np.count_nonzero(selection.weights)} members selected in {selected_s:.0f} s; "
        f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB, no disk"
    )


def _synthetic(
    rng: np.random.Generator, truth_N: NDArray[np.int64], hard_N: NDArray[np.bool_], classes: int
) -> ProbsNK:
    """Confident where a pixel is easy, noisy with a candidate's own skill where it is hard."""
    logits_NK = rng.standard_normal((len(truth_N), classes), dtype=np.float32)
    logits_NK *= np.where(hard_N, rng.uniform(1.2, 1.8), 0.5)[:, None].astype(np.float32)
    logits_NK[np.arange(len(truth_N)), truth_N] += np.where(hard_N, 3, 9)
    np.exp(logits_NK, out=logits_NK)
    logits_NK *= WHOLE / logits_NK.sum(axis=1, keepdims=True)
    return logits_NK.round().astype(np.uint16)


if __name__ == "__main__":
    main()
