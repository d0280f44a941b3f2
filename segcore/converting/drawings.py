"""Drawing: what was drawn on one photograph; and the mask that it becomes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio.features
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from segcore.config import IGNORE_INDEX
from segcore.data.spec import MAX_CLASSES
from segcore.errors import Problem, ProblemsError, UserError
from segcore.reading.images import write_image

REST = "Background"
"""The class of the pixels on which nothing is drawn."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """Some of a photograph's pixels: only the box around them is held, because there are many."""

    top: int
    left: int
    inside_HW: NDArray[np.bool_]

    @classmethod
    def of(cls, inside_HW: NDArray[np.bool_]) -> "Pixels":
        """Those that are true in a whole photograph."""
        spans = [np.flatnonzero(inside_HW.any(axis=axis)) for axis in (1, 0)]
        (top, bottom), (left, right) = (
            (int(span[0]), int(span[-1]) + 1) if span.size else (0, 0) for span in spans
        )
        return cls(top, left, inside_HW[top:bottom, left:right].copy())

    def paint(self, mask_HW: NDArray[np.uint8], number: int) -> None:
        """Give them this number in a mask of the photograph."""
        height_px, width_px = self.inside_HW.shape
        box = mask_HW[self.top : self.top + height_px, self.left : self.left + width_px]
        box[self.inside_HW] = number


@dataclass(frozen=True)
class Shape:
    """One object: an area in pixels, x to the right and y down from the upper left corner."""

    label: str
    area: BaseGeometry | Pixels
    """A polygon, or the pixels themselves."""
    z_order: int = 0
    """What is higher lies on top."""

    @property
    def area_px(self) -> float:
        """Its size."""
        if isinstance(self.area, Pixels):
            return float(self.area.inside_HW.sum())
        return float(self.area.area)


@dataclass(frozen=True)
class Drawing:
    """What was drawn on one photograph."""

    image: str
    """The photograph's name, as the tool calls it."""
    size_px: tuple[int, int]
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Export:
    """All that a tool has exported."""

    drawings: tuple[Drawing, ...]
    labels: tuple[str, ...]
    """In the tool's order; empty: in alphabetical order of what is drawn."""
    problems: tuple[Problem, ...] = ()
    """What can't become part of a mask, and is left out."""


def number_classes(export: Export, *, ignore_rest: bool) -> dict[str, int]:
    """The number of each class: 0 is what nothing is drawn on, unless that is ignored.

    Raises ``UserError`` where there are too many classes, or none.
    """
    drawn = {shape.label for drawing in export.drawings for shape in drawing.shapes}
    labels = [*dict.fromkeys(export.labels), *sorted(drawn - {*export.labels})]
    if not drawn:
        nothing = "nothing is drawn that could become a mask"
        if export.problems:
            raise ProblemsError(f"{nothing}:", export.problems)
        raise UserError(f"{nothing}; export polygons")
    names = labels if ignore_rest or _rest_of(labels) in labels else [REST, *labels]
    if len(names) > MAX_CLASSES:
        raise UserError(f"there are {len(names)} labels; a mask can hold {MAX_CLASSES} classes")
    return {name: number for number, name in enumerate(names)}


def _rest_of(labels: Iterable[str]) -> str:
    """The label that tools have for what nothing is drawn on, such as _background_; or REST."""
    return next((name for name in labels if name.strip("_ ").casefold() == "background"), REST)


def draw(drawing: Drawing, numbers: Mapping[str, int], *, ignore_rest: bool) -> NDArray[np.uint8]:
    """The mask (HW) of a drawing: a pixel is an object's if its middle lies within.

    Small objects lie on top of large ones, as far as ``z_order`` says nothing else.
    """
    rest = IGNORE_INDEX if ignore_rest else numbers[_rest_of(numbers)]
    mask_HW = np.full(drawing.size_px, rest, np.uint8)
    for shape in sorted(drawing.shapes, key=lambda shape: (shape.z_order, -shape.area_px)):
        number = numbers[shape.label]
        if isinstance(shape.area, Pixels):
            shape.area.paint(mask_HW, number)
        elif not shape.area.is_empty:
            rasterio.features.rasterize([(shape.area, number)], out=mask_HW)
    return mask_HW


def write_mask(
    path: Path, mask_HW: NDArray[np.uint8], colors: Sequence[tuple[int, int, int]]
) -> None:
    """Write a mask as PNG of numbers, which viewers show in colours. Raises ``UserError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, mask_HW, palette=colors)
