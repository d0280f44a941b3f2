"""Materials, solids, and the things of gardens and streets in a drawn scene: trees, cars, pools …

Sizes are metres. Solids are drawn as shadow, sides, top: in this order the top hides the sides that
the camera can't see. Whoever calls draws low things first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from segcore.scenes.canvas import Canvas, Floats, Frame, floats
from segcore.scenes.materials import (
    BLACK,
    CONCRETE,
    GLASS,
    RGB,
    STEEL,
    WHITE,
    WOOD,
    Label,
    Material,
    varied,
)

_CARS: Sequence[RGB] = (
    (226, 227, 228), (212, 214, 216), (168, 171, 175), (120, 124, 130), (46, 48, 53), (30, 31, 34),
    (136, 32, 34), (40, 66, 118), (94, 84, 70),
)  # fmt: skip
_LEAVES, _FOREST_LEAVES = (
    [Material(rgb, grain=0.13, mottle=0.22, patch=0.03) for rgb in greens]
    for greens in (
        ((66, 88, 44), (82, 104, 50), (98, 116, 54), (58, 78, 46)),
        ((62, 82, 42), (72, 92, 46), (54, 76, 42)),
    )
)
_CROWN_ANGLES = np.linspace(0, 2 * np.pi, 36, endpoint=False)
_CROWN_CIRCLE = np.column_stack([np.cos(_CROWN_ANGLES), np.sin(_CROWN_ANGLES)])
_BINS: Sequence[RGB] = ((44, 82, 60), (38, 40, 46), (52, 78, 120), (118, 90, 60))


def rectangle(width: float, depth: float, u: float = 0.0, v: float = 0.0) -> Floats:
    """Corners (4, 2) of a rectangle around (u, v), anticlockwise."""
    u0, u1, v0, v1 = u - width / 2, u + width / 2, v - depth / 2, v + depth / 2
    return floats([(u0, v0), (u1, v0), (u1, v1), (u0, v1)])


def rounded(width: float, depth: float, power: float = 4.0, lobes: float = 0.0) -> Floats:
    """A superellipse (48, 2): power 2 an ellipse, more a rounded rectangle; lobes bend it."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    cosine, sine = np.cos(angle), np.sin(angle)
    radius = (np.abs(cosine) ** power + np.abs(sine) ** power) ** (-1 / power)
    radius *= 1 + lobes * np.cos(2 * angle + 0.8) + lobes * np.sin(3 * angle)
    return floats(np.column_stack([width / 2 * radius * cosine, depth / 2 * radius * sine]))


def visible_walls(canvas: Canvas, low: Floats, high: Floats) -> Iterator[Floats]:
    """The walls (4, 3) between two rings of world points (N, 3) that face the camera.

    The rings run anticlockwise. A wall's first two corners are its foot.
    """
    low_px, high_px = canvas.project(low).tolist(), canvas.project(high).tolist()
    for here, (x, y) in enumerate(low_px):
        after = (here + 1) % len(low_px)
        along_x, along_y = low_px[after][0] - x, low_px[after][1] - y
        if along_x * (high_px[here][1] - y) < along_y * (high_px[here][0] - x):
            yield floats([low[here], low[after], high[after], high[here]])


def draw_prism(
    canvas: Canvas,
    frame: Frame,
    outline: Floats,
    heights: tuple[float, float],
    label: Label,
    material: Material,
    *,
    side: tuple[Label, Material] | None = None,
    floor_m: float = 0.0,
) -> None:
    """An upright solid: convex ``outline`` (N, 2) from ``heights[0]`` to ``heights[1]``.

    ``side``: its walls, where they differ from its top. Its shadow falls on ``floor_m``.
    """
    if not canvas.sees(frame, 1.5 * float(np.abs(outline).max()), heights[1]):
        return
    low, high = frame.place(outline, heights[0]), frame.place(outline, heights[1])
    canvas.shadow(np.concatenate([low, high]), floor_m)
    side_label, side_material = side or (label, material)
    for wall in visible_walls(canvas, low, high):
        canvas.paint(wall, side_label, side_material, canvas.light(wall))
    canvas.paint(high, label, material)


