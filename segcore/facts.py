"""What is known of a data set before a search: for search spaces that depend on it."""

from dataclasses import dataclass

import numpy as np

VISIBLE_PX = 4
"""An object that is narrower than this is hardly seen by a network."""
CLEAR_PX = 16
"""Up to this width an object gets clearer; from then on resolution only costs time."""

FEWEST_UNITS = 6
"""Independent photographs, or groups of them: an interval over fewer is a guess."""


@dataclass(frozen=True)
class ObjectSizes:
    """The connected regions of each class in all masks, at full resolution."""

    count_K: tuple[int, ...]
    typical_px_K: tuple[float | None, ...]
    """The median of the shorter sides of the regions' boxes; None: the class has no region."""

    def scale_bounds(self) -> tuple[float, float]:
        """The coarsest and the finest scale that are worth a search.

        At the finest, at most 1, objects of the smallest class have ``CLEAR_PX``. At the coarsest,
        those of the median class have twice ``VISIBLE_PX``.
        """
        typical_px = [size_px for size_px in self.typical_px_K if size_px is not None]
        if not typical_px:
            return 0.25, 1.0
        finest = float(np.clip(CLEAR_PX / min(typical_px), 0.1, 1.0))
        coarsest = float(np.clip(2 * VISIBLE_PX / np.median(typical_px), 0.05, finest / 2))
        return round(coarsest, 3), round(finest, 3)


@dataclass(frozen=True)
class DataFacts:
    """What a search space may want to know of a data set."""

    class_names: tuple[str, ...]
    photos: int
    size_px: tuple[int, int]
    """Median height and width of the photographs."""
    objects: ObjectSizes
