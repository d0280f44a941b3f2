"""--folds: the best configurations trained anew on every fold, as a small search of their own.

The space of that search has two parameters, the trial whose configuration it is and the fold that
is held out, and all pairs are enqueued beforehand. So the training of a fold is a trial like any
other: it survives the same faults, stands in MLflow, and can be resumed. The run of this search
lies in the folder of the first one.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import optuna
from optuna.trial import BaseTrial, TrialState

from search.ensembles.models import Model
from search.planning.plan import Plan
from search.planning.space import MAX_TRIALS, Space
from search.runs.rows import TrialRow
from search.runs.study import SearchStudy
from search.trials.keeping import choose_candidates
from search.trials.session import open_plan_study
from search.trials.worker import best_checkpoint
from segcore.config import TrialConfig
from segcore.errors import UserError
from segcore.files import digest


def open_folds(plan: Plan, rows: Sequence[TrialRow]) -> tuple[Plan, SearchStudy]:
    """The plan and the study of the trainings that follow a search; its ``rows`` come best first.

    Trainings of an earlier session stay in the study, even if their trials are no longer among the
    best. Raises ``UserError`` where no trial has a score.
    """
    chosen = choose_candidates(rows, plan.options.fold_trials)
    if not chosen:
        raise UserError(
            f"{plan.run.address}: no trial finished an epoch, so there is nothing to train on "
            "folds; the trials' failures are above"
        )
    folds = plan.options.folds
    pairs = tuple({"trial": row.number, "fold": fold} for row in chosen for fold in range(folds))
    space = Space(
        path=f"the best trials on {folds} folds",
        function=_FoldSpace({row.number: row.config for row in rows if row.config}, folds),
        baselines=pairs,
        fingerprint=digest(plan.space.fingerprint),
    )
    options = dataclasses.replace(
        plan.options,
        strategy="halving",
        grace_epochs=plan.options.max_epochs,  # so that no training is stopped early
        time_budget=None,
        warm_start=(),
        name=None,
    )
    fold_plan = dataclasses.replace(
        plan, options=options, run=plan.run.folds(folds), space=space, earlier=(), searched=plan
    )
    fold_plan.run.path.mkdir(parents=True, exist_ok=True)
    study = open_plan_study(fold_plan)
    count = len(study.get_trials(deepcopy=False))
    options = dataclasses.replace(options, trials=count, ensemble_candidates=count)
    return dataclasses.replace(fold_plan, options=options), study


@dataclasses.dataclass(frozen=True)
class _FoldSpace:
    """The configuration of a trial, with a fold."""

    configs: Mapping[int, TrialConfig]
    folds: int

    def __call__(self, trial: BaseTrial) -> TrialConfig:
        config = self.configs[trial.suggest_int("trial", 0, MAX_TRIALS - 1)]
        fold = trial.suggest_int("fold", 0, self.folds - 1)
        return config.model_copy(update={"fold": fold, "folds": self.folds})


def folded_trials(fold_plan: Plan, study: optuna.Study, rows: Sequence[TrialRow]) -> list[Model]:
    """The trials of the search (``rows`` come best first) that were trained on every fold.

    Raises ``UserError`` where there are none.
    """
    options, trials = fold_plan.options, fold_plan.run.trials
    trained = {
        (trial.params["trial"], trial.params["fold"]): best_checkpoint(trials, trial.number)
        for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    }
    found = []
    for row in rows:
        stored = [trained.get((row.number, fold)) for fold in range(options.folds)]
        networks = [network for network in stored if network is not None]
        if len(networks) == options.folds:
            found.append(Model.of_trial(row.number, networks))
    if not found:
        raise UserError(
            f"{fold_plan.run.address}: no trial could be trained on all {options.folds} folds; the "
            "failures are above. Without folds: --resume the search with --folds 1"
        )
    return found
