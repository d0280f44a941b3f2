"""What ``--strategy`` names: the strategies, when they decide, and what they may spend."""

import functools
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from search.forecasting.curves import milestones
from search.planning.freeze_thaw import RANDOM_STARTS, FreezeThaw
from search.planning.halving import Halving, rungs, simulated_epochs
from search.planning.space import Space
from search.planning.strategy import Fallback, Strategy
from search.planning.warm import TAKEN
from search.runs.attributes import EPOCH_SECONDS
from search.runs.options import SearchOptions
from search.runs.study import SearchStudy


def make_strategy(
    options: SearchOptions, study: SearchStudy, space: Space, say: Callable[[str], None]
) -> Strategy:
    """The strategy of a search whose session begins now. ``say`` is told where it errs."""
    return Fallback(_strategy(options, study, space), study, options.trials, say)


def _strategy(options: SearchOptions, study: SearchStudy, space: Space) -> Strategy:
    if options.pauses:
        known = len(space.baselines) + TAKEN * len(options.warm_start)
        return FreezeThaw(
            study,
            space.sample,
            max_epochs=options.max_epochs,
            first_trials=min(known + RANDOM_STARTS, options.trials),
            most_trials=options.trials,
            seconds_left=functools.partial(_seconds_left, options, study, time.monotonic()),
            seed=options.seed,
        )
    return Halving(
        study,
        grace_epochs=options.grace_epochs,
        max_epochs=options.max_epochs,
        reduction_factor=options.reduction_factor,
    )


def _seconds_left(options: SearchOptions, study: SearchStudy, begun_at: float) -> float:
    """How long a search with pauses goes on; by its epochs, if one trial had all that are left."""
    if options.time_budget_s is not None:
        return options.time_budget_s - (time.monotonic() - begun_at)
    trials = study.get_trials(deepcopy=False)
    epochs = [len(trial.intermediate_values) for trial in trials]
    seconds = [trial.user_attrs.get(EPOCH_SECONDS, 0.0) for trial in trials]
    if not any(epochs):
        return math.inf
    epochs_left = math.ceil(halving_epochs(options)) - sum(epochs)
    return epochs_left * float(np.average(seconds, weights=epochs))


def decision_epochs(options: SearchOptions) -> Sequence[int]:
    """Epochs at which it is decided whether a trial goes on, and the last epoch."""
    if options.pauses:
        return sorted({*milestones(options.max_epochs), options.max_epochs})
    return rungs(options.grace_epochs, options.max_epochs, options.reduction_factor)


def epoch_budget(options: SearchOptions) -> int | None:
    """Epochs of all trials together after which the search ends; None where no number ends it.

    Halving ends when no trial is left. Freeze-thaw could go on until every trial was trained to its
    last epoch, so without a time budget it gets as many epochs as halving would take.
    """
    if not options.pauses or options.time_budget is not None:
        return None
    return math.ceil(halving_epochs(options))


@functools.cache
def halving_epochs(options: SearchOptions) -> float:
    """Epochs of all trials together that successive halving is expected to take."""
    return simulated_epochs(
        options.trials,
        grace_epochs=options.grace_epochs,
        max_epochs=options.max_epochs,
        reduction_factor=options.reduction_factor,
    )


def most_epochs(options: SearchOptions) -> float:
    """Epochs of all trials together that the search is expected to take where time allows them."""
    if options.pauses and options.time_budget is not None:
        return options.trials * options.max_epochs
    return halving_epochs(options)
