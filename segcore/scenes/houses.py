"""Houses of a drawn scene: walls, roofs with wings, and what is on a roof.

Roofs are real polyhedra: their shades follow from the sun, and what lies on a slope lies in its
plane.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from segcore.scenes.canvas import Canvas, Floats, Frame, floats
from segcore.scenes.drawing import draw_prism, rectangle, rounded, visible_walls
from segcore.scenes.materials import (
    BLACK,
    GLASS,
    PLASTER,
    RGB,
    STEEL,
    WHITE,
    Label,
    Material,
    Ribs,
    varied,
)

_SHINGLES: Sequence[RGB] = (
    (116, 112, 110), (98, 96, 98), (134, 126, 116), (122, 106, 92), (146, 130, 110), (88, 80, 76),
    (150, 104, 82), (106, 114, 122),
)  # fmt: skip


@dataclass(frozen=True)
class Facet:
    """A plane of a building: corners (N, 3), the lower edge being the first two."""

    corners: Floats

    def rectangle(self, along: float, up: float, width: float, height: float) -> Floats:
        """A rectangle (4, 3) in this plane, its centre ``along`` the lower edge and ``up``."""
        start, end = self.corners[:2]
        edge = (end - start) / np.linalg.norm(end - start)
        slope = self.corners[2] - start
        slope = slope - (slope @ edge) * edge
        slope = slope / np.linalg.norm(slope)
        centre = start + along * edge + up * slope
        half_width, half_height = edge * width / 2, slope * height / 2
        lower, upper = centre - half_height, centre + half_height
        return floats(
            [lower - half_width, lower + half_width, upper + half_width, upper - half_width]
        )

    @property
    def width_m(self) -> float:
        """Length of the lower edge."""
        return float(np.linalg.norm(self.corners[1] - self.corners[0]))

    @property
    def height_m(self) -> float:
        """From the middle of the lower edge to the middle of the upper one, along the slope."""
        lower, upper = self.corners[:2].mean(0), self.corners[2:].mean(0)
        return float(np.linalg.norm(upper - lower))

    @property
    def is_upright(self) -> bool:
        """Whether it is a wall: the end of a gable."""
        (ax, ay, _), (bx, by, _) = self.corners[1:3] - self.corners[0]
        return bool(abs(ax * by - ay * bx) < 1e-3)


def main_roof(width: float, depth: float, eave: float, pitch: float, hip: float) -> list[Facet]:
    """Two long facets, then two triangles at the ends; they stand upright where ``hip`` is 0."""
    top, u, v = eave + pitch * depth / 2, width / 2, depth / 2
    ridge = u - hip * v
    facets = [
        [(-u, -v, eave), (u, -v, eave), (ridge, 0, top), (-ridge, 0, top)],
        [(u, v, eave), (-u, v, eave), (-ridge, 0, top), (ridge, 0, top)],
        [(u, -v, eave), (u, v, eave), (ridge, 0, top)],
        [(-u, v, eave), (-u, -v, eave), (-ridge, 0, top)],
    ]
    return [Facet(floats(corners)) for corners in facets]


def wing_roof(
    u: float, width: float, length: float, depth: float, eave: float, pitch: float, hip: float
) -> list[Facet]:
    """A wing at ``u`` in front of a main roof of ``depth``; its valleys rise at the same pitch."""
    top, inner, outer = eave + pitch * width / 2, -depth / 2, -depth / 2 - length
    left, right, end = u - width / 2, u + width / 2, outer + hip * width / 2
    ridge = [(u, end, top), (u, inner + width / 2, top)]
    facets = [
        [(left, inner, eave), (left, outer, eave), *ridge],
        [(right, inner, eave), (right, outer, eave), *ridge],
        [(left, outer, eave), (right, outer, eave), (u, end, top)],
    ]
    return [Facet(floats(corners)) for corners in facets]


def draw_house(canvas: Canvas, frame: Frame, width: float, depth: float) -> None:
    """A home around its frame, the street at negative v; a wing may stand out towards it."""
    if not canvas.sees(frame, math.hypot(width / 2, depth / 2 + 6), 9):
        return
    rng = canvas.rng
    eave = 5.4 if canvas.chance(0.25) else 2.9
    pitch, hip = rng.uniform(0.35, 0.65), canvas.one_of([0.0, 0.6, 1.0, 1.0])
    shingle = varied(rng, Material(canvas.one_of(_SHINGLES), grain=0.09, mottle=0.05))
    parts = [main_roof(width, depth, eave, pitch, hip)]
    boxes = [rectangle(width - 0.9, depth - 0.9)]
    if canvas.chance(0.75):
        wing, length = min(rng.uniform(0.4, 0.6) * width, depth * 0.95), rng.uniform(2.0, 6.0)
        u = canvas.one_of([-1, 1]) * (width - wing) / 2
        parts.append(wing_roof(u, wing, length, depth, eave, pitch, hip))
        boxes.append(rectangle(wing - 0.9, length, u, -(depth + length) / 2 + 0.5))
    plaster = varied(rng, PLASTER, 0.15)
    _draw_walls(canvas, frame, boxes, eave, plaster)
    for part in parts:
        canvas.shadow(frame.place(np.concatenate([facet.corners for facet in part])))
    for part in parts:
        for facet in reversed(part):  # gable walls before the slopes that may hide them
            _draw_facet(canvas, frame, facet, shingle, plaster)
    _draw_on_roof(canvas, frame, parts[0][:2], eave + pitch * depth / 2)


def _draw_walls(
    canvas: Canvas, frame: Frame, boxes: Sequence[Floats], eave: float, plaster: Material
) -> None:
    """Facades; where the camera's perspective shows them, their windows are seen."""
    windows = canvas.chance(0.3)
    for box in boxes:
        for wall in visible_walls(canvas, frame.place(box, 0), frame.place(box, eave)):
            facade, light = Facet(wall), canvas.light(wall)
            canvas.paint(wall, Label.BACKGROUND, plaster, light)
            for along in np.arange(1.8, facade.width_m - 1.2, 3.2) if windows else ():
                pane = facade.rectangle(along, eave - 1.4, 1.7, 1.7)
                canvas.paint(pane, Label.WINDOW, GLASS, light)


