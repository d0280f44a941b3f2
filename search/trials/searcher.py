"""Optuna behind Ray Tune's searcher interface: the study on disk is the only state, and the truth.

Optuna's states say how a trial ended: COMPLETE, its training ended by itself; PRUNED, the scheduler
stopped it; FAIL, it broke, and the user attribute ``failure`` says why; RUNNING, it is training, or
was when its session ended (killed, interrupted, out of time), and the next session takes it up. The
user attribute ``config`` holds the TrialConfig, the intermediate values every (epoch, score) pair,
``interval`` the ends of the best score's 95 % interval, and ``resampled`` what it takes to compare
it with other trials' (``search.trials.worker.RESAMPLED``).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from segcore.config import TrialConfig
from segcore.errors import UserError

Space = Callable[[optuna.Trial], TrialConfig]


@dataclass(frozen=True)
class _Live:
    trial: optuna.Trial
    values: dict[int, float]
    """Every (epoch, score) that the study knows: ``Trial`` doesn't show them."""


class StudySearcher(Searcher):  # type: ignore[misc]  # Ray has no types
    """Hands out the study's trials, and tells the study what became of them.

    First the trials that a dead session left RUNNING, under their old numbers and configurations
    (their workers find their own checkpoints), then enqueued ones, then sampled ones, until
    ``planned_trials`` have been started, those of earlier sessions included.

    ``finish(config, trial_number)`` overlays what the search decides. What a worker gets is
    ``{"trial_number": …, "config": config.to_dict(), "known_epochs": …}``, the last
    being the epochs that the study has values of; each of its results holds ``epoch``
    (1-based), ``metric`` and ``finished``: True in the last one of a training that ended by itself.
    A last result may instead say in ``failure`` why the training can't go on, or in ``fatal`` why
    no training can: such a trial stays RUNNING in the study, for a session that mends it. So does
    one that Ray dropped though nobody gave it up: ``dropped_only`` says that such ones are all that
    is left, and another session may take them up.

    ``capacity()`` is asked before each suggestion: no more trials are out than that.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        *,
        metric: str,
        planned_trials: int,
        finish: Callable[[TrialConfig, int], TrialConfig],
        capacity: Callable[[], int],
    ) -> None:
        super().__init__(metric=metric, mode="max")
        self.study = study
        self._space = space
        self._planned_trials = planned_trials
        self._finish = finish
        self._capacity = capacity
        trials = study.get_trials(deepcopy=False)
        self._interrupted = [t for t in reversed(trials) if t.state == TrialState.RUNNING]
        self._n_started = sum(t.state != TrialState.WAITING for t in trials)
        self._live: dict[str, _Live] = {}
        self._reasons: dict[str, str | None] = {}
        self._n_dropped = 0

    @property
    def dropped_only(self) -> bool:
        """Whether every trial has ended but for some that Ray dropped."""
        all_out = not self._interrupted and self._n_started >= self._planned_trials
        return self._n_dropped > 0 and all_out and not self._live

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Give the next trial, or None while there is no room.

        Raises ``UserError`` where the space can't make a configuration.
        """
        if not self._interrupted and self._n_started >= self._planned_trials:
            return str(Searcher.FINISHED)
        # Sampled no sooner than it can run: by then the sampler knows more.
        if len(self._live) >= self._capacity():
            return None
        if self._interrupted:
            past = self._interrupted.pop()
            trial, values = optuna.Trial(self.study, past._trial_id), dict(past.intermediate_values)
        else:
            trial, values = self.study.ask(), {}
            self._n_started += 1
        config = trial.user_attrs.get("config") or self._configure(trial)
        self._live[trial_id] = _Live(trial, values)
        known_epochs = max(values, default=0)
        return {"trial_number": trial.number, "config": config, "known_epochs": known_epochs}

    def _configure(self, trial: optuna.Trial) -> dict[str, Any]:
        try:
            config = self._finish(self._space(trial), trial.number).to_dict()
        except UserError as error:
            trial.set_user_attr("failure", str(error))
            self.study.tell(trial, state=TrialState.FAIL)
            raise
        trial.set_user_attr("config", config)
        return config

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Report one epoch. What is not finite, or known from before a resume, is left out."""
        live = self._live[trial_id]
        epoch, value = result.get("epoch", 0), result.get(self.metric, math.nan)
        if math.isfinite(value) and epoch not in live.values:
            is_best = value > max(live.values.values(), default=-math.inf)
            live.trial.report(value, epoch)
            live.values[epoch] = value
            ends = [result.get(f"{self.metric}_{end}", math.nan) for end in ("low", "high")]
            if is_best and all(map(math.isfinite, ends)):
                live.trial.set_user_attr("interval", ends)
                live.trial.set_user_attr("resampled", result.get("resampled"))

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell how the trial ended.

        A finished one is worth its best epoch: that epoch's checkpoint is the one that is kept.
        A training that returns without a result had come to its end before it was resumed.
        """
        if trial_id not in self._live:
            return  # Ray tells twice where stopping a trial fails
        last = result or {}
        dropped = error and self._reasons.get(trial_id) is None
        self._n_dropped += dropped
        if dropped or "fatal" in last:
            del self._live[trial_id]
            return
        self.on_trial_result(trial_id, last)  # Ray gives the last result of a stop only here
        failure = last.get("failure")
        finished = result is not None and last.get("finished", True)
        values = self._live[trial_id].values
        if finished and not values:
            failure = f"no epoch had a finite {self.metric}"
        trial = self._live.pop(trial_id).trial
        if error:
            failure = self._reasons[trial_id]
        if failure:
            trial.set_user_attr("failure", failure)
        if error or failure:
            self.study.tell(trial, state=TrialState.FAIL)
        elif finished:
            self.study.tell(trial, max(values.values()))
        else:
            self.study.tell(trial, state=TrialState.PRUNED)

    def note_failure(self, trial_id: str, reason: str | None) -> None:
        """Say why a trial is given up, or None: it isn't. ``on_trial_complete`` may follow."""
        self._reasons[trial_id] = reason

    def known_values(self, trial_id: str) -> Mapping[int, float]:
        """Every (epoch, score) of a trial that is out, those of earlier sessions included."""
        return self._live[trial_id].values

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: all is in the study."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: all is in the study."""

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles its Tuner, searcher included, for a restore that we don't use: an open journal
        # and a space from a notebook can't be pickled, and must not end the search.
        return {}


