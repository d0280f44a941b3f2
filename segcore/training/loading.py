"""Batches of training windows, and the two kinds of oversampling of rare classes.

The windows that an epoch draws and their augmentation follow from (seed, epoch) alone: a resumed
run draws the same ones as an uninterrupted one, with any number of worker processes.
"""

import itertools
import math
import multiprocessing
import sys
import sysconfig
from collections.abc import Collection, Iterator
from functools import cached_property
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from segcore.config import TrialConfig
from segcore.data.prepared import PreparedData
from segcore.data.windows import Window
from segcore.devices import send
from segcore.errors import LostProcessError
from segcore.reading.bands import to_tensor
from segcore.training.augment import Augmentation, Geometry, augment, build_augmentation

Batch = tuple[torch.Tensor, torch.Tensor]
"""``image_NCHW`` (uint8, or float32 of 0…255) and ``mask_NHW`` (uint8)."""

CROP_SHARE = (0.25, 0.6)
"""The least and greatest share of a squeezed photograph's sides that a rare crop has, before it is
enlarged."""
BEYOND = 0.25
"""The share of a window's side by which it may reach beyond the photograph: so often, compared with
those in the middle, pixels at the rim are seen."""
OFF_CENTRE = 0.35
"""A window around a rare pixel has it within this share of its sides from its middle."""

END_KNOWN_AFTER_S = 1.0
"""How long it may take until a process that died is known to have died."""

_SITE_PACKAGES = sysconfig.get_path("purelib"), sysconfig.get_path("platlib")
"""Where installed packages lie."""


class Draw(NamedTuple):
    """One training window of an epoch, before its augmentation."""

    photo: int
    seed: int
    """Of its augmentation."""
    centre: tuple[float, float]
    """Row and column of its middle, as shares of the photograph's height and width."""
    zoom: float = 1.0
    """By how much a rare crop of a squeezed photograph is enlarged."""


def class_rarity(class_pixels_K: NDArray[np.int64]) -> NDArray[np.float64]:
    """How rare each class is: 1 for the rarest, 0 for those with the mean share of pixels or more.

    Between the two, the logarithm of the share decides. A class without pixels has 0.
    """
    present_K = class_pixels_K > 0
    share_K = class_pixels_K / max(class_pixels_K.sum(), 1)
    mean_share = 1 / max(present_K.sum(), 1)
    log_K = np.log(mean_share / np.where(present_K, share_K, mean_share))
    rarest = log_K.max(initial=0.0)
    if rarest <= 0:
        return np.zeros(len(class_pixels_K))
    return np.clip(log_K / rarest, 0.0, 1.0)


def windows_per_epoch(data: PreparedData, config: TrialConfig) -> int:
    """How many windows an epoch draws, in full batches.

    In every trial of a search the same number of pixels goes through the network in an epoch,
    whatever its view: ``epoch_mpx``, or as many as the training photographs have in the finest
    view. A last batch of one window would break batch normalisation, so batches are full.
    """
    epoch_px = data.epoch_px() if config.epoch_mpx is None else config.epoch_mpx * 1e6
    batch_px = config.batch_size * config.height_px * config.width_px
    return math.ceil(epoch_px / batch_px - 1e-9) * config.batch_size


