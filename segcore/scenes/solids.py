"""What things are made of: outlines, and the blocks, roofs and crowns that stand on them."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from segcore.scenes.canvas import Canvas, Frame, Outline
from segcore.scenes.materials import PLASTER, Label, Material


def superellipse(power: float, lobes: float = 0.0) -> Outline:
    """An outline (32,) about 1 wide and deep: power 2 is an ellipse, a high one nearly a square."""
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    cosine, sine = np.cos(angle), np.sin(angle)
    radius = (np.abs(cosine) ** power + np.abs(sine) ** power) ** (-1 / power) / 2
    radius *= 1 + lobes * np.cos(2 * angle + 0.8) + lobes * np.sin(3 * angle)
    return radius * (cosine + 1j * sine)


BOX: Outline = np.array([-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j]) / 2
_CROWN_ANGLES = np.linspace(0, 2 * np.pi, 36, endpoint=False)
_T = TypeVar("_T", complex, Outline)


def scaled(points: _T, size: complex) -> _T:
    """A point or an outline, times ``size`` along each axis: width along u, depth along v."""
    return points.real * size.real + 1j * (points.imag * size.imag)


class Part(NamedTuple):
    """A piece of a thing: a block, a flat piece, or a line. Sizes and places are metres."""

    label: Label
    material: Material
    size: complex
    """Its width along u, and 1j times its depth along v."""
    z: tuple[float, float] = (0.0, 0.0)
    """The heights of its lower and its upper end; of a line, those of its two halves."""
    at: complex = 0.0
    shape: Outline = BOX
    line_m: float = 0.0
    """Above 0: only the outline is drawn, as a line of this width."""
    pitch: float = 0.0
    """Above 0: the block has a gable roof of this pitch."""
    crown: bool = False
    """Whether it is a dome of leaves, with its border at ``z``."""


def draw_block(
    canvas: Canvas,
    frame: Frame,
    outline: Outline,
    z: tuple[float, float],
    label: Label,
    material: Material,
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
            outwards = -1j * frame.turn * complex(end - start) / abs(end - start)
            wall, light = np.array([start, end, end, start]), canvas.light(outwards, math.inf)
            canvas.paint(frame, wall, label, material, np.repeat(z, 2), light)
    canvas.paint(frame, outline, label, material, z[1])


def draw_roof(
    canvas: Canvas,
    eaves: Frame,
    size: complex,
    pitch: float,
    label: Label,
    material: Material,
    hips: tuple[float, float] = (0.0, 0.0),
) -> None:
    """A roof above its eaves, with the ridge along u; ``pitch`` is its rise per metre.

    ``hips``: by how much the left and the right end lean inwards: 1 as much as the sides, 0 not at
    all (a gable). With -1 the roof runs on into that of a larger house, down to its valleys.
    """
    half, v = size.real / 2, size.imag / 2
    ridge_left, ridge_right = (half - hip * v for hip in hips)
    corners = np.array([*scaled(BOX, size), -ridge_left, ridge_right])
    heights = eaves.z + pitch * v * np.array([0, 0, 0, 0, 1, 1])
    canvas.shadow(eaves._replace(z=0.0), corners, heights)
    for turn, hip in ((-math.pi / 2, hips[0]), (math.pi / 2, hips[1])):
        end = eaves.at(math.copysign(half, turn), turn)
        if hip > 0:
            corners = np.array([-v, v, 1j * hip * v])
            canvas.paint(end._replace(rise=pitch / hip), corners, label, material)
        elif hip == 0:  # The wall of a gable is no part of the roof.
            wall = Label.BACKGROUND if label is Label.ROOF else label
            canvas.paint(
                end, np.array([-v, v, 0j]), wall, PLASTER, np.array([0, 0, pitch * v]), 0.8
            )
    for turn, left, right in ((0.0, ridge_left, ridge_right), (math.pi, ridge_right, ridge_left)):
        slope = eaves.at(0, turn).at(-1j * v)._replace(rise=pitch)
        corners = np.array([-half, half, right + 1j * v, -left + 1j * v])
        canvas.paint(slope, corners, label, material)
        canvas.line(slope, corners[2:], 0.2, label, material)


def draw_parts(canvas: Canvas, frame: Frame, parts: Sequence[Part], stretch: complex) -> None:
    """Draw a thing; its parts share what they have picked of a material's colours.

    ``stretch``: the factors of its width, and times 1j of its depth.
    """
    reach_m = max(abs(part.at) + abs(part.size) + 1.1 * part.z[1] for part in parts)
    if not canvas.sees(frame, reach_m):
        return
    picked: dict[int, Material] = {}
    for part in parts:
        if id(part.material) not in picked:
            picked[id(part.material)] = part.material.picked(canvas.rng)
        _draw_part(canvas, frame, part._replace(material=picked[id(part.material)]), stretch)


def _draw_part(canvas: Canvas, frame: Frame, part: Part, stretch: complex) -> None:
    spot, size = frame.at(scaled(part.at, stretch)), scaled(part.size, stretch)
    outline, look = scaled(part.shape, size), (part.label, part.material)
    if part.line_m:
        heights = np.repeat(part.z, len(outline) // 2)
        if part.z[1]:
            canvas.shadow(spot, outline, heights)
        closed = [*range(len(outline)), 0]
        canvas.line(spot, outline[closed], part.line_m, *look, heights[closed])
    elif part.crown:
        _draw_crown(canvas, spot, size.real / 2, part.z[1], *look)
    else:
        draw_block(canvas, spot, outline, part.z, *look)
        if part.pitch:
            eaves = spot._replace(z=spot.z + part.z[1])
            draw_roof(canvas, eaves, size + 0.4 * (1 + 1j), part.pitch, *look)


def _draw_crown(
    canvas: Canvas, frame: Frame, radius: float, z: float, label: Label, leaves: Material
) -> None:
    """The lumpy crown of a tree, on a trunk that nobody sees."""
    rng = canvas.rng
    lobes = 1 + 0.10 * np.sin(rng.integers(3, 6) * _CROWN_ANGLES + rng.uniform(0, 6))
    reach = radius * (lobes + 0.05 * rng.standard_normal(len(_CROWN_ANGLES)))
    outline = reach * np.exp(1j * _CROWN_ANGLES)
    canvas.shadow(frame, outline, z)
    canvas.paint(frame, outline, label, leaves, z, light=rng.normal(1, 0.09), dome=True)
