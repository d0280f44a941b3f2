"""Photographs and masks of every kind that cameras and annotation tools write."""

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image, ImageOps

from segcore.config import IGNORE_INDEX
from segcore.reading.bands import Bands
from segcore.reading.headers import (
    MAX_PIXELS,
    ImageError,
    create_raster,
    image_size_px,
    open_raster,
)
from segcore.reading.images import read_image, read_picture, write_image
from segcore.reading.looking import look_at_mask
from segcore.reading.masks import MaskCoding, read_mask, read_pair, read_stored

INDICES = MaskCoding(by_color=False, classes=((0, 0), (1, 1), (7, IGNORE_INDEX)))
COLORS = MaskCoding(by_color=True, classes=((0xFF0000, 0), (0x0000FF, 1), (0x000000, 255)))


@pytest.fixture
def gradient() -> Image.Image:
    """A smooth 48×64 picture, brighter to the right in red and downwards in green."""
    rows, columns = np.mgrid[:48, :64]
    rgb = np.stack([columns * 4, rows * 5, np.full_like(rows, 60)], axis=-1)
    return Image.fromarray(rgb.astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "CMYK", "1"])
def test_every_kind_of_picture_becomes_rgb(
    tmp_path: Path, gradient: Image.Image, mode: str
) -> None:
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    picture = gradient.convert(mode)
    picture.save(path)
    image = read_image(path)
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    expected = np.asarray(picture.convert("RGB"), np.int64)
    assert np.abs(image - expected).mean() < (6 if mode == "CMYK" else 1e-9)


def test_transparent_pixels_keep_their_colour(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (10, 200, 30, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png")[0, 0].tolist() == [10, 200, 30]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_exif_orientation_is_applied_as_pillow_applies_it(
    tmp_path: Path, gradient: Image.Image, orientation: int, ending: str
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"turned.{ending}"
    gradient.save(path, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_size_px(path) == expected.shape[:2]


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0no such thing", b"Exif\0\0II*\0"])
def test_damaged_exif_is_no_reason_to_refuse_a_photograph(
    tmp_path: Path, gradient: Image.Image, exif: bytes, ending: str
) -> None:
    path = tmp_path / f"photo.{ending}"
    gradient.save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(path)))


def test_the_preview_in_a_raw_file_is_not_taken_for_the_photograph(
    tmp_path: Path, gradient: Image.Image
) -> None:
    gradient.save(tmp_path / "raw.dng", format="TIFF", tiffinfo={254: 1})
    with pytest.raises(ImageError, match=r"begins with a preview .* → develop it into a TIFF"):
        read_image(tmp_path / "raw.dng")


@pytest.mark.parametrize("ending", ["jp2", "pgm"])
def test_more_bits_than_pillow_gives_are_refused_not_clipped(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"photo.{ending}"
    Image.fromarray(np.arange(20 * 30, dtype=np.uint16).reshape(20, 30) * 100).save(path)
    with pytest.raises(ImageError, match=r"has more than 8 bits .* → convert it to TIFF"):
        read_image(path)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_pictures_of_sixteen_bits_are_turned_upright_too(
    tmp_path: Path, ending: str, orientation: int
) -> None:
    samples = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30) * 100
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"turned.{ending}"
    Image.fromarray(samples).save(path, exif=exif)
    expected = np.rot90(samples, {1: 0, 3: 2, 6: -1}[orientation])
    whole = Bands(ranges=((0, 65535),) * 3)
    np.testing.assert_array_equal(read_picture(path, whole).samples_HWC[..., 0], expected)
    assert image_size_px(path) == expected.shape


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_mask_with_an_orientation_of_its_own_is_turned_upright(
    tmp_path: Path, ending: str, orientation: int
) -> None:
    stored = np.zeros((20, 40), np.uint8)
    stored[:8, 30:] = 1
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.dstack([stored * 255] * 3)).save(tmp_path / "photo.png", exif=exif)
    Image.fromarray(stored).save(tmp_path / f"mask.{ending}", exif=exif)
    pair = read_pair(tmp_path / "photo.png", tmp_path / f"mask.{ending}", INDICES, None)
    np.testing.assert_array_equal(pair.image_HWC[..., 0] > 0, pair.mask_HW > 0)
    np.testing.assert_array_equal(pair.mask_HW, np.rot90(stored, {3: 2, 6: -1}[orientation]))
    assert pair.note is None


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("driver", ["GTiff", "PNG"])
def test_masks_of_few_bits_hold_the_values_that_were_written(
    tmp_path: Path, bits: int, driver: str
) -> None:
    index = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30) % 2**bits
    path = tmp_path / ("mask.tif" if driver == "GTiff" else "mask.png")
    shape = {"height": 20, "width": 30, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", driver=driver, nbits=bits, **shape) as raster:
        raster.write(index, 1)
    coding = MaskCoding(by_color=False, classes=tuple((k, k) for k in range(2**bits)))
    np.testing.assert_array_equal(read_mask(path, coding), index)


def test_a_palette_is_looked_up_whichever_library_reads_the_file(tmp_path: Path) -> None:
    index = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30) % 3
    colors = np.array([(200, 10, 10), (10, 200, 10), (10, 10, 200)], np.uint8)
    shape = {"height": 20, "width": 30, "count": 1, "dtype": "uint8"}
    for compress in ("none", "lerc"):  # Pillow doesn't know the second one.
        path = tmp_path / f"{compress}.tif"
        with rasterio.open(path, "w", driver="GTiff", compress=compress, **shape) as raster:
            raster.write_colormap(1, {k: (*map(int, color), 255) for k, color in enumerate(colors)})
            raster.write(index, 1)
        np.testing.assert_array_equal(read_image(path), colors[index])
        coding = MaskCoding(by_color=False, classes=((0, 0), (1, 1), (2, 2)))
        np.testing.assert_array_equal(read_mask(path, coding), index)


