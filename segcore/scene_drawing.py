"""Materials, solids, and the things of gardens and streets in a drawn scene: trees, cars, pools …

Sizes are metres. Solids are drawn as shadow, sides, top: in this order the top hides the sides that
the camera can't see. Whoever calls draws low things first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from segcore.scene_canvas import RGB, Canvas, Floats, Frame, Label, Material, Window, floats

CONCRETE = Material((172, 166, 154), (150, 146, 137), patch=0.03)
ASPHALT = Material((104, 104, 106), (124, 121, 117), grain=0.06)
GLASS = Material((46, 56, 68), patch=0)
WOOD = Material((134, 112, 86), (156, 138, 112), grain=0.08)
DIRT = Material((152, 124, 92), (124, 98, 70), grain=0.06, mottle=0.08, patch=0.08)
STEEL = Material((168, 170, 172), patch=0)
WHITE = Material((226, 226, 222), patch=0.01)
BLACK = Material((34, 35, 38), mottle=0.06)

_CARS: Sequence[RGB] = (
    (226, 227, 228), (212, 214, 216), (168, 171, 175), (120, 124, 130), (46, 48, 53), (30, 31, 34),
    (136, 32, 34), (40, 66, 118), (94, 84, 70),
)  # fmt: skip
_LEAVES: Sequence[RGB] = ((66, 88, 44), (82, 104, 50), (98, 116, 54), (58, 78, 46))
_FOREST_LEAVES: Sequence[RGB] = ((62, 82, 42), (72, 92, 46), (54, 76, 42))
_BINS: Sequence[RGB] = ((44, 82, 60), (38, 40, 46), (52, 78, 120), (118, 90, 60))


def varied(canvas: Canvas, material: Material, amount: float = 0.08) -> Material:
    """The same material from another maker: brightness, and a little the hue."""
    factor = (1 + canvas.rng.normal(0, amount)) * (1 + canvas.rng.normal(0, amount / 6, 3))

    def tinted(rgb: RGB) -> RGB:
        red, green, blue = np.clip(np.array(rgb) * factor, 8, 245).tolist()
        return red, green, blue

    other = tinted(material.patches_rgb) if material.patches_rgb else None
    return replace(material, rgb=tinted(material.rgb), patches_rgb=other)


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
    low_px, high_px = canvas.project(low), canvas.project(high)
    edge_px, lean_px = np.roll(low_px, -1, axis=0) - low_px, high_px - low_px
    for index in np.flatnonzero(edge_px[:, 0] * lean_px[:, 1] < edge_px[:, 1] * lean_px[:, 0]):
        after = (index + 1) % len(low)
        yield np.stack([low[index], low[after], high[after], high[index]])


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
    low, high = frame.place(outline, heights[0]), frame.place(outline, heights[1])
    solid = np.concatenate([low, high])
    if not canvas.sees(solid):
        return
    canvas.shadow(solid, floor_m)
    side_label, side_material = side or (label, material)
    for wall in visible_walls(canvas, low, high):
        canvas.paint(wall, side_label, side_material, canvas.light(wall))
    canvas.paint(high, label, material)


def draw_tree(canvas: Canvas, frame: Frame, radius: float, height: float, label: Label) -> None:
    """A crown: a lumpy dome of leaves, lit from the sun's side, on a trunk that nobody sees."""
    rng = canvas.rng
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    lobes = 0.10 * np.sin(rng.integers(3, 6) * angle + rng.uniform(0, 6))
    reach = radius * (1 + lobes + rng.normal(0, 0.05, len(angle)))
    crown = frame.place(
        np.column_stack([np.cos(angle) * reach, np.sin(angle) * reach]), 0.7 * height
    )
    if not canvas.sees(crown):
        return
    canvas.shadow(crown)
    outline_px = canvas.project(crown)
    covered = canvas.coverage([outline_px])
    if not covered:
        return
    window, alpha_HW = covered
    greens = _FOREST_LEAVES if label is Label.FOREST else _LEAVES
    leaves = Material(canvas.one_of(greens), grain=0.13, mottle=0.22, patch=0.03)
    colour_HWC = canvas.texture(window, varied(canvas, leaves, 0.09))
    light_HW = _dome_light(canvas, window, outline_px)
    fringe_HW = 0.25 * canvas.mottle_HW[window] * (alpha_HW < 1)
    ragged_HW = np.clip(1.6 * alpha_HW - 0.3 + fringe_HW, 0, 1)
    canvas.blend(window, ragged_HW, colour_HWC * light_HW[..., None], label)


