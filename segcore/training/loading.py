"""Batches from the cache, and the two kinds of oversampling of rare classes.

Which images an epoch draws, and how each is augmented, follows from (seed, epoch) alone: a resumed
run draws what an uninterrupted one would have drawn, with any number of worker processes.
"""

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from segcore.config import TrialConfig
from segcore.data.prepared import PreparedData
from segcore.training.augment import build_augmentation

if TYPE_CHECKING:
    import albumentations as A

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""``image_NCHW`` uint8, ``mask_NHW`` uint8, ``item_N`` int64."""

CROP_SHARE = (0.25, 0.6)
"""A rare crop's sides, as a share of the image's; enlarged to the full size by their inverse."""


@dataclass(frozen=True)
class Draw:
    """One training image of an epoch: which item, its own seed, and the pixel to crop around."""

    item: int
    seed: int
    crop_around: tuple[int, int] | None


def class_rarity(class_pixels_K: NDArray[np.int64]) -> NDArray[np.float64]:
    """How rare each class is: 1 for the rarest, 0 for one with the mean share of pixels or more.

    Between the two, the logarithm of the share decides. Classes without a pixel are 0.
    """
    present_K = class_pixels_K > 0
    share_K = class_pixels_K / max(class_pixels_K.sum(), 1)
    mean_share = 1 / max(present_K.sum(), 1)
    log_K = np.log(mean_share / np.where(present_K, share_K, mean_share))
    rarest = log_K.max(initial=0.0)
    if rarest <= 0:
        return np.zeros(len(class_pixels_K))
    return np.clip(log_K / rarest, 0.0, 1.0)


class EpochSampler(Sampler[Draw]):
    """Draws the items of one epoch, in full batches; ``epoch`` is set by the training loop.

    ``oversample_ratio`` r gives an item the weight 1 + (r − 1) · (rarity of its rarest class). An
    epoch has as many draws as there are training items, rounded up to whole batches (a last batch
    of one image would break batch normalisation), however high the ratio.
    """

    def __init__(self, data: PreparedData, config: TrialConfig) -> None:
        self.epoch = 1
        self.seed = config.seed
        self.rare_crop_prob = config.rare_crop_prob
        self._batch_size = config.batch_size
        self._locations_MKL2 = data.class_locations_MKL2
        self._items_M = data.items("train")
        self._rarity_K = class_rarity(data.class_pixels("train"))
        has_MK = data.class_pixels_MK[self._items_M] > 0
        rarest_M = (has_MK * self._rarity_K).max(axis=1)
        self.weight_M = 1 + (config.oversample_ratio - 1) * rarest_M
        self._items_of_class = [self._items_M[has_MK[:, k]] for k in range(data.num_classes)]

    def __len__(self) -> int:
        return -(-len(self._items_M) // self._batch_size) * self._batch_size

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng([self.seed, self.epoch])
        items = rng.permutation(self._draw_items(rng))
        seeds = rng.integers(2**31, size=len(self))
        crop_here = rng.random(len(self)) < self.rare_crop_prob
        for item, seed, crop in zip(items, seeds, crop_here, strict=True):
            if crop and self._rarity_K.any():
                yield self._draw_rare_crop(rng, int(seed))
            else:
                yield Draw(int(item), int(seed), crop_around=None)

    def _draw_items(self, rng: np.random.Generator) -> NDArray[np.int64]:
        # Systematic resampling: each item is drawn ⌊n⌋ or ⌈n⌉ times where n is its expected number,
        # so that ratio 1 is a plain epoch and not a draw with replacement.
        order_M = rng.permutation(len(self._items_M))
        expected_M = np.cumsum(self.weight_M[order_M]) / self.weight_M.sum() * len(self)
        marks = np.arange(len(self)) + rng.random()
        positions = np.minimum(np.searchsorted(expected_M, marks), len(order_M) - 1)
        return self._items_M[order_M[positions]]

    def _draw_rare_crop(self, rng: np.random.Generator, seed: int) -> Draw:
        rare_k = int(rng.choice(len(self._rarity_K), p=self._rarity_K / self._rarity_K.sum()))
        item = int(rng.choice(self._items_of_class[rare_k]))
        locations_L2 = self._locations_MKL2[item, rare_k]
        row, column = rng.choice(locations_L2[locations_L2[:, 0] >= 0])
        return Draw(item, seed, crop_around=(int(row), int(column)))


def crop_around(
    image_HWC: NDArray[np.uint8], mask_HW: NDArray[np.uint8], pixel: tuple[int, int], share: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut ``share`` of both sides around ``pixel`` (row, column), enlarged to the full size.

    The window stays within the image: near a border the pixel is off its centre.
    """
    height, width = mask_HW.shape
    crop_height, crop_width = max(1, round(height * share)), max(1, round(width * share))
    top = min(max(pixel[0] - crop_height // 2, 0), height - crop_height)
    left = min(max(pixel[1] - crop_width // 2, 0), width - crop_width)
    window = np.s_[top : top + crop_height, left : left + crop_width]
    return (
        np.asarray(cv2.resize(image_HWC[window], (width, height), interpolation=cv2.INTER_LINEAR),
                   np.uint8),
        np.asarray(cv2.resize(mask_HW[window], (width, height), interpolation=cv2.INTER_NEAREST),
                   np.uint8),
    )  # fmt: skip


class TrainingImages(Dataset[Batch]):
    """Augmented training images; an index is a ``Draw``."""

    def __init__(self, data: PreparedData, config: TrialConfig) -> None:
        self._data = data
        self.config = config

    @cached_property
    def _augment(self) -> "A.Compose":
        # Built in the process that uses it: a user's own may hold what can't be pickled.
        return build_augmentation(self.config)

    def __getitem__(self, draw: Draw) -> Batch:
        image_HWC = np.asarray(self._data.images_MHWC[draw.item])
        mask_HW = np.asarray(self._data.masks_MHW[draw.item])
        if draw.crop_around is not None:
            share = np.random.default_rng(draw.seed).uniform(*CROP_SHARE)
            image_HWC, mask_HW = crop_around(image_HWC, mask_HW, draw.crop_around, share)
        self._augment.set_random_seed(draw.seed)
        augmented = self._augment(image=image_HWC, mask=mask_HW)
        return _to_tensors(augmented["image"], augmented["mask"], draw.item)


class PlainImages(Dataset[Batch]):
    """The items of a split as they are, in order; an index is a position in the split."""

    def __init__(self, data: PreparedData, items_M: NDArray[np.int64]) -> None:
        self._data = data
        self._items_M = items_M

    def __len__(self) -> int:
        return len(self._items_M)

    def __getitem__(self, position: int) -> Batch:
        item = int(self._items_M[position])
        return _to_tensors(self._data.images_MHWC[item], self._data.masks_MHW[item], item)


def _to_tensors(image_HWC: NDArray[np.uint8], mask_HW: NDArray[np.uint8], item: int) -> Batch:
    # A copy: the cache is mapped read-only, and torch wants memory that it may write.
    image_CHW = torch.from_numpy(np.array(image_HWC)).permute(2, 0, 1)
    return image_CHW, torch.from_numpy(np.array(mask_HW)), torch.tensor(item)


def _worker_settings(workers: int, pin_memory: bool) -> dict[str, Any]:
    """What both kinds of loader tell torch about their processes."""
    settings: dict[str, Any] = {"num_workers": workers, "pin_memory": pin_memory}
    if workers > 0:
        # Not forked from this process: the threads of OpenCV and OpenMP don't survive a fork, but
        # their locks do, and a worker would wait for them for ever. A forkserver has no threads.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        settings |= {
            "multiprocessing_context": context,
            "persistent_workers": True,
            "worker_init_fn": _one_thread,
        }
    return settings


def _one_thread(worker_id: int) -> None:
    # Each worker is one of many processes: OpenCV's own threads would only fight.
    cv2.setNumThreads(1)


def training_loader(
    data: PreparedData, config: TrialConfig, *, workers: int, pin_memory: bool
) -> DataLoader[Batch]:
    """Loader over an ``EpochSampler`` (``loader.sampler``), whose ``epoch`` the caller sets."""
    return DataLoader(
        TrainingImages(data, config),
        batch_size=config.batch_size,
        sampler=EpochSampler(data, config),
        **_worker_settings(workers, pin_memory),
    )


def plain_loader(
    data: PreparedData,
    items_M: NDArray[np.int64],
    *,
    batch_size: int,
    workers: int,
    pin_memory: bool,
) -> DataLoader[Batch]:
    """Loader over items as they are, in the given order; the last batch may be smaller."""
    return DataLoader(
        PlainImages(data, items_M),
        batch_size=batch_size,
        **_worker_settings(workers, pin_memory),
    )


def to_device(
    batch: Batch, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``image_NCHW`` uint8, ``mask_NHW`` int64 and ``item_N`` on the device, without waiting."""
    image_NCHW, mask_NHW, item_N = (tensor.to(device, non_blocking=True) for tensor in batch)
    if device.type == "cuda":
        image_NCHW = image_NCHW.contiguous(memory_format=torch.channels_last)
    return image_NCHW, mask_NHW.long(), item_N
