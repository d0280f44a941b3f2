"""From a photograph of any size to class probabilities on any grid, in bounded memory.

A network must see photographs as it did in training (``View``): squeezed as a whole, or in windows
at a scale. The scaled photograph is the *working grid* of a view. Windows overlap, and their
probabilities are blended on the working grid. There they are brought to the size that was asked
for, and there those of networks with other views are added. All of this goes from top to bottom,
a strip at a time.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segcore.config import View
from segcore.data.windows import Grid
from segcore.devices import autocast, send
from segcore.inference.photographs import GridImage, Photograph
from segcore.inference.resampling import Span, points_per_px, resample
from segcore.networks.models import SegmentationNetwork
from segcore.reading.bands import to_tensor

OVERLAP = 0.5
"""The least share of a window's side that it has in common with the next window."""

LEAST_BATCH = 4
"""So many windows go through a network at once on a CPU, where more of them take longer each …"""
GPU_BATCH_PX = LEAST_BATCH * 512 * 512
"""… and on a GPU, which a few small ones don't keep busy, as many as have so many pixels together.
"""

PANEL_BYTES = 256_000_000
"""Where a row of blended windows, of all views together, would take more, the photograph is done
in panels side by side. Windows on the border of two panels are predicted for both."""
APART_BYTES = 1 << 30
"""The same where what each network predicts is wanted by itself, so that the networks of one view
have a row each."""
STRIP_BYTES = 8_000_000
"""About the size of one strip's probabilities."""

Predict = Callable[[Tensor], Tensor]
"""From windows ``image_NCHW`` (uint8, or float32 of 0 … 255) to ``probs_NKHW`` float32, on any
device."""


@dataclass(frozen=True, eq=False)
class Looker:
    """What predicts windows, how it looks at photographs, and how much it counts among others."""

    predict: Predict
    view: View
    weight: float = 1.0
    batch_size: int = LEAST_BATCH
    """How many windows it gets in a batch."""


@dataclass(frozen=True, eq=False)
class Strip:
    """What was predicted for a piece of a photograph, in pixels of the grid that was asked for."""

    rows: slice
    columns: slice
    probs_KHW: Tensor
    factors_K: Tensor | None = None
    """What each class's probability is multiplied with before the largest one is named."""

    def classes(self) -> Tensor:
        """``class_HW`` (uint8): the decision, which is the same for every product and score."""
        weighed_KHW = self.probs_KHW
        if self.factors_K is not None:
            weighed_KHW = weighed_KHW * self.factors_K.to(weighed_KHW.device)[:, None, None]
        return weighed_KHW.max(dim=0).indices.to(torch.uint8)  # argmax is slower


