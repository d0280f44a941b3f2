"""Solids of a drawn scene: blocks, roofs, the crowns of trees, and things that are made of them."""

import cmath
import math
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from segcore.scenes.canvas import Canvas, Frame, Look, Outline
from segcore.scenes.materials import Label, Material

_T = TypeVar("_T", complex, Outline)
_CROWN_ANGLES = np.linspace(0, 2 * np.pi, 36, endpoint=False)
BOX: Outline = np.array([-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j]) / 2


def superellipse(power: float, lobes: float = 0.0) -> Outline:
    """An outline (32,) about 1 wide and deep: power 2 is an ellipse, a high one nearly a square."""
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    cosine, sine = np.cos(angle), np.sin(angle)
    radius = (np.abs(cosine) ** power + np.abs(sine) ** power) ** (-1 / power) / 2
    radius *= 1 + lobes * np.cos(2 * angle + 0.8) + lobes * np.sin(3 * angle)
    return radius * (cosine + 1j * sine)


def scaled(points: _T, size: complex) -> _T:
    """A point or an outline, times ``size`` along each axis: width along u, depth along v."""
    return points.real * size.real + 1j * (points.imag * size.imag)


class Part(NamedTuple):
    """A piece of a thing: a block, a flat piece, or a line. Sizes and places are metres."""

    material: Material
    size: complex  # Its width along u, and 1j times its depth along v.
    z: tuple[float, float] = (0.0, 0.0)  # Its lower and its upper end; a line's two halves.
    at: complex = 0.0
    shape: Outline = BOX
    line_m: float = 0.0  # Above 0: only the outline is drawn, as a line of this width.
    pitch: float = 0.0  # Above 0: the block has a gable roof of this pitch.
    crown: bool = False  # Whether it is the crown of a tree, with its border at ``z``.
    base_m: float = 0.0  # ``z`` counts from here; its shadow falls on this height.
    label: Label | None = None  # Its class, where that is not the thing's.


Thing: TypeAlias = tuple[Label, list[Part]]
"""A class, and the parts that show it, in the order in which they are drawn."""


def draw_thing(canvas: Canvas, frame: Frame, thing: Thing, stretch: complex) -> None:
    """Draw a thing, its width and depth times ``stretch``; each of its materials has one colour."""
    label, parts = thing
    reach_m = max(abs(part.at) + abs(part.size) + 1.1 * part.z[1] for part in parts)
    if not canvas.sees(frame, reach_m * abs(stretch)):
        return
    picked: dict[int, Material] = {}
    for part in parts:
        if id(part.material) not in picked:
            picked[id(part.material)] = part.material.picked(canvas.rng)
        look = part.label or label, picked[id(part.material)]
        spot, size = frame.at(scaled(part.at, stretch)), scaled(part.size, stretch)
        spot = spot._replace(z=spot.z + part.base_m)
        outline = scaled(part.shape, size)
        if part.line_m:
            heights = np.repeat(part.z, len(outline) // 2)
            if part.z[0] != part.z[1]:
                canvas.shadow(spot, outline, heights)
            closed = [*range(len(outline)), 0]
            canvas.line(spot, outline[closed], part.line_m, look, heights[closed])
        elif part.crown:
            _draw_crown(canvas, spot, size.real / 2, part.z[1], look)
        else:
            draw_block(canvas, spot, outline, part.z, look)
            if part.pitch:
                eaves = spot._replace(z=spot.z + part.z[1])
                draw_roof(canvas, eaves, size + 0.4 * (1 + 1j), part.pitch, look)


def draw_block(
    canvas: Canvas, frame: Frame, outline: Outline, z: tuple[float, float], look: Look
) -> None:
    """An upright solid: its shadow, the sides that face the camera, then its top.

    ``outline`` (N,) is convex and turns from u to v. ``z``: its lower and its upper end.
    """
    if z[1]:
        canvas.shadow(frame, np.concatenate([outline, outline]), np.repeat(z, len(outline)))
    if z[0] != z[1]:
        low, high = (canvas.project(frame, outline, end) for end in z)
        after = [*range(1, len(outline)), 0]
        along, up = low[after] - low, high - low
        for here in np.flatnonzero(along[:, 0] * up[:, 1] < along[:, 1] * up[:, 0]).tolist():
            start, end = outline[here], outline[after[here]]
            outwards = -1j * frame.turn * complex(end - start) / (abs(end - start) + 1e-9)
            wall, light = np.array([start, end, end, start]), canvas.light(outwards, math.inf)
            canvas.paint(frame, wall, look, np.repeat(z, 2), light)
    canvas.paint(frame, outline, look, z[1])


def draw_roof(
    canvas: Canvas, eaves: Frame, size: complex, pitch: float,
    look: Look, hips: tuple[float, float] = (0.05, 0.05),
) -> None:  # fmt: skip
    """A roof above its eaves, with the ridge along u; ``pitch`` is its rise per metre.

    ``hips``: by how much the left and the right end lean inwards: 1 is as much as the sides, 0.05
    is a gable. With -1 the roof runs on into a larger one, down to its valleys.
    """
    half, v = size.real / 2, size.imag / 2
    left, right = (half - hip * v for hip in hips)
    corners = np.array([*scaled(BOX, size), -left, right])
    canvas.shadow(eaves._replace(z=0.0), corners, eaves.z + pitch * v * (np.arange(6) > 3))
    for turn, hip in ((-math.pi / 2, hips[0]), (math.pi / 2, hips[1])):
        end = eaves.at(math.copysign(half, turn), turn)._replace(rise=pitch / hip)
        if hip > 0:
            canvas.paint(end, np.array([-v, v, 1j * hip * v]), look)
    for turn, start, stop in ((0.0, -left, right), (math.pi, -right, left)):
        slope = eaves.at(0, turn).at(-1j * v)._replace(rise=pitch)
        corners = np.array([-half, half, stop + 1j * v, start + 1j * v])
        canvas.paint(slope, corners, look)
        canvas.line(slope, corners[2:], 0.2, look)


def _draw_crown(canvas: Canvas, frame: Frame, radius_m: float, z: float, look: Look) -> None:
    """The lumpy crown of a tree: the nearer to the sun, the smaller and brighter its layers."""
    rng = canvas.rng
    lobes = 1 + 0.10 * np.sin(rng.integers(3, 6) * _CROWN_ANGLES + rng.uniform(0, 6))
    reach = radius_m * (lobes + 0.05 * rng.standard_normal(len(_CROWN_ANGLES)))
    outline = reach * np.exp(1j * _CROWN_ANGLES)
    canvas.shadow(frame, outline, z)
    tone, to_sun = rng.normal(1, 0.09), 0.7 * radius_m * canvas.to_sun / frame.turn
    for up in (0.0, 0.2, 0.4, 0.6, 0.8):  # Turned differently, so that no edges run in parallel.
        layer = outline * cmath.rect(1 - up, 9 * up) + up * to_sun
        canvas.paint(frame, layer, look, z, tone * (0.6 + 0.85 * up))
