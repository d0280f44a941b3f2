"""The large sites of a drawn scene: parking, sports, industry, construction.

Each takes its frame and the size of its ground, paints that, and has the canvas draw later what
stands on it.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from segcore.scenes.canvas import Canvas, Floats, Frame
from segcore.scenes.drawing import draw_car, draw_prism, draw_tree, rectangle, rounded
from segcore.scenes.houses import main_roof
from segcore.scenes.materials import (
    ASPHALT,
    CONCRETE,
    DIRT,
    PLASTER,
    RGB,
    STEEL,
    WHITE,
    Label,
    Material,
    Ribs,
    varied,
)

_SHEETS: Sequence[RGB] = ((170, 172, 172), (140, 146, 150), (186, 180, 166), (122, 132, 142))
_CONTAINERS: Sequence[RGB] = ((128, 62, 48), (52, 86, 122), (118, 122, 120), (150, 120, 60))
_COURTS: Sequence[tuple[RGB, RGB]] = (  # around the courts, and the courts
    ((74, 112, 84), (62, 98, 148)),
    ((148, 84, 66), (86, 132, 92)),
    ((72, 104, 128), (172, 112, 82)),
)


def draw_hall(
    canvas: Canvas, frame: Frame, width: float, depth: float, height: float, label: Label
) -> None:
    """A hall with a nearly flat roof of sheet metal, and machines on it."""
    rng = canvas.rng
    sheet = varied(rng, Material(canvas.one_of(_SHEETS), patch=0.05))
    wall = Label.BACKGROUND if label is Label.ROOF else label, varied(rng, PLASTER)
    draw_prism(canvas, frame, rectangle(width, depth), (0, height), label, sheet, side=wall)
    for facet in main_roof(width, depth, height, 0.12, 0.0)[:2]:
        corners = frame.place(facet.corners)
        ribs = Ribs(frame.direction(1, 0), 0.9, 0.05)
        canvas.paint(corners, label, replace(sheet, ribs=ribs), canvas.light(corners))
    top = height + 0.06 * depth
    for _ in range(rng.integers(2, 6)):
        spot = frame.at(rng.uniform(-0.4, 0.4) * width, rng.uniform(-0.4, 0.4) * depth)
        draw_prism(canvas, spot, rectangle(2.0, 1.6), (top, top + 1.2), label, STEEL, floor_m=top)


def draw_tank(canvas: Canvas, frame: Frame, radius: float) -> None:
    """An upright cylinder with a railing and a shallow cone for a lid."""
    height = radius * canvas.rng.uniform(0.9, 1.5)
    steel = varied(canvas.rng, replace(WHITE, rgb=(206, 206, 198), patch=0.03), 0.06)
    outline = rounded(2 * radius, 2 * radius, power=2)
    draw_prism(canvas, frame, outline, (0, height), Label.TANK, steel)
    apex = frame.place([(0, 0)], height + 0.18 * radius)
    rim = frame.place(np.concatenate([outline, outline[:1]]), height)
    for start in range(0, len(outline), 4):
        arc = rim[start : start + 5]
        light = canvas.light(np.stack([arc[0], arc[-1], apex[0]]))
        canvas.paint(np.concatenate([arc, apex]), Label.TANK, steel, light)
    canvas.line(rim, 0.15, Label.TANK, STEEL)


def draw_frame_house(canvas: Canvas, frame: Frame, width: float, depth: float) -> None:
    """A house under construction: slab, bare studs, some plywood, rafters without a roof."""
    rng, label = canvas.rng, Label.CONSTRUCTION
    lumber = varied(rng, Material((206, 178, 132), grain=0.06))
    canvas.paint(frame.place(rectangle(width, depth)), label, varied(rng, CONCRETE))
    eave, top = 2.8, 2.8 + 0.22 * depth
    for v in (-depth / 2, -depth / 6, depth / 6, depth / 2):
        for u in np.arange(-width / 2, width / 2, 1.6):
            draw_prism(canvas, frame.at(u, v), rectangle(0.25, 0.25), (0, eave), label, lumber)
        canvas.line(frame.place([(-width / 2, v, eave), (width / 2, v, eave)]), 0.25, label, lumber)
    for u in np.arange(-width / 2, width / 2 + 0.1, 1.2):
        rafter = frame.place([(u, -depth / 2, eave), (u, 0, top), (u, depth / 2, eave)])
        canvas.line(rafter, 0.22, label, lumber)
    share = rng.uniform(0.2, 0.6)
    for facet in main_roof(width * share, depth, eave, 0.44, 0.0):
        corners = frame.at(-width * (1 - share) / 2, 0).place(facet.corners)
        canvas.paint(corners, label, lumber, canvas.light(corners))


def parking(canvas: Canvas, frame: Frame, width: float, depth: float) -> None:
    """A shop with its parking area: marked stalls, cars, trees on islands."""
    rng = canvas.rng
    asphalt = varied(rng, ASPHALT if canvas.chance(0.5) else CONCRETE, 0.1)
    canvas.paint(frame.place(rectangle(width, depth)), Label.BACKGROUND, varied(rng, CONCRETE))
    lot_depth = depth * rng.uniform(0.55, 0.65)
    lot = frame.at(0, -(depth - lot_depth) / 2 + 0.5)
    canvas.paint(lot.place(rectangle(width - 2, lot_depth)), Label.PARKING, asphalt)
    full = rng.uniform(0.1, 0.7)
    for v in np.arange(-lot_depth / 2 + 2.8, lot_depth / 2 - 2.5, 8.2):
        stalls = np.arange(-width / 2 + 3, width / 2 - 3, 2.8)
        for u in stalls:
            canvas.line(lot.place([(u, v - 2.6), (u, v + 2.6)]), 0.15, Label.PARKING, WHITE)
            if canvas.chance(full):
                turn = np.pi / 2 + np.pi * rng.integers(2) + rng.normal(0, 0.03)
                canvas.later(1.6, draw_car, lot.at(u + 1.4, v + rng.normal(0, 0.25), turn))
        for u in (stalls[0] - 1, stalls[-1] + 4):
            island = lot.at(float(u), float(v))
            canvas.paint(island.place(rectangle(1.8, 5)), Label.GRASS, Material((98, 116, 66)))
            canvas.later(5, draw_tree, island, rng.uniform(1.4, 2.2), 5.0, Label.TREES)
    hall_depth = depth - lot_depth - 4
    hall = frame.at(0, (lot_depth - 1) / 2)
    canvas.later(7, draw_hall, hall, width * 0.8, hall_depth, 6.0, Label.ROOF)


def sports(canvas: Canvas, frame: Frame, width: float, depth: float) -> None:
    """A pitch in a running track, or courts."""
    if canvas.chance(0.5):
        _pitch(canvas, frame, width, depth)
    else:
        _courts(canvas, frame, width, depth)


def _pitch(canvas: Canvas, frame: Frame, width: float, depth: float) -> None:
    label, chalk = Label.SPORTS, WHITE
    track = varied(canvas.rng, Material((166, 92, 72), grain=0.07))
    canvas.paint(frame.place(rounded(width, depth, power=3.2)), label, track)
    for lane in (1.5, 3.0):
        ring = frame.place(rounded(width - 2 * lane, depth - 2 * lane, power=3.2))
        canvas.line(np.concatenate([ring, ring[:1]]), 0.12, label, chalk)
    mown = Material((86, 122, 58), grain=0.07, ribs=Ribs(frame.direction(1, 0), 7.0, 0.07))
    lawn = frame.place(rounded(width - 9, depth - 9, power=3.2))
    canvas.paint(lawn, label, varied(canvas.rng, mown))
    long, short = width * 0.66, depth * 0.58
    _outline(canvas, frame, rectangle(long, short))
    _outline(canvas, frame, rounded(short * 0.3, short * 0.3, power=2))
    canvas.line(frame.place([(0, -short / 2), (0, short / 2)]), 0.15, label, chalk)
    for side in (-1, 1):
        _outline(canvas, frame, rectangle(long * 0.14, short * 0.5, side * long * 0.43))


def _courts(canvas: Canvas, frame: Frame, width: float, depth: float) -> None:
    surround, court = (varied(canvas.rng, Material(rgb)) for rgb in canvas.one_of(_COURTS))
    canvas.paint(frame.place(rectangle(width, depth)), Label.SPORTS, surround)
    for u in np.arange(-width / 2 + 8, width / 2 - 7, 16):
        for v in np.arange(-depth / 2 + 15, depth / 2 - 13, 28) if depth > 30 else (0.0,):
            spot = frame.at(float(u), float(v))
            canvas.paint(spot.place(rectangle(11, 24)), Label.SPORTS, court)
            _outline(canvas, spot, rectangle(11, 24))
            _outline(canvas, spot, rectangle(8.2, 12.8))
            for mark in ([(0, -6.4), (0, 6.4)], [(-5.5, 0), (5.5, 0)]):
                canvas.line(spot.place(mark), 0.12, Label.SPORTS, WHITE)


def _outline(canvas: Canvas, frame: Frame, corners: Floats) -> None:
    closed = np.concatenate([corners, corners[:1]])
    canvas.line(frame.place(closed), 0.15, Label.SPORTS, WHITE)


def industrial(canvas: Canvas, frame: Frame, width: float, depth: float) -> None:
    """Halls, containers and tanks on a gravelled yard."""
    rng = canvas.rng
    yard = Material((158, 150, 136), (134, 128, 118), grain=0.08, mottle=0.05)
    canvas.paint(frame.place(rectangle(width, depth)), Label.INDUSTRIAL, varied(rng, yard))
    hall_width = width * rng.uniform(0.42, 0.55)
    hall = frame.at(-width / 2 + hall_width / 2 + 2, depth * 0.08)
    canvas.later(8, draw_hall, hall, hall_width, depth * 0.7, 7.0, Label.INDUSTRIAL)
    free = frame.at(hall_width / 2 + 1, 0)
    free_width = width - hall_width - 5
    if canvas.chance(0.95):
        radius = min(rng.uniform(2.8, 5.0), free_width / 4.2)
        for index in range(rng.integers(1, 5)):
            u, v = (index % 2 - 0.5) * 2.3 * radius, depth * 0.25 - (index // 2) * 2.4 * radius
            canvas.later(7, draw_tank, free.at(u, v), radius)
    for _ in range(rng.integers(2, 7)):
        u, v = rng.uniform(-0.35, 0.35) * free_width, -depth * rng.uniform(0.1, 0.42)
        spot = free.at(u, v, canvas.one_of([0, np.pi / 2]))
        ribs = Ribs(spot.direction(1, 0), 0.8, 0.06)
        box = varied(rng, Material(canvas.one_of(_CONTAINERS), ribs=ribs))
        canvas.later(2.6, draw_prism, spot, rectangle(6.1, 2.5), (0.0, 2.6), Label.INDUSTRIAL, box)
    for _ in range(rng.integers(0, 4)):
        u, v = rng.uniform(-0.4, 0.4) * free_width, rng.uniform(-0.4, 0.4) * depth
        canvas.later(1.6, draw_car, free.at(u, v, rng.uniform(0, 6)))


def construction(canvas: Canvas, frame: Frame, width: float, depth: float) -> None:
    """A dug-up lot with a house that has no roof yet, and heaps of lumber."""
    rng, label = canvas.rng, Label.CONSTRUCTION
    dug_up = frame.place(rounded(width, depth, power=5, lobes=0.02))
    canvas.paint(dug_up, label, varied(rng, DIRT))
    canvas.later(5, draw_frame_house, frame, width * 0.66, depth * 0.45)
    lumber = Material((204, 176, 128), ribs=Ribs(frame.direction(0, 1), 0.5, 0.1))
    for _ in range(rng.integers(2, 6)):
        u, v = rng.uniform(-0.4, 0.4) * width, rng.uniform(0.3, 0.42) * depth
        spot = frame.at(u, canvas.one_of([-v, v]), rng.normal(0, 0.2))
        outline = rectangle(rng.uniform(2, 4), rng.uniform(0.8, 1.4))
        canvas.later(0.8, draw_prism, spot, outline, (0.0, 0.8), label, lumber)
