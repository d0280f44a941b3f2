"""From the strokes of a canvas to its photograph: colours, textures, light, and the camera."""

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from segcore.scenes.canvas import Canvas, Floats
from segcore.scenes.materials import Label

_SKY_LIGHT = (0.45, 0.48, 0.56)  # What the blue sky leaves of red, green and blue in a shadow.
_HEADROOM = 0.7  # Sunny roofs are brighter than white ground: this leaves room in 8 bits.


def photograph(canvas: Canvas) -> NDArray[np.uint8]:
    """The picture (H, W, C), RGB, of what has been drawn."""
    # numpy looks up by its own index type several times faster than by uint16.
    stroke_HW = canvas.stroke_HW.astype(np.intp)
    strokes = canvas.strokes
    materials = [stroke.material for stroke in strokes]
    light_N1 = _floats([[stroke.light] for stroke in strokes])
    colours_NC = _floats([each.colours[0] for each in materials]) * light_N1
    patches_NC = colours_NC * (_floats([each.patches for each in materials]) - 1)
    *planes, shade_HW = _lens(canvas, colours_NC)
    is_flood_N = _floats([stroke.label is Label.FLOODED for stroke in strokes])
    clear_HW = is_flood_N[stroke_HW] * canvas.clear_HW
    light_HW = np.ones_like(shade_HW)
    shares_NS = _floats([(each.grain, each.mottle, each.patch, each.rib) for each in materials])
    noises = canvas.grain_HW, canvas.mottle_HW, canvas.patch_HW, canvas.rib_HW
    for share_N, noise_HW in zip(shares_NS.T, noises, strict=True):
        light_HW += share_N[stroke_HW] * noise_HW
    share_HW = np.clip(0.5 + 0.5 * canvas.patch_HW, 0, 1)
    for channel, colour_HW in enumerate(planes):
        bottom_HW = cv2.blur(colours_NC[:, channel][canvas.bottom_HW], (5, 5))
        colour_HW += clear_HW * (bottom_HW - colour_HW)
        colour_HW += patches_NC[:, channel][stroke_HW] * share_HW
        colour_HW *= light_HW * (1 - np.float32(1 - _SKY_LIGHT[channel]) * shade_HW)
    return _develop(canvas, planes)


def _lens(canvas: Canvas, colours_NC: Floats) -> list[Floats]:
    """Plain red, green and blue, 0–255, and the shadow, 0–1, that a lens sees: (H, W) each.

    One step of a Gaussian pyramid blurs the fine grid by half a pixel of the picture and keeps the
    points that the mask keeps too.
    """
    colours_N4 = np.zeros((len(colours_NC), 4), np.uint8)
    colours_N4[:, :3] = np.clip(colours_NC * _HEADROOM, 0, 255)
    # Looking up four bytes as one number takes a quarter of the time.
    fine_HW4 = np.take(colours_N4.view(np.uint32), canvas.fine_HW).view(np.uint8)
    fine_HW4 = fine_HW4.reshape(*canvas.fine_HW.shape, 4)
    fine_HW4[..., 3] = (canvas.shadow_HW > canvas.fine_HW).view(np.uint8) * np.uint8(255)
    *planes, shade_HW = (_floats(plane) for plane in cv2.split(cv2.pyrDown(fine_HW4)))
    return [*(plane / np.float32(_HEADROOM) for plane in planes), shade_HW / np.float32(255)]


def _develop(canvas: Canvas, planes: list[Floats]) -> NDArray[np.uint8]:
    """What a camera makes of a scene: noise, exposure, white balance, contrast and haze."""
    rng = canvas.rng
    # The grain of the ground, upside down, is as good as new noise, and costs nothing.
    noise_HW = canvas.grain_HW[::-1, ::-1] * np.float32(255 * rng.uniform(0.003, 0.015))
    exposure, contrast, haze = rng.uniform(0.95, 1.35), rng.uniform(0.85, 1.2), rng.uniform(0, 0.1)
    level = np.arange(256) / 255 / _HEADROOM
    developed = []
    for colour_HW, haze_colour in zip(planes, (0.78, 0.82, 0.88), strict=True):
        balance = exposure * (1 + rng.normal(0, 0.02))
        curve = (1 - haze) * (level * balance) ** contrast + haze * haze_colour
        exposed_HW = np.clip((colour_HW + noise_HW) * _HEADROOM, 0, 255).astype(np.uint8)
        developed.append(cv2.LUT(exposed_HW, np.clip(curve * 255, 0, 255).astype(np.uint8)))
    return cv2.merge(developed)


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, np.float32)
