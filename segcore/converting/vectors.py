"""Polygons of a GIS over orthophotos: GeoJSON, GeoPackage, shapefiles, whatever GDAL opens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio
import rasterio.warp
import shapely
from numpy.typing import NDArray

from segcore.converting.drawings import Drawing, Export, Shape
from segcore.errors import Problem, UserError
from segcore.reading.ground import georeference_of
from segcore.reading.headers import ImageError, naming, open_raster

VECTORS = {".geojson", ".gpkg", ".shp", ".fgb", ".kml"}
_LABEL_FIELDS = ("class", "label", "name", "class_name", "category", "type", "layer")
ONLY_LABEL = "Object"
"""The class of polygons that no field tells apart."""


def read_polygons(
    source: Path, images: Path, names: Sequence[str], label_field: str | None = None
) -> Export:
    """What lies on each georeferenced photograph among ``names`` in the folder ``images``.

    ``label_field`` is the attribute that names a polygon's class; None: one that is called so.
    Raises ``UserError`` where the file, or the field, isn't there.
    """
    try:
        # Without geopandas; the geometries come as WKB.
        meta, _, wkb_N, fields = pyogrio.raw.read(source)
    except Exception as error:  # pyogrio has several, which have no base of their own.
        raise UserError(f"{source} can't be read: {error}") from error
    label_N = _labels(source, list(meta["fields"]), fields, len(wkb_N), label_field)
    area_N = shapely.from_wkb(wkb_N)
    is_area_N = np.isin(shapely.get_type_id(area_N), (3, 6))  # Polygon and MultiPolygon.
    problems = []
    if not is_area_N.all():
        what = f"{int((~is_area_N).sum())} features are no polygons, and are left out"
        problems.append(Problem(source.name, what, "buffer lines and points in the GIS"))
    area_N, label_N = area_N[is_area_N], label_N[is_area_N]
    crs = rasterio.crs.CRS.from_user_input(meta["crs"]) if meta["crs"] else None
    drawings = []
    for name in names:
        try:
            drawings.append(_over(images / name, name, area_N, label_N, crs))
        except ImageError as error:
            problems.append(error.problem)
    return Export(tuple(drawings), (), tuple(problems))


def _labels(
    source: Path, names: list[str], fields: Sequence[NDArray[Any]], count: int, wanted: str | None
) -> NDArray[np.str_]:
    if wanted is not None and wanted not in names:
        allowed = ", ".join(names) or "it has none"
        raise UserError(f"{source} has no field {wanted!r}; allowed: {allowed}")
    told = [name for key in _LABEL_FIELDS for name in names if name.lower() == key]
    field = wanted or next(iter(told), None)
    if field is None:
        return np.full(count, ONLY_LABEL)
    return np.array([str(value) for value in fields[names.index(field)]])


def _over(
    path: Path,
    name: str,
    area_N: NDArray[Any],
    label_N: NDArray[np.str_],
    crs: rasterio.crs.CRS | None,
) -> Drawing:
    """The polygons that reach into a photograph, in its pixels. Raises ``ImageError``."""
    with naming(path), open_raster(path) as raster:
        place, size_px = georeference_of(raster), (raster.height, raster.width)
    if place is None or place.transform.is_identity:
        what = "doesn't say by a transform where it lies, so no polygons can be put on it"
        raise ImageError(path, what, "export it from the GIS as a GeoTIFF")
    if crs is not None and place.crs is not None and crs != place.crs:
        area_N = shapely.transform(area_N, lambda xy: _moved(xy, crs, place.crs))
    to_pixels = ~place.transform

    def in_pixels(points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
        x_N, y_N = to_pixels @ (points_N2[:, 0], points_N2[:, 1])
        return np.stack([x_N, y_N], axis=1)

    frame = shapely.box(0, 0, size_px[1], size_px[0])
    area_N = shapely.transform(area_N, in_pixels)
    shapes = tuple(
        Shape(str(label_N[number]), area_N[number])
        for number in np.flatnonzero(shapely.intersects(area_N, frame))
    )
    return Drawing(name, size_px, shapes)


def _moved(
    points_N2: NDArray[np.float64], crs: rasterio.crs.CRS, target: rasterio.crs.CRS
) -> NDArray[np.float64]:
    x_N, y_N = rasterio.warp.transform(crs, target, points_N2[:, 0], points_N2[:, 1])
    return np.stack([x_N, y_N], axis=1)
