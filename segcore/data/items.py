"""One photograph with its mask → the items that networks see: resized whole, or cut into tiles."""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segcore.config import IGNORE_INDEX, Preparation


class Grid(NamedTuple):
    """Into what a photograph is scaled and cut."""

    height_px: int
    """Of the scaled photograph; its tiles may reach beyond."""
    width_px: int
    rows: int
    columns: int

    @property
    def items(self) -> int:
        """Items that the photograph becomes."""
        return self.rows * self.columns


def plan_grid(size_px: tuple[int, int], preparation: Preparation) -> Grid:
    """The grid for a photograph of ``size_px`` (height, width)."""
    if preparation.tile_scale is None:
        return Grid(preparation.height_px, preparation.width_px, 1, 1)
    height_px, width_px = (max(1, round(side * preparation.tile_scale)) for side in size_px)
    rows, columns = -(-height_px // preparation.height_px), -(-width_px // preparation.width_px)
    return Grid(height_px, width_px, rows, columns)


def cut_items(
    image_HWC: NDArray[np.uint8],
    mask_HW: NDArray[np.uint8],
    grid: Grid,
    preparation: Preparation,
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Scale a photograph and its mask, and yield the items row by row.

    Photographs shrink by the mean of the area, masks take the nearest pixel. Where tiles reach
    beyond the photograph, images are 0 and masks IGNORE_INDEX.
    """
    image_HWC = scale_image(image_HWC, grid)
    size = (grid.width_px, grid.height_px)
    mask_HW = cv2.resize(mask_HW, size, interpolation=cv2.INTER_NEAREST_EXACT)
    height_px, width_px, _ = preparation
    for top in range(0, grid.rows * height_px, height_px):
        for left in range(0, grid.columns * width_px, width_px):
            here = np.s_[top : top + height_px, left : left + width_px]
            image, mask = image_HWC[here], mask_HW[here]
            missing = ((0, height_px - mask.shape[0]), (0, width_px - mask.shape[1]))
            if missing != ((0, 0), (0, 0)):
                image = np.pad(image, (*missing, (0, 0)))
                mask = np.pad(mask, missing, constant_values=IGNORE_INDEX)
            yield image, mask


def scale_image(image_HWC: NDArray[np.uint8], grid: Grid) -> NDArray[np.uint8]:
    """A photograph at the size of its grid, for training and prediction alike."""
    shrinks = image_HWC.shape[0] >= grid.height_px and image_HWC.shape[1] >= grid.width_px
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    size = (grid.width_px, grid.height_px)
    return np.asarray(cv2.resize(image_HWC, size, interpolation=interpolation), np.uint8)


def count_classes(mask_HW: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """Pixels of each class (K); ignored ones are left out. Exact up to 2^24 of one class."""
    # Several times faster than np.bincount.
    count_256 = cv2.calcHist([mask_HW], [0], None, [256], [0, 256]).ravel()
    return np.asarray(count_256[:num_classes], np.int64)


def locate_classes(
    mask_HW: NDArray[np.uint8],
    class_pixels_K: NDArray[np.int64],
    locations: int,
    rng: np.random.Generator,
) -> NDArray[np.int16]:
    """(row, column) of L = ``locations`` random pixels of each class (KL2); -1: none left."""
    located_KL2 = np.full((len(class_pixels_K), locations, 2), -1, np.int16)
    for class_index in np.flatnonzero(class_pixels_K):
        pixels = np.flatnonzero(mask_HW == class_index)
        chosen = rng.choice(pixels, size=min(locations, len(pixels)), replace=False)
        rows_columns = np.stack(np.unravel_index(chosen, mask_HW.shape), axis=-1)
        located_KL2[class_index, : len(chosen)] = rows_columns
    return located_KL2
