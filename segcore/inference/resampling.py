"""Spans of an axis that is to have another number of pixels, so that nothing is held as a whole.

Along an axis that gets more pixels, values are interpolated linearly, with pixel centres aligned.
Along one that gets fewer, each new pixel is the mean of ``points`` that lie evenly in its area:
as dense as the old pixels, or denser, so that none of them is passed over.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Span:
    """Some new pixels of an axis, and what they are made of."""

    source: slice
    """The old pixels that are needed."""
    points: int
    """Points along this axis of which a new pixel is the mean."""
    at: NDArray[np.float64]
    """Where the points lie, in pixels of ``source``; 0 is the centre of its first one."""

    @classmethod
    def of(cls, new: slice, new_px: int, old_px: int) -> "Span":
        """The pixels ``new`` of an axis that has ``old_px`` and is to have ``new_px``."""
        points = points_per_px(new_px, old_px)
        point = np.arange(new.start * points, new.stop * points)
        at = (point + 0.5) * old_px / (new_px * points) - 0.5
        first, last = max(0, int(np.floor(at[0]))), min(old_px - 1, int(np.ceil(at[-1])))
        return cls(slice(first, last + 1), points, at - first)


def points_per_px(new_px: int, old_px: int) -> int:
    """Points of which a new pixel is the mean along an axis; 1 where there are more than before."""
    return -(-old_px // new_px)


def resample(values_CHW: Tensor, rows: Span, columns: Span) -> Tensor:
    """The new pixels, of float32 values that are the spans' sources."""
    points_CHW = _interpolate(values_CHW, rows.at, columns.at)
    shape = (rows.points, columns.points)
    return points_CHW if shape == (1, 1) else F.avg_pool2d(points_CHW, shape)


def _interpolate(values_CHW: Tensor, y_H: NDArray[np.float64], x_W: NDArray[np.float64]) -> Tensor:
    """Bilinear values at rows ``y_H`` and columns ``x_W``; outside, the nearest pixel's value."""
    _, height, width = values_CHW.shape
    if np.array_equal(y_H, np.arange(height)) and np.array_equal(x_W, np.arange(width)):
        return values_CHW
    # grid_sample's coordinates go from -1 to 1, from the first pixel's edge to the last one's.
    y_H, x_W = (y_H + 0.5) * 2 / height - 1, (x_W + 0.5) * 2 / width - 1
    axes = (torch.from_numpy(at.astype(np.float32)).to(values_CHW.device) for at in (x_W, y_H))
    at_HW2 = torch.stack(torch.meshgrid(*axes, indexing="xy"), dim=-1)
    return F.grid_sample(
        values_CHW[None], at_HW2[None],
        mode="bilinear", padding_mode="border", align_corners=False,
    )[0]  # fmt: skip
