"""Which hyperparameters made the difference, for the score and for each class's Dice.

A trial that was stopped early and one that finished can be compared only at an epoch that both
reached. So all are compared by their values at one rung of the successive halving.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.planning.sampler import value_at
from search.reporting.history import History

LEAST_TRIALS = 10
"""With fewer trials, chance alone decides."""

TOP_TRIALS = 5
"""PED-ANOVA compares the best trials with all others, and needs at least so many best ones."""


@dataclass(frozen=True)
class Importance:
    """How important each parameter is; the importances of all parameters sum to 1."""

    epoch: int
    """The epoch at which the trials were compared."""
    trials: int
    overall: Mapping[str, float]
    """For the score, the most important parameter first."""
    by_class: Mapping[str, Mapping[str, float]]
    """For the Dice of each class in which the trials differ."""


def find_importance(
    trials: Sequence[FrozenTrial],
    history: History,
    rungs: Sequence[int],
    class_names: Sequence[str],
) -> Importance | None:
    """Optuna's PED-ANOVA, which knows conditional parameters; None with too few trials.

    Trials are compared at the last rung that was reached by at least half of those with a value.
    Source: Watanabe et al. 2023, "PED-ANOVA".
    """
    started = [trial for trial in trials if trial.intermediate_values]
    needed = max(LEAST_TRIALS, len(started) / 2)
    for epoch in sorted(rungs, reverse=True):
        values = {t.number: v for t in started if (v := value_at(t, epoch)) is not None}
        if len(values) >= needed:
            break
    else:
        return None
    reached = [trial for trial in started if trial.number in values]
    study = optuna.create_study(direction="maximize")
    study.add_trials([_completed(trial, values[trial.number]) for trial in reached])
    overall = _importances(study, list(values.values()))
    if overall is None:
        return None
    by_class = {}
    for name in class_names:
        # Of a training that ended before the rung, the last epoch counts.
        seen = [(trial, min(epoch, max(trial.intermediate_values))) for trial in reached]
        dice = [
            past.class_dice.get(last, {}).get(name)
            if (past := history.trials.get(trial.number))
            else None
            for trial, last in seen
        ]
        known = [value for value in dice if value is not None]
        if len(known) == len(reached) and (found := _importances(study, known)):
            by_class[name] = found
    return Importance(epoch, len(reached), overall, by_class)


def _completed(trial: FrozenTrial, value: float) -> FrozenTrial:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return create_trial(
            state=TrialState.COMPLETE,
            params=trial.params,
            distributions=trial.distributions,
            value=value,
        )


def _importances(study: optuna.Study, values: Sequence[float]) -> Mapping[str, float] | None:
    """The importances if these were the values of the trials; None where nothing differs."""
    # Imported here: it brings scikit-learn, which takes seconds, and is needed at the end alone.
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    best = min(0.5, max(0.1, TOP_TRIALS / len(values)))
    with warnings.catch_warnings():
        # It warns that it is experimental, and of what leads to None here.
        warnings.simplefilter("ignore", UserWarning)
        found = get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=best),
            target=lambda trial: -values[trial.number],  # it takes a target for a loss
        )
    # Where too many trials share the best value, it calls all parameters equal.
    return found if max(found.values()) - min(found.values()) > 1e-6 else None
