"""What training sees: how often, with which geometry, and how rare classes get their share."""

import itertools
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from segcore.config import IGNORE_INDEX, TrialConfig
from segcore.data.plans import PhotoPlan
from segcore.data.prepared import PreparedData
from segcore.data.preparing import prepare_data
from segcore.data.windows import Grid
from segcore.errors import LostProcessError
from segcore.training.loading import (
    BEYOND,
    EpochSampler,
    TrainingWindows,
    class_rarity,
    training_batches,
    windows_per_epoch,
)
from tests.conftest import data_of, make_data


def config(**values: object) -> TrialConfig:
    return TrialConfig.from_dict({"height_px": 48, "width_px": 48, "batch_size": 4} | values)


def test_without_oversampling_each_squeezed_photograph_is_drawn_once(
    data: PreparedData,
) -> None:
    drawn = [draw.photo for draw in EpochSampler(data, config())]
    assert sorted(drawn) == sorted(data.of_split("train"))


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
        drawn.update(draw.photo for draw in sampler)
    has_pool = data.class_pixels_PK[:, 2] > 0
    train = set(data.of_split("train"))
    with_pool = np.mean([drawn[i] for i in train if has_pool[i]])
    without = np.mean([drawn[i] for i in train if not has_pool[i]])
    # A roof is rarer than the mean class too, so pictures without a pool weigh a little over 1.
    expected = ratio / np.mean(
        [
            w
            for i, w in zip(data.of_split("train"), sampler.weight_P, strict=True)
            if not has_pool[i]
        ]
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
        images = TrainingWindows(data, chosen)
        masks = np.stack([images[draw][1].numpy() for draw in EpochSampler(data, chosen)])
        return float((masks == 2).sum() / (masks != IGNORE_INDEX).sum())

    assert pool_share(1.0) > 3 * pool_share(0.0) > 0


@pytest.mark.parametrize("scale", [None, 0.5, 1.0, 2.0])
def test_a_rare_window_holds_its_rare_pixel(data: PreparedData, scale: float | None) -> None:
    """Every window around a pixel of the rarest class shows some of that class."""
    chosen = config(scale=scale, height_px=32, width_px=32, rare_crop_prob=1.0, augmentation="none")
    windows = TrainingWindows(data, chosen)
    shown = [set(windows[draw][1].unique().tolist()) for draw in EpochSampler(data, chosen)]
    assert all({1, 2} & classes for classes in shown)  # roof is rarer than the mean, too
    assert sum(2 in classes for classes in shown) > len(shown) / 2


def test_an_augmented_crop_of_a_squeezed_photograph_holds_its_rare_pixel() -> None:
    masks = np.zeros((40, 96, 128), np.uint8)
    places = np.random.default_rng(0).uniform(size=(40, 2)) * (95, 127)
    for mask_HW, (row, column) in zip(masks, places.astype(int), strict=True):
        mask_HW[row : row + 2, column : column + 2] = 1
    data = data_of(np.zeros((40, 96, 128, 3), np.uint8), masks, ["train"] * 40)
    chosen = config(
        height_px=64, width_px=64, rare_crop_prob=1.0, augment_strength=0.5, epoch_mpx=4.0
    )
    windows = TrainingWindows(data, chosen)
    holds = [bool((windows[draw][1] == 1).any()) for draw in EpochSampler(data, chosen)]
    assert np.mean(holds) > 0.995  # a turn may still take a corner out


VIEWS: list[dict[str, object]] = [
    {"scale": None},
    {"scale": None, "height_px": 64, "width_px": 32},
    {"scale": 0.2},
    {"scale": 1.0},
    {"scale": 1.0, "height_px": 32, "width_px": 96, "batch_size": 3},
    {"scale": 0.6, "height_px": 96, "width_px": 96},
]


def test_an_epoch_costs_the_same_pixels_in_every_view(blocks: Path, tmp_path: Path) -> None:
    configs = [config(**view) for view in VIEWS]
    data = prepare_data(blocks, [c.view for c in configs], cache_dir=tmp_path, progress=False)
    assert data.epoch_px() == 4 * 4 * 64 * 64  # four times the 4 validation photographs
    for chosen in configs:
        area = chosen.height_px * chosen.width_px
        drawn = list(EpochSampler(data, chosen))
        assert len(drawn) == windows_per_epoch(data, chosen)
        assert 0 <= len(drawn) * area - data.epoch_px() < chosen.batch_size * area
        fixed = chosen.model_copy(update={"epoch_mpx": 0.25})
        assert 0 <= windows_per_epoch(data, fixed) * area - 0.25e6 < chosen.batch_size * area


def test_windows_lie_anywhere_and_the_rim_is_seen_as_well(data: PreparedData) -> None:
    chosen = config(scale=1.0, height_px=32, width_px=32, epoch_mpx=4.0, batch_size=1)
    seen = np.zeros((48, 48))
    tops = set()
    for draw in EpochSampler(data, chosen):
        row, column = (round(share * 48 - 16) for share in draw.centre)
        tops.add((row, column))
        seen[max(row, 0) : row + 32, max(column, 0) : column + 32] += 1
    assert len(tops) > 400
    assert seen[0].mean() > 0.8 * BEYOND * seen[24].mean()
    assert seen.min() > 0


def test_photographs_are_drawn_by_their_area_in_a_view() -> None:
    images = np.zeros((2, 40, 40, 3), np.uint8)
    data = data_of(images, np.ones((2, 40, 40), np.uint8), ["train", "train"])
    large = PhotoPlan(Grid(120, 120), None, (Grid(40, 40),), Grid(120, 120))
    data = replace(data, plans=(data.plans[0], large))

    def drawn(**values: object) -> Counter[int]:
        return Counter(d.photo for d in EpochSampler(data, config(epoch_mpx=2.0, **values)))

    windows, squeezed = drawn(scale=1.0), drawn(scale=None)
    assert windows[1] / windows[0] == pytest.approx(9, rel=0.02)
    assert abs(squeezed[1] - squeezed[0]) <= 1


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_image_and_mask_always_get_the_same_geometry(strength: float) -> None:
    """The image is the mask painted in grey: after any augmentation it must still be.

    Colours may change, so each class is compared by where it is: a pixel of the mask's class must
    be nearer to that class's own mean grey than to another's, except where interpolation mixes
    two classes at a border.
    """
    data = make_data(count=8, side_px=64)
    painted = np.repeat((data.masks * 60 % 251)[..., None], 3, axis=1).astype(np.uint8)
    data = replace(data, samples=painted.ravel())
    chosen = config(height_px=64, width_px=64, augment_strength=strength, rare_crop_prob=0.3)
    images = TrainingWindows(data, chosen)
    sampler = EpochSampler(data, chosen)
    for epoch in range(1, 9):
        sampler.epoch = epoch
        for draw in sampler:
            image, mask = images[draw]
            grey, mask_HW = image.float().mean(dim=0).numpy(), mask.numpy()
            present = [k for k in range(3) if (mask_HW == k).sum() > 40]
            means = {k: grey[mask_HW == k].mean() for k in present}
            for k in present:
                spread = np.abs(grey[mask_HW == k] - np.median(grey[mask_HW == k]))
                assert (spread > 15).mean() < 0.25, "image and mask were turned differently"
            assert len({round(mean) for mean in means.values()}) == len(present)


def test_corners_that_a_rotation_uncovers_are_ignored_and_masks_never_interpolated() -> None:
    data = make_data(count=8, side_px=64)
    data = replace(data, masks=np.ones_like(data.masks))
    images = TrainingWindows(data, config(height_px=64, width_px=64, augment_strength=1.0))
    masks = np.stack([images[draw][1].numpy() for draw in EpochSampler(data, config())])
    assert set(np.unique(masks)) == {1, IGNORE_INDEX}


def test_a_turned_photograph_that_is_not_square_keeps_its_size() -> None:
    images = np.zeros((8, 48, 64, 3), np.uint8)
    data = data_of(images, np.ones((8, 48, 64), np.uint8), ["train"] * 8)
    chosen = config(height_px=48, width_px=64)
    images = TrainingWindows(data, chosen)
    for draw in EpochSampler(data, chosen):
        image, mask = images[draw]
        assert image.shape == (3, 48, 64) and mask.shape == (48, 64)


def test_batches_do_not_depend_on_worker_processes(blocks: Path, tmp_path: Path) -> None:
    chosen = config(rare_crop_prob=0.3)
    data = prepare_data(blocks, [chosen.view], cache_dir=tmp_path)

    def batches(workers: int) -> list[torch.Tensor]:
        endless = training_batches(data, chosen, first_epoch=2, workers=workers, pin_memory=False)
        return [image for image, _ in itertools.islice(endless, 2 * steps)]

    steps = windows_per_epoch(data, chosen) // chosen.batch_size
    for alone, helped in zip(batches(0), batches(2), strict=True):
        assert torch.equal(alone, helped)


SCRIPT = """
import sys
from pathlib import Path

was_imported = "optuna" in sys.modules

import optuna
from segcore.config import TrialConfig
from segcore.data.preparing import prepare_data
from segcore.training.loading import training_batches

with open("imported", "a") as file:
    print(was_imported, file=file)

if __name__ == "__main__":
    config = TrialConfig(architecture="scratch_unet", encoder=None, height_px=48, width_px=48)
    data = prepare_data(Path(sys.argv[1]), [config.view], cache_dir=Path("cache"), progress=False)
    next(training_batches(data, config, first_epoch=1, workers=2, pin_memory=False))
"""


def test_a_loading_process_that_the_kernel_kills_is_no_fault_of_the_training(
    blocks: Path, tmp_path: Path
) -> None:
    data = prepare_data(blocks, [config().view], cache_dir=tmp_path)
    batches = training_batches(data, config(), first_epoch=1, workers=1, pin_memory=False)
    next(batches)
    for process in multiprocessing.active_children():
        process.kill()
    with pytest.raises(
        LostProcessError, match=r"died, perhaps for want of memory \(exit code -9\)"
    ):
        list(itertools.islice(batches, 100))


def test_worker_processes_find_the_imports_of_the_main_script_done(
    blocks: Path, tmp_path: Path
) -> None:
    """In a worker of Ray's the main script is Ray's, whose imports each process would wait for."""
    (tmp_path / "script.py").write_text(SCRIPT)
    subprocess.run(
        [sys.executable, "script.py", blocks],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        check=True,
    )
    own, *of_workers = (tmp_path / "imported").read_text().split()
    assert own == "False" and of_workers == ["True", "True"]


def test_batches_go_on_with_the_next_epoch(blocks: Path, tmp_path: Path) -> None:
    chosen = config(rare_crop_prob=0.3)
    data = prepare_data(blocks, [chosen.view], cache_dir=tmp_path)

    def batches(first_epoch: int) -> Iterator[torch.Tensor]:
        endless = training_batches(
            data, chosen, first_epoch=first_epoch, workers=0, pin_memory=False
        )
        return (image for image, _ in endless)

    steps = windows_per_epoch(data, chosen) // chosen.batch_size
    from_second = itertools.islice(batches(1), steps, 3 * steps)
    for one, other in zip(from_second, batches(2), strict=False):
        assert torch.equal(one, other)
