"""What picture files hold, before anyone has said what that means: for guesses."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from segcore.reading.bands import RGB
from segcore.reading.ground import middle_of
from segcore.reading.headers import naming, open_raster, read_header
from segcore.reading.masks import has_colors, packed, read_stored
from segcore.reading.samples import sample_bits

FLAT = 16
"""Levels (of 255) by which neighbours may differ where nothing but JPEG's noise is."""

_LARGE_PX = 4_000_000

RGB8 = tuple[int, int, int]


@dataclass(frozen=True)
class MaskLook:
    """Which values a mask file holds."""

    by_color: bool
    """Whether the values are colours (0xRRGGBB), not numbers."""
    pixels: dict[float, int]
    """The number of pixels of each value."""
    inner: dict[float, int]
    """Those of them whose neighbours have nearly the same value: smoothed edges have few."""
    palette: dict[int, RGB8]
    """The colours of the numbers, where the file has some."""
    nodata: float | None
    size_px: tuple[int, int]

    def in_colors(self) -> "MaskLook":
        """The same mask by colours, which a palette or grey gives to its numbers."""
        if self.by_color:
            return self

        def colored(pixels: dict[float, int]) -> dict[float, int]:
            found = Counter[float]()
            for value, count in pixels.items():
                grey = (int(value),) * 3
                red, green, blue = self.palette.get(int(value), grey)
                found[red << 16 | green << 8 | blue] += count
            return dict(found)

        return replace(self, by_color=True, pixels=colored(self.pixels), inner=colored(self.inner))


@dataclass(frozen=True)
class PhotoLook:
    """What a photograph's header says."""

    size_px: tuple[int, int]
    bands: int
    """Without alpha."""
    dtype: str
    descriptions: tuple[str | None, ...]
    place: tuple[float, float] | None
    """(longitude, latitude), if it is told."""


def look_at_mask(path: Path) -> MaskLook:
    """Count the values of a mask. Raises ``ImageError``."""
    with naming(path):
        header = read_header(path)
        stored_HWC, nodata = read_stored(path, None)
        palette: dict[int, RGB8] = {}
        is_rgb8 = True
        if header.pillow is None:
            with open_raster(path) as raster:
                is_rgb8 = raster.dtypes == ("uint8",) * 3 and sample_bits(raster) == 8
                if raster.colorinterp[0] == ColorInterp.palette:
                    colors = raster.colormap(1).items()
                    palette = {index: (r, g, b) for index, (r, g, b, _) in colors}
        elif header.pillow.mode == "P":
            colors_V3 = np.reshape(header.pillow.getpalette("RGB") or [], (-1, 3)).tolist()
            palette = {index: (r, g, b) for index, (r, g, b) in enumerate(colors_V3)}
        by_color = has_colors(stored_HWC)
        if by_color and not is_rgb8:  # Colours that aren't what is stored, such as CMYK.
            stored_HWC, _ = read_stored(path, RGB)
        pixels, inner = _count(stored_HWC if by_color else stored_HWC[..., :1])
    return MaskLook(by_color, pixels, inner, palette, nodata, header.size_px)


def looks_like_mask(path: Path) -> bool:
    """Whether a picture has as few values as a mask. Raises ``ImageError``."""
    look = look_at_mask(path)
    return len(look.pixels) <= 64 or bool(look.palette)


def look_at_photo(path: Path) -> PhotoLook:
    """Read a photograph's header. Raises ``ImageError``."""
    with naming(path):
        header = read_header(path, whole=False)
        if header.pillow is not None:
            count = len([band for band in header.pillow.getbands() if band != "A"])
            return PhotoLook(header.size_px, count, "uint8", (), middle_of(path))
        with open_raster(path) as raster:
            kept = [i for i, kind in enumerate(raster.colorinterp) if kind != ColorInterp.alpha]
            palette = raster.colorinterp[0] == ColorInterp.palette
            return PhotoLook(
                header.size_px,
                3 if palette else len(kept),
                str(raster.dtypes[0]),
                tuple(raster.descriptions[i] for i in kept),
                middle_of(path),
            )


def _count(picture_HWC: NDArray[Any]) -> tuple[dict[float, int], dict[float, int]]:
    """The pixels of each finite value, and those of them whose neighbours are nearly the same.

    Of large pictures every second row and column is counted, for two by two pixels.
    """
    step = 2 if picture_HWC[..., 0].size > _LARGE_PX else 1
    part_HWC = picture_HWC[::step, ::step]
    if picture_HWC.dtype != np.uint8:
        return _counted(part_HWC[..., 0].ravel(), step), {}
    square = np.ones((3, 3), np.uint8)
    span_HWC = cv2.subtract(cv2.dilate(picture_HWC, square), cv2.erode(picture_HWC, square))
    span_HW = reduce(np.maximum, cv2.split(span_HWC))  # Far faster than ``max(axis=2)``.
    is_inner_HW = span_HW[::step, ::step] <= FLAT
    code_HW = packed(part_HWC)
    code_HW <<= 1
    code_HW |= is_inner_HW
    pixels, inner = Counter[float](), Counter[float]()
    for code, count in _counted(code_HW.ravel(), step).items():
        pixels[int(code) >> 1] += count
        inner[int(code) >> 1] += count * (int(code) & 1)
    return dict(pixels), dict(+inner)


def _counted(value_N: NDArray[Any], step: int) -> dict[float, int]:
    # Neighbours are mostly alike: only where a run of them begins is worth sorting.
    start_R = np.flatnonzero(np.append(True, value_N[1:] != value_N[:-1]))
    length_R = np.diff(np.append(start_R, value_N.size))
    value_V, of_run_R = np.unique(value_N[start_R], return_inverse=True)
    count_V = np.bincount(of_run_R, weights=length_R) * step**2
    pairs = zip(value_V.tolist(), count_V.astype(int).tolist(), strict=True)
    return {value: count for value, count in pairs if np.isfinite(value)}
