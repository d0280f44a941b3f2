"""Where photographs lie on earth, in every way that files tell it, and what is kept of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyogrio  # type: ignore[import-untyped]
import pytest
import rasterio
import shapely  # type: ignore[import-untyped]
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from segcore.inference.photographs import Photograph
from segcore.predicting.polygons import write_polygons
from segcore.predicting.rasters import MapSpec, write_map
from segcore.reading.ground import Georeference, metres_per_px, middle_of, placing
from segcore.reading.headers import turn
from tests.conftest import SHARED
from tests.test_bands import set_orientation, write

pytestmark = pytest.mark.quick

GCP_CASE = SHARED / "cases" / "gcp-georeference-lost" / "gcp.tif"
NORTH_UP = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000)
POINTS = [
    GroundControlPoint(row, column, 500_000 + column / 2, 5_300_000 - row / 2)
    for row, column in ((0, 0), (0, 60), (40, 0), (40, 60))
]
LINEAR = RPC(
    height_off=100, height_scale=500, lat_off=48, lat_scale=0.1, long_off=15, long_scale=0.1,
    line_off=20, line_scale=20, samp_off=30, samp_scale=30,
    line_num_coeff=[0, 0, -1, *[0] * 17], line_den_coeff=[1, *[0] * 19],
    samp_num_coeff=[0, 1, *[0] * 18], samp_den_coeff=[1, *[0] * 19], err_bias=-1, err_rand=-1,
)  # fmt: skip


def photo(path: Path, **place: Any) -> Path:
    return write(path, np.zeros((3, 40, 60), np.uint8), **place)


def map_of(path: Path, out: Path) -> Path:
    """A mask whose left upper quarter is class 1, written where the photograph lies."""
    with Photograph.open(path) as opened:
        assert opened.georeference is not None
        values = np.zeros((1, *opened.size_px), np.uint8)
        values[:, : opened.height_px // 2, : opened.width_px // 2] = 1
        spec = MapSpec(nodata=255)
        with write_map(out, opened.size_px, opened.georeference, spec) as writer:
            writer(slice(0, opened.height_px), slice(0, opened.width_px), values)
    return out


def bounds_of_class_1(mask: Path, out: Path) -> tuple[list[float], str]:
    write_polygons(out, mask, ("a", "b"))
    meta, _, geometry, (classes, *_) = pyogrio.raw.read(out)
    shapes = shapely.from_wkb(geometry)
    return list(shapely.bounds(shapes[list(classes).index(1)])), meta["crs"]


@pytest.mark.parametrize(
    ("crs", "transform", "expected"),
    [
        ("EPSG:32633", NORTH_UP, 0.5),
        ("EPSG:32633", NORTH_UP @ rasterio.Affine.rotation(30), 0.5),
        ("EPSG:2263", NORTH_UP, 0.5 * 0.3048006),
        ("EPSG:4326", rasterio.Affine(1e-5, 0, 15, 0, -1e-5, 60), 1.1132 * 0.5**0.5),
        ("EPSG:3857", rasterio.Affine(1, 0, 1e6, 0, -1, 8399737.9), 0.5),
        (None, NORTH_UP, None),
        ("EPSG:32633", None, None),
    ],
)
def test_ground_size(
    tmp_path: Path, crs: str | None, transform: rasterio.Affine | None, expected: float | None
) -> None:
    place = {"crs": crs, "transform": transform} if transform else {"crs": crs}
    path = photo(tmp_path / "a.tif", **place)
    size = metres_per_px(path)
    assert size == (None if expected is None else pytest.approx(expected, rel=2e-3))
    with Photograph.open(path) as opened:
        assert opened.metres_per_px == size


def test_world_files_and_sidecars_count(tmp_path: Path) -> None:
    for ending, world in (("jpg", "jgw"), ("png", "pgw"), ("tif", "tfw")):
        path = tmp_path / f"{ending}.{ending}"
        Image.new("RGB", (60, 40)).save(path)
        path.with_suffix(f".{world}").write_text("0.5\n0\n0\n-0.5\n500000.25\n5299999.75\n")
        with Photograph.open(path) as opened:
            assert opened.georeference is not None
            assert opened.georeference.transform == NORTH_UP
            assert opened.metres_per_px is None  # A world file names no CRS; a sidecar may.
        path.with_name(f"{path.name}.aux.xml").write_text(
            "<PAMDataset><SRS>EPSG:32633</SRS></PAMDataset>"
        )
        assert metres_per_px(path) == pytest.approx(0.5)


LOCAL = 'LOCAL_CS["Local Coordinates (m)",LOCAL_DATUM["Local Datum",0],UNIT["metre",1]]'
"""As Metashape writes it for orthophotos without GPS."""


@pytest.mark.parametrize("ending", ["gpkg", "geojson"])
def test_a_local_crs_is_kept_and_lies_nowhere_on_earth(tmp_path: Path, ending: str) -> None:
    path = photo(tmp_path / "a.tif", crs=LOCAL, transform=NORTH_UP)
    assert middle_of(path) is None
    assert metres_per_px(path) == 0.5
    bounds, _ = bounds_of_class_1(map_of(path, tmp_path / "m.tif"), tmp_path / f"m.{ending}")
    assert bounds == [500_000, 5_299_990, 500_015, 5_300_000]


def test_ground_control_points_are_kept_and_place_polygons(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.tif", gcps=POINTS, crs="EPSG:32633")
    assert metres_per_px(path) == pytest.approx(0.5)
    mask = map_of(path, tmp_path / "mask.tif")
    with rasterio.open(mask) as raster:
        points, crs = raster.gcps
        assert crs.to_epsg() == 32633
        assert [(p.row, p.col, p.x, p.y) for p in points] == [
            (p.row, p.col, p.x, p.y) for p in POINTS
        ]
    bounds, crs_text = bounds_of_class_1(mask, tmp_path / "a.gpkg")
    assert bounds == pytest.approx([500_000, 5_299_990, 500_015, 5_300_000])
    assert crs_text == "EPSG:32633"


def test_rpcs_are_kept_and_place_polygons(tmp_path: Path) -> None:
    mask = map_of(photo(tmp_path / "a.tif", rpcs=LINEAR), tmp_path / "mask.tif")
    with rasterio.open(mask) as raster:
        assert raster.rpcs == LINEAR
    bounds, crs = bounds_of_class_1(mask, tmp_path / "a.gpkg")
    assert crs == "EPSG:4326"
    assert bounds == pytest.approx([14.9, 48.0, 15.0, 48.1], abs=0.01)


@pytest.mark.parametrize("by_points", [False, True])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_photograph_lies_where_its_stored_pixels_lie(
    tmp_path: Path, orientation: int, by_points: bool
) -> None:
    place = {"gcps": POINTS} if by_points else {"transform": NORTH_UP}
    samples = np.zeros((3, 40, 60), np.uint8)
    samples[:, 3, 7] = 255
    path = write(tmp_path / "a.tif", samples, crs="EPSG:32633", **place)
    set_orientation(path, orientation)
    with Photograph.open(path) as opened:
        upright = opened.read(slice(0, opened.height_px), slice(0, opened.width_px))
        georeference = opened.georeference
    assert georeference is not None
    transform = georeference.transform
    if by_points:
        transform = rasterio.transform.from_gcps(georeference.gcps)
    ((row, column),) = np.argwhere(upright[..., 0])
    assert transform @ (column + 0.5, row + 0.5) == pytest.approx((500_003.75, 5_299_998.25))


@pytest.mark.skipif(not GCP_CASE.exists(), reason="the cases are not here")
def test_the_photograph_that_a_user_sent_keeps_its_points(tmp_path: Path) -> None:
    mask = map_of(GCP_CASE, tmp_path / "mask.tif")
    with rasterio.open(GCP_CASE) as photo, rasterio.open(mask) as raster:
        assert [(p.row, p.col, p.x, p.y) for p in raster.gcps[0]] == [
            (p.row, p.col, p.x, p.y) for p in photo.gcps[0]
        ]
        assert raster.gcps[1] == photo.gcps[1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_keeps_its_rpcs(orientation: int) -> None:
    stored_px = (40, 60)
    numbers = np.arange(40 * 60).reshape(stored_px)
    row, column = np.argwhere(turn(numbers, orientation) == 7 * 60 + 11)[0]
    place = Georeference(None, rasterio.Affine.identity(), rpcs=LINEAR)
    turned = place.turned(orientation, stored_px)
    assert turned.transform.is_identity
    of_stored, of_upright = placing(place), placing(turned)
    assert of_stored is not None and of_upright is not None
    expected = of_stored(np.array([[11.5, 7.5]]))
    np.testing.assert_allclose(
        of_upright(np.array([[column + 0.5, row + 0.5]])), expected, atol=1e-6
    )
