"""The driver's side of an ensemble's tasks: start them on the cluster, and wait for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayTaskError

from search.ensembles.models import Model
from search.ensembles.tasks import NO_PIXELS, Prediction, Workplace, predict
from search.planning.plan import Plan
from search.reporting.terminal import Line
from search.trials.cluster import Slots
from segcore.scores.intervals import Evaluation

Scored = tuple[Evaluation, Prediction]
"""A model's scores on the validation split, and what it says of the test split."""


class Workers:
    """Starts tasks on the cluster, and waits for them. Each has as many CPUs and GPUs as a trial.

    The line shows how many are done.
    """

    def __init__(self, plan: Plan, slots: Slots, line: Line) -> None:
        self._line, self._phase = line, ""
        self._done = self._started = 0
        self._place = Workplace(plan.data_on_nodes, slots.cpus_per_trial, slots.gpus_per_trial)
        self._resources = {"num_cpus": slots.cpus_per_trial, "num_gpus": slots.gpus_per_trial}

    def begin(self, phase: str) -> None:
        """Name what the next tasks are for."""
        self._phase, self._done, self._started = phase, 0, 0
        self._line.step(phase)

    def start(self, function: Callable[..., Any], networks: Any, *arguments: Any) -> Any:
        """Begin a function of ``search.ensembles.tasks``; ``finished`` waits for what it gives."""
        task = ray.remote(function).options(**self._resources)
        self._started += 1
        return task.remote(networks, self._place, *arguments)

    def start_scoring(self, model: Model) -> Callable[[], Scored]:
        """Begin to score a model on both splits. Call what this returns to wait for the scores."""
        folds = range(model.folds)
        decision = NO_PIXELS, (), model.factors
        val = [self.start(predict, model.fold_networks(fold), "val", *decision) for fold in folds]
        test = self.start(predict, model.all_networks(), "test", *decision)

        def finish() -> Scored:
            on_val = Prediction.joined([self.finished(task)[0] for task in val])
            on_test: Prediction = self.finished(test)[0]
            return Evaluation.of(on_val.scores), on_test

        return finish

    def finished(self, task: Any) -> Any:
        """Wait for what ``start`` began. Raises what the function raised, as it was."""
        self._line.step(self._phase, self._done, self._started)
        try:
            return ray.get(task)
        except RayTaskError as error:
            raise error.cause from error
        finally:
            self._done += 1


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
