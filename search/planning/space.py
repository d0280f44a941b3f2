"""Search spaces: a user's functions, loaded, checked and sampled before anything is trained."""

import difflib
import inspect
import itertools
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial
from pydantic import ValidationError

from search.runs.options import SearchOptions
from segcore.config import TrialConfig, describe_validation_error
from segcore.errors import Problem, ProblemsError, UserError, in_short
from segcore.facts import DataFacts
from segcore.files import digest
from segcore.plugins import import_attribute

SETTLED_SAMPLES = 300
"""Sampling a space ends after this many samples in a row that named nothing new …"""
MAX_SAMPLES = 5_000
"""… or after this many altogether."""

MAX_TRIALS = 1_000_000
"""Two searches with different seeds share no trial's seed, below this number of trials."""

_STORABLE_TYPES = (NoneType, bool, int, float, str)
_STORABLE = (
    "allowed are None, bool, int, float and str, which come back from the study's file as they "
    "were; choose a name, and look up in the space what it stands for"
)

SpaceFunction = Callable[[BaseTrial], TrialConfig]


@dataclass(frozen=True)
class Space:
    """A search space: a user's function, and parameters that are known to be good."""

    path: str
    function: SpaceFunction
    baselines: tuple[dict[str, Any], ...]
    fingerprint: str
    """Changes with the source of the module that holds the function."""

    def sample(self, trial: BaseTrial) -> TrialConfig:
        """Let the function sample; whatever goes wrong in it is a ``UserError``."""
        try:
            config = self.function(trial)
        except Exception as error:
            self._check_choices(trial)  # what Optuna or the function says of one is no help
            sampled = ", ".join(f"{name} = {value!r}" for name, value in trial.params.items())
            raise UserError(
                f"space {self.path}: {_reason(error)}; sampled so far: {sampled or 'nothing'}; "
                "mend the space for these values"
            ) from error
        self._check_choices(trial)
        if not isinstance(config, TrialConfig):
            raise UserError(
                f"space {self.path}: gave {type(config).__name__}; it must return a TrialConfig"
            )
        return config

    def _check_choices(self, trial: BaseTrial) -> None:
        for name, distribution in trial.distributions.items():
            for choice in _unstorable(getattr(distribution, "choices", ())):
                raise UserError(f"space {self.path}: {name} has the choice {choice!r}; {_STORABLE}")


def finish(
    options: SearchOptions, config: TrialConfig, number: int, *, follows: bool = False
) -> TrialConfig:
    """A trial's configuration: the space's, with the search's epochs, metric and seed.

    Where it ``follows`` a search, its seed is none that a trial of that search has: seeds are
    counted down from the last one. Raises ``UserError`` where the space's values don't fit.
    """
    decided = {
        "max_epochs": options.max_epochs,
        "metric": options.metric,
        "epoch_mpx": options.epoch_megapixels,
        "seed": options.seed * MAX_TRIALS + (MAX_TRIALS - 1 - number if follows else number),
    }
    return TrialConfig.from_dict({**dict(config), **decided})


def load_space(path: str, look: Callable[[], DataFacts]) -> Space:
    """Import a space and its module's ``BASELINES``; ``module`` alone means ``module:space``.

    A function of two arguments gets what ``look`` finds out about the data as its second one. Then
    ``BASELINES`` may be a function of that, too.
    """
    path = path if ":" in path else f"{path}:space"
    function = import_attribute("space", path)
    arguments = len(inspect.signature(function).parameters) if callable(function) else 0
    if arguments not in (1, 2):
        raise UserError(
            f"space {path!r}: must be a function of one Optuna trial → TrialConfig; a second "
            "argument gets the data set's DataFacts"
        )
    module = inspect.getmodule(function)
    source = inspect.getsource(module) if module else ""
    baselines = getattr(module, "BASELINES", ())
    if arguments == 2:
        facts = look()
        function = _OfData(function, facts)
        baselines = baselines(facts) if callable(baselines) else baselines
    return Space(
        path,
        function,
        tuple(baselines),
        digest(source),
    )


@dataclass(frozen=True)
class _OfData:
    """A space that depends on the data."""

    function: Callable[[BaseTrial, DataFacts], TrialConfig]
    data: DataFacts

    def __call__(self, trial: BaseTrial) -> TrialConfig:
        return self.function(trial, self.data)


def sample_space(space: Space, options: SearchOptions) -> list[TrialConfig]:
    """Configurations that between them name everything that a space can name.

    They have every network with each size of its window, every loss and augmentation, and the
    finest and coarsest scales. Of those alike, the one with the smallest batch that sampling found
    is there, because small batches are the hardest for batch normalisation.
    """
    with warnings.catch_warnings():
        # Of choices that ``Space.sample`` refuses.
        warnings.filterwarnings("ignore", message="Choices for a categorical distribution")
        return _sample_all(space, options)


