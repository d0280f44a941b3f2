"""Batches of prepared images, and the two kinds of oversampling of rare classes.

The images that an epoch draws and their augmentation follow from (seed, epoch) alone: a resumed run
draws the same images as an uninterrupted one, with any number of worker processes.
"""

import multiprocessing
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

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
"""The least and greatest share of an image's sides that a rare crop has, before it is enlarged."""


class Draw(NamedTuple):
    """One training image of an epoch: an item, the seed of its augmentation, and where to crop."""

    item: int
    seed: int
    crop_around: tuple[int, int] | None
    """Row and column of a rare pixel; None: the whole image."""


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


class EpochSampler(Sampler[Draw]):
    """Draws the items of one epoch, in full batches. The training loop sets ``epoch``.

    ``oversample_ratio`` r gives an item the weight 1 + (r − 1) · (rarity of its rarest class). With
    any ratio, an epoch has as many draws as there are training items, rounded up to whole batches,
    because a last batch of one image would break batch normalisation.
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
        # Systematic resampling: an item whose expected number of draws is n is drawn ⌊n⌋ or ⌈n⌉
        # times. So with ratio 1 each item is drawn once, as in a usual epoch.
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
    """Cut ``share`` of both sides around ``pixel`` (row, column), and enlarge it to the full size.

    The window stays within the image, so a pixel near a border isn't at its centre.
    """
    height, width = mask_HW.shape
    crop_height, crop_width = max(1, round(height * share)), max(1, round(width * share))
    top = min(max(pixel[0] - crop_height // 2, 0), height - crop_height)
    left = min(max(pixel[1] - crop_width // 2, 0), width - crop_width)
    window = np.s_[top : top + crop_height, left : left + crop_width]
    image = cv2.resize(image_HWC[window], (width, height), interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(mask_HW[window], (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(image, np.uint8), np.asarray(mask, np.uint8)


class TrainingImages(Dataset[Batch]):
    """Augmented training images; an index is a ``Draw``."""

    def __init__(self, data: PreparedData, config: TrialConfig) -> None:
        self._data, self._config = data, config

    @cached_property
    def _augment(self) -> "A.Compose":
        # It is built in the process that uses it, because a user's own may not be picklable.
        return build_augmentation(self._config)

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
    """Images without augmentation; an index is an item."""

    def __init__(self, data: PreparedData) -> None:
        self._data = data

    def __getitem__(self, item: int) -> Batch:
        return _to_tensors(self._data.images_MHWC[item], self._data.masks_MHW[item], item)


def _to_tensors(image_HWC: NDArray[np.uint8], mask_HW: NDArray[np.uint8], item: int) -> Batch:
    # torch wants memory that it may write, but the cache is mapped read-only: hence the copy.
    image_CHW = torch.from_numpy(np.array(image_HWC)).permute(2, 0, 1)
    return image_CHW, torch.from_numpy(np.array(mask_HW)), torch.tensor(item)


def _loader(
    images: Dataset[Batch], workers: int, pin_memory: bool, **how: Any
) -> DataLoader[Batch]:
    if workers > 0:
        # The workers aren't forked from this process: the threads of OpenCV and OpenMP don't
        # survive a fork but their locks do, and a worker would wait for them for ever. The
        # forkserver, which Linux and macOS have, has no threads.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        how |= {"multiprocessing_context": context, "persistent_workers": True}
        how["worker_init_fn"] = _use_one_thread
    return DataLoader(images, num_workers=workers, pin_memory=pin_memory, **how)


def _use_one_thread(worker_id: int) -> None:
    cv2.setNumThreads(1)  # There are many workers: more threads would only slow each other down.


def training_loader(
    data: PreparedData, config: TrialConfig, *, workers: int, pin_memory: bool
) -> tuple[DataLoader[Batch], EpochSampler]:
    """A loader of augmented images, and its sampler, whose ``epoch`` the caller sets."""
    sampler = EpochSampler(data, config)
    how = {"sampler": sampler, "batch_size": config.batch_size}
    return _loader(TrainingImages(data, config), workers, pin_memory, **how), sampler


def plain_loader(
    data: PreparedData,
    items_M: NDArray[np.int64],
    *,
    batch_size: int,
    workers: int,
    pin_memory: bool,
) -> DataLoader[Batch]:
    """A loader of items without augmentation, in their order; the last batch may be smaller."""
    how = {"sampler": items_M.tolist(), "batch_size": batch_size}
    return _loader(PlainImages(data), workers, pin_memory, **how)


def to_device(
    batch: Batch, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``image_NCHW`` uint8, ``mask_NHW`` int64 and ``item_N`` on the device."""
    on_cuda = device.type == "cuda"
    # Only from pinned memory, which Metal doesn't have, can a copy run in the background.
    image_NCHW, mask_NHW, item_N = (tensor.to(device, non_blocking=on_cuda) for tensor in batch)
    if on_cuda:
        image_NCHW = image_NCHW.contiguous(memory_format=torch.channels_last)
    return image_NCHW, mask_NHW.long(), item_N
