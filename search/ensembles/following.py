"""--folds and --repeats: the best configurations trained anew, as small searches of their own.

The space of such a search has two parameters, the trial whose configuration it is and which of its
trainings this is (the fold that is held out, or the repetition), and all pairs are enqueued
beforehand. So each training is a trial like any other: it survives the same faults, stands in
MLflow, and can be resumed. The run of such a search lies in the folder of the first one.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import optuna
from optuna.trial import BaseTrial, TrialState

from search.ensembles.models import Model
from search.planning.plan import Plan
from search.planning.space import MAX_TRIALS, Space
from search.runs.checkpoints import StoredCheckpoint, best_checkpoint
from search.runs.folder import RunFolder
from search.runs.repeats import REPEAT, TRIAL
from search.runs.rows import TrialRow
from search.runs.study import SearchStudy
from search.trials.keeping import choose_candidates
from search.trials.session import open_plan_study
from segcore.config import TrialConfig
from segcore.errors import UserError
from segcore.files import digest

FOLD = "fold"
"""Parameter of the run of the trainings on folds, beside ``TRIAL``."""


def open_repeats(plan: Plan, rows: Sequence[TrialRow]) -> tuple[Plan, SearchStudy]:
    """The plan and the study of the best trials' trainings with other seeds, as ``open_folds``."""
    repeats = range(1, plan.options.repeats + 1)
    options = dataclasses.replace(plan.options, folds=1)
    repeat_plan = dataclasses.replace(plan, options=options, run=plan.run.repeats, searched=plan)
    # MLflow has the space's path as a parameter, which can't change when there are more repeats.
    return _open(repeat_plan, "the best trials with other seeds", rows, REPEAT, repeats)


def open_folds(plan: Plan, rows: Sequence[TrialRow]) -> tuple[Plan, SearchStudy]:
    """The plan and the study of the trainings on folds; the search's ``rows`` come best first.

    Trainings of an earlier session stay in the study, even if their trials are no longer among the
    best. Raises ``UserError`` where no trial has a score.
    """
    folds = plan.options.folds
    options = dataclasses.replace(plan.options, repeats=0)
    fold_plan = dataclasses.replace(plan, options=options, run=plan.run.folds(folds), searched=plan)
    return _open(fold_plan, f"the best trials on {folds} folds", rows, FOLD, range(folds))


def _open(
    plan: Plan, path: str, rows: Sequence[TrialRow], parameter: str, values: Sequence[int]
) -> tuple[Plan, SearchStudy]:
    chosen = choose_candidates(rows, plan.options.final_trials)
    if not chosen:
        raise UserError(
            f"{plan.run.address}: no trial finished an epoch, so there is nothing to train anew; "
            "the trials' failures are above"
        )
    configs = {row.number: row.config for row in rows if row.config}
    pairs = tuple({TRIAL: row.number, parameter: value} for row in chosen for value in values)
    space = Space(
        path=path,
        function=_FinalSpace(configs, parameter, plan.options.folds),
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
    plan = dataclasses.replace(plan, options=options, space=space, earlier=())
    plan.run.path.mkdir(parents=True, exist_ok=True)
    study = open_plan_study(plan)
    count = len(study.get_trials(deepcopy=False))
    options = dataclasses.replace(options, trials=count, ensemble_candidates=count)
    return dataclasses.replace(plan, options=options), study


@dataclasses.dataclass(frozen=True)
class _FinalSpace:
    """The configuration of a trial, with a fold or once more."""

    configs: Mapping[int, TrialConfig]
    parameter: str
    folds: int

    def __call__(self, trial: BaseTrial) -> TrialConfig:
        config = self.configs[trial.suggest_int(TRIAL, 0, MAX_TRIALS - 1)]
        value = trial.suggest_int(self.parameter, 0, MAX_TRIALS - 1)
        if self.parameter == REPEAT:
            return config  # its seed is the search's to give, another one for each training
        return config.model_copy(update={"fold": value, "folds": self.folds})


def repeated_trials(plan: Plan, study: optuna.Study, rows: Sequence[TrialRow]) -> list[Model]:
    """All trainings with other seeds that finished, those of the best trials first."""
    trained = finished_trainings(plan.run, study, REPEAT)
    places = {row.number: place for place, row in enumerate(rows)}
    in_order = sorted(trained, key=lambda pair: (places[pair[0]], pair[1]))
    return [Model.of_trial(trial, [trained[trial, repeat]], repeat) for trial, repeat in in_order]


def folded_trials(plan: Plan, study: optuna.Study, rows: Sequence[TrialRow]) -> list[Model]:
    """The trials of the search (``rows`` come best first) that were trained on every fold.

    Raises ``UserError`` where there are none.
    """
    trained, folds = finished_trainings(plan.run, study, FOLD), range(plan.options.folds)
    found = [
        Model.of_trial(row.number, [trained[row.number, fold] for fold in folds])
        for row in rows
        if all((row.number, fold) in trained for fold in folds)
    ]
    if not found:
        raise UserError(
            f"{plan.run.address}: no trial could be trained on all {len(folds)} folds; the "
            "failures are above. Without folds: --resume the search with --folds 1"
        )
    return found


def finished_trainings(
    run: RunFolder, study: optuna.Study, parameter: str
) -> dict[tuple[int, int], StoredCheckpoint]:
    """The networks of trainings that finished, by the search's trial and the fold or repetition."""
    found = {}
    for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        stored = best_checkpoint(run.trials, trial.number)
        if stored is not None:
            found[trial.params[TRIAL], trial.params[parameter]] = stored
    return found
