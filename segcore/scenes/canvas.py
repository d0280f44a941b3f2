"""The canvas of a drawn scene: flat ground, a sun, a camera straight above, and a brush.

A stroke writes only its number into the pixels that it covers, and notes what it is made of.
Picture and mask are both derived from these numbers at the end, so they agree to the pixel.

A place on the ground is a complex number: x + y·1j, in metres from the point below the camera; so
a product turns it. Heights z are metres. Axes of arrays: ``H`` rows, ``W`` columns, ``N`` points.
"""

import cmath
import math
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from segcore.scenes.materials import Label, Material

Floats: TypeAlias = NDArray[np.floating[Any]]
Outline: TypeAlias = NDArray[Any]
Look: TypeAlias = tuple[Label, Material]
Heights: TypeAlias = float | Floats

_FINE = 2  # Strokes are drawn on a grid that is finer by this factor; pixel i is its point 2·i.
_MIN_LINE_PX = 1.6  # A thinner line would be missing from the mask in places.
_SUBPIXEL_BITS = 4
_POINTS_PER_PX = _FINE << _SUBPIXEL_BITS  # OpenCV draws at fixed-point coordinates.


class Frame(NamedTuple):
    """A plane with its own axes: u to the right, v ahead. It may be tilted, as a roof is."""

    origin: complex
    turn: complex = 1.0  # The direction of u; its length is 1.
    z: float = 0.0
    rise: float = 0.0  # Metres upwards per metre along v.

    def at(self, spot: complex, turn: float = 0.0) -> "Frame":
        """The frame at ``spot`` = u + v·1j of this one, turned against it by ``turn`` radians."""
        z = self.z + self.rise * spot.imag
        return Frame(self.origin + spot * self.turn, self.turn * cmath.rect(1, turn), z, self.rise)


class Stroke(NamedTuple):
    """What the pixels with this stroke's number show."""

    label: Label
    material: Material
    light: float  # Brightness compared with flat ground in full sun.


