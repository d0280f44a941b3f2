"""Photographs and masks from files: reduced-size decoding, EXIF orientation, 16 bit, palettes.

Pillow reads what it can, because it tells a truncated file; rasterio reads more than 8 bits and
the TIFFs that Pillow doesn't know. Every failure is an ``ImageError`` that names the file.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from segcore.errors import Problem, UserError
from segcore.files import whole_file

MAX_PIXELS = 1_000_000_000
"""Larger pictures are taken for decompression bombs: decoded, they fill several gigabytes."""

warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit of 0.18 gigapixels refuses real mosaics.

_UNKNOWN = -1


class ImageError(UserError):
    """A file that can't be used as a photograph or a mask; ``problem`` says why, and the mend."""

    def __init__(self, path: Path, what: str, mend: str) -> None:
        self.problem = Problem(str(path), what, mend)
        super().__init__(str(self.problem))


@dataclass(frozen=True)
class MaskCoding:
    """What the pixels of a mask file mean.

    ``classes`` pairs an index value, or with ``by_color`` a colour as 0xRRGGBB, with its class
    or IGNORE_INDEX. Values that it doesn't hold are errors.
    """

    by_color: bool
    classes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Pair:
    """A photograph with its mask, both upright and of the same field of view."""

    image_HWC: NDArray[np.uint8]
    """Perhaps decoded at a reduced size."""
    mask_HW: NDArray[np.uint8]
    """Classes and IGNORE_INDEX at full size."""
    note: str | None
    """What was odd about the pair and has been put right."""


def read_image(path: Path, at_least_px: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read a photograph: HWC, uint8, RGB, upright as its EXIF orientation says.

    With ``at_least_px`` (height, width) a JPEG is decoded at 1/2, 1/4 or 1/8 of its size as long as
    both sides stay at least that long; other formats come at full size.

    Grey and palette pictures become RGB, alpha is dropped, CMYK is converted; of more than three
    bands the first three count. 16-bit samples are shifted down: the file's brightest sample tells
    whether it holds 8, 10, 12, 14 or 16 bits, and the upper 8 of these are kept.

    Raises ``ImageError`` where the file is missing, damaged, too large or of another sample type.
    """
    with naming(path):
        image = _open(path)
        if image is None:
            return _eight_bits(_read_bands(path))
        orientation = _orientation(image)
        if at_least_px is not None:
            height_px, width_px = at_least_px
            image.draft(None, (height_px, width_px) if orientation >= 5 else (width_px, height_px))
        return _upright(np.asarray(image.convert("RGB")), orientation)


def image_orientation(path: Path) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where the file says nothing. Of any size."""
    with naming(path):
        try:
            return _orientation(Image.open(path))
        except UnidentifiedImageError:  # What only rasterio reads has no EXIF.
            return 1


def image_size_px(path: Path) -> tuple[int, int]:
    """(height, width) of the upright photograph, from the file's header alone."""
    height_px, width_px, orientation = _read_header(path)
    return (width_px, height_px) if orientation >= 5 else (height_px, width_px)


def read_mask(path: Path, coding: MaskCoding) -> NDArray[np.uint8]:
    """Read a mask as class indices: HW, uint8, IGNORE_INDEX where nothing counts.

    A palette picture gives its colours to a coding by colour and its indices to one by index.
    Raises ``ImageError`` where the file can't be read, or holds values that ``coding`` doesn't.
    """
    with naming(path):
        image = _open(path)
        if not coding.by_color:
            return _classes_of_indices(_read_indices(image, path), coding, path)
        rgb_HWC = _eight_bits(_read_bands(path)) if image is None else image.convert("RGB")
        return _classes_of_colors(np.asarray(rgb_HWC), coding, path)


def read_pair(
    image_path: Path, mask_path: Path, coding: MaskCoding, at_least_px: tuple[int, int] | None
) -> Pair:
    """Read a photograph (``at_least_px`` as in ``read_image``) and the mask that belongs to it.

    A mask that was drawn on the photograph as stored, before its EXIF rotation, is turned with it.
    Raises ``ImageError`` where either can't be used or their sizes don't belong together.
    """
    image_HWC = read_image(image_path, at_least_px)
    mask_HW = read_mask(mask_path, coding)
    height_px, width_px, orientation = _read_header(image_path)
    upright_px = (width_px, height_px) if orientation >= 5 else (height_px, width_px)
    if mask_HW.shape == upright_px:
        return Pair(image_HWC, mask_HW, None)
    if mask_HW.shape == (height_px, width_px):
        note = "the photograph is turned by its EXIF orientation; its mask was turned with it"
        return Pair(image_HWC, _upright(mask_HW, orientation), note)
    raise ImageError(
        mask_path,
        f"has {mask_HW.shape[0]}×{mask_HW.shape[1]} px, "
        f"but its photograph {image_path.name} has {upright_px[0]}×{upright_px[1]}",
        "export the mask again at the photograph's size",
    )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into an ImageError that names the file."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(path, "does not exist", "put it there, or correct its name") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            path, "is no picture", "allowed: JPEG, PNG, TIFF; replace or remove it"
        ) from error
    except MemoryError as error:
        raise ImageError(path, "does not fit into memory", "cut it into smaller ones") from error
    except Exception as error:  # On damaged files decoders raise anything, from IndexError on.
        raise ImageError(
            path, f"can't be read: {error}", "copy it again from its source, or remove it"
        ) from error


