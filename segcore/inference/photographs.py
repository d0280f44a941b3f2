"""Photographs to predict, of any size: held whole, or read from the file in windows.

A picture of up to ``WHOLE_PX`` pixels is read as for training (``read_picture``). A larger one is a
mosaic: it stays in its file, and windows of it are read and scaled as they are needed, by the same
rules: a scaled pixel is the mean of its area.
"""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from PIL import UnidentifiedImageError
from rasterio.windows import Window

from segcore.config import View
from segcore.data.windows import Grid, plan_grid, scale_image
from segcore.inference.resampling import Span, resample
from segcore.reading.bands import RGB, Bands, Samples
from segcore.reading.ground import Georeference, georeference_of, ground_size_m
from segcore.reading.headers import ImageError, check_end, naming, open_raster, read_header
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
    metres_per_px: float | None = None
    """The ground size of one of its ``native_px``, where that is known."""
    _image_HWC: Samples | None = None
    _valid_HW: NDArray[np.bool_] | None = None
    _raster: rasterio.DatasetReader | None = None
    _native_px: tuple[int, int] | None = None

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
        cls,
        image_HWC: Samples,
        native_px: tuple[int, int] | None = None,
        metres_per_px: float | None = None,
        valid_HW: NDArray[np.bool_] | None = None,
        bands: Bands = RGB,
    ) -> "Photograph":
        """A photograph from its samples.

        ``native_px`` (height, width) is the size of the photograph that these samples were scaled
        from, to which views refer, with its ``metres_per_px``. ``valid_HW`` is false where there
        are no data; None: there are everywhere.
        """
        height_px, width_px, _ = image_HWC.shape
        return cls(
            Path("in memory"), height_px, width_px, bands=bands, has_holes=valid_HW is not None,
            metres_per_px=metres_per_px, _image_HWC=image_HWC, _valid_HW=valid_HW,
            _native_px=native_px,
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
            metres = ground_size_m(place, photo.size_px)
            return replace(photo, path=path, georeference=place, metres_per_px=metres)
        check_end(path)
        read_window(raster, bands, Window(0, 0, 1, 1))  # Tells at once of bands that are missing.
        holes = may_have_holes(raster, bands)
        size_px = raster.height, raster.width
        metres = ground_size_m(place, size_px)
        return cls(path, *size_px, place, bands, holes, metres, _raster=raster)

    @property
    def size_px(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height_px, self.width_px

    @property
    def native_px(self) -> tuple[int, int]:
        """(height, width) that views refer to: larger where only a smaller picture is kept."""
        return self._native_px or self.size_px

    @property
    def is_mosaic(self) -> bool:
        """Whether it is too large to be held whole."""
        return self._image_HWC is None

    def plan(self, view: View) -> Grid:
        """The working grid of a view. Raises ``ImageError`` where that can't be known."""
        if view.metres_per_px is not None and self.metres_per_px is None:
            raise ImageError(
                self.path,
                "has no georeference that tells its ground size, while a network was trained at "
                f"{view.metres_per_px:g} m per pixel",
                "give the photograph one, or a scale to the prediction",
            )
        return plan_grid(self.native_px, view, self.metres_per_px)

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
        shrinks = self.grid[0] <= self.photo.height_px and self.grid[1] <= self.photo.width_px
        scaled = self._shrunk if shrinks else self._enlarged
        _, source_columns = self.source(rows, columns)
        px_bytes = self.photo.read(slice(0, 1), slice(0, 1)).nbytes
        source_rows = _PIECE_BYTES / (px_bytes * (source_columns.stop - source_columns.start))
        step = max(1, round(source_rows * self.grid.height_px / self.photo.height_px))
        edges = [*range(rows.start, rows.stop, step), rows.stop]
        parts = itertools.starmap(slice, itertools.pairwise(edges))
        pieces: list[Any] = [scaled(part, columns) for part in parts]
        return np.concatenate(pieces)

    def holds_data(self, rows: slice, columns: slice) -> bool:
        """Whether a pixel of a window does. Raises ``ImageError`` where the file is damaged."""
        if not self.photo.has_holes:
            return True
        rows, columns = self.source(rows, columns)
        step = max(1, _PIECE_BYTES // (columns.stop - columns.start))
        edges = [*range(rows.start, rows.stop, step), rows.stop]
        pieces = itertools.starmap(slice, itertools.pairwise(edges))
        return any(self.photo.valid(piece, columns).any() for piece in pieces)

    def source(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """The photograph's rows and columns that pixels of the grid are made of."""
        return (
            _source(rows, self.grid.height_px, self.photo.height_px),
            _source(columns, self.grid.width_px, self.photo.width_px),
        )

    def _shrunk(self, rows: slice, columns: slice) -> Samples:
        source_rows, source_columns = self.source(rows, columns)
        piece_HWC = self.photo.read(source_rows, source_columns)
        row_edges = _edges(rows, self.grid.height_px, self.photo.height_px)
        column_edges = _edges(columns, self.grid.width_px, self.photo.width_px)
        means_HWC: Any = _area_means(
            piece_HWC, row_edges - source_rows.start, column_edges - source_columns.start
        )
        return means_HWC.round().astype(piece_HWC.dtype)

    def _enlarged(self, rows: slice, columns: slice) -> Samples:
        down = Span.of(rows, self.grid.height_px, self.photo.height_px)
        across = Span.of(columns, self.grid.width_px, self.photo.width_px)
        piece_HWC = self.photo.read(down.source, across.source)
        values_CHW = torch.from_numpy(piece_HWC.astype(np.float32)).permute(2, 0, 1)
        scaled_HWC: Any = resample(values_CHW, down, across).permute(1, 2, 0).numpy()
        return scaled_HWC.round().astype(piece_HWC.dtype)


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
    sums = cv2.integral(countable_HWC, sdepth=cv2.CV_64F)
    sums = sums.reshape(*sums.shape[:2], -1)  # OpenCV drops the axis of a single channel.
    for axis, edges in enumerate((row_edges, column_edges)):
        whole = np.minimum(edges.astype(np.int64), piece_HWC.shape[axis] - 1)
        share = np.expand_dims(edges - whole, tuple(i for i in range(3) if i != axis))
        sums = sums.take(whole, axis=axis) * (1 - share) + sums.take(whole + 1, axis=axis) * share
    areas = np.diff(row_edges)[:, None, None] * np.diff(column_edges)[None, :, None]
    means: NDArray[np.float64] = np.diff(np.diff(sums, axis=0), axis=1) / areas
    return means
