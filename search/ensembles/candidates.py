"""What each trial says of the validation split, by which models are made of them and chosen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ray

from search.ensembles.models import Model
from search.ensembles.tasks import Prediction, predict
from search.ensembles.workers import Losses, Workers
from search.planning.plan import Plan
from segcore.choosing.left_out import Bags
from segcore.choosing.pool import PixelSample, Pool, ProbsNK, draw_pixels, split_positions
from segcore.errors import UserError

PICTURES_PER_TRIAL = 4

SAMPLE_BYTES = 1 << 30
"""What all candidates' probabilities together may take in the driver's memory …"""
SAMPLE_PX = 200_000
"""… and the most pixels that are drawn. Only the choice of members depends on this sample: reported
scores count all pixels."""

Candidate = tuple[Model, Prediction]
"""A trial that may become a member, and what it says."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """All candidates, and what models that are made of them are compared on."""

    best_first: list[Candidate]
    pixels: PixelSample
    pool: Pool
    """Their probabilities at the sampled pixels."""
    bags: Bags

    @property
    def models(self) -> list[Model]:
        """Each trial alone, the best first."""
        return [model for model, _ in self.best_first]


def predict_candidates(
    plan: Plan, trials: Sequence[Model], workers: Workers, losses: Losses
) -> Candidates:
    """Have all trials predict the validation split.

    A trial that can't predict is left out and noted in ``losses``; one that is slower than
    ``--ensemble-latency`` is left out too. Raises ``UserError`` where none is left.
    """
    data, metric = plan.data, plan.options.metric
    # With --folds the validation split is all folds together, one after the other.
    networks, _ = trials[0].members[0]
    folds = [data.divided_for(network.info.config).of_split("val") for network in networks]
    photos = np.concatenate(folds).tolist()
    masks = [data.score_mask(photo) for photo in photos]
    pixel_bytes = len(trials) * data.num_classes * np.dtype(np.uint16).itemsize
    limit = min(SAMPLE_PX, SAMPLE_BYTES // pixel_bytes)
    pixels = draw_pixels(masks, data.num_classes, limit=limit, seed=plan.options.seed)
    fold_px = [sum(data.plans[p].score_grid.area_px for p in fold_P) for fold_P in folds]
    positions = [ray.put(each_N) for each_N in split_positions(pixels.position_N, fold_px)]
    places = np.linspace(0, len(photos) - 1, PICTURES_PER_TRIAL).round().astype(int)
    shown = sorted({photos[place] for place in places})
    workers.begin("choosing: predicting with each trial")
    tasks = [
        [
            workers.start(predict, network, "val", position_N, shown)
            for network, position_N in zip(trial.members[0][0], positions, strict=True)
        ]
        for trial in trials
    ]
    predicted: list[tuple[Candidate, ProbsNK]] = []
    for trial, parts in zip(trials, tasks, strict=True):
        with losses.noted(f"{trial.name} could not predict, and is no candidate"):
            said, probs = zip(*(workers.finished(task) for task in parts), strict=True)
            predicted.append(((trial, Prediction.joined(said)), np.concatenate(probs)))
    if not predicted:
        raise UserError(f"{plan.run.address}: there is no ensemble; {'; '.join(losses.sentences)}")
    predicted.sort(key=lambda pair: -pair[0][1].scores.metric(metric))
    predicted = _fast_enough(predicted, plan.options.ensemble_latency)
    units = [data.photo_groups[photo] for photo in photos]
    return Candidates(
        [candidate for candidate, _ in predicted],
        pixels,
        Pool.of(pixels, [probs_NK for _, probs_NK in predicted]),
        Bags.draw(photos, units, seed=plan.options.seed),
    )


def _fast_enough(
    predicted: list[tuple[Candidate, ProbsNK]], limit_s: float | None
) -> list[tuple[Candidate, ProbsNK]]:
    if limit_s is None:
        return predicted
    fast = [pair for pair in predicted if pair[0][1].latency_s <= limit_s]
    if not fast:
        quickest_s = min(said.latency_s for (_, said), _ in predicted)
        raise UserError(
            f"--ensemble-latency {limit_s:g}: no trial predicts a photograph so fast; the fastest "
            f"candidate needs {quickest_s:.3g} s: allow more, or search smaller networks"
        )
    return fast
