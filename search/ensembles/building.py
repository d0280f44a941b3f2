"""From finished trials to a bundle whose score comes from photographs that nothing saw before."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.ensembles.candidates import Candidate, predict_candidates
from search.ensembles.mixtures import start_alternatives
from search.ensembles.models import Model
from search.ensembles.tasks import Prediction
from search.ensembles.workers import Losses, Scored, Workers
from search.planning.plan import Plan
from search.runs.result import PhotoScore, ScoredModel, SearchResult
from search.trials.cluster import Slots
from search.trials.worker import trial_name
from segcore.choosing.selection import Limits, Selection, select
from segcore.data.windows import Grid
from segcore.inference.scoring import prepared_picture
from segcore.predicting.ensemble import write_bundle
from segcore.predicting.pictures import comparison, confusion_matrix_picture
from segcore.reading.images import write_image
from segcore.scores.intervals import Evaluation, score_interval
from segcore.scores.metrics import metric_of_each


@dataclass(frozen=True)
class BuiltEnsemble:
    """What a search found, and files of it for people to look at."""

    result: SearchResult
    checkpoints: dict[int, list[Path]]
    """Of each candidate, by the trial's number: the local folder of each of its networks."""
    pictures: dict[int, Path]
    """Of each candidate a folder of what it predicts on the validation split."""


def build_ensemble(plan: Plan, trials: Sequence[Model], slots: Slots) -> BuiltEnsemble:
    """Select members on the validation split, score them once on the test split, write the bundle.

    ``trials`` come best first. Where they have a network for each fold, the validation split is all
    folds together, and each photograph is predicted by the networks that weren't trained on it. All
    networks run on the cluster's workers. What can't be computed, for example because a checkpoint
    is damaged or memory is too small, is left out as long as one trial is left; the result says so.
    """
    metric, clock = plan.options.metric, _Clock()
    workers, losses = Workers(plan, slots), Losses()
    with clock.timed("predict candidates"):
        candidates, pool = predict_candidates(plan, trials, workers, losses)
    models = [model for model, _ in candidates]
    pending = start_alternatives(plan, trials[0], models, workers)
    with clock.timed("select"):
        limit_s = plan.options.ensemble_latency
        latency_s = tuple(said.latency_s for _, said in candidates)
        limits = Limits(
            plan.options.ensemble_members, math.inf if limit_s is None else limit_s, latency_s
        )
        selection = select(pool, metric, limits, seed=plan.options.seed)
    with clock.timed("score"):
        chosen, (scored, on_test), single, alternatives = _judge(
            plan, models, selection, workers, losses
        )
        for name, finish in pending:
            with losses.noted(f"the {name} could not be scored"):
                alternatives += filter(None, [finish()])
    result = SearchResult(
        metric=metric,
        class_names=plan.data.class_names,
        ensemble=scored,
        single=single,
        expected_gain=None if math.isnan(selection.expected_gain) else selection.expected_gain,
        alternatives=tuple(alternatives),
        candidates={
            model.number: score_interval(said.scores.counts_P3K, metric, said.scores.groups)
            for model, said in candidates
        },
        photos=_photo_scores(plan, on_test),
        seconds=clock.seconds,
        left_out=tuple(losses.sentences),
        folds=chosen.folds,
    )
    return _write(plan, result, candidates, chosen)


def _judge(
    plan: Plan,
    candidates: Sequence[Model],
    selection: Selection,
    workers: Workers,
    losses: Losses,
) -> tuple[Model, Scored, ScoredModel, list[ScoredModel]]:
    """Choose the selected ensemble where two things hold, and else the best single trial.

    The ensemble must be better than that trial on all validation photographs. And ensembles must
    have been better, on average over the bags, on the photographs that their bags had left out.
    Gives what was chosen and its scores, those of the single trial, and a rejected ensemble's.
    """
    metric, alone = plan.options.metric, candidates[0]
    members = sum(weight > 0 for weight in selection.weights)
    mixture = Model.mean_of(f"ensemble of {members} trials", candidates, selection.weights)
    finish_mixture, finish_alone = workers.start_scoring(mixture), workers.start_scoring(alone)
    single, rejected = finish_alone(), []
    with losses.noted(f"the {mixture.name} could not be scored"):
        ensemble = finish_mixture()
        better = ensemble[0].val.metrics[metric].value > single[0].val.metrics[metric].value
        if better and selection.expected_gain > 0:
            return mixture, ensemble, single[0], []
        if members > 1:
            rejected = [ensemble[0]]
    return alone, single, single[0], rejected


def _photo_scores(plan: Plan, test: Prediction) -> tuple[PhotoScore, ...]:
    data = plan.data
    numbers = data.of_split("test").tolist()
    scores_P = metric_of_each("dice_per_image", test.scores.counts_P3K[:, None]).tolist()
    return tuple(
        PhotoScore(data.photos[number], number, score, uncertainty)
        for number, score, uncertainty in zip(
            numbers, scores_P, test.uncertainty_P.tolist(), strict=True
        )
    )


class _Clock:
    """Where the time went, by the name of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - started


def _write(
    plan: Plan, result: SearchResult, candidates: Sequence[Candidate], chosen: Model
) -> BuiltEnsemble:
    folders = {
        model.number: [
            network.local(plan.run.fetched / trial_name(model.number) / f"network_{fold}")
            for fold, network in enumerate(model.networks[model.number])
        ]
        for model, _ in candidates
    }
    chosen_folders = [folder for number in chosen.trials for folder in folders[number]]
    weights = [weight for _, weight in chosen.all_networks()]
    write_bundle(
        plan.run.ensemble,
        list(zip(chosen_folders, weights, strict=True)),
        metric=result.metric,
        scores=_for_manifest(result),
    )
    pictures = {candidate[0].number: _write_pictures(plan, candidate) for candidate in candidates}
    return BuiltEnsemble(result.write(plan.run.path), folders, pictures)


def _write_pictures(plan: Plan, candidate: Candidate) -> Path:
    """Confusion matrix, and image | truth | prediction of a few validation photographs."""
    data, (model, said) = plan.data, candidate
    folder = plan.run.path / "pictures" / trial_name(model.number)
    folder.mkdir(parents=True, exist_ok=True)
    matrix = confusion_matrix_picture(said.scores.confusion_KK, data.class_names)
    write_image(folder / "confusion_matrix.png", matrix)
    for photo, class_HW in said.class_HW.items():
        image_HWC, truth_HW = prepared_picture(data, photo, Grid(*class_HW.shape))
        picture = comparison(image_HWC, truth_HW, class_HW, data.class_names, data.class_colors)
        write_image(folder / f"val_{photo:05d}.png", picture)
    return folder


def _for_manifest(result: SearchResult) -> dict[str, Any]:
    """The scores of what was chosen and of the best single trial, for ``bundle.json``."""

    def numbers(evaluation: Evaluation) -> dict[str, float]:
        return {name: interval.value for name, interval in evaluation.metrics.items()}

    def both(model: ScoredModel) -> dict[str, Any]:
        return {"test": numbers(model.test), "val": numbers(model.val)}

    return {
        "test_photos": result.ensemble.test.photos,
        "test_units": result.ensemble.test.units,
        "ensemble": {**both(result.ensemble), "trials": result.ensemble.trials},
        "best_single": {**both(result.single), "trial": result.single.number},
    }
