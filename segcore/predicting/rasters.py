"""Maps of what was predicted, written window by window: GeoTIFF, or PNG where there is no place.

A GeoTIFF has the photograph's grid, CRS and transform, and is cloud-optimised: tiled, compressed,
with overviews. Files appear complete or not at all.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from PIL import Image
from rasterio.windows import Window

from segcore.data.images import write_image
from segcore.errors import UserError
from segcore.files import whole_file
from segcore.predicting.photographs import Georeference

Color = tuple[int, int, int]

BLOCK_PX = 512
GDAL_OPTIONS = {"GDAL_CACHEMAX": 256, "GDAL_NUM_THREADS": "ALL_CPUS"}
"""In megabytes; GDAL itself would take a twentieth of the machine's memory."""


@dataclass(frozen=True)
class MapSpec:
    """What a map of one number (0 … 255) for each pixel and band says of itself."""

    bands: int = 1
    nodata: int | None = None
    colors: Sequence[Color] = ()
    """Of the values 0, 1, 2 …; a single band may have a table of them."""
    band_names: Sequence[str] = ()
    tags: dict[str, str] = field(default_factory=dict)
    overviews: Literal["NEAREST", "MODE", "AVERAGE"] = "NEAREST"


class MapWriter(Protocol):
    """Takes a map piece by piece."""

    def write(self, rows: slice, columns: slice, values_BHW: NDArray[np.uint8]) -> None:
        """Write a piece of all bands."""


@contextmanager
def write_map(
    path: Path, size_px: tuple[int, int], georeference: Georeference | None, spec: MapSpec
) -> Iterator[MapWriter]:
    """Write a map of ``size_px`` (height, width): a GeoTIFF, or by its ending a PNG of one band.

    It has its name only when the block is left without an error. Raises ``UserError`` where it
    can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        values_HW = np.zeros(size_px, np.uint8)
        yield _ArrayWriter(values_HW)
        _write_png(path, values_HW, spec)
        return
    draft = path.with_name(f".{path.stem}.draft.tif")
    try:
        with rasterio.Env(**GDAL_OPTIONS), whole_file(path) as finished:
            with rasterio.open(draft, "w", **_profile(size_px, georeference, spec)) as raster:
                _describe(raster, spec)
                yield _RasterWriter(raster)
            rasterio.shutil.copy(
                draft, finished, driver="COG", blocksize=BLOCK_PX, compress="DEFLATE",
                predictor="NO", overview_resampling=spec.overviews, bigtiff="IF_SAFER",
            )  # fmt: skip
    except (OSError, rasterio.errors.RasterioError) as error:
        raise UserError(f"{path} can't be written: {error}") from error
    finally:
        draft.unlink(missing_ok=True)


def read_map(path: Path) -> NDArray[np.uint8]:
    """The first band of a map (HW)."""
    try:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(path) as raster:
            values_HW: NDArray[np.uint8] = raster.read(1)
    except rasterio.errors.RasterioError as error:
        raise UserError(f"{path} can't be read: {error}; delete it to predict it again") from error
    return values_HW


@dataclass(frozen=True)
class _ArrayWriter:
    values_HW: NDArray[np.uint8]

    def write(self, rows: slice, columns: slice, values_BHW: NDArray[np.uint8]) -> None:
        self.values_HW[rows, columns] = values_BHW[0]


@dataclass(frozen=True)
class _RasterWriter:
    raster: rasterio.io.DatasetWriter

    def write(self, rows: slice, columns: slice, values_BHW: NDArray[np.uint8]) -> None:
        self.raster.write(values_BHW, window=Window.from_slices(rows, columns))


def _profile(
    size_px: tuple[int, int], georeference: Georeference | None, spec: MapSpec
) -> dict[str, object]:
    # Not compressed: blocks are written in parts, and a compressed one would be written anew.
    profile: dict[str, object] = {
        "driver": "GTiff", "dtype": "uint8", "count": spec.bands, "nodata": spec.nodata,
        "height": size_px[0], "width": size_px[1], "tiled": True, "blockxsize": BLOCK_PX,
        "blockysize": BLOCK_PX, "bigtiff": "IF_SAFER", "sparse_ok": True, "interleave": "band",
    }  # fmt: skip
    if georeference is not None:
        profile |= {"crs": georeference.crs, "transform": georeference.transform}
    return profile


def _describe(raster: rasterio.io.DatasetWriter, spec: MapSpec) -> None:
    if spec.colors:
        raster.write_colormap(1, {v: (*color, 255) for v, color in enumerate(spec.colors)})
    if spec.tags:
        raster.update_tags(**spec.tags)
    for band, name in enumerate(spec.band_names, start=1):
        raster.set_band_description(band, name)


def _write_png(path: Path, values_HW: NDArray[np.uint8], spec: MapSpec) -> None:
    if not spec.colors:
        write_image(path, values_HW)
        return
    picture = Image.fromarray(values_HW).convert("P")
    picture.putpalette([channel for color in spec.colors for channel in color])
    try:
        with whole_file(path) as unfinished:
            picture.save(unfinished, format="PNG")
    except OSError as error:
        raise UserError(f"{path} can't be written: {error}") from error
