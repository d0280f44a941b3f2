"""Successive halving decides as Ray's does, from what the study holds alone."""

import math
import random
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler

from search.planning.halving import Halving, rungs, simulated_epochs, stops
from segcore.errors import UserError


def rays_scheduler(grace_epochs: int, max_epochs: int, reduction_factor: int) -> ASHAScheduler:
    return ASHAScheduler("epoch", "score", "max", max_epochs, grace_epochs, reduction_factor)


def ray_stops(scheduler: ASHAScheduler, name: str, epoch: int, score: float) -> bool:
    result = {"epoch": epoch, "score": score}
    decision = scheduler.on_trial_result(None, SimpleNamespace(trial_id=name), result)
    return bool(decision == ASHAScheduler.STOP)


@pytest.mark.parametrize("reduction_factor", [2, 3, 4])
@pytest.mark.parametrize("max_epochs", [1, 2, 9, 27, 50, 81, 100, 125, 243, 1000])
@pytest.mark.parametrize("grace_epochs", [1, 2, 5, 10])
def test_rungs_are_where_rays_scheduler_stops_a_trial_that_has_become_bad(
    grace_epochs: int, max_epochs: int, reduction_factor: int
) -> None:
    if grace_epochs > max_epochs:
        with pytest.raises(UserError, match=f"grace epochs {grace_epochs}"):
            rungs(grace_epochs, max_epochs, reduction_factor)
        return
    ours = rungs(grace_epochs, max_epochs, reduction_factor)
    assert list(ours) == sorted(set(ours))
    scheduler = rays_scheduler(grace_epochs, max_epochs, reduction_factor)
    scheduler.on_trial_add(None, SimpleNamespace(trial_id="good"))
    for rung in ours[:-1]:
        assert not ray_stops(scheduler, "good", rung, 1.0)
    stopped_at = set()
    for bad_from in range(1, max_epochs + 1):
        name = f"bad from {bad_from}"
        scheduler.on_trial_add(None, SimpleNamespace(trial_id=name))
        for rung in ours:
            if rung < bad_from:
                assert not ray_stops(scheduler, name, rung, 1.0)
        if ray_stops(scheduler, name, bad_from, 0.0):
            stopped_at.add(bad_from)
    assert stopped_at == set(ours)


def test_a_reduction_factor_that_never_ends_is_refused() -> None:
    with pytest.raises(UserError, match="reduction factor 1"):
        rungs(1, 10, 1)


def test_a_trial_goes_on_at_a_rung_unless_too_many_were_better_before() -> None:
    assert not stops(0.0, [], 3), "the first one has nobody to be compared with"
    assert not stops(0.5, [0.5], 3)
    assert stops(0.49, [0.5], 3)
    # Two thirds of the way from 0.1 to 0.4 lies 0.3.
    assert not stops(0.3, [0.4, 0.1, 0.3, 0.2], 3)
    assert stops(0.29, [0.4, 0.1, 0.3, 0.2], 3)
    # Half-way between two values counts as their mean.
    assert stops(0.24, [0.4, 0.1, 0.3, 0.2], 2)
    assert not stops(0.25, [0.4, 0.1, 0.3, 0.2], 2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("grace", "most", "factor"), [(1, 9, 3), (2, 50, 4), (3, 27, 3), (1, 7, 2)]
)
def test_trials_that_run_side_by_side_are_stopped_when_ray_stops_them(
    grace: int, most: int, factor: int, seed: int
) -> None:
    random_ = random.Random(seed)
    theirs = rays_scheduler(grace, most, factor)
    study = optuna.create_study(direction="maximize")
    ours = Halving(study, grace_epochs=grace, max_epochs=most, reduction_factor=factor)
    trials = []
    epoch_of: dict[int, int] = {}
    started = stopped = 0
    while started < 80 or epoch_of:
        if started < 80 and len(epoch_of) < 5:
            theirs.on_trial_add(None, SimpleNamespace(trial_id=str(started)))
            trials.append(study.ask())
            epoch_of[started] = 0
            started += 1
        number = random_.choice(list(epoch_of))
        epoch_of[number] += 1
        # Rounded, so that ties are frequent.
        epoch, score = epoch_of[number], round(random_.gauss(0.5 + 0.003 * number, 0.1), 2)
        trials[number].report(score, epoch)
        decision = not ours.goes_on(number, epoch)
        assert decision == ray_stops(theirs, str(number), epoch, score), (number, epoch)
        if decision:
            stopped += epoch < most
            del epoch_of[number]
    assert stopped > 20


