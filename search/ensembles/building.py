"""From finished trials to a bundle whose score comes from photographs that nothing saw before."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.ensembles.candidates import Candidate
from search.ensembles.drafts import Draft, draft_models
from search.ensembles.models import Model
from search.ensembles.reasons import reason
from search.ensembles.tasks import Prediction, Said
from search.ensembles.workers import Losses, Scored, Workers
from search.planning.plan import Plan
from search.runs.checkpoints import best_checkpoint, trial_name
from search.runs.repeats import read_repeats
from search.runs.result import Alternative, LeftOutScore, PhotoScore, SearchResult
from search.runs.rows import TrialRow
from search.trials.cluster import Slots
from search.trials.keeping import choose_candidates
from search.trials.line import Line
from segcore.choosing.choice import Choice, choose
from segcore.choosing.selection import least_score
from segcore.config import MetricName
from segcore.data.prepared import PreparedData
from segcore.data.windows import Grid
from segcore.errors import UserError
from segcore.inference.scoring import prepared_picture
from segcore.predicting.ensemble import write_bundle
from segcore.predicting.pictures import comparison, confusion_matrix_picture
from segcore.reading.images import write_image
from segcore.scores.intervals import Evaluation, score_interval
from segcore.scores.metrics import metric_of_each

ALWAYS_CANDIDATES = 3
"""So many of the best trials are candidates, however little the others know."""


@dataclass(frozen=True)
class BuiltEnsemble:
    """What a search found, and files of it for people to look at."""

    result: SearchResult
    candidates: list["CandidateFiles"]


@dataclass(frozen=True)
class CandidateFiles:
    """What there is to look at of a trial that could become a member."""

    number: int
    training: str
    """As ``Model.training`` says."""
    networks: list[Path]
    """The local folder of each of its networks' checkpoints."""
    pictures: Path
    """A folder of what it predicts on the validation split."""


def best_trials(plan: Plan, rows: Sequence[TrialRow]) -> list[Model]:
    """The trials (``rows`` come best first) from which the ensemble is chosen.

    Raises ``UserError`` where no trial has a checkpoint.
    """
    pixels_PK = plan.data.class_pixels_PK[plan.data.of_split("val")]
    rows = worth_predicting(rows, plan.options.metric, pixels_PK)
    found = []
    for row in choose_candidates(rows, plan.options.ensemble_candidates):
        stored = best_checkpoint(plan.run.trials, row.number)
        if stored is not None:
            found.append(Model.of_trial(row.number, [stored]))
    if not found:
        raise UserError(
            f"{plan.run.address}: no trial finished an epoch, so there is nothing to ensemble; "
            "the trials' failures are above"
        )
    return found


def worth_predicting(
    rows: Sequence[TrialRow], metric: MetricName, pixels_PK: NDArray[np.int64]
) -> list[TrialRow]:
    """The trials that know enough to be members, of ``rows``, which come best first.

    The others would be turned down after they have predicted the whole validation split, which has
    ``pixels_PK`` of each class in each photograph. The best few stay in any case: the checkpoint of
    the very best may be damaged.
    """
    scored = [(row.score, row) for row in rows if row.score is not None]
    if not scored:
        return []
    least = least_score(metric, scored[0][0], pixels_PK)
    return [
        row
        for place, (score, row) in enumerate(scored)
        if place < ALWAYS_CANDIDATES or score >= least
    ]


def build_ensemble(
    plan: Plan, families: Sequence[Sequence[Model]], slots: Slots, line: Line
) -> BuiltEnsemble:
    """Make models of the trials, score each once on the test split, and write one as the bundle.

    A family is a list of trials, the best first: those of the search itself, with --repeats also
    those with other seeds, and with --folds a second family of those that were trained anew on
    every fold. There the validation split is all folds together, and each photograph is predicted
    by the networks that weren't trained on it. The models of all families compete with each other,
    by what they score on validation photographs that were left out when they were made.

    All networks run on the cluster's workers. What can't be computed, for example because a
    checkpoint is damaged or memory is too small, is left out as long as one trial is left; the
    result says so.
    """
    metric, prefer, clock = plan.options.metric, plan.options.prefer, _Clock()
    workers, losses = Workers(plan, slots, line), Losses()
    with clock.timed("make models of the trials"):
        found, drafts = draft_models(plan, families[0], workers, losses)
        candidates = list(found.best_first)
        for trials in families[1:]:
            with losses.noted("the trials on folds could not compete"):
                found, of_family = draft_models(plan, trials, workers, losses)
                candidates += found.best_first
                drafts += of_family
    with clock.timed("score the models"):
        drafts, scored = _score(drafts, workers, losses)
    choice = choose(
        [draft.left_out for draft in drafts],
        [draft.cost.seconds_per_mpx for draft in drafts],
        metric,
        prefer,
    )
    result = SearchResult(
        metric=metric,
        class_names=plan.data.class_names,
        alternatives=_alternatives(plan, drafts, scored, choice),
        taken=choice.taken,
        prefer=prefer,
        why=reason(drafts, choice, metric, prefer),
        candidates={
            model.name: score_interval(said.scores.counts_P3K, metric, said.scores.groups)
            for model, said in candidates
        },
        photos=_photo_scores(plan, scored[choice.taken][1]),
        seed_noise=read_repeats(plan.run).noise,
        seconds=clock.seconds,
        left_out=tuple(losses.sentences),
    )
    line.step("writing the bundle")
    return _write(plan, result, candidates, drafts[choice.taken].model)


