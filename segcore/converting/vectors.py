"""Polygons of a GIS over orthophotos: GeoJSON, GeoPackage, shapefiles, whatever GDAL opens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio
import shapely
from numpy.typing import NDArray

from segcore.converting.drawings import Drawing, Export, Shape
from segcore.errors import Problem, UserError
from segcore.reading.ground import moved, place_of
from segcore.reading.headers import ImageError, read_header

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
        # A GeoPackage of QGIS also holds tables without geometry, of styles.
        layers = [str(name) for name, kind in pyogrio.list_layers(source) if kind is not None]
        # Without geopandas; the geometries come as WKB.
        meta, _, wkb_N, fields = pyogrio.raw.read(source, layer=layers[0] if layers else None)
    except Exception as error:  # pyogrio has several, which have no base of their own.
        raise UserError(f"{source} can't be read: {error}") from error
    problems = []
    if others := layers[1:]:
        what = f"only its layer {layers[0]} is read; left out: {', '.join(others)}"
        problems.append(Problem(source.name, what, "merge the layers in the GIS"))
    label_N = _labels(source, list(meta["fields"]), fields, len(wkb_N), label_field)
    area_N = shapely.from_wkb(wkb_N)
    is_area_N = np.isin(shapely.get_type_id(area_N), (3, 6))  # Polygon and MultiPolygon.
    if not is_area_N.all():
        what = f"{int((~is_area_N).sum())} features are no polygons, and are left out"
        problems.append(Problem(source.name, what, "buffer lines and points in the GIS"))
    if unnamed := int((is_area_N & (label_N == "")).sum()):
        what = f"{unnamed} polygons have no class, and are left out"
        problems.append(Problem(source.name, what, "give each one its class in the GIS"))
    is_area_N &= label_N != ""
    crs = rasterio.crs.CRS.from_user_input(meta["crs"]) if meta["crs"] else None
    polygons = _Polygons(area_N[is_area_N], label_N[is_area_N], crs)
    drawings = []
    for name in names:
        try:
            drawings.append(_over(images / name, name, polygons))
        except ImageError as error:
            problems.append(error.problem)
    count = len(polygons.area_N)
    if drawings and count and not any(drawing.shapes for drawing in drawings):
        what = f"none of its {count} polygons lies on a photograph"
        mend = "check the CRS of both; GeoJSON is in longitude and latitude unless it says another"
        problems.append(Problem(source.name, what, mend))
    return Export(tuple(drawings), (), tuple(problems))


class _Polygons:
    """Polygons with their classes, of which each photograph gets those around it."""

    def __init__(
        self, area_N: NDArray[Any], label_N: NDArray[np.str_], crs: rasterio.crs.CRS | None
    ) -> None:
        self.area_N, self._label_N, self._crs = area_N, label_N, crs
        self._bounds_N4 = shapely.bounds(area_N)

    def around(
        self, frame_N2: NDArray[np.float64], crs: rasterio.crs.CRS | None
    ) -> tuple[NDArray[Any], NDArray[np.str_]]:
        """The polygons in the CRS of a frame, if they may reach into it, and their classes."""
        is_moved = self._crs is not None and crs is not None and self._crs != crs
        if is_moved:
            frame_N2 = moved(frame_N2, crs, self._crs)
            if not np.isfinite(frame_N2).all():  # Such as a local CRS, which lies nowhere.
                return self.area_N[:0], self._label_N[:0]
        low, high = frame_N2.min(axis=0), frame_N2.max(axis=0)
        margin = (high - low) / 10  # Straight lines may be bent in another CRS.
        reach_N2 = self._bounds_N4[:, :2] <= high + margin
        reach_N2 &= self._bounds_N4[:, 2:] >= low - margin
        is_near_N = reach_N2.all(axis=1)
        area_N = self.area_N[is_near_N]
        if is_moved:
            area_N = shapely.transform(area_N, lambda points_N2: moved(points_N2, self._crs, crs))
        is_placed_N = np.isfinite(shapely.bounds(area_N)).all(axis=1)
        return area_N[is_placed_N], self._label_N[is_near_N][is_placed_N]


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
    return np.array([_label_of(value) for value in fields[names.index(field)]], str)


def _label_of(value: Any) -> str:
    """The class that a field says; nothing, if it is empty."""
    if value is None or value != value:  # Not a number: an empty field of numbers.
        return ""
    # Whole numbers of a field that is sometimes empty come as 1.0.
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if is_whole else value).strip()


def _over(path: Path, name: str, polygons: _Polygons) -> Drawing:
    """The polygons that reach into a photograph, in its pixels. Raises ``ImageError``."""
    place, size_px = place_of(path), read_header(path, whole=False).size_px
    if place is None or place.transform.is_identity:
        what = "doesn't say by a transform where it lies, so no polygons can be put on it"
        raise ImageError(path, what, "export it from the GIS as a GeoTIFF")
    to_ground, to_pixels = place.transform, ~place.transform
    frame = shapely.box(0, 0, size_px[1], size_px[0])
    area_N, label_N = polygons.around(_by(to_ground, shapely.get_coordinates(frame)), place.crs)
    area_N = shapely.transform(area_N, lambda points_N2: _by(to_pixels, points_N2))
    shapes = tuple(
        Shape(str(label_N[number]), area_N[number])
        for number in np.flatnonzero(shapely.intersects(area_N, frame))
    )
    return Drawing(name, size_px, shapes)


def _by(transform: rasterio.Affine, points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack(transform @ (points_N2[:, 0], points_N2[:, 1]), axis=1)
