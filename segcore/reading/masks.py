"""Masks from files: pixel values → classes; and masks paired with their photographs."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

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

_UNKNOWN = -1


@dataclass(frozen=True)
class MaskCoding:
    """What the pixels of a mask file mean.

    ``classes`` pairs an index value, or with ``by_color`` a colour as 0xRRGGBB, with its class
    or IGNORE_INDEX. A mask that holds any other value is refused.
    """

    by_color: bool
    classes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Pair:
    """A photograph with its mask, both upright and of the same field of view."""

    image_HWC: Samples
    """As ``Bands`` encodes them. May be decoded at a reduced size."""
    mask_HW: NDArray[np.uint8]
    """Classes and IGNORE_INDEX at full size."""
    note: str | None
    """What was odd about the pair and has been put right."""


def read_mask(path: Path, coding: MaskCoding) -> NDArray[np.uint8]:
    """Read a mask as class indices: HW, uint8, upright, IGNORE_INDEX where nothing counts.

    A palette picture gives its colours to a coding by colour and its indices to one by index.
    Raises ``ImageError`` where the file can't be read, or holds values that ``coding`` doesn't.
    """
    with naming(path):
        if coding.by_color:
            return _classes_of_colors(_read_stored(path, RGB)[0], coding, path)
        stored_HWC, nodata = _read_stored(path, None)
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
    mask_HW, note = read_mask_of(header, mask_path, coding)
    if picture.valid_HW is not None:
        size = mask_HW.shape[::-1]  # The photograph may be decoded at a reduced size.
        valid_HW = cv2.resize(
            picture.valid_HW.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT
        )
        mask_HW[valid_HW == 0] = IGNORE_INDEX
    return Pair(picture.blanked(), mask_HW, note)


def read_mask_of(
    header: Header, mask_path: Path, coding: MaskCoding
) -> tuple[NDArray[np.uint8], str | None]:
    """The mask of the photograph with this header (HW, upright), and what has been put right.

    Raises ``ImageError`` where it can't be read, or where their sizes don't belong together.
    """
    mask_HW, note = read_mask(mask_path, coding), None
    if mask_HW.shape != header.size_px and mask_HW.shape == header.stored_px:
        mask_HW = turn(mask_HW, header.orientation)
        note = "the photograph is turned by its EXIF orientation; its mask was turned with it"
    if mask_HW.shape != header.size_px:
        raise ImageError(
            mask_path,
            f"has {mask_HW.shape[0]}×{mask_HW.shape[1]} px, "
            f"but its photograph {header.path.name} has {header.size_px[0]}×{header.size_px[1]}",
            "export the mask again at the photograph's size",
        )
    return mask_HW, note


def _read_stored(path: Path, bands: Bands | None) -> tuple[NDArray[Any], float | None]:
    """The numbers of a mask (HWC, upright), and the one that its file uses for no data.

    Without ``bands`` a palette gives its indices; otherwise its colours, in 8 bits.
    """
    header = read_header(path)
    if header.pillow is not None:
        return turn(decode_raw(header, RGB)[0], header.orientation), None
    check_end(path)
    with open_raster(path) as raster:
        if bands is None:
            numbers = (1, 2, 3) if raster.count >= 3 else (1,)
            stored_HWC, _ = read_raw(raster, Bands(numbers))
        elif raster.dtypes[0] == "uint16":  # Programs write colours of 8 bits in the upper bytes.
            stored_HWC = (read_raw(raster, bands)[0] >> 8).astype(np.uint8)
        else:
            stored_HWC = read_window(raster, bands).samples_HWC
        return upright(stored_HWC, raster, header.orientation), raster.nodata


def _one_number(stored_HWC: NDArray[Any], path: Path) -> NDArray[Any]:
    """The one number of each pixel (HW), which may stand in three bands alike."""
    if stored_HWC.shape[2] > 1 and (stored_HWC != stored_HWC[..., :1]).any():
        raise ImageError(
            path,
            "is a colour picture, but the classes are index values",
            'give each class its colour in dataset.yaml: {Name: "#RRGGBB"}',
        )
    return stored_HWC[..., 0]


def _classes_of_indices(
    index_HW: NDArray[Any], nodata: float | None, coding: MaskCoding, path: Path
) -> NDArray[np.uint8]:
    """``nodata`` and NaN are ignored, unless a class has that number."""
    class_of_256 = _class_table(coding)
    narrow = nodata is not None and nodata in range(256)
    if nodata is not None and narrow and class_of_256[int(nodata)] == _UNKNOWN:
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
    present_256 = cv2.calcHist([index_HW], [0], None, [256], [0, 256]).ravel() > 0
    unknown = np.flatnonzero(present_256 & (class_of_256 == _UNKNOWN))
    if unknown.size:
        raise _unknown_values(path, [str(value) for value in unknown])
    class_HW = np.asarray(cv2.LUT(index_HW, class_of_256.astype(np.uint8)), np.uint8)
    if hole_HW is not None:
        class_HW[hole_HW] = IGNORE_INDEX
    return class_HW


def _classes_of_colors(rgb_HWC: NDArray[Any], coding: MaskCoding, path: Path) -> NDArray[np.uint8]:
    color_HW = rgb_HWC[..., 0].astype(np.int32)
    for channel in (1, 2):  # In place: with large pictures new memory takes most of the time.
        color_HW <<= 8
        color_HW |= rgb_HWC[..., channel]
    class_HW = _class_table(coding).take(color_HW)
    if class_HW.min() == _UNKNOWN:
        unknown = np.unique(color_HW[class_HW == _UNKNOWN])
        raise _unknown_values(path, [f"#{color:06X}" for color in unknown])
    return class_HW.astype(np.uint8)


@lru_cache(maxsize=4)
def _class_table(coding: MaskCoding) -> NDArray[np.int16]:
    """The class of each index (256), or of each of 2^24 colours: 32 MB, but no searching."""
    table = np.full(1 << 24 if coding.by_color else 1 << 8, _UNKNOWN, np.int16)
    for value, class_index in coding.classes:
        table[value] = class_index
    return table


def _unknown_values(path: Path, values: list[str]) -> ImageError:
    more = f" and {len(values) - 8} more" if len(values) > 8 else ""
    mend = "add them to the classes or to what is ignored in dataset.yaml, or correct the mask"
    if len(values) > 100:
        mend = "save masks without loss (PNG, not JPEG) and without smooth edges"
    return ImageError(path, f"holds {', '.join(values[:8])}{more}, which no class has", mend)
