"""From a photograph of any size to class probabilities at its own size, in bounded memory.

A network must see photographs as it did in training (``View``): resized as a whole, or
scaled and cut into tiles. The pixels that it sees are the *working grid*. Tiles overlap, and their
probabilities are blended on that grid, then enlarged to the photograph's own size. All of this goes
from top to bottom, a strip at a time.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from segcore.config import View
from segcore.data.windows import plan_grid
from segcore.devices import autocast
from segcore.inference.photographs import GridImage, Photograph
from segcore.networks.models import SegmentationNetwork

TILE_OVERLAP = 0.5
"""The least share of a tile's side that it has in common with the next tile."""

PANEL_BYTES = 256_000_000
"""Where a row of blended tiles would take more, the photograph is done in panels side by side."""
STRIP_BYTES = 8_000_000
"""About the size of one strip's probabilities."""

Predict = Callable[[torch.Tensor], torch.Tensor]
"""From uint8 ``image_NCHW`` of the working grid to ``probs_NKHW`` float32, on any device."""


@dataclass(frozen=True, eq=False)
class Strip:
    """What was predicted for a piece of a photograph."""

    rows: slice
    columns: slice
    probs_KHW: torch.Tensor


@torch.inference_mode()
def batch_probs(
    network: SegmentationNetwork, image_NCHW: torch.Tensor, device: torch.device
) -> torch.Tensor:
    """``probs_NKHW`` float32 on ``device``, of uint8 images of the working grid."""
    network.eval()
    with autocast(device):
        logits_NKHW = network(image_NCHW.to(device, non_blocking=True))
    return logits_NKHW.float().softmax(dim=1)


