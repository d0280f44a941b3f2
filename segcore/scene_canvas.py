"""The canvas of a drawn scene: a camera straight above flat ground, one sun, and a brush.

Every brush stroke has one coverage, from one geometry, and changes picture and mask with it: so
they fit to the pixel. World coordinates are metres: x, y on the ground around the point below the
camera, z upwards. Axes of arrays: ``H`` rows, ``W`` columns, ``C`` RGB, ``N`` points.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Concatenate, ParamSpec, TypeAlias, TypeVar

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float32]
RGB: TypeAlias = tuple[float, float, float]
_P = ParamSpec("_P")
_T = TypeVar("_T")
Window: TypeAlias = tuple[slice, slice]
"""Rows and columns of the canvas that a stroke touches."""
Pixels: TypeAlias = Window | tuple[NDArray[np.intp], NDArray[np.intp]]
"""A window, or single pixels: arrays of their rows and columns."""

_BIG_WINDOW_PX = 4096  # above this, coverage is counted on 2 × 2 instead of 4 × 4 points
_MIN_LINE_PX = 1.6  # thinner lines would cover no pixel by half, and vanish from the mask
_SKY_LIGHT = np.array([0.40, 0.44, 0.52], np.float32)  # what the blue sky leaves in a shadow


def floats(values: ArrayLike) -> Floats:
    """An array of float32, from anything that numpy takes for one."""
    return np.asarray(values, np.float32)


class Label(IntEnum):
    """The classes, by their value in a mask."""

    BACKGROUND = 0
    ROOF = 1
    SECONDARY_STRUCTURE = 2
    POOL = 3
    VEHICLE = 4
    GRASS = 5
    TREES = 6
    SOLAR_PANELS = 7
    CHIMNEY = 8
    STREET_LIGHT = 9
    WINDOW = 10
    ANTENNA = 11
    BINS = 12
    TRAMPOLINE = 13
    ROAD = 14
    CONSTRUCTION = 15
    POWER_LINES = 16
    TANK = 17
    PARKING = 18
    SPORTS = 19
    INDUSTRIAL = 20
    FOREST = 21
    WATER = 22
    FLOODED = 23
    BOAT = 24


@dataclass(frozen=True)
class Ribs:
    """Parallel bright and dark stripes: shingle courses, sheet metal, mown grass."""

    direction: tuple[float, float]
    """Across the stripes, on the ground."""
    period_m: float
    strength: float


@dataclass(frozen=True)
class Material:
    """A colour that is never flat. ``grain``, ``mottle`` and ``patch`` are shares of brightness."""

    rgb: RGB
    patches_rgb: RGB | None = None
    """A second colour, blended in over several metres."""
    grain: float = 0.04
    """Noise of 0.15 m."""
    mottle: float = 0.03
    """Noise of 0.5 m."""
    patch: float = 0.04
    """Noise of 6 m."""
    ribs: Ribs | None = None


@dataclass(frozen=True)
class Frame:
    """A place on the ground with its own axes: u to the right, v ahead."""

    x: float
    y: float
    turn: float = 0.0
    """Radians from the world's axes to this frame's."""

    def place(self, points: ArrayLike, z: float | None = None) -> Floats:
        """Local (u, v) or (u, v, z) → world: N points, 2 or 3 columns; 3 with one ``z`` for all."""
        points_N = np.array(points, np.float32)
        points_N[:, :2] = points_N[:, :2] @ _rotation(self.turn).T + floats([self.x, self.y])
        if z is None:
            return points_N
        return np.column_stack([points_N, np.full(len(points_N), z, np.float32)])

    def at(self, u: float, v: float, turn: float = 0.0) -> "Frame":
        """The frame at (u, v) of this one, turned by ``turn`` against it."""
        x, y = self.place([(u, v)])[0]
        return Frame(float(x), float(y), self.turn + turn)

    def direction(self, u: float, v: float) -> tuple[float, float]:
        """A local direction in the world's axes."""
        x, y = _rotation(self.turn) @ floats([u, v])
        return float(x), float(y)


