"""From finished trials to a bundle, with a score from images that nothing before has seen."""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from search.ensembles.mixtures import (
    Candidate,
    Mixture,
    Pending,
    ScoredMixture,
    Workers,
    finished,
    networks_of,
    start_alternatives,
)
from search.ensembles.tasks import CandidatePrediction, MixtureScores, predict_candidate
from search.planning.plan import Plan
from search.runs.result import (
    Alternative,
    CandidateScore,
    Evaluated,
    Member,
    PhotoScore,
    SearchResult,
    SplitScores,
)
from search.runs.rows import TrialRow
from search.trials.cluster import Slots
from search.trials.keeping import choose_candidates
from search.trials.worker import StoredCheckpoint, best_checkpoint, trial_name
from segcore.choosing.pool import Pool, ProbsNK, draw_pixels
from segcore.choosing.selection import Limits, Selection, select
from segcore.config import MetricName
from segcore.data.images import write_image
from segcore.errors import UserError
from segcore.predicting.ensemble import write_bundle
from segcore.predicting.pictures import comparison, confusion_matrix_picture
from segcore.scores.intervals import bootstrap_interval
from segcore.scores.metrics import metric_of_each

PICTURES_PER_TRIAL = 4
SAMPLE_BYTES = 1 << 30
"""Of all candidates' probabilities together, in the driver's memory …"""
SAMPLE_PX = 200_000
"""… and no more pixels than that: members are weighed by it; what is reported counts all."""


@dataclass(frozen=True)
class BuiltEnsemble:
    """What a search found, and files of it for people to look at."""

    result: SearchResult
    checkpoints: dict[int, list[Path]]
    """Of the trials that could become members, by number: a folder for each network, here."""
    pictures: dict[int, Path]
    """Of the same trials, a folder of what each predicts on the validation split."""


Contender = tuple[TrialRow, tuple[StoredCheckpoint, ...]]
"""A trial that is to become a candidate, and its networks."""


def best_contenders(plan: Plan, rows: Sequence[TrialRow]) -> list[Contender]:
    """The trials (``rows`` come best first) that the ensemble chooses from, with their networks.

    Raises ``UserError`` where no trial got as far as a checkpoint.
    """
    chosen = choose_candidates(rows, plan.options.ensemble_candidates)
    stored = [(row, best_checkpoint(plan.run.trials, row.number)) for row in chosen]
    found: list[Contender] = [(row, (network,)) for row, network in stored if network is not None]
    if not found:
        raise UserError(
            f"{plan.run.address}: no trial finished an epoch, so there is nothing to ensemble; "
            "the trials' failures are above"
        )
    return found


def build_ensemble(plan: Plan, contenders: Sequence[Contender], slots: Slots) -> BuiltEnsemble:
    """Select members on the validation split, score them once on the test split, write the bundle.

    Contenders come best first; where they have a network for each fold, the validation split is all
    folds together, and each photograph is predicted by the networks that didn't train on it. All
    networks run on the cluster's workers. The ensemble stands in the bundle where it is better than
    the best single trial on all validation photographs *and* where ensembles were better, in the
    mean over bags, on the photographs that their bags had left out. Else the bundle holds that
    trial alone. What can't be computed (a damaged checkpoint, too little memory) is left out, and
    the result says so, as long as one trial is left.
    """
    metric, clock = plan.options.metric, _Clock()
    workers, losses = Workers(plan, slots), _Losses()
    with clock.timed("predict candidates"):
        candidates, pool = _predict_candidates(plan, contenders, workers, losses)
    pending = start_alternatives(candidates, workers, metric)
    if len(candidates[0].networks) > 1:
        pending += _start_unfolded(plan, contenders[0][0], candidates[0], workers)
    with clock.timed("select"):
        latency_s = tuple(candidate.prediction.latency_s for candidate in candidates)
        limits = Limits(plan.options.ensemble_members, _latency_limit_s(plan), latency_s)
        selection = select(pool, metric, limits, seed=plan.options.seed)
    with clock.timed("score"):
        verdict = _judge(candidates, selection, workers, metric, losses)
        alternatives = list(verdict.rejected)
        for name, finish in pending:
            with losses.noted(f"the {name} could not be scored"):
                alternatives += finish()
    result = _result(plan, candidates, selection, verdict, alternatives, losses, clock)
    return _write(plan, result, candidates, verdict.members)