class StudyScheduler(ASHAScheduler):  # type: ignore[misc]  # Ray has no types
    """Ray's asynchronous successive halving, which goes on where earlier sessions left it.

    Their values fill the rungs before the first trial starts, so that cut-offs survive. A trial
    that is resumed brings its own values along when it is added, under its new Ray id: it has one
    entry in each rung that it passed, and none more when it passes that epoch a second time.
    ``why(trial)`` says why Ray's trial is given up, or None where it isn't.
    """

    def __init__(
        self,
        searcher: StudySearcher,
        *,
        grace_epochs: int,
        max_epochs: int,
        reduction_factor: int,
        why: Callable[[Any], str | None],
    ) -> None:
        super().__init__(
            time_attr="epoch",
            metric=searcher.metric,
            mode="max",
            max_t=max_epochs,
            grace_period=grace_epochs,
            reduction_factor=reduction_factor,
        )
        self._searcher = searcher
        self._why = why
        for past in searcher.study.get_trials(deepcopy=False):
            if past.state.is_finished():
                stand_in = SimpleNamespace(trial_id=f"past-{past.number}")
                super().on_trial_add(None, stand_in)
                self._replay(stand_in, past.intermediate_values)
                self.on_trial_remove(None, stand_in)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a trial with all that the study knows of it."""
        super().on_trial_add(tune_controller, trial)
        self._replay(trial, self._searcher.known_values(trial.trial_id))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Keep why: Ray's last call before the searcher is told, if the trial isn't tried again."""
        super().on_trial_error(tune_controller, trial)
        self._searcher.note_failure(trial.trial_id, self._why(trial))

    def _replay(self, trial: Any, values: Mapping[int, float]) -> None:
        for epoch, value in sorted(values.items()):
            self.on_trial_result(None, trial, {"epoch": epoch, self.metric: value})
