"""From a photograph of any size to class probabilities, and to a mask of the photograph's size.

A network sees photographs as it was trained on them: resized as a whole, or scaled and cut into
tiles (``Preparation``). The probabilities live on that *working grid*; only the final mask has the
photograph's own size.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from segcore.config import Preparation
from segcore.items import plan_grid, scale_image
from segcore.models import SegmentationNetwork
from segcore.precision import autocast

TILE_OVERLAP = 0.5
"""Share of a tile's side that neighbouring tiles have in common."""


@torch.inference_mode()
def batch_probs(
    network: SegmentationNetwork, image_NCHW: torch.Tensor, device: torch.device
) -> torch.Tensor:
    """``probs_NKHW`` float32 on ``device``, of uint8 images that already have the working size."""
    network.eval()
    with autocast(device):
        logits_NKHW = network(image_NCHW.to(device, non_blocking=True))
    return logits_NKHW.float().softmax(dim=1)


def photo_probs(
    network: SegmentationNetwork,
    image_HWC: NDArray[np.uint8],
    preparation: Preparation,
    device: torch.device,
    *,
    batch_size: int = 4,
) -> NDArray[np.float32]:
    """``probs_KHW`` on the working grid of one RGB photograph; the classes of a pixel sum to 1."""
    # As segcore.items does for training: a network must see what it was trained on.
    resized_HWC = scale_image(image_HWC, plan_grid(image_HWC.shape[:2], preparation))
    image_CHW = torch.from_numpy(np.ascontiguousarray(resized_HWC.transpose(2, 0, 1)))
    if preparation.tile_scale is None:
        probs_KHW: NDArray[np.float32] = (
            batch_probs(network, image_CHW[None], device)[0].cpu().numpy()
        )
        return probs_KHW
    return _tiled_probs(network, image_CHW, preparation, device, batch_size)


def _tiled_probs(
    network: SegmentationNetwork,
    image_CHW: torch.Tensor,
    preparation: Preparation,
    device: torch.device,
    batch_size: int,
) -> NDArray[np.float32]:
    """Overlapping tiles, blended with a Gaussian window so that no seam shows."""
    tile_height, tile_width = preparation.height_px, preparation.width_px
    _, height, width = image_CHW.shape
    padding = (0, max(0, tile_width - width), 0, max(0, tile_height - height))
    padded_CHW = torch.nn.functional.pad(image_CHW, padding)
    window_HW = _gaussian_window(tile_height, tile_width).to(device)
    corners = [
        (top, left)
        for top in _tile_starts(padded_CHW.shape[1], tile_height)
        for left in _tile_starts(padded_CHW.shape[2], tile_width)
    ]
    sum_KHW: torch.Tensor | None = None
    weight_HW = torch.zeros(padded_CHW.shape[1:], device=device)
    for batch in _chunks(corners, batch_size):
        tiles_NCHW = torch.stack(
            [padded_CHW[:, y : y + tile_height, x : x + tile_width] for y, x in batch]
        )
        probs_NKHW = batch_probs(network, tiles_NCHW, device) * window_HW
        if sum_KHW is None:
            sum_KHW = torch.zeros(probs_NKHW.shape[1], *weight_HW.shape, device=device)
        for (y, x), probs_KHW in zip(batch, probs_NKHW, strict=True):
            sum_KHW[:, y : y + tile_height, x : x + tile_width] += probs_KHW
            weight_HW[y : y + tile_height, x : x + tile_width] += window_HW
    assert sum_KHW is not None  # for the type checker: there is always a tile
    blended: NDArray[np.float32] = (sum_KHW / weight_HW)[:, :height, :width].cpu().numpy()
    return blended


def full_size_mask(
    probs_KHW: NDArray[np.float32], height_px: int, width_px: int, *, strip_px: int = 256
) -> NDArray[np.uint8]:
    """The most probable class of each pixel of a ``height_px`` × ``width_px`` photograph.

    Probabilities, not classes, are enlarged (bilinear, pixel centres aligned), so that borders
    don't turn into stairs. It goes strip by strip: 25 classes of 12 megapixels would be 1.2 GB.
    """
    num_classes, grid_height, grid_width = probs_KHW.shape
    if (grid_height, grid_width) == (height_px, width_px):
        return probs_KHW.argmax(axis=0).astype(np.uint8)
    mask_HW = np.empty((height_px, width_px), dtype=np.uint8)
    columns = ((np.arange(width_px) + 0.5) * grid_width / width_px - 0.5).astype(np.float32)
    for top in range(0, height_px, strip_px):
        bottom = min(top + strip_px, height_px)
        rows = (np.arange(top, bottom) + 0.5) * grid_height / height_px - 0.5
        first = max(0, int(np.floor(rows[0])))
        last = min(grid_height, int(np.floor(rows[-1])) + 2)
        map_x, map_y = np.meshgrid(columns, (rows - first).astype(np.float32))
        best_HW = np.full(map_x.shape, -1.0, dtype=np.float32)
        for k in range(num_classes):
            source_HW = np.ascontiguousarray(probs_KHW[k, first:last])
            strip_HW = cv2.remap(
                source_HW, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
            better_HW = strip_HW > best_HW
            mask_HW[top:bottom][better_HW] = k
            best_HW[better_HW] = strip_HW[better_HW]
    return mask_HW


def _tile_starts(length_px: int, tile_px: int) -> list[int]:
    """Starts of tiles that cover a length evenly, overlapping by at least ``TILE_OVERLAP``."""
    if length_px <= tile_px:
        return [0]
    count = int(np.ceil((length_px - tile_px) / (tile_px * (1 - TILE_OVERLAP)))) + 1
    return [round(start) for start in np.linspace(0, length_px - tile_px, count)]


def _gaussian_window(height_px: int, width_px: int) -> torch.Tensor:
    """``window_HW``: highest at the centre, falling to about 4 % in the middle of a side."""

    def bell(length_px: int) -> torch.Tensor:
        x = (torch.arange(length_px) + 0.5) / length_px - 0.5
        return torch.exp(-0.5 * (x / 0.2) ** 2)

    return bell(height_px)[:, None] * bell(width_px)[None, :]


def _chunks(corners: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(corners), size):
        yield corners[start : start + size]
