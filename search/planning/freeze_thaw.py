"""Freeze-thaw: trials are paused and resumed, by the probability of improvement per second.

The idea is Swersky, Snoek and Adams' (arXiv 1406.3896), the random threshold that of ifBO
(Rakotoarison et al., ICML 2024). A Gaussian process forecasts learning curves
(``search.forecasting``). Whenever a worker is free, or a trial reaches epoch 1, 2, 4, 7, 13, 23,
41, 74 …, three answers are compared: go on with the trial, resume a paused one from its checkpoint,
or start a new one. An answer's cost is what is expected to be spent on it: most trials are given up
at their next milestone, so a look at a new one is cheap.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.special import log_ndtr, log_softmax

from search.forecasting.curves import milestones
from search.forecasting.earlier import EARLIER, EarlierTrial
from search.forecasting.encoding import Encoder
from search.forecasting.forecast import Forecast
from search.forecasting.kernel import Array
from search.forecasting.proposals import Candidates, Proposal, SpaceFunction, draw
from search.planning.strategy import Resume, Start
from search.runs.attributes import is_paused

REMEMBERED = "forecast"
"""User attribute of the study: hyperparameters, and the number of trials they were fitted to."""

RANDOM_STARTS = 8
"""Random configurations that follow the baselines, one epoch each, before anything is forecast."""
REFIT_GROWTH = 1.35
"""Hyperparameters are fitted anew when there are so many times as many trials."""
PARENTS = 8
"""So many of the best trials are mutated to make new configurations."""
SMALLEST_GAIN, LARGEST_GAIN = -0.5, 0.7
"""The improvement asked for is 10^U(−0.5, 0.7) times half of what lies between the median trial's
score and the best one's: too much for noise, or for trials that end alike …"""
SMALLEST_PART, LARGEST_PART = -4.0, -1.0
"""… but, if that is more, 10^U(−4, −1) of what the best one lacks of 1, as in ifBO, up to the
largest: where no trial has learnt anything yet, a little more of nothing is no improvement."""
SURPRISES = np.linspace(4, -4, 33)
"""How well a trial may do at the next milestone, in standard deviations of what is believed."""
LOG_CHANCES = log_softmax(-(SURPRISES**2) / 2)
"""Logarithm of the probability of each."""
LOG_SHARES = np.logaddexp.accumulate(LOG_CHANCES)
"""Logarithm of the probability of doing at least as well."""
MOST_FANTASISED = 64
"""So many of the running trials, the newest, are taken into account where a new one is chosen."""
FINISHED_AT = 1.5
"""The most promising trials are trained to the end when no more is left than this many times the
time that it takes."""


@dataclass(frozen=True)
class _Aim:
    """What the answers are compared by: better than ``threshold_z`` at the last epoch."""

    threshold_z: float
    seconds_left: float

    def epochs(self, most_N: Array, epoch_seconds_N: Array, start_seconds_N: Array) -> Array:
        """How many epochs each answer is judged by: up to the last one that there is time for."""
        affordable_N = np.floor((self.seconds_left - start_seconds_N) / epoch_seconds_N)
        return np.minimum(most_N, affordable_N)


def log_rate(
    foreseen: tuple[Array, Array, Array], threshold_z: float, first_s_N: Array, rest_s_N: Array
) -> Array:
    """Logarithm of the probability of ending above ``threshold_z``, per second, as it is expected.

    The next milestone comes after ``first_s_N`` seconds. Only those that do well enough there go
    on, for ``rest_s_N`` more; how well is what makes the rate the highest. ``foreseen`` is the last
    epoch's score as ``Posterior.foresee`` gives it.
    """
    mean_N, sd_N, sd_then_N = foreseen
    told_N = np.sqrt(sd_N**2 - sd_then_N**2)
    mean_then_NG = mean_N[:, None] + told_N[:, None] * SURPRISES
    log_p_NG = log_ndtr((mean_then_NG - threshold_z) / sd_then_N[:, None]) + LOG_CHANCES
    log_p_of_best_NG = np.logaddexp.accumulate(log_p_NG, axis=1)
    seconds_NG = first_s_N[:, None] + np.exp(LOG_SHARES) * rest_s_N[:, None]
    return (log_p_of_best_NG - np.log(np.maximum(seconds_NG, 1e-9))).max(axis=1)


