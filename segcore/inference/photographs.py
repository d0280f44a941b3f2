"""Photographs to predict, of any size: held whole, or read from the file in windows.

A picture of up to ``WHOLE_PX`` pixels is read as for training (``images.read_image``). A larger one
is a mosaic: it stays in its file, and windows of it are read and scaled as they are needed, by the
same rules: a scaled pixel is the mean of its area.
"""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from segcore.data.windows import Grid, scale_image
from segcore.reading.images import (
    naming,
    open_raster,
    read_header,
    read_image,
    read_samples,
    to_rgb,
)

WHOLE_PX = 100_000_000
"""Up to the size of the largest cameras: 0.3 GB in memory."""

_PIECE_BYTES = 4_000_000
"""How much of the file is scaled at once."""


@dataclass(frozen=True)
class Georeference:
    """Where on earth a photograph's pixels lie."""

    crs: rasterio.crs.CRS | None
    transform: rasterio.Affine


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph that is open for reading."""

    path: Path
    height_px: int
    width_px: int
    georeference: Georeference | None = None
    _image_HWC: NDArray[np.uint8] | None = None
    _raster: rasterio.DatasetReader | None = None
    _brightest: int = 255
    """The brightest sample of a mosaic's file, which tells the file's bit depth."""

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> "Iterator[Photograph]":
        """Open a JPEG, PNG or TIFF. Raises ``ImageError`` where it can't be read."""
        with ExitStack() as stack:
            with naming(path):
                photo = cls._open(path, stack)
            yield photo

    @classmethod
    def in_memory(cls, image_HWC: NDArray[np.uint8]) -> "Photograph":
        """A photograph from its pixels (uint8, RGB)."""
        height_px, width_px, _ = image_HWC.shape
        return cls(Path("in memory"), height_px, width_px, _image_HWC=image_HWC)

    @classmethod
    def _open(cls, path: Path, stack: ExitStack) -> "Photograph":
        try:
            raster = stack.enter_context(open_raster(path))
        except rasterio.errors.RasterioIOError:  # Only Pillow reads this format.
            raster = None
        # A picture that has to be turned is no map: the file's grid isn't the photograph's.
        if raster is None or read_header(path, whole=False).orientation != 1:
            return replace(cls.in_memory(read_image(path)), path=path)
        located = raster.crs is not None or raster.transform != rasterio.Affine.identity()
        georeference = Georeference(raster.crs, raster.transform) if located else None
        photo = cls(path, raster.height, raster.width, georeference, None, raster)
        if raster.height * raster.width <= WHOLE_PX:
            return replace(photo, _image_HWC=read_image(path))
        return replace(photo, _brightest=_find_brightest(raster))

    @property
    def size_px(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height_px, self.width_px

    @property
    def is_mosaic(self) -> bool:
        """Whether it is too large to be held whole."""
        return self._image_HWC is None

    def on_grid(self, grid: Grid) -> "GridImage":
        """The photograph scaled to a grid."""
        whole_HWC = None if self._image_HWC is None else scale_image(self._image_HWC, grid)
        return GridImage(self, grid, whole_HWC)

    @property
    def has_holes(self) -> bool:
        """Whether the file may mark pixels as no data, by a value, a mask or transparency."""
        flags = self._raster.mask_flag_enums if self._raster is not None else ()
        return any(MaskFlags.all_valid not in band for band in flags)

    def valid(self, rows: slice, columns: slice) -> NDArray[np.bool_]:
        """Whether each pixel holds data (HW). Raises ``ImageError`` where the file is damaged."""
        if self._raster is None or not self.has_holes:
            return np.ones((rows.stop - rows.start, columns.stop - columns.start), dtype=bool)
        with naming(self.path):
            window = Window.from_slices(rows, columns)
            return np.asarray(self._raster.dataset_mask(window=window) > 0)

    def read(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        """A window in RGB (HWC). Raises ``ImageError`` where the file is damaged."""
        if self._image_HWC is not None:
            return self._image_HWC[rows, columns]
        assert self._raster is not None
        with naming(self.path):
            samples_HWC = read_samples(self._raster, Window.from_slices(rows, columns))
        return to_rgb(samples_HWC, self._brightest)


@dataclass(frozen=True, eq=False)
class GridImage:
    """A photograph on a grid, read by rows."""

    photo: Photograph
    grid: Grid
    _whole_HWC: NDArray[np.uint8] | None

    def read(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        """A window of the scaled photograph (HWC)."""
        if self._whole_HWC is not None:
            return self._whole_HWC[rows, columns]
        if (self.grid.height_px, self.grid.width_px) == self.photo.size_px:
            return self.photo.read(rows, columns)
        shape = (rows.stop - rows.start, columns.stop - columns.start, 3)
        scaled_HWC = np.empty(shape, np.uint8)
        (height_px, width_px), (photo_height_px, photo_width_px) = self.grid[:2], self.photo.size_px
        step = max(1, round(_PIECE_BYTES / (3 * photo_width_px) * height_px / photo_height_px))
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
    piece_HWC: NDArray[np.uint8], row_edges: NDArray[np.float64], column_edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Means of the areas between the edges; pixels at an edge count by their share."""
    sums = cv2.integral(piece_HWC, sdepth=cv2.CV_64F)
    for axis, edges in enumerate((row_edges, column_edges)):
        whole = np.minimum(edges.astype(np.int64), piece_HWC.shape[axis] - 1)
        share = np.expand_dims(edges - whole, tuple(i for i in range(3) if i != axis))
        sums = sums.take(whole, axis=axis) * (1 - share) + sums.take(whole + 1, axis=axis) * share
    areas = np.diff(row_edges)[:, None, None] * np.diff(column_edges)[None, :, None]
    means: NDArray[np.float64] = np.diff(np.diff(sums, axis=0), axis=1) / areas
    return means


def _find_brightest(raster: rasterio.DatasetReader) -> int:
    """The brightest sample of a file, read in pieces; 255 at most where samples have 8 bits."""
    if raster.dtypes[0] == "uint8":
        return 255
    step = max(1, _PIECE_BYTES // (6 * raster.width))
    tops = [*range(0, raster.height, step), raster.height]
    windows = (Window.from_slices(rows, (0, raster.width)) for rows in itertools.pairwise(tops))
    return max(int(read_samples(raster, window).max()) for window in windows)
