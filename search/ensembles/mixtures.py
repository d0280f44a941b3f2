"""Other models that could be made of the same trials, to compare the ensemble with."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from search.ensembles.models import Model
from search.ensembles.tasks import make_soup
from search.ensembles.workers import Workers, finished
from search.planning.plan import Plan
from search.planning.space import network_key
from search.runs.result import ScoredModel
from search.trials.worker import best_checkpoint
from segcore.scores.intervals import Evaluation

TOP_MEAN = 5
"""An ensemble is compared with the plain mean of this many of the best trials."""

Pending = tuple[str, Callable[[], ScoredModel | None]]
"""The name of a model that is being scored, and what to call to wait for its scores. It gives None
where the model turns out to be one of the trials."""


def start_alternatives(
    plan: Plan, best: Model, candidates: Sequence[Model], workers: Workers
) -> list[Pending]:
    """Begin to score the plain mean of the best candidates, which come best first, and soups.

    Candidates with the same network and view make a soup, unless there are folds: the networks of
    different folds have no weights in common. With folds ``best``, the search's best trial, is
    scored as the search itself trained it instead.
    """
    models = []
    top = candidates[:TOP_MEAN]
    if len(top) > 1:
        weights = [1 / len(top)] * len(top)
        models.append(Model.mean_of(f"mean of the top {len(top)}", top, weights))
    unfolded = best_checkpoint(plan.run.trials, best.number) if best.folds > 1 else None
    if unfolded is not None:
        alone = Model.of_trial(best.number, [unfolded])
        models.append(dataclasses.replace(alone, name=f"{alone.name} without folds"))
    pending: list[Pending] = []
    for model in models:
        finish = workers.start_scoring(model)
        pending.append((model.name, functools.partial(lambda finish: finish()[0], finish)))
    return pending if best.folds > 1 else [*pending, *_start_soups(plan, candidates, workers)]


def _start_soups(plan: Plan, candidates: Sequence[Model], workers: Workers) -> list[Pending]:
    alike: dict[object, dict[int, Any]] = {}
    for candidate in candidates:
        (network,) = candidate.networks[candidate.number]
        config = network.info.config
        alike.setdefault((network_key(config), config.view), {})[candidate.number] = network
    pending: list[Pending] = []
    for group in alike.values():
        if len(group) > 1:
            task = workers.start(make_soup, list(group.values()), plan.options.metric)
            pending.append((_soup_name(group), functools.partial(_finish_soup, task, list(group))))
    return pending


def _finish_soup(task: Any, numbers: Sequence[int]) -> ScoredModel | None:
    kept, val, test = finished(task)
    trials = {numbers[i]: 1 / len(kept) for i in kept}
    if len(trials) == 1:
        return None
    return ScoredModel(_soup_name(trials), trials, Evaluation.of(val), Evaluation.of(test))


def _soup_name(numbers: Iterable[int]) -> str:
    return f"soup of trials {', '.join(map(str, numbers))}"
