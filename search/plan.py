"""Before any worker starts: everything that can fail is tried, and the plan is made.

The space is sampled until nothing new appears; every network, loss and augmentation that it can
name is built and run once; the data is checked and prepared; encoder weights are fetched.
"""

import functools
import hashlib
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import BaseTrial

from search.options import RunFolder, SearchOptions
from segcore.augment import build_augmentation
from segcore.cache import PreparedData, prepare
from segcore.config import Preparation, TrialConfig
from segcore.errors import Problem, ProblemsError, UserError
from segcore.losses import build_loss
from segcore.models import check_network
from segcore.plugins import import_attribute
from segcore.scenes import default_scenes
from segcore.weights import encoder_weights_file

SETTLED_SAMPLES = 300
"""Sampling a space ends after this many samples in a row that named nothing new …"""
MAX_SAMPLES = 5_000
"""… or after this many altogether."""

MAX_TRIALS = 1_000_000
"""Seeds of trials of two searches, with other seeds, never coincide below this number."""

SpaceFunction = Callable[[BaseTrial], TrialConfig]


@dataclass(frozen=True)
class Space:
    """A search space: a function of the user's, and known-good points of it."""

    path: str
    function: SpaceFunction
    baselines: tuple[dict[str, Any], ...]
    fingerprint: str
    """Changes with the source of the module that holds the function."""


@dataclass(frozen=True)
class Plan:
    """All that a search needs, checked."""

    options: SearchOptions
    run: RunFolder
    space: Space
    data: PreparedData
    data_folder: Path
    """The data set itself, where dataset.yaml is."""
    networks: tuple[TrialConfig, ...]
    """One configuration for each distinct network that the space can name."""

    @property
    def identity(self) -> dict[str, str]:
        """What must not change between a run and its resumption."""
        return {
            "space": f"{self.space.path} {self.space.fingerprint[:12]}",
            "data": self.data.fingerprint,
            "metric": self.options.metric,
            "max_epochs": str(self.options.max_epochs),
        }


def finish(options: SearchOptions, config: TrialConfig, number: int) -> TrialConfig:
    """A trial's configuration: the space's, with the search's epochs, metric and seed."""
    return TrialConfig.from_dict(
        config.to_dict()
        | {
            "max_epochs": options.max_epochs,
            "metric": options.metric,
            "seed": options.seed * MAX_TRIALS + number,
        }
    )


def make_plan(options: SearchOptions, run: RunFolder) -> Plan:
    """Check everything and prepare the data. Raises ``UserError`` before anything costs money."""
    space = load_space(options.space)
    samples = sample_space(space, options)
    preparation = _one_preparation(samples)
    data_folder = default_scenes() if options.data is None else options.data
    data = prepare(data_folder, preparation)
    if not len(data.items("val")) or not len(data.items("test")):
        raise UserError(
            f"{data_folder}: the splits val and test must both have images: one to search by, one "
            "for the honest score; change `split` in dataset.yaml"
        )
    networks = _check_samples(samples, data)
    _fetch_weights(networks, run.weights)
    return Plan(options, run, space, data, data_folder, networks)


def load_space(path: str) -> Space:
    """Import a space and its module's ``BASELINES``; ``module`` alone means ``module:space``."""
    path = path if ":" in path else f"{path}:space"
    function = import_attribute("space", path)
    if not callable(function) or len(inspect.signature(function).parameters) != 1:
        raise UserError(f"space {path!r}: must be a function of one Optuna trial → TrialConfig")
    if "<lambda>" in function.__qualname__ or "<locals>" in function.__qualname__:
        raise UserError(f"space {path!r}: must be a function at the top level of its module")
    module = inspect.getmodule(function)
    source = inspect.getsource(module) if module else ""
    return Space(
        path,
        function,
        tuple(getattr(module, "BASELINES", ())),
        hashlib.sha256(source.encode()).hexdigest(),
    )


def sample_space(space: Space, options: SearchOptions) -> list[TrialConfig]:
    """Configurations that between them name every network, loss and augmentation of the space.

    One for each distinct combination that random sampling finds, and with it the smallest batch:
    that is the hardest on batch normalisation.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found: dict[tuple[object, ...], TrialConfig] = {}
    last_news = 0
    for count in range(MAX_SAMPLES):
        trial = study.ask()
        try:
            config = space.function(trial)
        except UserError as error:
            raise UserError(f"space {space.path} at {trial.params}: {error}") from error
        except Exception as error:
            raise UserError(
                f"space {space.path} at {trial.params}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(config, TrialConfig):
            raise UserError(
                f"space {space.path}: gave {type(config).__name__}; it must return a TrialConfig"
            )
        config = finish(options, config, 0)
        key = (_network_key(config), config.loss, *sorted(config.loss_kwargs), config.augmentation)
        known = found.get(key)
        if known is None:
            last_news = count
        if known is None or config.batch_size < known.batch_size:
            found[key] = config
        if count - last_news >= SETTLED_SAMPLES:
            break
    return list(found.values())


def _network_key(config: TrialConfig) -> tuple[object, ...]:
    kwargs = tuple(sorted(config.model_kwargs.items()))
    return (config.architecture, config.encoder, config.encoder_weights, kwargs, config.preparation)


def _one_preparation(samples: list[TrialConfig]) -> Preparation:
    preparations = {config.preparation for config in samples}
    if len(preparations) > 1:
        shown = ", ".join(f"{p.height_px}×{p.width_px}" for p in sorted(preparations, key=str))
        raise UserError(
            f"the space names several input sizes ({shown}): scores at different sizes can't be "
            "compared; give height_px, width_px and tile_scale one value each, and search each size"
        )
    return preparations.pop()


def _check_samples(samples: list[TrialConfig], data: PreparedData) -> tuple[TrialConfig, ...]:
    """Build and run each distinct network, loss and augmentation; all that fails is listed."""
    networks: dict[tuple[object, ...], TrialConfig] = {}
    for config in samples:
        known = networks.setdefault(_network_key(config), config)
        if config.batch_size < known.batch_size:
            networks[_network_key(config)] = config
    parts: dict[str, Callable[[], object]] = {}
    for config in networks.values():
        where = f"{config.architecture} with {config.encoder}"
        parts[where] = functools.partial(check_network, config, data.num_classes)
    for config in samples:
        where = f"loss {config.loss} {config.loss_kwargs or ''}"
        parts[where] = functools.partial(build_loss, config, data.class_pixels("train"))
        where = f"augmentation {config.augmentation}"
        parts[where] = functools.partial(build_augmentation, config)
    problems = []
    for where, build in parts.items():
        try:
            build()
        except UserError as error:
            problems.append(Problem(where, str(error), "mend or leave it out of the space"))
    if problems:
        raise ProblemsError("the space names what can't be trained:", problems)
    return tuple(networks.values())


def _fetch_weights(networks: tuple[TrialConfig, ...], weights_dir: Path) -> None:
    for config in networks:
        encoder_weights_file(config, weights_dir)


def default_name(space_path: str) -> str:
    """Such as ``aerial-20250131-174502``."""
    module = space_path.partition(":")[0].rpartition(".")[2]
    return f"{module}-{time.strftime('%Y%m%d-%H%M%S')}"