def _start_unfolded(
    plan: Plan, best: TrialRow, any_candidate: Candidate, workers: Workers
) -> list[Pending]:
    """The search's best trial as the search trained it: what there would be without folds."""
    stored = best_checkpoint(plan.run.trials, best.number)
    if stored is None:
        return []
    alone = dataclasses.replace(any_candidate, row=best, networks=(stored,))
    finish = workers.start_scoring([(alone, 1.0)])
    name = f"trial {best.number} without folds"
    return [(name, lambda: [finish().named(name, plan.options.metric)])]


def _latency_limit_s(plan: Plan) -> float:
    limit_s = plan.options.ensemble_latency
    return math.inf if limit_s is None else limit_s


@dataclass(frozen=True)
class _Verdict:
    """What was chosen: an ensemble, or the best single candidate."""

    members: Mixture
    chosen: ScoredMixture
    single: ScoredMixture
    rejected: tuple[Alternative, ...]
    """The ensemble, where it wasn't chosen."""


def _judge(
    candidates: Sequence[Candidate],
    selection: Selection,
    workers: Workers,
    metric: MetricName,
    losses: "_Losses",
) -> _Verdict:
    mixture = [(c, w) for c, w in zip(candidates, selection.weights, strict=True) if w > 0]
    alone = [(candidates[0], 1.0)]
    finish_ensemble, finish_single = workers.start_scoring(mixture), workers.start_scoring(alone)
    single, name = finish_single(), f"ensemble of {len(mixture)} trials"
    rejected: tuple[Alternative, ...] = ()
    with losses.noted(f"the {name} could not be scored"):
        ensemble = finish_ensemble()
        better = ensemble.val.scores.metric(metric) > single.val.scores.metric(metric)
        if better and selection.expected_gain > 0:
            return _Verdict(mixture, ensemble, single, ())
        if len(mixture) > 1:
            rejected = (ensemble.named(name, metric),)
    return _Verdict(alone, single, single, rejected)


def _result(
    plan: Plan,
    candidates: Sequence[Candidate],
    selection: Selection,
    verdict: _Verdict,
    alternatives: Sequence[Alternative],
    losses: "_Losses",
    clock: "_Clock",
) -> SearchResult:
    metric, chosen = plan.options.metric, verdict.chosen
    return SearchResult(
        metric=metric,
        class_names=plan.data.class_names,
        val_photos=len(chosen.val.scores.counts_P3K),
        test_photos=len(chosen.test.scores.counts_P3K),
        members=tuple(Member(candidate.number, weight) for candidate, weight in verdict.members),
        folds=len(candidates[0].networks),
        ensemble=chosen.evaluated(),
        single=verdict.single.evaluated(),
        single_trial=candidates[0].number,
        expected_gain=None if math.isnan(selection.expected_gain) else selection.expected_gain,
        alternatives=tuple(alternatives),
        candidates=_candidate_scores(candidates, metric),
        photos=_photo_scores(plan, chosen.test),
        left_out=tuple(losses.sentences),
        seconds=clock.seconds,
    )


class _Losses:
    """What could not be computed, and why."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    @contextmanager
    def noted(self, sentence: str) -> Iterator[None]:
        """Take what a block raises as a reason to go on without it."""
        try:
            yield
        except Exception as error:  # of plug-ins, of damaged files, of workers that died
            self.sentences.append(f"{sentence}: {str(error).strip() or repr(error)}")


class _Clock:
    """Where the time went, by the name of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - started


