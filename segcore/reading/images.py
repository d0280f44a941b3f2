"""The one reader of photographs. Each question about a picture has its rule in one place:

which library decodes it, its size and orientation (``headers``); which numbers of a file count, and
which pixels hold data (``samples``); what the numbers mean (``bands``); what has to be measured on
many files (``measuring``); where on earth it lies (``ground``). Masks (``masks``) and windows of
mosaics (``segcore.inference.photographs``) are read by the same rules.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segcore.config import IGNORED_COLOR
from segcore.errors import UserError
from segcore.files import whole_file
from segcore.reading.bands import RGB, Bands, to_rgb8
from segcore.reading.headers import Header, check_end, naming, open_raster, read_header, turn
from segcore.reading.measuring import own_bands
from segcore.reading.samples import Picture, decode_raw, encode, read_window, upright


def read_picture(
    path: Path, bands: Bands = RGB, at_least_px: tuple[int, int] | None = None
) -> Picture:
    """Read a photograph, upright, as ``bands`` says.

    With ``at_least_px`` (height, width) a JPEG is decoded at 1/2, 1/4 or 1/8 of its size as long as
    both sides stay at least that long; other formats come at full size.

    Raises ``ImageError`` where the file is missing, damaged, too large, lacks a band, or has other
    samples than 8 bits although ``bands`` has no ranges.
    """
    return read_pixels(read_header(path), bands, at_least_px)


def read_pixels(
    header: Header, bands: Bands = RGB, at_least_px: tuple[int, int] | None = None
) -> Picture:
    """The same of a file whose header was read already."""
    with naming(header.path):
        if header.pillow is None:
            check_end(header.path)
            with open_raster(header.path) as raster:
                picture = read_window(raster, bands)
                if header.orientation == 1:
                    return picture
                valid_HW = picture.valid_HW
                return Picture(
                    upright(picture.samples_HWC, raster, header.orientation),
                    None if valid_HW is None else upright(valid_HW, raster, header.orientation),
                )
        raw_HWC, valid_HW = decode_raw(header, bands, at_least_px)
        return Picture(
            turn(encode(raw_HWC, bands), header.orientation),
            None if valid_HW is None else turn(valid_HW, header.orientation),
        )


def read_image(path: str | Path, at_least_px: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read any photograph as people see it: HWC, uint8, RGB, upright.

    Data of 8 bits come as they are. Others are spread over black to white by their own values:
    networks need the ranges of their data set instead (``read_picture``). Raises ``ImageError``.
    """
    path = Path(path)
    bands = own_bands(path)
    return to_rgb8(read_picture(path, bands, at_least_px).samples_HWC, bands)


def write_image(
    path: Path, image: NDArray[np.uint8], palette: Sequence[tuple[int, int, int]] = ()
) -> None:
    """Write an RGB picture (HWC) or one number for a pixel (HW), as PNG, or as JPEG by its ending.

    ``palette``: the colours in which viewers show the numbers 0, 1, 2 …; all others are grey.

    The file appears complete or not at all. Raises ``UserError`` where it can't be written.
    """
    kind = "JPEG" if path.suffix.lower() in {".jpg", ".jpeg"} else "PNG"
    picture = Image.fromarray(image)
    if palette:
        # All 256 colours: of fewer, Pillow makes a PNG of fewer bits, in which 255 would be lost.
        colors = [*palette, *[IGNORED_COLOR] * (256 - len(palette))]
        picture.putpalette([channel for color in colors for channel in color])
    try:
        with whole_file(path) as unfinished:
            picture.save(unfinished, format=kind)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error}") from error
