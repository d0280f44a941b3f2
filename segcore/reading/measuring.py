"""What the photographs of a data set have in common, measured once: value ranges, mean, std."""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from segcore.cores import usable_cores
from segcore.errors import UserError
from segcore.reading.bands import RGB, Bands, Range, Samples
from segcore.reading.headers import naming, open_raster, read_header
from segcore.reading.samples import check_bands, colors_of, decode_raw, read_values

RANGE_PERCENTILES = (0.05, 99.95)
"""What becomes 0 and 1: a few pixels that are broken or glare don't darken all others."""

_PHOTOS, _PIXELS = 400, 2_000_000
"""How many photographs are looked at, and how many pixels of all of them."""
_WHOLE_PX = 4_000_000
_WINDOW_PX, _WINDOWS = 128, 7
"""Of a larger photograph a grid of 7 × 7 windows is read."""


def complete_bands(bands: Bands, paths: Sequence[Path], workers: int | None = None) -> Bands:
    """``bands`` with all that is measured on training photographs: ranges, colours, mean and std.

    Where some of them have 8 bits and others more, only the others are measured.

    Raises ``ImageError`` where a photograph can't be read or lacks a band, and ``UserError`` where
    no pixel holds data.
    """
    with ThreadPoolExecutor(workers or usable_cores()) as pool:
        eight_bits = list(pool.map(partial(check_bands, bands=bands), paths))
        if bands.numbers is not None and paths:
            bands = replace(bands, colors=colors_of(paths[0], bands))
        to_measure = bands.ranges is None and not all(eight_bits)
        if not to_measure and bands.numbers is None:
            return bands  # Networks know the mean and std of RGB.
        deep = [path for path, eight in zip(paths, eight_bits, strict=True) if not eight]
        chosen = _some(deep if to_measure else paths)
        pixels = max(2000, _PIXELS // max(1, len(chosen)))
        parts = list(pool.map(partial(_sample, bands=bands, pixels=pixels), chosen))
    if not any(map(len, parts)):
        raise UserError(
            f"none of {len(chosen)} photographs holds a pixel with data; "
            "correct `nodata` in dataset.yaml, or the files' own value for no data"
        )
    if to_measure:
        bands = replace(bands, ranges=_ranges(np.concatenate(parts)), measured=True)
    mean, std = _statistics(np.concatenate([bands.encode(part[None])[0] for part in parts]))
    return replace(bands, mean=mean, std=std)


def _some(paths: Sequence[Path]) -> Sequence[Path]:
    return paths[:: max(1, -(-len(paths) // _PHOTOS))]


def own_bands(path: Path) -> Bands:
    """How a single file is read of which nothing is known but itself: RGB in its own range."""
    return complete_bands(RGB, [path], workers=1)


def _ranges(raw_NC: NDArray[Any]) -> tuple[Range, ...]:
    low_C, high_C = np.percentile(raw_NC, RANGE_PERCENTILES, axis=0).tolist()
    # A band that is the same everywhere becomes 0.
    return tuple(
        (low, high if high > low else low + 1) for low, high in zip(low_C, high_C, strict=True)
    )


def _statistics(samples_NC: Samples) -> tuple[tuple[float, ...], tuple[float, ...]]:
    full = np.iinfo(samples_NC.dtype).max
    mean_C = samples_NC.mean(axis=0, dtype=np.float64) / full
    std_C = samples_NC.std(axis=0, dtype=np.float64) / full
    return tuple(mean_C.tolist()), tuple(np.maximum(std_C, 1 / 255).tolist())


def _sample(path: Path, bands: Bands, pixels: int) -> NDArray[Any]:
    """The raw values of some pixels that hold data, from all over a photograph (NC)."""
    with naming(path):
        raw_NC = np.concatenate(list(_pieces(path, bands)))
    chosen = np.random.default_rng(0).permutation(len(raw_NC))[:pixels]
    return np.asarray(np.broadcast_to(raw_NC[chosen], (len(chosen), bands.channels)))


def _pieces(path: Path, bands: Bands) -> Iterator[NDArray[Any]]:
    """The valid pixels of windows all over a photograph (NC)."""
    header = read_header(path, whole=False)
    if header.pillow is not None:
        raw_HWC, valid_HW = decode_raw(header, bands)
        yield raw_HWC.reshape(-1, raw_HWC.shape[2]) if valid_HW is None else raw_HWC[valid_HW]
        return
    with open_raster(path) as raster:
        for window in _windows(raster.height, raster.width):
            raw_HWC, valid_HW = read_values(raster, bands, window)
            yield raw_HWC.reshape(-1, raw_HWC.shape[2]) if valid_HW is None else raw_HWC[valid_HW]


def _windows(height_px: int, width_px: int) -> Iterator[Window]:
    if height_px * width_px <= _WHOLE_PX:
        yield Window(0, 0, width_px, height_px)
        return
    tops, lefts = (
        np.linspace(0, max(0, side - _WINDOW_PX), _WINDOWS).astype(int).tolist()
        for side in (height_px, width_px)
    )
    for top, left in itertools.product(tops, lefts):
        yield Window(left, top, min(_WINDOW_PX, width_px), min(_WINDOW_PX, height_px))
