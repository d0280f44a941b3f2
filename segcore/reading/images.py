"""The one reader of picture files. Each question about a picture has its rule in one place here:

which library decodes it, its size and orientation (``read_header``); how it is turned upright
(``turn``); which bands count, palettes and sample types (``read_samples``); bit depth
(``to_rgb``). Masks (``segcore.reading.masks``) and windows of mosaics
(``segcore.inference.photographs``) are read by the same rules.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from segcore.errors import Problem, UserError
from segcore.files import whole_file

MAX_PIXELS = 1_000_000_000
"""Larger pictures are taken for decompression bombs: decoded, they fill several gigabytes."""

warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit of 0.18 gigapixels refuses real mosaics.

_DRIVERS = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG"}
"""GDAL's drivers, by the first bytes of a file."""

_FAILURES: tuple[tuple[type[Exception], str, str], ...] = (
    (FileNotFoundError, "does not exist", "put it there, or correct its name"),
    (UnidentifiedImageError, "is no picture", "allowed: JPEG, PNG, TIFF; replace or remove it"),
    (MemoryError, "does not fit into memory", "cut it into smaller ones"),
    # On damaged files decoders raise anything, from IndexError on.
    (Exception, "can't be read: {}", "copy it again from its source, or remove it"),
)


class ImageError(UserError):
    """A file that can't be used as a photograph or a mask; ``problem`` says why, and the mend."""

    def __init__(self, path: Path, what: str, mend: str) -> None:
        self.problem = Problem(str(path), what, mend)
        super().__init__(str(self.problem))


@dataclass(frozen=True, eq=False)
class Header:
    """What a picture file says of itself, before its pixels are decoded."""

    path: Path
    stored_px: tuple[int, int]
    """(height, width) as stored."""
    orientation: int
    """EXIF orientation, 1 (stored upright) to 8; from 5 on, stored rows are upright columns."""
    bits: int
    """Of a sample."""
    pillow: Image.Image | None
    """None: GDAL decodes the file."""

    @property
    def size_px(self) -> tuple[int, int]:
        """(height, width) of the upright picture."""
        return self.stored_px[::-1] if self.orientation >= 5 else self.stored_px


def read_header(path: Path, *, whole: bool = True) -> Header:
    """Read the header of a picture; the picture may have any size if it isn't read ``whole``.

    Pillow decodes what it can, because it notices truncated files. GDAL decodes samples of more
    than 8 bits, and the TIFFs that Pillow doesn't know. Raises ``ImageError``.
    """
    with naming(path):
        header = _ask_pillow(path) or _ask_gdal(path)
    height_px, width_px = header.stored_px
    if whole and height_px * width_px > MAX_PIXELS:
        raise ImageError(
            path,
            f"claims {height_px}×{width_px} px, more than {MAX_PIXELS:,} in all",
            "cut it into smaller pictures",
        )
    return header


def _ask_pillow(path: Path) -> Header | None:
    """None: Pillow doesn't know this TIFF."""
    try:
        image = Image.open(path)
    except UnidentifiedImageError:
        if path.suffix.lower() in {".tif", ".tiff"}:
            return None
        raise
    # The base class's method: that of PNG files decodes the whole picture to look for late EXIF.
    orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    orientation = orientation if orientation in range(1, 9) else 1
    stored_px = (image.height, image.width)
    bits = 32 if image.mode[0] in "IF" else 8
    if image.format == "PNG":
        with path.open("rb") as file:
            bits = file.read(25)[24]  # After signature, chunk header, width and height.
    if isinstance(image, TiffImageFile):
        bits = max(image.tag_v2.get(BITSPERSAMPLE, (1,)))
        if orientation >= 5:  # Pillow gives the size after turning.
            stored_px = (image.width, image.height)
    # Of 16-bit colours Pillow would give the upper bytes without a word. Pillow 13.0 turns TIFFs
    # itself, and in the wrong way those that it maps into memory.
    gdal = bits > 8 or (isinstance(image, TiffImageFile) and orientation != 1)
    return Header(path, stored_px, orientation, bits, None if gdal else image)


def _ask_gdal(path: Path) -> Header:
    with open_raster(path) as raster:
        bits = 8 * np.dtype(raster.dtypes[0]).itemsize
        return Header(path, (raster.height, raster.width), 1, bits, None)


