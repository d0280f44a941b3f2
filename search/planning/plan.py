"""Before any worker starts: everything that can fail is tried, and the plan is made.

The space is sampled until nothing new appears; every network, loss and augmentation that it can
name is built and run once; the data is checked and prepared; encoder weights are fetched.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from search.forecasting.earlier import EarlierSearch
from search.planning.space import Space, check_baselines, load_space, network_key, sample_space
from search.planning.warm import EarlierRun, read_earlier
from search.runs.folder import RunFolder, RunRecord
from search.runs.options import SearchOptions
from search.runs.storage import Location, NodeCopy, on_this_machine, share
from segcore.config import TrialConfig, View
from segcore.data.building import Tell, untold
from segcore.data.objects import look_at
from segcore.data.prepared import PreparedData, find_prepared
from segcore.data.preparing import prepare_data
from segcore.errors import Problem, ProblemsError, UserError
from segcore.networks.models import check_network
from segcore.networks.weights import gather_weights
from segcore.scenes import default_scenes
from segcore.training.augment import build_augmentation
from segcore.training.losses import build_loss

RARE_SHARE = 0.01
"""Of the training pixels: a class with less is rare."""

SIZES_PER_NETWORK = 8
"""With so many sizes of its window, at most, is a network checked."""


@dataclass(frozen=True)
class Plan:
    """Everything that a search needs, after it was checked."""

    options: SearchOptions
    run: RunFolder
    space: Space
    data: PreparedData
    data_folder: Path
    """The data set itself, where dataset.yaml is."""
    views: frozenset[View]
    """How networks may look at the photographs: the finest, the coarsest and others."""
    networks: tuple[TrialConfig, ...]
    """One configuration for each distinct network and size of its window."""
    earlier: tuple[EarlierRun, ...] = ()
    """What a new run takes from earlier ones."""
    searched: "Plan | None" = None
    """The search that this one follows, whose data and weights it shares (--folds, --repeats)."""

    @property
    def name(self) -> str:
        """The search's name, as people see it."""
        if self.searched is not None:
            return f"{self.searched.name} · {self.run.path.name.replace('_', ' ')}"
        return self.run.path.name

    @property
    def identity(self) -> dict[str, str]:
        """What must not change when a run is resumed."""
        return {
            "space": f"{self.space.path} {self.space.fingerprint[:12]}",
            "data": self.data.fingerprint,
            "metric": self.options.metric,
            "max_epochs": str(self.options.max_epochs),
            "epoch_megapixels": str(self.options.epoch_megapixels),
        }

    @functools.cached_property
    def data_on_nodes(self) -> NodeCopy:
        """Where workers find the prepared data: on a cluster, in storage beside the run."""
        if self.searched is not None:
            return self.searched.data_on_nodes
        return share(self.data.folder, self._shelf, f"prepared/{self.data.folder.name}")

    @functools.cached_property
    def weights_on_nodes(self) -> NodeCopy:
        """Where workers find the encoders' weights."""
        if self.searched is not None:
            return self.searched.weights_on_nodes
        return share(self.run.weights, self._shelf)

    @property
    def _shelf(self) -> Location | None:
        return None if self.options.address is None else self.run.storage.parent


def make_plan(
    options: SearchOptions,
    run: RunFolder,
    tell: Tell = untold,
    logged: Mapping[str, EarlierSearch] | None = None,
) -> Plan:
    """Check everything and prepare the data. Raises ``UserError`` before anything costs money.

    ``logged`` is what MLflow knows of the earlier searches that ``warm_start`` names in it.
    """
    data_folder = find_dataset(options.data)
    space = load_space(options.space, lambda: look_at(data_folder, progress=tell))
    check_baselines(space)
    samples = sample_space(space, options)
    # A resumed run has them already, and the earlier runs may be gone.
    warm = options.warm_start if options.resume is None else ()
    earlier = tuple(
        read_earlier(address, space, task, logged or {}) for task, address in enumerate(warm, 1)
    )
    data = prepare_searched(data_folder, options, samples, progress=tell)
    if not len(data.of_split("val")) or not len(data.of_split("test")):
        raise UserError(
            f"{data_folder}: the splits val and test must both have photographs: one to search by, "
            "one for the honest score; change `split` in dataset.yaml"
        )
    if not options.allow_missing_classes:
        check_rare_classes(data)
    if options.folds > 1:
        data.divided_for(samples[0].model_copy(update={"fold": 0, "folds": options.folds}))
    networks = check_samples(samples, data, tell)
    gather_weights(networks, run.weights)
    views = frozenset(config.view for config in samples)
    return Plan(options, run, space, data, data_folder, views, networks, earlier)


