"""Errors that people make in labels, planted into the clean ones of the drawn scenes.

An object is a connected region of one class, of ``OBJECT_PX`` pixels. The ground (grass, roads,
water) has no objects. Four errors, equally often:

    removed   the object's pixels get the class of what is nearest
    added     an object of some photograph stands where there is none
    swapped   the object has another class
    shifted   it lies ``SHIFT_PX`` beside its place
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt  # type: ignore[import-untyped]

from segcore.scenes.materials import Label

KINDS = ("removed", "added", "swapped", "shifted")
OBJECT_PX = 100, 20_000
SHIFT_PX = 4, 8
GROUND = (Label.BACKGROUND, Label.GRASS, Label.ROAD, Label.FOREST, Label.WATER, Label.FLOODED)
THINGS = [value for value, label in enumerate(Label) if label not in GROUND]

Mask = NDArray[np.uint8]


class Thing(NamedTuple):
    """An object: its class, its pixels inside of its box, and the box's upper left corner."""

    label: int
    shape_HW: NDArray[np.bool_]
    row: int
    column: int

    def within(self, size_px: tuple[int, ...]) -> NDArray[np.bool_]:
        """Its pixels in a photograph; what lies beyond is cut off."""
        placed_HW = np.zeros(size_px, np.bool_)
        height, width = self.shape_HW.shape
        rows, columns = (
            range(max(0, start), min(limit, start + length))
            for start, length, limit in (
                (self.row, height, size_px[0]),
                (self.column, width, size_px[1]),
            )
        )
        part = self.shape_HW[
            rows.start - self.row : rows.stop - self.row,
            columns.start - self.column : columns.stop - self.column,
        ]
        placed_HW[rows.start : rows.stop, columns.start : columns.stop] = part
        return placed_HW


def things(mask_HW: Mask) -> list[Thing]:
    """The objects of a mask."""
    found = []
    for label in THINGS:
        _, number_HW, stats_N5, _ = cv2.connectedComponentsWithStats(
            (mask_HW == label).astype(np.uint8), connectivity=4
        )
        for number, (left, top, width, height, area) in enumerate(stats_N5.tolist()):
            if number and OBJECT_PX[0] <= area <= OBJECT_PX[1]:
                box_HW = number_HW[top : top + height, left : left + width]
                found.append(Thing(label, box_HW == number, top, left))
    return found


def plant(
    mask_HW: Mask, rng: np.random.Generator, pool: Sequence[Thing], count: int
) -> tuple[Mask, Mask, list[str]]:
    """A mask with errors; where each of them is (HW, numbered from 1); and of which kind they are.

    An error that would change nothing, or lie on another one, is drawn again.
    """
    planted_HW, number_HW = mask_HW.copy(), np.zeros_like(mask_HW)
    own, kinds = things(mask_HW), list[str]()
    while own and len(kinds) < count:
        kind = KINDS[rng.integers(len(KINDS))]
        wrong_HW = wrong(kind, mask_HW, own[rng.integers(len(own))], rng, pool)
        changed_HW = wrong_HW != mask_HW
        near_HW = cv2.dilate(changed_HW.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        if changed_HW.sum() < OBJECT_PX[0] / 2 or number_HW[near_HW].any():
            continue
        kinds.append(kind)
        planted_HW[changed_HW] = wrong_HW[changed_HW]
        number_HW[changed_HW] = len(kinds)
    return planted_HW, number_HW, kinds


def wrong(
    kind: str, mask_HW: Mask, thing: Thing, rng: np.random.Generator, pool: Sequence[Thing]
) -> Mask:
    """The mask with one error."""
    wrong_HW = mask_HW.copy()
    if kind == "added":
        other = pool[int(rng.integers(len(pool)))]
        room = np.subtract(mask_HW.shape, other.shape_HW.shape) + 1
        row, column = rng.integers(0, np.maximum(room, 1)).tolist()
        placed_HW = other._replace(row=row, column=column).within(mask_HW.shape)
        if (mask_HW[placed_HW] == other.label).mean() < 0.1:
            wrong_HW[placed_HW] = other.label
        return wrong_HW
    own_HW = thing.within(mask_HW.shape)
    if kind == "swapped":
        wrong_HW[own_HW] = rng.choice([label for label in THINGS if label != thing.label])
        return wrong_HW
    row_HW, column_HW = distance_transform_edt(own_HW, return_distances=False, return_indices=True)
    wrong_HW = mask_HW[row_HW, column_HW]
    if kind == "shifted":
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(*SHIFT_PX)
        row = thing.row + round(length * np.sin(angle))
        column = thing.column + round(length * np.cos(angle))
        wrong_HW[thing._replace(row=row, column=column).within(mask_HW.shape)] = thing.label
    return wrong_HW


def plant_all(scenes: Path, folder: Path, *, per_photo: int, seed: int) -> None:
    """Write a copy of the scenes with errors into ``folder``, and beside them where they are.

    ``errors/NAME.png`` numbers each photograph's errors, ``errors/kinds.json`` has their kinds.
    """
    masks = {path: np.array(Image.open(path)) for path in sorted(scenes.glob("masks/*.png"))}
    pool = [thing for mask_HW in masks.values() for thing in things(mask_HW)]
    shutil.copytree(scenes / "images", folder / "images")
    shutil.copy(scenes / "dataset.yaml", folder)
    kinds = {}
    for part in ("masks", "errors"):
        (folder / part).mkdir()
    for number, (path, mask_HW) in enumerate(masks.items()):
        rng = np.random.default_rng([seed, number])
        planted_HW, number_HW, kinds[path.stem] = plant(mask_HW, rng, pool, per_photo)
        Image.fromarray(planted_HW).save(folder / "masks" / path.name)
        Image.fromarray(number_HW).save(folder / "errors" / path.name)
    (folder / "errors" / "kinds.json").write_text(json.dumps(kinds))
