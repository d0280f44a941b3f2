"""What could be made of the trials: every model that competes for the bundle."""

import functools
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from search.ensembles.candidates import Candidates, predict_candidates
from search.ensembles.models import Model
from search.ensembles.tasks import make_soup
from search.ensembles.workers import Losses, Workers
from search.planning.plan import Plan
from search.planning.space import network_key
from search.runs.result import Cost
from segcore.choosing.left_out import LeftOut
from segcore.choosing.pool import Pool
from segcore.choosing.selection import Limits, Proposal, propose, propose_soup


@dataclass(frozen=True, eq=False)
class Draft:
    """A model before it is scored on whole splits."""

    model: Model
    left_out: LeftOut
    """What models that are made in this way score on photographs that were left out meanwhile."""
    cost: Cost


def draft_models(
    plan: Plan, trials: Sequence[Model], workers: Workers, losses: Losses
) -> tuple[Candidates, list[Draft]]:
    """The candidates among some trials, and the models that can be made of them.

    The plainest come first: the best single trial, soups, the plain mean of the best, and greedy
    ensembles.

    What can't be made is noted in ``losses``. Trials on folds make no soups, because the networks
    of different folds have no weights in common.
    """
    candidates = predict_candidates(plan, trials, workers, losses)
    workers.begin("choosing: making models of the trials")
    soups = [] if trials[0].folds > 1 else _start_soups(plan, candidates, workers)
    limit_s = plan.options.ensemble_latency
    limits = Limits(
        plan.options.ensemble_members,
        math.inf if limit_s is None else limit_s,
        tuple(said.latency_s for _, said in candidates.best_first),
    )
    proposals = propose(candidates.pool, candidates.bags, plan.options.metric, limits)
    drafts = [_draft(candidates, proposal) for proposal in proposals]
    singles = sum(proposal.way == "single" for proposal in proposals)
    return candidates, [
        *drafts[:singles],
        *_finish_soups(plan, candidates, soups, workers, losses),
        *drafts[singles:],
    ]


def _draft(candidates: Candidates, proposal: Proposal) -> Draft:
    members = len(proposal.members)
    name = f"mean of the best {members}" if proposal.way == "mean" else f"ensemble of {members}"
    if (folds := candidates.models[0].folds) > 1:
        name += f" on {folds} folds"
    costs = [candidates.best_first[c][1].cost for c in proposal.members]
    return Draft(
        Model.mean_of(name, candidates.models, proposal.weights).with_factors(proposal.factors),
        proposal.left_out,
        functools.reduce(operator.add, costs),
    )


def _start_soups(
    plan: Plan, candidates: Candidates, workers: Workers
) -> list[tuple[list[int], Any]]:
    """For each network and view that several candidates share, their places, and the task."""
    alike: dict[object, list[int]] = {}
    for c, model in enumerate(candidates.models):
        ((network,), _) = model.members[0]
        config = network.info.config
        alike.setdefault((network_key(config), config.view), []).append(c)
    return [
        (
            group,
            workers.start(
                make_soup,
                [candidates.models[c].members[0][0][0] for c in group],
                plan.options.metric,
                candidates.pixels.position_N,
                candidates.bags.times_BP,
            ),
        )
        for group in alike.values()
        if len(group) > 1
    ]


def _finish_soups(
    plan: Plan,
    candidates: Candidates,
    started: Sequence[tuple[list[int], Any]],
    workers: Workers,
    losses: Losses,
) -> Iterator[Draft]:
    for group, task in started:
        models = [candidates.models[c] for c in group]
        labels = ", ".join(model.trial.label for model in models)
        with losses.noted(f"no soup could be made of trials {labels}"):
            made = workers.finished(task)
            if made is None:
                continue
            pool = Pool.of(candidates.pixels, made.probs.values())
            places = {kept: place for place, kept in enumerate(made.probs)}
            picks = [(places[kept],) for kept in made.bag_kept]
            proposal = propose_soup(pool, picks, candidates.bags, plan.options.metric)
            model = Model.of_soup([models[i] for i in made.kept], made.soup)
            cost = candidates.best_first[group[0]][1].cost
            yield Draft(model.with_factors(proposal.factors), proposal.left_out, cost)
