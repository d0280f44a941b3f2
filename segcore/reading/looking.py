"""What picture files hold, before anyone has said what that means: for guesses."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from segcore.reading.bands import RGB
from segcore.reading.ground import middle_of
from segcore.reading.headers import naming, open_raster, read_header
from segcore.reading.masks import read_stored

FLAT = 16
"""Levels (of 255) by which neighbours may differ where nothing but JPEG's noise is."""

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

    def as_colors(self) -> dict[float, int]:
        """Pixels of each colour, where a palette or grey gives numbers one."""
        return self._in_colors(self.pixels)

    def inner_as_colors(self) -> dict[float, int]:
        """The same of ``inner``."""
        return self._in_colors(self.inner)

    def _in_colors(self, pixels: dict[float, int]) -> dict[float, int]:
        if self.by_color:
            return pixels
        found = Counter[float]()
        for value, count in pixels.items():
            grey = (int(value),) * 3
            red, green, blue = self.palette.get(int(value), grey)
            found[red << 16 | green << 8 | blue] += count
        return dict(found)


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
        if header.pillow is None:
            with open_raster(path) as raster:
                if raster.colorinterp[0] == ColorInterp.palette:
                    colors = raster.colormap(1).items()
                    palette = {index: (r, g, b) for index, (r, g, b, _) in colors}
        if stored_HWC.shape[2] > 1 and (stored_HWC != stored_HWC[..., :1]).any():
            rgb_HWC = read_stored(path, RGB)[0]
            red_HW, green_HW, blue_HW = rgb_HWC.astype(np.int32).transpose(2, 0, 1)
            color_HW = red_HW << 16 | green_HW << 8 | blue_HW
            inner = _count(color_HW[_is_inner(rgb_HWC)])
            return MaskLook(True, _count(color_HW), inner, {}, nodata, header.size_px)
        value_HW = np.ascontiguousarray(stored_HWC[..., 0])
        inner = _count(value_HW[_is_inner(value_HW)]) if value_HW.dtype == np.uint8 else {}
        return MaskLook(False, _count(value_HW), inner, palette, nodata, header.size_px)


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


def _is_inner(value_HW: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where all eight neighbours have nearly the same value, in all channels of HWC."""
    square = np.ones((3, 3), np.uint8)
    span_HW = np.asarray(cv2.dilate(value_HW, square) - cv2.erode(value_HW, square))
    return np.asarray((span_HW.max(axis=2) if span_HW.ndim == 3 else span_HW) <= FLAT, bool)


def _count(value_HW: NDArray[Any]) -> dict[float, int]:
    """The pixels of each finite value."""
    if value_HW.dtype == np.uint8:
        count_V = np.bincount(value_HW.ravel(), minlength=256)
        return {int(v): int(count_V[v]) for v in np.flatnonzero(count_V)}
    value_N = value_HW.ravel()
    # Neighbours are mostly alike: only where a run of them begins is worth sorting.
    start_R = np.flatnonzero(np.append(True, value_N[1:] != value_N[:-1]))
    length_R = np.diff(np.append(start_R, value_N.size))
    value_V, of_run_R = np.unique(value_N[start_R], return_inverse=True)
    count_V = np.bincount(of_run_R, weights=length_R)
    pairs = zip(value_V.tolist(), count_V.astype(int).tolist(), strict=True)
    return {value: count for value, count in pairs if np.isfinite(value)}
