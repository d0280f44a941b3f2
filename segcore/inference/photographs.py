"""Photographs to predict, of any size: held whole, or read from the file in windows.

A picture of up to ``WHOLE_PX`` pixels is read as for training (``images.read_picture``). A larger
one is a mosaic: it stays in its file, and windows of it are read and scaled as they are needed, by
the same rules: a scaled pixel is the mean of its area.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import UnidentifiedImageError
from rasterio.windows import Window

from segcore.data.windows import Grid, scale_image
from segcore.reading.bands import RGB, Bands, Samples
from segcore.reading.ground import Georeference, georeference_of, ground_size_m
from segcore.reading.headers import check_end, naming, open_raster, read_header
from segcore.reading.images import read_picture
from segcore.reading.measuring import own_bands
from segcore.reading.samples import may_have_holes, read_raw, read_window

WHOLE_PX = 100_000_000
"""Up to the size of the largest cameras: 0.3 GB in memory."""

_PIECE_BYTES = 4_000_000
"""How much of the file is scaled at once."""


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph that is open for reading."""

    path: Path
    height_px: int
    width_px: int
    georeference: Georeference | None = None
    bands: Bands = RGB
    """What the samples mean."""
    has_holes: bool = False
    """Whether there may be pixels without data (``valid``)."""
    _image_HWC: Samples | None = None
    _valid_HW: NDArray[np.bool_] | None = None
    _raster: rasterio.DatasetReader | None = None

    @classmethod
    @contextmanager
    def open(cls, path: Path, bands: Bands | None = None) -> "Iterator[Photograph]":
        """Open a JPEG, PNG or TIFF. Without ``bands`` it is read as RGB in its own value range.

        Raises ``ImageError`` where it can't be read, or has not the samples that ``bands`` wants.
        """
        with ExitStack() as stack:
            with naming(path):
                photo = cls._open(path, bands or own_bands(path), stack)
            yield photo

    @classmethod
    def in_memory(
        cls, image_HWC: Samples, *, valid_HW: NDArray[np.bool_] | None = None, bands: Bands = RGB
    ) -> "Photograph":
        """A photograph from its samples; ``valid_HW``: where there are data, None: everywhere."""
        height_px, width_px, _ = image_HWC.shape
        return cls(
            Path("in memory"), height_px, width_px, bands=bands, has_holes=valid_HW is not None,
            _image_HWC=image_HWC, _valid_HW=valid_HW,
        )  # fmt: skip

    @classmethod
    def _open(cls, path: Path, bands: Bands, stack: ExitStack) -> "Photograph":
        header = read_header(path, whole=False)
        try:
            raster = stack.enter_context(open_raster(path))
        except UnidentifiedImageError:  # Only Pillow reads this format.
            raster = None
        place = georeference_of(raster) if raster is not None else None
        if place is not None:
            place = place.turned(header.orientation, header.stored_px)
        # A picture that has to be turned is read whole: the file's rows aren't the photograph's.
        small = header.stored_px[0] * header.stored_px[1] <= WHOLE_PX
        if raster is None or small or header.orientation != 1:
            picture = read_picture(path, bands)
            photo = cls.in_memory(picture.blanked(), valid_HW=picture.valid_HW, bands=bands)
            return replace(photo, path=path, georeference=place)
        check_end(path)
        read_window(raster, bands, Window(0, 0, 1, 1))  # Tells at once of bands that are missing.
        holes = may_have_holes(raster, bands)
        return cls(path, raster.height, raster.width, place, bands, holes, _raster=raster)

    @property
    def size_px(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height_px, self.width_px

    @property
    def metres_per_px(self) -> float | None:
        """The size of a pixel on the ground; None where the file doesn't tell."""
        return ground_size_m(self.georeference, self.size_px)

    @property
    def is_mosaic(self) -> bool:
        """Whether it is too large to be held whole."""
        return self._image_HWC is None

    def on_grid(self, grid: Grid) -> "GridImage":
        """The photograph scaled to a grid."""
        whole_HWC = None if self._image_HWC is None else scale_image(self._image_HWC, grid)
        return GridImage(self, grid, whole_HWC)

    def valid(self, rows: slice, columns: slice) -> NDArray[np.bool_]:
        """Whether each pixel holds data (HW). Raises ``ImageError`` where the file is damaged."""
        valid_HW = self._valid_HW
        if valid_HW is not None:
            return valid_HW[rows, columns]
        if self._raster is not None and self.has_holes:
            with naming(self.path):
                window = Window.from_slices(rows, columns)
                _, valid_HW = read_raw(self._raster, self.bands, window)
        if valid_HW is None:
            valid_HW = np.ones((rows.stop - rows.start, columns.stop - columns.start), np.bool_)
        return valid_HW

    def read(self, rows: slice, columns: slice) -> Samples:
        """The samples of a window (HWC). Raises ``ImageError`` where the file is damaged."""
        if self._image_HWC is not None:
            return self._image_HWC[rows, columns]
        assert self._raster is not None
        with naming(self.path):
            return read_window(
                self._raster, self.bands, Window.from_slices(rows, columns)
            ).blanked()


@dataclass(frozen=True, eq=False)
class GridImage:
    """A photograph on a grid, read by rows."""

    photo: Photograph
    grid: Grid
    _whole_HWC: Samples | None

    def read(self, rows: slice, columns: slice) -> Samples:
        """A window of the scaled photograph (HWC)."""
        if self._whole_HWC is not None:
            return self._whole_HWC[rows, columns]
        if (self.grid.height_px, self.grid.width_px) == self.photo.size_px:
            return self.photo.read(rows, columns)
        bands = self.photo.bands
        shape = (rows.stop - rows.start, columns.stop - columns.start, bands.channels)
        scaled_HWC = np.empty(shape, bands.dtype)
        (height_px, width_px), (photo_height_px, photo_width_px) = self.grid[:2], self.photo.size_px
        row_bytes = bands.channels * bands.dtype.itemsize * photo_width_px
        step = max(1, round(_PIECE_BYTES / row_bytes * height_px / photo_height_px))
        for top in range(rows.start, rows.stop, step):
            part = slice(top, min(top + step, rows.stop))
            source_rows, source_columns = self.source(part, columns)
            piece_HWC = self.photo.read(source_rows, source_columns)
            row_edges = _edges(part, height_px, photo_height_px) - source_rows.start
            column_edges = _edges(columns, width_px, photo_width_px) - source_columns.start
            here = slice(part.start - rows.start, part.stop - rows.start)
            scaled_HWC[here] = _area_means(piece_HWC, row_edges, column_edges).round()
        return scaled_HWC

    def source(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """The photograph's rows and columns that pixels of the grid are made of."""
        return (
            _source(rows, self.grid.height_px, self.photo.height_px),
            _source(columns, self.grid.width_px, self.photo.width_px),
        )


def _source(span: slice, grid_px: int, photo_px: int) -> slice:
    return slice(span.start * photo_px // grid_px, -(-span.stop * photo_px // grid_px))


def _edges(span: slice, grid_px: int, photo_px: int) -> NDArray[np.float64]:
    """Where the grid's pixels begin and end, in pixels of the photograph."""
    return np.arange(span.start, span.stop + 1) * photo_px / grid_px


def _area_means(
    piece_HWC: Samples, row_edges: NDArray[np.float64], column_edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Means of the areas between the edges; pixels at an edge count by their share."""
    countable_HWC = piece_HWC if piece_HWC.dtype == np.uint8 else piece_HWC.astype(np.float32)
    sums = np.atleast_3d(cv2.integral(countable_HWC, sdepth=cv2.CV_64F))
    for axis, edges in enumerate((row_edges, column_edges)):
        whole = np.minimum(edges.astype(np.int64), piece_HWC.shape[axis] - 1)
        share = np.expand_dims(edges - whole, tuple(i for i in range(3) if i != axis))
        sums = sums.take(whole, axis=axis) * (1 - share) + sums.take(whole + 1, axis=axis) * share
    areas = np.diff(row_edges)[:, None, None] * np.diff(column_edges)[None, :, None]
    means: NDArray[np.float64] = np.diff(np.diff(sums, axis=0), axis=1) / areas
    return means
