"""The competition's file: what was written can be painted back."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from search.predicting.submission import SIDE_PX, run_lengths, write_submission


def paint(runs: list[str], shape: tuple[int, int]) -> np.ndarray:
    """What a scorer does: fill each class's runs; pixels of no class stay 255."""
    flat = np.full(shape[0] * shape[1], 255, np.uint8)
    for k, text in enumerate(runs):
        numbers = [int(number) for number in text.split()]
        for start, length in zip(numbers[::2], numbers[1::2], strict=True):
            assert (flat[start - 1 : start - 1 + length] == 255).all(), "runs overlap"
            flat[start - 1 : start - 1 + length] = k
    return flat.reshape(shape)


def test_runs_by_hand() -> None:
    mask = np.array([[1, 1, 0], [0, 2, 1]], np.uint8)
    assert run_lengths(mask, 4) == ["3 2", "1 2 6 1", "5 1", ""]


MASKS = arrays.arrays(
    np.uint8, arrays.array_shapes(min_dims=2, max_dims=2), elements=st.integers(0, 5)
)


@given(MASKS)
def test_runs_paint_the_mask_again(mask: np.ndarray) -> None:
    assert (paint(run_lengths(mask, 6), mask.shape) == mask).all()


def test_a_file_has_a_row_for_each_photograph_and_class_but_background(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    masks = {stem: rng.integers(0, 25, (30, 40)).astype(np.uint8) for stem in ("6411", "7677")}
    write_submission(tmp_path / "out.csv", masks.items(), 25)
    with (tmp_path / "out.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    assert list(rows[0]) == ["ImageClassId", "rle_mask"]
    assert [row["ImageClassId"] for row in rows] == [
        f"{stem}_{k}" for stem in masks for k in range(1, 25)
    ]
    painted = paint(["", *(row["rle_mask"] for row in rows[:24])], (SIDE_PX, SIDE_PX))
    # Nearest neighbour: each pixel of the 30 × 40 mask became a block.
    expected = masks["6411"][np.ix_(np.arange(1024) * 30 // 1024, np.arange(1024) * 40 // 1024)]
    assert (np.where(painted == 255, 0, painted) == expected).mean() > 0.99


def test_a_file_that_breaks_off_is_not_there(tmp_path: Path) -> None:
    def masks() -> Iterator[tuple[str, np.ndarray]]:
        yield "6411", np.zeros((4, 4), np.uint8)
        raise RuntimeError("the power goes")

    with pytest.raises(RuntimeError):
        write_submission(tmp_path / "out.csv", masks(), 3)
    assert not list(tmp_path.iterdir())
