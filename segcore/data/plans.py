"""What is kept of each photograph, so that every view of a search can be cut from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, TypeAlias

import numpy as np

from segcore.config import View
from segcore.data.windows import Grid, plan_grid, plan_levels
from segcore.reading.bands import Bands

LOCATIONS = 64
"""Pixels of each class that are remembered for each photograph."""

ArrayLayout: TypeAlias = Mapping[str, tuple[tuple[int, ...], type[np.generic]]]
"""Shape and type of each array, by the name of its field in PreparedData and of its file."""


@dataclass(frozen=True)
class PhotoPlan:
    """Of which sizes a photograph is kept."""

    size_px: Grid
    """Its own, upright."""
    metres_per_px: float | None
    """Its own ground size, where it has a georeference."""
    levels: tuple[Grid, ...]
    """Of the cached pyramid, the finest first."""
    score_grid: Grid
    """On which it is scored."""

    @property
    def is_scored_as_cached(self) -> bool:
        """Whether the finest level's mask is the truth by which it is scored."""
        return self.score_grid == self.levels[0]


class Kept(NamedTuple):
    """What is kept of all photographs."""

    plans: tuple[PhotoPlan, ...]
    finest: View
    """The view in which the photographs have the most pixels."""
    score_view: View
    """The view on whose grid all trials are scored."""


def plan_photos(
    sizes: Sequence[tuple[Grid, float | None]], views: Sequence[View], score_scale: float | None
) -> Kept:
    """Plan what is kept of photographs, given their sizes and ground sizes.

    They are scored at ``score_scale``; None: on the grid of the finest view. Raises ``UserError``
    where a view wants a ground size that a photograph hasn't.
    """
    looks = _distinct_looks(views)

    def grids(look: View) -> list[Grid]:
        return [plan_grid(size_px, look, metres) for size_px, metres in sizes]

    def area_px(look: View) -> int:
        """Pixels of all photographs, none of which is counted as enlarged."""
        pairs = zip(grids(look), sizes, strict=True)
        return sum(min(grid.area_px, size_px.area_px) for grid, (size_px, _) in pairs)

    finest = max(looks, key=area_px)
    score_view = finest if score_scale is None else View(0, 0, score_scale)
    if (score_view.scale or 0) > 1:
        score_view = View(0, 0, 1.0)
    kept = zip(*(grids(look) for look in (*looks, score_view)), strict=True)
    plans = tuple(
        PhotoPlan(size_px, metres, plan_levels(size_px, of_photo), of_photo[-1])
        for (size_px, metres), of_photo in zip(sizes, kept, strict=True)
    )
    return Kept(plans, finest, score_view)


def _distinct_looks(views: Sequence[View]) -> list[View]:
    """What the views ask for: every size of a squeezed photograph, the finest and coarsest scale.

    The size of a window doesn't matter to what is kept of a photograph.
    """
    scales = sorted({view.scale for view in views if view.scale is not None})
    ground = sorted({view.metres_per_px for view in views if view.metres_per_px is not None})
    squeezed = {view for view in views if view.is_whole}
    return [
        *sorted(squeezed, key=lambda view: view[:2]),
        *(View(0, 0, scale) for scale in scales[:: max(1, len(scales) - 1)]),
        *(View(0, 0, None, metres) for metres in ground[:: max(1, len(ground) - 1)]),
    ]


def first_samples(plans: Sequence[PhotoPlan], channels: int) -> list[int]:
    """Where each photograph begins in ``samples``, and where the last one ends."""
    lengths = (sum(level.area_px for level in plan.levels) * channels for plan in plans)
    return list(accumulate(lengths, initial=0))


def first_masks(plans: Sequence[PhotoPlan]) -> list[int]:
    """Where each mask begins in ``masks``, and where the last one ends."""
    return list(accumulate((plan.levels[0].area_px for plan in plans), initial=0))


def first_score_masks(plans: Sequence[PhotoPlan]) -> list[int]:
    """Where each mask begins in ``score_masks``, and where the last one ends."""
    lengths = (0 if plan.is_scored_as_cached else plan.score_grid.area_px for plan in plans)
    return list(accumulate(lengths, initial=0))


def array_layout(plans: Sequence[PhotoPlan], num_classes: int, bands: Bands) -> ArrayLayout:
    """The arrays of P photographs and K classes."""
    photos = len(plans)
    return {
        "samples": ((first_samples(plans, bands.channels)[-1],), bands.dtype.type),
        "masks": ((first_masks(plans)[-1],), np.uint8),
        "score_masks": ((first_score_masks(plans)[-1],), np.uint8),
        "class_pixels_PK": ((photos, num_classes), np.int64),
        "class_locations_PKL2": ((photos, num_classes, LOCATIONS, 2), np.int32),
    }
