"""Photographs to predict, of any size: held whole, or read from the file piece by piece.

A picture of up to ``WHOLE_PX`` pixels is read as for training (``images.read_image``). A larger one
is a mosaic: it stays in its file, and pieces of it are read and scaled as they are needed. Scaling
is the same, the mean of the area.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

from segcore.data.images import ImageError, image_orientation, naming, read_image
from segcore.data.items import Grid, scale_image

WHOLE_PX = 100_000_000
"""Up to the size of the largest cameras: 0.3 GB in memory."""

_PIECE_BYTES = 4_000_000
"""Of the file, scaled at once."""
_DRIVERS = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG"}


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
    georeference: Georeference | None
    _image_HWC: NDArray[np.uint8] | None
    _raster: rasterio.DatasetReader | None
    _shift_bits: int = 0

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> "Iterator[Photograph]":
        """Open a JPEG, PNG or TIFF. Raises ``ImageError`` where it can't be read."""
        with naming(path):
            raster = _open_raster(path)
        try:
            with naming(path):
                photo = cls._of(path, raster)
            yield photo
        finally:
            if raster is not None:
                raster.close()

    @classmethod
    def in_memory(cls, image_HWC: NDArray[np.uint8]) -> "Photograph":
        """A picture in RGB that is there already."""
        return cls(Path("in memory"), image_HWC.shape[0], image_HWC.shape[1], None, image_HWC, None)

    @classmethod
    def _of(cls, path: Path, raster: rasterio.DatasetReader | None) -> "Photograph":
        # What a camera has turned by EXIF is no map: the file's grid isn't the photograph's.
        if raster is None or image_orientation(path) != 1:
            return replace(cls.in_memory(read_image(path)), path=path)
        located = raster.crs is not None or raster.transform != rasterio.Affine.identity()
        georeference = Georeference(raster.crs, raster.transform) if located else None
        if raster.height * raster.width <= WHOLE_PX:
            return cls(path, raster.height, raster.width, georeference, read_image(path), raster)
        shift_bits = _surplus_bits(path, raster)
        return cls(path, raster.height, raster.width, georeference, None, raster, shift_bits)

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
            valid_HW: NDArray[np.bool_] = (
                self._raster.dataset_mask(window=Window.from_slices(rows, columns)) > 0
            )
        return valid_HW

    def read(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        """A piece in RGB (HWC). Raises ``ImageError`` where the file is damaged."""
        if self._image_HWC is not None:
            return self._image_HWC[rows, columns]
        assert self._raster is not None
        with naming(self.path):
            bands = [1, 2, 3] if self._raster.count >= 3 else [1]
            bands_CHW = self._raster.read(bands, window=Window.from_slices(rows, columns))
            if self._raster.colorinterp[0] == ColorInterp.palette:
                colormap = self._raster.colormap(1)
                table = np.array([colormap.get(v, (0, 0, 0))[:3] for v in range(256)], np.uint8)
                return table[bands_CHW[0]]
        eight_CHW = (bands_CHW >> self._shift_bits).astype(np.uint8)
        shape = (3, *eight_CHW.shape[1:])
        return np.ascontiguousarray(np.broadcast_to(eight_CHW, shape).transpose(1, 2, 0))


@dataclass(frozen=True, eq=False)
class GridImage:
    """A photograph on a grid, read by rows."""

    photo: Photograph
    grid: Grid
    _whole_HWC: NDArray[np.uint8] | None

    def read(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        """A piece of the scaled photograph (HWC)."""
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
    """Where the grid's pixels begin and end, in the photograph's."""
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


def _open_raster(path: Path) -> rasterio.DatasetReader | None:
    """None: only Pillow reads it. GDAL's other drivers follow references to files elsewhere."""
    with path.open("rb") as file:
        start = file.read(4)
    driver = next((name for magic, name in _DRIVERS.items() if start.startswith(magic)), "GTiff")
    try:
        return rasterio.open(path, driver=driver)
    except rasterio.errors.RasterioIOError:
        return None


def _surplus_bits(path: Path, raster: rasterio.DatasetReader) -> int:
    """By how many bits samples are shifted down, as ``read_image`` does: the brightest tells."""
    if raster.dtypes[0] == "uint8":
        return 0
    if raster.dtypes[0] != "uint16":
        raise ImageError(
            path,
            f"has samples of type {raster.dtypes[0]}",
            "allowed: unsigned integers of 8 or 16 bits; convert it",
        )
    bands = [1, 2, 3] if raster.count >= 3 else [1]
    step = max(1, _PIECE_BYTES // (2 * len(bands) * raster.width))
    tops = [*range(0, raster.height, step), raster.height]
    brightest = max(
        int(raster.read(bands, window=Window.from_slices((a, b), (0, raster.width))).max())
        for a, b in itertools.pairwise(tops)
    )
    bits = brightest.bit_length()
    return max(0, bits + bits % 2 - 8)