def _sample_all(space: Space, options: SearchOptions) -> list[TrialConfig]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=_BoundsSampler())
    found: dict[object, TrialConfig] = {}
    parameters: set[str] = set()
    last_news = 0
    for count in range(MAX_SAMPLES):
        trial = study.ask()
        config = finish(options, space.sample(trial), 0)
        if not trial.params.keys() <= parameters:  # a branch of the space that was not seen yet
            parameters |= trial.params.keys()
            last_news = count
        for named in _named_by(config):
            if named not in found:
                last_news = count
            if named not in found or config.batch_size < found[named].batch_size:
                found[named] = config
        for scale, sign in itertools.product(("scale", "metres_per_px"), (1, -1)):
            extreme = getattr(found.get((scale, sign)), scale, -sign * math.inf)
            value = getattr(config, scale)
            if value is not None and sign * value > sign * extreme:
                found[scale, sign] = config
                last_news = count
        if count - last_news >= SETTLED_SAMPLES:
            break
    return list({id(config): config for config in found.values()}.values())


def _named_by(config: TrialConfig) -> tuple[object, ...]:
    """What of a configuration has to be found, apart from how fine its scale is."""
    window = (config.height_px, config.width_px, config.view.is_whole)
    return (
        ("network", *network_key(config), *window),
        ("loss", config.loss, *sorted(config.loss_kwargs)),
        ("augmentation", config.augmentation),
    )


def network_key(config: TrialConfig) -> tuple[object, ...]:
    """What tells one network from another: networks with the same key are built alike."""
    kwargs = tuple(sorted(config.model_kwargs.items()))
    return (config.architecture, config.encoder, config.encoder_weights, kwargs)


class _BoundsSampler(optuna.samplers.RandomSampler):
    """Draws at random, and every other number at one end of its range, so that these are found."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self._bounds_rng = random.Random(0)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A number at the lower or upper end of its range in a quarter of the samples each."""
        draw = self._bounds_rng.randrange(4)
        if isinstance(param_distribution, FloatDistribution | IntDistribution) and draw < 2:
            return (param_distribution.low, param_distribution.high)[draw]
        return super().sample_independent(study, trial, param_name, param_distribution)


def check_baselines(space: Space) -> None:
    """Raise ``ProblemsError`` listing every baseline with a name or value that the space hasn't."""
    problems = [
        problem
        for index, baseline in enumerate(space.baselines)
        for problem in _baseline_problems(f"baseline {index}", space.function, baseline)
    ]
    if problems:
        raise ProblemsError(f"{space.path}: BASELINES don't fit the space:", problems)


def _baseline_problems(
    where: str, space: SpaceFunction, baseline: Mapping[str, Any]
) -> Iterator[Problem]:
    trial = _BaselineTrial(dict(baseline))
    try:
        space(trial)  # type: ignore[arg-type]  # a FixedTrial stands in for a Trial
    except _MisfitError as misfit:
        yield Problem(where, misfit.what, misfit.mend)
    except Exception as error:  # whatever a user's function may raise
        yield Problem(where, _reason(error), "mend its values, or the space")
    else:
        for name in sorted(baseline.keys() - trial.params.keys()):
            names = difflib.get_close_matches(name, trial.params, n=3) or sorted(trial.params)
            yield Problem(where, f"{name!r} belongs to no parameter", _one_of(names))


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return describe_validation_error(error)
    return in_short(error)


class _MisfitError(Exception):
    def __init__(self, what: str, mend: str) -> None:
        self.what, self.mend = what, mend
        super().__init__(what)


class _BaselineTrial(optuna.trial.FixedTrial):
    """A FixedTrial that is strict: Optuna's own only warns of a value that is out of range."""

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._given = params

    def suggest_float(self, name: str, low: float, high: float, **kwargs: Any) -> float:
        self._check(name, FloatDistribution(low, high, **kwargs))
        return super().suggest_float(name, low, high, **kwargs)

    def suggest_int(self, name: str, low: int, high: int, **kwargs: Any) -> int:
        self._check(name, IntDistribution(low, high, **kwargs))
        return super().suggest_int(name, low, high, **kwargs)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        for choice in _unstorable(choices):
            raise _MisfitError(f"{name} has the choice {choice!r}", _STORABLE)
        self._check(name, CategoricalDistribution(choices))
        return super().suggest_categorical(name, choices)

    def _check(self, name: str, distribution: BaseDistribution) -> None:
        if name not in self._given:
            unused = self._given.keys() - self.params.keys()
            near = difflib.get_close_matches(name, unused, n=1)
            mend = (
                f"rename {near[0]!r} to {name!r}" if near else f"add one: {_allowed(distribution)}"
            )
            raise _MisfitError(f"no value for {name!r}", mend)
        value = self._given[name]
        try:  # a trial with a value that its distribution doesn't contain can't be made
            optuna.trial.create_trial(
                value=0.0, params={name: value}, distributions={name: distribution}
            )
        except (TypeError, ValueError) as error:
            what, mend = f"{name} = {value!r}", f"allowed: {_allowed(distribution)}"
            raise _MisfitError(what, mend) from error


def _unstorable(choices: Sequence[object]) -> list[object]:
    """The choices that JSON changes, or can't hold: a tuple would come back as a list."""
    return [choice for choice in choices if not isinstance(choice, _STORABLE_TYPES)]


def _allowed(distribution: BaseDistribution) -> str:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return _one_of([str(choice) for choice in choices])
        case (
            IntDistribution(low=low, high=high, step=step)
            | FloatDistribution(low=low, high=high, step=step)
        ):
            steps = f" in steps of {step}" if step not in (None, 1) else ""
            return f"{low} to {high}{steps}"
        case _:
            raise ValueError(f"unknown distribution {distribution}")


def _one_of(names: Sequence[str]) -> str:
    return f"one of {', '.join(names)}"
