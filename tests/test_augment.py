"""Augmentation: the geometry that a strength gives, and colours that change in one map."""

import albumentations as A
import numpy as np
import pytest

from segcore.config import TrialConfig
from segcore.errors import UserError
from segcore.training.augment import (
    Augmentation,
    ColorChange,
    Geometry,
    augment,
    build_augmentation,
)


def change(image: np.ndarray, *values: float) -> np.ndarray:
    return ColorChange(0.5, 0.1, p=1.0).apply(image, change=values)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 180, (32, 32, 3)).astype(np.uint8)


def test_no_change_leaves_an_image_as_it_is(image: np.ndarray) -> None:
    np.testing.assert_allclose(change(image, 1, 1, 1, 0).astype(int), image, atol=1)


@pytest.mark.parametrize(
    ("values", "jitter"),
    [
        ((1.3, 1, 1, 0), {"brightness": (1.3, 1.3)}),
        ((1, 0.6, 1, 0), {"contrast": (0.6, 0.6)}),
        ((1, 1, 0.5, 0), {"saturation": (0.5, 0.5)}),
        ((1, 1, 0.0, 0), {"saturation": (0.0, 0.0)}),
    ],
)
def test_each_change_is_that_of_color_jitter(
    image: np.ndarray, values: tuple[float, ...], jitter: dict[str, tuple[float, float]]
) -> None:
    nothing = dict.fromkeys(("brightness", "contrast", "saturation"), (1.0, 1.0))
    reference = A.ColorJitter(**(nothing | {"hue": (0.0, 0.0)} | jitter), p=1.0)
    expected = reference(image=image)["image"].astype(int)
    assert np.abs(change(image, *values) - expected).max() <= 2


def test_hue_turns_colours_and_keeps_light_and_greys(image: np.ndarray) -> None:
    grey = np.repeat(image[..., :1], 3, axis=2)
    np.testing.assert_allclose(change(grey, 1, 1, 1, 0.1).astype(int), grey, atol=1)
    luminance = np.array([0.299, 0.587, 0.114])
    turned = change(image, 1, 1, 1, 0.05)
    np.testing.assert_allclose(turned @ luminance, image @ luminance, atol=1.5)
    assert np.abs(turned.astype(int) - image).mean() > 2


def test_images_of_0_to_1_change_alike_and_stay_there(image: np.ndarray) -> None:
    floats = image.astype(np.float32) / 255
    values = (1.2, 1.3, 0.7, 0.03)
    np.testing.assert_allclose(change(floats, *values) * 255, change(image, *values), atol=1)
    bright = change(floats, 3, 1, 1, 0)
    assert bright.min() >= 0 and bright.max() == 1


def test_a_seed_decides(image: np.ndarray) -> None:
    aerial = build_augmentation(TrialConfig(augment_strength=1.0))
    mask = np.zeros((32, 32), np.uint8)

    def changed(seed: int) -> bytes:
        return augment(aerial, image, mask, seed)[0].tobytes()

    assert changed(1) == changed(1)
    assert len({changed(seed) for seed in range(20)}) > 10


def test_strength_0_leaves_only_the_symmetries() -> None:
    plain = build_augmentation(TrialConfig(augment_strength=0.0))
    assert plain.geometry.any_way_up and plain.geometry.angle_rad == 0
    assert plain.geometry.zoom == (1, 1) and not plain.pixels.transforms
    assert build_augmentation(TrialConfig(augmentation="none")).geometry == Geometry()


@pytest.mark.parametrize("channels", [1, 4, 12])
def test_other_bands_change_their_light_alone(channels: int) -> None:
    light = build_augmentation(TrialConfig(augment_strength=1.0), channels)
    image = np.full((16, 16, channels), 30_000, np.uint16)
    images = [augment(light, image, np.zeros((16, 16), np.uint8), seed)[0] for seed in range(20)]
    assert {picture.shape for picture in images} == {(16, 16, channels)}
    assert {picture.dtype for picture in images} == {np.dtype(np.float32)}
    means = [picture.mean() for picture in images]
    assert np.std(means) > 0.02 and 0.2 < np.mean(means) < 0.7


def own(strength: float, height_px: int, width_px: int) -> A.Compose:
    return A.Compose([A.HorizontalFlip(p=1.0)])


def own_with_geometry(strength: float, height_px: int, width_px: int) -> Augmentation:
    return Augmentation(Geometry(any_way_up=True), A.Compose([]))


def wrong(strength: float, height_px: int, width_px: int) -> int:
    return 3


def test_a_users_own_has_the_windows_to_itself_unless_it_asks_for_a_geometry() -> None:
    mine = build_augmentation(TrialConfig(augmentation=f"{__name__}:own"))
    assert mine.geometry == Geometry()
    both = build_augmentation(TrialConfig(augmentation=f"{__name__}:own_with_geometry"))
    assert both.geometry.any_way_up
    with pytest.raises(UserError, match=r"gave int; it must return an albumentations\.Compose"):
        build_augmentation(TrialConfig(augmentation=f"{__name__}:wrong"))