def check_rare_classes(data: PreparedData) -> None:
    """Raise ``UserError`` where the validation split lacks most of the rare classes.

    These have less than ``RARE_SHARE`` of the training pixels, in photographs or groups of which
    training could spare one.
    """
    train_P, pixels_K = data.of_split("train"), data.class_pixels("train")
    held_PK = data.class_pixels_PK[train_P] > 0
    group_P = np.array([data.photo_groups[photo] for photo in train_P])
    spared_K = np.array([len(set(group_P[held_P])) > 1 for held_P in held_PK.T], bool)
    rare_K = spared_K & (pixels_K < RARE_SHARE * pixels_K.sum())
    missing_K = rare_K & (data.class_pixels("val") == 0)
    if 2 * missing_K.sum() > rare_K.sum():
        names = ", ".join(data.class_names[k] for k in np.flatnonzero(missing_K))
        raise UserError(
            f"no photograph of the validation split has {names}: {missing_K.sum()} of the "
            f"{rare_K.sum()} rare classes, so nothing would be chosen by how well they are found; "
            "give it photographs that have them by `split` in dataset.yaml, or allow it with "
            "--allow-missing-classes"
        )


def find_dataset(address: str | None) -> Path:
    """The data set that ``--data`` names, on this machine."""
    if address is None:
        return default_scenes()
    return on_this_machine(address, "data", "dataset.yaml")


def prepare_searched(
    data_folder: Path,
    options: SearchOptions,
    samples: Sequence[TrialConfig],
    *,
    progress: bool | Tell = True,
) -> PreparedData:
    """The data set of a search, prepared for all views of the space's samples."""
    views = [config.view for config in samples]
    return prepare_data(data_folder, views, score_scale=options.score_scale, progress=progress)


def searched_data(record: RunRecord) -> PreparedData:
    """The data that a search had: as it left them here, or else prepared again for its space.

    Raises ``UserError`` where the data set isn't what it was.
    """
    wanted, options = record.identity["data"], record.options
    with contextlib.suppress(UserError):
        return find_prepared(wanted)
    data_folder = find_dataset(options.data)
    samples = sample_space(load_space(options.space, lambda: look_at(data_folder)), options)
    data = prepare_searched(data_folder, options, samples)
    if data.fingerprint != wanted:
        raise UserError(
            f"{options.data or 'the embedded data set'}: the data are not those of the search: "
            f"fingerprint {data.fingerprint[:8]}…{data.fingerprint[-8:]} instead of "
            f"{wanted[:8]}…{wanted[-8:]}"
        )
    return data


def check_samples(
    samples: Sequence[TrialConfig], data: PreparedData, tell: Tell = untold
) -> tuple[TrialConfig, ...]:
    """Build and run each distinct network, loss and augmentation; give the distinct networks.

    A network is run with each size of its window, whatever the scale.
    Raises ``ProblemsError`` listing everything that failed.
    """
    networks = _distinct_networks(samples)
    # A list, because networks of one name may differ in their settings, and each is to be built.
    parts: list[tuple[str, Callable[[], object]]] = [
        (
            f"{config.architecture} with {config.encoder} on {config.height_px}×{config.width_px}",
            functools.partial(check_network, config, data.num_classes, data.bands),
        )
        for config in networks
    ]
    losses = {f"loss {config.loss} {config.loss_kwargs or ''}": config for config in samples}
    pixels_K = data.class_pixels("train")
    parts += [(where, functools.partial(build_loss, c, pixels_K)) for where, c in losses.items()]
    augmentations = {f"augmentation {config.augmentation}": config for config in samples}
    parts += [
        (where, functools.partial(build_augmentation, c, data.channels))
        for where, c in augmentations.items()
    ]
    problems = []
    for done, (where, build) in enumerate(parts):
        tell("checking what the space names", done, len(parts))
        try:
            build()
        except UserError as error:
            problems.append(Problem(where, str(error), "mend or leave it out of the space"))
    if problems:
        raise ProblemsError("the space names what can't be trained:", problems)
    return networks


def _distinct_networks(samples: Sequence[TrialConfig]) -> tuple[TrialConfig, ...]:
    """Of each network and size of its window, the sample with the smallest batch.

    Of many sizes ``SIZES_PER_NETWORK`` are left, with the smallest and the largest among them.
    """
    found: dict[object, dict[tuple[int, int], TrialConfig]] = {}
    for config in sorted(samples, key=lambda config: -config.batch_size):
        found.setdefault(network_key(config), {})[config.height_px, config.width_px] = config
    networks = []
    for by_size in found.values():
        sizes = sorted(by_size, key=math.prod)
        places = np.linspace(0, len(sizes) - 1, min(len(sizes), SIZES_PER_NETWORK)).round()
        networks += [by_size[sizes[int(place)]] for place in places]
    return tuple(networks)


def default_name(space_path: str) -> str:
    """The name of a new run, such as ``aerial-20250131-174502``."""
    module = space_path.partition(":")[0].rpartition(".")[2]
    return f"{module}-{time.strftime('%Y%m%d-%H%M%S')}"
