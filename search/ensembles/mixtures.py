"""Other models that could be made of the same trials, to compare the ensemble with."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from search.ensembles.models import Model
from search.ensembles.tasks import Soup, make_soup
from search.ensembles.workers import Workers, finished
from search.planning.plan import Plan
from search.planning.space import network_key
from search.runs.result import ScoredModel
from search.trials.worker import best_checkpoint
from segcore.scores.intervals import Evaluation

TOP_MEAN = 5
"""An ensemble is compared with the plain mean of this many of the best trials."""

Pending = tuple[str, Callable[[], list[ScoredModel]]]
"""The name of a model that is being scored, and what to call to wait for its scores. The list is
empty where the model turns out to be one of the trials."""


def start_alternatives(
    plan: Plan, best: Model, candidates: Sequence[Model], workers: Workers
) -> list[Pending]:
    """Begin to score the plain mean of the best candidates, which come best first, and soups.

    Candidates with the same network make a soup, unless there are folds: networks that were trained
    on different photographs are too far apart. With folds ``best``, the search's best trial, is
    scored as the search itself trained it instead.
    """
    top = candidates[:TOP_MEAN]
    pending: list[Pending] = []
    if len(top) > 1:
        mean = Model.mean_of(f"mean of the top {len(top)}", top, [1 / len(top)] * len(top))
        pending.append(_start(mean, workers))
    if best.folds > 1:
        stored = best_checkpoint(plan.run.trials, best.number)
        if stored is not None:
            alone = Model.of_trial(best.number, [stored])
            pending.append(
                _start(dataclasses.replace(alone, name=f"{alone.name} without folds"), workers)
            )
        return pending
    alike: dict[object, list[Model]] = {}
    for candidate in candidates:
        (network,) = candidate.networks[candidate.number]
        alike.setdefault(network_key(network.info.config), []).append(candidate)
    for group in alike.values():
        if len(group) > 1:
            numbers = [candidate.number for candidate in group]
            networks = [candidate.networks[candidate.number][0] for candidate in group]
            task = workers.start(make_soup, networks, workers.place, plan.options.metric)
            pending.append((_soup_name(numbers), functools.partial(_finish_soup, task, numbers)))
    return pending


def _start(model: Model, workers: Workers) -> Pending:
    finish = workers.start_scoring(model)
    return model.name, lambda: [finish()[0]]


def _finish_soup(task: Any, numbers: Sequence[int]) -> list[ScoredModel]:
    soup: Soup = finished(task)
    if len(soup.kept) == 1:
        return []
    kept = [numbers[i] for i in soup.kept]
    shares = {number: 1 / len(kept) for number in kept}
    return [
        ScoredModel(_soup_name(kept), shares, Evaluation.of(soup.val), Evaluation.of(soup.test))
    ]


def _soup_name(numbers: Sequence[int]) -> str:
    return f"soup of trials {', '.join(map(str, numbers))}"
