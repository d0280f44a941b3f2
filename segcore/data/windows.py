"""The windows that networks see: of which size and place, and one warp that cuts them.

A photograph at the scale of a view lies on the view's *working grid*. A window of it is cut from
the photograph's pyramid in a single affine warp: place, scale, angle and flip at once.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segcore.config import IGNORE_INDEX, View
from segcore.errors import UserError
from segcore.reading.bands import Samples

_HALF_PX = np.array([[0, 0, 0.5], [0, 0, 0.5]])
"""From the middle of a pixel to its edge, in an affine map."""

_WARPED_CHANNELS = 4
"""OpenCV warps at most so many channels at once."""


class Grid(NamedTuple):
    """The size of a scaled photograph, in pixels."""

    height_px: int
    width_px: int

    @property
    def area_px(self) -> int:
        """Its number of pixels."""
        return self.height_px * self.width_px

    def within(self, longer_side_px: int) -> "Grid":
        """The same shape, with a longer side of at most so many pixels."""
        share = min(1.0, longer_side_px / max(self))
        return Grid(*(max(1, round(side * share)) for side in self))


def plan_grid(size_px: tuple[int, int], view: View, metres_per_px: float | None = None) -> Grid:
    """The working grid of a photograph of ``size_px`` (height, width).

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


def plan_levels(size_px: tuple[int, int], grids: Iterable[Grid]) -> tuple[Grid, ...]:
    """The sizes of a photograph's pyramid, from which windows of all these working grids are cut.

    The first level is as fine as the finest grid, but not finer than the photograph itself; the
    others are halved, as long as they are not much coarser than the coarsest grid.
    """
    heights, widths = zip(*grids, strict=True)
    level = Grid(min(max(heights), size_px[0]), min(max(widths), size_px[1]))
    levels = [level]
    while True:
        level = Grid((level.height_px + 1) // 2, (level.width_px + 1) // 2)
        # A window may be cut at 0.6 of its view's scale (segcore.training.augment).
        too_coarse = level.height_px < 0.6 * min(heights) or level.width_px < 0.6 * min(widths)
        if too_coarse or level == levels[-1]:
            return tuple(levels)
        levels.append(level)


def scale_image(image_HWC: Samples, grid: Grid) -> Samples:
    """A photograph at the size of a grid: means of areas, then linear along axes that grow."""
    if image_HWC.shape[:2] == grid:
        return image_HWC
    shrunk = Grid(*map(min, image_HWC.shape, grid))
    if shrunk not in (image_HWC.shape[:2], grid):
        image_HWC = scale_image(image_HWC, shrunk)
    interpolation = cv2.INTER_AREA if shrunk == grid else cv2.INTER_LINEAR
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


class Window(NamedTuple):
    """Where a window lies in a photograph, and how it is turned."""

    height_px: int
    width_px: int
    centre: tuple[float, float]
    """Row and column of the window's middle, as shares of the photograph's height and width."""
    grid: tuple[float, float]
    """Height and width, in pixels of the window, that the whole photograph would have."""
    angle_rad: float = 0.0
    flip: bool = False
    """Left and right are swapped, before it is turned."""

    def onto(self, size_px: tuple[int, int]) -> NDArray[np.float64]:
        """The affine map (2×3) from the window's (x, y) to those in an image of the photograph.

        Integers are the middles of pixels. Where neither scale nor angle asks for interpolation,
        the window is moved by less than a pixel, so that its pixels are those of the image.
        """
        shrink = np.array([size_px[1] / self.grid[1], size_px[0] / self.grid[0]])
        cos, sin = math.cos(self.angle_rad), math.sin(self.angle_rad)
        turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if self.flip else 1.0, 1.0])
        linear = np.diag(shrink) @ turn
        middle = np.array([(self.width_px - 1) / 2, (self.height_px - 1) / 2])
        centre = np.array([self.centre[1] * size_px[1], self.centre[0] * size_px[0]]) - 0.5
        offset = centre - linear @ middle
        quarters = self.angle_rad / (math.pi / 2)
        if tuple(self.grid) == tuple(size_px) and abs(quarters - round(quarters)) < 1e-9:
            linear, offset = linear.round(), offset.round()
        return np.column_stack([linear, offset])