def _open(path: Path) -> Image.Image | None:
    """Read the header with Pillow; None: it takes rasterio, for more than 8 bits or a rare TIFF."""
    try:
        image = Image.open(path)
    except UnidentifiedImageError:
        if path.suffix.lower() not in {".tif", ".tiff"}:
            raise
        return None
    _refuse_bomb(path, image.height, image.width)
    if image.mode in {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}:
        return None
    if image.format == "PNG":  # Of 16-bit RGB Pillow would give the upper bytes without a word.
        with path.open("rb") as file:
            bit_depth = file.read(25)[24]  # After signature, chunk header, width and height.
        if bit_depth == 16:
            return None
    return image


def _read_header(path: Path) -> tuple[int, int, int]:
    """Height and width as stored, and the EXIF orientation."""
    with naming(path):
        image = _open(path)
        if image is not None:
            return image.height, image.width, _orientation(image)
        with _open_raster(path) as raster:
            return raster.height, raster.width, 1


def _refuse_bomb(path: Path, height_px: int, width_px: int) -> None:
    if height_px * width_px > MAX_PIXELS:
        raise ImageError(
            path,
            f"claims {height_px}×{width_px} px, more than {MAX_PIXELS:,} in all",
            "cut it into smaller pictures",
        )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; from 5 on, stored rows are upright columns."""
    # The base class's method: that of PNG files decodes the whole picture to look for late EXIF.
    orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def _upright(array: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation (CIPA DC-008, tag 274) to rows and columns."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        array = array[::-1]
    if orientation in {2, 3, 6, 7}:
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


@contextmanager
def _open_raster(path: Path) -> Iterator[rasterio.DatasetReader]:
    # One of two drivers, by content: GDAL has others that follow references to files elsewhere.
    with path.open("rb") as file:
        driver = "PNG" if file.read(4) == b"\x89PNG" else "GTiff"
    with rasterio.open(path, driver=driver) as raster:
        _refuse_bomb(path, raster.height, raster.width)
        yield raster


def _read_bands(path: Path) -> NDArray[np.uint16]:
    """The first three bands, or the first of one or two (grey, perhaps with alpha), as HWC."""
    with _open_raster(path) as raster:
        bands_CHW = raster.read([1, 2, 3] if raster.count >= 3 else [1])
    if bands_CHW.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            path,
            f"has samples of type {bands_CHW.dtype}",
            "allowed: unsigned integers of 8 or 16 bits; convert it",
        )
    return np.ascontiguousarray(bands_CHW.transpose(1, 2, 0), np.uint16)


def _eight_bits(bands_HWC: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """HWC RGB of the upper 8 of the 8, 10, 12, 14 or 16 bits that the brightest sample needs."""
    bits = int(bands_HWC.max()).bit_length()
    upper_HWC = (bands_HWC >> max(0, bits + bits % 2 - 8)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(upper_HWC, (*upper_HWC.shape[:2], 3)))


def _read_indices(image: Image.Image | None, path: Path) -> NDArray[np.uint8]:
    """The index values of a mask (HW), whichever way its file stores one number for a pixel."""
    if image is not None and (image.mode, image.format) == ("L", "PNG"):
        # OpenCV spares a copy of the picture, a quarter of the time; Pillow explains failures.
        decoded = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if decoded is not None and decoded.ndim == 2:
            return np.asarray(decoded, np.uint8)
    if image is not None and image.mode in {"P", "L", "1"}:
        return np.asarray(image).astype(np.uint8, copy=False)
    bands_HWC = _read_bands(path) if image is None else np.asarray(image.convert("RGB"))
    if (bands_HWC != bands_HWC[..., :1]).any():
        raise ImageError(
            path,
            "is a colour picture, but the classes are index values",
            'give each class its colour in dataset.yaml: {Name: "#RRGGBB"}',
        )
    too_large = np.unique(bands_HWC[bands_HWC > 255])
    if too_large.size:
        raise _unknown_values(path, [str(value) for value in too_large])
    return bands_HWC[..., 0].astype(np.uint8)


def _classes_of_indices(
    index_HW: NDArray[np.uint8], coding: MaskCoding, path: Path
) -> NDArray[np.uint8]:
    class_of_256 = _class_table(coding)
    present_256 = cv2.calcHist([index_HW], [0], None, [256], [0, 256]).ravel() > 0
    unknown = np.flatnonzero(present_256 & (class_of_256 == _UNKNOWN))
    if unknown.size:
        raise _unknown_values(path, [str(value) for value in unknown])
    return np.asarray(cv2.LUT(index_HW, class_of_256.astype(np.uint8)), np.uint8)


def _classes_of_colors(
    rgb_HWC: NDArray[np.uint8], coding: MaskCoding, path: Path
) -> NDArray[np.uint8]:
    color_HW = rgb_HWC[..., 0].astype(np.int32)
    for channel in (1, 2):  # In place: with large pictures new memory takes most of the time.
        color_HW <<= 8
        color_HW |= rgb_HWC[..., channel]
    class_HW = _class_table(coding).take(color_HW)
    if class_HW.min() == _UNKNOWN:
        unknown = np.unique(color_HW[class_HW == _UNKNOWN])
        raise _unknown_values(path, [f"#{color:06X}" for color in unknown])
    return class_HW.astype(np.uint8)


@lru_cache(maxsize=4)
def _class_table(coding: MaskCoding) -> NDArray[np.int16]:
    """The class of each index (256), or of each of 2^24 colours: 32 MB, but no searching."""
    table = np.full(1 << 24 if coding.by_color else 1 << 8, _UNKNOWN, np.int16)
    for value, class_index in coding.classes:
        table[value] = class_index
    return table


def _unknown_values(path: Path, values: list[str]) -> ImageError:
    more = f" and {len(values) - 8} more" if len(values) > 8 else ""
    mend = "add them to the classes or to what is ignored in dataset.yaml, or correct the mask"
    if len(values) > 100:
        mend = "save masks without loss (PNG, not JPEG) and without smooth edges"
    return ImageError(path, f"holds {', '.join(values[:8])}{more}, which no class has", mend)


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an RGB picture (HWC) or one number for a pixel (HW), as PNG, or as JPEG by its ending.

    The file appears complete or not at all. Raises ``UserError`` where it can't be written.
    """
    kind = "JPEG" if path.suffix.lower() in {".jpg", ".jpeg"} else "PNG"
    try:
        with whole_file(path) as unfinished:
            Image.fromarray(image).save(unfinished, format=kind)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error}") from error
