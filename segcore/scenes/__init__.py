"""The embedded data set: drawn aerial views of a suburb after a hurricane, with their masks.

It makes everything run with no download. The classes and their rarity follow the photographs of
flooded Houston that this project exists for; the rarest come more often, so that each stands in
train, validation and test.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from segcore.cores import usable_cores
from segcore.errors import UserError
from segcore.files import locked, user_cache, whole_folder
from segcore.scenes.canvas import Canvas
from segcore.scenes.layout import Suburb
from segcore.scenes.materials import Label
from segcore.scenes.rendering import photograph

DRAWING_VERSION = 4  # Counted up whenever the drawing changes: a cache never mixes two.

CLASS_NAMES: tuple[str, ...] = tuple(label.value[0] for label in Label)
CLASS_COLORS: tuple[tuple[int, int, int], ...] = tuple(label.value[1] for label in Label)

_SPEC = {
    "images": "images/*.jpg",
    "masks": "masks/{stem}.png",
    "classes": list(CLASS_NAMES),
    "colors": {label.value[0]: "#{:02X}{:02X}{:02X}".format(*label.value[1]) for label in Label},
    "split": {"val": 0.2, "test": 0.2},
}


def draw_scene(
    rng: np.random.Generator, height_px: int, width_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One aerial view, 62 to 105 m along its longer side: RGB (H, W, C) and its classes (H, W)."""
    canvas = Canvas(rng, height_px, width_px)
    Suburb(canvas).draw()
    return photograph(canvas), canvas.mask()


def write_scenes(
    folder: Path, *, count: int = 120, height_px: int = 384, width_px: int = 512, seed: int = 0
) -> None:
    """Write a data set with its ``dataset.yaml``; ``folder`` appears at once, and complete.

    Scene ``i`` depends on ``seed`` and ``i`` alone. Raises ``UserError`` where ``folder`` exists.
    """
    if folder.exists():
        raise UserError(f"{folder} exists; name a folder that does not, or remove this one")

    def write_scene(index: int) -> None:
        image_HWC, mask_HW = draw_scene(np.random.default_rng([seed, index]), height_px, width_px)
        Image.fromarray(image_HWC).save(draft / f"images/scene_{index:04}.jpg", quality=90)
        Image.fromarray(mask_HW).save(draft / f"masks/scene_{index:04}.png")

    with whole_folder(folder) as draft, ThreadPoolExecutor(usable_cores()) as pool:
        for part in ("images", "masks"):
            (draft / part).mkdir()
        list(pool.map(write_scene, range(count)))
        (draft / "dataset.yaml").write_text(yaml.safe_dump(_SPEC, sort_keys=False))


def default_scenes() -> Path:
    """The folder of the embedded data set, in the user's cache; drawn on first use, in seconds."""
    folder = user_cache() / f"scenes-v{DRAWING_VERSION}"
    with locked(folder.with_suffix(".lock")):  # a second process waits, and finds the work done
        if not folder.exists():
            write_scenes(folder)
    return folder