def _score(
    drafts: Sequence[Draft], workers: Workers, losses: Losses
) -> tuple[list[Draft], list[Scored]]:
    """The models that could be scored."""
    workers.begin("choosing: scoring the models")
    with contextlib.suppress(Exception):  # which model it is that can't is seen one by one
        return list(drafts), workers.score([draft.model for draft in drafts])
    workers.begin("choosing: scoring the models one by one")
    kept = [drafts[0]]
    scored = workers.score([drafts[0].model])  # without the best single trial there is nothing
    for draft in drafts[1:]:
        with losses.noted(f"{draft.model.name} could not be scored"):
            scored += workers.score([draft.model])
            kept.append(draft)
    return kept, scored


def _alternatives(
    plan: Plan, drafts: Sequence[Draft], scored: Sequence[Scored], choice: Choice
) -> tuple[Alternative, ...]:
    names = plan.data.class_names
    return tuple(
        Alternative(
            name=model.name,
            trials=model.trials,
            factors=None if model.factors is None else dict(zip(names, model.factors, strict=True)),
            cost=draft.cost,
            left_out=None
            if not draft.left_out.photos
            else LeftOutScore(
                draft.left_out.score(plan.options.metric),
                behind.value,
                behind.error if math.isfinite(behind.error) else None,
            ),
            val=val,
            test=Evaluation.of(test.scores),
            folds=model.folds,
        )
        for draft, (val, test), behind in zip(drafts, scored, choice.behind, strict=True)
        for model in [draft.model]
    )


def _photo_scores(plan: Plan, test: Said) -> tuple[PhotoScore, ...]:
    data = plan.data
    numbers = data.of_split("test").tolist()
    scores_P = metric_of_each("dice_per_image", test.scores.counts_P3K[:, None]).tolist()
    return tuple(
        PhotoScore(data.photos[number], number, None if math.isnan(score) else score, uncertainty)
        for number, score, uncertainty in zip(
            numbers, scores_P, test.uncertainty_P.tolist(), strict=True
        )
    )


class _Clock:
    """Where the time went, by the name of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - started


def _write(
    plan: Plan, result: SearchResult, candidates: Sequence[Candidate], chosen: Model
) -> BuiltEnsemble:
    members = [
        (network.local(plan.run.fetched / "chosen" / str(place)), weight)
        for place, (network, weight) in enumerate(chosen.all_networks())
    ]
    write_bundle(
        plan.run.ensemble,
        members,
        metric=result.metric,
        scores=_for_manifest(result),
        factors=result.ensemble.factors,
    )
    files = [_candidate_files(plan, candidate) for candidate in candidates]
    return BuiltEnsemble(result.write(plan.run.path), files)


def _candidate_files(plan: Plan, candidate: Candidate) -> CandidateFiles:
    model, said = candidate
    folder, training = trial_name(model.trial.number), model.training
    name = f"{folder}_{training}" if training else folder
    networks = [
        network.local(plan.run.fetched / name / f"network_{fold}")
        for fold, network in enumerate(model.members[0][0])
    ]
    pictures = plan.run.path / "pictures" / name
    _write_pictures(pictures, plan.data, said)
    return CandidateFiles(model.trial.number, training, networks, pictures)


def _write_pictures(folder: Path, data: PreparedData, said: Prediction) -> None:
    """Confusion matrix, and image | truth | prediction of a few validation photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    matrix = confusion_matrix_picture(said.scores.confusion_KK, data.class_names)
    write_image(folder / "confusion_matrix.png", matrix)
    for photo, class_HW in said.class_HW.items():
        image_HWC, truth_HW = prepared_picture(data, photo, Grid(*class_HW.shape))
        picture = comparison(image_HWC, truth_HW, class_HW, data.class_names, data.class_colors)
        write_image(folder / f"val_{photo:05d}.png", picture)


def _for_manifest(result: SearchResult) -> dict[str, Any]:
    """The scores of what was chosen and of the best single trial, for ``bundle.json``."""

    def numbers(evaluation: Evaluation) -> dict[str, float]:
        return {name: interval.value for name, interval in evaluation.metrics.items()}

    def both(model: Alternative) -> dict[str, Any]:
        weights = {trial.label: trial.weight for trial in model.trials}
        return {"test": numbers(model.test), "val": numbers(model.val), "trials": weights}

    return {
        "test_photos": result.ensemble.test.photos,
        "test_units": result.ensemble.test.units,
        "ensemble": both(result.ensemble),
        "best_single": both(result.single),
        "why": result.why,
    }