@pytest.mark.parametrize("orientation", [1, 6])
def test_reduced_decoding_stays_at_least_as_large_as_asked_and_looks_the_same(
    tmp_path: Path, gradient: Image.Image, orientation: int
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "large.jpg"
    gradient.resize((800, 600)).save(path, exif=exif, quality=95)
    full = read_image(path)
    for at_least_px in ((75, 100), (76, 100), (100, 75), (301, 10), (2000, 2000)):
        image = read_image(path, at_least_px)
        enough = tuple(min(side, own) for side, own in zip(at_least_px, full.shape, strict=False))
        assert image.shape[:2] >= enough
        assert image.shape[0] >= enough[0] and image.shape[1] >= enough[1]
        step = full.shape[0] // image.shape[0]
        assert step in (1, 2, 4, 8)
        assert np.abs(image - full[step // 2 :: step, step // 2 :: step].astype(int)).mean() < 3
    turned = orientation == 6
    assert read_image(path, (100, 75) if turned else (75, 100)).shape[0] == (100 if turned else 75)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("cut.jpg", lambda data: data[: len(data) // 2], "truncated"),
        ("cut.png", lambda data: data[: len(data) // 2], "truncated"),
        ("cut.tif", lambda data: data[: len(data) // 2], "can't be read: TIFF"),
        ("empty.jpg", lambda data: b"", "is no picture"),
        ("text.png", lambda data: b"no picture at all", "is no picture"),
        ("text.tif", lambda data: b"no picture at all", "is no picture"),
    ],
)
def test_damaged_files_are_named(
    tmp_path: Path, gradient: Image.Image, name: str, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ImageError, match=message) as caught:
        read_image(path, (10, 10))
    assert caught.value.problem.where == str(path)
    assert caught.value.problem.mend


def test_a_mosaic_beyond_pillows_limit_opens_and_a_bomb_does_not(tmp_path: Path) -> None:
    def png_of(name: str, width: int, height: int) -> Path:
        Image.new("1", (8, 8)).save(tmp_path / name)
        data = bytearray((tmp_path / name).read_bytes())
        data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    assert image_size_px(png_of("mosaic.png", 30_000, 20_000)) == (20_000, 30_000)
    with pytest.raises(ImageError, match=f"more than {MAX_PIXELS:,}"):
        read_image(png_of("bomb.png", 100_000, 100_000))


INDEX_HW = np.array([[0, 1, 7], [1, 0, 1]], np.uint8)
CLASS_HW = np.array([[0, 1, 255], [1, 0, 1]], np.uint8)
COLOR_HWC = np.array([[255, 0, 0], [0, 0, 255], [0, 0, 0]], np.uint8)[[[0, 1, 2], [1, 0, 1]]]


def palette_mask(index_HW: np.ndarray) -> Image.Image:
    picture = Image.fromarray(index_HW).convert("P")
    picture.putdata(index_HW.ravel().tolist())
    picture.putpalette([255, 0, 0, 0, 0, 255, *[0] * (3 * 254)])
    return picture


@pytest.mark.parametrize(
    ("picture", "coding"),
    [
        (Image.fromarray(INDEX_HW), INDICES),
        (Image.fromarray(np.dstack([INDEX_HW] * 3)), INDICES),
        (Image.fromarray(np.dstack([*[INDEX_HW] * 3, INDEX_HW * 0 + 255])), INDICES),
        (Image.fromarray(INDEX_HW.astype(np.uint16)), INDICES),
        (palette_mask(INDEX_HW), INDICES),
        (palette_mask(INDEX_HW), COLORS),
        (Image.fromarray(COLOR_HWC), COLORS),
        (Image.fromarray(np.dstack([COLOR_HWC, COLOR_HWC[..., :1] * 0])), COLORS),
    ],
    ids=["grey", "grey rgb", "grey rgba", "16 bit", "palette", "palette colours", "rgb", "rgba"],
)
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_masks_of_every_kind_give_classes(
    tmp_path: Path, picture: Image.Image, coding: MaskCoding, ending: str
) -> None:
    picture.save(tmp_path / f"mask.{ending}")
    mask = read_mask(tmp_path / f"mask.{ending}", coding)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, CLASS_HW)


@pytest.mark.parametrize("coding", [INDICES, COLORS], ids=["numbers", "colours"])
@pytest.mark.parametrize("ending", ["bmp", "gif"])
def test_a_palette_of_old_formats_gives_numbers_or_colours(
    tmp_path: Path, coding: MaskCoding, ending: str
) -> None:
    palette_mask(INDEX_HW).save(tmp_path / f"mask.{ending}", optimize=False)
    np.testing.assert_array_equal(read_mask(tmp_path / f"mask.{ending}", coding), CLASS_HW)
    look = look_at_mask(tmp_path / f"mask.{ending}")
    assert look.pixels.keys() == {0, 1, 7} and not look.by_color
    assert read_stored(tmp_path / f"mask.{ending}", None)[0].dtype == np.uint8
    assert look.palette[0] == (255, 0, 0) and look.palette[1] == (0, 0, 255)


def test_a_mask_of_one_bit_is_read_alike_from_every_format(tmp_path: Path) -> None:
    for ending in ("png", "bmp", "tif"):
        Image.fromarray(INDEX_HW == 1).save(tmp_path / f"mask.{ending}")
        mask = read_mask(tmp_path / f"mask.{ending}", INDICES)
        np.testing.assert_array_equal(mask, INDEX_HW == 1)


@pytest.mark.parametrize(
    ("mask", "coding", "message"),
    [
        (np.array([[0, 9], [200, 1]], np.uint8), INDICES, "holds 9, 200, which no class has"),
        (np.array([[0, 300]], np.uint16), INDICES, "holds 300"),
        (np.full((2, 2, 3), (1, 2, 3), np.uint8), COLORS, "holds #010203"),
        (np.full((2, 2, 3), (1, 2, 3), np.uint8), INDICES, "is a colour picture"),
    ],
)
def test_values_outside_the_classes_are_listed(
    tmp_path: Path, mask: np.ndarray, coding: MaskCoding, message: str
) -> None:
    Image.fromarray(mask).save(tmp_path / "mask.png")
    with pytest.raises(ImageError, match=message):
        read_mask(tmp_path / "mask.png", coding)


def test_a_lossy_colour_mask_is_told_to_be_saved_without_loss(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "mask.jpg")
    with pytest.raises(ImageError, match="without loss"):
        read_mask(tmp_path / "mask.jpg", COLORS)


def test_colours_a_level_off_are_told_to_be_snapped(tmp_path: Path) -> None:
    Image.fromarray(COLOR_HWC - (COLOR_HWC == 255)).save(tmp_path / "mask.png")
    with pytest.raises(ImageError, match=r"holds #0000FE, #FE0000.* → `snap: nearest`"):
        read_mask(tmp_path / "mask.png", COLORS)


@pytest.mark.parametrize("factor", [1, 257])
def test_colours_of_sixteen_bits_stand_in_the_upper_byte_or_the_lower(
    tmp_path: Path, factor: int
) -> None:
    path, shape = tmp_path / "mask.tif", {"height": 2, "width": 3, "count": 3, "dtype": "uint16"}
    with rasterio.open(path, "w", driver="GTiff", **shape) as raster:
        raster.write(COLOR_HWC.transpose(2, 0, 1).astype(np.uint16) * factor)
    np.testing.assert_array_equal(read_mask(path, COLORS), CLASS_HW)


def test_a_mask_of_which_its_size_can_not_tell_how_it_lies_is_told(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 3
    Image.new("RGB", (40, 20)).save(tmp_path / "photo.jpg", exif=exif)
    for name, options, told in (("plain", {}, True), ("turned", {"exif": exif}, False)):
        Image.new("L", (40, 20)).save(tmp_path / f"{name}.png", **options)
        pair = read_pair(tmp_path / "photo.jpg", tmp_path / f"{name}.png", INDICES, None)
        assert (pair.note is not None and "look whether they do" in pair.note) == told


@pytest.mark.parametrize("mask_is_upright", [True, False])
def test_a_mask_fits_a_turned_photograph_drawn_before_or_after_turning(
    tmp_path: Path, mask_is_upright: bool
) -> None:
    stored = np.zeros((20, 40), np.uint8)
    stored[:, 30:] = 1
    exif = Image.Exif()
    exif[274] = 6  # A quarter turn clockwise: the right side comes to lie at the bottom.
    Image.fromarray(np.dstack([stored * 255] * 3)).save(tmp_path / "photo.png", exif=exif)
    upright = np.rot90(stored, -1)
    Image.fromarray(upright if mask_is_upright else stored).save(tmp_path / "mask.png")
    pair = read_pair(tmp_path / "photo.png", tmp_path / "mask.png", INDICES, None)
    np.testing.assert_array_equal(pair.mask_HW, upright)
    np.testing.assert_array_equal(pair.image_HWC[..., 0] > 0, upright > 0)
    assert (pair.note is None) == mask_is_upright


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "photo.png")
    Image.new("L", (41, 20)).save(tmp_path / "mask.png")
    with pytest.raises(ImageError, match=r"mask\.png: has 20×41 px.*photo\.png has 20×40"):
        read_pair(tmp_path / "photo.png", tmp_path / "mask.png", INDICES, None)


def test_written_masks_read_back(tmp_path: Path) -> None:
    write_image(tmp_path / "mask.png", INDEX_HW)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", INDICES), CLASS_HW)
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]


@pytest.mark.filterwarnings("error")
def test_a_picture_without_a_place_on_earth_is_opened_without_a_warning(tmp_path: Path) -> None:
    # The filter of this test stands in front of ours, as that of a library imported later does.
    size = {"width": 8, "height": 6, "count": 1, "dtype": "uint8"}
    with create_raster(tmp_path / "new.tif", driver="GTiff", **size) as raster:
        raster.write(np.ones((1, 6, 8), np.uint8))
    with open_raster(tmp_path / "new.tif") as raster:
        assert raster.read(1).all()


SMOOTH_HW = np.array([[0, 3, 120, 130, 252, 255]], np.uint8)
GREY = MaskCoding(by_color=False, classes=((0, 0), (255, 1)))


@pytest.mark.parametrize(
    ("snap", "expected", "moved_px"),
    [(0.5, [0, 0, 0, 1, 1, 1], 4), (0.1, [0, 0, 255, 255, 1, 1], 4)],
)
def test_values_near_those_of_classes_snap_or_are_ignored(
    tmp_path: Path, snap: float, expected: list[int], moved_px: int
) -> None:
    Image.fromarray(SMOOTH_HW).save(tmp_path / "mask.png")
    Image.new("RGB", (6, 1)).save(tmp_path / "photo.png")
    coding = replace(GREY, snap=snap)
    pair = read_pair(tmp_path / "photo.png", tmp_path / "mask.png", coding, None)
    assert pair.mask_HW.tolist() == [expected]
    assert pair.snapped == (moved_px, 2), "120 and 130 lie between the classes"
    with pytest.raises(ImageError, match="holds 3, 120, 130, 252"):
        read_mask(tmp_path / "mask.png", GREY)


def test_colours_snap_to_the_nearest_class_or_to_what_is_ignored(tmp_path: Path) -> None:
    colors = [(250, 8, 3), (3, 0, 240), (9, 9, 9), (255, 0, 0), (120, 0, 120)]
    Image.fromarray(np.array([colors], np.uint8)).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", replace(COLORS, snap=0.5)).tolist() == [
        [0, 1, 255, 0, 255]
    ]
    sharp = np.kron(CLASS_HW, np.ones((16, 16), np.uint8))
    colored = np.array([(255, 0, 0), (0, 0, 255)], np.uint8)[np.minimum(sharp, 1)]
    Image.fromarray(colored).save(tmp_path / "mask.jpg", quality=95, subsampling=0)
    two = MaskCoding(by_color=True, classes=((0xFF0000, 0), (0x0000FF, 1)), snap=0.5)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.jpg", two), np.minimum(sharp, 1))


@pytest.mark.parametrize(("height_px", "width_px"), [(21, 39), (19, 40), (20, 42)])
def test_a_mask_a_pixel_off_is_fitted_if_that_is_asked_for(
    tmp_path: Path, height_px: int, width_px: int
) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "photo.png")
    Image.fromarray(np.ones((height_px, width_px), np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(ImageError, match="`fit: crop`"):
        read_pair(tmp_path / "photo.png", tmp_path / "mask.png", INDICES, None)
    pair = read_pair(
        tmp_path / "photo.png", tmp_path / "mask.png", replace(INDICES, fit=True), None
    )
    expected = np.full((20, 40), IGNORE_INDEX)
    expected[:height_px, :width_px] = 1
    np.testing.assert_array_equal(pair.mask_HW, expected)
    assert pair.note is not None and "fit: crop" in pair.note


def test_a_mask_on_its_side_is_told_to_be_turned(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "photo.png")
    Image.new("L", (20, 40)).save(tmp_path / "mask.png")
    for coding in (INDICES, replace(INDICES, fit=True)):
        with pytest.raises(ImageError, match="height and width are swapped"):
            read_pair(tmp_path / "photo.png", tmp_path / "mask.png", coding, None)


def test_a_name_that_is_no_utf8_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "gr\udcfcn.tif"  # As Python gives a byte of Latin-1.
    Image.new("RGB", (4, 4)).save(tmp_path / "a.tif")
    (tmp_path / "a.tif").rename(path)
    with pytest.raises(ImageError, match="has a name that is no UTF-8 → rename it") as caught:
        read_image(path)
    str(caught.value).encode()
