"""Masks from files: pixel values → classes; and masks paired with their photographs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segcore.config import IGNORE_INDEX
from segcore.reading.bands import RGB, Bands, Samples
from segcore.reading.headers import (
    Header,
    ImageError,
    check_end,
    naming,
    open_raster,
    read_header,
    turn,
)
from segcore.reading.images import read_pixels
from segcore.reading.samples import decode_raw, read_raw, read_window, upright

FIT_PX = 2
"""By so many pixels a mask may differ from its photograph in height and width, to be fitted."""

_NOISE = 6
"""Colours that differ by fewer levels are one."""
_NAMED = 8
"""So many unknown values are named."""

_UNKNOWN = -1
_MOVED, _DOUBTFUL = 512, 1024
"""Are added to the class of a value that isn't that of the class, but nearest to it; the second one
to a value that is farther from it than _DOUBT of the way to the next one."""
_DOUBT = 0.25


@dataclass(frozen=True)
class MaskCoding:
    """What the pixels of a mask file mean, and what is put right."""

    by_color: bool
    """Whether the colour of a pixel tells its class, not a number."""
    classes: tuple[tuple[int, int], ...]
    """Pairs of a number, or a colour as 0xRRGGBB, and its class or IGNORE_INDEX."""
    snap: float | None = None
    """How far, of the way to the next known value, another value may be from the nearest one to
    mean the same; farther ones are ignored. 0.5: all mean the nearest. None: others are refused."""
    fit: bool = False
    """Whether masks up to FIT_PX larger or smaller than their photographs are fitted to them."""


@dataclass(frozen=True)
class Pair:
    """A photograph with its mask, both upright and of the same field of view."""

    image_HWC: Samples
    """As ``Bands`` encodes them. May be decoded at a reduced size."""
    mask_HW: NDArray[np.uint8]
    """Classes and IGNORE_INDEX at full size."""
    note: str | None
    """What was odd about the pair, and perhaps has been put right."""
    snapped: "Snapped"


class Snapped(NamedTuple):
    """Pixels of a mask that have no known value, and were snapped or ignored."""

    moved_px: int
    doubtful_px: int
    """Those of them that aren't clearly nearest to one."""


class FittedMask(NamedTuple):
    """A mask on the pixels of its photograph."""

    mask_HW: NDArray[np.uint8]
    note: str | None
    """What was odd about it and has been put right."""
    snapped: Snapped


def read_mask(path: Path, coding: MaskCoding) -> NDArray[np.uint8]:
    """Read a mask as class indices: HW, uint8, upright, IGNORE_INDEX where nothing counts.

    A palette picture gives its colours to a coding by colour and its indices to one by index.
    Raises ``ImageError`` where the file can't be read, or holds values that ``coding`` doesn't.
    """
    return _read_classes(path, coding)[0]


def _read_classes(path: Path, coding: MaskCoding) -> tuple[NDArray[np.uint8], Snapped]:
    """A mask, and how many of its pixels were snapped."""
    with naming(path):
        if coding.by_color:
            return _classes_of_colors(read_stored(path, RGB)[0], coding, path)
        stored_HWC, nodata = read_stored(path, None)
        return _classes_of_indices(_one_number(stored_HWC, path), nodata, coding, path)


def read_pair(
    image_path: Path,
    mask_path: Path,
    coding: MaskCoding,
    at_least_px: tuple[int, int] | None,
    bands: Bands = RGB,
) -> Pair:
    """Read a photograph (as ``read_picture`` does) and the mask that belongs to it.

    Where the photograph has no data its samples are 0 and its mask is IGNORE_INDEX. A mask that was
    drawn on the photograph as stored, before its EXIF rotation, is turned with it.
    Raises ``ImageError`` where either can't be used or their sizes don't belong together.
    """
    header = read_header(image_path)
    picture = read_pixels(header, bands, at_least_px)
    mask_HW, note, snapped = read_mask_of(header, mask_path, coding)
    if picture.valid_HW is not None:
        size = mask_HW.shape[::-1]  # The photograph may be decoded at a reduced size.
        valid_HW = cv2.resize(
            picture.valid_HW.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT
        )
        mask_HW[valid_HW == 0] = IGNORE_INDEX
    return Pair(picture.blanked(), mask_HW, note, snapped)


