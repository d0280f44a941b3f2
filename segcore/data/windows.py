"""One photograph with its mask → the items that networks see: resized whole, or cut into tiles."""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segcore.config import IGNORE_INDEX, View
from segcore.errors import UserError
from segcore.reading.bands import Samples


class Grid(NamedTuple):
    """The size of a scaled photograph, in pixels."""

    height_px: int
    width_px: int


def plan_grid(size_px: tuple[int, int], view: View, metres_per_px: float | None = None) -> Grid:
    """To what a photograph of ``size_px`` (height, width) is scaled for a view.

    ``metres_per_px`` is the photograph's own ground size. Raises ``UserError`` where the view wants
    one and the photograph has none.
    """
    scale = view.scale
    if view.metres_per_px is not None:
        if metres_per_px is None:
            raise UserError(
                f"metres_per_px {view.metres_per_px:g}: a photograph has no georeference that "
                "tells its ground size; give scale, a share of its resolution, instead"
            )
        scale = metres_per_px / view.metres_per_px
    if scale is None:
        return Grid(view.height_px, view.width_px)
    height_px, width_px = (max(1, round(side * scale)) for side in size_px)
    return Grid(height_px, width_px)


def count_tiles(grid: Grid, view: View) -> tuple[int, int]:
    """Rows and columns of tiles that cover a grid."""
    return -(-grid.height_px // view.height_px), -(-grid.width_px // view.width_px)


def cut_items(
    image_HWC: Samples,
    mask_HW: NDArray[np.uint8],
    grid: Grid,
    view: View,
) -> Iterator[tuple[Samples, NDArray[np.uint8]]]:
    """Scale a photograph and its mask, and yield the items row by row.

    Photographs shrink by the mean of the area, masks take the nearest pixel. Where tiles reach
    beyond the photograph, images are 0 and masks IGNORE_INDEX.
    """
    image_HWC = np.asarray(scale_image(image_HWC, grid), np.uint8)
    mask_HW = scale_mask(mask_HW, grid)
    height_px, width_px = view.height_px, view.width_px
    rows, columns = count_tiles(grid, view)
    for top in range(0, rows * height_px, height_px):
        for left in range(0, columns * width_px, width_px):
            here = np.s_[top : top + height_px, left : left + width_px]
            image, mask = image_HWC[here], mask_HW[here]
            missing = ((0, height_px - mask.shape[0]), (0, width_px - mask.shape[1]))
            if missing != ((0, 0), (0, 0)):
                image = np.pad(image, (*missing, (0, 0)))
                mask = np.pad(mask, missing, constant_values=IGNORE_INDEX)
            yield image, mask


def scale_image(image_HWC: Samples, grid: Grid) -> Samples:
    """A photograph at the size of a grid: means of areas, or linear where it is enlarged."""
    if image_HWC.shape[:2] == grid:
        return image_HWC
    shrinks = image_HWC.shape[0] >= grid.height_px and image_HWC.shape[1] >= grid.width_px
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    size = (grid.width_px, grid.height_px)
    parts = [  # OpenCV takes four channels at most, and drops the axis of a single one.
        cv2.resize(image_HWC[..., c : c + 4], size, interpolation=interpolation).reshape(*grid, -1)
        for c in range(0, image_HWC.shape[2], 4)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def scale_mask(mask_HW: NDArray[np.uint8], grid: Grid) -> NDArray[np.uint8]:
    """A mask at the size of a grid, by the pixel at each one's middle."""
    size = (grid.width_px, grid.height_px)
    scaled = cv2.resize(mask_HW, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(scaled, np.uint8)


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
