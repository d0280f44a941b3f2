"""A plan carried out: a strategy chooses the trials, Ray Tune runs them, MLflow keeps them.

The truth about a search is on disk in three places, each with one owner: the study's journal
(parameters, scores and states; ``search.trials.searcher``), the trials' checkpoints
(``search.runs.checkpoints``) and MLflow. Ray's own record of the experiment is not among them: a
resumed search is a new session of Ray that hands out what the study says is unfinished.
"""

import functools
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from optuna.trial import TrialState
from ray import tune
from ray.tune.error import TuneError
from ray.tune.experiment import Trial

from search.planning.plan import Plan
from search.planning.sampler import RungTPESampler
from search.planning.space import finish
from search.planning.strategies import decision_epochs, epoch_budget, make_strategy
from search.planning.warm import begin_warm
from search.runs.attributes import INTERRUPTED, is_paused
from search.runs.checkpoints import folder_name, kept_results, trial_name
from search.runs.rows import read_row, read_rows, show_status, status_of
from search.runs.study import SearchStudy, enqueue_baselines, open_study
from search.tracking.mlflow_runs import SAMPLED
from search.tracking.tracker import Tracker
from search.trials.cluster import Slots, handlers_restored
from search.trials.faults import Faults, last_error
from search.trials.keeping import drop_checkpoints, drop_superseded, kept_trials
from search.trials.progress import NothingOfRays, SearchProgress
from search.trials.searcher import StudyScheduler, StudySearcher
from search.trials.worker import TrialSetting, run_trial
from segcore.config import TrialConfig
from segcore.errors import StorageError, UserError
from segcore.versions import versions


def open_plan_study(plan: Plan) -> SearchStudy:
    """The plan's study, made on first use with the first trials waiting in it."""
    options = plan.options
    study = open_study(plan.run.study, name=plan.run.path.name, create=not plan.run.study.exists())
    study.sampler = RungTPESampler(
        decision_epochs(options),
        # A resumed search must not begin its draws again: it would try the same a second time.
        seed=options.seed + len(study.get_trials(deepcopy=False)),
        storage=study.storage,
    )
    enqueue_baselines(study, plan.space.baselines)
    begin_warm(study, plan.earlier)
    return study


Ending = Literal["done", "out of time", "interrupted"]
"""Why no trial runs any more."""


def run_trials(
    plan: Plan, study: SearchStudy, slots: Slots, tracker: Tracker, progress: SearchProgress
) -> Ending:
    """Run trials until the search ends, its time is up, or somebody presses Ctrl-C.

    Raises ``UserError`` where it makes no sense to go on.
    """
    started_at = time.monotonic()
    options = plan.options
    faults = Faults(
        hang_timeout_s=options.hang_timeout_s, planned_trials=options.trials, say=progress.say
    )
    watcher = _Watcher(plan, study, tracker, progress, faults)
    watcher.catch_up()
    searcher = StudySearcher(
        study,
        plan.space.sample,
        make_strategy(options, study, plan.space, progress.say),
        metric=options.score_key,
        planned_trials=options.trials,
        finish=functools.partial(finish, options, follows=plan.searched is not None),
        capacity=lambda: slots.count,
        pauses=options.pauses,
        epoch_budget=epoch_budget(options),
    )
    problem: BaseException | None = None
    try:
        with handlers_restored():
            _tuner(plan, searcher, slots, watcher).fit()
    except TuneError as error:
        # What the searcher and the callbacks raise is in there as text.
        problem = _cause_of(error)
    if problem is None and faults.reason is not None:
        problem = UserError(f"{plan.run.address}: {faults.reason}")
    if problem is not None:
        with suppress(OSError, UserError):  # on a full disk nothing can be noted
            watcher.end_session("the search failed")
        raise problem
    if searcher.is_done:
        return "done"
    # Ray Tune handles Ctrl-C itself, and returns.
    spent_s = time.monotonic() - started_at
    is_time_up = spent_s >= (options.time_budget_s or math.inf)
    ending: Ending = "out of time" if is_time_up else "interrupted"
    watcher.end_session(ending)
    return ending


