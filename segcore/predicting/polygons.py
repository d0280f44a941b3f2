"""Polygons of the regions of a mask, for a GIS: GeoPackage or GeoJSON."""

import io
import itertools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio  # type: ignore[import-untyped]
import rasterio
import rasterio.features
import shapely  # type: ignore[import-untyped]
from numpy.typing import NDArray

from segcore.errors import UserError
from segcore.files import whole_file
from segcore.reading.ground import Placing, georeference_of, on_earth, placed_crs, placing
from segcore.reading.headers import open_raster

_DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON"}
_CHUNK = 10_000
"""Regions that are held as Python objects at once; as WKB they take a tenth of the memory."""


def write_polygons(path: Path, mask_path: Path, class_names: Sequence[str]) -> int:
    """Write the connected regions of a mask file, and return how many there are.

    One layer, ``classes``, has the fields ``class`` (index), ``name`` and ``area`` (in square units
    of the CRS). Pixel values that are no class are left out. Without a CRS, coordinates are pixels,
    x to the right and y downwards. GeoJSON is in longitude and latitude (RFC 7946), unless the CRS
    is a local one, which lies nowhere on earth. Ground control points and RPCs place the corners as
    GDAL does; RPCs at the mean height that they name.

    Memory grows with the number of polygons. Raises ``UserError`` where it can't be written.
    """
    with open_raster(mask_path) as mask:
        place = georeference_of(mask)
        crs = placed_crs(place)
        is_placed = place is not None and on_earth(place, np.zeros((1, 2))) is not None
        chunks = list(_regions(mask, len(class_names), placing(place)))
    geometry, classes, area = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings(), whole_file(path) as unfinished:
            warnings.filterwarnings("ignore", message="'crs' was not provided")
            file = io.BytesIO()  # GDAL would take some names of files for addresses.
            pyogrio.raw.write(
                file,
                geometry,
                field_data=[classes, np.array(class_names, object)[classes], area],
                fields=["class", "name", "area"],
                layer="classes",
                driver=_DRIVERS[path.suffix],
                geometry_type="Polygon",
                crs=crs.to_wkt() if crs else None,
                layer_options={"RFC7946": "YES"} if is_placed and path.suffix == ".geojson" else {},
            )
            unfinished.write_bytes(file.getbuffer())
    except (OSError, pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise UserError(f"{path} can't be written: {error}") from error
    return len(classes)


def outline_of(
    inside_HW: NDArray[np.bool_],
    corner: tuple[int, int] = (0, 0),
    scale: float | NDArray[np.float64] = 1.0,
) -> Any:
    """The shapely polygon around connected pixels: (column, row), a pixel's corners at integers.

    ``corner`` is where the array begins in its picture, and ``scale`` by how much that is enlarged.
    """
    pixels_HW = inside_HW.astype(np.uint8)
    ((shape, _),) = rasterio.features.shapes(pixels_HW, mask=inside_HW, connectivity=4)
    shell, *holes = shape["coordinates"]
    polygon = shapely.Polygon(shell, holes)
    return shapely.transform(polygon, lambda points_N2: (points_N2 + corner) * scale)


def _regions(
    mask: rasterio.DatasetReader, num_classes: int, place: Placing | None
) -> Iterator[tuple[NDArray[np.object_], NDArray[np.int32], NDArray[np.float64]]]:
    """WKB, class and area of some regions at a time; at least one (perhaps empty) chunk.

    ``shapes`` has applied the mask's transform, if it has one; ``place`` is for all else.
    """
    shapes = rasterio.features.shapes(rasterio.band(mask, 1))
    regions = ((shape, value) for shape, value in shapes if value < num_classes)
    while True:
        chunk = list(itertools.islice(regions, _CHUNK))
        rings = [shape["coordinates"] for shape, _ in chunk]
        polygons_N = np.array([shapely.Polygon(shell, holes) for shell, *holes in rings], object)
        if place is not None:
            polygons_N = shapely.transform(polygons_N, place)
        classes_N = np.array([value for _, value in chunk], np.int32)
        yield shapely.to_wkb(polygons_N), classes_N, shapely.area(polygons_N)
        if len(chunk) < _CHUNK:
            return
