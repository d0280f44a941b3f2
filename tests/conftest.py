"""Small data that tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

# Before ray and mlflow are imported anywhere.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from segcore.config import IGNORE_INDEX, View
from segcore.data.plans import LOCATIONS, PhotoPlan
from segcore.data.prepared import PreparedData
from segcore.data.windows import Grid, locate_classes
from segcore.facts import DataFacts, ObjectSizes
from segcore.reading.bands import RGB

SHARED = Path(__file__).parents[2] / "shared"
"""Real photographs and weights, on machines that have them."""

CLASS_NAMES = ("Grass", "Roof", "Pool")
FACTS = DataFacts(CLASS_NAMES, 261, (3000, 4000), ObjectSizes((9,) * 3, (320.0, 64.0, 16.0)))
"""Of UAV photographs with small objects, for spaces that ask."""

CLASS_COLORS = ((60, 160, 60), (180, 90, 60), (60, 180, 220))


def draw_blocks(rng: np.random.Generator, side_px: int) -> tuple[np.ndarray, np.ndarray]:
    """A lawn with a roof and, in one of four pictures, a small pool; noise, and an ignored edge."""
    mask = np.zeros((side_px, side_px), np.uint8)
    top, left = rng.integers(2, side_px // 2, size=2)
    mask[top : top + side_px // 3, left : left + side_px // 3] = 1
    if rng.random() < 0.25:
        mask[-6:-2, 2:8] = 2
    image = np.array(CLASS_COLORS, np.float64)[mask] + rng.normal(0, 12, (side_px, side_px, 3))
    mask[:, -1] = IGNORE_INDEX
    return np.clip(image, 0, 255).astype(np.uint8), mask


def make_data(count: int = 16, side_px: int = 48, seed: int = 0) -> PreparedData:
    """Prepared data in memory: half for training, a quarter each for validation and test."""
    rng = np.random.default_rng(seed)
    pairs = [draw_blocks(rng, side_px) for _ in range(count)]
    images, masks = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    splits = ["train", "train", "val", "test"] * (count // 4)
    return data_of(images, masks, splits, fingerprint=f"blocks-{count}-{side_px}-{seed}")


def data_of(
    images_PHWC: np.ndarray, masks_PHW: np.ndarray, splits: list[str], fingerprint: str = "mine"
) -> PreparedData:
    """Photographs of one size as prepared data in memory, for views of that size or coarser."""
    count, *size_px = masks_PHW.shape
    pixels_PK = np.stack([[(mask == k).sum() for k in range(3)] for mask in masks_PHW])
    located = [
        locate_classes(mask, pixels_K, LOCATIONS, np.random.default_rng(p))
        for p, (mask, pixels_K) in enumerate(zip(masks_PHW, pixels_PK, strict=True))
    ]
    grid = Grid(*size_px)
    return PreparedData(
        folder=Path("in-memory"),
        class_names=CLASS_NAMES,
        class_colors=CLASS_COLORS,
        photos=tuple(f"{p}.png" for p in range(count)),
        photo_splits=tuple(splits),  # type: ignore[arg-type]
        photo_groups=tuple(f"{p}.png" for p in range(count)),
        plans=(PhotoPlan(grid, None, (grid,), grid),) * count,
        finest=View(*size_px),
        score_view=View(*size_px),
        bands=RGB,
        fingerprint=fingerprint,
        samples=images_PHWC.ravel(),
        masks=masks_PHW.ravel(),
        score_masks=np.zeros(0, np.uint8),
        class_pixels_PK=pixels_PK.astype(np.int64),
        class_locations_PKL2=np.stack(located),
    )


@pytest.fixture(scope="session")
def data() -> PreparedData:
    return make_data()


def write_blocks(folder: Path, count: int = 16, side_px: int = 64) -> Path:
    """A data set on disk: photographs with a roof and sometimes a pool, masks, dataset.yaml."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for m in range(count):
        image, mask = draw_blocks(rng, side_px)
        if m % 4 == 0:
            mask[-6:-2, 2:8] = 2
            image[-6:-2, 2:8] = CLASS_COLORS[2]
        Image.fromarray(image).save(folder / "images" / f"photo_{m:02d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"photo_{m:02d}.png")
    (folder / "dataset.yaml").write_text(
        "images: images/*.png\nmasks: masks/{stem}.png\nclasses: [Grass, Roof, Pool]\n"
        "ignore_index: 255\nsplit: {val: 0.25, test: 0.25}\n"
    )
    return folder


@pytest.fixture(scope="session")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("data") / "blocks")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks of a few channels lose time to threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


ELSEWHERE = ("slow", "searches", "faults", "lab")
"""Markers of tests that the default run leaves out."""
LONGEST = (
    "test_search.py",
    "test_road.py",
    "test_searcher.py",
    "test_mlflow_compare_page.py",
    "test_serving.py",
)
NOT_QUICK = {f"test_{name}.py" for name in (
    "searcher", "road", "serving", "api", "report_page",
    "predict", "tracking", "models", "commands", "faults_training", "scenes", "weights", "faults",
    "docs", "notebook", "bad_input",
    "candidates", "storage", "properties", "cluster", "resume", "cache", "halving", "replay",
    "faults_disk", "loading", "training", "space", "experiments",
)}  # fmt: skip
"""Files whose tests start searches, servers or a browser, build many networks, or draw scenes."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is quick, and put the longest files first, so that no core waits at the end."""
    for item in items:
        elsewhere = any(item.get_closest_marker(name) for name in ELSEWHERE)
        if item.path.name not in NOT_QUICK and not elsewhere:
            item.add_marker("quick")
    items.sort(key=lambda item: item.path.name not in LONGEST)