def cut_window(
    levels: Sequence[Samples], mask_HW: NDArray[np.uint8], window: Window
) -> tuple[Samples, NDArray[np.uint8]]:
    """Cut a window from a photograph's pyramid ``levels`` (HWC, the finest first) and its mask.

    The image comes from the coarsest level that still has all the pixels, by linear interpolation,
    which between two levels is nearly the mean of the area. The mask takes the nearest pixel.
    Outside of the photograph images are 0 and masks IGNORE_INDEX.
    """
    fine_enough = [
        level for level in levels if all(np.add(level.shape[:2], 0.5) >= np.array(window.grid))
    ]
    source_HWC = fine_enough[-1] if fine_enough else levels[0]
    onto, size = window.onto(source_HWC.shape[:2]), Grid(window.height_px, window.width_px)
    parts = [
        _warp(source_HWC[..., c : c + _WARPED_CHANNELS], onto, size, cv2.INTER_LINEAR, 0)
        for c in range(0, source_HWC.shape[2], _WARPED_CHANNELS)
    ]
    image_HWC = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
    # The mask may be finer than the level that the image comes from.
    finer = np.divide(mask_HW.shape, source_HWC.shape[:2])[::-1, None]
    onto = (onto + _HALF_PX) * finer - _HALF_PX
    mask = _warp(mask_HW[..., None], onto, size, cv2.INTER_NEAREST, IGNORE_INDEX)
    return image_HWC, np.asarray(mask[..., 0], np.uint8)


def _warp(
    source_HWC: Samples, onto: NDArray[np.float64], size: Grid, interpolation: int, outside: int
) -> Samples:
    """What an affine map (``Window.onto``) takes from an image to one of another size."""
    if (onto == onto.round()).all() and np.abs(onto[:, :2]).max() == 1:
        return _move(source_HWC, onto.astype(int), size, outside)
    height, width, channels = source_HWC.shape
    corners = onto @ _corners(size)
    # Only the part that is needed: OpenCV takes no images beyond 32,767 px, and the pages of the
    # file that nobody needs stay on the disk.
    left, top = np.clip(np.floor(corners.min(axis=1)) - 1, 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=1)) + 2, 0, (width, height)).astype(int)
    if left >= right or top >= bottom:
        return np.full((*size, channels), outside, source_HWC.dtype)
    return np.asarray(
        cv2.warpAffine(
            source_HWC[top:bottom, left:right],
            onto - [[0, 0, left], [0, 0, top]],
            (size.width_px, size.height_px),
            flags=interpolation | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(outside,) * channels,
        )
    ).reshape(*size, channels)


def _corners(size: Grid) -> NDArray[np.int64]:
    """(x, y, 1) of the pixels in the four corners of an image, by columns."""
    right, bottom = size.width_px - 1, size.height_px - 1
    return np.array([[0, 0, right, right], [0, bottom, 0, bottom], [1, 1, 1, 1]])


def _move(source_HWC: Samples, onto: NDArray[np.int64], size: Grid, outside: int) -> Samples:
    """The warp by whole pixels and quarter turns: ten times as fast as interpolation."""
    channels = source_HWC.shape[2]
    ends = onto @ _corners(size)
    (left, top), (right, bottom) = ends.min(axis=1), ends.max(axis=1) + 1
    inside = np.s_[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    piece_HWC = source_HWC[inside]
    if piece_HWC.shape[:2] != (bottom - top, right - left):
        padded_HWC = np.full((bottom - top, right - left, channels), outside, source_HWC.dtype)
        first = max(-top, 0), max(-left, 0)
        rows, columns = (slice(at, at + n) for at, n in zip(first, piece_HWC.shape, strict=False))
        padded_HWC[rows, columns] = piece_HWC
        piece_HWC = padded_HWC
    (xx, xy), (yx, yy) = onto[:, :2].tolist()
    # Where x goes along y, a column of the window is a row of the image.
    piece_HWC = piece_HWC[::yy, ::xx] if xx else piece_HWC.swapaxes(0, 1)[::xy, ::yx]
    return np.array(piece_HWC, order="C")  # A copy: the cache is mapped read-only.


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
) -> NDArray[np.int32]:
    """(row, column) of L = ``locations`` random pixels of each class (KL2); -1: none left."""
    located_KL2 = np.full((len(class_pixels_K), locations, 2), -1, np.int32)
    for class_index in np.flatnonzero(class_pixels_K):
        pixels = np.flatnonzero(mask_HW == class_index)
        chosen = rng.choice(pixels, size=min(locations, len(pixels)), replace=False)
        rows_columns = np.stack(np.unravel_index(chosen, mask_HW.shape), axis=-1)
        located_KL2[class_index, : len(chosen)] = rows_columns
    return located_KL2
