"""The driver's side of an ensemble's tasks: start them on the cluster, and wait for them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayTaskError

from search.ensembles.models import Model
from search.ensembles.tasks import Workplace, score_mixture
from search.planning.plan import Plan
from search.runs.result import PhotoScore, ScoredModel
from search.trials.cluster import Slots
from segcore.data.prepared import PreparedData
from segcore.scores.metrics import Scores, metric_of_each

Scored = tuple[ScoredModel, tuple[PhotoScore, ...]]
"""A model's scores on both splits, and those of each test photograph."""


class Workers:
    """Starts tasks on the cluster. Each gets as many CPUs and GPUs as a trial."""

    def __init__(self, plan: Plan, slots: Slots) -> None:
        self.place = Workplace(plan.data_on_nodes, slots.cpus_per_trial, slots.gpus_per_trial)
        self._data = plan.data
        self._resources = {"num_cpus": slots.cpus_per_trial, "num_gpus": slots.gpus_per_trial}

    def start(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Begin a function of ``search.ensembles.tasks``; ``finished`` waits for what it gives."""
        return ray.remote(function).options(**self._resources).remote(*arguments)

    def start_scoring(self, model: Model) -> Callable[[], Scored]:
        """Begin to score a model on both splits. Call what this returns to wait for the scores.

        The validation split of each fold is predicted by that fold's networks.
        """
        val = [
            self.start(score_mixture, model.fold_networks(fold), self.place, "val")
            for fold in range(model.folds)
        ]
        test = self.start(score_mixture, model.all_networks(), self.place, "test")

        def finish() -> Scored:
            val_scores = Scores.joined([finished(task)[0] for task in val])
            test_scores, uncertainty_P = finished(test)
            photos = _photo_scores(self._data, test_scores, uncertainty_P)
            return model.scored(val_scores, test_scores), photos

        return finish


def finished(task: Any) -> Any:
    """Wait for what ``Workers.start`` began. Raises what the function raised, as it was."""
    try:
        return ray.get(task)
    except RayTaskError as error:
        raise error.cause from error


class Losses:
    """What could not be computed, and why."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    @contextmanager
    def noted(self, sentence: str) -> Iterator[None]:
        """Go on after an error in the block, and note it as the reason for ``sentence``."""
        try:
            yield
        except Exception as error:  # of plug-ins, of damaged files, of workers that died
            self.sentences.append(f"{sentence}: {str(error).strip() or repr(error)}")


def _photo_scores(
    data: PreparedData, test: Scores, uncertainty_P: NDArray[np.float64]
) -> tuple[PhotoScore, ...]:
    numbers: Sequence[int] = np.unique(data.photo_M[data.items("test")]).tolist()
    scores_P = metric_of_each("dice_per_image", test.counts_P3K[:, None])
    return tuple(
        PhotoScore(data.photos[number], number, float(score), float(uncertainty))
        for number, score, uncertainty in zip(numbers, scores_P, uncertainty_P, strict=True)
    )
