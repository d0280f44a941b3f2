"""How large objects are, and which scales show them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segcore.data.objects
from segcore.data.objects import OBJECTS, look_at, shorter_sides
from segcore.facts import DataFacts, ObjectSizes


def draw(
    *boxes: tuple[int, int, int, int, int], size_px: tuple[int, int] = (200, 300)
) -> np.ndarray:
    mask = np.zeros(size_px, np.uint8)
    for k, top, left, height, width in boxes:
        mask[top : top + height, left : left + width] = k
    return mask


def test_each_region_has_the_shorter_side_of_its_box() -> None:
    mask = draw((1, 10, 10, 18, 40), (1, 100, 10, 30, 25), (2, 50, 200, 7, 7), (2, 0, 0, 1, 1))
    background, roofs, chimneys = shorter_sides(mask, 3)
    assert background.tolist() == [200]
    assert sorted(roofs.tolist()) == [18, 25]
    assert chimneys.tolist() == [7]  # and not the single pixel


def test_regions_that_touch_at_a_corner_are_one() -> None:
    mask = draw((1, 10, 10, 10, 10), (1, 20, 20, 10, 10))
    assert shorter_sides(mask, 2)[1].tolist() == [20]


def test_large_masks_are_measured_nearly_as_well() -> None:
    mask = draw((1, 1000, 2000, 120, 300), size_px=(3000, 5000))
    (side,) = shorter_sides(mask, 2)[1].tolist()
    assert abs(side - 120) <= 3


@pytest.fixture
def houses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photographs of 80×120 px with houses of 10 to 30 px, and a class without any."""
    monkeypatch.setenv("SEGSEARCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "houses"
    masks = {
        "a": draw((1, 5, 5, 10, 20), size_px=(80, 120)),
        "b": draw((1, 5, 5, 30, 20), (1, 5, 60, 40, 50), size_px=(80, 120)),
        "c": draw((1, 5, 5, 20, 20), size_px=(80, 120)),
    }
    (folder / "images").mkdir(parents=True)
    for name, mask in masks.items():
        Image.fromarray(mask * 99).save(folder / "images" / f"{name}.jpg")
        Image.fromarray(mask).save(folder / "images" / f"{name}.png")
    (folder / "dataset.yaml").write_text(
        "images: images/*.jpg\nmasks: images/{stem}.png\nclasses: [Land, House, Pool]\n"
    )
    return folder


def test_a_data_set_is_looked_at_once(houses: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = look_at(houses, progress=False)
    sizes = ObjectSizes((3, 4, 0), (80.0, 20.0, None))
    assert facts == DataFacts(("Land", "House", "Pool"), 3, (80, 120), sizes)
    monkeypatch.setattr(segcore.data.objects, "read_mask", None)
    assert look_at(houses, progress=False) == facts


def test_what_is_remembered_wrongly_is_measured_again(houses: Path) -> None:
    facts = look_at(houses, progress=False)
    (remembered,) = (houses.parent / "cache").rglob(OBJECTS)
    remembered.write_text("{")
    assert look_at(houses, progress=False) == facts


@pytest.mark.parametrize(
    ("typical_px", "bounds"),
    [
        ((16.0, 64.0, 320.0), (0.125, 1.0)),  # chimneys, cars and roofs of a native photograph
        ((160.0, 320.0), (0.05, 0.1)),
        ((3.0, 4.0, None), (0.5, 1.0)),  # everything is tiny: nothing is to be given away
        ((None,), (0.25, 1.0)),
    ],
)
def test_scales_follow_from_the_objects(
    typical_px: tuple[float | None, ...], bounds: tuple[float, float]
) -> None:
    assert ObjectSizes((1,) * len(typical_px), typical_px).scale_bounds() == bounds
