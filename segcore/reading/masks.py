"""Masks from files: pixel values → classes; and masks paired with their photographs."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segcore.reading.images import (
    Header,
    ImageError,
    naming,
    open_raster,
    read_header,
    read_image,
    read_samples,
    turn,
)

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

    image_HWC: NDArray[np.uint8]
    """May be decoded at a reduced size."""
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
            return _classes_of_colors(read_image(path), coding, path)
        header = read_header(path)
        index_HW = turn(_read_indices(header), header.orientation)
        return _classes_of_indices(index_HW, coding, path)


def read_pair(
    image_path: Path, mask_path: Path, coding: MaskCoding, at_least_px: tuple[int, int] | None
) -> Pair:
    """Read a photograph (``at_least_px`` as in ``read_image``) and the mask that belongs to it.

    A mask that was drawn on the photograph as stored, before its EXIF rotation, is turned with it.
    Raises ``ImageError`` where either can't be used or their sizes don't belong together.
    """
    image_HWC = read_image(image_path, at_least_px)
    mask_HW = read_mask(mask_path, coding)
    header = read_header(image_path)
    if mask_HW.shape == header.size_px:
        return Pair(image_HWC, mask_HW, None)
    if mask_HW.shape == header.stored_px:
        note = "the photograph is turned by its EXIF orientation; its mask was turned with it"
        return Pair(image_HWC, turn(mask_HW, header.orientation), note)
    raise ImageError(
        mask_path,
        f"has {mask_HW.shape[0]}×{mask_HW.shape[1]} px, "
        f"but its photograph {image_path.name} has {header.size_px[0]}×{header.size_px[1]}",
        "export the mask again at the photograph's size",
    )


def _read_indices(header: Header) -> NDArray[np.uint8]:
    """The index values of a mask (HW), whichever way its file stores one number for a pixel."""
    path, image = header.path, header.pillow
    if image is not None and (image.mode, image.format) == ("L", "PNG") and header.bits == 8:
        # OpenCV spares a copy of the picture, a quarter of the time; Pillow explains failures.
        decoded = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if decoded is not None and decoded.ndim == 2:
            return np.asarray(decoded, np.uint8)
    if image is not None and image.mode in {"P", "L", "1"}:
        index_HW = np.asarray(image).astype(np.uint8, copy=False)
        # Pillow spreads grey samples of 2 and 4 bits over 0 … 255.
        stretched = image.mode == "L" and header.bits < 8
        return index_HW // (255 // (2**header.bits - 1)) if stretched else index_HW
    if image is None:
        with open_raster(path) as raster:
            samples_HWC = read_samples(raster, palette=False)
    else:
        samples_HWC = np.asarray(image.convert("RGB"))
    if (samples_HWC != samples_HWC[..., :1]).any():
        raise ImageError(
            path,
            "is a colour picture, but the classes are index values",
            'give each class its colour in dataset.yaml: {Name: "#RRGGBB"}',
        )
    too_large = np.unique(samples_HWC[samples_HWC > 255])
    if too_large.size:
        raise _unknown_values(path, [str(value) for value in too_large])
    return samples_HWC[..., 0].astype(np.uint8)


def _classes_of_indices(
    index_HW: NDArray[np.uint8], coding: MaskCoding, path: Path
) -> NDArray[np.uint8]:
    class_of_256 = _class_table(coding)
    present_256 = cv2.calcHist([index_HW], [0], None, [256], [0, 256]).ravel() > 0
    unknown = np.flatnonzero(present_256 & (class_of_256 == _UNKNOWN))
    if unknown.size:
        raise _unknown_values(path, [str(value) for value in unknown])
    return np.asarray(cv2.LUT(index_HW, class_of_256.astype(np.uint8)), np.uint8)


def _classes_of_colors(
    rgb_HWC: NDArray[np.uint8], coding: MaskCoding, path: Path
) -> NDArray[np.uint8]:
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
