"""Prediction from the command line: what is written, where it lies, and what is done twice."""

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from PIL import Image

from search import predict
from search.predicting import prediction_log, products
from segcore.config import TrialConfig, View
from segcore.errors import UserError
from segcore.inference import blending as inference
from segcore.inference import photographs
from segcore.predicting import pictures
from segcore.predicting.ensemble import Ensemble, write_bundle
from segcore.training.fit import fit
from tests.conftest import CLASS_COLORS, CLASS_NAMES, SHARED, make_data

warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)

TRANSFORM = rasterio.Affine(0.35, 0.0, 456828.3563822131, 0.0, -0.35, 6717452.690058491)
UTM = "EPSG:31982"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members that tell lawn from roof."""
    folder = tmp_path_factory.mktemp("models")
    members = []
    for seed in (0, 1):
        config = TrialConfig(
            height_px=48, width_px=48, scale=1.0, architecture="scratch_unet", encoder=None,
            model_kwargs={"base_channels": 4, "depth": 2}, batch_size=2, max_epochs=20, lr=0.01,
            augment_strength=0.0, seed=seed,
        )  # fmt: skip
        data = make_data()
        *_, last = fit(config, data)
        last.save(folder / str(seed))
        members.append((folder / str(seed), 1.0 + seed))
    write_bundle(folder / "bundle", members, metric="dice", scores={})
    return folder / "bundle"


def with_views(bundle: Path, folder: Path, *views: View) -> Path:
    """The same networks, each of which looks in another way."""
    members = []
    for number, view in enumerate(views):
        member = folder.with_name(f"{folder.name}_{number}")
        shutil.copytree(bundle / f"member_{number:02d}", member)
        manifest = json.loads((member / "checkpoint.json").read_text())
        manifest["config"] |= view._asdict()
        (member / "checkpoint.json").write_text(json.dumps(manifest))
        members.append((member, 1.0 + number))
    write_bundle(folder, members, metric="dice", scores={})
    return folder


@pytest.fixture(scope="module")
def two_scales(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views") / "bundle"
    return with_views(bundle, folder, View(48, 48, 0.5), View(40, 56, None))


def scene(height_px: int = 100, width_px: int = 140) -> np.ndarray:
    """A lawn with a roof; HWC."""
    mask = np.zeros((height_px, width_px), int)
    mask[30:70, 20:80] = 1
    noise = np.random.default_rng(0).normal(0, 12, (height_px, width_px, 3))
    return np.clip(np.array(CLASS_COLORS)[mask] + noise, 0, 255).astype(np.uint8)


def write_map(path: Path, image: np.ndarray, **profile: object) -> Path:
    """A GeoTIFF somewhere in Brazil."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = image.transpose(2, 0, 1)
    values = {
        "driver": "GTiff", "dtype": "uint8", "count": len(bands), "height": bands.shape[1],
        "width": bands.shape[2], "crs": UTM, "transform": TRANSFORM, **profile,
    }  # fmt: skip
    with rasterio.open(path, "w", **values) as raster:
        raster.write(bands)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "north").mkdir(parents=True)
    Image.fromarray(scene()).save(folder / "lawn.v2.png")
    Image.fromarray(scene(90, 60)).save(folder / "north" / "roof.jpg", quality=95)
    write_map(folder / "map.tif", scene())
    return folder


def run(*arguments: object) -> int:
    return predict.main([str(argument) for argument in arguments])


