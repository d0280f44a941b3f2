"""Which library decodes a picture file, how large the picture is, and how it lies.

GDAL decodes TIFF and PNG, so the values of a file are those that gdalinfo, QGIS and rasterio show.
Pillow decodes JPEG, because it decodes large ones at a reduced size, and what GDAL doesn't know.
"""

import contextlib
import mmap
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from rasterio.enums import MaskFlags

from segcore.errors import Problem, UserError, root_of
from segcore.folders import is_unicode

MAX_PIXELS = 1_000_000_000
"""Larger pictures are taken for decompression bombs: decoded, they fill several gigabytes."""

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit of 0.18 gigapixels refuses real mosaics.

_DRIVERS = {
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "GTiff"),
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
}
"""GDAL's drivers, by the first bytes of a file."""

_TIFF_NUMBERS = {3: "H", 4: "I"}
"""Types of TIFF tags (SHORT and LONG), as ``struct`` calls them."""

_FAILURES: tuple[tuple[type[Exception], str, str], ...] = (
    (UnicodeEncodeError, "has a name that is no UTF-8", "rename it (convmv renames many)"),
    (FileNotFoundError, "does not exist", "put it there, or correct its name"),
    (UnidentifiedImageError, "is no picture", "allowed: JPEG, PNG, TIFF; replace or remove it"),
    (MemoryError, "does not fit into memory", "cut it into smaller ones"),
    # On damaged files decoders raise anything, from IndexError on.
    (Exception, "can't be read: {}", "copy it again from its source, or remove it"),
)


class ImageError(UserError):
    """A file that can't be used as a photograph or a mask; ``problem`` says why, and the mend."""

    def __init__(self, path: Path, what: str, mend: str) -> None:
        name = str(path)
        # A name that is no UTF-8 could not be printed.
        self.problem = Problem(name if is_unicode(name) else ascii(name), what, mend)
        super().__init__(str(self.problem))


@dataclass(frozen=True, eq=False)
class Header:
    """What a picture file says of itself, before its pixels are decoded."""

    path: Path
    stored_px: tuple[int, int]
    """(height, width) as stored."""
    orientation: int
    """EXIF orientation, 1 (stored upright) to 8; from 5 on, stored rows are upright columns."""
    pillow: Image.Image | None
    """None: GDAL decodes the file."""

    @property
    def size_px(self) -> tuple[int, int]:
        """(height, width) of the upright picture."""
        return self.stored_px[::-1] if self.orientation >= 5 else self.stored_px


def read_header(path: Path, *, whole: bool = True) -> Header:
    """Read the header of a picture; the picture may have any size if it isn't read ``whole``.

    Raises ``ImageError``.
    """
    with naming(path):
        driver = _driver(path)
        pillow = None if driver in {"GTiff", "PNG"} else Image.open(path)
        if driver is not None:
            with open_raster(path) as raster:
                stored_px = (raster.height, raster.width)
                if not all(MaskFlags.all_valid in flags for flags in raster.mask_flag_enums):
                    pillow = None  # GDAL knows of masks that are hidden in or beside a JPEG.
        elif pillow is not None:
            stored_px = (pillow.height, pillow.width)
        header = Header(path, stored_px, _orientation(path, driver), pillow)
    height_px, width_px = stored_px
    if whole and height_px * width_px > MAX_PIXELS:
        raise ImageError(
            path,
            f"claims {height_px}×{width_px} px, more than {MAX_PIXELS:,} in all",
            "cut it into smaller pictures",
        )
    return header


def image_size_px(path: Path) -> tuple[int, int]:
    """(height, width) of the upright photograph, from the file's header alone."""
    return read_header(path).size_px


def count_pages(path: Path) -> int:
    """How many pictures a TIFF holds, of which the first is read; previews and masks don't count.

    Raises ``ImageError``.
    """
    with naming(path):
        if _driver(path) != "GTiff":
            return 1
        with open_raster(path) as raster:
            return max(1, len(raster.subdatasets))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into an ImageError that names the file."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        what, mend = next(texts for kind, *texts in _FAILURES if isinstance(error, kind))
        raise ImageError(path, what.format(root_of(error)), mend) from error


def open_raster(path: Path) -> rasterio.DatasetReader:
    """Open a JPEG, PNG or TIFF with GDAL. Raises ``RasterioIOError``, ``UnidentifiedImageError``.

    The content chooses the driver: GDAL has others that follow references to files elsewhere.
    """
    driver = _driver(path)
    if driver is None:
        raise UnidentifiedImageError(str(path))
    _silence_rasterio()
    return rasterio.open(path, driver=driver)


def create_raster(path: Path, **profile: Any) -> rasterio.io.DatasetWriter:
    """Open a new file to write it with GDAL. Raises ``RasterioIOError``."""
    _silence_rasterio()
    return rasterio.open(path, "w", **profile)


def _silence_rasterio() -> None:
    """Most photographs have no place on earth, and rasterio warns of each one.

    At each opening, because libraries that are imported later put filters of their own in front.
    """
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)


def check_end(path: Path) -> None:
    """Raise ``OSError`` where a PNG is cut off, because GDAL fills what is missing with zeros."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] == b"\x89PNG" and content.rfind(b"IEND") < 0:
            raise OSError("the file is truncated")


def turn(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Apply an EXIF orientation (CIPA DC-008, tag 274) to rows and columns."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        array = array[::-1]
    if orientation in {2, 3, 6, 7}:
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def _driver(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(4)
    return next((name for magic, name in _DRIVERS.items() if start.startswith(magic)), None)


def _orientation(path: Path, driver: str | None) -> int:
    orientation = 1
    if driver == "GTiff":
        tags = _tiff_tags(path)
        if tags.get(ExifTags.Base.NewSubfileType, 0) & 1:
            raise ImageError(
                path,
                "begins with a preview of its picture, as raw files of cameras do",
                "develop it into a TIFF or JPEG",
            )
        orientation = tags.get(ExifTags.Base.Orientation, 1)
    else:
        # Of damaged EXIF Pillow raises anything; viewers show the picture as it is stored.
        with Image.open(path) as image, contextlib.suppress(Exception):
            # The base class's method: that of PNG files decodes the picture to find late EXIF.
            orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def _tiff_tags(path: Path) -> dict[int, int]:
    """The first picture's tags of one small number, which GDAL doesn't tell all.

    Pillow can't read each BigTIFF.
    """
    tags: dict[int, int] = {}
    with path.open("rb") as file:
        start = file.read(16)
        order = "<" if start[:1] == b"I" else ">"
        big = b"+" in start[2:4]  # The number 43.
        entry_bytes, value_at, count, offset = (20, 12, "Q", "Q") if big else (12, 8, "H", "I")
        file.seek(struct.unpack_from(order + offset, start, 8 if big else 4)[0])
        (entries,) = struct.unpack(order + count, file.read(struct.calcsize(count)))
        for _ in range(entries):
            entry = file.read(entry_bytes)
            tag, kind = struct.unpack_from(order + "HH", entry)
            if kind in _TIFF_NUMBERS:
                (tags[tag],) = struct.unpack_from(order + _TIFF_NUMBERS[kind], entry, value_at)
    return tags
