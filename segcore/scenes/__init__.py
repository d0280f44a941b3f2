"""The embedded data set: drawn aerial views of a suburb after a hurricane, with their masks.

It makes everything run with no download. The classes and their rarity follow the photographs of
flooded Houston that this project exists for; the rarest come more often, so that each stands in
train, validation and test.
"""

import shutil
import uuid
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from segcore.devices import usable_cores
from segcore.errors import UserError
from segcore.files import locked, user_cache
from segcore.scenes.canvas import Canvas
from segcore.scenes.layout import Suburb
from segcore.scenes.materials import Label
from segcore.scenes.rendering import photograph

DRAWING_VERSION = 3
"""Counted up whenever the drawing changes: a cache never mixes two."""

_COUNT, _HEIGHT_PX, _WIDTH_PX, _SEED = 120, 384, 512, 0

_LEGEND: dict[Label, tuple[str, tuple[int, int, int]]] = {
    Label.BACKGROUND: ("Background", (70, 70, 70)),
    Label.ROOF: ("Property Roof", (200, 90, 60)),
    Label.SECONDARY_STRUCTURE: ("Secondary Structure", (232, 160, 120)),
    Label.POOL: ("Swimming Pool", (40, 220, 230)),
    Label.VEHICLE: ("Vehicle", (220, 20, 110)),
    Label.GRASS: ("Grass", (140, 200, 80)),
    Label.TREES: ("Trees / Shrubs", (40, 140, 50)),
    Label.SOLAR_PANELS: ("Solar Panels", (60, 60, 190)),
    Label.CHIMNEY: ("Chimney", (128, 0, 0)),
    Label.STREET_LIGHT: ("Street Light", (255, 255, 170)),
    Label.WINDOW: ("Window", (150, 190, 255)),
    Label.ANTENNA: ("Satellite Antenna", (255, 255, 255)),
    Label.BINS: ("Garbage Bins", (0, 90, 80)),
    Label.TRAMPOLINE: ("Trampoline", (150, 70, 220)),
    Label.ROAD: ("Road/Highway", (150, 150, 155)),
    Label.CONSTRUCTION: ("Under Construction / In Progress Status", (255, 140, 0)),
    Label.POWER_LINES: ("Power Lines & Cables", (255, 225, 0)),
    Label.TANK: ("Water Tank / Oil Tank", (205, 205, 225)),
    Label.PARKING: ("Parking Area - Commercial", (190, 160, 200)),
    Label.SPORTS: ("Sports Complex / Arena", (255, 120, 170)),
    Label.INDUSTRIAL: ("Industrial Site", (140, 110, 160)),
    Label.FOREST: ("Dense Vegetation / Forest", (10, 80, 30)),
    Label.WATER: ("Water Body", (20, 90, 200)),
    Label.FLOODED: ("Flooded", (120, 110, 90)),
    Label.BOAT: ("Boat", (255, 60, 40)),
}
CLASS_NAMES: tuple[str, ...] = tuple(_LEGEND[label][0] for label in Label)
CLASS_COLORS: tuple[tuple[int, int, int], ...] = tuple(_LEGEND[label][1] for label in Label)

_DATASET_YAML = yaml.safe_dump(
    {
        "images": "images/*.jpg",
        "masks": "masks/{stem}.png",
        "classes": list(CLASS_NAMES),
        "colors": {
            name: "#{:02X}{:02X}{:02X}".format(*color)
            for name, color in zip(CLASS_NAMES, CLASS_COLORS, strict=True)
        },
        "split": {"val": 0.2, "test": 0.2},
    },
    sort_keys=False,
)


def draw_scene(
    rng: np.random.Generator, height_px: int, width_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One aerial view, 62 to 105 m along its longer side: RGB (H, W, C) and its classes (H, W)."""
    canvas = Canvas(rng, height_px, width_px)
    Suburb(canvas).draw()
    return photograph(canvas), canvas.mask()


def write_scenes(
    folder: Path,
    *,
    count: int = _COUNT,
    height_px: int = _HEIGHT_PX,
    width_px: int = _WIDTH_PX,
    seed: int = _SEED,
) -> None:
    """Write a data set with its ``dataset.yaml``; ``folder`` appears at once, and complete.

    Scene ``i`` depends on ``seed`` and ``i`` alone. Raises ``UserError`` where ``folder`` exists.
    """
    if folder.exists():
        raise UserError(f"{folder} exists; name a folder that does not, or remove this one")
    draft = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    try:
        for part in ("images", "masks"):
            (draft / part).mkdir(parents=True)
        write_one = partial(_write_scene, draft, height_px, width_px, seed)
        # Forked workers start at once, and do not import the caller's main module again.
        with ProcessPoolExecutor(usable_cores(), mp_context=get_context("fork")) as pool:
            list(pool.map(write_one, range(count), chunksize=4))
        (draft / "dataset.yaml").write_text(_DATASET_YAML)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def default_scenes() -> Path:
    """The folder of the embedded data set, in the user's cache; drawn on first use, in seconds."""
    settings = f"{_COUNT}x{_HEIGHT_PX}x{_WIDTH_PX}-seed{_SEED}"
    folder = user_cache() / f"scenes-v{DRAWING_VERSION}-{settings}"
    with locked(folder.with_suffix(".lock")):  # a second process waits, and finds the work done
        if not folder.exists():
            write_scenes(folder)
    return folder


def _write_scene(folder: Path, height_px: int, width_px: int, seed: int, index: int) -> None:
    cv2.setNumThreads(0)  # OpenCV's threads do not survive a fork; the processes fill the cores
    image_HWC, mask_HW = draw_scene(np.random.default_rng([seed, index]), height_px, width_px)
    Image.fromarray(image_HWC).save(folder / "images" / f"scene_{index:04}.jpg", quality=90)
    Image.fromarray(mask_HW).save(folder / "masks" / f"scene_{index:04}.png")