class EpochSampler(Sampler[Draw]):
    """Draws the windows of the epoch ``epoch``.

    A photograph is drawn in proportion to its area in the view; squeezed ones are drawn equally
    often. ``oversample_ratio`` r multiplies that by 1 + (r − 1) · (rarity of its rarest class).
    """

    def __init__(self, data: PreparedData, config: TrialConfig) -> None:
        self.epoch = 1
        self.seed = config.seed
        self.rare_crop_prob = config.rare_crop_prob
        self._count = windows_per_epoch(data, config)
        self._data, self._view = data, config.view
        self._photos = data.of_split("train")
        self._rarity_K = class_rarity(data.class_pixels("train"))
        has_PK = data.class_pixels_PK[self._photos] > 0
        rarest_P = (has_PK * self._rarity_K).max(axis=1)
        area_P = np.array([data.grid(photo, config.view).area_px for photo in self._photos])
        self.weight_P = area_P / area_P.mean() * (1 + (config.oversample_ratio - 1) * rarest_P)
        self._photos_of_class = [self._photos[has_PK[:, k]] for k in range(data.num_classes)]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng([self.seed, self.epoch])
        photos = rng.permutation(self._draw_photos(rng))
        seeds = rng.integers(2**31, size=len(self))
        rare_here = rng.random(len(self)) < self.rare_crop_prob
        for photo, seed, rare in zip(photos.tolist(), seeds.tolist(), rare_here, strict=True):
            if rare and self._rarity_K.any():
                yield self._draw_rare(rng, seed)
            else:
                yield Draw(photo, seed, self._place(photo, rng.random(2)))

    def _draw_photos(self, rng: np.random.Generator) -> NDArray[np.int64]:
        # Systematic resampling: a photograph whose expected number of draws is n is drawn ⌊n⌋ or
        # ⌈n⌉ times. So squeezed ones are drawn once each, as in a usual epoch.
        order_P = rng.permutation(len(self._photos))
        expected_P = np.cumsum(self.weight_P[order_P]) / self.weight_P.sum() * len(self)
        marks = np.arange(len(self)) + rng.random()
        positions = np.minimum(np.searchsorted(expected_P, marks), len(order_P) - 1)
        return self._photos[order_P[positions]]

    def _draw_rare(self, rng: np.random.Generator, seed: int) -> Draw:
        rare_k = int(rng.choice(len(self._rarity_K), p=self._rarity_K / self._rarity_K.sum()))
        photo = int(rng.choice(self._photos_of_class[rare_k]))
        located_L2 = self._data.class_locations_PKL2[photo, rare_k]
        pixel_2 = rng.choice(located_L2[located_L2[:, 0] >= 0])
        at_2 = (pixel_2 + 0.5) / self._data.plans[photo].levels[0]
        zoom = 1 / rng.uniform(*CROP_SHARE) if self._view.is_whole else 1.0
        extent_2 = self._extent(photo) / zoom
        off_2 = rng.uniform(-OFF_CENTRE, OFF_CENTRE, 2) * extent_2
        row, column = np.clip(at_2 + off_2, *_middles(extent_2)).tolist()
        return Draw(photo, seed, (row, column), zoom)

    def _place(self, photo: int, uniform_2: NDArray[np.float64]) -> tuple[float, float]:
        """The middle of a window that lies anywhere."""
        if self._view.is_whole:
            return 0.5, 0.5
        low_2, high_2 = _middles(self._extent(photo))
        row, column = (low_2 + uniform_2 * (high_2 - low_2)).tolist()
        return row, column

    def _extent(self, photo: int) -> NDArray[np.float64]:
        """Height and width of a window, as shares of the photograph's."""
        return np.array(self._view[:2]) / self._data.grid(photo, self._view)


