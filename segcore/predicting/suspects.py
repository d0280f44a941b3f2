"""Suspicious labels of prepared photographs: what networks say that were not trained on them.

Two passes. The first one predicts each photograph and keeps three bytes a pixel on the disk
(``Answers``), because only afterwards it is known what counts as sure. The second one compares
them with the labels. Photographs are read and compared in pieces, whatever their size.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segcore.data.prepared import PreparedData
from segcore.data.windows import Grid, scale_mask
from segcore.files import reserve
from segcore.inference.scoring import prepared_photograph
from segcore.predicting.ensemble import Ensemble
from segcore.scores.suspects import Answers, Confidences, Region, Thresholds, find_regions

PIECE_PX = 16_000_000
"""So many pixels are compared at once. A region that crosses the edge of such a piece, in larger
photographs, is found as two."""

CROP_PX = 320
"""The side of a crop's picture, at most."""
LEAST_CROP_PX = 96
"""The side of a crop, at least (if the photograph has so many), so that the surroundings are seen.
"""


@dataclass(frozen=True)
class Judge:
    """Networks, and photographs that none of them was trained on."""

    networks: tuple[tuple[Path, float], ...]
    """Their checkpoints, and the weights of what they say. The weights sum to 1."""
    photos: tuple[int, ...]
    """Numbers of ``PreparedData``."""


@dataclass(frozen=True, eq=False)
class Suspect:
    """A region of a photograph whose label is contradicted."""

    photo: int
    region: Region
    """On the photograph's score grid."""
    area_px: float
    """In pixels of the photograph's own."""
    rows: slice
    columns: slice
    """Of the crop in which it is shown, on the score grid."""
    named_HW: NDArray[np.uint8] | None = None
    """What the networks say in the crop, at the size of a picture (``crop_grid``)."""

    @property
    def score(self) -> float:
        """Area × confidence: by it suspects are ranked."""
        return self.area_px * self.region.confidence

    @property
    def crop_grid(self) -> Grid:
        """The size of a picture of the crop."""
        height_px = self.rows.stop - self.rows.start
        return Grid(height_px, self.columns.stop - self.columns.start).within(CROP_PX)


def find_suspects(
    judges: Sequence[Judge],
    data: PreparedData,
    folder: Path,
    device: torch.device,
    *,
    limit: int,
    edge_px: int,
    batch_size: int | None = None,
    allow_plugins: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> list[Suspect]:
    """The most suspicious labels, those with the largest score first.

    ``folder`` must be there, and is filled with 3 bytes a pixel. ``advance`` is called
    after each photograph. Raises ``OSError`` where the disk is full.
    """
    confidences = Confidences(data.num_classes)
    maps: dict[int, Path] = {}
    for judge in judges:
        ensemble = Ensemble.of_checkpoints(judge.networks, device, allow_plugins=allow_plugins)
        for photo in judge.photos:
            maps[photo] = folder / f"{photo}.npy"
            _predict(ensemble, data, photo, maps[photo], confidences, batch_size)
            advance()
    thresholds = confidences.thresholds()
    worst: list[Suspect] = []
    for photo, path in maps.items():
        said_3HW = np.load(path, mmap_mode="r")
        regions = _regions(data, photo, said_3HW, thresholds, edge_px=edge_px, limit=limit)
        found = (_suspect(data, photo, region) for region in regions)
        worst = heapq.nlargest(limit, [*worst, *found], key=lambda suspect: suspect.score)
    return [replace(suspect, named_HW=_named(suspect, maps[suspect.photo])) for suspect in worst]


def _predict(
    ensemble: Ensemble,
    data: PreparedData,
    photo: int,
    path: Path,
    confidences: Confidences,
    batch_size: int | None,
) -> None:
    grid, label_HW = data.plans[photo].score_grid, data.score_mask(photo)
    said_3HW = np.lib.format.open_memmap(path, "w+", np.uint8, (3, *grid))
    reserve(path)
    strips = ensemble.strips(prepared_photograph(data, photo), size_px=grid, batch_size=batch_size)
    for strip in strips:
        # torch wants memory that it may write, but the cache is mapped read-only: so a copy.
        label = torch.from_numpy(np.array(label_HW[strip.rows, strip.columns]))
        label = label.to(strip.probs_KHW.device)
        confidences.add(label, strip.probs_KHW)
        said_3HW[:, strip.rows, strip.columns] = Answers.of(label, strip.probs_KHW)


def _regions(
    data: PreparedData,
    photo: int,
    said_3HW: NDArray[np.uint8],
    thresholds: Thresholds,
    *,
    edge_px: int,
    limit: int,
) -> Iterator[Region]:
    """The worst regions of each piece of a photograph."""
    label_HW = data.score_mask(photo)
    height_px, width_px = label_HW.shape
    step = max(1, PIECE_PX // width_px)
    for top in range(0, height_px, step):
        # With the edge, where labels are looked at, but nothing is found.
        first = max(0, top - edge_px)
        piece = slice(first, min(top + step + edge_px, height_px))
        answers = Answers(*np.array(said_3HW[:, piece]))
        answers.sure[: top - first] = 0
        answers.sure[top - first + step :] = 0
        for region in find_regions(
            label_HW[piece], answers, thresholds, edge_px=edge_px, limit=limit
        ):
            rows = slice(region.rows.start + first, region.rows.stop + first)
            yield replace(region, rows=rows)


def _suspect(data: PreparedData, photo: int, region: Region) -> Suspect:
    plan = data.plans[photo]
    grid = plan.score_grid
    side_px = max(LEAST_CROP_PX, 2 * max(region.inside_HW.shape))
    rows, columns = (
        _around(span, side_px, length)
        for span, length in zip((region.rows, region.columns), grid, strict=True)
    )
    area_px = region.area_px * plan.size_px.area_px / grid.area_px
    return Suspect(photo, region, area_px, rows, columns)


def _around(span: slice, side_px: int, length: int) -> slice:
    """So many pixels with a span in their middle, or as near to it as the rim allows."""
    first = max(0, min((span.start + span.stop - side_px) // 2, length - side_px))
    return slice(first, min(first + side_px, length))


def _named(suspect: Suspect, path: Path) -> NDArray[np.uint8]:
    said_3HW = np.load(path, mmap_mode="r")
    return scale_mask(np.array(said_3HW[0, suspect.rows, suspect.columns]), suspect.crop_grid)