def _epochs_of(trials: Sequence[FrozenTrial]) -> int:
    """Of all trials together."""
    return sum(len(trial.intermediate_values) for trial in trials)


class FreezeThaw:
    """Decides from a study what its workers do; what it keeps only saves time.

    ``space`` makes a configuration by asking a trial. ``first_trials`` are begun before anything
    is forecast: the baselines, and ``RANDOM_STARTS``. Once ``most_trials`` are begun, only they
    are chosen from. ``seconds_left`` says how long the search goes on: what can't be trained until
    then is not hoped for.
    """

    def __init__(
        self,
        study: Study,
        space: SpaceFunction,
        *,
        max_epochs: int,
        first_trials: int = RANDOM_STARTS,
        most_trials: int | None = None,
        seconds_left: Callable[[], float] = lambda: math.inf,
        seed: int = 0,
    ) -> None:
        self._study, self._space, self._most_trials = study, space, most_trials
        self._seconds_left = seconds_left
        self._max_epochs, self._first_trials, self._seed = max_epochs, first_trials, seed
        self._candidates = Candidates(space, seed)
        self._earlier = [EarlierTrial(**trial) for trial in study.user_attrs.get(EARLIER, ())]
        self._last: tuple[tuple[int, int, int], Forecast] | None = None
        self._milestones = frozenset(milestones(max_epochs))

    def next(self) -> Resume | Start:
        """What a worker does that is free."""
        trials = self._study.get_trials(deepcopy=False)
        if any(trial.state == TrialState.WAITING for trial in trials):
            return Start(None)  # the study's next trial is an enqueued one
        if len(trials) < self._first_trials or not any(t.intermediate_values for t in trials):
            return Start(draw(self._space, self._rng(trials)).params)
        return self._decide(trials, None)

    def goes_on(self, number: int, epoch: int) -> bool:
        """Whether a trial goes on that has reported this epoch; it is paused where it doesn't."""
        if epoch >= self._max_epochs:
            return False
        if epoch not in self._milestones:
            return True
        trials = self._study.get_trials(deepcopy=False)
        begun = [trial for trial in trials if trial.state != TrialState.WAITING]
        if len(begun) < self._first_trials:
            return False
        return self._decide(begun, number) == Resume(number)

    def _rng(self, trials: Sequence[FrozenTrial]) -> np.random.Generator:
        """The same numbers for the same study: a resumed search decides as it would have."""
        return np.random.default_rng([self._seed, len(trials), _epochs_of(trials)])

    def _decide(self, trials: Sequence[FrozenTrial], current: int | None) -> Resume | Start:
        forecast = self._forecast(trials, current)
        aim = self._aim(forecast, trials)
        unfinished = [t for t in trials if t.state == TrialState.RUNNING]
        paused = {t.number for t in unfinished if is_paused(t)}
        going = [n for n in forecast.seen if (n in paused or n == current)
                 and forecast.last_epoch[n] < self._max_epochs]  # fmt: skip
        others = paused | {current}
        running = [t.number for t in unfinished if t.number not in others]
        number, rate = self._best_to_go_on(forecast, aim, going, current)
        if number is not None and (rate == math.inf or self._all_are_begun(trials)):
            return Resume(number)
        if self._all_are_begun(trials):
            return Start(None)
        proposals, x_ND, rates_N = self._rates_of_new(forecast, aim, running, len(trials))
        for index in np.argsort(-rates_N, kind="stable"):
            if number is not None and rates_N[index] <= rate:
                return Resume(number)
            if not forecast.repeats(x_ND[index]):
                return Start(proposals[index].params)
        return Start(proposals[0].params)

    def _next_decision(self, epoch_N: Array) -> Array:
        """The next epoch at which it is decided whether a trial goes on, or the last one."""
        steps = np.array([*sorted(self._milestones), self._max_epochs])
        return steps[np.searchsorted(steps, epoch_N, side="right")]

    def _all_are_begun(self, trials: Sequence[FrozenTrial]) -> bool:
        return self._most_trials is not None and len(trials) >= self._most_trials

    def _forecast(self, trials: Sequence[FrozenTrial], current: int | None) -> Forecast:
        """Of these trials: the last one, where no epoch or trial has come since.

        ``current`` is a trial that has just reported, so that a forecast is made anew with it.
        """
        n_failed = sum(trial.state == TrialState.FAIL for trial in trials)
        known = (len(trials), _epochs_of(trials), n_failed)
        if self._last is None or self._last[0] != known:
            encoder = None if self._last is None else self._last[1].encoder
            self._last = known, self._new_forecast(trials, encoder, current)
        return self._last[1]

    def _new_forecast(
        self, trials: Sequence[FrozenTrial], encoder: Encoder | None, current: int | None
    ) -> Forecast:
        remembered = self._study.user_attrs.get(REMEMBERED)
        refit = remembered is None or len(trials) >= REFIT_GROWTH * remembered["trials"]
        forecast = Forecast(
            trials, self._max_epochs, self._rng(trials), remembered,
            refit=refit, encoder=encoder, current=current, earlier=self._earlier,
        )  # fmt: skip
        if refit:
            fitted = {"trials": len(trials), **forecast.remembered}
            self._study.set_user_attr(REMEMBERED, fitted)
        return forecast

    def _aim(self, forecast: Forecast, trials: Sequence[FrozenTrial]) -> _Aim:
        rng, scale = self._rng(trials), forecast.scale
        gain = 10 ** rng.uniform(SMALLEST_GAIN, LARGEST_GAIN)
        part = 10 ** rng.uniform(SMALLEST_PART, LARGEST_PART)
        least = part * (1 - scale.restore(forecast.best_z)) / scale.spread
        gain = min(max(gain, least), 10**LARGEST_GAIN)
        return _Aim(forecast.best_z + gain, self._seconds_left())

    def _best_to_go_on(
        self, forecast: Forecast, aim: _Aim, numbers: Sequence[int], current: int | None
    ) -> tuple[int | None, float]:
        """The trial of these that is to go on, and its rate; all but the current one are paused.

        The rate is infinite where the trial is believed to end better than all before, and must go
        on now to be trained to the end.
        """
        if not numbers:
            return None, -math.inf
        last_N = np.array([forecast.last_epoch[number] for number in numbers])
        each_N = forecast.epoch_seconds_of(numbers)
        start_N = forecast.start_seconds * (np.array(numbers) != current)
        epochs_N = aim.epochs(self._max_epochs - last_N, each_N, start_N)
        end_N = last_N + np.maximum(epochs_N, 1)
        next_N = np.minimum(self._next_decision(last_N), end_N)
        first_s_N, rest_s_N = start_N + each_N * (next_N - last_N), each_N * (end_N - next_N)
        foreseen = forecast.posterior.foresee(
            forecast.at(numbers, next_N), forecast.at(numbers, end_N)
        )
        is_just_N = (last_N + epochs_N == self._max_epochs) & (
            aim.seconds_left <= FINISHED_AT * (first_s_N + rest_s_N)
        )
        end_z_N = np.where(is_just_N, foreseen[0], -np.inf)
        if end_z_N.max() > forecast.best_z:
            return numbers[int(end_z_N.argmax())], math.inf
        log_rates_N = log_rate(foreseen, aim.threshold_z, first_s_N, rest_s_N)
        rates_N = np.where(epochs_N >= 1, log_rates_N, -np.inf)
        return numbers[int(rates_N.argmax())], float(rates_N.max())

    def _rates_of_new(
        self, forecast: Forecast, aim: _Aim, running: Sequence[int], n_trials: int
    ) -> tuple[list[Proposal], Array, Array]:
        """Of new configurations, as if the running trials had ended as they are believed to."""
        parents = {number: forecast.proposal(number) for number in forecast.best_seen[:PARENTS]}
        proposals, x_ND = self._candidates.of(n_trials, parents, forecast.encoder)
        posterior = forecast.posterior
        if running:
            newest = running[-MOST_FANTASISED:]
            posterior = posterior.fantasise(forecast.at(newest, [self._max_epochs] * len(newest)))
        each_N, start = forecast.epoch_seconds(x_ND), forecast.start_seconds
        epochs_N = aim.epochs(np.full(len(x_ND), self._max_epochs), each_N, np.array(start))
        end_N = np.maximum(epochs_N, 1)
        foreseen = posterior.foresee(
            forecast.untried(x_ND, np.ones(len(x_ND))), forecast.untried(x_ND, end_N)
        )
        rates_N = log_rate(foreseen, aim.threshold_z, start + each_N, each_N * (end_N - 1))
        return proposals, x_ND, np.where(epochs_N >= 1, rates_N, -np.inf)
