"""A strategy's decisions carried out by Ray Tune: the study on disk is the only state.

Optuna's states say how a trial ended: COMPLETE, its training ended by itself; PRUNED, it was
stopped for good; FAIL, it broke, and the user attribute ``failure`` says why; RUNNING, it is
training, or it is paused, or it was training when its session ended (out of time, by Ctrl-C, by a
kill), and the next session goes on with it. The user attribute ``config`` holds the TrialConfig,
the intermediate values every (epoch, score) pair, ``interval`` the ends of the best score's 95 %
interval, and ``jackknife`` what it takes to compare that score with other trials'
(``search.trials.worker.JACKKNIFE``); the others are in ``search.runs.attributes``.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from search.planning.strategy import Resume, Strategy
from search.runs.attributes import (
    EPOCH_SECONDS,
    INTERRUPTED,
    PAUSED,
    STARTED_SECONDS,
    is_paused,
)
from search.runs.study import SearchStudy
from segcore.config import TrialConfig
from segcore.errors import UserError

Space = Callable[[optuna.Trial], TrialConfig]


EPOCH_S = "train/epoch_s"
"""In a worker's result: how long the epoch took, validation included."""


@dataclass
class _Live:
    """A trial that runs, or is to be taken up again."""

    trial: optuna.Trial
    config: TrialConfig
    values: dict[int, float]
    """Every (epoch, score) that the study knows: ``Trial`` doesn't show them."""
    epoch_seconds: float
    """Mean of the epochs that ``values`` has."""
    noted_seconds: float
    """What the study has of that."""
    handed_out_at: float | None = None
    """When a worker was to begin with it; None once the worker has reported."""


class StudySearcher(Searcher):  # type: ignore[misc]  # Ray has no types
    """Hands out the study's trials, and tells the study what became of them.

    First come the trials that an earlier session left running (without ``pauses`` also those that
    it left paused), under their old numbers and configurations (their workers find their own
    checkpoints), then enqueued ones, then what
    ``strategy`` says: a paused trial, or a new one, until ``planned_trials`` have been started,
    those of earlier sessions included. A trial that broke and was not given up is handed out again
    at once, a paused one when the strategy says so: Ray sees a new trial each time.

    A trial that ``goes_on`` no longer is stopped for good or, with ``pauses``, paused. Once all
    trials together have had ``epoch_budget`` epochs, none goes on, and none is handed out.

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
        strategy: Strategy,
        *,
        metric: str,
        planned_trials: int,
        finish: Callable[[TrialConfig, int], TrialConfig],
        capacity: Callable[[], int],
        pauses: bool = False,
        epoch_budget: int | None = None,
    ) -> None:
        super().__init__(metric=metric, mode="max")
        self.is_done = False
        """Whether nothing was left to hand out when Ray last asked: the search has ended."""
        self._study = study
        self._space = space
        self._strategy, self._pauses = strategy, pauses
        self._planned_trials = planned_trials
        self._epoch_budget = math.inf if epoch_budget is None else epoch_budget
        self._finish = finish
        self._capacity = capacity
        trials = study.get_trials(deepcopy=False)
        running = (t for t in reversed(trials) if t.state == TrialState.RUNNING)
        # Where a search goes on by halving, no strategy would ever resume what freeze-thaw paused.
        self._interrupted = [trial for trial in running if not (pauses and is_paused(trial))]
        self._n_started = sum(t.state != TrialState.WAITING for t in trials)
        self._n_epochs = sum(len(t.intermediate_values) for t in trials)
        self._live: dict[str, _Live] = {}
        self._broken: list[_Live] = []
        self._attempts: Counter[int] = Counter()
        self._given_up: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Give the next trial, or None while there is no room or a running one may still break.

        Raises ``UserError`` where the space can't make a configuration.
        """
        is_anything_left = self._is_anything_left()
        # Chosen no sooner than it can run: by then more is known.
        if is_anything_left and len(self._live) >= self._capacity():
            return None
        live = self._choose() if is_anything_left else None
        if live is None:
            self.is_done = not self._live
            return str(Searcher.FINISHED) if self.is_done else None
        self._live[trial_id] = live
        number = live.trial.number
        self._attempts[number] += 1
        live.handed_out_at = time.monotonic()
        return {
            "trial_number": number,
            "attempt": self._attempts[number],
            "config": live.config,
            "known_epochs": max(live.values, default=0),
        }

    def goes_on(self, number: int, epoch: int) -> bool:
        """Whether a trial goes on after an epoch whose value the study has."""
        return self._n_epochs < self._epoch_budget and self._strategy.goes_on(number, epoch)

    def _is_anything_left(self) -> bool:
        if self._broken or self._interrupted:
            return True
        if self._n_epochs >= self._epoch_budget:
            return False
        if self._n_started < self._planned_trials:
            return True
        return self._pauses and bool(self._study.paused_trials())

    def _choose(self) -> _Live | None:
        """The trial to hand out; None where the strategy wants a new one more than are planned."""
        if self._broken:
            return self._broken.pop()
        if self._interrupted:
            return self._take_up(self._interrupted.pop())
        if self._n_started < self._planned_trials and self._is_any_enqueued():
            return self._start()
        choice = self._strategy.next()
        if isinstance(choice, Resume):
            return self._take_up(self._study.paused_trials()[choice.number])
        if self._n_started >= self._planned_trials:
            return None
        if choice.params is not None:
            # If the driver is killed after this, the next session begins with it.
            self._study.enqueue_trial(dict(choice.params))
        return self._start()

    def _is_any_enqueued(self) -> bool:
        return bool(self._study.get_trials(deepcopy=False, states=[TrialState.WAITING]))

    def _start(self) -> _Live:
        trial = self._study.ask()
        self._n_started += 1
        return _Live(trial, self._configure(trial), {}, 0.0, 0.0)

    def _take_up(self, past: FrozenTrial) -> _Live:
        """Go on with a trial that was begun."""
        trial = self._study.begun_trial(past.number)
        # A driver that was killed may have noted a failure, but not yet told that the trial failed.
        for attribute in ("failure", PAUSED, INTERRUPTED):
            if past.user_attrs.get(attribute) is not None:
                trial.set_user_attr(attribute, None)
        known = past.user_attrs.get("config")
        config = TrialConfig.from_dict(known) if known else self._configure(trial)
        noted_s = past.user_attrs.get(EPOCH_SECONDS, 0.0)
        return _Live(trial, config, dict(past.intermediate_values), noted_s, noted_s)

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
            ends = [result.get(f"{self.metric}_{end}", math.nan) for end in ("low", "high")]
            is_best = value > max(live.values.values(), default=-math.inf)
            if is_best and all(map(math.isfinite, ends)):
                live.trial.set_user_attr("interval", ends)
                live.trial.set_user_attr("jackknife", result.get("jackknife"))
            # Last, because an epoch with a value isn't told again after a driver was killed.
            live.trial.report(value, epoch)
            live.values[epoch] = value
            self._n_epochs += 1
            _note_times(live, result.get(EPOCH_S, 0.0))

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
        live = self._live.pop(trial_id)
        finished = result is not None and last.get("finished", True)
        failure = self._given_up.get(trial_id) or last.get("failure")
        if (finished or self._pauses) and not live.values:
            failure = f"no epoch had a finite {self.metric}"
        if failure:
            live.trial.set_user_attr("failure", failure)  # a trial that ended takes no attributes
            self._study.tell(live.trial, state=TrialState.FAIL)
        elif finished:
            self._study.tell(live.trial, max(live.values.values()))
        elif self._pauses:
            live.trial.set_user_attr(PAUSED, last["epoch"])
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


