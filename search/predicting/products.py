"""The files of one photograph: mask, overlay, probabilities, uncertainty, polygons."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Literal

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray

from segcore.config import IGNORE_INDEX
from segcore.data.windows import Grid, count_classes
from segcore.inference.blending import Strip
from segcore.inference.photographs import Photograph
from segcore.predicting.ensemble import Ensemble, disagreement
from segcore.predicting.pictures import Color, overlay
from segcore.predicting.polygons import write_polygons
from segcore.predicting.rasters import MapSpec, WriteWindow, write_map
from segcore.reading.bands import to_rgb8
from segcore.reading.images import write_image

Kind = Literal["mask", "overlay", "probabilities", "uncertainty", "gpkg", "geojson"]
_POLYGONS: tuple[Kind, ...] = ("gpkg", "geojson")

OVERLAY_PX = 4096
"""The longer side of a mosaic's overlay. Other overlays are as large as their photograph."""
JPEG_PX = 65_500
"""The longest side that libjpeg writes."""

SHADES = np.sqrt(np.linspace(0, 1, 256))
HEAT = [
    (round(red), round(green), round(blue))
    for red, green, blue in matplotlib.colormaps["magma"](SHADES)[:, :3] * 255
]
"""The colours of uncertainty: 0 is black, 255 nearly white. They follow its square root, because
most uncertainties are below 0.3."""


@dataclass(frozen=True)
class Written:
    """What was predicted of a photograph."""

    files: dict[Kind, Path]
    pixels: dict[str, int]
    """How many pixels each class has."""
    uncertainty: dict[str, float] | None
    """Mean and 95th percentile of the members' disagreement (0 … 1), if it was requested."""


@dataclass(frozen=True)
class Products:
    """Predicts photographs, and writes the requested kinds of files of each into a folder."""

    ensemble: Ensemble
    folder: Path
    kinds: Sequence[Kind]
    """The mask is always among them."""
    tta: bool = False
    batch_size: int | None = None
    scale: float | None = None
    computing: Lock = field(default_factory=Lock, repr=False)
    """Who holds it computes, and nobody else."""

    def write(self, photo: Photograph, name: str, on_progress: Callable[[float], None]) -> Written:
        """Predict a photograph, and write its files.

        ``name``: the files' path in the folder, without an ending. ``on_progress`` gets the share
        of the photograph done since the last call.

        Raises ``ImageError`` where its file is damaged, ``UserError`` where nothing can be written.
        """
        files = {kind: self.folder / _place(kind, name, photo) for kind in self.kinds}
        tally_256 = np.zeros(256, np.int64)
        class_names = self.ensemble.class_names
        pixels_K = np.zeros(len(class_names), np.int64)
        strips = self.ensemble.strips(
            photo, tta=self.tta, batch_size=self.batch_size, scale=self.scale
        )
        with ExitStack() as stack:
            writers = {
                kind: stack.enter_context(
                    write_map(files[kind], photo.size_px, photo.georeference, spec)
                )
                for kind, spec in self._specs().items()
                if kind in files
            }
            if "overlay" in files:
                colors = self.ensemble.class_colors
                writers["overlay"] = stack.enter_context(
                    _write_overlay(files["overlay"], photo, colors)
                )
            # One photograph at a time: its files are read before, and written for the most
            # part after that, while others are computed.
            stack.enter_context(self.computing)  # as the last, so that it is left first
            for strip in strips:
                values = self._values(photo, strip)
                for kind, writer in writers.items():
                    writer(strip.rows, strip.columns, values[kind])
                pixels_K += count_classes(values["mask"][0], len(class_names))
                valid_HW = values["mask"][0] != IGNORE_INDEX
                if "uncertainty" in files:
                    tally_256 += np.bincount(values["uncertainty"][0][valid_HW], minlength=256)
                on_progress(valid_HW.size / (photo.height_px * photo.width_px))
        for kind in _POLYGONS:
            if kind in files:
                # Regions cross the strips. To hold a mosaic's mask whole would take memory in
                # proportion to its area, while GDAL reads the file line by line.
                write_polygons(files[kind], files["mask"], class_names)
        pixels = dict(zip(class_names, pixels_K.tolist(), strict=True))
        return Written(files, pixels, _summary(tally_256) if "uncertainty" in files else None)

    def _values(self, photo: Photograph, strip: Strip) -> dict[Kind, NDArray[np.uint8]]:
        """What each file shows of a strip (BHW); where there are no data the mask is ignored."""
        probs_KHW = strip.probs_KHW
        class_HW = strip.classes()
        mask_HW = class_HW.cpu().numpy()
        values: dict[Kind, NDArray[np.uint8]] = {"mask": mask_HW[None], "overlay": mask_HW[None]}
        if "probabilities" in self.kinds:
            values["probabilities"] = _eight_bits(probs_KHW)
        if "uncertainty" in self.kinds:
            values["uncertainty"] = _eight_bits(disagreement(probs_KHW, class_HW, 0)[None])
        if photo.has_holes:
            hole_HW = ~photo.valid(strip.rows, strip.columns)
            for kind, values_BHW in values.items():
                values_BHW[:, hole_HW] = IGNORE_INDEX if kind in ("mask", "overlay") else 0
        return values

    def _specs(self) -> dict[Kind, MapSpec]:
        names = self.ensemble.class_names
        tags = {f"CLASS_{k}": name for k, name in enumerate(names)}
        return {
            "mask": MapSpec(
                nodata=IGNORE_INDEX, colors=self.ensemble.class_colors,
                band_names=("class",), tags=tags, overviews="MODE",
            ),
            "probabilities": MapSpec(
                bands=len(names), band_names=names, overviews="AVERAGE",
                tags={"UNIT": "255 is a probability of 1"},
            ),
            "uncertainty": MapSpec(
                colors=HEAT, band_names=("disagreement of the members",),
                tags={"UNIT": "255 is a disagreement of 1"},
            ),
        }  # fmt: skip