def _dome_light(canvas: Canvas, window: Window, outline_px: Floats) -> Floats:
    """Lambert's law on a dome whose surface the leaves have made rough: (H, W)."""
    middle_px = outline_px.mean(0)
    radius_px = float(np.linalg.norm(outline_px - middle_px, axis=1).max())
    rows, columns = np.mgrid[window].astype(np.float32)
    across = (columns + 0.5 - middle_px[0]) / radius_px
    down = (rows + 0.5 - middle_px[1]) / radius_px
    up = np.sqrt(np.clip(1 - across**2 - down**2, 0.05, 1))
    sunward_px, origin_px = canvas.project([(-canvas.shadow_per_m).tolist(), (0, 0)])
    toward = (sunward_px - origin_px) / canvas.px_per_m * canvas.to_sun[2]
    cosine = across * toward[0] + down * toward[1] + up * canvas.to_sun[2]
    bumps = 0.25 * canvas.mottle_HW[window] * up
    return floats(0.40 + 0.68 * np.clip(cosine + bumps, 0, 1.3))


def draw_car(canvas: Canvas, frame: Frame) -> None:
    """A car, a pickup or a van, its bonnet at positive u."""
    paint = varied(canvas, Material(canvas.one_of(_CARS), grain=0.02, patch=0))
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
    canvas.paint(deck, Label.BACKGROUND, varied(canvas, CONCRETE))
    canvas.paint(rim, Label.BACKGROUND, varied(canvas, WHITE))
    surface = frame.place(rounded(width, depth, power, lobes))
    canvas.paint(surface, Label.POOL, varied(canvas, water, 0.06))


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
    wood, post = varied(canvas, WOOD), rectangle(0.3, 0.3)
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
    ends = floats([(-length / 2, 0), (length / 2, 0)])
    boards = np.concatenate([frame.place(ends, 0), frame.place(ends[::-1], 1.8)])
    if canvas.sees(boards):
        canvas.shadow(boards)
        canvas.paint(boards, Label.BACKGROUND, WOOD, 0.8)
        canvas.line(boards[2:], 0.2, Label.BACKGROUND, WOOD)


def draw_debris(canvas: Canvas, frame: Frame) -> None:
    """What the flood has ruined, heaped at the kerb."""
    rng = canvas.rng
    for _ in range(rng.integers(8, 20)):
        spot = frame.at(rng.normal(0, 1.6), rng.normal(0, 0.7), rng.uniform(0, 3))
        outline = rectangle(rng.uniform(0.4, 1.6), rng.uniform(0.3, 0.8))
        rubbish = varied(canvas, Material((150, 135, 118)), 0.35)
        draw_prism(canvas, spot, outline, (0, 0.6), Label.BACKGROUND, rubbish)


def draw_boat(canvas: Canvas, frame: Frame) -> None:
    """A motor boat, its bow at positive u."""
    length, width = canvas.rng.uniform(5.5, 8.5), canvas.rng.uniform(2.0, 2.7)
    outline = [
        (-0.5, -0.5), (0.15, -0.5), (0.38, -0.3), (0.5, 0), (0.38, 0.3), (0.15, 0.5), (-0.5, 0.5),
    ]  # fmt: skip
    hull = floats(outline) * floats([length, width])
    draw_prism(canvas, frame, hull, (0, 0.9), Label.BOAT, varied(canvas, WHITE, 0.04))
    deck = frame.place(hull * floats([0.78, 0.66]), 0.9)
    canvas.paint(deck, Label.BOAT, varied(canvas, Material((176, 158, 130))))
    canopy = rectangle(length * 0.3, width * 0.7, -0.1 * length)
    cloth = varied(canvas, Material((60, 84, 120)), 0.3)
    draw_prism(canvas, frame, canopy, (1.0, 2.0), Label.BOAT, cloth)