def usual_batch_size(view: View, device: torch.device) -> int:
    """How many windows of a view are predicted at once, unless somebody says how many."""
    if device.type == "cpu":
        return LEAST_BATCH
    return max(LEAST_BATCH, GPU_BATCH_PX // (view.height_px * view.width_px))


@torch.inference_mode()
def batch_probs(network: SegmentationNetwork, image_NCHW: Tensor, device: torch.device) -> Tensor:
    """``probs_NKHW`` float32 on ``device``, of windows of the working grid."""
    network.eval()
    with autocast(device):
        logits_NKHW = network(send(image_NCHW, device))
    return logits_NKHW.float().softmax(dim=1)


def predict_strips(
    lookers: Sequence[Looker],
    num_classes: int,
    photo: Photograph,
    *,
    size_px: tuple[int, int] | None = None,
    overlap: float = OVERLAP,
) -> Iterator[Strip]:
    """Predict a photograph piece by piece; together the pieces cover it once, in any order.

    The result is the weighted mean of what the lookers predict, on a grid of ``size_px`` (height,
    width), which is the photograph's own unless another one is given. Give networks of one view as
    one looker: each looker reads the photograph for itself.

    A window without a valid pixel isn't computed, and its probabilities are 0.
    Raises ``ImageError`` where the file turns out to be damaged, or has no ground size for a view
    that wants one.
    """
    whole = [(photo, size_px or photo.size_px)]
    predicted = predict_photos(lookers, num_classes, whole, overlap=overlap)
    return (strip for _, strip in predicted)


def predict_photos(
    lookers: Sequence[Looker],
    num_classes: int,
    photos: Sequence[tuple[Photograph, tuple[int, int]]],
    *,
    overlap: float = OVERLAP,
) -> Iterator[tuple[int, Strip]]:
    """Predict photographs one after the other, each on a grid of its own, as ``predict_strips``.

    Each strip comes with the place of its photograph in ``photos``. A batch may hold windows of
    several photographs, so that small ones fill it too.
    """
    weights = [looker.weight for looker in lookers]
    apart = predict_apart(lookers, num_classes, photos, overlap=overlap, panel_bytes=PANEL_BYTES)
    return ((number, mixed(strips, weights)) for number, strips in apart)


def predict_apart(
    lookers: Sequence[Looker],
    num_classes: int,
    photos: Sequence[tuple[Photograph, tuple[int, int]]],
    *,
    overlap: float = OVERLAP,
    panel_bytes: int = APART_BYTES,
) -> Iterator[tuple[int, list[Strip]]]:
    """As ``predict_photos``, but with what each looker predicts by itself: a strip of each."""
    panels = [
        _Panel(number, photo, size_px, columns)
        for number, (photo, size_px) in enumerate(photos)
        for columns in _panels(lookers, num_classes, photo, size_px, panel_bytes)
    ]
    streams = [_Windows(looker, panels, overlap) for looker in lookers]
    for panel in panels:
        parts = [_PredictedPanel(num_classes, panel, stream) for stream in streams]
        step = max(1, STRIP_BYTES // max(part.row_bytes for part in parts))
        height_px = panel.size_px[0]
        for top in range(0, height_px, step):
            rows = slice(top, min(top + step, height_px))
            yield panel.number, [Strip(rows, panel.columns, part.strip(rows)) for part in parts]


def mixed(strips: Sequence[Strip], weights: Sequence[float]) -> Strip:
    """The weighted mean of what several lookers predict for the same piece of a photograph."""
    if len(strips) == 1:
        return strips[0]
    total = sum(weights)
    probs_KHW = strips[0].probs_KHW * (weights[0] / total)
    for strip, weight in zip(strips[1:], weights[1:], strict=True):
        # What holds no data so far is on the CPU.
        probs_KHW = probs_KHW.to(strip.probs_KHW.device)
        probs_KHW.add_(strip.probs_KHW, alpha=weight / total)
    return replace(strips[0], probs_KHW=probs_KHW)


class _Panel(NamedTuple):
    """Columns of a photograph that are done together, from top to bottom."""

    number: int
    photo: Photograph
    size_px: tuple[int, int]
    """Of the wanted grid, to which ``columns`` belong."""
    columns: slice


def _panels(
    lookers: Sequence[Looker],
    num_classes: int,
    photo: Photograph,
    size_px: tuple[int, int],
    panel_bytes: int,
) -> list[slice]:
    row_bytes = sum(
        4 * num_classes * looker.view.height_px * photo.plan(looker.view).width_px
        for looker in lookers
    )
    panels = min(-(-row_bytes // panel_bytes), size_px[1])
    bounds = np.linspace(0, size_px[1], panels + 1).round().astype(int).tolist()
    return list(itertools.starmap(slice, itertools.pairwise(bounds)))


class _PredictedPanel:
    """What a looker predicts of a panel: rows that are kept until used.

    Probabilities are brought to the wanted grid instead of classes, so that borders don't turn
    into stairs.
    """

    def __init__(self, num_classes: int, panel: _Panel, windows: "_Windows") -> None:
        self.looker = windows.looker
        view = self.looker.view
        grid = panel.photo.plan(view)
        self._heights_px = panel.size_px[0], grid.height_px
        self._columns = Span.of(panel.columns, panel.size_px[1], grid.width_px)
        points = len(self._columns.at) * points_per_px(*self._heights_px)
        self.row_bytes = 4 * num_classes * points
        """What resampling one row of the wanted grid takes."""
        edges = [*windows.tops(grid), grid.height_px]
        self._blocks = _blended_rows(
            view, num_classes, edges, self._columns.source, windows.of(panel)
        )
        self._buffer_KHW = next(self._blocks)
        self._first = 0  # the row of the working grid with which the buffer begins

    def strip(self, rows: slice) -> Tensor:
        """``probs_KHW`` of rows of the wanted grid, which must be asked for from top to bottom."""
        span = Span.of(rows, *self._heights_px)
        needed = span.source
        while self._first + self._buffer_KHW.shape[1] < needed.stop:
            drop = min(needed.start - self._first, self._buffer_KHW.shape[1])
            block_KHW = next(self._blocks)
            kept_KHW = self._buffer_KHW[:, drop:].to(block_KHW.device)
            self._buffer_KHW = torch.cat([kept_KHW, block_KHW], dim=1)
            self._first += drop
        source_KHW = self._buffer_KHW[:, needed.start - self._first : needed.stop - self._first]
        return resample(source_KHW, span, self._columns)


def _blended_rows(
    view: View,
    num_classes: int,
    tops: Sequence[int],
    columns: slice,
    predicted: Iterator["_Predicted"],
) -> Iterator[Tensor]:
    """Consecutive rows of the working grid, ``probs_KHW``, when no further window adds to them.

    ``tops`` are the windows' upper edges and the grid's height. A window weighs less towards its
    rim, so that no seam shows.
    """
    height, width = view.height_px, view.width_px
    panel_width = columns.stop - columns.start
    sum_KHW: Tensor | None = None
    window = next(predicted, None)
    for top, next_top in itertools.pairwise(tops):
        while window is not None and window.top == top:
            probs_KHW, left = window.probs_KHW, window.left
            if sum_KHW is None:
                device = probs_KHW.device
                sum_KHW = torch.zeros(num_classes + 1, height, panel_width, device=device)
                bell_HW = _gaussian_bell(height, width, device)
            shared = slice(max(left, columns.start), min(left + width, columns.stop))
            into = sum_KHW[..., shared.start - columns.start : shared.stop - columns.start]
            here = slice(shared.start - left, shared.stop - left)
            into[:-1] += probs_KHW[..., here] * bell_HW[:, here]
            into[-1] += bell_HW[:, here]
            window = next(predicted, None)
        done = next_top - top
        if sum_KHW is None:  # no data so far
            yield torch.zeros(num_classes, done, panel_width)
            continue
        yield sum_KHW[:-1, :done] / sum_KHW[-1, :done].clamp_min(1e-12)
        sum_KHW[:, : height - done] = sum_KHW[:, done:].clone()
        sum_KHW[:, height - done :] = 0


class _Predicted(NamedTuple):
    """A window of the working grid, and what was predicted for it."""

    panel: _Panel
    top: int
    left: int
    probs_KHW: Tensor


class _Windows:
    """What a looker predicts for the windows of panels, which are asked for in their order."""

    def __init__(self, looker: Looker, panels: Sequence[_Panel], overlap: float) -> None:
        self.looker = looker
        self._overlap = overlap
        self._predicted = self._predict(self._read(panels))
        self._next = next(self._predicted, None)

    def tops(self, grid: Grid) -> list[int]:
        """The upper edges of the windows on a working grid."""
        return _window_starts(grid.height_px, self.looker.view.height_px, self._overlap)

    def of(self, panel: _Panel) -> Iterator[_Predicted]:
        """The windows of a panel that hold data, row by row."""
        while self._next is not None and self._next.panel is panel:
            yield self._next
            self._next = next(self._predicted, None)

    def _predict(self, windows: Iterator[tuple[_Panel, int, int, Tensor]]) -> Iterator[_Predicted]:
        while batch := list(itertools.islice(windows, self.looker.batch_size)):
            probs_NKHW = self.looker.predict(torch.stack([window_CHW for *_, window_CHW in batch]))
            for (panel, top, left, _), probs_KHW in zip(batch, probs_NKHW, strict=True):
                yield _Predicted(panel, top, left, probs_KHW)

    def _read(self, panels: Sequence[_Panel]) -> Iterator[tuple[_Panel, int, int, Tensor]]:
        view = self.looker.view
        for photo, of_photo in itertools.groupby(panels, key=lambda panel: panel.photo):
            image = photo.on_grid(photo.plan(view))
            all_lefts = _window_starts(image.grid.width_px, view.width_px, self._overlap)
            for panel in of_photo:
                needed = Span.of(panel.columns, panel.size_px[1], image.grid.width_px).source
                lefts = [
                    left
                    for left in all_lefts
                    if left < needed.stop and left + view.width_px > needed.start
                ]
                for top in self.tops(image.grid):
                    for left, window_CHW in _whole_windows(image, top, lefts, view):
                        yield panel, top, left, window_CHW


def _whole_windows(
    image: GridImage, top: int, lefts: list[int], view: View
) -> Iterator[tuple[int, Tensor]]:
    """The windows of a row that have a valid pixel, ``image_CHW``, each with its left edge.

    A window that reaches beyond the photograph is 0 there, as in training.
    """
    height, width = view.height_px, view.width_px
    rows = slice(top, min(top + height, image.grid.height_px))
    spans = [slice(left, min(left + width, image.grid.width_px)) for left in lefts]
    spans = [columns for columns in spans if image.holds_data(rows, columns)]
    if not spans:
        return
    first = spans[0].start
    strip_CHW = to_tensor(image.read(rows, slice(first, spans[-1].stop)))
    for columns in spans:
        window_CHW = strip_CHW[..., columns.start - first : columns.stop - first]
        missing = (0, width - window_CHW.shape[2], 0, height - window_CHW.shape[1])
        yield columns.start, F.pad(window_CHW, missing)


def count_windows(grid: Grid, view: View, overlap: float = OVERLAP) -> int:
    """How many windows of a view cover a working grid without holes."""
    down = _window_starts(grid.height_px, view.height_px, overlap)
    return len(down) * len(_window_starts(grid.width_px, view.width_px, overlap))


def _window_starts(length_px: int, window_px: int, overlap: float) -> list[int]:
    """Starts of windows that cover a length evenly, and overlap by at least this share."""
    if length_px <= window_px:
        return [0]
    step = max(1.0, window_px * (1 - overlap))
    count = int(np.ceil((length_px - window_px) / step)) + 1
    return [round(start) for start in np.linspace(0, length_px - window_px, count)]


@lru_cache(maxsize=8)
def _gaussian_bell(height_px: int, width_px: int, device: torch.device) -> Tensor:
    """``bell_HW``: the weight of a window's pixels, 1 at its centre and 0.0003 at the middle of a
    side. σ is an eighth of the side (Isensee et al. 2021, nnU-Net). No weight is 0, so that
    windows that hardly overlap leave no gap.
    """

    def bell(length_px: int) -> Tensor:
        x = (torch.arange(length_px) + 0.5) / length_px - 0.5
        return torch.exp(-0.5 * (x / 0.125) ** 2)

    return (bell(height_px)[:, None] * bell(width_px)[None, :]).to(device)
