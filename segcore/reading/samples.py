"""Which numbers of a raster are a photograph's samples, and which of its pixels hold data.

The same rules serve whole photographs, windows of mosaics, masks, and the measuring of ranges.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

from segcore.reading.bands import Bands, Samples
from segcore.reading.headers import Header, ImageError, naming, open_raster, read_header, turn

Valid = NDArray[np.bool_]
_ALPHA_VALUES = 32
"""Transparency has fewer values, mostly two."""
_CMYK = [ColorInterp.cyan, ColorInterp.magenta, ColorInterp.yellow, ColorInterp.black]


@dataclass(frozen=True, eq=False)
class Picture:
    """A photograph, or a window of one."""

    samples_HWC: Samples
    """As ``Bands`` encodes them; 0 where they are no numbers."""
    valid_HW: Valid | None
    """Where there are data; None: everywhere."""

    def blanked(self) -> Samples:
        """The samples, which are 0 where there are no data."""
        if self.valid_HW is None:
            return self.samples_HWC
        return self.samples_HWC * self.valid_HW[..., None]


def read_window(
    raster: rasterio.DatasetReader, bands: Bands, window: Window | None = None
) -> Picture:
    """A window of a raster, or all of it, as stored. Raises ``ImageError``."""
    raw_HWC, valid_HW = read_values(raster, bands, window)
    if bands.eight_bits:
        check_eight_bits(Path(raster.name), raw_HWC.dtype)
    return Picture(encode(raw_HWC, bands), valid_HW)


def encode(raw_HWC: NDArray[Any], bands: Bands) -> Samples:
    """The samples of all channels; grey is repeated."""
    return np.ascontiguousarray(  # type: ignore[return-value]
        bands.encode(np.broadcast_to(raw_HWC, (*raw_HWC.shape[:2], bands.channels)))
    )


def read_values(
    raster: rasterio.DatasetReader, bands: Bands, window: Window | None = None
) -> tuple[NDArray[Any], Valid | None]:
    """What ``read_raw`` gives; fewer than 8 bits are spread over 0 … 255 without a ``range``."""
    raw_HWC, valid_HW = read_raw(raster, bands, window)
    by_palette = bands.numbers is None and raster.colorinterp[0] == ColorInterp.palette
    bits, wanted_raw = sample_bits(raster), bands.ranges is not None and not bands.measured
    if bits < 8 and not by_palette and not wanted_raw:
        table = (np.arange(256) * (255 / (2**bits - 1))).round().clip(0, 255).astype(np.uint8)
        raw_HWC = table[raw_HWC]
    return raw_HWC, valid_HW


def read_raw(
    raster: rasterio.DatasetReader, bands: Bands, window: Window | None = None
) -> tuple[NDArray[Any], Valid | None]:
    """The numbers that GDAL shows (HWC; grey has one channel), and where there are data (HW).

    A pixel has no data where a mask or alpha says so, where the value for no data stands in each
    of the bands, and where one of them is NaN or infinite. Palette indices and CMYK become RGB,
    unless ``bands`` names bands.
    """
    indexes, alpha = _choose(raster, bands)
    raw_CHW = raster.read(indexes, window=window)
    if np.iscomplexobj(raw_CHW):
        raise ImageError(
            Path(raster.name), f"has samples of type {raw_CHW.dtype}",
            "allowed: integers and floating-point numbers; convert it",
        )  # fmt: skip
    missing: list[NDArray[np.bool_]] = []
    if _has_mask(raster, indexes):
        missing.append((raster.read_masks(indexes, window=window) == 0).all(0))
    if alpha is not None:
        missing.append(raster.read(alpha, window=window) == 0)
    if bands.nodata is not None:
        missing.append((raw_CHW == bands.nodata).all(0))
    if raw_CHW.dtype.kind == "f":
        missing.append(~np.isfinite(raw_CHW).all(0))
    raw_HWC = raw_CHW.transpose(1, 2, 0)
    if bands.numbers is None and raster.colorinterp[0] == ColorInterp.palette:
        table_V4 = _palette(raster)
        colors_HWC = table_V4[raw_HWC[..., 0]]
        missing.append(colors_HWC[..., 3] == 0)
        raw_HWC = colors_HWC[..., :3]
    elif bands.numbers is None and list(raster.colorinterp[:4]) == _CMYK:
        raw_HWC = _rgb_of_cmyk(raw_HWC)
    invalid_HW: Valid | None = np.logical_or.reduce(missing) if missing else None
    return raw_HWC, ~invalid_HW if invalid_HW is not None and invalid_HW.any() else None


def decode_raw(
    header: Header, bands: Bands, at_least_px: tuple[int, int] | None = None
) -> tuple[NDArray[np.uint8], Valid | None]:
    """The same of a picture that Pillow decodes, as stored, perhaps at a reduced size."""
    image = header.pillow
    assert image is not None
    if image.mode.startswith(("I", "F")):
        raise ImageError(
            header.path,
            f"has more than 8 bits ({image.mode}), which are read only of TIFF and PNG",
            "convert it to TIFF",
        )
    if at_least_px is not None:
        height_px, width_px = at_least_px if header.orientation < 5 else at_least_px[::-1]
        image.draft(None, (width_px, height_px))
    valid_HW = None
    if image.has_transparency_data:
        rgba_HWC = np.asarray(image.convert("RGBA"))
        valid_HW, image = rgba_HWC[..., 3] > 0, image.convert("RGB")
    raw_HWC = np.asarray(image.convert("L" if image.mode in {"1", "L"} else "RGB"))
    raw_HWC = raw_HWC.reshape(*raw_HWC.shape[:2], -1)
    indexes = choose(header.path, bands, raw_HWC.shape[2])
    if indexes != [*range(1, raw_HWC.shape[2] + 1)]:
        raw_HWC = raw_HWC[..., [index - 1 for index in indexes]]
    if bands.nodata is not None:
        missing_HW = (raw_HWC == bands.nodata).all(-1)
        valid_HW = ~missing_HW if valid_HW is None else valid_HW & ~missing_HW
    return raw_HWC, valid_HW


def may_have_holes(raster: rasterio.DatasetReader, bands: Bands) -> bool:
    """Whether pixels may hold no data, by a value, a mask, transparency, or as NaN."""
    indexes, alpha = _choose(raster, bands)
    kinds = {np.dtype(raster.dtypes[index - 1]).kind for index in indexes}
    known = bands.nodata is not None or "f" in kinds
    palette = raster.colorinterp[0] == ColorInterp.palette
    clear = palette and bool((_palette(raster)[:, 3] == 0).any())
    return _has_mask(raster, indexes) or alpha is not None or known or clear


def _has_mask(raster: rasterio.DatasetReader, indexes: Sequence[int]) -> bool:
    """Whether a mask, or a value for no data, says which pixels hold data; alpha does not count."""
    flags = (raster.mask_flag_enums[index - 1] for index in indexes)
    return any(not {MaskFlags.all_valid, MaskFlags.alpha} & set(of_band) for of_band in flags)


def choose(
    path: Path, bands: Bands, count: int, descriptions: Sequence[str | None] = ()
) -> list[int]:
    """The numbers of a file's bands that are the channels; ``count`` leaves out alpha.

    Raises ``ImageError`` where the file lacks one.
    """
    if bands.numbers is None:
        return [1, 2, 3] if count >= 3 else [1]
    named = {text: number for number, text in enumerate(descriptions, 1) if text}
    chosen = []
    for number in bands.numbers:
        index = named.get(number) if isinstance(number, str) else number
        if index is None or index > count:
            has = f"it has {count}" + (f": {', '.join(named)}" if named else "")
            near = difflib.get_close_matches(str(number), named)
            raise ImageError(
                path,
                f"has no band {number!r} ({has})",
                (f"did you mean {' or '.join(near)}? " if near else "")
                + "name bands that every photograph has: `bands` in dataset.yaml",
            )
        chosen.append(index)
    return chosen


def check_eight_bits(path: Path, dtype: np.dtype[Any]) -> None:
    """Raise ``ImageError`` where the samples of a file aren't those of data with 8 bits."""
    if dtype != np.uint8:
        raise ImageError(
            path,
            f"has samples of type {dtype}, where 8 bits (0 … 255) are expected",
            "convert it to 8 bits, or train on such data (`range` in dataset.yaml)",
        )


