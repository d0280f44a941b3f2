"""Which photographs on two sides of a split count as alike, and what is said about them."""

import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from segcore.data.duplicates import difference_hash, notes_on_duplicates
from segcore.data.splits import SPLITS, Split, notes_on_classes

SIDE = 96
RAMP_HW = np.add.outer(np.linspace(0, 1, SIDE), np.zeros(SIDE))


def ground(rng: np.random.Generator) -> np.ndarray:
    """Something as rich as a real photograph; HW."""
    grey_HW = np.full((SIDE, SIDE), 120.0, np.float32)
    for cells in (4, 8, 16, 32):
        patches = rng.normal(0, 25, (cells, cells)).astype(np.float32)
        grey_HW += cv2.resize(patches, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return grey_HW


def picture(grey_HW: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(grey_HW, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def noise(rng: np.random.Generator, levels: float) -> np.ndarray:
    return rng.normal(0, levels, (SIDE, SIDE))


def bordered(rng: np.random.Generator) -> np.ndarray:
    """At the edge of a mosaic: black where nothing was photographed."""
    grey_HW, edge = ground(rng), int(rng.integers(SIDE // 2, SIDE))
    return np.where(np.arange(SIDE) < edge, 0, grey_HW if rng.random() < 0.5 else grey_HW.T)


CHIPS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "one colour": lambda rng: np.full((SIDE, SIDE), rng.integers(256)),
    "black in JPEG": lambda rng: rng.integers(0, 4, (SIDE, SIDE)),
    "water": lambda rng: 60 + noise(rng, 5) + 3 * rng.random() * RAMP_HW,
    "gradient": lambda rng: 60 + noise(rng, 3) + rng.uniform(-80, 80) * RAMP_HW.T + 40 * RAMP_HW,
    "vignette": lambda rng: 150 - 60 * (2 * RAMP_HW - 1) ** 2 - 60 * (2 * RAMP_HW.T - 1) ** 2,
    "border": bordered,
    "photographs": ground,
}


@pytest.mark.parametrize("kind", CHIPS)
def test_chips_that_show_little_or_another_place_are_not_alike(kind: str) -> None:
    rng = np.random.default_rng(0)
    looks = [difference_hash(picture(CHIPS[kind](rng))) for _ in range(400)]
    splits = [SPLITS[k % 3] for k in range(400)]
    names = [f"chip_{k:05d}.png" for k in range(400)]
    assert notes_on_duplicates(names, looks, splits) == []


def test_a_photograph_that_was_brightened_cropped_and_compressed_is_alike() -> None:
    rng = np.random.default_rng(0)
    looks, splits, names = [], [], []
    for number in range(20):
        image = picture(ground(rng))
        changed = (image[1:-1, 1:-1] * 0.9 + 5).astype(np.uint8)
        encoded = cv2.imencode(".jpg", changed, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
        again = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        looks += [difference_hash(image), difference_hash(np.asarray(again, np.uint8))]
        names += [f"site_{number}/a.png", f"site_{number}/b.png"]
        splits += ["train", "val"] if number < 10 else ["test", "test"]
    notes = notes_on_duplicates(names, looks, splits)
    assert "site_0/a.png (train) and site_0/b.png (val) look nearly alike" in notes
    assert (
        sum("look nearly alike" in note for note in notes) == 10
    )  # those in one split cost nothing
    assert notes[-1].startswith("keep them together with this line in dataset.yaml: group:")


def test_the_same_file_on_two_sides_is_told_unless_it_is_of_one_colour() -> None:
    rng = np.random.default_rng(0)
    gradient, blank = picture(CHIPS["gradient"](rng)), picture(CHIPS["one colour"](rng))
    looks = [difference_hash(image) for image in (gradient, gradient, blank, blank)]
    splits: list[Split] = ["train", "val", "train", "val"]
    notes = notes_on_duplicates(list("abcd"), looks, splits, ["1", "1", "2", "2"])
    assert notes == [
        "a (train) and b (val) are the same file",
        "keep them in one split: list a, b under split in dataset.yaml",
    ]


@pytest.mark.parametrize("kind", ["blank", "one picture", "all different"])
def test_thousands_of_chips_take_about_a_second_and_few_words(kind: str) -> None:
    rng = np.random.default_rng(0)
    count = 6_000
    names = [f"chip_{k:05d}.png" for k in range(count)]
    looks = [int(look) for look in rng.integers(0, 2**63, count)]
    if kind != "all different":
        look = 0 if kind == "blank" else difference_hash(picture(ground(rng)))
        looks = [look] * 3_000 + looks[3_000:]
    splits = [SPLITS[k] for k in rng.choice(3, count, p=[0.7, 0.15, 0.15])]
    begin_s = time.process_time()
    notes = notes_on_duplicates(names, looks, splits)
    assert time.process_time() - begin_s < 4
    assert len(notes) == (12 if kind == "one picture" else 0)
    if notes:  # no list of thousands
        assert notes[-1].startswith("keep what looks alike on one side") and len(notes[-1]) < 200


def test_classes_that_are_missing_from_a_split_or_everywhere_are_told() -> None:
    pixels_PK = np.array([[5, 1, 0, 0], [5, 0, 2, 0], [5, 0, 0, 0]])
    assert notes_on_classes(
        ("Land", "Roof", "Pool", "Boat"), pixels_PK, ["train", "test", "val"]
    ) == [
        "no photograph has Boat",
        "no photograph of train has Pool, though others have",
        "no photograph of val has Roof, Pool, though others have",
        "no photograph of test has Roof, though others have",
    ]
