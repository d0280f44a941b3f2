"""Optuna and successive halving behind Ray Tune's interfaces: the study on disk is the only state.

Optuna's states say how a trial ended: COMPLETE, its training ended by itself; PRUNED, the scheduler
stopped it; FAIL, it broke, and the user attribute ``failure`` says why; RUNNING, it is training, or
it was when its session ended (killed, interrupted, out of time), and the next session goes on with
it. The user attribute ``config`` holds the TrialConfig, the intermediate values every (epoch,
score) pair, ``interval`` the ends of the best score's 95 % interval, and ``jackknife`` what it
takes to compare that score with other trials' (``search.trials.worker.JACKKNIFE``).
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from search.planning.halving import Halving
from search.runs.study import SearchStudy
from segcore.config import TrialConfig
from segcore.errors import UserError

Space = Callable[[optuna.Trial], TrialConfig]


@dataclass(frozen=True)
class _Live:
    """A trial that runs, or is to be taken up again."""

    trial: optuna.Trial
    config: TrialConfig
    values: dict[int, float]
    """Every (epoch, score) that the study knows: ``Trial`` doesn't show them."""


class StudySearcher(Searcher):  # type: ignore[misc]  # Ray has no types
    """Hands out the study's trials, and tells the study what became of them.

    First come the trials that an earlier session left RUNNING, under their old numbers and
    configurations (their workers find their own checkpoints), then enqueued ones, then sampled
    ones, until ``planned_trials`` have been started, those of earlier sessions included. A trial
    that broke and was not given up is handed out again at once: Ray sees a new trial.

    ``finish(config, trial_number)`` overlays what the search decides. A worker gets
    ``{"trial_number": …, "attempt": …, "config": …, "known_epochs": …}``: the attempt in this
    session, counted from 1, a TrialConfig, and the last epoch that the study has a value of. Each
    of its results holds ``epoch`` (1-based), ``metric`` and ``finished``: True in the last result
    of a training that ended by itself. A last result may instead say in ``failure`` why the
    training can't go on, or in ``fatal`` why no training can: such a trial stays RUNNING in the
    study, for a later session.

    ``capacity()`` is asked before each suggestion: no more trials are out than that.
    """

    def __init__(
        self,
        study: SearchStudy,
        space: Space,
        *,
        metric: str,
        planned_trials: int,
        finish: Callable[[TrialConfig, int], TrialConfig],
        capacity: Callable[[], int],
    ) -> None:
        super().__init__(metric=metric, mode="max")
        self._study = study
        self._space = space
        self._planned_trials = planned_trials
        self._finish = finish
        self._capacity = capacity
        trials = study.get_trials(deepcopy=False)
        self._interrupted = [t for t in reversed(trials) if t.state == TrialState.RUNNING]
        self._n_started = sum(t.state != TrialState.WAITING for t in trials)
        self._live: dict[str, _Live] = {}
        self._broken: list[_Live] = []
        self._attempts: Counter[int] = Counter()
        self._given_up: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Give the next trial, or None while there is no room or a running one may still break.

        Raises ``UserError`` where the space can't make a configuration.
        """
        unfinished = self._broken or self._interrupted
        if not unfinished and self._n_started >= self._planned_trials:
            return None if self._live else str(Searcher.FINISHED)
        # Sampled no sooner than it can run: by then the sampler knows more.
        if len(self._live) >= self._capacity():
            return None
        live = self._broken.pop() if self._broken else self._begin()
        self._live[trial_id] = live
        number = live.trial.number
        self._attempts[number] += 1
        return {
            "trial_number": number,
            "attempt": self._attempts[number],
            "config": live.config,
            "known_epochs": max(live.values, default=0),
        }

    def _begin(self) -> _Live:
        """Take up an interrupted trial, or start a new one."""
        if not self._interrupted:
            trial = self._study.ask()
            self._n_started += 1
            return _Live(trial, self._configure(trial), {})
        past = self._interrupted.pop()
        trial = self._study.begun_trial(past.number)
        if past.user_attrs.get("failure"):
            # The driver was killed before it told that the trial had failed, which is run again.
            trial.set_user_attr("failure", None)
        known = past.user_attrs.get("config")
        config = TrialConfig.from_dict(known) if known else self._configure(trial)
        return _Live(trial, config, dict(past.intermediate_values))

    def _configure(self, trial: optuna.Trial) -> TrialConfig:
        try:
            config = self._finish(self._space(trial), trial.number)
        except UserError as error:
            trial.set_user_attr("failure", str(error))
            self._study.tell(trial, state=TrialState.FAIL)
            raise
        trial.set_user_attr("config", config.to_dict())
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
                live.trial.set_user_attr("jackknife", result.get("jackknife"))

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell how the trial ended, or keep it where it broke and is to be taken up again.

        A finished one is worth its best epoch: that epoch's checkpoint is the one that is kept.
        A training that returns without a result had come to its end before it was resumed.
        """
        if trial_id not in self._live:
            return  # Ray tells twice where stopping a trial fails
        if error and trial_id not in self._given_up:
            self._broken.append(self._live.pop(trial_id))
            return
        last = result or {}
        if "fatal" in last:
            del self._live[trial_id]
            return
        self.on_trial_result(trial_id, last)  # Ray gives the last result of a stop only here
        live = self._live.pop(trial_id)
        finished = result is not None and last.get("finished", True)
        failure = self._given_up.get(trial_id) or last.get("failure")
        if finished and not live.values:
            failure = f"no epoch had a finite {self.metric}"
        if failure:
            live.trial.set_user_attr("failure", failure)  # a trial that ended takes no attributes
            self._study.tell(live.trial, state=TrialState.FAIL)
        elif finished:
            self._study.tell(live.trial, max(live.values.values()))
        else:
            self._study.tell(live.trial, state=TrialState.PRUNED)

    def give_up(self, trial_id: str, reason: str) -> None:
        """Count a trial that broke as failed, when Ray tells that it ended."""
        self._given_up[trial_id] = reason

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: all is in the study."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: all is in the study."""

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles its Tuner, searcher included, for a restore that we don't use: an open journal
        # and a space from a notebook can't be pickled, and must not end the search.
        return {}


class StudyScheduler(FIFOScheduler):  # type: ignore[misc]  # Ray has no types
    """Stops trials by successive halving, and asks what to do about those that break.

    ``why(trial)`` is asked once each time that a trial of Ray's breaks: it says why the trial is
    given up, or None where it is to go on.
    """

    def __init__(
        self, searcher: StudySearcher, halving: Halving, *, why: Callable[[Any], str | None]
    ) -> None:
        super().__init__()
        self._searcher, self._halving, self._why = searcher, halving, why

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Whether the trial is stopped after this epoch."""
        score = result.get(self._searcher.metric)
        if score is None:
            return str(FIFOScheduler.CONTINUE)  # a failure was reported instead
        stops = self._halving.stops(trial.config["trial_number"], result["epoch"], score)
        return str(FIFOScheduler.STOP if stops else FIFOScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Decide about a trial that broke: Ray's last call before it tells the searcher."""
        reason = self._why(trial)
        if reason is not None:
            self._searcher.give_up(trial.trial_id, reason)