class Canvas:
    """A scene while it is drawn, from the ground upwards.

    ``fine_HW`` (uint16, twice the height and the width) holds the number of the uppermost stroke;
    ``stroke_HW`` is the part of it that the picture's pixels see. ``shadow_HW`` holds how many
    strokes there were when a shadow last fell: a later stroke lies above that shadow.
    """

    def __init__(self, rng: np.random.Generator, height_px: int, width_px: int) -> None:
        self.rng = rng
        self.shape = height_px, width_px
        width_m = rng.uniform(62, 105)
        self._px_per_m = max(height_px, width_px) / width_m
        self._camera_m = 0.95 * width_m
        self._to_view = cmath.rect(self._px_per_m, rng.uniform(0, 2 * np.pi))
        self._centre_px = complex(width_px - 1, height_px - 1) / 2
        self._centre_points = self._centre_px * _POINTS_PER_PX
        rows, columns = np.ogrid[:height_px, :width_px]
        ground_HW = (columns + 1j * rows - self._centre_px) / self._to_view
        self.ground_HW = ground_HW.astype(np.complex64)
        """The place on the ground that each pixel shows."""
        self._shadow_per_m = cmath.rect(rng.uniform(0.35, 1.1), rng.uniform(0, 2 * np.pi))
        self._sun_up = 1 / math.hypot(abs(self._shadow_per_m), 1)
        self.to_sun = -self._sun_up * self._shadow_per_m
        self.grain_HW = self.noise(0.15)
        self.mottle_HW = (self.noise(0.5) + self.noise(1.2)) / np.float32(1.4)
        self.rib_HW = np.sin(self.ground_HW.real * np.float32(2 * np.pi / 0.9))
        self.patch_HW = (self.noise(6) + self.noise(2.5)) / np.float32(1.4)
        self.fine_HW = np.zeros((height_px * _FINE, width_px * _FINE), np.uint16)
        self.stroke_HW = self.fine_HW[::_FINE, ::_FINE]
        self.shadow_HW = np.zeros_like(self.fine_HW)
        self.strokes: list[Stroke] = []
        self.bottom_HW = self.stroke_HW
        """The strokes that the flood covers."""
        self.clear_HW = np.zeros((height_px, width_px), np.float32)
        """How much of them is seen through the flood, 0 to 1; it counts where the flood is."""

    def mask(self) -> NDArray[np.uint8]:
        """The class (H, W) of each pixel of the picture."""
        values = {label: value for value, label in enumerate(Label)}
        return np.array([values[each.label] for each in self.strokes], np.uint8)[self.stroke_HW]

    def noise(self, cell_m: float) -> Floats:
        """Smooth noise (H, W) of mean 0 and deviation 1 with hills of ``cell_m``."""
        height, width = self.shape
        scale = max(1, round(cell_m * self._px_per_m))
        cells = height // scale + 3, width // scale + 3
        grid = self.rng.standard_normal(cells, dtype=np.float32)
        noise = cv2.resize(grid, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        # Leave out the border, where cubic interpolation repeats the outermost cells.
        noise = noise[scale : scale + height, scale : scale + width]
        return (noise - noise.mean()) / (noise.std() + np.float32(1e-6))

    def sees(self, frame: Frame, reach_m: float) -> bool:
        """Whether a thing that reaches so far around its frame, shadow included, may be in view."""
        place, half = frame.origin * self._to_view, self._centre_px
        outside_px = max(abs(place.real) - half.real, abs(place.imag) - half.imag)
        return outside_px < reach_m * self._px_per_m

    def light(self, facing: complex, rise: float) -> float:
        """Brightness of a surface, compared with flat ground: sky, and sun by Lambert's cosine law.

        ``facing``: where it falls off to. ``rise``: metres per metre; infinite for a wall.
        """
        slope = math.atan(rise)
        to_sun = (facing * self.to_sun.conjugate()).real
        cosine = math.sin(slope) * to_sun + math.cos(slope) * self._sun_up
        return 0.45 + 0.55 * max(0.0, cosine) / self._sun_up

    def paint(
        self, frame: Frame, outline: Outline, look: Look, z: Heights = 0.0, light: float = 0.0
    ) -> None:
        """Fill a polygon (N,) on a frame's plane or ``z`` above it; light 0: as the plane's."""
        points = self.project(frame, outline, z)
        cv2.fillPoly(self.fine_HW, [points], len(self.strokes), shift=_SUBPIXEL_BITS)
        light = light or self.light(-1j * frame.turn, frame.rise)
        self.strokes.append(Stroke(*look, light))

    def line(
        self, frame: Frame, path: Outline, width_m: float, look: Look, z: Heights = 0.0
    ) -> None:
        """Draw a line through the points (N,) of a frame, wide enough to be seen in the mask."""
        width = round(_FINE * max(_MIN_LINE_PX, width_m * self._px_per_m))
        points = [self.project(frame, path, z)]
        cv2.polylines(self.fine_HW, points, False, len(self.strokes), width, shift=_SUBPIXEL_BITS)
        self.strokes.append(Stroke(*look, 1.0))

    def spread(self, depth_HW: Floats, look: Look) -> None:
        """Cover the ground where ``depth_HW`` is above 0."""
        height, width = self.fine_HW.shape
        self.fine_HW[cv2.resize(depth_HW, (width, height)) > 0] = len(self.strokes)
        self.strokes.append(Stroke(*look, 1.0))

    def shadow(self, frame: Frame, points: Outline, z: Heights) -> None:
        """Draw the shadow on the frame's plane of a convex solid with these corners (N,)."""
        landed = points + z * (self._shadow_per_m / frame.turn)
        hull = cv2.convexHull(self.project(frame, landed, 0.0))
        cv2.fillPoly(self.shadow_HW, [hull], len(self.strokes), shift=_SUBPIXEL_BITS)

    def project(self, frame: Frame, points: Outline, z: Heights) -> NDArray[np.int32]:
        """Points (N,) of a frame → fixed-point (x, y) (N, 2) in the fine grid: a pinhole camera."""
        height = frame.z + z + (frame.rise * points.imag if frame.rise else 0.0)
        scale = self._to_view * (_POINTS_PER_PX * self._camera_m / (self._camera_m - height))
        view = points * (frame.turn * scale) + (frame.origin * scale + self._centre_points)
        return view.view(np.float64).reshape(-1, 2).astype(np.int32)