def read_image(path: Path, at_least_px: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read a photograph: HWC, uint8, RGB, upright.

    With ``at_least_px`` (height, width) a JPEG is decoded at 1/2, 1/4 or 1/8 of its size as long as
    both sides stay at least that long; other formats come at full size.

    Grey and palette pictures become RGB, alpha is dropped, CMYK is converted; of more than three
    bands the first three count. 16-bit samples are shifted down (``to_rgb``).

    Raises ``ImageError`` where the file is missing, damaged, too large or of another sample type.
    """
    with naming(path):
        header = read_header(path)
        image = header.pillow
        if image is None:
            with open_raster(path) as raster:
                samples_HWC = read_samples(raster)
            return turn(to_rgb(samples_HWC, int(samples_HWC.max())), header.orientation)
        if at_least_px is not None:
            height_px, width_px = at_least_px
            turned = header.orientation >= 5
            image.draft(None, (height_px, width_px) if turned else (width_px, height_px))
        return turn(np.asarray(image.convert("RGB")), header.orientation)


def image_size_px(path: Path) -> tuple[int, int]:
    """(height, width) of the upright photograph, from the file's header alone."""
    return read_header(path).size_px


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into an ImageError that names the file."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        what, mend = next(texts for kind, *texts in _FAILURES if isinstance(error, kind))
        raise ImageError(path, what.format(error), mend) from error


def open_raster(path: Path) -> rasterio.DatasetReader:
    """Open a JPEG, PNG or TIFF with GDAL. Raises ``RasterioIOError``.

    The content chooses the driver: GDAL has others that follow references to files elsewhere.
    """
    with path.open("rb") as file:
        start = file.read(4)
    driver = next((name for magic, name in _DRIVERS.items() if start.startswith(magic)), "GTiff")
    return rasterio.open(path, driver=driver)


def read_samples(
    raster: rasterio.DatasetReader, window: Window | None = None, *, palette: bool = True
) -> NDArray[Any]:
    """A window of a raster, or all of it, as stored: HWC, uint8 or uint16.

    C are the first three bands, or the first of one or two (grey, perhaps with alpha). Palette
    indices become colours, if ``palette`` is true. Raises ``ImageError`` for other sample types.
    """
    samples_CHW = raster.read([1, 2, 3] if raster.count >= 3 else [1], window=window)
    if samples_CHW.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            Path(raster.name),
            f"has samples of type {samples_CHW.dtype}",
            "allowed: unsigned integers of 8 or 16 bits; convert it",
        )
    if palette and raster.colorinterp[0] == ColorInterp.palette:
        colormap = raster.colormap(1)
        table = np.array([colormap.get(v, (0, 0, 0))[:3] for v in range(256)], np.uint8)
        return table[samples_CHW[0]]
    return samples_CHW.transpose(1, 2, 0)


def to_rgb(samples_HWC: NDArray[Any], brightest: int) -> NDArray[np.uint8]:
    """HWC RGB of what ``read_samples`` gives.

    The file's brightest sample tells whether it holds 8, 10, 12, 14 or 16 bits; the upper 8 of
    these are kept.
    """
    bits = brightest.bit_length()
    surplus_bits = max(0, bits + bits % 2 - 8)
    if surplus_bits:
        samples_HWC = samples_HWC >> surplus_bits
    upper_HWC = samples_HWC.astype(np.uint8, copy=False)
    return np.ascontiguousarray(np.broadcast_to(upper_HWC, (*upper_HWC.shape[:2], 3)))


def turn(array: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation (CIPA DC-008, tag 274) to rows and columns."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        array = array[::-1]
    if orientation in {2, 3, 6, 7}:
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def write_image(
    path: Path, image: NDArray[np.uint8], palette: Sequence[tuple[int, int, int]] = ()
) -> None:
    """Write an RGB picture (HWC) or one number for a pixel (HW), as PNG, or as JPEG by its ending.

    ``palette``: the colours in which viewers show the numbers 0, 1, 2 …

    The file appears complete or not at all. Raises ``UserError`` where it can't be written.
    """
    kind = "JPEG" if path.suffix.lower() in {".jpg", ".jpeg"} else "PNG"
    picture = Image.fromarray(image)
    if palette:
        picture.putpalette([channel for color in palette for channel in color])
    try:
        with whole_file(path) as unfinished:
            picture.save(unfinished, format=kind)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error}") from error
