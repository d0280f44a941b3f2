"""Choosing among many trials on few photographs: how much scores flatter, what is taken, what it
keeps of its promise.

    python -m benchmarks.selection bias [--searches 300]
    python -m benchmarks.selection choices [--searches 40] [--first 200]
    python -m benchmarks.selection run --run runs/NAME [--searches 30]
    python -m benchmarks.selection size [--candidates 50] [--photos 112]

"bias" simulates searches: 200 trials are scored on 40 validation photographs, the best is chosen
and scored on 40 test photographs. A naive report says the validation score; ours says the test
score, with its 95 % interval. The truth is the mean over 100 further splits of 40 photographs;
that of all 4,000 as one split is printed besides, as the Dice of a rare class is lower in a small
split than in a large one, whatever was chosen.

"choices" draws small maps of probabilities, of candidates whose errors are partly shared and of two
that are barely trained and say nearly the same everywhere. It makes all models that a search makes,
on 20 validation photographs, and takes one by each --prefer. What counts is what they score on 400
other photographs, in splits of 20: so many that what is kept is known well.

"run" does the same with a finished search of yours: its candidates predict all photographs that no
training saw, those of the validation and of the test split, which are then halved at random, again
and again: models are made on one half, and what counts is their score on the other. Groups of
photographs stay together.

"size" makes models of 50 candidates on 112 photographs of 368×368 with 25 classes, from synthetic
probabilities at the pixels that workers would send; it times the driver's part, not the networks.

Predicted before the first run of "bias": the naive score is 1.5 Dice points too high, ours within
0.2 of the truth on average, and 93 % of its intervals hold the truth.

Predicted before the first run of "choices" (26 November 2026): what was left out promises 0.3
points less than is kept, because a bag has fewer photographs than there are; the promise of the
gain over the best single trial is within one standard error in 65 % of searches. Factors help the
single trial most (+1 point) and ensembles by half of that. "balance" takes half the networks that
"accuracy" takes, and loses 0.3 points; "speed" loses 0.6. Barely trained candidates are members of
the plain greedy ensemble in a third of searches, and of none after taking out.

Predicted before the run with other seeds, 400 other photographs, and errors that are those of the
models themselves instead of the means over bags (26 November 2026, after 30 searches by which this
was chosen): the promise is within its error in 66 % of searches, and within that of the means over
bags in 56 %; on average it is too high by 0.2 points. "balance" takes 0.2 networks fewer.

Predicted before the run with the seeds 200 to 239 and a promise that is rehearsed (27 November
2026, after 68 searches with the seeds 0 to 29 and 100 to 137): without chance, the gain on what was
left out is 0.001 (accuracy), 0.003 (balance) and 0.003 (speed) higher than what is kept, and the
promise 0.002, 0.000 and 0.001 lower. It is within its error in 65 % of searches.
"""

import argparse
import dataclasses
import functools
import resource
import time
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from search.ensembles.models import Network
from search.ensembles.tasks import Workplace
from search.ensembles.tasks import predict as predict_split
from search.planning.plan import searched_data
from search.runs.checkpoints import best_checkpoint
from search.runs.folder import RunFolder
from search.runs.rows import read_rows
from search.runs.storage import NodeCopy
from search.runs.study import read_study
from search.trials.keeping import choose_candidates
from segcore.choosing.choice import TOLERANCE, choose
from segcore.choosing.left_out import Bags, Difference
from segcore.choosing.pool import WHOLE, PixelSample, Pool, ProbsNK, draw_pixels
from segcore.choosing.selection import Limits, Picks, Rule, Rules, as_picks, propose
from segcore.config import MetricName, Prefer
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
    parser.add_argument("part", choices=["bias", "choices", "run", "size"])
    parser.add_argument("--run")
    parser.add_argument("--searches", type=int)
    parser.add_argument("--first", type=int, default=200, help="the first seed of the choices")
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--photos", type=int, default=112)
    arguments = parser.parse_args()
    match arguments.part:
        case "bias":
            measure_bias(arguments.searches or 300)
        case "choices":
            try_choices(arguments.searches or 40, arguments.first)
        case "run" if arguments.run is None:
            parser.error("name a finished search: --run runs/NAME")
        case "run":
            try_choices_on(RunFolder.opened(arguments.run), arguments.searches or 30)
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


