"""A plan carried out: Ray Tune runs the trials, Optuna samples them, MLflow keeps them.

The truth about a search is on disk in three places, each with one owner: the study's journal
(parameters, scores and states; ``search.trials.searcher``), the trials' checkpoints
(``search.trials.worker``) and MLflow. Ray's own record of the experiment is not among them: a
resumed search is a new session of Ray that hands out what the study says is unfinished.
"""

import functools
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import optuna
from ray import tune
from ray.tune.error import TuneError
from ray.tune.experiment import Trial

from search.planning.plan import Plan
from search.planning.sampler import RungTPESampler, rungs
from search.planning.space import finish
from search.runs.rows import STATUS, read_rows, show_config
from search.runs.study import enqueue_baselines, open_study
from search.tracking.mlflow_runs import Status
from search.tracking.tracker import Tracker
from search.trials.cluster import Slots
from search.trials.faults import EndOnFault, Faults
from search.trials.keeping import drop_checkpoints
from search.trials.progress import SearchProgress
from search.trials.searcher import StudyScheduler, StudySearcher
from search.trials.worker import TrialSetting, kept_results, run_trial, trial_name
from segcore.config import TrialConfig
from segcore.errors import StorageError, UserError
from segcore.versions import versions


def open_plan_study(plan: Plan) -> optuna.Study:
    """The plan's study, made on first use with the space's baselines waiting in it."""
    options = plan.options
    study = open_study(
        plan.run.study,
        name=plan.run.path.name,
        create=not plan.run.study.exists(),
    )
    study.sampler = RungTPESampler(
        rungs(options.grace_epochs, options.max_epochs, options.reduction_factor),
        # A resumed search must not begin its draws again: it would try the same a second time.
        seed=options.seed + len(study.get_trials(deepcopy=False)),
    )
    enqueue_baselines(study, plan.space.baselines)
    return study


def run_trials(
    plan: Plan, study: optuna.Study, slots: Slots, tracker: Tracker, progress: SearchProgress
) -> None:
    """Run the trials that the study still lacks; returns when they ended, or on Ctrl-C.

    Raises ``UserError`` where it makes no sense to go on.
    """
    options = plan.options
    faults = Faults(
        hang_timeout_s=options.hang_timeout_s, planned_trials=options.trials, say=progress.say
    )
    watcher = _Watcher(plan, study, tracker, progress, faults)
    watcher.tell_what_was_not_told()
    started = time.monotonic()
    while _run_session(plan, study, slots, faults, watcher, time.monotonic() - started):
        pass


