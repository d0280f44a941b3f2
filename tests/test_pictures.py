import numpy as np
import pytest
from numpy.typing import NDArray

from segcore.config import IGNORE_INDEX, IGNORED_COLOR
from segcore.predicting.pictures import (
    colour_mask,
    comparison,
    confusion_matrix_picture,
    overlay,
)

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def count_pixels(picture_HWC: NDArray[np.uint8], color: tuple[int, int, int]) -> int:
    return int((picture_HWC == color).all(axis=-1).sum())


def test_a_mask_is_shown_in_its_classes_colours_and_ignored_pixels_in_grey() -> None:
    picture = colour_mask(np.array([[0, 1], [IGNORE_INDEX, 0]]), [RED, GREEN])
    np.testing.assert_array_equal(picture, [[RED, GREEN], [IGNORED_COLOR, RED]])
    assert picture.dtype == np.uint8


def test_an_overlay_tints_the_image_outlines_classes_and_leaves_ignored_pixels_bare() -> None:
    image = np.full((20, 60, 3), 100, dtype=np.uint8)
    mask = np.zeros((20, 60), dtype=np.uint8)
    mask[:, 20:40], mask[:, 40:] = 1, IGNORE_INDEX
    picture = overlay(image, mask, [RED, GREEN], opacity=0.25)
    # A quarter of the class's colour, three quarters of the image's.
    np.testing.assert_array_equal(picture[10, 10], [125, 75, 75])
    np.testing.assert_array_equal(picture[10, 30], [75, 125, 75])
    np.testing.assert_array_equal(picture[10, 50], [100, 100, 100])
    # Darker by half, and thin.
    outline = picture[10:11, 15:25]
    assert 1 <= count_pixels(outline, (100, 0, 0)) + count_pixels(outline, (0, 100, 0)) <= 3
    assert np.array_equal(image, np.full_like(image, 100)), "the photograph itself is untouched"


def test_outlines_grow_with_the_photograph() -> None:
    def outline_share(height: int) -> float:
        mask = np.zeros((height, height), dtype=np.uint8)
        mask[:, height // 2 :] = 1
        image = np.full((height, height, 3), 100, dtype=np.uint8)
        return count_pixels(overlay(image, mask, [RED, GREEN])[:1], (0, 100, 0)) / height

    assert outline_share(3000) == pytest.approx(outline_share(600), rel=0.6)


def test_a_comparison_shows_image_truth_and_prediction_in_the_classes_colours() -> None:
    image = np.full((150, 200, 3), 77, dtype=np.uint8)
    truth = np.zeros((150, 200), dtype=np.int64)
    predicted = np.ones((150, 200), dtype=np.int64)
    names, colors = ["Water", "Road", "Boat"], [RED, GREEN, BLUE]
    picture = comparison(image, truth, predicted, names, colors)

    panel = 640 * 480
    assert count_pixels(picture, (77, 77, 77)) >= panel
    assert panel < count_pixels(picture, RED) < 1.01 * panel, "truth and its legend entry"
    assert panel < count_pixels(picture, GREEN) < 1.01 * panel, "prediction and its legend entry"
    assert count_pixels(picture, BLUE) == 0, "a class that doesn't occur has no legend entry"
    # From left to right: image, truth, prediction.
    middle = picture[picture.shape[0] // 2]
    places = [np.flatnonzero((middle == c).all(-1)).mean() for c in ((77, 77, 77), RED, GREEN)]
    assert places == sorted(places)


def test_the_legend_has_room_for_all_of_25_classes_with_long_names() -> None:
    names = [f"Under Construction / In Progress Status {k}" for k in range(25)]
    colors = [(10 * k, 3, 3) for k in range(25)]
    mask = np.zeros((400, 40), dtype=np.int64)
    mask[0, :25] = np.arange(25)  # too few pixels to be seen in the panels: the legend shows them
    mask[1] = IGNORE_INDEX
    picture = comparison(np.zeros((400, 40, 3), np.uint8), mask, mask, names, colors)
    assert all(count_pixels(picture, color) > 200 for color in (*colors, IGNORED_COLOR))


def test_a_confusion_matrix_is_dark_where_predictions_go() -> None:
    # Every true Road pixel is predicted as Roof, and the other way round; Boat doesn't occur.
    confusion = np.zeros((3, 3), dtype=np.int64)
    confusion[0, 1], confusion[1, 0] = 5, 50_000
    swapped = confusion_matrix_picture(confusion, ["Road", "Roof", "Boat"])
    right = confusion_matrix_picture(confusion[[1, 0, 2]], ["Road", "Roof", "Boat"])
    assert swapped.dtype == np.uint8
    assert swapped.shape[2] == 3

    def dark_cells(picture: NDArray[np.uint8]) -> tuple[float, float]:
        """Mean row and, of the upper half, mean column of the full cells' dark blue."""
        rows, columns = np.nonzero((picture == (8, 48, 107)).all(axis=-1))
        return rows.mean(), columns[rows < rows.mean()].mean()

    # Both have two full cells in the same rows; swapped, the upper one stands further to the right.
    assert dark_cells(swapped)[1] > dark_cells(right)[1] + 20


def test_a_confusion_matrix_holds_true_classes_and_one_column_for_all_others() -> None:
    names = [f"class {k}" for k in range(25)]
    eight = np.zeros((25, 25), dtype=np.int64)
    eight[:8, :8] = 1
    others = eight.copy()
    others[3, 8:] = 1
    twelve = np.zeros((25, 25), dtype=np.int64)
    twelve[:12, :12] = 1
    widths = [confusion_matrix_picture(c, names).shape[1] for c in (eight, others, twelve)]
    cell_px = 0.42 * 110  # and a few pixels for shares such as "9.9 %" rather than "12 %"
    assert widths[1] - widths[0] == pytest.approx(cell_px, abs=6)
    assert widths[2] - widths[0] == pytest.approx(4 * cell_px, abs=20)


@pytest.mark.filterwarnings("error")
def test_a_confusion_matrix_takes_names_that_are_no_formulas_and_letters_without_a_font() -> None:
    confusion = np.array([[5, 3], [2, 7]])
    plain = confusion_matrix_picture(confusion, ["Roof", "Road"])
    odd = confusion_matrix_picture(confusion, [r"Cost $\roof$", "屋根"])
    assert odd.shape[0] > plain.shape[0]