def _place(kind: Kind, name: str, photo: Photograph) -> str:
    """A file's path in the folder. Where the photograph has a place on earth, its maps have too."""
    map_ending = ".png" if photo.georeference is None else ".tif"
    places: Mapping[Kind, str] = {
        "mask": f"{name}{map_ending}",
        "overlay": f"overlays/{name}.jpg",
        "probabilities": f"probabilities/{name}.tif",  # a PNG can't hold so many bands
        "uncertainty": f"uncertainty/{name}{map_ending}",
        "gpkg": f"polygons/{name}.gpkg",
        "geojson": f"polygons/{name}.geojson",
    }
    return places[kind]


def _eight_bits(values_CHW: torch.Tensor) -> NDArray[np.uint8]:
    return (values_CHW * 255).round().to(torch.uint8).cpu().numpy()


@contextmanager
def _write_overlay(
    path: Path, photo: Photograph, class_colors: Sequence[Color]
) -> Iterator[WriteWindow]:
    """Write the overlay of a mask that is given piece by piece."""
    is_small = not photo.is_mosaic and max(photo.size_px) <= JPEG_PX
    scale = 1.0 if is_small else min(1.0, OVERLAY_PX / max(photo.size_px))
    height_px, width_px = size_px = [max(1, round(side * scale)) for side in photo.size_px]
    rows_H, columns_W = (
        (2 * np.arange(small) + 1) * large // (2 * small)  # the pixel at each one's middle
        for small, large in zip(size_px, photo.size_px, strict=True)
    )
    mask_HW = np.empty(size_px, np.uint8)

    def sample(rows: slice, columns: slice, values_BHW: NDArray[np.uint8]) -> None:
        top, bottom = np.searchsorted(rows_H, (rows.start, rows.stop))
        left, right = np.searchsorted(columns_W, (columns.start, columns.stop))
        chosen = np.ix_(rows_H[top:bottom] - rows.start, columns_W[left:right] - columns.start)
        mask_HW[top:bottom, left:right] = values_BHW[0][chosen]

    yield sample
    image = photo.on_grid(Grid(height_px, width_px))
    image_HWC = image.read(slice(0, height_px), slice(0, width_px))
    path.parent.mkdir(parents=True, exist_ok=True)
    seen_HWC = to_rgb8(image_HWC, photo.bands)
    write_image(path, overlay(seen_HWC, mask_HW, class_colors))


def _summary(tally_256: NDArray[np.int64]) -> dict[str, float]:
    """The mean and 95th percentile, as 0 … 1, of values of which each occurs this often."""
    total = max(1, int(tally_256.sum()))
    mean = float((tally_256 * np.arange(256)).sum() / total / 255)
    return {"mean": mean, "p95": float(np.searchsorted(tally_256.cumsum(), 0.95 * total) / 255)}
