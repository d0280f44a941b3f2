"""Polygons of a mask's classes, for a GIS: GeoPackage or GeoJSON."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyogrio  # type: ignore[import-untyped]
import rasterio
import rasterio.features
import shapely  # type: ignore[import-untyped]
from numpy.typing import NDArray

from segcore.errors import UserError
from segcore.files import whole_file

_DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON"}
_CHUNK = 10_000


def write_polygons(path: Path, mask_path: Path, class_names: Sequence[str]) -> int:
    """Write the connected regions of a mask file, and return how many there are.

    One layer, ``classes``, with the fields ``class`` (index), ``name`` and ``area`` (in square
    units of the CRS). Values that are no class's are left out. Of a mask without a place on earth,
    coordinates are pixels, x to the right and y downwards. GeoJSON is in longitude and latitude
    (RFC 7946).
    Memory is in proportion to the polygons. Raises ``UserError`` where it can't be written.
    """
    with rasterio.open(mask_path) as mask:
        crs = mask.crs
        chunks = list(_regions(mask, len(class_names)))
    geometry = np.concatenate([wkb for wkb, _, _ in chunks])
    classes = np.concatenate([k for _, k, _ in chunks])
    area = np.concatenate([a for _, _, a in chunks])
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings(), whole_file(path) as unfinished:
            warnings.filterwarnings("ignore", message="'crs' was not provided")
            pyogrio.raw.write(
                unfinished,
                geometry,
                field_data=[classes, np.array(class_names, object)[classes], area],
                fields=["class", "name", "area"],
                layer="classes",
                driver=_DRIVERS[path.suffix],
                geometry_type="Polygon",
                crs=crs.to_wkt() if crs else None,
                layer_options={"RFC7946": "YES"} if crs and path.suffix == ".geojson" else None,
            )
    except (OSError, pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise UserError(f"{path} can't be written: {error}") from error
    return len(classes)


def _regions(
    mask: rasterio.DatasetReader, num_classes: int
) -> Iterator[tuple[NDArray[np.object_], NDArray[np.int32], NDArray[np.float64]]]:
    """WKB, class and area of some regions at a time: as WKB they take a tenth of the memory."""
    polygons, classes = [], []
    for polygon, value in rasterio.features.shapes(rasterio.band(mask, 1)):
        if value < num_classes:
            shell, *holes = polygon["coordinates"]
            polygons.append(shapely.Polygon(shell, holes))
            classes.append(value)
        if len(polygons) == _CHUNK:
            yield _packed(polygons, classes)
            polygons, classes = [], []
    yield _packed(polygons, classes)


def _packed(
    polygons: list[shapely.Polygon], classes: list[float]
) -> tuple[NDArray[np.object_], NDArray[np.int32], NDArray[np.float64]]:
    # As an array even where there are none.
    polygons_N = np.array(polygons, object)
    return shapely.to_wkb(polygons_N), np.array(classes, np.int32), shapely.area(polygons_N)
