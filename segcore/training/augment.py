"""Augmentation: how windows are turned, flipped and enlarged, and how their colours change.

The geometry is part of the one warp that cuts a window (``segcore.data.windows``), so a turned
window shows real surroundings, and image and mask always agree. Colours, and whatever a user's own
pipeline does, are left to albumentations.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

# At import, albumentations would ask the network whether there is a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from segcore.config import TrialConfig
from segcore.errors import UserError
from segcore.plugins import resolve
from segcore.reading.bands import Samples


class Geometry(NamedTuple):
    """The ranges from which the place of a window is drawn."""

    any_way_up: bool = False
    """Whether windows are flipped, and turned by multiples of 90°."""
    angle_rad: float = 0.0
    """They are also turned by up to this much, either way."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """They are enlarged by a factor in this range."""
    share: float = 1.0
    """Of so many windows; the others are neither turned by odd angles nor enlarged."""
    shift: float = 0.0
    """A photograph that is squeezed whole is moved by up to this share of its sides. Windows, and
    crops of it, lie anywhere as it is."""


@dataclass(frozen=True)
class Augmentation:
    """What is changed at random in a training window."""

    geometry: Geometry
    pixels: A.Compose
    """Gets image and mask after they were cut."""


_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""From RGB to luminance and two axes of colour (NTSC, 1953)."""


class ColorChange(A.ImageOnlyTransform):
    """Brightness, contrast, saturation and hue of RGB, as one affine map of a pixel's colour.

    ``A.ColorJitter`` does the same one after the other, which takes 15 times as long and more than
    the warp (benchmarks/README.md). ``limit``: the first three change by factors of 1 ± limit.
    """

    def __init__(self, limit: float, hue_turns: float, p: float) -> None:
        super().__init__(p=p)
        self.limit = limit
        self.hue_turns = hue_turns

    def get_params(self) -> dict[str, tuple[float, float, float, float]]:
        """Draw the four changes."""
        brightness, contrast, saturation = (
            self.py_random.uniform(1 - self.limit, 1 + self.limit) for _ in range(3)
        )
        turns = self.py_random.uniform(-self.hue_turns, self.hue_turns)
        return {"change": (brightness, contrast, saturation, turns)}

    def apply(
        self, img: np.ndarray, change: tuple[float, float, float, float], **params: object
    ) -> np.ndarray:
        """Change an image (HWC, uint8 or float32 of 0…1)."""
        brightness, contrast, saturation, turns = change
        angle = 2 * math.pi * turns
        cos, sin = saturation * math.cos(angle), saturation * math.sin(angle)
        of_color = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
        matrix = brightness * contrast * np.linalg.inv(_TO_YIQ) @ of_color @ _TO_YIQ
        # Contrast is around the mean luminance, which has no colour.
        grey = brightness * (1 - contrast) * float(_TO_YIQ[0] @ cv2.mean(img)[:3])
        changed = cv2.transform(img, np.column_stack([matrix, np.full(3, grey)]))
        return changed if img.dtype == np.uint8 else np.clip(changed, 0, 1)


AugmentationFactory = Callable[[float, int, int], A.Compose | Augmentation]


def aerial(strength: float, height_px: int, width_px: int) -> Augmentation:
    """For images from above: no direction is up, and heights and light vary.

    ``strength`` 0 leaves only the eight symmetries of the square. 1 also turns by up to 45°,
    enlarges by 0.6–1.6 and changes brightness, contrast and colour by up to 40 %.
    """
    geometry = Geometry(
        any_way_up=True,
        angle_rad=strength * math.pi / 4,
        zoom=(1 - 0.4 * strength, 1 + 0.6 * strength),
        share=0.75,
        shift=0.2 * strength,
    )
    colors = ColorChange(0.4 * strength, hue_turns=0.05 * strength, p=0.75)
    return Augmentation(geometry, A.Compose([colors] if strength > 0 else []))


def light(strength: float, height_px: int, width_px: int) -> Augmentation:
    """The same for any number of bands, whose colours can't be told: only their light varies."""
    limit = 0.4 * strength
    change = A.RandomBrightnessContrast(brightness_limit=limit, contrast_limit=limit, p=0.75)
    pixels = A.Compose([change] if strength > 0 else [])
    return Augmentation(aerial(strength, height_px, width_px).geometry, pixels)


def none(strength: float, height_px: int, width_px: int) -> Augmentation:
    """Leave every window as it is."""
    return Augmentation(Geometry(), A.Compose([]))


AUGMENTATIONS: dict[str, AugmentationFactory] = {"aerial": aerial, "none": none}


def build_augmentation(config: TrialConfig, channels: int = 3) -> Augmentation:
    """Build ``config.augmentation`` for images of so many channels.

    A user's own is a factory ``(strength, height_px, width_px)``. It gives an
    ``albumentations.Compose``, which has the windows to itself, or an ``Augmentation``. Raises
    ``UserError`` if it is unknown or gives something else.
    """
    factory = resolve("augmentation", config.augmentation, AUGMENTATIONS)
    if factory is aerial and channels != 3:
        factory = light
    built = factory(config.augment_strength, config.height_px, config.width_px)
    if isinstance(built, A.Compose):
        return Augmentation(Geometry(), built)
    if not isinstance(built, Augmentation):
        raise UserError(
            f"augmentation {config.augmentation!r} gave {type(built).__name__}; "
            "it must return an albumentations.Compose"
        )
    return built


def augment(
    augmentation: Augmentation, image_HWC: Samples, mask_HW: NDArray[np.uint8], seed: int
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Change the pixels of a window. Samples of 16 bits become float32 of 0…1."""
    if not augmentation.pixels.transforms:
        return image_HWC, mask_HW
    pixels_HWC: NDArray[Any] = image_HWC
    if image_HWC.dtype == np.uint16:  # albumentations knows 8 bits and 0…1
        pixels_HWC = image_HWC.astype(np.float32) / np.float32(np.iinfo(np.uint16).max)
    augmentation.pixels.set_random_seed(seed)
    changed = augmentation.pixels(image=pixels_HWC, mask=mask_HW)
    return changed["image"], changed["mask"]