def predict_strips(
    predict: Predict,
    num_classes: int,
    photo: Photograph,
    view: View,
    *,
    batch_size: int = 4,
) -> Iterator[Strip]:
    """Predict a photograph piece by piece; together the pieces cover it once, in any order.

    A tile without a valid pixel isn't computed, and its probabilities are 0.
    Raises ``ImageError`` where the file turns out to be damaged.
    """
    image = photo.on_grid(plan_grid(photo.size_px, view))
    tile_bytes_per_px = 4 * num_classes * view.height_px
    panels = -(-tile_bytes_per_px * image.grid.width_px // PANEL_BYTES)
    bounds = np.linspace(0, photo.width_px, panels + 1).round().astype(int).tolist()
    for left, right in itertools.pairwise(bounds):
        x_W = _centres(slice(left, right), photo.width_px, image.grid.width_px)
        columns = _needed(x_W, image.grid.width_px)
        rows = _blended_rows(predict, num_classes, image, columns, view, batch_size)
        yield from _enlarged(rows, image, slice(left, right), x_W - columns.start)


def _blended_rows(
    predict: Predict,
    num_classes: int,
    image: GridImage,
    columns: slice,
    view: View,
    batch_size: int,
) -> Iterator[torch.Tensor]:
    """Consecutive rows of the working grid, ``probs_KHW``, as soon as no further tile adds to them.

    A tile weighs less towards its rim, so that no seam shows.
    """
    height, width = view.height_px, view.width_px
    panel_width = columns.stop - columns.start
    tops = _tile_starts(image.grid.height_px, height)
    lefts = [
        left
        for left in _tile_starts(image.grid.width_px, width)
        if left < columns.stop and left + width > columns.start
    ]
    sum_KHW: torch.Tensor | None = None
    for top, next_top in zip(tops, [*tops[1:], image.grid.height_px], strict=True):
        tiles = _whole_tiles(image, top, lefts, view)
        while batch := list(itertools.islice(tiles, batch_size)):
            tiles_NCHW = torch.from_numpy(np.stack([tile_CHW for _, tile_CHW in batch]))
            probs_NKHW = predict(tiles_NCHW)
            if sum_KHW is None:
                device = probs_NKHW.device
                sum_KHW = torch.zeros(num_classes + 1, height, panel_width, device=device)
                window_HW = _gaussian_window(height, width).to(device)
            for (left, _), probs_KHW in zip(batch, probs_NKHW, strict=True):
                shared = slice(max(left, columns.start), min(left + width, columns.stop))
                into = sum_KHW[..., shared.start - columns.start : shared.stop - columns.start]
                here = slice(shared.start - left, shared.stop - left)
                into[:-1] += probs_KHW[..., here] * window_HW[:, here]
                into[-1] += window_HW[:, here]
        done = next_top - top
        if sum_KHW is None:  # no data so far
            yield torch.zeros(num_classes, done, panel_width)
            continue
        yield sum_KHW[:-1, :done] / sum_KHW[-1, :done].clamp_min(1e-12)
        sum_KHW[:, : height - done] = sum_KHW[:, done:].clone()
        sum_KHW[:, height - done :] = 0


def _whole_tiles(
    image: GridImage, top: int, lefts: list[int], view: View
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The tiles of a row that have a valid pixel, each with its left edge.

    A tile that reaches beyond the photograph is 0 there, as in training.
    """
    height, width = view.height_px, view.width_px
    rows = slice(top, min(top + height, image.grid.height_px))
    span = slice(lefts[0], min(lefts[-1] + width, image.grid.width_px))
    strip_HWC = image.read(rows, span)
    for left in lefts:
        columns = slice(left, min(left + width, image.grid.width_px))
        if image.photo.has_holes and not image.photo.valid(*image.source(rows, columns)).any():
            continue
        tile_HWC = strip_HWC[:, columns.start - span.start : columns.stop - span.start]
        missing = ((0, height - tile_HWC.shape[0]), (0, width - tile_HWC.shape[1]), (0, 0))
        yield left, np.pad(tile_HWC, missing).transpose(2, 0, 1)


def _enlarged(
    blocks: Iterator[torch.Tensor], image: GridImage, columns: slice, x_W: NDArray[np.float64]
) -> Iterator[Strip]:
    """Blended rows enlarged to the photograph's size: bilinear, with pixel centres aligned.

    Probabilities are enlarged instead of classes, so that borders don't turn into stairs. ``x_W``
    says where the photograph's columns lie in the blocks.
    """
    photo_px, grid_px = image.photo.height_px, image.grid.height_px
    buffer_KHW = next(blocks)
    first = 0  # the row of the grid with which the buffer begins
    step = max(1, STRIP_BYTES // (4 * len(buffer_KHW) * len(x_W)))
    for top in range(0, photo_px, step):
        rows = slice(top, min(top + step, photo_px))
        y_H = _centres(rows, photo_px, grid_px)
        needed = _needed(y_H, grid_px)
        while first + buffer_KHW.shape[1] < needed.stop:
            drop = min(needed.start - first, buffer_KHW.shape[1])
            buffer_KHW = torch.cat([buffer_KHW[:, drop:], next(blocks)], dim=1)
            first += drop
        source_KHW = buffer_KHW[:, needed.start - first : needed.stop - first]
        yield Strip(rows, columns, _sample(source_KHW, y_H - needed.start, x_W))


def _sample(
    probs_KHW: torch.Tensor, y_H: NDArray[np.float64], x_W: NDArray[np.float64]
) -> torch.Tensor:
    """Bilinear values at rows ``y_H`` and columns ``x_W``; outside, the nearest pixel's value."""
    _, height, width = probs_KHW.shape
    if np.array_equal(y_H, np.arange(height)) and np.array_equal(x_W, np.arange(width)):
        return probs_KHW
    # grid_sample's coordinates go from -1 to 1, from the first pixel's edge to the last one's.
    x_HW, y_HW = np.meshgrid((x_W + 0.5) * 2 / width - 1, (y_H + 0.5) * 2 / height - 1)
    at_HW2 = torch.from_numpy(np.stack([x_HW, y_HW], axis=-1).astype(np.float32))
    return F.grid_sample(
        probs_KHW[None], at_HW2[None].to(probs_KHW.device),
        mode="bilinear", padding_mode="border", align_corners=False,
    )[0]  # fmt: skip


def _centres(span: slice, photo_px: int, grid_px: int) -> NDArray[np.float64]:
    """Where the centres of the photograph's pixels lie, counted in pixels of the grid."""
    return (np.arange(span.start, span.stop) + 0.5) * grid_px / photo_px - 0.5


def _needed(centres: NDArray[np.float64], grid_px: int) -> slice:
    """The grid's pixels between which the centres lie."""
    return slice(max(0, int(np.floor(centres[0]))), min(grid_px, int(np.ceil(centres[-1])) + 1))


def _tile_starts(length_px: int, tile_px: int) -> list[int]:
    """Starts of tiles that cover a length evenly, overlapping by at least ``TILE_OVERLAP``."""
    if length_px <= tile_px:
        return [0]
    count = int(np.ceil((length_px - tile_px) / (tile_px * (1 - TILE_OVERLAP)))) + 1
    return [round(start) for start in np.linspace(0, length_px - tile_px, count)]


def _gaussian_window(height_px: int, width_px: int) -> torch.Tensor:
    """``window_HW``: the weight of a tile's pixels, 1 at its centre and 0.0003 at the middle of a
    side. σ is an eighth of the side (Isensee et al. 2021, nnU-Net).
    """

    def bell(length_px: int) -> torch.Tensor:
        x = (torch.arange(length_px) + 0.5) / length_px - 0.5
        return torch.exp(-0.5 * (x / 0.125) ** 2)

    return bell(height_px)[:, None] * bell(width_px)[None, :]