def read_mask_of(header: Header, mask_path: Path, coding: MaskCoding) -> FittedMask:
    """The mask of the photograph with this header (HW, upright), and what has been put right.

    Raises ``ImageError`` where it can't be read, or where their sizes don't belong together.
    """
    (mask_HW, snapped), note = _read_classes(mask_path, coding), None
    if mask_HW.shape != header.size_px and mask_HW.shape == header.stored_px:
        mask_HW = turn(mask_HW, header.orientation)
        note = "the photograph is turned by its EXIF orientation; its mask was turned with it"
    elif header.orientation != 1 and _may_lie_as_stored(header, mask_path, mask_HW.shape):
        note = "turned by its EXIF orientation, unlike its mask; both fit: look whether they do"
    if mask_HW.shape != header.size_px:
        note = _check_fit(mask_HW.shape, header, mask_path, coding)
        mask_HW = _fitted(mask_HW, header.size_px)
    return FittedMask(mask_HW, note, snapped)


def _may_lie_as_stored(header: Header, mask_path: Path, size_px: tuple[int, ...]) -> bool:
    """Whether a mask may have been drawn on a turned photograph as stored, for all that is said."""
    same_size = header.size_px == header.stored_px == size_px
    return same_size and read_header(mask_path).orientation == 1


def _check_fit(size_px: tuple[int, ...], header: Header, path: Path, coding: MaskCoding) -> str:
    """What to say of a mask that is fitted. Raises ``ImageError`` where it can't be."""
    height_px, width_px = header.size_px
    mend = "export the mask again at the photograph's size"
    if max(abs(size_px[0] - height_px), abs(size_px[1] - width_px)) <= FIT_PX:
        if coding.fit:
            return "the mask is a pixel or two larger or smaller, and was fitted (fit: crop)"
        mend = "`fit: crop` in dataset.yaml fits masks that are a pixel or two off; or export again"
    elif size_px == (width_px, height_px):
        mend = (
            "height and width are swapped: turn the mask by a quarter, or the photograph, "
            "whichever lies on its side when you look at them"
        )
    raise ImageError(
        path,
        f"has {size_px[0]}×{size_px[1]} px, "
        f"but its photograph {header.path.name} has {height_px}×{width_px}",
        mend,
    )


