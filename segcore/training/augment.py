"""Augmentation with albumentations: image and mask get the same random geometry.

A mask is never interpolated. Pixels that a rotation or a smaller scale uncovers are ignored.
"""

import os
from collections.abc import Callable

# At import, albumentations would ask the network whether there is a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2

from segcore.config import IGNORE_INDEX, TrialConfig
from segcore.errors import UserError
from segcore.plugins import resolve

AugmentationFactory = Callable[[float, int, int], A.Compose]


def aerial(strength: float, height_px: int, width_px: int) -> A.Compose:
    """For images from above: no direction is up, and heights and light vary.

    ``strength`` 0 leaves only the eight symmetries of the square. 1 also rotates by up to 45°,
    scales by 0.6–1.6, shifts by up to a fifth and changes brightness, contrast and colour by up
    to 40 %. An image that isn't square is centred again after a turn by 90°.
    """
    return A.Compose(
        [
            A.D4(p=1.0),
            A.PadIfNeeded(height_px, width_px, border_mode=cv2.BORDER_CONSTANT, fill=0,
                          fill_mask=IGNORE_INDEX),
            A.CenterCrop(height_px, width_px),
            A.Affine(
                rotate=(-45 * strength, 45 * strength),
                scale=(1 - 0.4 * strength, 1 + 0.6 * strength),
                translate_percent=(-0.2 * strength, 0.2 * strength),
                balanced_scale=True,
                interpolation=cv2.INTER_LINEAR,
                mask_interpolation=cv2.INTER_NEAREST,
                border_mode=cv2.BORDER_CONSTANT,
                fill=0,
                fill_mask=IGNORE_INDEX,
                p=0.75 if strength > 0 else 0.0,
            ),
            A.ColorJitter(
                brightness=(1 - 0.4 * strength, 1 + 0.4 * strength),
                contrast=(1 - 0.4 * strength, 1 + 0.4 * strength),
                saturation=(1 - 0.4 * strength, 1 + 0.4 * strength),
                hue=(-0.05 * strength, 0.05 * strength),
                p=0.75 if strength > 0 else 0.0,
            ),
        ]
    )  # fmt: skip


def none(strength: float, height_px: int, width_px: int) -> A.Compose:
    """Leave every image as it is."""
    return A.Compose([])


AUGMENTATIONS: dict[str, AugmentationFactory] = {"aerial": aerial, "none": none}


def build_augmentation(config: TrialConfig) -> A.Compose:
    """Build ``config.augmentation``.

    A user's own is a factory ``(strength, height_px, width_px) -> albumentations.Compose``.
    Raises ``UserError`` if it is unknown or gives something else.
    """
    factory = resolve("augmentation", config.augmentation, AUGMENTATIONS)
    augmentation = factory(config.augment_strength, config.height_px, config.width_px)
    if not isinstance(augmentation, A.Compose):
        raise UserError(
            f"augmentation {config.augmentation!r} gave {type(augmentation).__name__}; "
            "it must return an albumentations.Compose"
        )
    return augmentation