def _run_session(
    plan: Plan,
    study: optuna.Study,
    slots: Slots,
    faults: Faults,
    watcher: "_Watcher",
    spent_s: float,
) -> bool:
    """One session of Ray Tune; whether another one has to take up trials that this one dropped."""
    options = plan.options
    budget_s = options.time_budget_s
    if budget_s is not None and spent_s >= budget_s:
        return False
    searcher = StudySearcher(
        study,
        plan.space.sample,
        metric=options.score_key,
        planned_trials=options.trials,
        finish=functools.partial(finish, options),
        capacity=lambda: slots.count,
    )
    scheduler = StudyScheduler(
        searcher,
        grace_epochs=options.grace_epochs,
        max_epochs=options.max_epochs,
        reduction_factor=options.reduction_factor,
        why=faults.why,
    )
    setting = TrialSetting(
        storage=plan.run.storage,
        data=plan.data_on_nodes,
        weights=plan.weights_on_nodes,
        metric=options.metric,
        cpus=slots.cpus_per_trial,
        gpus=slots.gpus_per_trial,
    )
    tuner = tune.Tuner(
        tune.with_resources(functools.partial(run_trial, setting=setting), slots.resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=options.trials,
            max_concurrent_trials=options.trials,  # the searcher knows how many there is room for
            time_budget_s=None if budget_s is None else budget_s - spent_s,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=f"session_{1 + len(plan.run.trials.folders())}",
            storage_path=plan.run.trials.path,
            storage_filesystem=plan.run.trials.filesystem,
            failure_config=tune.FailureConfig(max_failures=-1),  # until ``faults`` gives a trial up
            stop=EndOnFault(faults),
            # The best one, and always the newest to go on from.
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=1,
                checkpoint_score_attribute=options.score_key,
                checkpoint_score_order="max",
            ),
            callbacks=[faults, watcher],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except TuneError as error:
        # What the searcher and the callbacks raise is in there as text.
        raise _cause_of(error) from error
    if faults.reason is not None:
        raise UserError(f"{plan.run.address}: {faults.reason}")
    return searcher.dropped_only


def _cause_of(error: BaseException) -> BaseException:
    """The error of ours, or of the disk, that Ray's was raised for; else Ray's own."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, UserError | OSError):
            return inner
        inner = inner.__context__
    return error


def _trial_name(trial: Trial) -> str:
    return trial_name(trial.config["trial_number"])


class _Watcher(tune.Callback):
    """Passes what Ray Tune tells about trials on to MLflow, to the bucket, and to who watches."""

    def __init__(
        self,
        plan: Plan,
        study: optuna.Study,
        tracker: Tracker,
        progress: SearchProgress,
        faults: Faults,
    ) -> None:
        self._plan, self._study = plan, study
        self._tracker, self._progress, self._faults = tracker, progress, faults
        for row in read_rows(study):
            progress.best_so_far(row.score, row.number)

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles its Tuner for a restore that isn't used; open files can't be.
        return {}

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Open the trial's run in MLflow."""
        number = trial.config["trial_number"]
        self._start(number, TrialConfig.from_dict(trial.config["config"]))
        self._progress.epoch_done(number, 0, None)
        self._push_state()

    def _start(self, number: int, config: TrialConfig) -> None:
        tags = {"data_fingerprint": self._plan.data.fingerprint, **versions()}
        is_new = self._tracker.status_of(number) is None
        self._tracker.start_trial(number, config, tags)
        if is_new:
            path = self._plan.run.path / "configs" / f"{trial_name(number)}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(config.to_dict(), indent=2))
            self._tracker.log_artifacts(number, path)

    def tell_what_was_not_told(self) -> None:
        """What a driver that was killed had told the study, and not yet MLflow's journal.

        An epoch whose checkpoint is gone has but its score there.
        """
        for trial in self._study.get_trials(deepcopy=False):
            if "config" not in trial.user_attrs:
                continue  # it waits, or the space failed
            number, status = trial.number, self._tracker.status_of(trial.number)
            if status is None:
                self._start(number, TrialConfig.from_dict(trial.user_attrs["config"]))
            last_epoch = self._tracker.last_epoch(number)
            untold = {e: v for e, v in trial.intermediate_values.items() if e > last_epoch}
            kept = kept_results(self._plan.run.trials, number) if untold else {}
            for epoch, value in sorted(untold.items()):
                score = {self._plan.options.score_key: value}
                self._tracker.log_epoch(number, epoch, _our_metrics(kept.get(epoch, score)))
            if trial.state.is_finished() and status != STATUS[trial.state]:
                ended = cast(Status, STATUS[trial.state])
                self._tracker.end_trial(number, ended, trial.user_attrs.get("failure"))

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """Log an epoch."""
        if "failure" in result or "fatal" in result:
            return
        number = trial.config["trial_number"]
        self._tracker.log_epoch(number, result["epoch"], _our_metrics(result))
        score = result[self._plan.options.score_key]
        self._progress.epoch_done(number, result["epoch"], score)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Close the run of a trial that finished, was stopped, or reported its failure."""
        result = trial.last_result
        if "fatal" in result:
            return  # nothing is wrong with this trial: the next session runs it
        failure = result.get("failure")
        if "traceback" in result:
            path = self._plan.run.path / "failures" / f"{_trial_name(trial)}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(result["traceback"])
            failure = f"{failure} (details: {path})"
        self._end(trial, "failed" if failure else status_of(result), failure)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Close the run of a trial that was given up."""
        reason = self._faults.why(trial)
        if reason is not None:
            self._end(trial, "failed", reason)

    def _end(self, trial: Trial, status: Status, failure: str | None) -> None:
        number = trial.config["trial_number"]
        self._tracker.end_trial(number, status, failure)
        what = show_config(
            TrialConfig.from_dict(trial.config["config"]), ("architecture", "encoder", "loss", "lr")
        )
        self._progress.trial_ended(number, what, status, failure)
        self._push_state()
        with self._outages_told():
            drop_checkpoints(
                self._plan.run.trials,
                read_rows(self._study),
                self._plan.options.ensemble_candidates,
            )

    def _push_state(self) -> None:
        with self._outages_told():
            self._plan.run.push_state()

    @contextmanager
    def _outages_told(self) -> Iterator[None]:
        """An outage of the bucket ends nothing here: the next trial's end does all of it."""
        try:
            yield
        except StorageError as error:
            self._progress.say(str(error))


def status_of(result: Mapping[str, Any]) -> Status:
    """Whether a trial ended by itself or was stopped, from its last result.

    A resumed one that had nothing left to train has no result of its own: it is finished.
    """
    return "finished" if result.get("finished", True) else "stopped"


def _our_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that our worker put into a result; Ray adds its own, without a slash."""
    return {k: v for k, v in result.items() if "/" in k and isinstance(v, float)}
