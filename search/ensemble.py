"""From finished trials to a bundle, with a score from images that nothing before has seen."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from search.cluster import Slots
from search.leaderboard import TrialRow
from search.plan import Plan
from search.trial import best_checkpoint
from segcore.cache import PreparedData, open_prepared
from segcore.ensemble import (
    ProbsMKHW,
    Selection,
    greedy_selection,
    load_network,
    score_probs,
    write_bundle,
)
from segcore.errors import UserError
from segcore.images import write_image
from segcore.inference import batch_probs
from segcore.loading import plain_loader
from segcore.metrics import METRICS, Scores
from segcore.pictures import comparison, confusion_matrix_picture
from segcore.splits import Split

PICTURES_PER_TRIAL = 4


@dataclass(frozen=True)
class Candidate:
    """A trial's best checkpoint."""

    number: int
    folder: Path


@dataclass(frozen=True)
class Evaluation:
    """A model's scores on both splits."""

    val: Scores
    test: Scores


@dataclass(frozen=True)
class EnsembleResult:
    """The members, and how good they really are.

    ``val`` scores are too good: trials and members were chosen by them. ``test`` scores come from
    images that nothing before has seen.
    """

    members: tuple[tuple[int, float], ...]
    """Trial numbers and weights; the weights sum to 1."""
    ensemble: Evaluation
    single_number: int
    """The trial that is best on the validation split: what one would use without an ensemble."""
    single: Evaluation
    test_photos: int
    checkpoints: dict[int, Path]
    """Of the trials that could become members, by number."""
    pictures: dict[int, Path]
    """Of the same trials, a folder of what each predicts on the validation split."""