def _fitted(mask_HW: NDArray[np.uint8], size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask that is cut off, or ignored beyond its end, at the bottom and on the right."""
    fitted_HW = np.full(size_px, IGNORE_INDEX, np.uint8)
    height_px, width_px = np.minimum(mask_HW.shape, size_px)
    fitted_HW[:height_px, :width_px] = mask_HW[:height_px, :width_px]
    return fitted_HW


def read_stored(path: Path, bands: Bands | None) -> tuple[NDArray[Any], float | None]:
    """The numbers of a mask (HWC, upright), and the one that its file uses for no data.

    Without ``bands`` a palette gives its indices; otherwise its colours, in 8 bits.
    """
    header = read_header(path)
    if header.pillow is not None:
        if bands is None and len(header.pillow.getbands()) == 1:
            stored_HWC = np.asarray(header.pillow)[..., None]
            if stored_HWC.dtype == np.bool_:
                stored_HWC = stored_HWC.astype(np.uint8)
        else:
            stored_HWC = decode_raw(header, RGB)[0]
        return turn(stored_HWC, header.orientation), None
    check_end(path)
    with open_raster(path) as raster:
        if bands is None:
            numbers = (1, 2, 3) if raster.count >= 3 else (1,)
            stored_HWC, _ = read_raw(raster, Bands(numbers))
        elif raster.dtypes[0] == "uint16":  # Most programs write colours in the upper bytes.
            stored_HWC = read_raw(raster, bands)[0]
            stored_HWC = (stored_HWC >> (8 if stored_HWC.max() > 255 else 0)).astype(np.uint8)
        else:
            stored_HWC = read_window(raster, bands).samples_HWC
        return upright(stored_HWC, raster, header.orientation), raster.nodata


def has_colors(stored_HWC: NDArray[Any]) -> bool:
    """Whether pixels have colours, not one number that may stand in three bands alike."""
    first_HW, *others = np.moveaxis(stored_HWC, 2, 0)
    return any(bool((other_HW != first_HW).any()) for other_HW in others)


def are_near(colors: Sequence[int] | NDArray[np.intp], others: Sequence[int]) -> NDArray[np.bool_]:
    """Whether each of some colours (0xRRGGBB; rows) differs from each of others only by noise."""
    color_N3, other_M3 = (
        np.array(values, int).reshape(-1, 1) >> np.array([16, 8, 0]) & 255
        for values in (colors, others)
    )
    near = [np.abs(color_N3 - other_3).max(axis=1) < _NOISE for other_3 in other_M3]
    return np.array(near, np.bool_).reshape(len(others), len(colors)).T


def packed(picture_HWC: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The channels of each pixel as one number (HW): 0xRRGGBB of three."""
    first_HW, *others = np.moveaxis(picture_HWC, 2, 0)
    code_HW = first_HW.astype(np.int32)
    for channel_HW in others:  # In place: with large pictures new memory takes most of the time.
        code_HW <<= 8
        code_HW |= channel_HW
    return code_HW


def _one_number(stored_HWC: NDArray[Any], path: Path) -> NDArray[Any]:
    """The one number of each pixel (HW). Raises ``ImageError`` where pixels have colours."""
    if has_colors(stored_HWC):
        raise ImageError(
            path,
            "is a colour picture, but the classes are index values",
            'give each class its colour in dataset.yaml: {Name: "#RRGGBB"}',
        )
    return stored_HWC[..., 0]


def _classes_of_indices(
    index_HW: NDArray[Any], nodata: float | None, coding: MaskCoding, path: Path
) -> tuple[NDArray[np.uint8], Snapped]:
    """``nodata`` and NaN are ignored, unless a class has that number."""
    class_of_256 = _class_table(coding)
    narrow = nodata is not None and nodata in range(256)
    if nodata is not None and narrow and not 0 <= class_of_256[int(nodata)] < _MOVED:
        class_of_256 = class_of_256.copy()
        class_of_256[int(nodata)] = IGNORE_INDEX
    hole_HW = None
    if index_HW.dtype != np.uint8:
        hole_HW = ~np.isfinite(index_HW)
        if nodata is not None and not narrow:
            hole_HW |= index_HW == nodata
        narrow_HW = np.where(hole_HW, 0, index_HW).clip(0, 255).astype(np.uint8)
        odd_HW = (narrow_HW != index_HW) & ~hole_HW
        if odd_HW.any():
            raise _unknown_values(path, [f"{value:g}" for value in np.unique(index_HW[odd_HW])])
        index_HW = narrow_HW
    index_HW = np.ascontiguousarray(index_HW)
    pixels_256 = cv2.calcHist([index_HW], [0], None, [256], [0, 256]).ravel()
    unknown = np.flatnonzero((pixels_256 > 0) & (class_of_256 == _UNKNOWN))
    if unknown.size:
        raise _unknown_values(path, [str(value) for value in unknown])
    class_HW = np.asarray(cv2.LUT(index_HW, class_of_256.astype(np.uint8)), np.uint8)
    if hole_HW is not None:
        class_HW[hole_HW] = IGNORE_INDEX
    moved_px, doubtful_px = (
        int(pixels_256[class_of_256 >= least].sum()) for least in (_MOVED, _DOUBTFUL)
    )
    return class_HW, Snapped(moved_px, doubtful_px)


def _classes_of_colors(
    rgb_HWC: NDArray[Any], coding: MaskCoding, path: Path
) -> tuple[NDArray[np.uint8], Snapped]:
    color_HW = packed(rgb_HWC)
    class_of_color = _class_table(coding)
    class_HW = class_of_color.take(color_HW)
    if class_HW.min() == _UNKNOWN:
        is_there = np.zeros(class_of_color.size, np.bool_)  # Faster than sorting the pixels.
        is_there[color_HW[class_HW == _UNKNOWN]] = True
        unknown_U = np.flatnonzero(is_there)
        if coding.snap is None:
            values = [f"#{color:06X}" for color in unknown_U]
            known = [value for value, _ in coding.classes]
            near = len(values) <= _NAMED and bool(are_near(unknown_U, known).any(axis=1).all())
            raise _unknown_values(path, values, are_off=near)
        # Remembered for the next masks. Threads may find out the same at the same time.
        class_of_color[unknown_U] = _snapped(unknown_U, coding)
        class_HW = class_of_color.take(color_HW)
    snapped = Snapped(0, 0)
    if coding.snap is not None:
        moved_N = class_HW[class_HW >= _MOVED]
        snapped = Snapped(moved_N.size, int(np.count_nonzero(moved_N >= _DOUBTFUL)))
    return class_HW.astype(np.uint8), snapped  # The lowest 8 bits are the class.


@lru_cache(maxsize=4)
def _class_table(coding: MaskCoding) -> NDArray[np.int16]:
    """The class of each index (256), or of each of 2^24 colours: 32 MB, but no searching."""
    table = np.full(1 << 24 if coding.by_color else 1 << 8, _UNKNOWN, np.int16)
    if coding.snap is not None and not coding.by_color:
        table = _snapped(np.arange(256), coding)
    for value, class_index in coding.classes:
        table[value] = class_index
    return table


def _snapped(value_U: NDArray[np.intp], coding: MaskCoding) -> NDArray[np.int16]:
    """For each number or colour the class of the nearest known one, plus _MOVED or _DOUBTFUL."""
    assert coding.snap is not None

    def parts(value_N: NDArray[np.intp]) -> NDArray[np.float32]:
        shifts = (16, 8, 0) if coding.by_color else (0,)
        return np.stack([value_N >> shift & 255 for shift in shifts], -1).astype(np.float32)

    first_U = np.full(len(value_U), np.inf, np.float32)
    second_U, class_U = first_U.copy(), np.zeros(len(value_U), np.int16)
    part_UC = parts(value_U)
    for value, class_index in coding.classes:
        distance_U = np.linalg.norm(part_UC - parts(np.array(value)), axis=1)
        is_nearer_U = distance_U < first_U
        second_U = np.where(is_nearer_U, first_U, np.minimum(second_U, distance_U))
        first_U = np.where(is_nearer_U, distance_U, first_U)
        class_U[is_nearer_U] = class_index
    class_U[first_U > coding.snap * (first_U + second_U)] = IGNORE_INDEX
    is_doubtful_U = first_U > _DOUBT * (first_U + second_U)
    return class_U + np.where(is_doubtful_U, _DOUBTFUL, _MOVED).astype(np.int16)


def _unknown_values(path: Path, values: list[str], are_off: bool = False) -> ImageError:
    more = f" and {len(values) - _NAMED} more" if len(values) > _NAMED else ""
    mend = "add them to the classes or to what is ignored in dataset.yaml, or correct the mask"
    if len(values) > _NAMED or are_off:
        mend = (
            "`snap: nearest` in dataset.yaml takes values between those of classes, as of smoothed "
            "edges and JPEG, to the nearest class; or save masks without loss (PNG)"
        )
    return ImageError(path, f"holds {', '.join(values[:_NAMED])}{more}, which no class has", mend)
