"""Maps of predictions, written window by window: GeoTIFF, or PNG where there is no georeference.

A GeoTIFF has the photograph's grid and its place on earth (CRS with a transform or ground control
points, or RPCs), and is cloud-optimised: tiled, compressed, with overviews. Files appear complete
or not at all.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window

from segcore.errors import UserError, root_of
from segcore.files import hidden_beside, whole_file
from segcore.reading.ground import Georeference
from segcore.reading.headers import create_raster, open_raster
from segcore.reading.images import write_image

Color = tuple[int, int, int]

BLOCK_PX = 512
GDAL_OPTIONS = {"GDAL_CACHEMAX": 256, "GDAL_NUM_THREADS": "ALL_CPUS"}
"""The cache is in megabytes; by default GDAL takes a twentieth of the machine's memory."""


@dataclass(frozen=True)
class MapSpec:
    """A map of one number (0 … 255) for each pixel and band, as its file describes itself."""

    bands: int = 1
    nodata: int | None = None
    colors: Sequence[Color] = ()
    """Colours of the values 0, 1, 2 …; only a map of a single band can have them."""
    band_names: Sequence[str] = ()
    tags: dict[str, str] = field(default_factory=dict)
    overviews: Literal["NEAREST", "MODE", "AVERAGE"] = "NEAREST"


WriteWindow = Callable[[slice, slice, NDArray[np.uint8]], None]
"""Writes a window (rows, columns, ``values_BHW``) of all bands of a map."""


@contextmanager
def write_map(
    path: Path, size_px: tuple[int, int], georeference: Georeference | None, spec: MapSpec
) -> Iterator[WriteWindow]:
    """Write a map of ``size_px`` (height, width): a GeoTIFF, or by its ending a PNG of one band.

    The file has its name only when the block is left without an error. Raises ``UserError`` where
    it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        values_HW = np.zeros(size_px, np.uint8)

        def keep(rows: slice, columns: slice, values_BHW: NDArray[np.uint8]) -> None:
            values_HW[rows, columns] = values_BHW[0]

        yield keep
        write_image(path, values_HW, spec.colors)
        return
    draft = hidden_beside(path, "draft.tif")
    try:
        with rasterio.Env(**GDAL_OPTIONS), whole_file(path) as finished:
            with create_raster(draft, **_profile(size_px, georeference, spec)) as raster:
                _describe(raster, spec)
                yield lambda rows, columns, values_BHW: raster.write(
                    values_BHW, window=Window.from_slices(rows, columns)
                )
            rasterio.shutil.copy(
                draft, finished, driver="COG", blocksize=BLOCK_PX, compress="DEFLATE",
                predictor="NO", overview_resampling=spec.overviews, bigtiff="IF_SAFER",
            )  # fmt: skip
    except (OSError, rasterio.errors.RasterioError) as error:
        raise UserError(f"{path} can't be written: {root_of(error)}") from error
    finally:
        draft.unlink(missing_ok=True)


def read_map(path: Path) -> NDArray[np.uint8]:
    """The first band of a map (HW). Raises ``UserError`` where it can't be read."""
    try:
        with rasterio.Env(**GDAL_OPTIONS), open_raster(path) as raster:
            return np.asarray(raster.read(1), np.uint8)
    except (OSError, rasterio.errors.RasterioError) as error:
        what = f"{path} can't be read: {root_of(error)}"
        raise UserError(f"{what}; delete it to predict it again") from error


def _profile(
    size_px: tuple[int, int], georeference: Georeference | None, spec: MapSpec
) -> dict[str, object]:
    # Not compressed: a block is written in several parts, and each would compress it anew.
    profile: dict[str, object] = {
        "driver": "GTiff", "dtype": "uint8", "count": spec.bands, "nodata": spec.nodata,
        "height": size_px[0], "width": size_px[1], "tiled": True, "blockxsize": BLOCK_PX,
        "blockysize": BLOCK_PX, "bigtiff": "IF_SAFER", "sparse_ok": True, "interleave": "band",
    }  # fmt: skip
    return profile | (georeference.profile() if georeference is not None else {})


def _describe(raster: rasterio.io.DatasetWriter, spec: MapSpec) -> None:
    if spec.colors:
        raster.write_colormap(1, {v: (*color, 255) for v, color in enumerate(spec.colors)})
    raster.update_tags(**spec.tags)
    for band, name in enumerate(spec.band_names, start=1):
        raster.set_band_description(band, name)
