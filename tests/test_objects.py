"""How large objects are, and which scales show them."""

from pathlib import Path

import numpy as np
import pytest

from segcore.data.objects import OBJECTS, ObjectSizes, measure_objects, shorter_sides


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


def test_what_was_measured_is_remembered(tmp_path: Path) -> None:
    masks = {
        Path("a"): draw((1, 0, 0, 10, 20)),
        Path("b"): draw((1, 0, 0, 30, 20), (1, 50, 0, 40, 50)),
    }
    measured = measure_objects(list(masks), tmp_path, lambda path: shorter_sides(masks[path], 3))
    assert measured == ObjectSizes((2, 3, 0), (200.0, 20.0, None))

    def fail(path: Path) -> list[np.ndarray]:
        raise AssertionError("read again")

    assert measure_objects(list(masks), tmp_path, fail) == measured
    (tmp_path / OBJECTS).write_text("{")
    again = measure_objects(list(masks), tmp_path, lambda path: shorter_sides(masks[path], 3))
    assert again == measured


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
