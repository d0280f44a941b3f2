"""Augmentation: how windows are turned, flipped and enlarged, and how their colours change.

The geometry is part of the one warp that cuts a window (``segcore.data.windows``), so a turned
window shows real surroundings, and image and mask always agree. Colours, and whatever a user's own
pipeline does, are left to albumentations.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

# At import, albumentations would ask the network whether there is a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import numpy as np

from segcore.config import Samples, TrialConfig
from segcore.errors import UserError
from segcore.plugins import resolve


class Geometry(NamedTuple):
    """The ranges from which the place of a window is drawn."""

    any_way_up: bool = False
    """Whether windows are flipped, and turned by multiples of 90°."""
    angle_rad: float = 0.0
    """They are also turned by up to this much, either way."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """They are enlarged by a factor in this range."""
    shift: float = 0.0
    """A photograph that is squeezed whole is moved by up to this share of its sides. Windows lie
    anywhere as it is."""


@dataclass(frozen=True)
class Augmentation:
    """What is changed at random in a training window."""

    geometry: Geometry
    pixels: A.Compose
    """Gets image and mask after they were cut."""


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
        shift=0.2 * strength,
    )
    colors = A.ColorJitter(
        brightness=(1 - 0.4 * strength, 1 + 0.4 * strength),
        contrast=(1 - 0.4 * strength, 1 + 0.4 * strength),
        saturation=(1 - 0.4 * strength, 1 + 0.4 * strength),
        hue=(-0.05 * strength, 0.05 * strength),
        p=0.75,
    )
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
    augmentation: Augmentation, image_HWC: Samples, mask_HW: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Change the pixels of a window. Samples of 16 bits become float32 of 0…1."""
    if not augmentation.pixels.transforms:
        return image_HWC, mask_HW
    if image_HWC.dtype == np.uint16:  # albumentations knows 8 bits and 0…1
        image_HWC = image_HWC.astype(np.float32) / np.iinfo(np.uint16).max
    augmentation.pixels.set_random_seed(seed)
    changed = augmentation.pixels(image=image_HWC, mask=mask_HW)
    return changed["image"], changed["mask"]
