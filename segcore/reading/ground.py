"""Where on earth a photograph's pixels lie, and how large they are there."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.transform
import rasterio.warp
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from rasterio.control import GroundControlPoint

from segcore.reading.headers import naming, open_raster, read_header

_METRES_PER_DEGREE = 111_320
"""Of a meridian, within a third of a percent."""
_WGS84 = rasterio.crs.CRS.from_epsg(4326)


@dataclass(frozen=True)
class Georeference:
    """Where on earth a photograph's pixels lie: by a transform, ground control points or RPCs."""

    crs: rasterio.crs.CRS | None
    transform: rasterio.Affine
    """From (column, row) to coordinates; the identity where the others tell."""
    gcps: tuple[GroundControlPoint, ...] = ()
    rpcs: rasterio.rpc.RPC | None = None

    def profile(self) -> dict[str, Any]:
        """What ``rasterio.open`` takes to write a file that lies there."""
        if self.gcps:
            return {"crs": self.crs, "gcps": list(self.gcps)}
        # An identity transform would be written as one that places the picture at 0, 0.
        place = {} if self.transform.is_identity else {"transform": self.transform}
        return {"crs": self.crs, "rpcs": self.rpcs, **place}

    def turned(self, orientation: int, stored_px: tuple[int, int]) -> "Georeference":
        """The place of the upright picture, of a file whose orientation tag turns it."""
        if orientation == 1:
            return self
        stored_of_upright = _stored_of_upright(orientation, stored_px)
        upright_of_stored = ~stored_of_upright
        points = []
        for point in self.gcps:
            column, row = upright_of_stored @ (point.col, point.row)
            points.append(
                GroundControlPoint(row, column, point.x, point.y, point.z, point.id, point.info)
            )
        transform = self.transform if points else self.transform @ stored_of_upright
        if self.transform.is_identity and self.rpcs is not None:
            transform = self.transform
        rpcs = None if self.rpcs is None else _turned_rpcs(self.rpcs, upright_of_stored)
        return Georeference(self.crs, transform, tuple(points), rpcs)


def georeference_of(raster: rasterio.DatasetReader) -> Georeference | None:
    """The place of a raster as stored; None: the file doesn't tell."""
    gcps, gcp_crs = raster.gcps
    if raster.transform.is_identity and gcps:
        return Georeference(gcp_crs, raster.transform, tuple(gcps))
    if raster.crs is None and raster.transform.is_identity and raster.rpcs is None:
        return None
    return Georeference(raster.crs, raster.transform, rpcs=raster.rpcs)


def metres_per_px(path: Path) -> float | None:
    """The size of a photograph's pixels on the ground; None where the file doesn't tell.

    It is the geometric mean of height and width. Raises ``ImageError``.
    """
    with naming(path):
        try:
            raster = open_raster(path)
        except UnidentifiedImageError:  # Only Pillow reads this format, which has no place.
            return None
        with raster:
            return ground_size_m(georeference_of(raster), (raster.height, raster.width))


def ground_size_m(place: Georeference | None, size_px: tuple[int, int]) -> float | None:
    """The same of a picture of ``size_px`` (height, width) that is open.

    In a projected CRS it is the size of a pixel in the CRS's unit times that unit; where the CRS is
    geographic or a normal Mercator projection (web maps), the latitude of the middle counts.
    """
    if place is None or place.crs is None:
        return None
    transform = place.transform
    if len(place.gcps) >= 3:
        transform = rasterio.transform.from_gcps(place.gcps)
    if transform.is_identity or transform.determinant == 0:
        return None
    size = math.sqrt(abs(transform.determinant))
    height_px, width_px = size_px
    x, y = transform @ (width_px / 2, height_px / 2)
    if place.crs.is_geographic:
        degrees = math.degrees(place.crs.units_factor[1])
        cosine = math.cos(math.radians(y * degrees))
        return size * degrees * _METRES_PER_DEGREE * math.sqrt(max(cosine, 0.0)) or None
    unit_m = place.crs.units_factor[1]
    if 'PROJECTION["Mercator' in place.crs.to_wkt():
        _, (latitude,) = rasterio.warp.transform(place.crs, _WGS84, [x], [y])
        unit_m *= math.cos(math.radians(latitude))
    return float(size * unit_m)


def middle_of(path: Path) -> tuple[float, float] | None:
    """(longitude, latitude) of a photograph's middle, or of the camera where only EXIF tells it.

    None where the file doesn't tell. Raises ``ImageError``.
    """
    with naming(path):
        try:
            with open_raster(path) as raster:
                place, size_px = georeference_of(raster), (raster.height, raster.width)
        except UnidentifiedImageError:
            return None
        placed = None if place is None else _middle(place, size_px)
        return placed or _camera(path)


def cell_of(place: tuple[float, float], cell_m: float) -> tuple[int, int]:
    """(row, column) of the square cell of the ground in which a longitude and latitude lie."""
    longitude, latitude = place
    row = math.floor(latitude * _METRES_PER_DEGREE / cell_m)
    # All of a row has one length of a degree, so that cells lie side by side.
    row_latitude = row * cell_m / _METRES_PER_DEGREE
    degree_m = _METRES_PER_DEGREE * math.cos(math.radians(row_latitude))
    return row, math.floor(longitude * degree_m / cell_m)


def _middle(place: Georeference, size_px: tuple[int, int]) -> tuple[float, float] | None:
    placed = on_earth(place, np.array([[size_px[1] / 2, size_px[0] / 2]]))
    return None if placed is None else (float(placed[0, 0]), float(placed[0, 1]))