def test_a_map_lies_where_its_photograph_lies_to_the_last_bit(bundle: Path, photos: Path) -> None:
    out = photos.parent / "out"
    assert run(bundle, photos, "--out", out) == 0
    with rasterio.open(photos / "map.tif") as photo, rasterio.open(out / "map.tif") as mask:
        assert mask.crs == photo.crs and mask.transform == photo.transform
        assert mask.shape == photo.shape and mask.bounds == photo.bounds
        assert mask.dtypes == ("uint8",) and mask.nodata == 255
        assert mask.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert mask.compression is not None and mask.profile["tiled"]
        assert [mask.tags()[f"CLASS_{k}"] for k in range(3)] == list(CLASS_NAMES)
        assert [mask.colormap(1)[k][:3] for k in range(3)] == list(CLASS_COLORS)
        mask_HW = mask.read(1)
    assert mask_HW[40:60, 30:70].mean() > 0.9, "the roof"
    assert (mask_HW[:20] == 0).mean() > 0.9, "the lawn"
    # The same pixels without a place on earth give the same mask, as a PNG.
    np.testing.assert_array_equal(np.asarray(Image.open(out / "lawn.v2.png")), mask_HW)
    assert Image.open(out / "north" / "roof.png").size == (60, 90)


def test_large_maps_have_overviews(bundle: Path, tmp_path: Path) -> None:
    path = write_map(tmp_path / "large.tif", scene(600, 700))
    assert run(bundle, path, "--out", tmp_path / "out", "--scale", 0.25) == 0
    with rasterio.open(tmp_path / "out" / "large.tif") as mask:
        assert mask.overviews(1) == [2]


@pytest.mark.parametrize("kind", ["nodata", "alpha"])
def test_what_has_no_data_is_no_class(bundle: Path, tmp_path: Path, kind: str) -> None:
    image = scene()
    image[:, 90:] = 0
    if kind == "alpha":
        alpha = np.full((*image.shape[:2], 1), 255, np.uint8)
        alpha[:, 90:] = 0
        path = write_map(tmp_path / "m.tif", np.concatenate([image, alpha], axis=2))
    else:
        path = write_map(tmp_path / "m.tif", image, nodata=0)
    arguments = ["--probabilities", "--uncertainty", "--polygons", "gpkg"]
    assert run(bundle, path, "--out", tmp_path / "out", *arguments) == 0
    with rasterio.open(tmp_path / "out" / "m.tif") as mask:
        mask_HW = mask.read(1)
    assert (mask_HW[:, 90:] == 255).all() and (mask_HW[:, :90] < 3).all()
    with rasterio.open(tmp_path / "out" / "probabilities" / "m.tif") as raster:
        assert (raster.read()[:, :, 90:] == 0).all()
    right = pyogrio.read_bounds(tmp_path / "out" / "polygons" / "m.gpkg")[1][2].max()
    assert right == pytest.approx(TRANSFORM.c + 90 * 0.35)


def test_a_png_tells_what_has_no_data_from_the_classes(bundle: Path, tmp_path: Path) -> None:
    image = np.dstack([scene(), np.full((100, 140), 255, np.uint8)])
    image[:, 90:, 3] = 0
    Image.fromarray(image).save(tmp_path / "m.png")
    out = tmp_path / "out"
    assert run(bundle, tmp_path / "m.png", "--out", out, "--polygons", "geojson") == 0
    mask = Image.open(out / "m.png")
    mask_HW = np.asarray(mask)
    assert (mask_HW[:, 90:] == 255).all() and (mask_HW[:, :90] < 3).all()
    shown = np.array(mask.getpalette()).reshape(-1, 3)
    assert shown[[0, 1, 2, 255]].tolist() == [*map(list, CLASS_COLORS), [128, 128, 128]]
    regions = json.loads((out / "polygons" / "m.geojson").read_text())["features"]
    assert sum(region["properties"]["area"] for region in regions) == 90 * 100