def draw_tree(canvas: Canvas, frame: Frame, radius: float, height: float, label: Label) -> None:
    """A crown: a lumpy dome of leaves on a trunk that nobody sees."""
    if not canvas.sees(frame, 1.3 * radius, 0.7 * height):
        return
    rng = canvas.rng
    lobes = 1 + 0.10 * np.sin(rng.integers(3, 6) * _CROWN_ANGLES + rng.uniform(0, 6))
    reach = radius * (lobes + 0.05 * rng.standard_normal(len(_CROWN_ANGLES)))
    crown = frame.place(_CROWN_CIRCLE * reach[:, None], 0.7 * height)
    canvas.shadow(crown)
    leaves = canvas.one_of(_FOREST_LEAVES if label is Label.FOREST else _LEAVES)
    canvas.paint_dome(crown, label, leaves, light=rng.normal(1, 0.09))


def draw_car(canvas: Canvas, frame: Frame) -> None:
    """A car, a pickup or a van, its bonnet at positive u."""
    paint = varied(canvas.rng, Material(canvas.one_of(_CARS), grain=0.02, patch=0))
    kind = canvas.one_of(["car", "car", "pickup", "van"])
    length, width = {"car": (4.6, 1.9), "pickup": (5.6, 2.1), "van": (5.2, 2.1)}[kind]
    front, back = {"car": (0.9, -1.7), "pickup": (0.9, -0.9), "van": (1.6, -2.4)}[kind]
    x, y, cut = length / 2, width / 2, 0.45
    body = floats([
        (-x, cut - y), (cut - x, -y), (x - cut, -y), (x, cut - y),
        (x, y - cut), (x - cut, y), (cut - x, y), (-x, y - cut),
    ])  # fmt: skip
    draw_prism(canvas, frame, body, (0.2, 1.0), Label.VEHICLE, paint)
    middle, cabin = (front + back) / 2, front - back
    glass = frame.place(rectangle(cabin, width - 0.25, middle), 1.2)
    canvas.paint(glass, Label.VEHICLE, GLASS)
    roof = frame.place(rectangle(cabin * 0.62, width - 0.45, middle - 0.1), 1.6)
    canvas.paint(roof, Label.VEHICLE, paint, 1.05)
    if kind == "pickup":
        bed = frame.place(rectangle(1.6, width - 0.5, -1.85), 0.9)
        canvas.paint(bed, Label.VEHICLE, paint, 0.55)


def draw_pool(canvas: Canvas, frame: Frame) -> None:
    """A swimming pool in its deck; after a hurricane some are green."""
    width, depth = canvas.rng.uniform(6.0, 9.5), canvas.rng.uniform(3.6, 5.0)
    power, lobes = (8.0, 0.0) if canvas.chance(0.4) else (2.4, 0.09)
    water = Material((96, 188, 204), (62, 150, 182), grain=0.02, mottle=0.05, patch=0.08)
    if canvas.chance(0.25):
        water = replace(water, rgb=(92, 124, 96), patches_rgb=(72, 102, 80))
    deck = frame.place(rounded(width + 3.4, depth + 3, power=7))
    rim = frame.place(rounded(width + 0.5, depth + 0.5, power, lobes))
    canvas.paint(deck, Label.BACKGROUND, varied(canvas.rng, CONCRETE))
    canvas.paint(rim, Label.BACKGROUND, varied(canvas.rng, WHITE))
    surface = frame.place(rounded(width, depth, power, lobes))
    canvas.paint(surface, Label.POOL, varied(canvas.rng, water, 0.06))


def draw_trampoline(canvas: Canvas, frame: Frame) -> None:
    """A black mat in a coloured ring."""
    diameter = canvas.rng.uniform(3.4, 4.6)
    ring = Material((44, 78, 138) if canvas.chance(0.7) else (70, 112, 74))
    outer = frame.place(rounded(diameter, diameter, power=2), 0.9)
    canvas.shadow(outer)
    canvas.paint(outer, Label.TRAMPOLINE, ring)
    mat = frame.place(rounded(0.8 * diameter, 0.8 * diameter, power=2), 0.9)
    canvas.paint(mat, Label.TRAMPOLINE, BLACK)


def draw_bins(canvas: Canvas, frame: Frame) -> None:
    """One or two wheeled bins at the kerb."""
    for index in range(canvas.rng.integers(1, 3)):
        plastic = Material(canvas.one_of(_BINS))
        spot = frame.at(1.2 * index, 0)
        draw_prism(canvas, spot, rectangle(0.85, 0.95), (0, 1.1), Label.BINS, plastic)


