"""From the strokes of a canvas to its photograph: colours, textures, light, and the camera."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from segcore.scenes.canvas import Canvas, Dome, Floats, Stroke, Water, floats
from segcore.scenes.materials import Ribs

_SKY_LIGHT = (0.45, 0.48, 0.56)
"""What the blue sky leaves in a shadow."""
_HEADROOM = 0.7  # sunny roofs are brighter than white ground: room for that in 8 bits
_NO_RIBS = Ribs((1, 0), 1, 0)
_NO_DOME = Dome(0, 0, 1)


def photograph(canvas: Canvas) -> NDArray[np.uint8]:
    """The picture (H, W, C), RGB, of what has been drawn."""
    # numpy looks up by its own index type several times faster than by uint16.
    stroke_HW = canvas.stroke_HW.astype(np.intp)
    colours_CN, patches_CN = _colours(canvas.strokes)
    *planes, shade_HW = _lens(canvas, colours_CN)
    for water in canvas.waters:
        _shine_through(canvas, water, colours_CN, planes)
    light_HW = _texture(canvas, stroke_HW)
    _shape_domes(canvas, stroke_HW, light_HW)
    share_HW = np.clip(0.5 + 0.5 * canvas.patch_HW, 0, 1)
    for colour_HW, patch_N, sky_light in zip(planes, patches_CN, _SKY_LIGHT, strict=True):
        colour_HW += patch_N[stroke_HW] * share_HW
        colour_HW *= light_HW
        colour_HW *= 1 - np.float32(1 - sky_light) * shade_HW
    return _develop(canvas, planes)


def _colours(strokes: list[Stroke]) -> tuple[Floats, Floats]:
    """Of each stroke, lit: its colour, and how its patches differ: both (C, N), 255 is white."""
    light_N = floats([stroke.light for stroke in strokes])
    rgb_NC = floats([stroke.material.rgb for stroke in strokes])
    patches = [stroke.material.patches_rgb or stroke.material.rgb for stroke in strokes]
    return rgb_NC.T * light_N, (floats(patches) - rgb_NC).T * light_N


def _lens(canvas: Canvas, colours_CN: Floats) -> list[Floats]:
    """Plain red, green and blue, 0–255, and the shadow, 0–1, that a lens sees: (H, W) each.

    One step of a Gaussian pyramid blurs the fine grid by half a pixel of the picture and keeps the
    points that the mask keeps too.
    """
    colours_N4 = np.zeros((colours_CN.shape[1], 4), np.uint8)
    colours_N4[:, :3] = np.clip(colours_CN.T * _HEADROOM, 0, 255)
    # Four bytes looked up as one number take a quarter of the time.
    fine_HW4 = np.take(colours_N4.view(np.uint32), canvas.fine_HW).view(np.uint8)
    fine_HW4 = fine_HW4.reshape(*canvas.fine_HW.shape, 4)
    fine_HW4[..., 3] = (canvas.shadow_HW > canvas.fine_HW).view(np.uint8) * np.uint8(255)
    *planes, shade_HW = (floats(plane) for plane in cv2.split(cv2.pyrDown(fine_HW4)))
    return [*(plane / np.float32(_HEADROOM) for plane in planes), shade_HW / np.float32(255)]


def _texture(canvas: Canvas, stroke_HW: NDArray[np.intp]) -> Floats:
    """The brightness (H, W) that noise and ribs give each pixel, around 1."""
    materials = [stroke.material for stroke in canvas.strokes]
    light_HW = 1 + floats([each.grain for each in materials])[stroke_HW] * canvas.grain_HW
    light_HW += floats([each.mottle for each in materials])[stroke_HW] * canvas.mottle_HW
    light_HW += floats([each.patch for each in materials])[stroke_HW] * canvas.patch_HW
    ribs_N = [each.ribs or _NO_RIBS for each in materials]
    strength_N = floats([ribs.strength for ribs in ribs_N])
    per_m_N = floats([2 * np.pi / ribs.period_m / math.hypot(*ribs.direction) for ribs in ribs_N])
    x_N, y_N = floats([ribs.direction for ribs in ribs_N]).T * per_m_N
    at = np.nonzero((strength_N > 0)[stroke_HW])
    number = stroke_HW[at]
    phase = x_N[number] * canvas.x_HW[at] + y_N[number] * canvas.y_HW[at]
    light_HW[at] += strength_N[number] * np.sin(phase)
    return light_HW


def _shape_domes(canvas: Canvas, stroke_HW: NDArray[np.intp], light_HW: Floats) -> None:
    """Crowns: Lambert's law on half spheres whose surface the leaves have made rough."""
    domes = [stroke.dome for stroke in canvas.strokes]
    at = rows, columns = np.nonzero(np.array([dome is not None for dome in domes])[stroke_HW])
    number = stroke_HW[at]
    x_N, y_N, radius_N = floats([dome or _NO_DOME for dome in domes]).T
    across = (columns.astype(np.float32) - x_N[number]) / radius_N[number]
    down = (rows.astype(np.float32) - y_N[number]) / radius_N[number]
    up = np.sqrt(np.clip(1 - across**2 - down**2, 0.05, 1))
    sun_across, sun_down, sun_up = canvas.to_sun_in_view
    cosine = (
        across * sun_across
        + down * sun_down
        + up * (sun_up + np.float32(0.25) * canvas.mottle_HW[at])
    )
    light_HW[at] *= 0.40 + 0.68 * np.clip(cosine, 0, 1.3)


def _shine_through(canvas: Canvas, water: Water, colours_CN: Floats, planes: list[Floats]) -> None:
    """The ground below water; and the sun's glitter where it mirrors into the camera."""
    at = np.nonzero(canvas.stroke_HW == water.number)
    mirror_x, mirror_y = (-canvas.shadow_per_m * canvas.camera_m).tolist()
    x, y = canvas.x_HW[at] - mirror_x, canvas.y_HW[at] - mirror_y
    ripples = np.clip(canvas.mottle_HW[at] + canvas.grain_HW[at], 0, None)
    glitter = 90 * ripples * np.exp(-(x**2 + y**2) / 12**2)
    opacity = water.opacity_HW[at]
    for colour_HW, ground_N in zip(planes, colours_CN, strict=True):
        blurred_HW = cv2.blur(ground_N[water.ground_HW], (5, 5))
        colour_HW[at] = blurred_HW[at] * (1 - opacity) + colour_HW[at] * opacity + glitter


def _develop(canvas: Canvas, planes: list[Floats]) -> NDArray[np.uint8]:
    """What a camera makes of a scene: noise, exposure, white balance, contrast and haze."""
    rng = canvas.rng
    # The grain of the ground, upside down, is as good as new noise, and costs nothing.
    noise_HW = canvas.grain_HW[::-1, ::-1] * np.float32(255 * rng.uniform(0.003, 0.015))
    exposure, contrast, haze = rng.uniform(0.95, 1.35), rng.uniform(0.85, 1.2), rng.uniform(0, 0.1)
    level = np.arange(256) / 255 / _HEADROOM
    developed = []
    for colour_HW, haze_colour in zip(planes, (0.78, 0.82, 0.88), strict=True):
        colour_HW += noise_HW
        colour_HW *= _HEADROOM
        balance = exposure * (1 + rng.normal(0, 0.02))
        curve = (1 - haze) * (level * balance) ** contrast + haze * haze_colour
        exposed_HW = np.clip(colour_HW, 0, 255).astype(np.uint8)
        developed.append(cv2.LUT(exposed_HW, np.clip(curve * 255, 0, 255).astype(np.uint8)))
    return cv2.merge(developed)