def _middles(extent_2: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Between which points the middle of a window lies: at most ``BEYOND`` of it is outside."""
    low_2 = np.minimum(extent_2 * (0.5 - BEYOND), 0.5)
    return low_2, 1 - low_2


def place_window(draw: Draw, data: PreparedData, config: TrialConfig, geometry: Geometry) -> Window:
    """Where the window of a draw lies, with its random turn, flip and scale."""
    rng = np.random.default_rng(draw.seed)
    quarter, flip = int(rng.integers(4)), bool(rng.integers(2))
    angle = rng.uniform(-geometry.angle_rad, geometry.angle_rad)
    zoom = math.exp(rng.uniform(*np.log(geometry.zoom)))
    if rng.random() >= geometry.share:
        angle, zoom = 0.0, 1.0
    zoom *= draw.zoom
    shift_2 = rng.uniform(-geometry.shift, geometry.shift, 2)
    if not geometry.any_way_up:
        quarter, flip = 0, False
    grid = data.grid(draw.photo, config.view)
    row, column = draw.centre
    if config.view.is_whole and draw.zoom == 1:  # A rare crop lies anywhere as it is.
        row, column = row + shift_2[0], column + shift_2[1]
    return Window(
        config.height_px,
        config.width_px,
        (row, column),
        (grid.height_px * zoom, grid.width_px * zoom),
        angle + quarter * math.pi / 2,
        flip,
    )


class TrainingWindows(Dataset[Batch]):
    """Augmented training windows; an index is a ``Draw``."""

    def __init__(self, data: PreparedData, config: TrialConfig) -> None:
        self._data, self._config = data, config

    @cached_property
    def _augmentation(self) -> Augmentation:
        # It is built in the process that uses it, because a user's own may not be picklable.
        return build_augmentation(self._config, self._data.channels)

    def __getitem__(self, draw: Draw) -> Batch:
        window = place_window(draw, self._data, self._config, self._augmentation.geometry)
        image_HWC, mask_HW = self._data.cut(draw.photo, window)
        image_HWC, mask_HW = augment(self._augmentation, image_HWC, mask_HW, draw.seed)
        return to_tensor(image_HWC), torch.from_numpy(mask_HW)


class _Epochs(Sampler[Draw]):
    """The windows of one epoch after the other, without end."""

    def __init__(self, sampler: EpochSampler, first_epoch: int) -> None:
        self._sampler, self._first_epoch = sampler, first_epoch

    def __iter__(self) -> Iterator[Draw]:
        for epoch in itertools.count(self._first_epoch):
            self._sampler.epoch = epoch
            yield from self._sampler


def training_batches(
    data: PreparedData, config: TrialConfig, *, first_epoch: int, workers: int, pin_memory: bool
) -> Iterator[Batch]:
    """Batches of augmented windows without end: those of ``first_epoch``, of the next one, ….

    The worker processes cut windows of the next epoch while this one is validated. Raises
    ``LostProcessError`` where one of them died.
    """
    how: dict[str, Any] = {}
    if workers > 0:
        # The workers aren't forked from this process: the threads of OpenCV and OpenMP don't
        # survive a fork but their locks do, and a worker would wait for them for ever. The
        # forkserver, which Linux and macOS have, has no threads.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, *_modules_of_main()])
        how = {"multiprocessing_context": context, "worker_init_fn": _use_one_thread}
    before = multiprocessing.active_children()
    batches = iter(
        DataLoader(
            TrainingWindows(data, config),
            batch_size=config.batch_size,
            sampler=_Epochs(EpochSampler(data, config), first_epoch),
            num_workers=workers,
            pin_memory=pin_memory,
            # The loader's own draws must not change those of dropout, which a resumed run repeats.
            generator=torch.Generator(),
            **how,
        )
    )
    processes = {*multiprocessing.active_children()}.difference(before) if workers > 0 else ()
    return _watched(batches, processes) if processes else batches


def _watched(batches: Iterator[Batch], processes: Collection[BaseProcess]) -> Iterator[Batch]:
    """The batches; where one of the processes that make them died, its end says so.

    What torch raises then depends on what the process was doing.
    """
    while True:
        try:
            batch = next(batches)
        except Exception as error:
            # The end of a process is known here a moment later than what it tears.
            connection.wait([process.sentinel for process in processes], END_KNOWN_AFTER_S)
            if dead := [process for process in processes if not process.is_alive()]:
                what = "a process that loads windows died, perhaps for want of memory"
                raise LostProcessError(f"{what} (exit code {dead[0].exitcode}): {error}") from error
            raise
        yield batch


def _modules_of_main() -> list[str]:
    """Installed modules that the main script uses, and ours.

    Each worker process runs the script's imports anew (in a worker of Ray's, that is Ray), which
    takes no time where the forkserver has done them. The user's own modules are left out: their
    imports may want what only the script's process has.
    """
    main = sys.modules["__main__"]
    if not hasattr(main, "__file__"):  # a notebook, which a worker process doesn't run
        return []
    used = {
        value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        for value in vars(main).values()
    }
    names = {name for name in used if isinstance(name, str)} - {"__main__"}
    return sorted(name for name in names if _is_ours_or_installed(name))


def _is_ours_or_installed(name: str) -> bool:
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return name.startswith("segcore.") or file.startswith(_SITE_PACKAGES)


def _use_one_thread(worker_id: int) -> None:
    cv2.setNumThreads(1)  # There are many workers: more threads would only slow each other down.


def to_device(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """``image_NCHW`` and ``mask_NHW`` int64 on the device."""
    image_NCHW, mask_NHW = (send(tensor, device) for tensor in batch)
    if device.type == "cuda":
        image_NCHW = image_NCHW.contiguous(memory_format=torch.channels_last)
    return image_NCHW, mask_NHW.long()