def draw_street_light(canvas: Canvas, frame: Frame) -> None:
    """A pole with an arm over the street, which lies at negative v."""
    post = rectangle(0.2, 0.2)
    canvas.shadow(np.concatenate([frame.place(post, 0), frame.place(post, 7.5)]))
    path = frame.place([(0, 0, 0), (0, 0, 7.5), (0, -2.4, 7.9)])
    canvas.line(path, 0.22, Label.STREET_LIGHT, replace(STEEL, rgb=(150, 152, 150)))
    lamp = frame.at(0, -2.5).place(rectangle(0.5, 1.0), 7.9)
    canvas.paint(lamp, Label.STREET_LIGHT, WHITE)


def draw_power_line(canvas: Canvas, frame: Frame, length: float) -> None:
    """Poles every 38 m along u, and three sagging cables on their cross-arms."""
    label, height, span, sag = Label.POWER_LINES, 9.5, 38.0, 1.1
    first = -length / 2 + canvas.rng.uniform(0, span)
    wood, post = varied(canvas.rng, WOOD), rectangle(0.3, 0.3)
    for u in np.arange(first, length / 2, span):
        pole = frame.at(float(u), 0)
        canvas.shadow(np.concatenate([pole.place(post, 0), pole.place(post, height)]))
        canvas.line(pole.place([(0, 0, 0), (0, 0, height)]), 0.35, label, wood)
        canvas.line(pole.place([(0, -1.3), (0, 1.3)], height), 0.3, label, wood)
    along = np.arange(-length / 2, length / 2 + 1, 2.0)
    lift = (2 * ((along - first) % span / span) - 1) ** 2  # a parabola between two poles
    cable = Material((52, 52, 54) if canvas.chance(0.6) else (186, 186, 184))
    for v in (-1.1, 0.0, 1.1):
        path = np.column_stack([along, np.full_like(along, v), height - sag * (1 - lift)])
        canvas.line(frame.place(path), 0.12, label, cable)


def draw_fence(canvas: Canvas, frame: Frame, length: float) -> None:
    """Boards along u, 1.8 m high."""
    if not canvas.sees(frame, length / 2, 1.8):
        return
    left, right = -length / 2, length / 2
    boards = frame.place([(left, 0, 0), (right, 0, 0), (right, 0, 1.8), (left, 0, 1.8)])
    canvas.shadow(boards)
    canvas.paint(boards, Label.BACKGROUND, WOOD, 0.8)
    canvas.line(boards[2:], 0.2, Label.BACKGROUND, WOOD)


def draw_debris(canvas: Canvas, frame: Frame) -> None:
    """What the flood has ruined, heaped at the kerb."""
    rng = canvas.rng
    for _ in range(rng.integers(5, 13)):
        spot = frame.at(rng.normal(0, 1.6), rng.normal(0, 0.7), rng.uniform(0, 3))
        outline = rectangle(rng.uniform(0.4, 1.6), rng.uniform(0.3, 0.8))
        rubbish = varied(rng, Material((150, 135, 118)), 0.35)
        draw_prism(canvas, spot, outline, (0, 0.6), Label.BACKGROUND, rubbish)


def draw_boat(canvas: Canvas, frame: Frame) -> None:
    """A motor boat, its bow at positive u."""
    length, width = canvas.rng.uniform(5.5, 8.5), canvas.rng.uniform(2.0, 2.7)
    outline = [
        (-0.5, -0.5), (0.15, -0.5), (0.38, -0.3), (0.5, 0), (0.38, 0.3), (0.15, 0.5), (-0.5, 0.5),
    ]  # fmt: skip
    hull = floats(outline) * floats([length, width])
    draw_prism(canvas, frame, hull, (0, 0.9), Label.BOAT, varied(canvas.rng, WHITE, 0.04))
    deck = frame.place(hull * floats([0.78, 0.66]), 0.9)
    canvas.paint(deck, Label.BOAT, varied(canvas.rng, Material((176, 158, 130))))
    canopy = rectangle(length * 0.3, width * 0.7, -0.1 * length)
    cloth = varied(canvas.rng, Material((60, 84, 120)), 0.3)
    draw_prism(canvas, frame, canopy, (1.0, 2.0), Label.BOAT, cloth)