def _draw_facet(
    canvas: Canvas, frame: Frame, facet: Facet, shingle: Material, plaster: Material
) -> None:
    corners = frame.place(facet.corners)
    if facet.is_upright:
        canvas.paint(corners, Label.BACKGROUND, plaster, 0.8)
        return
    along = corners[1] - corners[0]
    courses = Ribs((float(-along[1]), float(along[0])), 0.55, 0.04)
    canvas.paint(corners, Label.ROOF, replace(shingle, ribs=courses), canvas.light(corners))
    red, green, blue = shingle.rgb
    ridge = replace(shingle, rgb=(red * 1.12, green * 1.12, blue * 1.12))
    canvas.line(corners[2:], 0.2, Label.ROOF, ridge)


def _draw_on_roof(canvas: Canvas, frame: Frame, slopes: Sequence[Facet], top: float) -> None:
    """Vents on any; now and then solar panels, skylights, a chimney, a dish."""
    rng = canvas.rng
    for _ in range(rng.integers(0, 4)):
        slope = canvas.one_of(slopes)
        along, up = rng.uniform(0.3, 0.7) * slope.width_m, rng.uniform(0.6, 0.9) * slope.height_m
        vent = slope.rectangle(along, up, 0.5, 0.5)
        canvas.paint(frame.place(vent), Label.ROOF, STEEL, 0.8)
    front, back = slopes
    if canvas.chance(0.035):
        sunny = max(slopes, key=lambda slope: canvas.light(frame.place(slope.corners)))
        _draw_solar_panels(canvas, frame, sunny)
    if canvas.chance(0.08):
        for share in (0.42, 0.58):
            pane = front.rectangle(share * front.width_m, 0.45 * front.height_m, 0.9, 1.2)
            canvas.paint(frame.place(pane), Label.WINDOW, replace(GLASS, rgb=(70, 92, 110)))
    if canvas.chance(0.3):
        _draw_chimney(canvas, frame, back, top + 0.7)
    if canvas.chance(0.03):
        _draw_dish(canvas, frame, front)


def _draw_solar_panels(canvas: Canvas, frame: Frame, slope: Facet) -> None:
    panel = Material((38, 50, 84), (54, 68, 108), grain=0.03)
    rows = int(min(3, slope.height_m * 0.8 // 1.7))
    columns = int(slope.width_m * canvas.rng.uniform(0.35, 0.6) // 1.1)
    for row in range(rows):
        for column in range(columns):
            along = slope.width_m / 2 + (column - (columns - 1) / 2) * 1.1
            pane = frame.place(slope.rectangle(along, 1.2 + row * 1.75, 1.0, 1.65))
            canvas.paint(pane, Label.SOLAR_PANELS, panel, canvas.light(pane))


def _draw_chimney(canvas: Canvas, frame: Frame, slope: Facet, top: float) -> None:
    along = canvas.rng.uniform(0.3, 0.7) * slope.width_m
    u, v, foot = slope.rectangle(along, 0.6 * slope.height_m, 1, 1).mean(0).tolist()
    spot, brick = frame.at(u, v), Material((142, 92, 76), grain=0.1)
    outline = rectangle(1.4, 1.0)
    draw_prism(canvas, spot, outline, (foot - 0.3, top), Label.CHIMNEY, brick, floor_m=foot)
    canvas.paint(spot.place(rectangle(0.7, 0.45), top), Label.CHIMNEY, BLACK)


def _draw_dish(canvas: Canvas, frame: Frame, slope: Facet) -> None:
    """A satellite antenna that looks a little above the horizon."""
    centre = slope.rectangle(0.15 * slope.width_m, 0.35 * slope.height_m, 1, 1).mean(0)
    u, v, foot = centre.tolist()
    dish = frame.at(u, v).place(rounded(1.3, 1.0, power=2), foot + 0.9)
    canvas.shadow(dish, floor_m=foot)
    canvas.paint(dish, Label.ANTENNA, replace(WHITE, rgb=(206, 208, 210)))
    hollow = frame.at(u + 0.1, v + 0.1).place(rounded(0.7, 0.5, power=2), foot + 0.9)
    canvas.paint(hollow, Label.ANTENNA, STEEL)


def draw_shed(canvas: Canvas, frame: Frame) -> None:
    """A garden shed with a gable, or the flat roof over a seat."""
    width, depth = canvas.rng.uniform(3.0, 5.0), canvas.rng.uniform(2.5, 3.6)
    label = Label.SECONDARY_STRUCTURE
    colour = canvas.one_of(_SHINGLES) if canvas.chance(0.6) else WHITE.rgb
    material = varied(canvas.rng, Material(colour, grain=0.07))
    if canvas.chance(0.3):
        draw_prism(canvas, frame, rectangle(width, depth), (2.2, 2.5), label, material)
        return
    draw_prism(canvas, frame, rectangle(width - 0.2, depth - 0.2), (0, 2.1), label, material)
    roof = main_roof(width, depth, 2.1, 0.5, 0.0)
    canvas.shadow(frame.place(np.concatenate([facet.corners for facet in roof])))
    for facet in reversed(roof):
        corners = frame.place(facet.corners)
        canvas.paint(corners, label, material, canvas.light(corners))
