"""How large the objects of each class are, and which scales show them."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segcore.errors import UserError
from segcore.files import whole_file

LEAST_REGION_PX = 4
"""Smaller regions are taken for noise of the mask, not for objects."""

LOOKED_AT_PX = 2048
"""Pixels along the longer side of a mask that are looked at."""

VISIBLE_PX = 4
"""An object that is narrower than this is hardly seen by a network."""
CLEAR_PX = 16
"""Up to this width an object gets clearer; from then on resolution only costs time."""

OBJECTS = "objects.json"


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


def shorter_sides(mask_HW: NDArray[np.uint8], num_classes: int) -> list[NDArray[np.int32]]:
    """Of each class, the shorter side of each connected region's box, in pixels.

    Of large masks every second, third … pixel is looked at: the sides are exact to so many.
    """
    step = -(-max(mask_HW.shape) // LOOKED_AT_PX)
    mask_HW = np.ascontiguousarray(mask_HW[::step, ::step])
    found = []
    for k in range(num_classes):
        of_class_HW = cv2.inRange(mask_HW, k, k)
        left, top, width, height = cv2.boundingRect(of_class_HW)
        part_HW = of_class_HW[top : top + height, left : left + width]
        if not part_HW.size:
            found.append(np.zeros(0, np.int32))
            continue
        _, _, stats_N5, _ = cv2.connectedComponentsWithStats(part_HW, connectivity=8)
        regions_N5 = stats_N5[1:]
        kept_N5 = regions_N5[regions_N5[:, cv2.CC_STAT_AREA] >= LEAST_REGION_PX]
        sides_N2 = kept_N5[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
        found.append(sides_N2.min(axis=1) * step)
    return found


def measure_objects(
    photos: Sequence[Path],
    folder: Path,
    sides_of: Callable[[Path], list[NDArray[np.int32]]],
    run: Callable[..., Iterable[list[NDArray[np.int32]]]] = map,
) -> ObjectSizes:
    """Measure the objects of all masks, or recall what was measured, from a prepared folder.

    ``sides_of`` gives the ``shorter_sides`` of one mask. ``run`` is ``map``, or that of a pool.
    """
    memory = folder / OBJECTS
    try:
        values = json.loads(memory.read_text(encoding="utf-8"))
        return ObjectSizes(tuple(values["count_K"]), tuple(values["typical_px_K"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # It isn't there yet, or damaged.
    per_class = [np.concatenate(sides) for sides in zip(*run(sides_of, photos), strict=True)]
    sizes = ObjectSizes(
        tuple(len(sides) for sides in per_class),
        tuple(float(np.median(sides)) if len(sides) else None for sides in per_class),
    )
    try:
        with whole_file(memory) as unfinished:
            unfinished.write_text(json.dumps(asdict(sizes)), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{memory} can't be written: {error}") from error
    return sizes
