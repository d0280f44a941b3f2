"""Bands, value ranges and pixels without data, from files of every kind that sensors deliver."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image, ImageCms
from pydantic import ValidationError
from rasterio.enums import ColorInterp

from segcore.config import IGNORE_INDEX, TrialConfig
from segcore.data.spec import DatasetSpec
from segcore.inference import photographs
from segcore.inference.photographs import Photograph
from segcore.networks.models import build_network
from segcore.predicting.ensemble import load_network
from segcore.reading.bands import RGB, Bands, to_rgb8, to_tensor
from segcore.reading.headers import ImageError, turn
from segcore.reading.images import read_image, read_picture
from segcore.reading.masks import MaskCoding, read_mask, read_pair
from segcore.reading.measuring import complete_bands
from segcore.training.checkpoint import CheckpointInfo, load_info, save_checkpoint
from tests.conftest import SHARED

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(0)
TEN = MaskCoding(by_color=False, classes=tuple((k, k) for k in range(10)))


def write(path: Path, samples_CHW: np.ndarray, **profile: Any) -> Path:
    """A GeoTIFF, or a PNG by its ending."""
    count, height, width = samples_CHW.shape
    shape = {"count": count, "height": height, "width": width, "dtype": samples_CHW.dtype.name}
    driver = "PNG" if path.suffix == ".png" else "GTiff"
    with rasterio.open(path, "w", **{"driver": driver, **shape, **profile}) as raster:
        raster.write(samples_CHW)
    return path


def set_orientation(path: Path, orientation: int) -> Path:
    """Give a TIFF of any kind an orientation tag."""
    content = bytearray(path.read_bytes())
    order = "<" if content[:2] == b"II" else ">"
    big = 43 in content[2:4]
    number, length, entry, at = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    (start,) = struct.unpack_from(order + number, content, at)
    (count,) = struct.unpack_from(order + length, content, start)
    first = start + struct.calcsize(length)
    entries = [bytes(content[first + i * entry :][:entry]) for i in range(count)]
    rest = content[first + count * entry :][: struct.calcsize(number)]
    tag = struct.pack(f"{order}HH{number}H", 274, 3, 1, orientation).ljust(entry, b"\0")
    entries = sorted([*entries, tag], key=lambda e: struct.unpack_from(order + "H", e))
    content += b"\0" * (len(content) % 2)
    struct.pack_into(order + number, content, at, len(content))
    content += struct.pack(order + length, len(entries)) + b"".join(entries) + rest
    path.write_bytes(content)
    return path


def shown_by_gdal(path: Path) -> np.ndarray:
    with rasterio.open(path) as raster:
        return raster.read().transpose(1, 2, 0)


# --- which numbers -------------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "grey": {"count": 1, "photometric": "MINISBLACK"},
    "min-is-white": {"count": 1, "photometric": "MINISWHITE"},
    "rgb": {"count": 3, "photometric": "RGB"},
    "rgb planar": {"count": 3, "photometric": "RGB", "interleave": "band"},
    "rgb called grey": {"count": 3, "photometric": "MINISBLACK"},
    "rgb tiled": {"count": 3, "tiled": True, "blockxsize": 32, "blockysize": 16},
    "rgb big": {"count": 3, "BIGTIFF": "YES", "ENDIANNESS": "BIG"},
    "rgb strips": {"count": 3, "blockysize": 7, "ENDIANNESS": "BIG"},
    "cmyk": {"count": 4, "photometric": "CMYK"},
    "cmyk planar": {"count": 4, "photometric": "CMYK", "interleave": "band"},
    "cmyk tiled": {"count": 4, "photometric": "CMYK", "tiled": True, "blockxsize": 32,
                   "blockysize": 16},
    "cielab": {"count": 3, "photometric": "CIELAB", "blockysize": 8},
    "ycbcr": {"count": 3, "photometric": "YCBCR", "compress": "JPEG"},
    **{name: {"count": 3, "compress": name, "interleave": interleave}
       for name, interleave in [("LZW", "pixel"), ("DEFLATE", "band"), ("PACKBITS", "pixel"),
                                ("ZSTD", "pixel"), ("LZMA", "band"), ("LERC", "band"),
                                ("WEBP", "pixel"), ("JPEG", "pixel")]},
}  # fmt: skip


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tiff_of_eight_bits_is_what_gdal_shows_turned_upright_once(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    options = dict(KINDS[kind])
    samples = RNG.integers(0, 255, (options.pop("count"), 40, 50), np.uint8)
    path = write(tmp_path / "photo.tif", samples, **options)
    shown = shown_by_gdal(path)
    shown = shown[..., :3] if shown.shape[2] >= 3 else np.dstack([shown[..., 0]] * 3)
    if orientation > 1:
        set_orientation(path, orientation)
    np.testing.assert_array_equal(read_image(path), turn(shown, orientation))
    picture = read_picture(path)
    np.testing.assert_array_equal(picture.samples_HWC, turn(shown, orientation))
    assert picture.valid_HW is None


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "P", "1", "LA", "RGBA"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_tiffs_of_pillow_are_read_as_pillow_reads_them(
    tmp_path: Path, mode: str, orientation: int
) -> None:
    rows, columns = np.mgrid[:48, :64]
    rgb = np.stack([columns * 4, rows * 5, np.full_like(rows, 60)], axis=-1).astype(np.uint8)
    picture = Image.fromarray(rgb)
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        picture = ImageCms.profileToProfile(picture, *profiles, outputMode="LAB")
    else:
        picture = picture.convert(mode)
        rgb = np.asarray(picture.convert("RGB"))
    exif = Image.Exif()
    exif[274] = orientation
    picture.save(tmp_path / "photo.tif", exif=exif, compression="tiff_lzw")
    tolerance = {"YCbCr": 2, "LAB": 16}.get(mode, 0)
    read = read_image(tmp_path / "photo.tif").astype(int)
    assert np.abs(read - turn(rgb, orientation)).mean() <= tolerance


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("driver", ["tif", "png"])
def test_few_bits_are_spread_in_photographs_and_stay_in_masks(
    tmp_path: Path, bits: int, driver: str
) -> None:
    if driver == "png" and bits not in (1, 2, 4):
        pytest.skip("PNG has 1, 2, 4, 8 and 16 bits")
    stored = RNG.integers(0, min(10, 2**bits), (1, 20, 30), np.uint8)
    path = write(tmp_path / f"few.{driver}", stored, nbits=bits)
    expected = (stored[0] * (255 / (2**bits - 1))).round()
    np.testing.assert_array_equal(read_image(path)[..., 1], expected)
    np.testing.assert_array_equal(read_mask(path, TEN), stored[0])


@pytest.mark.parametrize(
    "dtype", ["int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64"]
)
def test_masks_of_every_type_hold_their_stored_numbers(tmp_path: Path, dtype: str) -> None:
    stored = RNG.integers(0, 10, (1, 20, 30)).astype(dtype)
    path = write(tmp_path / "mask.tif", stored, compress="DEFLATE")
    np.testing.assert_array_equal(read_mask(path, TEN), stored[0])
    if np.dtype(dtype).itemsize > 1:
        stored[0, 3, 4] = 300
        write(path, stored)
        with pytest.raises(ImageError, match="holds 300, which no class has"):
            read_mask(path, TEN)
    stored[0, 3, 4] = -9 if dtype != "uint16" and dtype != "uint32" else 99
    write(path, stored, nodata=stored[0, 3, 4].item())
    assert read_mask(path, TEN)[3, 4] == IGNORE_INDEX


def test_a_white_zero_stays_zero_as_gdal_and_qgis_show_it(tmp_path: Path) -> None:
    stored = RNG.integers(0, 10, (1, 20, 30), np.uint8)
    path = write(tmp_path / "white.tif", stored, photometric="MINISWHITE")
    np.testing.assert_array_equal(read_mask(path, TEN), stored[0])
    np.testing.assert_array_equal(read_image(path)[..., 0], stored[0])


@pytest.mark.parametrize("interlace", [False, True])
def test_cut_off_pngs_are_noticed(tmp_path: Path, interlace: bool) -> None:
    path = write(tmp_path / "cut.png", RNG.integers(0, 60000, (3, 90, 90), np.uint16))
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ImageError, match="truncated"):
        read_picture(path, Bands(ranges=((0, 1),) * 3))


# --- bands and ranges ----------------------------------------------------------------------------


def multispectral(path: Path, dtype: str = "float32", scale: float = 1.0) -> np.ndarray:
    """A file with four named bands of different ranges; returns them (CHW)."""
    samples = RNG.random((4, 60, 70)) * np.array([1, 2, 3, 100])[:, None, None] * scale
    samples = samples.astype(dtype)
    write(path, samples, photometric="MINISBLACK", alpha="NO")
    with rasterio.open(path, "r+") as raster:
        raster.descriptions = ("Blue", "Green", "Red", "NIR")
    return samples


def test_bands_are_chosen_by_number_or_description(tmp_path: Path) -> None:
    samples = multispectral(tmp_path / "a.tif")
    for numbers in ((4, 3, 1), ("NIR", "Red", 1)):
        bands = Bands(numbers, ranges=((0, 100), (0, 3), (0, 2)))
        read = read_picture(tmp_path / "a.tif", bands).samples_HWC
        assert read.dtype == np.uint16
        expected = samples[[3, 2, 0]] / np.array([100, 3, 2])[:, None, None] * 65535
        np.testing.assert_allclose(read.transpose(2, 0, 1), expected, atol=0.51)


def test_a_band_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    multispectral(tmp_path / "a.tif")
    with pytest.raises(
        ImageError, match=r"a\.tif: has no band 5 \(it has 4: Blue, Green, Red, NIR"
    ):
        complete_bands(Bands((1, 5)), [tmp_path / "a.tif"])
    with pytest.raises(ImageError, match=r"no band 'NIRR'.*did you mean NIR\?"):
        read_picture(tmp_path / "a.tif", Bands(("NIRR",)))
    Image.new("RGB", (9, 9)).save(tmp_path / "b.jpg")
    with pytest.raises(ImageError, match=r"b\.jpg: has no band 4 \(it has 3\)"):
        complete_bands(Bands((1, 2, 3, 4)), [tmp_path / "a.tif", tmp_path / "b.jpg"])


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float32", "float64"])
def test_ranges_are_measured_once_for_all_photographs(tmp_path: Path, dtype: str) -> None:
    dark = multispectral(tmp_path / "dark.tif", dtype, scale=100)
    bright = multispectral(tmp_path / "bright.tif", dtype, scale=300)
    paths = [tmp_path / "dark.tif", tmp_path / "bright.tif"]
    bands = complete_bands(Bands((4, 3, 2, 1)), paths)
    assert bands.ranges is not None and bands.mean is not None and bands.std is not None
    assert bands.colors == (None, 0, 1, 2) and bands.shown == (1, 2, 3)
    for (low, high), index in zip(bands.ranges, (3, 2, 1, 0), strict=True):
        assert 0 <= low <= 0.01 * bright[index].max()
        assert 0.98 * bright[index].max() <= high <= bright[index].max()
    ratio = dark[3].astype(float).mean() / bright[3].astype(float).mean()
    means = [read_picture(path, bands).samples_HWC[..., 0].mean() for path in paths]
    assert means[0] / means[1] == pytest.approx(ratio, rel=0.02)
    assert np.mean(means) / 65535 == pytest.approx(bands.mean[0], rel=0.02)


def test_one_broken_pixel_does_not_darken_a_photograph(tmp_path: Path) -> None:
    samples = RNG.normal(500, 50, (3, 80, 80)).astype(np.float32)
    samples[:, 3, 3], samples[:, 4, 4], samples[:, 5, 5] = 1e9, np.nan, -9999
    path = write(tmp_path / "a.tif", samples, nodata=-9999)
    bands = complete_bands(RGB, [path])
    assert bands.ranges is not None
    assert all(200 < low < 400 and 600 < high < 800 for low, high in bands.ranges)
    picture = read_picture(path, bands)
    assert picture.valid_HW is not None
    assert np.argwhere(~picture.valid_HW).tolist() == [[4, 4], [5, 5]]
    assert picture.blanked()[4, 4].tolist() == [0, 0, 0]
    assert picture.samples_HWC[3, 3].tolist() == [65535] * 3


def test_a_band_that_is_the_same_everywhere_divides_by_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.full((3, 20, 20), 7, np.uint16))
    bands = complete_bands(RGB, [path])
    assert bands.ranges == ((7, 8),) * 3 and bands.measured and min(bands.std or ()) > 0
    assert read_picture(path, bands).samples_HWC.max() == 0
    assert to_rgb8(read_picture(path, bands).samples_HWC).max() == 0


def test_eight_bits_need_no_range_and_other_networks_refuse_more(tmp_path: Path) -> None:
    Image.fromarray(RNG.integers(0, 255, (20, 20, 3), np.uint8)).save(tmp_path / "a.jpg")
    write(tmp_path / "b.tif", np.zeros((3, 20, 20), np.uint16))
    assert complete_bands(RGB, [tmp_path / "a.jpg"]) == RGB
    with pytest.raises(ImageError, match=r"b\.tif: has samples of type uint16, where 8 bits"):
        read_picture(tmp_path / "b.tif")


def test_photographs_of_eight_bits_keep_their_brightness_among_deeper_ones(tmp_path: Path) -> None:
    eight = RNG.integers(0, 256, (3, 60, 60), np.uint8)
    few = write(tmp_path / "few.png", eight)
    deep = write(tmp_path / "deep.png", (eight * np.uint16(40)).astype(np.uint16))
    bands = complete_bands(RGB, [few, deep])
    assert bands.ranges is not None and all(high == 255 * 40 for _, high in bands.ranges)
    samples = [read_picture(path, bands).samples_HWC.astype(int) for path in (few, deep)]
    assert np.abs(samples[0] - samples[1]).max() <= 1
    given = Bands(ranges=((0, 510),) * 3)
    assert read_picture(few, given).samples_HWC.max() == pytest.approx(65535 / 2, abs=1)


def test_grey_of_a_jpeg_may_be_the_only_channel(tmp_path: Path) -> None:
    stored = RNG.integers(0, 255, (20, 30), np.uint8)
    Image.fromarray(stored).save(tmp_path / "grey.jpg", quality=100)
    one = complete_bands(Bands((1,)), [tmp_path / "grey.jpg"])
    read = read_picture(tmp_path / "grey.jpg", one).samples_HWC
    assert read.shape == (20, 30, 1) and read.dtype == np.uint8
    assert one.mean is not None and one.mean[0] == pytest.approx(stored.mean() / 255, abs=0.01)
    assert to_rgb8(read, one).shape == (20, 30, 3)


def test_sixteen_bits_of_one_kind_look_alike_whatever_their_colours_are_called(
    tmp_path: Path,
) -> None:
    samples = np.linspace(0, 4000, 3 * 32 * 32).reshape(3, 32, 32).astype(np.uint16)
    rgb = write(tmp_path / "rgb.tif", samples, photometric="RGB")
    grey = write(tmp_path / "grey.tif", samples, photometric="MINISBLACK")
    np.testing.assert_array_equal(read_image(rgb), read_image(grey))
    assert read_image(rgb).max() == 255


def test_tensors_and_pictures_of_both_encodings() -> None:
    eight = RNG.integers(0, 255, (4, 5, 3), np.uint8)
    assert to_tensor(eight).dtype.is_floating_point is False
    np.testing.assert_array_equal(to_tensor(eight).numpy(), eight.transpose(2, 0, 1))
    tensor = to_tensor((eight * np.uint16(257)).astype(np.uint16))
    np.testing.assert_allclose(tensor.numpy(), eight.transpose(2, 0, 1), rtol=1e-6)
    np.testing.assert_array_equal(to_rgb8(eight), eight)
    cir = Bands((4, 3, 2, 1), show=(3, 2, 1))
    five = RNG.integers(0, 255, (4, 5, 4), np.uint8)
    np.testing.assert_array_equal(to_rgb8(five, cir), five[..., 1:])
    grey = Bands((4, 3, 2, 1), show=(4,))
    np.testing.assert_array_equal(to_rgb8(five, grey)[..., 2], five[..., 0])


# --- where there are data ------------------------------------------------------------------------


def photo_with_hole(path: Path, kind: str) -> Bands:
    """An 8-bit photograph whose first rows hold no data, in one of the ways to say so."""
    samples = RNG.integers(10, 255, (3, 20, 30), np.uint8)
    hole = np.zeros((20, 30), bool)
    hole[:5] = True
    if kind == "nodata":
        write(path, np.where(hole, 0, samples), nodata=0)
    elif kind == "dataset.yaml":
        write(path, np.where(hole, 3, samples))
        return Bands(nodata=3)
    elif kind == "internal mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            write(path, samples)
            with rasterio.open(path, "r+") as raster:
                raster.write_mask(~hole)
    elif kind == "sidecar mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
            write(path, samples)
            with rasterio.open(path, "r+") as raster:
                raster.write_mask(~hole)
    elif kind == "alpha":
        alpha = np.where(hole, 0, 7).astype(np.uint8)[None]
        write(path, np.concatenate([samples, alpha]), photometric="RGB", alpha="YES")
    elif kind == "nan":
        write(path, np.where(hole, np.nan, samples).astype(np.float32))
        return complete_bands(RGB, [path])
    return RGB


@pytest.mark.parametrize(
    "kind", ["nodata", "dataset.yaml", "internal mask", "sidecar mask", "alpha", "nan"]
)
def test_pixels_without_data_count_nowhere(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photo.tif"
    bands = photo_with_hole(path, kind)
    Image.fromarray(np.ones((20, 30), np.uint8)).save(tmp_path / "mask.png")
    pair = read_pair(path, tmp_path / "mask.png", TEN, None, bands)
    assert (pair.mask_HW[:5] == IGNORE_INDEX).all() and (pair.mask_HW[5:] == 1).all()
    assert pair.image_HWC[:5].max() == 0 and pair.image_HWC[5:].max() > 0
    for whole_px in (photographs.WHOLE_PX, 10):
        monkeypatch.setattr(photographs, "WHOLE_PX", whole_px)
        with Photograph.open(path, bands) as photo:
            assert photo.has_holes and photo.is_mosaic == (whole_px == 10)
            np.testing.assert_array_equal(photo.valid(slice(3, 20), slice(2, 30))[:, 0],
                                          np.arange(3, 20) >= 5)  # fmt: skip
            read = photo.read(slice(0, 20), slice(0, 30))
        np.testing.assert_array_equal(read, pair.image_HWC)


@pytest.mark.parametrize("kind", ["L", "LA", "P", "RGB", "RGBA"])
def test_transparent_pixels_of_a_png_hold_no_data(tmp_path: Path, kind: str) -> None:
    clear = np.zeros((9, 9), bool)
    clear[2:4, 3:7] = True
    index = np.where(clear, 1, 2).astype(np.uint8)
    path = tmp_path / "photo.png"
    if kind == "P":
        picture = Image.fromarray(index).convert("P")
        picture.putpalette([9, 9, 9, 50, 60, 70, 80, 90, 100])
        picture.putdata(index.ravel().tolist())
        picture.save(path, transparency=bytes([255, 0, 128]))
    elif kind in {"L", "RGB"}:
        picture = Image.fromarray(index).convert(kind)
        picture.save(path, transparency=1 if kind == "L" else (1, 1, 1))
    else:
        alpha = Image.fromarray(np.where(clear, 0, 9).astype(np.uint8))
        picture = Image.fromarray(index).convert(kind.removesuffix("A"))
        picture.putalpha(alpha)
        picture.save(path)
    read = read_picture(path)
    assert read.valid_HW is not None
    np.testing.assert_array_equal(read.valid_HW, ~clear)
    if kind == "P":
        assert read.samples_HWC[0, 0].tolist() == [80, 90, 100]


def test_alpha_that_is_named_as_a_band_is_one(tmp_path: Path) -> None:
    samples = RNG.integers(0, 2, (4, 20, 30), np.uint8)
    path = write(tmp_path / "rgbn.tif", samples)
    with rasterio.open(path) as raster:
        assert raster.colorinterp[3] == ColorInterp.alpha
    picture = read_picture(path, Bands((4, 1)))
    assert picture.valid_HW is None
    np.testing.assert_array_equal(picture.samples_HWC[..., 0], samples[3])
    by_default = read_picture(path)
    assert by_default.valid_HW is not None
    np.testing.assert_array_equal(by_default.valid_HW, samples[3] > 0)


# --- dataset.yaml --------------------------------------------------------------------------------

SPEC = {"images": "i/*.tif", "masks": "m/{stem}.png", "classes": ["a", "b"]}


def test_dataset_yaml_tells_bands_range_and_nodata() -> None:
    assert DatasetSpec.model_validate(SPEC).photo_bands == RGB
    values = {"bands": ["NIR", 3, 2, 1], "range": [0, 10000], "nodata": 0, "show": [3, 2, 1]}
    bands = DatasetSpec.model_validate({**SPEC, **values}).photo_bands
    assert bands == Bands(("NIR", 3, 2, 1), ((0, 10000),) * 4, 0, (3, 2, 1))
    assert bands.channels == 4 and bands.shown == (1, 2, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bands": [0]}, "no band 0; they are counted from 1"),
        ({"bands": [1, 1]}, "one stands twice"),
        ({"bands": list(range(1, 18))}, "17 bands; allowed are 1 to 16"),
        ({"range": [10, 0]}, r"range \[10, 0\]: the second value must be the larger"),
        ({"range": [[0, 1], [0, 2]]}, "range: 2 for 3 bands"),
        ({"range": 5}, r"expected \[low, high\]"),
        ({"bands": [4, 3], "show": [4, 3, 2]}, "show: 2 is none of the bands; allowed: 4, 3"),
        ({"show": [1, 2]}, "show: 2 bands"),
    ],
)
def test_what_dataset_yaml_says_wrongly_is_explained(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DatasetSpec.model_validate({**SPEC, **values})


def test_a_checkpoint_keeps_how_photographs_are_read(tmp_path: Path) -> None:
    bands = Bands(("NIR", 3, 2), ((0, 1.5),) * 3, -1, (3,), (None, 0, 1), (0.1,) * 3, (0.2,) * 3)
    config = TrialConfig(
        architecture="scratch_unet", encoder=None, model_kwargs={"base_channels": 2, "depth": 1}
    )
    info = CheckpointInfo(config, 1, (0.5,), ("a", "b"), ((0, 0, 0), (1, 1, 1)), "0", bands=bands)
    network = build_network(config, 2, bands)
    save_checkpoint(tmp_path, info, network.state_dict(), None)
    assert load_info(tmp_path).bands == bands
    loaded = load_network(tmp_path, torch.device("cpu"))
    torch.testing.assert_close(loaded.mean_C11, network.mean_C11)
    manifest = tmp_path / "checkpoint.json"
    old = json.loads(manifest.read_text())
    del old["bands"]
    manifest.write_text(json.dumps(old))
    assert load_info(tmp_path).bands == RGB


# --- cases that users sent -----------------------------------------------------------------------


@pytest.mark.skipif(not (SHARED / "cases").is_dir(), reason="the cases are not here")
def test_the_tiffs_that_users_sent() -> None:
    folder = SHARED / "cases" / "tiff-orientation-twice" / "data" / "images"
    for path in sorted(folder.iterdir()):
        np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(path).convert("RGB")))
    deep = SHARED / "cases" / "tiff16-rgb-photometric"
    np.testing.assert_array_equal(read_image(deep / "rgb.tif"), read_image(deep / "minisblack.tif"))
    for path in (SHARED / "cases" / "nbits-mask" / "data" / "masks").iterdir():
        np.testing.assert_array_equal(read_mask(path, TEN), shown_by_gdal(path)[..., 0])


# --- mosaics are read as photographs are ---------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "1 bit", "4 bits", "palette", "P.png", "4 bits.png",
                                  "L.jpg", "CMYK.jpg", "RGB.jpg"])  # fmt: skip
def test_windows_of_mosaics_hold_the_same_numbers(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"photo.{kind.rpartition('.')[2] if '.' in kind else 'tif'}"
    smooth = np.array(Image.linear_gradient("L").resize((50, 40)))
    if kind in KINDS:
        options = dict(KINDS[kind])
        write(path, np.stack([smooth] * options.pop("count")), **options)
    elif "bit" in kind:
        bits = int(kind[0])
        write(path, (smooth >> (8 - bits))[None], nbits=bits)
    elif kind == "palette":
        write(path, smooth[None] // 64)
        with rasterio.open(path, "r+") as raster:
            raster.write_colormap(1, {k: (9 * k, 50 + k, 200, 255) for k in range(4)})
    else:
        Image.fromarray(smooth).convert("RGB").convert(kind.partition(".")[0]).save(path)
    whole = read_picture(path).samples_HWC
    monkeypatch.setattr(photographs, "WHOLE_PX", 10)
    with Photograph.open(path) as photo:
        assert photo.is_mosaic
        window = photo.read(slice(7, 33), slice(11, 45))
    assert np.abs(window - whole[7:33, 11:45].astype(int)).max() <= (2 if "jpg" in kind else 0)
