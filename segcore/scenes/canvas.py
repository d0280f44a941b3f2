"""The canvas of a drawn scene: a camera straight above flat ground, one sun, and a brush.

A stroke only writes its number into the pixels that it covers, and a note of what it is made of.
Picture and mask are both read from these numbers when all is drawn, so they fit to the pixel, and
what is hidden costs next to nothing. World coordinates are metres: x, y on the ground around the
point below the camera, z upwards. Axes of arrays: ``H`` rows, ``W`` columns, ``N`` points.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Concatenate, NamedTuple, ParamSpec, TypeAlias, TypeVar

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from segcore.scenes.materials import Label, Material

Floats: TypeAlias = NDArray[np.float32]
_P = ParamSpec("_P")
_T = TypeVar("_T")

_FINE = 2
"""Strokes are drawn on a grid so many times finer; pixel i of the picture is point 2 i of it."""
_MIN_LINE_PX = 1.6  # thinner lines would cover no pixel by half, and vanish from the mask
_SUBPIXEL_BITS = 4
_POINTS_PER_PX = _FINE << _SUBPIXEL_BITS  # OpenCV draws at fixed-point coordinates


def floats(values: ArrayLike) -> Floats:
    """An array of float32, from anything that numpy takes for one."""
    return np.asarray(values, np.float32)


@dataclass(frozen=True)
class Frame:
    """A place on the ground with its own axes: u to the right, v ahead."""

    x: float
    y: float
    turn: float = 0.0
    """Radians from the world's axes to this frame's."""

    def place(self, points: ArrayLike, z: float = 0.0) -> Floats:
        """Local (u, v), all at height ``z``, or local (u, v, z) → world (N, 3)."""
        points_N = floats(points)
        placed_N = np.empty((len(points_N), 3), np.float32)
        placed_N[:, :2] = points_N[:, :2] @ self._rotation.T
        placed_N[:, :2] += (self.x, self.y)
        placed_N[:, 2] = points_N[:, 2] if points_N.shape[1] == 3 else z
        return placed_N

    def at(self, u: float, v: float, turn: float = 0.0) -> "Frame":
        """The frame at (u, v) of this one, turned by ``turn`` against it."""
        x, y = self.direction(u, v)
        return Frame(self.x + x, self.y + y, self.turn + turn)

    def direction(self, u: float, v: float) -> tuple[float, float]:
        """A local direction in the world's axes."""
        cosine, sine = math.cos(self.turn), math.sin(self.turn)
        return u * cosine - v * sine, u * sine + v * cosine

    @cached_property
    def _rotation(self) -> Floats:
        return _rotation(self.turn)


class Dome(NamedTuple):
    """A crown as the camera sees it: a half sphere around (``x_px``, ``y_px``)."""

    x_px: float
    y_px: float
    radius_px: float


class Stroke(NamedTuple):
    """What the pixels with this stroke's number show."""

    label: Label
    material: Material
    light: float
    """Brightness beside flat ground in full sun."""
    dome: Dome | None = None


class Water(NamedTuple):
    """The stroke ``number`` is water: the ground below shines through, the sun is mirrored."""

    number: int
    ground_HW: NDArray[np.uint16]
    """The strokes that it covered."""
    opacity_HW: Floats


