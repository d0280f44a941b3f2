"""Four bands of float32, georeferenced, with pixels without data: from files to a GeoTIFF."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

import search as segsearch
from search import predict
from search.reporting.page import write_report
from search.runs.folder import RunFolder
from search.runs.result import SearchResult
from segcore.config import IGNORE_INDEX
from segcore.data.prepared import PreparedData, find_prepared
from segcore.predicting.ensemble import Ensemble
from segcore.reading.bands import to_rgb8
from tests.conftest import draw_blocks
from tests.test_api import options

NODATA = -9999.0
GAP = np.s_[:9, 20:40]
"""Where a photograph holds no data."""
SPEC = """images: "*.tif"
masks: masks/{stem}.tif
classes: [Grass, Roof, Pool]
bands: [nir, red, green, height]
nodata: -9999
show: [red, green, nir]
split: {val: 0.25, test: 0.25}
"""


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fields")
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    for number in range(16):
        _, mask = draw_blocks(rng, 64)
        mask[mask == IGNORE_INDEX] = 0
        mask[50:56, 4:12] = 2
        # Reflectances around 0.2 and a height in metres: nothing that 8 bits could hold.
        levels = {"red": (0.1, 0.4, 0.2), "green": (0.3, 0.2, 0.2), "nir": (0.6, 0.2, 0.05)}
        noise = rng.normal(0, 0.02, (4, 64, 64))
        raw = [np.array(levels[name])[mask] for name in ("red", "green", "nir")]
        raw_CHW = np.stack([*raw, 30 + 6.0 * (mask == 1)]) + noise
        raw_CHW[:, *GAP] = NODATA
        raw_CHW[1, 60, 60] = np.nan
        profile = {"driver": "GTiff", "height": 64, "width": 64, "crs": "EPSG:31982",
                   "transform": from_origin(5e5 + 100 * number, 7e6, 0.5, 0.5)}  # fmt: skip
        path = folder / f"field_{number:02}.tif"
        with rasterio.open(path, "w", count=4, dtype="float32", **profile) as raster:
            raster.write(raw_CHW.astype(np.float32))
            raster.descriptions = ("red", "green", "nir", "height")
        with rasterio.open(
            folder / "masks" / path.name, "w", count=1, dtype="uint8", **profile
        ) as raster:
            raster.write(mask[None])
    (folder / "dataset.yaml").write_text(SPEC)
    return folder


@pytest.fixture(scope="module")
def result(fields: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    out = tmp_path_factory.mktemp("runs")
    return segsearch.search(
        options(fields, out, space="tests.views_space:space", trials=2, name="fields")
    )


@pytest.fixture(scope="module")
def data(result: SearchResult) -> PreparedData:
    assert result.folder is not None
    return find_prepared(RunFolder.opened(result.folder).read().identity["data"])


def test_each_band_has_one_range_of_all_training_photographs(data: PreparedData) -> None:
    assert data.channels == 4 and data.samples.dtype == np.uint16
    assert data.bands.ranges is not None
    nir, red, green, height = data.bands.ranges
    assert nir[1] > red[1] > green[1] > 0.3
    assert 29 < height[0] < 31 and 35 < height[1] < 37
    assert data.bands.mean is not None and data.bands.std is not None


def test_what_holds_no_data_counts_nowhere(data: PreparedData, result: SearchResult) -> None:
    for number in range(16):
        assert (data.mask(number)[GAP] == IGNORE_INDEX).all()
        assert not data.image(number)[GAP].any()
    labelled = [int((data.score_mask(p) < 3).sum()) for p in data.of_split("test")]
    assert sum(map(sum, result.ensemble.test.confusion)) == sum(labelled)
    assert sum(labelled) == len(labelled) * (64 * 64 - 9 * 20 - 1)  # the gap, and one NaN


def test_people_see_three_of_the_bands(data: PreparedData) -> None:
    seen = to_rgb8(data.image(0), data.bands)
    grass, roof = (seen[data.mask(0) == k].mean(axis=0) for k in (0, 1))
    assert grass[2] > roof[2] and grass[0] < roof[0]  # nir is shown as blue, red as red


def test_the_report_has_pictures(result: SearchResult) -> None:
    assert result.folder is not None
    page = write_report(RunFolder.opened(result.folder), allow_plugins=True).read_text()
    assert page.count("data:image/jpeg;base64") >= 2


def test_predictions_lie_where_the_photographs_do(
    result: SearchResult, fields: Path, tmp_path: Path
) -> None:
    photo = fields / "field_03.tif"
    arguments = [str(result.bundle), str(photo), "--out", str(tmp_path), "--device", "cpu"]
    assert predict.main([*arguments, "--overlay", "--probabilities", "--uncertainty"]) == 0
    with rasterio.open(photo) as source, rasterio.open(tmp_path / "field_03.tif") as mask:
        assert mask.crs == source.crs and mask.transform == source.transform
        predicted_HW = mask.read(1)
        assert mask.nodata == IGNORE_INDEX
    assert (predicted_HW[GAP] == IGNORE_INDEX).all() and predicted_HW[60, 60] == IGNORE_INDEX
    assert set(np.unique(predicted_HW)) <= {0, 1, 2, IGNORE_INDEX}
    assert (tmp_path / "overlays" / "field_03.jpg").is_file()


def test_a_bundle_refuses_photographs_without_its_bands(
    result: SearchResult, fields: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Ensemble.load(result.bundle).bands.channels == 4
    path = tmp_path / "three.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=3, dtype="float32", height=64, width=64
    ) as raster:
        raster.write(np.zeros((3, 64, 64), np.float32))
    arguments = [str(result.bundle), str(path), "--out", str(tmp_path / "out")]
    assert predict.main([*arguments, "--device", "cpu"]) == 1
    assert "three.tif" in capsys.readouterr().err