class Canvas:
    """A scene while it is drawn, from the ground upwards.

    ``image_HWC`` is float32 RGB, 0–255; ``mask_HW`` uint8. ``lit_HW`` says how much sun falls on
    the top surface of each pixel, so that two shadows on one spot are no darker than one.
    """

    def __init__(self, rng: np.random.Generator, height_px: int, width_px: int) -> None:
        self.rng = rng
        width_m = rng.uniform(62, 105)
        self.px_per_m = max(height_px, width_px) / width_m
        self.radius_m = 0.5 * float(np.hypot(height_px, width_px)) / self.px_per_m
        self.camera_m = 0.95 * width_m
        self._rotation = _rotation(rng.uniform(0, 2 * np.pi))
        self._centre_px = floats([width_px / 2, height_px / 2])
        sun_angle, shadow_length = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 1.1)
        self.shadow_per_m = floats([np.cos(sun_angle), np.sin(sun_angle)]) * shadow_length
        to_sun = floats([*-self.shadow_per_m, 1.0])
        self.to_sun = to_sun / np.linalg.norm(to_sun)

        shape = (height_px, width_px)
        self.grain_HW = self._noise(shape, 0.15)
        self.mottle_HW = (self._noise(shape, 0.5) + self._noise(shape, 1.2)) / np.float32(1.4)
        self.patch_HW = (self._noise(shape, 6) + self._noise(shape, 2.5)) / np.float32(1.4)
        self.patchiness_HW: Floats = np.clip(0.5 + 0.5 * self.patch_HW, 0, 1)
        self.terrain_HW = (self._noise(shape, 28) + 0.3 * self.patch_HW) / np.float32(1.1)
        self.image_HWC = np.zeros((*shape, 3), np.float32)
        self.mask_HW = np.zeros(shape, np.uint8)
        self.lit_HW = np.ones(shape, np.float32)
        rows, columns = np.mgrid[:height_px, :width_px].astype(np.float32) + 0.5
        flat = (np.stack([columns, rows], axis=-1) - self._centre_px) / self.px_per_m
        self.ground_HW2 = floats(flat @ self._rotation)
        self.everywhere: Window = (slice(0, height_px), slice(0, width_px))
        self._standing: list[tuple[float, Callable[[], None]]] = []

    def _noise(self, shape: tuple[int, int], cell_m: float) -> Floats:
        """Smooth noise of mean 0 and deviation 1 with hills of ``cell_m``."""
        cell_px = max(1.0, cell_m * self.px_per_m)
        rows, columns = (int(np.ceil(side / cell_px)) + 3 for side in shape)
        grid = self.rng.standard_normal((rows, columns), dtype=np.float32)
        size = (int(columns * cell_px) + 1, int(rows * cell_px) + 1)
        noise = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
        # Off the border, where cubic interpolation repeats the outermost cells.
        start = int(cell_px)
        noise = noise[start : start + shape[0], start : start + shape[1]]
        return np.asarray((noise - noise.mean()) / (noise.std() + 1e-6), np.float32)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def one_of(self, options: Sequence[_T]) -> _T:
        """Any of the options, each as likely."""
        return options[int(self.rng.integers(len(options)))]

    def later(
        self,
        height_m: float,
        draw: "Callable[Concatenate[Canvas, _P], None]",
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> None:
        """Note a thing that stands: ``draw(canvas, …)`` is called when all lower ones are drawn."""
        self._standing.append((height_m, partial(draw, self, *args, **kwargs)))

    def draw_standing(self) -> None:
        """Draw what has been noted, low things before high ones."""
        for _, draw in sorted(self._standing, key=lambda noted: noted[0]):
            draw()
        self._standing.clear()

    def project(self, points: ArrayLike) -> Floats:
        """World (N, 2) on the ground or (N, 3) → pixels (N, 2): the pinhole camera."""
        points_N = floats(points)
        flat = points_N[:, :2] @ self._rotation.T * self.px_per_m
        if points_N.shape[1] == 3:
            flat = flat * (self.camera_m / (self.camera_m - points_N[:, 2:]))
        return floats(flat + self._centre_px)

    def light(self, points_xyz: Floats) -> float:
        """How bright a facet is beside flat ground: sky, and sun by Lambert's cosine law."""
        (ax, ay, az), (bx, by, bz) = points_xyz[1:3] - points_xyz[0]
        # By hand: numpy's cross() is made for arrays, and costs ten times as much on one pair.
        normal = np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])
        cosine = float(normal @ self.to_sun) / (float(np.sqrt(normal @ normal)) + 1e-9)
        cosine = -cosine if normal[2] < 0 else cosine
        return 0.45 + 0.55 * max(0.0, cosine) / float(self.to_sun[2])

    def sees(self, solid_xyz: Floats) -> bool:
        """Whether a solid or its shadow may be in view."""
        landed = solid_xyz[:, :2] + solid_xyz[:, 2:] * self.shadow_per_m
        points = np.concatenate([self.project(solid_xyz), self.project(landed)])
        low, high = points.min(0), points.max(0)
        return bool((high > 0).all() and (low < self.mask_HW.shape[::-1]).all())

    def coverage(
        self, outlines_px: Sequence[Floats], width_px: float | None = None
    ) -> tuple[Window, Floats] | None:
        """What polygons, or lines of ``width_px``, cover of each pixel: 0–1. None: out of view."""
        margin = 1 + (width_px or 0)
        corners = np.concatenate(outlines_px)
        size = np.array(self.mask_HW.shape[::-1])
        left, top = np.clip(np.floor(corners.min(0) - margin), 0, size).astype(int)
        right, bottom = np.clip(np.ceil(corners.max(0) + margin), 0, size).astype(int)
        if left >= right or top >= bottom:
            return None
        height, width = int(bottom - top), int(right - left)
        fineness = 2 if height * width > _BIG_WINDOW_PX else 4
        fine = np.zeros((height * fineness, width * fineness), np.uint8)
        for outline in outlines_px:
            # Four fractional bits; a pixel's centre, not its corner, has whole coordinates.
            inside = (outline - floats([left, top])) * fineness - 0.5
            points = [np.round(inside * 16).astype(np.int32)]
            if width_px is None:
                cv2.fillPoly(fine, points, 255, shift=4)
            else:
                cv2.polylines(fine, points, False, 255, round(width_px * fineness), shift=4)
        alpha_HW = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
        window = slice(int(top), int(bottom)), slice(int(left), int(right))
        return window, alpha_HW.astype(np.float32) / 255

    def texture(self, pixels: Pixels, material: Material) -> Floats:
        """The colours (H, W, C) of a material on some pixels, in full sun."""
        rgb = floats(material.rgb)
        brightness_HW = 1 + np.float32(material.patch) * self.patch_HW[pixels]
        brightness_HW += np.float32(material.grain) * self.grain_HW[pixels]
        brightness_HW += np.float32(material.mottle) * self.mottle_HW[pixels]
        if material.ribs:
            across = floats(material.ribs.direction) / np.hypot(*material.ribs.direction)
            phase = self.ground_HW2[pixels] @ (
                across * np.float32(2 * np.pi / material.ribs.period_m)
            )
            brightness_HW += np.float32(material.ribs.strength) * np.sin(phase)
        if material.patches_rgb is None:
            return floats(rgb * brightness_HW[..., None])
        colour_HWC = self.patchiness_HW[pixels][..., None] * (floats(material.patches_rgb) - rgb)
        colour_HWC += rgb
        colour_HWC *= brightness_HW[..., None]
        return floats(colour_HWC)

    def blend(
        self, pixels: Pixels, alpha_HW: Floats, colour_HWC: Floats, label: Label | None
    ) -> None:
        """Lay a colour over these pixels; label (unless None) what it covers by half or more."""
        change_HWC = colour_HWC - self.image_HWC[pixels]
        change_HWC *= alpha_HW[..., None]
        self.image_HWC[pixels] += change_HWC
        self.lit_HW[pixels] += alpha_HW * (1 - self.lit_HW[pixels])
        if label is not None:
            self.mask_HW[pixels] = np.where(alpha_HW >= 0.5, label, self.mask_HW[pixels])

    def paint(
        self, points: Floats, label: Label | None, material: Material, light: float = 1.0
    ) -> None:
        """Fill a polygon, given in world points of 2 or 3 columns."""
        self._stroke(self.coverage([self.project(points)]), label, material, light)

    def line(self, points: Floats, width_m: float, label: Label | None, material: Material) -> None:
        """A line through world points, at least as wide as a mask can show."""
        width_px = max(_MIN_LINE_PX, width_m * self.px_per_m)
        self._stroke(self.coverage([self.project(points)], width_px), label, material, 1.0)

    def _stroke(
        self,
        covered: tuple[Window, Floats] | None,
        label: Label | None,
        material: Material,
        light: float,
    ) -> None:
        if covered is None:
            return
        pixels: Pixels
        pixels, alpha_HW = covered
        if alpha_HW.size > _BIG_WINDOW_PX and np.count_nonzero(alpha_HW) < 0.4 * alpha_HW.size:
            # Long things that lie askew cover little of their window: visit only that.
            rows, columns = np.nonzero(alpha_HW)
            alpha_HW = alpha_HW[rows, columns]
            pixels = rows + covered[0][0].start, columns + covered[0][1].start
        self.blend(pixels, alpha_HW, self.texture(pixels, material) * np.float32(light), label)

    def shadow(self, solid_xyz: Floats, floor_m: float = 0.0) -> None:
        """The shadow that a convex solid, given by its corners, throws on the ground or a roof."""
        rise = solid_xyz[:, 2:] - np.float32(floor_m)
        landed = np.hstack([solid_xyz[:, :2] + rise * self.shadow_per_m, solid_xyz[:, 2:] - rise])
        covered = self.coverage([cv2.convexHull(self.project(landed))[:, 0]])
        if covered:
            self.darken(*covered)

    def darken(self, window: Window, alpha_HW: Floats) -> None:
        """Take the sun away where it still shines; the sky's light stays."""
        lit_HW = self.lit_HW[window]
        shaded_HW = np.minimum(lit_HW, 1 - 0.92 * cv2.blur(alpha_HW, (3, 3)))
        before, after = (
            _SKY_LIGHT + (1 - _SKY_LIGHT) * lit[..., None] for lit in (lit_HW, shaded_HW)
        )
        self.image_HWC[window] *= after / before
        self.lit_HW[window] = shaded_HW


def _rotation(angle: float) -> Floats:
    cosine, sine = np.cos(angle), np.sin(angle)
    return floats([[cosine, -sine], [sine, cosine]])