def place_of(path: Path) -> Georeference | None:
    """Where the pixels of the upright photograph lie; None: the file doesn't tell.

    Raises ``ImageError``.
    """
    with naming(path):
        header = read_header(path, whole=False)
        try:
            raster = open_raster(path)
        except UnidentifiedImageError:  # Only Pillow reads this format, which has no place.
            return None
        with raster:
            place = georeference_of(raster)
    return None if place is None else place.turned(header.orientation, header.stored_px)


def on_earth(place: Georeference, points_N2: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """(longitude, latitude) of points (column, row); None where that isn't known of all of them."""
    crs, by_points = placed_crs(place), placing(place)
    if crs is None or (by_points is None and place.transform.is_identity):
        return None
    if by_points is not None:
        x_N, y_N = by_points(points_N2).T
    else:
        x_N, y_N = place.transform @ (points_N2[:, 0], points_N2[:, 1])
    placed_N2 = moved(np.stack([x_N, y_N], axis=1), crs, _WGS84)
    return placed_N2 if np.isfinite(placed_N2).all() else None


def moved(
    points_N2: NDArray[np.float64], crs: rasterio.crs.CRS, target: rasterio.crs.CRS
) -> NDArray[np.float64]:
    """Points in another CRS; infinite where they have no place in it."""
    try:
        return np.stack(rasterio.warp.transform(crs, target, *points_N2.T), axis=1)
    except Exception:  # rasterio lets errors of GDAL through whose classes are private to it.
        return np.full_like(points_N2, np.inf)


def _camera(path: Path) -> tuple[float, float] | None:
    """Where EXIF says that the camera was."""
    if path.suffix.lower() not in {".jpg", ".jpeg"}:
        return None
    with Image.open(path) as image:
        said = Image.Image.getexif(image).get_ifd(ExifTags.IFD.GPSInfo)
    tags = ExifTags.GPS
    try:
        longitude = _degrees(said[tags.GPSLongitude], said.get(tags.GPSLongitudeRef) == "W")
        latitude = _degrees(said[tags.GPSLatitude], said.get(tags.GPSLatitudeRef) == "S")
    except (KeyError, ValueError, TypeError, ZeroDivisionError):
        return None
    known = math.isfinite(longitude + latitude) and (longitude, latitude) != (0, 0)
    return (longitude, latitude) if known else None


def _degrees(parts: Sequence[Any], is_negative: bool) -> float:
    degrees, minutes, seconds = map(float, parts)
    return (-1 if is_negative else 1) * (degrees + minutes / 60 + seconds / 3600)


Placing = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From (column, row) of points (N2) to their coordinates (N2)."""


def placing(place: Georeference | None) -> Placing | None:
    """How points are placed where that isn't told by a transform alone."""
    if place is None or not (place.gcps or place.rpcs is not None):
        return None
    if place.gcps:
        transformer = rasterio.transform.GCPTransformer(list(place.gcps))
    elif place.rpcs is not None and place.transform.is_identity:
        transformer = rasterio.transform.RPCTransformer(
            place.rpcs, RPC_HEIGHT=place.rpcs.height_off
        )
    else:
        return None

    def placed(points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
        if not len(points_N2):
            return points_N2
        x_N, y_N = transformer.xy(points_N2[:, 1], points_N2[:, 0], offset="ul")
        return np.stack([np.atleast_1d(x_N), np.atleast_1d(y_N)], axis=1)

    return placed


def placed_crs(place: Georeference | None) -> rasterio.crs.CRS | None:
    """The CRS of placed points. RPCs give longitude and latitude."""
    if place is None:
        return None
    by_rpcs = place.rpcs is not None and place.transform.is_identity and not place.gcps
    return _WGS84 if by_rpcs else place.crs


def _turned_rpcs(rpcs: rasterio.rpc.RPC, turn: rasterio.Affine) -> rasterio.rpc.RPC:
    """RPCs of a picture whose pixels were turned: (sample, line) → offset + scale · polynomials.

    They count from the middle of the first pixel, a transform from its corner.
    """
    given = rpcs.to_dict()
    sample, line = (
        {key: given[f"{name}_{key}"] for key in ("scale", "num_coeff", "den_coeff")}
        for name in ("samp", "line")
    )
    column, row = turn @ (rpcs.samp_off + 0.5, rpcs.line_off + 0.5)
    # A turn by quarters: each new axis is one of the old ones, in one direction or the other.
    of_sample, of_line = (
        (sample, turn.a) if turn.a else (line, turn.b),
        (line, turn.e) if turn.e else (sample, turn.d),
    )
    for name, offset, (axis, sign) in (
        ("samp", column - 0.5, of_sample), ("line", row - 0.5, of_line),
    ):  # fmt: skip
        given[f"{name}_off"], given[f"{name}_scale"] = offset, axis["scale"]
        given[f"{name}_num_coeff"] = [sign * value for value in axis["num_coeff"]]
        given[f"{name}_den_coeff"] = axis["den_coeff"]
    return rasterio.rpc.RPC(**given)


def _stored_of_upright(orientation: int, stored_px: tuple[int, int]) -> rasterio.Affine:
    """From (column, row) of the upright picture to those of the stored one."""
    height, width = stored_px
    # Corners: upright column → right, row → down, each as the stored direction it runs in.
    return {
        1: rasterio.Affine(1, 0, 0, 0, 1, 0),
        2: rasterio.Affine(-1, 0, width, 0, 1, 0),
        3: rasterio.Affine(-1, 0, width, 0, -1, height),
        4: rasterio.Affine(1, 0, 0, 0, -1, height),
        5: rasterio.Affine(0, 1, 0, 1, 0, 0),
        6: rasterio.Affine(0, 1, 0, -1, 0, height),
        7: rasterio.Affine(0, -1, width, -1, 0, height),
        8: rasterio.Affine(0, -1, width, 1, 0, 0),
    }[orientation]
