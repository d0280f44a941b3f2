"""The driver's side of an ensemble's tasks: start them on the cluster, and wait for them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from search.ensembles.models import Model, WeightedNetworks
from search.ensembles.tasks import Mixture, Said, Workplace, score_mixtures
from search.planning.plan import Plan
from search.trials.cluster import Slots, result_of
from search.trials.line import Line
from segcore.data.splits import Split
from segcore.scores.intervals import Evaluation

Scored = tuple[Evaluation, Said]
"""A model's scores on the validation split, and what it says of the test split."""


class Workers:
    """Starts tasks on the cluster, and waits for them. Each has as many CPUs and GPUs as a trial.

    The line shows how many are done.
    """

    def __init__(self, plan: Plan, slots: Slots, line: Line) -> None:
        self._line, self._phase, self._slots = line, "", slots
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

    def score(self, models: Sequence[Model]) -> list[Scored]:
        """Score models on both splits. Networks that they share predict for all of them at once."""
        of_folds: dict[int, list[Model]] = {}
        for model in models:
            of_folds.setdefault(model.folds, []).append(model)
        splits = 1 + sum(of_folds)
        parts = max(1, self._slots.count // splits)
        test = self._start_scoring(models, [m.all_networks() for m in models], "test", parts)
        val = {
            folds: [
                self._start_scoring(same, [m.fold_networks(fold) for m in same], "val", parts)
                for fold in range(folds)
            ]
            for folds, same in of_folds.items()
        }
        on_val: dict[int, Evaluation] = {}
        for folds, same in of_folds.items():
            said = zip(*(self._said(tasks) for tasks in val[folds]), strict=True)
            for model, by_fold in zip(same, said, strict=True):
                on_val[id(model)] = Evaluation.of(Said.joined(by_fold).scores)
        return [
            (on_val[id(model)], on_test)
            for model, on_test in zip(models, self._said(test), strict=True)
        ]

    def _start_scoring(
        self,
        models: Sequence[Model],
        networks: Sequence[WeightedNetworks],
        split: Split,
        parts: int,
    ) -> list[Any]:
        """A task for each part of a split's photographs; ``networks`` are those of each model."""
        distinct = {id(network): network for weighted in networks for network, _ in weighted}
        places = {key: place for place, key in enumerate(distinct)}
        mixtures = [
            Mixture(
                tuple((places[id(network)], weight) for network, weight in weighted), model.factors
            )
            for model, weighted in zip(models, networks, strict=True)
        ]
        return [
            self.start(score_mixtures, list(distinct.values()), split, mixtures, (part, parts))
            for part in range(parts)
        ]

    def _said(self, tasks: Sequence[Any]) -> list[Said]:
        """Wait for all parts of a split: what each model says of it."""
        parts = [said for task in tasks if (said := self.finished(task))]
        return [Said.joined(of_model) for of_model in zip(*parts, strict=True)]

    def finished(self, task: Any) -> Any:
        """Wait for what ``start`` began: what the function gave. Raises what it raised."""
        self._line.step(self._phase, self._done, self._started)
        try:
            return result_of(task)
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
