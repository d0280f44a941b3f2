"""The embedded data set: deterministic, complete, and as rare as the real classes."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from segcore.errors import UserError
from segcore.files import user_cache
from segcore.scenes import CLASS_COLORS, CLASS_NAMES, draw_scene, write_scenes

RARE = ("Boat", "Trampoline", "Satellite Antenna", "Garbage Bins", "Street Light", "Chimney")
COMMON = ("Background", "Property Roof", "Grass", "Trees / Shrubs", "Road/Highway", "Flooded")


@pytest.fixture(scope="module")
def default_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded data set, asked for by two processes at once that find no cache."""
    cache = tmp_path_factory.mktemp("cache")
    command = "from segcore.scenes import default_scenes; print(default_scenes())"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", command],
            env=os.environ | {"SEGSEARCH_CACHE": str(cache)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    printed = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(printed) == 1
    return Path(printed.pop())


@pytest.fixture(scope="module", name="pixels_PK")
def count_pixels(default_set: Path) -> NDArray[np.int64]:
    """Pixels of each class in each scene of the embedded data set."""
    masks = [np.asarray(Image.open(path)) for path in sorted((default_set / "masks").iterdir())]
    return np.array([np.bincount(mask.ravel(), minlength=25) for mask in masks])


def test_two_processes_at_once_make_one_complete_folder(default_set: Path) -> None:
    left_over = [path.name for path in default_set.parent.iterdir() if path.suffix != ".lock"]
    assert left_over == [default_set.name]
    spec = yaml.safe_load((default_set / "dataset.yaml").read_text())
    images = sorted(default_set.glob(spec["images"]))
    assert [path.name for path in images] == [f"scene_{i:04}.jpg" for i in range(120)]
    for path in images:
        mask_path = default_set / spec["masks"].format(stem=path.stem)
        with Image.open(path) as image, Image.open(mask_path) as mask:
            assert (image.mode, image.size, mask.mode, mask.size) == (
                "RGB", (512, 384), "L", (512, 384),
            )  # fmt: skip
    assert tuple(spec["classes"]) == CLASS_NAMES


def test_every_class_occurs_in_at_least_six_scenes(pixels_PK: NDArray[np.int64]) -> None:
    assert pixels_PK.shape == (120, 25)  # so no value is above 24
    scenes_K = (pixels_PK > 0).sum(axis=0)
    assert {name: n for name, n in zip(CLASS_NAMES, scenes_K, strict=True) if n < 6} == {}


def test_class_shares_are_of_the_order_of_the_real_photographs(
    pixels_PK: NDArray[np.int64],
) -> None:
    share_K = dict(zip(CLASS_NAMES, pixels_PK.sum(0) / pixels_PK.sum(), strict=True))
    assert min(share_K[name] for name in COMMON) > 0.04
    assert max(share_K[name] for name in RARE) < 0.002
    assert 0.10 < share_K["Trees / Shrubs"] < 0.22
    assert 0.15 < share_K["Grass"] < 0.35
    present_P = (pixels_PK > 0).sum(axis=1)
    assert 6 < present_P.mean() < 13


def test_a_scene_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    first, again, other = (draw_scene(np.random.default_rng(seed), 96, 128) for seed in (5, 5, 6))
    assert all((one == two).all() for one, two in zip(first, again, strict=True))
    assert (first[0] != other[0]).mean() > 0.5
    assert (first[1] != other[1]).any()


@pytest.mark.parametrize(("height_px", "width_px"), [(64, 64), (90, 200), (300, 120)])
def test_image_and_mask_have_the_size_that_was_asked_for(height_px: int, width_px: int) -> None:
    image_HWC, mask_HW = draw_scene(np.random.default_rng(3), height_px, width_px)
    assert (image_HWC.shape, image_HWC.dtype) == ((height_px, width_px, 3), np.uint8)
    assert (mask_HW.shape, mask_HW.dtype) == ((height_px, width_px), np.uint8)
    assert mask_HW.max() <= 24


def test_mask_borders_lie_on_borders_of_the_picture() -> None:
    """Pools are bright in a paler deck: the picture changes at their border, not beside it."""
    steps = []
    for seed in range(12):
        image_HWC, mask_HW = draw_scene(np.random.default_rng([1, seed]), 384, 512)
        hue_HW = image_HWC[..., 2].astype(float) - image_HWC[..., 0]
        pool_HW = (mask_HW == CLASS_NAMES.index("Swimming Pool")).astype(np.uint8)
        inner_HW = pool_HW - cv2.erode(pool_HW, np.ones((5, 5), np.uint8))
        outer_HW = cv2.dilate(pool_HW, np.ones((5, 5), np.uint8)) - pool_HW
        if pool_HW.sum() > 200:
            steps.append(hue_HW[inner_HW > 0].mean() - hue_HW[outer_HW > 0].mean())
    assert len(steps) >= 3
    assert np.median(steps) > 25


def test_written_scenes_depend_on_the_seed_and_their_number_alone(tmp_path: Path) -> None:
    sizes = {"height_px": 64, "width_px": 96}
    write_scenes(tmp_path / "three", count=3, seed=7, **sizes)
    write_scenes(tmp_path / "two", count=2, seed=7, **sizes)
    for name in ("images/scene_0001.jpg", "masks/scene_0001.png"):
        assert (tmp_path / "three" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    first, second = (tmp_path / "two" / f"images/scene_000{i}.jpg" for i in (0, 1))
    assert first.read_bytes() != second.read_bytes()


def test_an_existing_folder_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="exists; name a folder that does not"):
        write_scenes(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_users_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEGSEARCH_CACHE", str(tmp_path))
    assert user_cache() == tmp_path
    monkeypatch.delenv("SEGSEARCH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache() == tmp_path / ".cache" / "segsearch"


def test_the_legend_has_a_colour_of_its_own_for_each_class() -> None:
    assert len(CLASS_NAMES) == len(CLASS_COLORS) == 25
    assert (CLASS_NAMES[0], CLASS_NAMES[14], CLASS_NAMES[24]) == (
        "Background", "Road/Highway", "Boat",
    )  # fmt: skip
    colors = np.array(CLASS_COLORS, float)
    distance = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
    assert distance[~np.eye(25, dtype=bool)].min() > 30