def _tuner(plan: Plan, searcher: StudySearcher, slots: Slots, watcher: "_Watcher") -> tune.Tuner:
    options, trials = plan.options, plan.run.trials
    setting = TrialSetting(
        storage=plan.run.storage,
        data=plan.data_on_nodes,
        weights=plan.weights_on_nodes,
        metric=options.metric,
        cpus=slots.cpus_per_trial,
        gpus=slots.gpus_per_trial,
        hang_timeout_s=options.hang_timeout_s,
    )
    return tune.Tuner(
        tune.with_resources(functools.partial(run_trial, setting=setting), slots.resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=StudyScheduler(searcher, why=watcher.why_given_up),
            num_samples=-1,  # the searcher says when no more are to come
            max_concurrent_trials=options.trials,  # it also knows how many there is room for
            time_budget_s=options.time_budget_s,
            reuse_actors=True,
            trial_name_creator=_name_of,
            trial_dirname_creator=_folder_of,
        ),
        run_config=tune.RunConfig(
            name=f"session_{1 + len(trials.folders())}",
            storage_path=trials.path,
            storage_filesystem=trials.filesystem,
            failure_config=tune.FailureConfig(max_failures=0),  # the searcher tries again
            stop=watcher,
            # The best one, and always the newest to go on from.
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=1,
                checkpoint_score_attribute=options.score_key,
                checkpoint_score_order="max",
            ),
            callbacks=[watcher],
            progress_reporter=NothingOfRays(),
            verbose=0,
        ),
    )


def _cause_of(error: BaseException) -> BaseException:
    """The error of ours, or of the disk, that Ray's was raised for; else Ray's own."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, UserError | OSError):
            return inner
        inner = inner.__context__
    return error


def _number(trial: Trial) -> int:
    """The number that a trial of Ray's has in the study."""
    return int(trial.config["trial_number"])


def _name_of(trial: Trial) -> str:
    return trial_name(_number(trial))


def _folder_of(trial: Trial) -> str:
    return folder_name(_number(trial), trial.config["attempt"])


