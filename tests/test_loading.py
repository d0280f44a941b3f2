"""What training sees: how often, with which geometry, and how rare classes get their share."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from segcore.config import IGNORE_INDEX, TrialConfig
from segcore.data.prepared import PreparedData
from segcore.data.preparing import prepare_data
from segcore.training.loading import (
    EpochSampler,
    TrainingImages,
    class_rarity,
    crop_around,
    training_loader,
)
from tests.conftest import make_data


def config(**values: object) -> TrialConfig:
    return TrialConfig.from_dict({"height_px": 48, "width_px": 48, "batch_size": 4} | values)


def test_without_oversampling_an_epoch_draws_each_training_image_once(data: PreparedData) -> None:
    drawn = [draw.item for draw in EpochSampler(data, config())]
    assert sorted(drawn) == sorted(data.items("train"))


def test_an_epoch_fills_its_last_batch(data: PreparedData) -> None:
    sampler = EpochSampler(data, config(batch_size=3))
    assert len(list(sampler)) == len(sampler) == 9  # 8 training images


def test_images_with_the_rarest_class_are_drawn_up_to_the_ratio_as_often() -> None:
    data = make_data(count=200)
    ratio = 3.0
    sampler = EpochSampler(data, config(oversample_ratio=ratio))
    drawn: Counter[int] = Counter()
    for epoch in range(1, 61):
        sampler.epoch = epoch
        drawn.update(draw.item for draw in sampler)
    has_pool = data.class_pixels_MK[:, 2] > 0
    train = set(data.items("train"))
    with_pool = np.mean([drawn[i] for i in train if has_pool[i]])
    without = np.mean([drawn[i] for i in train if not has_pool[i]])
    # A roof is rarer than the mean class too, so pictures without a pool weigh a little over 1.
    expected = ratio / np.mean(
        [w for i, w in zip(data.items("train"), sampler.weight_M, strict=True) if not has_pool[i]]
    )
    assert with_pool / without == pytest.approx(expected, rel=0.05)
    assert 1.5 < expected <= ratio


def test_rarity_is_one_for_the_rarest_and_zero_for_common_or_absent_classes() -> None:
    rarity = class_rarity(np.array([9_000, 900, 100, 0]))
    assert rarity[0] == 0 and rarity[3] == 0
    assert rarity[2] == 1 and 0 < rarity[1] < 1
    assert class_rarity(np.array([50, 50])).tolist() == [0, 0]


def test_rare_crops_raise_the_share_of_rare_pixels(data: PreparedData) -> None:
    def pool_share(prob: float) -> float:
        chosen = config(rare_crop_prob=prob, augmentation="none")
        images = TrainingImages(data, chosen)
        masks = np.stack([images[draw][1].numpy() for draw in EpochSampler(data, chosen)])
        return float((masks == 2).sum() / (masks != IGNORE_INDEX).sum())

    assert pool_share(1.0) > 3 * pool_share(0.0) > 0


@pytest.mark.parametrize("pixel", [(0, 0), (20, 30), (47, 47)])
def test_a_rare_crop_holds_its_pixel_at_full_size(pixel: tuple[int, int]) -> None:
    mask = np.zeros((48, 48), np.uint8)
    mask[pixel] = 2
    image = np.repeat(mask[..., None] * 100, 3, axis=2)
    cropped, cropped_mask = crop_around(image, mask, pixel, 0.5)
    assert cropped.shape == (48, 48, 3) and cropped_mask.shape == (48, 48)
    assert (cropped_mask == 2).sum() == 4  # enlarged twice in each direction
    assert cropped[cropped_mask == 2].mean() > 50


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_image_and_mask_always_get_the_same_geometry(strength: float) -> None:
    """The image is the mask painted in grey: after any augmentation it must still be.

    Colours may change, so each class is compared by where it is: a pixel of the mask's class must
    be nearer to that class's own mean grey than to another's, except where interpolation mixes
    two classes at a border.
    """
    data = make_data(count=8, side_px=64)
    painted = np.repeat((data.masks_MHW * 60 % 251)[..., None], 3, axis=3).astype(np.uint8)
    data = PreparedData(**{**vars(data), "images_MHWC": painted})
    chosen = config(height_px=64, width_px=64, augment_strength=strength, rare_crop_prob=0.3)
    images = TrainingImages(data, chosen)
    sampler = EpochSampler(data, chosen)
    for epoch in range(1, 9):
        sampler.epoch = epoch
        for draw in sampler:
            image, mask, _ = images[draw]
            grey, mask_HW = image.float().mean(dim=0).numpy(), mask.numpy()
            present = [k for k in range(3) if (mask_HW == k).sum() > 40]
            means = {k: grey[mask_HW == k].mean() for k in present}
            for k in present:
                spread = np.abs(grey[mask_HW == k] - np.median(grey[mask_HW == k]))
                assert (spread > 15).mean() < 0.25, "image and mask were turned differently"
            assert len({round(mean) for mean in means.values()}) == len(present)


def test_corners_that_a_rotation_uncovers_are_ignored_and_masks_never_interpolated() -> None:
    data = make_data(count=8, side_px=64)
    whole = np.full_like(data.masks_MHW, 1)
    data = PreparedData(**{**vars(data), "masks_MHW": whole})
    images = TrainingImages(data, config(height_px=64, width_px=64, augment_strength=1.0))
    masks = np.stack([images[draw][1].numpy() for draw in EpochSampler(data, config())])
    assert set(np.unique(masks)) == {1, IGNORE_INDEX}


def test_a_turned_photograph_that_is_not_square_keeps_its_size() -> None:
    data = make_data(count=8, side_px=64)
    data = PreparedData(
        **{
            **vars(data),
            "images_MHWC": data.images_MHWC[:, :48],
            "masks_MHW": data.masks_MHW[:, :48],
        }
    )
    chosen = config(height_px=48, width_px=64)
    images = TrainingImages(data, chosen)
    for draw in EpochSampler(data, chosen):
        image, mask, _ = images[draw]
        assert image.shape == (3, 48, 64) and mask.shape == (48, 64)


def test_batches_do_not_depend_on_worker_processes(blocks: Path, tmp_path: Path) -> None:
    chosen = config(rare_crop_prob=0.3)
    data = prepare_data(blocks, chosen.view, cache_dir=tmp_path)

    def batches(workers: int) -> list[torch.Tensor]:
        loader, sampler = training_loader(data, chosen, workers=workers, pin_memory=False)
        sampler.epoch = 2
        return [image for image, _, _ in loader]

    for alone, helped in zip(batches(0), batches(2), strict=True):
        assert torch.equal(alone, helped)