def build_ensemble(plan: Plan, rows: Sequence[TrialRow], slots: Slots) -> EnsembleResult:
    """Select members on the validation split, score them once on the test split, write the bundle.

    ``rows`` come best first. Predictions are made on the cluster's workers, one task a candidate.
    Raises ``UserError`` where no trial got as far as a checkpoint.
    """
    candidates = _candidates(plan, rows)
    work = plan.run.path / "predictions.partial"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        return _build(plan, candidates, slots, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _build(plan: Plan, candidates: list[Candidate], slots: Slots, work: Path) -> EnsembleResult:
    metric = plan.options.metric
    val = _Predictions.make(plan, candidates, "val", slots, work)
    single_val = [val.score([(1.0, i)]) for i in range(len(candidates))]
    selection = greedy_selection(val.candidates, val.masks_MHW, val.photo_M, metric)
    weights = _weights(selection)
    single = int(np.argmax([scores.metric(metric) for scores in single_val]))

    used = sorted({single, *(i for i, weight in enumerate(weights) if weight > 0)})
    test = _Predictions.make(plan, [candidates[i] for i in used], "test", slots, work)
    members = [(i, weights[i]) for i in used if weights[i] > 0]
    result = EnsembleResult(
        members=tuple((candidates[i].number, weight) for i, weight in members),
        ensemble=Evaluation(
            val.score([(weight, i) for i, weight in members]),
            test.score([(weight, used.index(i)) for i, weight in members]),
        ),
        single_number=candidates[single].number,
        single=Evaluation(single_val[single], test.score([(1.0, used.index(single))])),
        test_photos=len(np.unique(test.photo_M)),
        checkpoints={candidate.number: candidate.folder for candidate in candidates},
        pictures={
            candidate.number: _write_pictures(plan, candidate, val, i, single_val[i])
            for i, candidate in enumerate(candidates)
        },
    )
    write_bundle(
        plan.run.ensemble,
        [(candidates[i].folder, weight) for i, weight in members],
        metric=metric,
        scores=_for_manifest(result),
    )
    return result


def _candidates(plan: Plan, rows: Sequence[TrialRow]) -> list[Candidate]:
    candidates: list[Candidate] = []
    for row in rows:
        if row.score is not None and len(candidates) < plan.options.ensemble_candidates:
            folder = best_checkpoint(plan.run.trials, row.number)
            if folder is not None:
                candidates.append(Candidate(row.number, folder))
    if not candidates:
        raise UserError(
            f"{plan.run.path}: no trial finished an epoch, so there is nothing to ensemble; "
            "the trials' failures are above"
        )
    return candidates


@dataclass(frozen=True)
class _Predictions:
    """Candidates' probabilities of one split, mapped from disk, beside the truth."""

    candidates: list[ProbsMKHW]
    items_M: NDArray[np.int64]
    masks_MHW: NDArray[np.uint8]
    photo_M: NDArray[np.int32]

    @classmethod
    def make(
        cls, plan: Plan, candidates: Sequence[Candidate], split: Split, slots: Slots, work: Path
    ) -> "_Predictions":
        """Predict on the cluster: each candidate's probabilities become a file in ``work``."""
        task = ray.remote(_predict).options(
            num_cpus=slots.cpus_per_trial, num_gpus=slots.gpus_per_trial
        )
        files = ray.get(
            [
                task.remote(
                    candidate.folder.resolve(),
                    plan.data.folder,
                    split,
                    (work / f"{split}_{candidate.number:04d}.npy").resolve(),
                    cpus=slots.cpus_per_trial,
                    use_gpu=slots.gpus_per_trial > 0,
                )
                for candidate in candidates
            ]
        )
        items_M = plan.data.items(split)
        return cls(
            [np.load(file, mmap_mode="r", allow_pickle=False) for file in files],
            items_M,
            plan.data.masks_MHW[items_M],
            plan.data.photo_M[items_M],
        )

    def score(self, weighted: Sequence[tuple[float, int]]) -> Scores:
        """Scores of a weighted mean of candidates, given as (weight, position)."""
        parts = [(weight, self.candidates[i]) for weight, i in weighted]
        return score_probs(parts, self.masks_MHW, self.photo_M)


def _predict(
    checkpoint: Path, data_folder: Path, split: Split, out: Path, *, cpus: int, use_gpu: bool
) -> Path:
    """On a worker: write ``probs_MKHW`` float16 of a split's items to ``out``."""
    torch.set_num_threads(cpus)
    device = torch.device("cuda" if use_gpu else "cpu")
    data = open_prepared(data_folder)
    # The driver checked this configuration's plug-ins; they are this user's own.
    network = load_network(checkpoint, device, allow_plugins=True)
    items_M = data.items(split)
    shape = (len(items_M), data.num_classes, *data.masks_MHW.shape[1:])
    probs_MKHW = np.lib.format.open_memmap(out, mode="w+", dtype=np.float16, shape=shape)
    done = 0
    for image_NCHW, _, _ in plain_loader(data, items_M, batch_size=4, workers=0, pin_memory=False):
        probs_NKHW = batch_probs(network, image_NCHW, device).cpu().numpy()
        probs_MKHW[done : done + len(probs_NKHW)] = probs_NKHW
        done += len(probs_NKHW)
    probs_MKHW.flush()
    return out


def _weights(selection: Selection) -> list[float]:
    return [count / sum(selection.counts) for count in selection.counts]


def _write_pictures(
    plan: Plan, candidate: Candidate, val: _Predictions, position: int, scores: Scores
) -> Path:
    """Confusion matrix, and image | truth | prediction of a few images of the validation split."""
    data: PreparedData = plan.data
    folder = plan.run.path / "pictures" / candidate.folder.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    write_image(
        folder / "confusion_matrix.png",
        confusion_matrix_picture(scores.confusion_KK, data.class_names),
    )
    for m in np.linspace(0, len(val.items_M) - 1, PICTURES_PER_TRIAL).round().astype(int):
        item = val.items_M[m]
        picture = comparison(
            data.images_MHWC[item],
            data.masks_MHW[item],
            val.candidates[position][m].argmax(axis=0).astype(np.uint8),
            data.class_names,
            data.class_colors,
        )
        write_image(folder / f"val_{item:05d}.png", picture)
    return folder


def _for_manifest(result: EnsembleResult) -> dict[str, Any]:
    """All scores of the ensemble and of the best single model, for ``bundle.json``."""

    def numbers(scores: Scores) -> dict[str, float]:
        return {name: scores.metric(name) for name in METRICS}

    return {
        "test_photos": result.test_photos,
        "ensemble": {
            "test": numbers(result.ensemble.test),
            "val": numbers(result.ensemble.val),
            "trials": {str(number): weight for number, weight in result.members},
        },
        "best_single": {
            "test": numbers(result.single.test),
            "val": numbers(result.single.val),
            "trial": result.single_number,
        },
    }