class Trials:
    """A study of trials that are past or run, and the strategy of a session that goes on."""

    def __init__(self, *past: tuple[dict[int, float], TrialState], max_epochs: int = 9) -> None:
        self.study = optuna.create_study(direction="maximize")
        for values, state in past:
            value = max(values.values()) if state == TrialState.COMPLETE else None
            self.study.add_trial(
                optuna.trial.create_trial(intermediate_values=values, state=state, value=value)
            )
        self.halving = Halving(
            self.study, grace_epochs=1, max_epochs=max_epochs, reduction_factor=3
        )

    def stops(self, number: int, epoch: int, value: float) -> bool:
        """Report a trial's epoch as the searcher does; whether it was the trial's last one."""
        while len(self.study.trials) <= number:
            self.study.ask()
        trial = optuna.Trial(self.study, self.study.trials[number]._trial_id)
        if math.isfinite(value) and epoch not in self.study.trials[number].intermediate_values:
            trial.report(value, epoch)
        return not self.halving.goes_on(number, epoch)


def test_whatever_became_of_past_trials_their_values_count() -> None:
    values = {1: 0.5, 2: 0.5, 3: 0.6}
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING):
        trials = Trials((values, state))
        assert not trials.stops(1, 1, 0.5)
        assert trials.stops(1, 3, 0.59)
        assert trials.stops(2, 1, 0.49)


def test_a_resumed_trial_is_not_judged_again_where_it_repeats_an_epoch() -> None:
    for value, decision in ((0.63, True), (0.64, False)):
        trials = Trials(
            ({1: 0.9, 2: 0.9}, TrialState.PRUNED), ({1: 0.1, 2: 0.2}, TrialState.RUNNING)
        )
        assert not trials.stops(1, 1, 0.1)
        assert not trials.stops(1, 2, 0.2)
        # It has one value at the rung: the next trial is compared with 0.9 and 0.1 alone.
        assert trials.stops(2, 1, value) == decision


@pytest.mark.parametrize("resumed", [False, True])
def test_a_value_that_is_not_finite_is_made_up_for_by_the_next_epoch(resumed: bool) -> None:
    """The study has no such values, so a session that goes on must not need them."""
    trials = Trials(({1: 0.5}, TrialState.PRUNED))
    if not resumed:
        assert not trials.stops(1, 1, math.nan)
    assert trials.stops(1, 2, 0.4)
    assert not trials.stops(2, 1, 0.47), "two thirds of the way from 0.4 to 0.5 lies 0.4667"


def test_the_last_epoch_is_always_the_last() -> None:
    trials = Trials(max_epochs=3)
    assert [trials.stops(0, epoch, math.nan) for epoch in (1, 2, 3)] == [False, False, True]


@pytest.mark.parametrize(
    ("trials", "grace", "most", "factor", "epochs"),
    [
        (1, 1, 1, 2, 1),
        (1, 2, 18, 3, 18),  # a lone trial is never stopped
        (10, 5, 5, 3, 50),  # no trial is stopped
        # The first of two goes on for 8 epochs more than the second, which does half of the times.
        (2, 1, 9, 3, 9 + 1 + 8 / 2),
        (2000, 1, 2, 2, 2000 * 1.5),
    ],
)
def test_how_many_epochs_a_search_is_said_to_take(
    trials: int, grace: int, most: int, factor: int, epochs: float
) -> None:
    simulated = simulated_epochs(
        trials, grace_epochs=grace, max_epochs=most, reduction_factor=factor
    )
    assert simulated == pytest.approx(epochs, rel=0.02)