class Canvas:
    """A scene while it is drawn, from the ground upwards.

    ``fine_HW`` (uint16, twice the height and the width) holds the number of the uppermost stroke;
    ``stroke_HW`` is its view that the picture's pixels see. ``shadow_HW`` holds how many strokes
    there were when a shadow last fell: a point lies in shadow where that is above its stroke.
    """

    def __init__(self, rng: np.random.Generator, height_px: int, width_px: int) -> None:
        self.rng = rng
        self.shape = height_px, width_px
        width_m = rng.uniform(62, 105)
        self.px_per_m = max(height_px, width_px) / width_m
        self.camera_m = 0.95 * width_m
        self._half_view_m = width_px / self.px_per_m / 2, height_px / self.px_per_m / 2
        self.radius_m = math.hypot(*self._half_view_m)
        turn = rng.uniform(0, 2 * np.pi)
        self._view = Frame(0, 0, turn)  # direction(): world → axes of the picture
        self._to_points = _rotation(turn).T * np.float32(_POINTS_PER_PX * self.px_per_m)
        self._centre = floats([(width_px - 1) / 2, (height_px - 1) / 2]) * _POINTS_PER_PX
        sun_angle, shadow_length = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 1.1)
        self.shadow_per_m = floats([np.cos(sun_angle), np.sin(sun_angle)]) * shadow_length
        self._shadow_in_view = self._view.direction(*self.shadow_per_m.tolist())
        steepness = 1 / math.hypot(shadow_length, 1)
        self.to_sun = (*(-steepness * self.shadow_per_m).tolist(), steepness)
        self.to_sun_in_view = (*self._view.direction(*self.to_sun[:2]), steepness)

        self.grain_HW = self.noise(0.15)
        self.mottle_HW = (self.noise(0.5) + self.noise(1.2)) / np.float32(1.4)
        self.patch_HW = (self.noise(6) + self.noise(2.5)) / np.float32(1.4)
        rows, columns = np.ogrid[:height_px, :width_px]
        down, across = rows - (height_px - 1) / 2, columns - (width_px - 1) / 2
        cosine, sine = math.cos(turn) / self.px_per_m, math.sin(turn) / self.px_per_m
        self.x_HW = floats(across * cosine + down * sine)
        self.y_HW = floats(down * cosine - across * sine)
        fine_shape = height_px * _FINE, width_px * _FINE
        self.fine_HW = np.zeros(fine_shape, np.uint16)
        self.stroke_HW = self.fine_HW[::_FINE, ::_FINE]
        self.shadow_HW = np.zeros(fine_shape, np.uint16)
        self.strokes: list[Stroke] = []
        self.waters: list[Water] = []
        self._standing: list[tuple[float, Callable[[], None]]] = []

    def mask(self) -> NDArray[np.uint8]:
        """The class (H, W) of each pixel of the picture."""
        labels = np.array([stroke.label for stroke in self.strokes], np.uint8)
        return labels[self.stroke_HW]

    def noise(self, cell_m: float) -> Floats:
        """Smooth noise (H, W) of mean 0 and deviation 1 with hills of ``cell_m``."""
        height, width = self.shape
        cell_px = max(1.0, cell_m * self.px_per_m)
        rows, columns = (math.ceil(side / cell_px) + 3 for side in self.shape)
        grid = self.rng.standard_normal((rows, columns), dtype=np.float32)
        size = (int(columns * cell_px) + 1, int(rows * cell_px) + 1)
        noise = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
        # Off the border, where cubic interpolation repeats the outermost cells.
        start = int(cell_px)
        noise = noise[start : start + height, start : start + width]
        ((mean,),), ((deviation,),) = cv2.meanStdDev(noise)
        return (noise - np.float32(mean)) / np.float32(deviation + 1e-6)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability

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

    def sees(self, frame: Frame, reach_m: float, height_m: float = 0.0) -> bool:
        """Whether a thing that reaches so far around its frame, or its shadow, may be in view."""
        at = self._view.direction(frame.x, frame.y)
        for place, shadow, half in zip(at, self._shadow_in_view, self._half_view_m, strict=True):
            tip = place + shadow * height_m
            if max(place, tip) < -half - reach_m or min(place, tip) > half + reach_m:
                return False
        return True

    def project(self, points_xyz: Floats) -> NDArray[np.int32]:
        """World (N, 3) → fixed-point coordinates (N, 2) in the fine grid: the pinhole camera."""
        flat = points_xyz[:, :2] @ self._to_points
        flat *= self.camera_m / (self.camera_m - points_xyz[:, 2:])
        flat += self._centre
        return flat.astype(np.int32)

    def light(self, points_xyz: Floats) -> float:
        """How bright a facet is beside flat ground: sky, and sun by Lambert's cosine law."""
        (px, py, pz), (qx, qy, qz), (rx, ry, rz) = points_xyz[:3].tolist()
        ax, ay, az, bx, by, bz = qx - px, qy - py, qz - pz, rx - px, ry - py, rz - pz
        nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        sx, sy, sz = self.to_sun
        up = math.copysign(math.hypot(nx, ny, nz) + 1e-9, nz)
        return 0.45 + 0.55 * max(0.0, (nx * sx + ny * sy + nz * sz) / up) / sz

    def paint(
        self, points_xyz: Floats, label: Label, material: Material, light: float = 1.0
    ) -> None:
        """Fill a polygon, given in world points (N, 3)."""
        _fill(self.fine_HW, self.project(points_xyz), len(self.strokes))
        self.strokes.append(Stroke(label, material, light))

    def paint_dome(
        self, outline_xyz: Floats, label: Label, material: Material, light: float
    ) -> None:
        """Fill a roughly round outline with a dome."""
        outline = self.project(outline_xyz)
        _fill(self.fine_HW, outline, len(self.strokes))
        (x, y), radius = cv2.minEnclosingCircle(outline)
        dome = Dome(x / _POINTS_PER_PX, y / _POINTS_PER_PX, radius / _POINTS_PER_PX)
        self.strokes.append(Stroke(label, material, light, dome))

    def line(self, points_xyz: Floats, width_m: float, label: Label, material: Material) -> None:
        """A line through world points (N, 3), at least as wide as a mask can show."""
        width = round(_FINE * max(_MIN_LINE_PX, width_m * self.px_per_m))
        points = [self.project(points_xyz)]
        cv2.polylines(self.fine_HW, points, False, len(self.strokes), width, shift=_SUBPIXEL_BITS)
        self.strokes.append(Stroke(label, material, 1.0))

    def spread(self, depth_HW: Floats, label: Label, material: Material) -> None:
        """Cover the ground where ``depth_HW`` is above 0."""
        height, width = self.fine_HW.shape
        self.fine_HW[cv2.resize(depth_HW, (width, height)) > 0] = len(self.strokes)
        self.strokes.append(Stroke(label, material, 1.0))

    def flood(self, depth_HW: Floats, opacity_HW: Floats, label: Label, material: Material) -> None:
        """Spread water, under which the ground still shows."""
        self.waters.append(Water(len(self.strokes), self.stroke_HW.copy(), opacity_HW))
        self.spread(depth_HW, label, material)

    def shadow(self, solid_xyz: Floats, floor_m: float = 0.0) -> None:
        """The shadow that a convex solid, given by its corners, throws on the ground or a roof."""
        landed = solid_xyz.copy()
        landed[:, :2] += (solid_xyz[:, 2:] - floor_m) * self.shadow_per_m
        landed[:, 2] = floor_m
        _fill(self.shadow_HW, cv2.convexHull(self.project(landed)), len(self.strokes))


def _fill(grid_HW: NDArray[np.uint16], outline: NDArray[np.int32], number: int) -> None:
    cv2.fillPoly(grid_HW, [outline], number, shift=_SUBPIXEL_BITS)


def _rotation(angle: float) -> Floats:
    cosine, sine = math.cos(angle), math.sin(angle)
    return floats([[cosine, -sine], [sine, cosine]])