def try_choices(searches: int, first_seed: int) -> None:
    """Print what is made, taken and kept in simulated searches."""
    val, world, candidates, classes = 20, 400, 8, 6
    tried = []
    for seed in range(first_seed, first_seed + searches):
        rng = np.random.default_rng(seed)
        masks, probs = draw_maps(rng, val + world, candidates, classes, side_px=20)
        probs += [barely_trained(rng, masks[:val], classes, val + world) for _ in range(2)]
        seen = pool_of(masks[:val], [p[:val] for p in probs], classes)
        unseen = pool_of(masks[val:], [p[val:] for p in probs], classes)
        units = [str(photo) for photo in range(val)]
        tried.append(try_search(seen, unseen, units, "dice", splits=world // val))
        print(f"search {seed}", flush=True)
    print_choices(tried)


def barely_trained(
    rng: np.random.Generator, masks_MHW: NDArray[np.uint8], classes: int, photos: int
) -> NDArray[np.float32]:
    """Nearly the classes' shares, everywhere: ``probs_MKHW``."""
    share_K = np.bincount(masks_MHW.ravel(), minlength=classes) / masks_MHW.size
    share_K = share_K ** rng.uniform(0.3, 1.0)
    noise = rng.normal(0, 0.05, (photos, classes, *masks_MHW.shape[1:]))
    raw = share_K[:, None, None] * np.exp(noise)
    return (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Made:
    """A model that a search made."""

    members: int
    barely: int
    """How many of them are among the last two candidates, the barely trained ones."""
    fitted: bool
    """Whether its classes have factors."""
    promised: float
    """What it scores on what was left out."""
    kept: float
    """What it scores on photographs that its making hasn't seen."""
    left_out_gain: float
    """Over the best single trial, on what was left out."""
    kept_gain: float


@dataclasses.dataclass(frozen=True)
class Tried:
    """What one search made, and took."""

    made: dict[str, Made]
    taken: dict[Prefer, tuple[Made, Difference]]
    """With the gain over the best single trial that it promises."""
    chance: tuple[float, float]
    """How much easier the photographs that were left out are for the models of the bags than unseen
    ones are: for the best single trials and for the means of the best. On average that is 0."""


def try_search(
    seen: Pool, unseen: Pool, units: Sequence[str], metric: MetricName, splits: int
) -> Tried:
    """Make models on one pool, take one, and score all of them on the other, in some splits."""

    @functools.cache
    def keeps(picks: Picks, factors: tuple[float, ...] | None = None) -> float:
        factors_K = None if factors is None else np.array(factors)
        counts_P3K = unseen.counts(unseen.mix(picks), factors_K=factors_K)
        counts_SP3K = counts_P3K.reshape(splits, -1, *counts_P3K.shape[1:])
        return float(metric_of_each(metric, counts_SP3K).mean())

    def chance(rule: Rule) -> float:
        picks = [rule(times_P) for times_P in bags.times_BP]
        left_out = bags.left_out(map(rules.counts, picks), rules.counts(picks[0]))
        return left_out.score(metric) - float(np.mean([keeps(each) for each in picks]))

    bags, rules = Bags.draw(range(seen.photos), units), Rules(seen, metric, Limits())
    proposals = propose(seen, bags, metric)
    kept = [keeps(as_picks(proposal.weights), proposal.factors) for proposal in proposals]
    made = [
        Made(
            len(proposal.members),
            sum(c >= len(proposal.weights) - 2 for c in proposal.members),
            proposal.factors is not None,
            proposal.left_out.score(metric),
            score,
            proposal.left_out.score(metric) - proposals[0].left_out.score(metric),
            score - kept[0],
        )
        for proposal, score in zip(proposals, kept, strict=True)
    ]
    left_out = [proposal.left_out for proposal in proposals]
    costs = [float(model.members) for model in made]
    named = {
        f"{proposal.way}, plain" if i == 0 else proposal.way: model
        for i, (proposal, model) in enumerate(zip(proposals, made, strict=True))
    }
    choices = {wish: choose(left_out, costs, metric, wish) for wish in TOLERANCE}
    taken = {wish: (made[choice.taken], choice.promise) for wish, choice in choices.items()}
    return Tried(named, taken, (chance(rules.best_single), chance(rules.best_mean)))


def print_choices(tried: Sequence[Tried]) -> None:
    """Print means over searches, and how far promises are from what is kept."""
    print(f"| {len(tried)} searches | made | with factors | members | left out | unseen | gain |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for way in ("single, plain", "single", "mean", "small", "greedy"):
        models = [one.made[way] for one in tried if way in one.made]
        if models:
            print(f"| {way} | {len(models)} | {sum(m.fitted for m in models)} | {_means(models)} |")
    for wish in TOLERANCE:
        models = [one.taken[wish][0] for one in tried]
        fitted = sum(model.fitted for model in models)
        print(f"| **--prefer {wish}** | {len(models)} | {fitted} | {_means(models)} |")
    with_barely = sum(one.made["greedy"].barely > 0 for one in tried if "greedy" in one.made)
    print(f"greedy ensembles with one of the last two candidates: {with_barely}")
    print("\n| gain | too high by | without chance | off | stated error, within |")
    print("| --- | --- | --- | --- | --- |")
    for wish in TOLERANCE:
        taken = [one.taken[wish] for one in tried]
        kept_S = np.array([model.kept_gain for model, _ in taken])
        error_S = np.array([promise.error for _, promise in taken])
        for name, promised in (
            ("promised", [promise.value for _, promise in taken]),
            ("left out (before)", [model.left_out_gain for model, _ in taken]),
        ):
            off_S = np.array(promised) - kept_S
            off, held = off_S.std(ddof=1), np.mean(np.abs(off_S) <= np.maximum(error_S, 1e-12))
            print(
                f"| {wish}, {name} | {off_S.mean():+.4f} ± {off / len(off_S) ** 0.5:.4f} "
                f"| {_without_chance(off_S, tried)} | {off:.4f} "
                f"| {error_S.mean():.4f}, {held:.0%} |"
            )


def _without_chance(off_S: NDArray[np.float64], tried: Sequence[Tried]) -> str:
    """The mean, less what follows from ``Tried.chance`` (control variates), and its error."""
    x_S3 = np.array([(1.0, *one.chance) for one in tried])
    inverse_33 = np.linalg.pinv(x_S3.T @ x_S3)
    fitted_3 = inverse_33 @ x_S3.T @ off_S
    variance = np.sum((off_S - x_S3 @ fitted_3) ** 2) / (len(off_S) - 3)
    return f"{fitted_3[0]:+.4f} ± {np.sqrt(variance * inverse_33[0, 0]):.4f}"


def _means(models: Sequence[Made]) -> str:
    columns = [[m.members, m.promised, m.kept, m.kept_gain] for m in models]
    members, promised, kept, gain = np.mean(columns, axis=0)
    error = np.std([m.kept_gain for m in models]) / len(models) ** 0.5
    return f"{members:.1f} | {promised:.4f} | {kept:.4f} | {gain:+.4f} ± {error:.4f}"


class Unseen(Workplace):
    """Where all photographs that no training saw are the validation split."""

    def open(self, network: Network) -> tuple[PreparedData, torch.device]:
        """As ``Workplace`` does."""
        data, device = super().open(network)
        splits: list[Split] = ["train" if s == "train" else "val" for s in data.photo_splits]
        return dataclasses.replace(data, photo_splits=tuple(splits)), device


def try_choices_on(run: RunFolder, searches: int) -> None:
    """Print what is made, taken and kept on random halves of a run's photographs."""
    record, rows = run.read(), read_rows(read_study(run))
    metric, limit = record.options.metric, record.options.ensemble_candidates
    found = [best_checkpoint(run.trials, row.number) for row in choose_candidates(rows, limit)]
    networks = [stored for stored in found if stored is not None]
    data = searched_data(record)
    place = Unseen(NodeCopy("", None, data.folder), cpus=torch.get_num_threads(), gpus=0)
    numbers = place.open(networks[0])[0].of_split("val").tolist()
    masks = [data.score_mask(number) for number in numbers]
    pixels = draw_pixels(masks, data.num_classes, limit=300_000)
    probs = [predict_split(network, place, "val", pixels.position_N)[1] for network in networks]
    units = [data.photo_groups[number] for number in numbers]
    print(f"{len(networks)} candidates, {len(numbers)} photographs, {metric}")
    tried = [
        try_halves(pixels, probs, units, metric, np.random.default_rng(seed))
        for seed in range(searches)
    ]
    print_choices(tried)


def try_halves(
    pixels: PixelSample,
    probs: Sequence[ProbsNK],
    units: Sequence[str],
    metric: MetricName,
    rng: np.random.Generator,
) -> Tried:
    """Make models on a random half of the units, and score them on the other half."""
    names = sorted(set(units))
    half = set(rng.permutation(names)[: len(names) // 2].tolist())
    is_seen_P = np.array([unit in half for unit in units])
    seen, unseen = (part_of(pixels, probs, part_P) for part_P in (is_seen_P, ~is_seen_P))
    return try_search(seen, unseen, [unit for unit in units if unit in half], metric, splits=1)


def part_of(pixels: PixelSample, probs: Sequence[ProbsNK], wanted_P: NDArray[np.bool_]) -> Pool:
    """Some of the photographs."""
    wanted_N = wanted_P[pixels.photo_N]
    part = PixelSample(
        pixels.position_N[wanted_N],
        (wanted_P.cumsum() - 1)[pixels.photo_N[wanted_N]],
        pixels.truth_N[wanted_N],
        pixels.weight_N[wanted_N],
        int(wanted_P.sum()),
        pixels.num_classes,
    )
    return Pool.of(part, [probs_NK[wanted_N] for probs_NK in probs])


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
    names = [str(photo) for photo in range(photos)]
    proposals = propose(pool, Bags.draw(range(photos), names), "dice")
    selected_s = time.perf_counter() - started
    contested = int((pool.weight_N > 0).sum())
    print(
        f"{candidates} candidates × {photos} photographs: {len(pixels.truth_N)} of {masks.size} "
        f"pixels drawn in {drawn_s:.1f} s; {contested} contested; "
        f"{len(proposals)} models made in {selected_s:.0f} s; "
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
