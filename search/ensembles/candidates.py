"""What each trial says of the validation split: by that the ensemble's members are chosen."""

from collections.abc import Sequence

import numpy as np
import ray

from search.ensembles.models import Model
from search.ensembles.tasks import TrialPrediction, predict_trial
from search.ensembles.workers import Losses, Workers, finished
from search.planning.plan import Plan
from segcore.choosing.pool import PixelSample, Pool, ProbsNK, draw_pixels, split_positions
from segcore.errors import UserError

PICTURES_PER_TRIAL = 4

SAMPLE_BYTES = 1 << 30
"""What all candidates' probabilities together may take in the driver's memory …"""
SAMPLE_PX = 200_000
"""… and the most pixels that are drawn. Only the choice of members depends on this sample: reported
scores count all pixels."""

Candidate = tuple[Model, TrialPrediction]
"""A trial that may become a member, and what it says."""


def predict_candidates(
    plan: Plan, trials: Sequence[Model], workers: Workers, losses: Losses
) -> tuple[list[Candidate], Pool]:
    """Have all trials predict. The candidates come best first, with their probabilities in a pool.

    A trial that can't predict is left out and noted in ``losses``; one that is slower than
    ``--ensemble-latency`` is left out too. Raises ``UserError`` where none is left.
    """
    # With --folds the validation split is all folds together, one after the other.
    parts = [
        plan.data.divided_for(network.info.config).items("val")
        for network in trials[0].networks[trials[0].number]
    ]
    items_M = np.concatenate(parts)
    pixels = _draw(plan, items_M, len(trials))
    item_px = plan.data.masks_MHW[0].size
    positions = [
        ray.put(position_N)
        for position_N in split_positions(
            pixels.position_N, [len(part_M) * item_px for part_M in parts]
        )
    ]
    places = np.linspace(0, len(items_M) - 1, PICTURES_PER_TRIAL).round().astype(int)
    shown = np.unique(items_M[places]).tolist()
    tasks = [
        [
            workers.start(predict_trial, network, workers.place, position_N, shown)
            for network, position_N in zip(trial.networks[trial.number], positions, strict=True)
        ]
        for trial in trials
    ]
    predicted: list[tuple[Candidate, ProbsNK]] = []
    for trial, folds in zip(trials, tasks, strict=True):
        with losses.noted(f"{trial.name} could not predict, and is no candidate"):
            answers: list[tuple[TrialPrediction, ProbsNK]] = [finished(task) for task in folds]
            joined = TrialPrediction.joined([prediction for prediction, _ in answers])
            probs_NK = np.concatenate([probs_NK for _, probs_NK in answers])
            predicted.append(((trial, joined), probs_NK))
    if not predicted:
        raise UserError(f"{plan.run.address}: there is no ensemble; {'; '.join(losses.sentences)}")
    predicted.sort(key=lambda pair: -pair[0][1].scores.metric(plan.options.metric))
    fast = _fast_enough(predicted, plan.options.ensemble_latency)
    return [candidate for candidate, _ in fast], Pool.of(pixels, [probs_NK for _, probs_NK in fast])


def _draw(plan: Plan, items_M: np.ndarray, candidates: int) -> PixelSample:
    data = plan.data
    pixel_bytes = candidates * data.num_classes * np.dtype(np.uint16).itemsize
    return draw_pixels(
        data.masks_MHW[items_M],
        data.photo_M[items_M],
        data.num_classes,
        limit=min(SAMPLE_PX, SAMPLE_BYTES // pixel_bytes),
        seed=plan.options.seed,
    )


def _fast_enough(
    predicted: list[tuple[Candidate, ProbsNK]], limit_s: float | None
) -> list[tuple[Candidate, ProbsNK]]:
    if limit_s is None:
        return predicted
    fast = [pair for pair in predicted if pair[0][1].latency_s <= limit_s]
    if not fast:
        quickest_s = min(prediction.latency_s for (_, prediction), _ in predicted)
        raise UserError(
            f"--ensemble-latency {limit_s:g}: no trial predicts an image so fast; the fastest "
            f"candidate needs {quickest_s:.3g} s: allow more, or search smaller networks"
        )
    return fast