@dataclass(eq=False)
class _Watcher(tune.Callback, tune.Stopper):
    """Hears of each trial's start, epochs and end, and tells MLflow, the bucket and the user.

    It also ends the search where ``faults`` says so: to Ray Tune it is a stopper too.
    """

    plan: Plan
    study: SearchStudy
    tracker: Tracker
    progress: SearchProgress
    faults: Faults

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles its Tuner for a restore that isn't used; open files can't be pickled.
        return {}

    def catch_up(self) -> None:
        """Tell MLflow what a driver that was killed had told the study alone.

        An epoch whose checkpoint is gone has only its score there.
        """
        for row in read_rows(self.study):
            self.progress.trial_known(row)
        for trial in self.study.get_trials(deepcopy=False):
            if "config" not in trial.user_attrs:
                continue  # it waits, or the space failed
            number, status = trial.number, self.tracker.status_of(trial.number)
            if status is None:
                self._open_run(number, TrialConfig.from_dict(trial.user_attrs["config"]))
            last_epoch = self.tracker.last_epoch(number)
            untold = {e: v for e, v in trial.intermediate_values.items() if e > last_epoch}
            kept = kept_results(self.plan.run.trials, number) if untold else {}
            for epoch, value in sorted(untold.items()):
                score = {self.plan.options.score_key: value}
                self.tracker.log_epoch(number, epoch, _our_metrics(kept.get(epoch, score)))
            ended = status_of(trial)
            if ended not in (status, "running"):
                self.tracker.end_trial(number, ended, trial.user_attrs.get("failure"))

    # A trial starts.

    def on_trial_start(self, *, trial: Trial, **info: Any) -> None:
        """Open the trial's run in MLflow."""
        number = _number(trial)
        self.faults.heard(number)
        self._open_run(number, trial.config["config"])
        self.progress.trial_begun(number)
        self._push_state()

    def _open_run(self, number: int, config: TrialConfig) -> None:
        is_new = self.tracker.status_of(number) is None
        tags = {"data_fingerprint": self.plan.data.fingerprint, **versions()}
        sampled = self.study.get_trials(deepcopy=False)[number].params
        if self.plan.searched is None:
            tags[SAMPLED] = json.dumps(sampled)
        else:
            tags |= {f"segsearch.final_{name}": str(value) for name, value in sampled.items()}
        self.tracker.start_trial(number, config, tags)
        if is_new:
            path = self.plan.run.path / "configs" / f"{trial_name(number)}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(config.to_dict(), indent=2))
            self.tracker.log_artifacts(number, path)

    # It reports an epoch.

    def on_trial_result(self, *, trial: Trial, result: dict[str, Any], **info: Any) -> None:
        """Log an epoch."""
        number = _number(trial)
        self.faults.heard(number)
        if "fatal" in result:
            self.faults.reason = result["fatal"]
        elif "failure" not in result:
            self.faults.scored()
            self.tracker.log_epoch(number, result["epoch"], _our_metrics(result))
            key = self.plan.options.score_key
            low, high = (result.get(f"{key}_{end}", math.nan) for end in ("low", "high"))
            interval = (low, high) if math.isfinite(low) and math.isfinite(high) else None
            self.progress.epoch_done(number, result["epoch"], result[key], interval)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Keep the line moving: Ray calls this ten times a second."""
        self.progress.beat(sum(trial.status == Trial.PENDING for trial in trials))

    # Its turn ends, or it breaks.

    def on_trial_complete(self, *, trial: Trial, **info: Any) -> None:
        """Close the run of a trial that finished, is stopped or paused, or reported its failure."""
        result = trial.last_result
        if "fatal" in result:
            return  # nothing is wrong with this trial: the next session runs it
        failure = result.get("failure")
        if failure is not None:
            self.faults.failed(failure)
        if "traceback" in result:
            path = self.plan.run.path / "failures" / f"{_name_of(trial)}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(result["traceback"])
            failure = f"{failure} (details: {path})"
        self._close_run(trial, failure)

    def why_given_up(self, trial: Trial) -> str | None:
        """Why a trial that broke isn't tried again; None where it is."""
        return self.faults.broke(_number(trial), last_error(trial))

    def on_trial_error(self, *, trial: Trial, **info: Any) -> None:
        """Close the run of a trial that was given up."""
        reason = self.faults.given_up.get(_number(trial))
        if reason is not None:
            self.faults.failed(reason)
            self._close_run(trial, reason)

    def _close_run(self, trial: Trial, failure: str | None) -> None:
        """Tell what became of a trial; the searcher has told the study a moment ago."""
        number, rows = _number(trial), read_rows(self.study)
        kept = kept_trials(rows, self.plan.options.ensemble_candidates)
        for row in rows:
            if row.status == "paused" and row.number not in kept:
                self._let_go(row.number)
        row = read_row(self.study, number)
        failure = failure or row.failure
        is_paused = row.status == "paused"
        self.tracker.end_trial(number, row.status, show_status(row) if is_paused else failure)
        self.progress.trial_ended(row, failure)
        self._push_state()
        with self._outages_told():
            drop_checkpoints(self.plan.run.trials, {row.number for row in rows} - kept)
            if trial.config["known_epochs"]:
                drop_superseded(self.plan.run.trials, number)

    def _let_go(self, number: int) -> None:
        """Count a paused trial as stopped before its checkpoint goes: it would begin anew."""
        self.study.stop_paused(number)
        self.tracker.end_trial(number, "stopped", "paused, and others promised more")
        self.progress.trial_let_go(number)

    def end_session(self, why: str) -> None:
        """Note which trials the end of the session cut off: the next session goes on with them."""
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if not is_paused(trial):
                self.study.begun_trial(trial.number).set_user_attr(INTERRUPTED, True)
                if self.tracker.status_of(trial.number) is not None:  # else it has yet to start
                    self.tracker.end_trial(trial.number, "interrupted", why)

    def _push_state(self) -> None:
        with self._outages_told():
            self.plan.run.push_state()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a single trial should end: that is the scheduler's to say."""
        return False

    def stop_all(self) -> bool:
        """Whether the search should end."""
        return self.faults.reason is not None

    @contextmanager
    def _outages_told(self) -> Iterator[None]:
        """An outage of the bucket ends nothing here: the next trial's end does all of it."""
        try:
            yield
        except StorageError as error:
            self.progress.say(str(error))


def _our_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that our worker put into a result; Ray adds its own, without a slash."""
    return {k: v for k, v in result.items() if "/" in k and isinstance(v, float)}
