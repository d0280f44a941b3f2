"""How large the objects of each class are, measured on the masks of a data set."""

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segcore.config import View
from segcore.cores import usable_cores
from segcore.data.building import Tell
from segcore.data.dataset import Photo, load_dataset
from segcore.data.preparing import prepare_data
from segcore.facts import DataFacts, ObjectSizes
from segcore.files import whole_file
from segcore.reading.masks import read_mask

LEAST_REGION_PX = 4
"""Smaller regions are taken for noise of the mask, not for objects."""

LOOKED_AT_PX = 2048
"""Pixels along the longer side of a mask that are looked at."""

OBJECTS = "objects.json"


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


def look_at(dataset_folder: Path, *, progress: bool | Tell = True) -> DataFacts:
    """Look at the photographs and masks of a data set. What was found is remembered in the cache.

    Raises what ``prepare_data`` does.
    """
    # The photographs themselves are kept as small as can be.
    data = prepare_data(dataset_folder, [View(1, 1)], progress=progress)
    height_px, width_px = np.median([plan.size_px for plan in data.plans], axis=0).astype(int)
    objects = measure_objects(dataset_folder, data.folder)
    size_px = int(height_px), int(width_px)
    return DataFacts(data.class_names, len(data.photos), size_px, objects)


def measure_objects(dataset_folder: Path, memory_folder: Path) -> ObjectSizes:
    """Measure the objects of all masks, or recall what was found from a folder of prepared data.

    Raises ``ImageError`` where a mask can't be read.
    """
    memory = memory_folder / OBJECTS
    try:
        values = json.loads(memory.read_text(encoding="utf-8"))
        return ObjectSizes(tuple(values["count_K"]), tuple(values["typical_px_K"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # It isn't there yet, or damaged.
    dataset = load_dataset(dataset_folder)
    coding, classes = dataset.spec.coding, len(dataset.spec.class_names)

    def sides_of(photo: Photo) -> list[NDArray[np.int32]]:
        return shorter_sides(read_mask(photo.mask_path, coding), classes)

    with ThreadPoolExecutor(usable_cores()) as pool:
        found = zip(*pool.map(sides_of, dataset.photos), strict=True)
        per_class = [np.concatenate(sides) for sides in found]
    sizes = ObjectSizes(
        tuple(len(sides) for sides in per_class),
        tuple(float(np.median(sides)) if len(sides) else None for sides in per_class),
    )
    with contextlib.suppress(OSError), whole_file(memory) as unfinished:
        unfinished.write_text(json.dumps(asdict(sizes)), encoding="utf-8")
    return sizes