def test_every_file_that_can_be_wished_for(bundle: Path, photos: Path) -> None:
    out = photos.parent / "out"
    arguments = ["--overlay", "--probabilities", "--uncertainty", "--tta", "--polygons", "geojson"]
    assert run(bundle, photos, "--out", out, *arguments) == 0

    mask = np.asarray(Image.open(out / "lawn.v2.png"))
    with rasterio.open(out / "probabilities" / "lawn.v2.tif") as raster:
        probs_KHW = raster.read()
        assert raster.descriptions == CLASS_NAMES
    assert np.abs(probs_KHW.sum(axis=0, dtype=int) - 255).max() <= 2
    assert (probs_KHW.argmax(axis=0) == mask).mean() > 0.99

    overlay = np.asarray(Image.open(out / "overlays" / "lawn.v2.jpg"))
    assert overlay.shape == (100, 140, 3)

    with (out / "uncertainty.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {Path(row["photograph"]).name for row in rows} == {"lawn.v2.png", "map.tif", "roof.jpg"}
    picture = np.asarray(Image.open(out / "uncertainty" / "lawn.v2.png"))
    (row,) = (row for row in rows if row["photograph"].endswith("lawn.v2.png"))
    assert float(row["mean"]) == pytest.approx(picture.mean() / 255, abs=1e-4)
    assert np.abs(picture.astype(int) - (255 - probs_KHW.max(axis=0))).max() <= 2
    assert 0 < float(row["mean"]) <= float(row["p95"]) <= 1
    with rasterio.open(out / "uncertainty" / "map.tif") as raster:
        assert raster.transform == TRANSFORM


def test_the_overlay_of_a_mosaic_is_smaller_and_shows_the_mask(
    bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photographs, "WHOLE_PX", 1000)
    monkeypatch.setattr(products, "OVERLAY_PX", 70)
    monkeypatch.setattr(inference, "PANEL_BYTES", 20_000)  # many strips
    out = photos.parent / "out"
    assert run(bundle, photos / "map.tif", "--out", out, "--overlay") == 0
    drawn = np.asarray(Image.open(out / "overlays" / "map.jpg")).astype(int)
    assert drawn.shape == (50, 70, 3)
    with rasterio.open(out / "map.tif") as raster:
        mask_HW = raster.read(1)[1::2, 1::2]
    image_HWC = cv2.resize(scene(), (70, 50), interpolation=cv2.INTER_AREA)
    expected = pictures.overlay(image_HWC, mask_HW, CLASS_COLORS).astype(int)
    assert np.abs(drawn - expected).mean() < 12, "JPEG's losses"


@pytest.mark.parametrize(
    ("size_px", "drawn_px"), [((10, 66_000), (1, 4096)), ((1, 1), (1, 1)), ((1, 300), (1, 300))]
)
def test_photographs_may_have_any_shape(
    bundle: Path, tmp_path: Path, size_px: tuple[int, int], drawn_px: tuple[int, int]
) -> None:
    Image.fromarray(np.full((*size_px, 3), CLASS_COLORS[0], np.uint8)).save(tmp_path / "x.png")
    out = tmp_path / "out"
    arguments = ["--overlay", "--uncertainty", "--probabilities", "--polygons", "gpkg"]
    assert run(bundle, tmp_path / "x.png", "--out", out, *arguments) == 0
    assert np.asarray(Image.open(out / "x.png")).shape == size_px
    assert np.asarray(Image.open(out / "overlays" / "x.jpg")).shape == (*drawn_px, 3)


@pytest.mark.parametrize("kind", ["gpkg", "geojson"])
def test_a_photograph_of_any_name_gets_its_polygons(
    bundle: Path, tmp_path: Path, kind: str
) -> None:
    photo = tmp_path / "semi;colon: 50% [1] #2?=x.png"
    Image.fromarray(scene()).save(photo)
    assert run(bundle, photo, "--out", tmp_path / "out", "--polygons", kind) == 0
    (written,) = (tmp_path / "out" / "polygons").iterdir()
    assert written.name == photo.with_suffix(f".{kind}").name
    assert written.stat().st_size > 0


def test_polygons_are_the_regions_of_the_mask(bundle: Path, photos: Path) -> None:
    out = photos.parent / "out"
    assert run(bundle, photos, "--out", out, "--polygons", "gpkg") == 0
    mask = np.asarray(Image.open(out / "lawn.v2.png"))
    for name, crs, pixel_area in (("map", UTM, 0.35**2), ("lawn.v2", None, 1.0)):
        path = out / "polygons" / f"{name}.gpkg"
        meta, _, geometry, (classes, names, area) = pyogrio.raw.read(path)
        assert meta["crs"] == crs
        for k in np.unique(mask):
            expected = (mask == k).sum() * pixel_area
            assert area[classes == k].sum() == pytest.approx(expected)
            assert shapely.area(shapely.from_wkb(geometry[classes == k])).sum() == pytest.approx(
                expected
            )
            assert set(names[classes == k]) == {CLASS_NAMES[k]}


def test_geojson_is_in_longitude_and_latitude(bundle: Path, photos: Path) -> None:
    out = photos.parent / "out"
    assert run(bundle, photos / "map.tif", "--out", out, "--polygons", "geojson") == 0
    collection = json.loads((out / "polygons" / "map.geojson").read_text())
    longitude, latitude = collection["features"][0]["geometry"]["coordinates"][0][0]
    assert -52 < longitude < -51 and -30 < latitude < -29


def test_what_is_done_is_not_done_again(
    bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, submission = photos.parent / "out", photos.parent / "submission.csv"
    assert run(bundle, photos, "--out", out) == 0
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    first = (out / "map.tif").stat().st_mtime_ns

    # Another photograph, one that has changed, and one whose mask is gone.
    Image.fromarray(scene(50, 50)).save(photos / "new.png")
    time.sleep(0.01)
    Image.fromarray(scene(60, 60)).save(photos / "lawn.v2.png")
    (out / "north" / "roof.png").unlink()
    capsys.readouterr()
    assert run(bundle, photos, "--out", out, "--submission", submission) == 0
    assert "4 of 4 photographs predicted, 1 of them earlier" in capsys.readouterr().err
    assert (out / "map.tif").stat().st_mtime_ns == first
    assert Image.open(out / "lawn.v2.png").size == (60, 60)
    assert written[out / "lawn.v2.png"] < (out / "lawn.v2.png").stat().st_mtime_ns
    with submission.open() as file:
        ids = [row["ImageClassId"] for row in csv.DictReader(file)]
    stems = ("lawn.v2", "map", "new", "roof")
    assert sorted(ids) == sorted(f"{stem}_{k}" for stem in stems for k in (1, 2))

    # Another wish, and other settings.
    assert run(bundle, photos, "--out", out, "--overlay") == 0
    assert len(list((out / "overlays").rglob("*.jpg"))) == 4
    again = (out / "map.tif").stat().st_mtime_ns
    assert run(bundle, photos, "--out", out, "--tta") == 0
    assert (out / "map.tif").stat().st_mtime_ns > again


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_a_table_tells_how_much_of_each_class_there_is(bundle: Path, photos: Path) -> None:
    out = photos.parent / "out"
    image = np.dstack([scene(), np.full((100, 140), 255, np.uint8)])
    image[:, 90:, 3] = 0
    write_map(photos / "map.tif", image)
    name = os.fsdecode(b"\xe4.bmp")
    Image.fromarray(scene()).save(photos / name)
    # What an earlier call has predicted is in the table, too.
    assert run(bundle, photos / "lawn.v2.png", "--out", out) == 0
    lawn = table(out / "classes.csv")
    assert run(bundle, photos / "map.tif", photos / "north" / ".." / name, "--out", out) == 0
    assert run(bundle, photos, "--out", out) == 0
    written = table(out / "classes.csv")
    assert len(written) == 4 * len(CLASS_NAMES) and all(row in written for row in lawn)
    assert {row["mask"] for row in written} == {"lawn.v2.png", "map.tif", "_.png", "north/roof.png"}
    rows = {(Path(row["photograph"]).name, row["class"]): row for row in written}
    assert rows.keys() == {
        (photo, k) for photo in ("lawn.v2.png", "map.tif", "roof.jpg", name) for k in CLASS_NAMES
    }
    with rasterio.open(out / "map.tif") as raster:
        mask_HW = raster.read(1)
    for k, of_class in enumerate(CLASS_NAMES):
        row, pixels = rows["map.tif", of_class], int((mask_HW == k).sum())
        assert int(row["pixels"]) == pixels
        assert float(row["share"]) == pytest.approx(pixels / (90 * 100), abs=1e-6)
        assert float(row["area_m2"]) == pytest.approx(pixels * 0.35**2, abs=0.01)
        assert rows["roof.jpg", of_class]["area_m2"] == ""


def test_a_photograph_is_predicted_to_where_it_is_wished(bundle: Path, photos: Path) -> None:
    out = photos.parent / "out"
    for given, mask in ((photos / "north", "roof.png"), (photos, "north/roof.png")):
        assert run(bundle, given, "--out", out) == 0
        assert (out / mask).is_file()


def test_what_belongs_to_another_mask_is_deleted_with_it(
    bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, photo = photos.parent / "out", photos / "lawn.v2.png"
    for wishes in (["--overlay", "--uncertainty"], ["--polygons", "gpkg"], ["--overlay"]):
        capsys.readouterr()
        assert run(bundle, photo, "--out", out, *wishes) == 0
    assert "1 of them earlier" in capsys.readouterr().err, "its overlay is still there"
    assert len(table(out / "uncertainty.csv")) == 1
    assert run(bundle, photo, "--out", out, "--polygons", "gpkg", "--tta") == 0
    assert sorted(path.name for path in out.rglob("*.*")) == [
        "classes.csv", "lawn.v2.gpkg", "lawn.v2.png", "predicted.jsonl",
    ]  # fmt: skip


def test_a_table_that_cannot_be_written_is_told_in_one_line(
    bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = photos.parent / "out"
    (out / "classes.csv").mkdir(parents=True)
    assert run(bundle, photos / "lawn.v2.png", "--out", out) == 2
    assert "classes.csv can't be written: Is a directory" in capsys.readouterr().err


def test_other_weights_are_another_bundle(bundle: Path, tmp_path: Path) -> None:
    key = prediction_log.settings_key(bundle, {"tta": False})
    assert key == prediction_log.settings_key(bundle, {"tta": False})
    assert key != prediction_log.settings_key(bundle, {"tta": True})
    members = [(bundle / "member_00", 1.0)]
    write_bundle(tmp_path / "one", members, metric="dice", scores={})
    assert key != prediction_log.settings_key(tmp_path / "one", {"tta": False})


def test_a_log_that_was_cut_off_forgets_only_its_last_line(tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    photo.write_bytes(b"x")
    (tmp_path / "mask.png").write_bytes(b"x")
    record = prediction_log.Predicted(
        str(photo), "s", prediction_log.file_state(photo), {"mask": "mask.png"}
    )
    prediction_log.PredictionLog(tmp_path).add(record)
    with (tmp_path / prediction_log.LOG_NAME).open("a") as file:
        file.write('{"photo": 1, "settings": "s", "state": [1, 2], "files": 3}\n{"photo": "b.pn')
    with (tmp_path / prediction_log.LOG_NAME).open("ab") as file:
        file.write(b"\xff\xfe\n torn")
    log = prediction_log.PredictionLog(tmp_path)
    log.add(record)
    assert prediction_log.PredictionLog(tmp_path).find(photo, "mask", "s", ["mask"]) == record
    assert log.find(photo, "mask", "s", ["mask", "overlay"]) is None
    assert log.find(photo, "mask", "other", ["mask"]) is None
    assert log.find(photo, "other", "s", ["mask"]) is None
    assert (
        log.find(tmp_path / "." / ".." / tmp_path.name / "a.png", "mask", "s", ["mask"]) == record
    )


def test_a_broken_photograph_is_told_and_skipped(
    bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    whole = (photos / "map.tif").read_bytes()
    (photos / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (photos / "moved.png").symlink_to(photos / "elsewhere.png")
    monkeypatch.setattr(photographs, "WHOLE_PX", 1000)  # read piece by piece
    out = photos.parent / "out"
    assert run(bundle, photos, "--out", out) == 1
    told = capsys.readouterr().err
    assert "broken.jpg" in told and "cut.tif" in told and "moved.png" in told
    # broken.jpg and cut.tif are mended in the same way.
    assert told.count("skipped: ") == 2 and "(--all tells of each)" in told
    assert "3 of 6 photographs predicted" in told and "megapixels/s on cpu" in told
    assert sorted(p.name for p in out.rglob("*") if p.is_file()) == [
        "classes.csv", "lawn.v2.png", "map.tif", "predicted.jsonl", "roof.png",
    ]  # fmt: skip


def test_pages_of_a_file_that_are_not_predicted_are_told(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = Image.fromarray(scene()), Image.fromarray(scene())
    for name in ("a.tif", "b.tif"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
    assert run(bundle, tmp_path / "a.tif", tmp_path / "b.tif", "--out", tmp_path / "out") == 0
    told = capsys.readouterr().err
    assert told.count("a.tif: of 2 pages the first is predicted; make a file of each") == 1
    assert "likewise" in told


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    """Predicting the photograph of that name raises the error."""
    write = products.Products.write

    def failing(self: products.Products, photo: photographs.Photograph, *arguments):  # type: ignore[no-untyped-def]
        if photo.path.name == name:
            raise error
        return write(self, photo, *arguments)

    monkeypatch.setattr(products.Products, "write", failing)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("CUDA out of memory"), "RuntimeError: CUDA out of memory"),
        (UserError("lawn.v2.png can't be written: it is a folder"), "it is a folder"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_whatever_a_photograph_fails_by_the_others_are_predicted(
    error: Exception,
    reason: str,
    bundle: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_at(monkeypatch, "lawn.v2.png", error)
    assert run(bundle, photos, "--out", photos.parent / "out") == 1
    told = capsys.readouterr().err
    (skipped,) = [line for line in told.splitlines() if line.startswith("skipped: ")]
    assert f"{photos / 'lawn.v2.png'}: " in skipped and reason in skipped
    assert "2 of 3 photographs predicted" in told


def test_ctrl_c_ends_a_prediction_that_goes_on_later(
    bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = photos.parent / "out"
    with monkeypatch.context() as patched:

        def endless(
            self: products.Products,
            photo: photographs.Photograph,
            name: str,
            on_progress: Callable[[float], None],
        ) -> products.Written:
            if name != "map":
                return write(self, photo, name, on_progress)
            while not (out / prediction_log.LOG_NAME).exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            while True:
                on_progress(0)
                time.sleep(0.01)

        write = products.Products.write
        patched.setattr(products.Products, "write", endless)
        assert run(bundle, photos, "--out", out) == 130
    assert "Interrupted." in capsys.readouterr().err
    assert run(bundle, photos, "--out", out) == 0
    assert re.search("3 of 3 photographs predicted, [12] of them earlier", capsys.readouterr().err)
    assert not list(out.rglob(".*"))


def test_a_full_disk_ends_the_prediction(
    bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        raise UserError("lawn.v2.png can't be written") from OSError(errno.ENOSPC, "No space")
    except UserError as error:
        fail_at(monkeypatch, "lawn.v2.png", error)
    assert run(bundle, photos, "--out", photos.parent / "out") == 2
    told = capsys.readouterr().err
    assert "the disk is full; make room, then predict again" in told and "skipped" not in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--batch-size", 0], "allowed is 1 or more"),
        (["--scale", 2], "allowed is above 0, up to 1"),
        (["--tile-scale", 0.5], "--tile-scale is gone; write --scale"),
        (["--device", "toaster"], "allowed: cpu, cuda"),
        (["--out", "/dev/null"], "/dev/null can't be a folder: File exists; name another"),
    ],
)
def test_bad_options_end_with_one_line(
    bundle: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[object],
    told: str,
) -> None:
    assert run(bundle, photos, "--out", photos.parent / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_masks_in_the_folder_of_photographs_are_no_photographs(bundle: Path, photos: Path) -> None:
    assert run(bundle, photos, "--out", photos / "predictions") == 0
    assert len(predict.find_photos([photos], photos / "predictions")) == 3
    assert len(predict.find_photos([photos], photos / "again")) == 3


def test_masks_may_lie_among_their_photographs(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    (photos / "north").mkdir(parents=True)
    for path in (photos / "lawn.jpg", photos / "north" / "roof.jpg"):
        Image.fromarray(scene()).save(path)
    for folder, out in ((photos, photos), (photos / "north", photos), (photos, tmp_path)):
        for _ in range(2):
            assert run(bundle, folder, "--out", out, "--overlay") == 0
            told = capsys.readouterr().err
            count = 1 if folder.name == "north" else 2
            assert f"{count} of {count} photographs predicted" in told
        assert f"{count} of them earlier" in told
    assert {path.name for path in predict.find_photos([photos], tmp_path / "other")} == {
        "lawn.jpg", "roof.jpg",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["lawn.v2.png", "map.tif"])
def test_a_mask_never_replaces_its_photograph(
    bundle: Path, photos: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (photos / name).read_bytes()
    assert run(bundle, photos / name, "--out", photos) == 2
    assert f"{name} would be replaced by its mask; name another" in capsys.readouterr().err
    assert (photos / name).read_bytes() == content
    Image.fromarray(scene()).save(photos / "north" / "roof.bmp")  # Found, and in nobody's way.
    (photos / "north" / "roof.jpg").unlink()
    assert [*predict.find_photos([photos / "north"], photos / "north").values()] == ["roof"]


def test_names_that_macos_takes_for_one_are_refused_there(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = photos.parent / "other"
    other.mkdir()
    Image.fromarray(scene()).save(other / "LAWN.v2.png")
    assert len(predict.find_photos([photos, other], photos.parent / "out")) == 4
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match=r"LAWN.v2.png and .*lawn.v2.png would both write"):
        predict.find_photos([photos, other], photos.parent / "out")


def test_a_bundle_of_two_scales_gives_the_mean_of_its_members(
    two_scales: Path, photos: Path
) -> None:
    out = photos.parent / "out"
    assert run(two_scales, photos / "map.tif", "--out", out, "--probabilities") == 0
    expected = 0
    for number, weight in ((0, 1 / 3), (1, 2 / 3)):
        alone = photos.parent / f"alone_{number}"
        member = [(two_scales / f"member_0{number}", 1.0)]
        write_bundle(alone, member, metric="dice", scores={})
        expected = expected + weight * Ensemble.load(alone).probs(scene())
    with rasterio.open(out / "probabilities" / "map.tif") as raster:
        assert np.abs(raster.read() - 255 * expected).max() < 0.6


def test_only_members_that_see_photographs_whole_are_warned_of(
    bundle: Path,
    two_scales: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(photographs, "WHOLE_PX", 1000)
    for model, options, warned in (
        (bundle, [], False), (two_scales, [], True), (two_scales, ["--scale", 0.5], False)
    ):  # fmt: skip
        assert run(model, photos / "map.tif", "--out", photos.parent / "out", *options) == 0
        assert ("shrunk to 40×56 as a whole" in capsys.readouterr().err) == warned


def found_below(folder: Path) -> dict[str, str]:
    photos = predict.find_photos([folder], folder.parent / "out")
    return {str(path.relative_to(folder)): name for path, name in photos.items()}


def test_a_folder_is_searched_through_links_and_not_in_what_is_hidden(photos: Path) -> None:
    disk = photos.parent / "disk2"
    (disk / "deeper").mkdir(parents=True)
    for path in (disk / "b.png", disk / "deeper" / "c.JPG"):
        path.touch()
    (photos / "flight2").symlink_to(disk)
    (photos / "flight2 again").symlink_to("../disk2")
    (disk / "back").symlink_to(photos)
    (photos / "north" / "up").symlink_to("..")
    for hidden in (".ipynb_checkpoints", "__MACOSX", "@eaDir/lawn.v2.png", "folder.png"):
        (photos / hidden).mkdir(parents=True)
        if hidden != "folder.png":
            (photos / hidden / "x.png").touch()
    (photos / "._lawn.v2.png").touch()
    there = {"lawn.v2.png", "map.tif", "north/roof.jpg", "flight2/b.png", "flight2/deeper/c.JPG"}
    assert found_below(photos).keys() == there
    (photos.parent / "way in").symlink_to(photos)
    assert found_below(photos.parent / "way in").keys() == there


def test_files_are_named_alike_on_every_machine(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    nfc, nfd = (unicodedata.normalize(form, "Überflug") for form in ("NFC", "NFD"))
    names = [f"{nfd}.png", "a\nb.png", os.fsdecode(b"\xe4.png"), "50% [1] #2?.v3.png"]
    for name in names:
        (folder / name).touch()
    assert set(found_below(folder).values()) == {nfc, "a_b", "_", "50% [1] #2?.v3"}
    (folder / f"{nfc}.jpg").touch()
    with pytest.raises(
        UserError, match=r"\\xdcberflug.jpg' and '.*U\\u0308berflug.png' would both"
    ):
        found_below(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_not_passed_over(photos: Path) -> None:
    (photos / "north").chmod(0)
    with pytest.raises(UserError, match="north: Permission denied; make it readable"):
        found_below(photos)
    (photos / "north").chmod(0o700)


MEASURED = """
import resource, sys
from search import predict
from segcore.inference import blending as inference
from segcore.inference import photographs
from segcore.predicting import rasters
photographs.WHOLE_PX = 1_000_000
inference.PANEL_BYTES = 4_000_000
rasters.GDAL_OPTIONS["GDAL_CACHEMAX"] = 16
assert predict.main(sys.argv[1:]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
"""


def test_memory_does_not_grow_with_the_mosaic(bundle: Path, tmp_path: Path) -> None:
    bundle = with_views(bundle, tmp_path / "two", View(48, 48, 0.1), View(64, 40, 0.07))

    def peak_mb(side_px: int) -> float:
        path = tmp_path / f"{side_px}.tif"
        tiles = (side_px // 100, side_px // 100, 1)
        write_map(path, np.tile(scene(100, 100), tiles), tiled=True)
        arguments = [bundle, path, "--out", tmp_path / "out"]
        measured = subprocess.run(
            [sys.executable, "-c", MEASURED, *map(str, arguments)],
            capture_output=True, text=True, check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return float(measured.stdout)

    # Held whole, 16 megapixels would be 48 MB, and three classes' probabilities 192 MB.
    assert peak_mb(4000) - peak_mb(1200) < 60


ORTHO = SHARED / "data" / "ortho_rs" / "images"


@pytest.mark.skipif(not ORTHO.is_dir(), reason="no real orthophotos on this machine")
def test_a_real_orthophoto_keeps_its_grid(bundle: Path, tmp_path: Path) -> None:
    path = min(ORTHO.glob("*.tif"))
    assert run(bundle, path, "--out", tmp_path, "--scale", 0.25) == 0
    with rasterio.open(path) as photo, rasterio.open(tmp_path / path.name) as mask:
        assert mask.crs == photo.crs and mask.crs.to_epsg() == 31982
        assert tuple(mask.transform) == tuple(photo.transform)
        assert (mask.width, mask.height) == (photo.width, photo.height)