def _note_times(live: _Live, epoch_s: float) -> None:
    """Keep how long epochs take, and how long the start took, for the strategy."""
    live.epoch_seconds += (epoch_s - live.epoch_seconds) / len(live.values)
    # A write to the journal takes milliseconds, and the mean is nearly the same after each epoch.
    if abs(live.epoch_seconds - live.noted_seconds) > 0.05 * live.noted_seconds:
        live.noted_seconds = live.epoch_seconds
        live.trial.set_user_attr(EPOCH_SECONDS, live.epoch_seconds)
    if live.handed_out_at is not None:
        started_s = time.monotonic() - live.handed_out_at - epoch_s
        live.trial.set_user_attr(STARTED_SECONDS, max(0.0, started_s))
        live.handed_out_at = None


class StudyScheduler(FIFOScheduler):  # type: ignore[misc]  # Ray has no types
    """Ends a trial's turn when the searcher says so, and asks what to do about those that break.

    ``why(trial)`` is asked once each time that a trial of Ray's breaks: it says why the trial is
    given up, or None where it is to go on.
    """

    def __init__(self, searcher: StudySearcher, *, why: Callable[[Any], str | None]) -> None:
        super().__init__()
        self._searcher, self._why = searcher, why

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Whether the trial's turn ends with this epoch: to Ray it is then stopped."""
        if self._searcher.metric not in result:
            return str(FIFOScheduler.CONTINUE)  # a failure was reported instead
        # Ray asks here before it tells the searcher, which it doesn't where a trial is stopped.
        self._searcher.on_trial_result(trial.trial_id, result)
        goes_on = self._searcher.goes_on(trial.config["trial_number"], result["epoch"])
        return str(FIFOScheduler.CONTINUE if goes_on else FIFOScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Decide about a trial that broke: Ray's last call before it tells the searcher."""
        reason = self._why(trial)
        if reason is not None:
            self._searcher.give_up(trial.trial_id, reason)