def check_bands(path: Path, bands: Bands) -> bool:
    """Whether the channels of a file have 8 bits. Raises ``ImageError`` where it lacks a band."""
    with naming(path):
        header = read_header(path, whole=False)
        if header.pillow is not None:
            choose(path, bands, len(header.pillow.getbands()))
            return True
        with open_raster(path) as raster:
            indexes, _ = _choose(raster, bands)
            return all(raster.dtypes[index - 1] == "uint8" for index in indexes)


def count_bands(path: Path) -> int:
    """How many bands a photograph has, of which none is alpha or only an ink (CMYK)."""
    with naming(path):
        header = read_header(path, whole=False)
        if header.pillow is not None:
            return min(3, len([band for band in header.pillow.getbands() if band != "A"]))
        with open_raster(path) as raster:
            if list(raster.colorinterp[:4]) == _CMYK:
                return 3
            return sum(kind != ColorInterp.alpha for kind in raster.colorinterp)


def is_odd_alpha(path: Path) -> bool:
    """Whether the band that a TIFF calls alpha has more values than transparency has.

    GDAL calls the fourth of four bands so, infrared too, if it isn't told otherwise when it writes.
    """
    with naming(path):
        if read_header(path, whole=False).pillow is not None:
            return False
        with open_raster(path) as raster:
            alpha = _alpha_of(raster)
            if alpha is None or raster.driver != "GTiff":
                return False
            top, left = max(0, raster.height // 2 - 128), max(0, raster.width // 2 - 128)
            window = Window(left, top, min(256, raster.width), min(256, raster.height))
            return len(np.unique(raster.read(alpha, window=window))) > _ALPHA_VALUES


def colors_of(path: Path, bands: Bands) -> tuple[int | None, ...]:
    """Which colour each channel is (0 red, 1 green, 2 blue) by the file; None: another one."""
    names = ("red", "green", "blue")
    with naming(path), open_raster(path) as raster:
        indexes, _ = _choose(raster, bands)
        said = [
            {raster.colorinterp[i - 1].name, (raster.descriptions[i - 1] or "").strip().lower()}
            for i in indexes
        ]
    found = [next((c for c, name in enumerate(names) if name in words), None) for words in said]
    # Two channels of one colour can't both be it.
    return tuple(c if c is not None and found.count(c) == 1 else None for c in found)


def sample_bits(raster: rasterio.DatasetReader) -> int:
    """How many bits a sample of the first band has."""
    stored = raster.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
    return int(stored or 8 * np.dtype(raster.dtypes[0]).itemsize)


def upright(array: NDArray[Any], raster: rasterio.DatasetReader, orientation: int) -> NDArray[Any]:
    """Turn the rows and columns of a whole raster as its orientation tag says.

    Colour spaces other than RGB are converted by libtiff, which then mirrors each block by itself
    (GDAL 3.10): that is undone first.
    """
    structure = raster.tags(ns="IMAGE_STRUCTURE")
    by_libtiff = "SOURCE_COLOR_SPACE" in structure and raster.driver == "GTiff"
    if orientation != 1 and by_libtiff and "YCbCr" not in structure.get("COMPRESSION", ""):
        array = array.copy()
        for _, window in raster.block_windows(1):
            block = window.toslices()
            array[block] = turn(array[block], orientation - 4 if orientation > 4 else orientation)
    return turn(array, orientation)


def _choose(raster: rasterio.DatasetReader, bands: Bands) -> tuple[list[int], int | None]:
    """The numbers of the bands that are the channels, and of the alpha band that is none."""
    alpha = _alpha_of(raster)
    path, descriptions = Path(raster.name), raster.descriptions
    if bands.numbers is None:
        count = raster.count - (alpha is not None)
        if list(raster.colorinterp[:4]) == _CMYK:
            return [1, 2, 3, 4], alpha
        return choose(path, bands, count), alpha
    indexes = choose(path, bands, raster.count, descriptions)
    return indexes, None if alpha in indexes else alpha


def _alpha_of(raster: rasterio.DatasetReader) -> int | None:
    kinds = enumerate(raster.colorinterp, 1)
    return next((number for number, kind in kinds if kind == ColorInterp.alpha), None)


def _palette(raster: rasterio.DatasetReader) -> NDArray[np.uint8]:
    """RGBA of each index."""
    colormap = raster.colormap(1)
    size = 1 << 8 * np.dtype(raster.dtypes[0]).itemsize
    return np.array([colormap.get(index, (0, 0, 0, 255)) for index in range(size)], np.uint8)


def _rgb_of_cmyk(cmyk_HWC: NDArray[Any]) -> NDArray[Any]:
    """Without a colour profile: what is left of white after the ink."""
    full = np.iinfo(cmyk_HWC.dtype).max if cmyk_HWC.dtype.kind == "u" else 1
    left_HWC = full - cmyk_HWC.astype(np.float64)
    rgb_HWC = left_HWC[..., :3] * left_HWC[..., 3:] / full
    return rgb_HWC.round().astype(cmyk_HWC.dtype) if cmyk_HWC.dtype.kind == "u" else rgb_HWC