def _predict_candidates(
    plan: Plan, contenders: Sequence[Contender], workers: Workers, losses: _Losses
) -> tuple[list[Candidate], Pool]:
    """The candidates, best first by the scores that they have now, and their probabilities."""
    data = plan.data
    part_items = [
        data.divided_for(network.info.config).items("val") for network in contenders[0][1]
    ]
    items_M = np.concatenate(part_items)
    pixel_bytes = len(contenders) * data.num_classes * np.dtype(np.uint16).itemsize
    pixels = draw_pixels(
        data.masks_MHW[items_M],
        data.photo_M[items_M],
        data.num_classes,
        limit=min(SAMPLE_PX, SAMPLE_BYTES // pixel_bytes),
        seed=plan.options.seed,
    )
    # Where each part begins, in pixels of all items; each counts its own from 0.
    firsts = np.cumsum([0, *map(len, part_items)]) * data.masks_MHW[0].size
    bounds = np.searchsorted(pixels.position_N, firsts)
    positions = [
        ray.put(pixels.position_N[low:high] - first)
        for low, high, first in zip(bounds[:-1], bounds[1:], firsts[:-1], strict=True)
    ]
    shown = _shown_items(items_M)
    tasks = [
        [
            workers.start(predict_candidate, network, workers.place, position_N, shown)
            for network, position_N in zip(networks, positions, strict=True)
        ]
        for _, networks in contenders
    ]
    predicted = []
    for (row, networks), parts in zip(contenders, tasks, strict=True):
        with losses.noted(f"trial {row.number} could not predict, and is no candidate"):
            answers: list[tuple[CandidatePrediction, ProbsNK]] = [finished(task) for task in parts]
            joined = CandidatePrediction.joined([prediction for prediction, _ in answers])
            probs_NK = np.concatenate([probs_NK for _, probs_NK in answers])
            predicted.append((Candidate(row, networks, joined), probs_NK))
    if not predicted:
        raise UserError(f"{plan.run.address}: there is no ensemble; {'; '.join(losses.sentences)}")
    metric = plan.options.metric
    predicted.sort(key=lambda pair: -pair[0].prediction.scores.metric(metric))
    limit_s = _latency_limit_s(plan)
    fast = [pair for pair in predicted if pair[0].prediction.latency_s <= limit_s]
    if not fast:
        quickest_s = min(candidate.prediction.latency_s for candidate, _ in predicted)
        raise UserError(
            f"--ensemble-latency {limit_s:g}: no trial predicts an image so fast; the fastest "
            f"candidate needs {quickest_s:.3g} s: allow more, or search smaller networks"
        )
    return [candidate for candidate, _ in fast], Pool.of(pixels, [probs_NK for _, probs_NK in fast])


def _candidate_scores(
    candidates: Sequence[Candidate], metric: MetricName
) -> tuple[CandidateScore, ...]:
    return tuple(
        CandidateScore(
            candidate.number, bootstrap_interval(candidate.prediction.scores.counts_P3K, metric)
        )
        for candidate in candidates
    )


def _photo_scores(plan: Plan, test: MixtureScores) -> tuple[PhotoScore, ...]:
    data = plan.data
    numbers = np.unique(data.photo_M[data.items("test")]).tolist()
    scores_P = metric_of_each("dice_per_image", test.scores.counts_P3K[:, None])
    return tuple(
        PhotoScore(data.photos[number], number, float(score), float(uncertainty))
        for number, score, uncertainty in zip(numbers, scores_P, test.uncertainty_P, strict=True)
    )


def _write(
    plan: Plan, result: SearchResult, candidates: Sequence[Candidate], members: Mixture
) -> BuiltEnsemble:
    fetched = plan.run.fetched
    folders = {
        candidate.number: [
            network.local(fetched / trial_name(candidate.number) / f"network_{number}")
            for number, network in enumerate(candidate.networks)
        ]
        for candidate in candidates
    }
    chosen = [folder for candidate, _ in members for folder in folders[candidate.number]]
    weights = [weight for _, weight in networks_of(members)]
    write_bundle(
        plan.run.ensemble,
        list(zip(chosen, weights, strict=True)),
        metric=result.metric,
        scores=_for_manifest(result),
    )
    pictures = {candidate.number: _write_pictures(plan, candidate) for candidate in candidates}
    result.write(plan.run.path)
    return BuiltEnsemble(result, folders, pictures)


def _shown_items(items_M: NDArray[np.int64]) -> list[int]:
    places = np.linspace(0, len(items_M) - 1, PICTURES_PER_TRIAL).round().astype(int)
    return [int(item) for item in np.unique(items_M[places])]


def _write_pictures(plan: Plan, candidate: Candidate) -> Path:
    """Confusion matrix, and image | truth | prediction of a few images of the validation split."""
    data, prediction = plan.data, candidate.prediction
    folder = plan.run.path / "pictures" / trial_name(candidate.number)
    folder.mkdir(parents=True, exist_ok=True)
    write_image(
        folder / "confusion_matrix.png",
        confusion_matrix_picture(prediction.scores.confusion_KK, data.class_names),
    )
    for item, class_HW in prediction.class_HW.items():
        picture = comparison(
            data.images_MHWC[item],
            data.masks_MHW[item],
            class_HW,
            data.class_names,
            data.class_colors,
        )
        write_image(folder / f"val_{item:05d}.png", picture)
    return folder


def _for_manifest(result: SearchResult) -> dict[str, Any]:
    """All scores of the ensemble and of the best single model, for ``bundle.json``."""

    def numbers(scores: SplitScores) -> dict[str, float]:
        return {name: interval.value for name, interval in scores.metrics.items()}

    def both(evaluated: Evaluated) -> dict[str, dict[str, float]]:
        return {"test": numbers(evaluated.test), "val": numbers(evaluated.val)}

    trials = {str(member.trial): member.weight for member in result.members}
    return {
        "test_photos": result.test_photos,
        "ensemble": {**both(result.ensemble), "trials": trials},
        "best_single": {**both(result.single), "trial": result.single_trial},
    }
