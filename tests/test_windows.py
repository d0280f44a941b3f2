"""Windows of a photograph: one warp for place, scale, angle and flip; the mask goes with it."""

import itertools
import math

import cv2
import numpy as np
import pytest

from segcore.config import IGNORE_INDEX, View
from segcore.data.windows import (
    Grid,
    Window,
    cut_window,
    plan_grid,
    plan_levels,
    scale_image,
    scale_mask,
)

SIZE = (240, 320)


def checkerboard(size_px: tuple[int, int], square_px: int) -> np.ndarray:
    rows, columns = np.indices(size_px) // square_px
    return ((rows + columns) % 2).astype(np.uint8)


def pyramid(mask_HW: np.ndarray, levels: int = 3, channels: int = 3) -> list[np.ndarray]:
    """The image is the mask in black and white, halved by the mean of areas."""
    found = [np.repeat(mask_HW[..., None] * np.uint8(255), channels, axis=2)]
    for _ in range(levels - 1):
        height, width, _ = found[-1].shape
        found.append(scale_image(found[-1], Grid((height + 1) // 2, (width + 1) // 2)))
    return found


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("angle_deg", [0, 90, 180, 270, 17, -45, 130])
@pytest.mark.parametrize("scale", [0.2, 0.33, 0.5, 0.75, 1.0, 1.3, 2.0])
def test_image_and_mask_agree_after_any_scale_angle_and_flip(
    scale: float, angle_deg: int, flip: bool
) -> None:
    """The squares' borders are where the image is grey: elsewhere it has to be the mask's colour.

    A shift by a quarter of a pixel between the two would show as more grey on one side.
    """
    mask = checkerboard(SIZE, 40)
    grid = (SIZE[0] * scale, SIZE[1] * scale)
    window = Window(64, 80, (0.47, 0.52), grid, math.radians(angle_deg), flip)
    image, cut = cut_window(pyramid(mask), mask, window)
    assert image.shape == (64, 80, 3) and cut.shape == (64, 80)
    inside = cut != IGNORE_INDEX
    # Of pixels at the photograph's rim a part lies outside, where it is black.
    inside &= cv2.erode(inside.astype(np.uint8), np.ones((5, 5)), borderValue=1) > 0
    assert inside.mean() > 0.3
    painted, truth = image[..., 0][inside] / 255, cut[inside]
    assert (np.abs(painted - truth) <= 0.5 + 2 / 255).all()
    for value in (0, 1):  # neither colour has spread over the other's border
        doubt = np.abs(painted - truth)[truth == value].mean()
        other = np.abs(painted - truth)[truth == 1 - value].mean()
        assert abs(doubt - other) < 0.02


def test_a_window_at_full_scale_is_a_piece_of_the_photograph() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8)
    mask = rng.integers(0, 5, SIZE).astype(np.uint8)
    for row, column in rng.uniform(0.2, 0.8, (20, 2)):
        window = Window(50, 70, (row, column), SIZE)
        cut_image, cut_mask = cut_window([image], mask, window)
        top, left = round(row * 240 - 25), round(column * 320 - 35)
        near = itertools.product(range(top - 1, top + 2), range(left - 1, left + 2))
        assert any(
            np.array_equal(cut_image, image[y : y + 50, x : x + 70])
            and np.array_equal(cut_mask, mask[y : y + 50, x : x + 70])
            for y, x in near
        )


@pytest.mark.parametrize(("quarter", "flip"), itertools.product(range(4), (False, True)))
def test_quarter_turns_and_flips_move_pixels_and_change_none(quarter: int, flip: bool) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)
    mask = rng.integers(0, 5, (64, 64)).astype(np.uint8)
    window = Window(64, 64, (0.5, 0.5), (64, 64), quarter * math.pi / 2, flip)
    cut_image, cut_mask = cut_window([image], mask, window)
    symmetries = [
        (np.rot90(picture[:, ::-1] if flip else picture, k), np.rot90(m[:, ::-1] if flip else m, k))
        for picture, m, k in ((image, mask, k) for k in range(4))
    ]
    found = [k for k, (picture, m) in enumerate(symmetries)
             if np.array_equal(picture, cut_image) and np.array_equal(m, cut_mask)]  # fmt: skip
    assert len(found) == 1


@pytest.mark.parametrize("flip", [False, True])
def test_pixels_of_a_coarser_level_have_the_classes_that_lie_under_them(flip: bool) -> None:
    """An image's pixels may be moved by up to half of one, so as to be its level's; the mask's
    go with them.
    """
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 200, SIZE).astype(np.uint8)
    levels = pyramid(mask, 2)
    levels[1] = np.repeat(scale_mask(mask, Grid(120, 160))[..., None], 3, axis=2)
    for row, column in rng.uniform(0.3, 0.7, (20, 2)):
        window = Window(50, 70, (row, column), (120, 160), math.pi, flip)
        image, cut = cut_window(levels, mask, window)
        np.testing.assert_array_equal(image[..., 0], cut)


def test_a_window_may_be_written_to() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image.setflags(write=False)
    for window in (Window(20, 20, (0.5, 0.5), (20, 20)), Window(9, 9, (0.5, 0.5), (20, 20), 0.3)):
        for part in cut_window([image], image[..., 0], window):
            part[:] = 1


def test_the_eight_symmetries_are_all_different() -> None:
    image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    cuts = {
        cut_window([image], image[..., 0], Window(3, 3, (0.5, 0.5), (3, 3), k * math.pi / 2, f))[
            0
        ].tobytes()
        for k, f in itertools.product(range(4), (False, True))
    }
    assert len(cuts) == 8


def test_what_lies_outside_of_the_photograph_is_ignored_and_black() -> None:
    image, mask = np.full((40, 40, 3), 200, np.uint8), np.ones((40, 40), np.uint8)
    cut_image, cut_mask = cut_window([image], mask, Window(40, 40, (0.0, 0.0), (40, 40)))
    assert (cut_mask[20:, 20:] == 1).all() and (cut_image[20:, 20:] == 200).all()
    assert (cut_mask[:20] == IGNORE_INDEX).all() and (cut_mask[:, :20] == IGNORE_INDEX).all()
    assert not cut_image[:20].any() and not cut_image[:, :20].any()
    far_image, far_mask = cut_window([image], mask, Window(40, 40, (5.0, 5.0), (40, 40)))
    assert (far_mask == IGNORE_INDEX).all() and not far_image.any()


def test_a_turned_window_shows_what_surrounds_it() -> None:
    image, mask = np.full((100, 100, 3), 200, np.uint8), np.ones((100, 100), np.uint8)
    window = Window(50, 50, (0.5, 0.5), (100, 100), math.pi / 4)
    cut_image, cut_mask = cut_window([image], mask, window)
    assert (cut_mask == 1).all() and (cut_image == 200).all()


def test_a_window_of_a_large_photograph_is_cut_from_its_part() -> None:
    """OpenCV refuses images of 32,768 px and more."""
    image = np.zeros((40, 70_000, 3), np.uint8)
    image[:, 65_000:] = 90
    window = Window(32, 32, (0.5, 65_000 / 70_000), (40, 70_000))
    cut_image, cut_mask = cut_window([image], image[..., 0], window)
    assert not cut_image[:, :16].any() and (cut_image[:, 16:] == 90).all()
    assert (cut_mask[:, 16:] == 90).all()


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 16])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_any_number_of_channels_is_cut_alike(channels: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, np.iinfo(dtype).max, (60, 60, channels)).astype(dtype)
    mask = np.zeros((60, 60), np.uint8)
    window = Window(32, 32, (0.5, 0.5), (45, 45), 0.3, True)
    whole, _ = cut_window([image], mask, window)
    assert whole.shape == (32, 32, channels) and whole.dtype == dtype
    for c in range(channels):
        alone, _ = cut_window([image[..., c : c + 1].copy()], mask, window)
        np.testing.assert_array_equal(alone[..., 0], whole[..., c])


def test_fine_stripes_become_grey_where_they_are_too_small_to_see() -> None:
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 1
    image, _ = cut_window(pyramid(stripes, 4), stripes, Window(32, 32, (0.5, 0.5), (64, 64), 0.4))
    assert np.abs(image.astype(int) - 127).max() <= 3


def test_a_squeezed_photograph_fills_its_window() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, 100:] = 200
    window = Window(64, 64, (0.5, 0.5), plan_grid((100, 200), View(64, 64)))
    cut_image, _ = cut_window([image], image[..., 0], window)
    assert not cut_image[:, :31].any() and (cut_image[:, 33:] == 200).all()


@pytest.mark.parametrize(
    ("view", "grid"),
    [
        (View(64, 96), (64, 96)),
        (View(64, 96, 1.0), (300, 400)),
        (View(64, 96, 0.37), (111, 148)),
        (View(64, 96, 0.0001), (1, 1)),
        (View(64, 96, None, 0.5), (60, 80)),
    ],
)
def test_the_working_grid_of_a_view(view: View, grid: tuple[int, int]) -> None:
    assert plan_grid((300, 400), view, metres_per_px=0.1) == grid


def test_a_pyramid_serves_all_views_and_is_no_finer_than_the_photograph() -> None:
    grids = [plan_grid((3000, 4000), View(512, 512, scale)) for scale in (0.1, 0.5)]
    assert plan_levels((3000, 4000), grids) == ((1500, 2000), (750, 1000), (375, 500), (188, 250))
    assert plan_levels((100, 100), [Grid(200, 300)]) == ((100, 100),)
    assert plan_levels((1, 1), [Grid(1, 1)]) == ((1, 1),)
    assert plan_levels((3000, 4000), [Grid(368, 368)]) == ((368, 368),)


@pytest.mark.parametrize("grid", [Grid(80, 32), Grid(20, 32)])
def test_an_axis_that_shrinks_loses_nothing_whether_the_other_one_grows_or_not(grid: Grid) -> None:
    image = np.zeros((40, 256, 3), np.uint8)
    image[:, ::8] = 160
    assert np.abs(scale_image(image, grid).astype(int) - 20).max() <= 1


def test_scaling_keeps_a_single_channel_and_classes() -> None:
    image = np.zeros((20, 30, 1), np.uint8)
    assert scale_image(image, Grid(7, 9)).shape == (7, 9, 1)
    mask = checkerboard((20, 30), 4) * 7
    assert set(np.unique(scale_mask(mask, Grid(9, 11)))) == {0, 7}


@pytest.mark.parametrize(("quarter", "flip"), itertools.product(range(4), (False, True)))
@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.1, 0.9), (0.97, 0.02), (-0.4, 0.5), (3.0, 3.0)])
def test_moving_pixels_and_interpolating_give_the_same(
    centre: tuple[float, float], quarter: int, flip: bool
) -> None:
    """A hundred-thousandth of a pixel more of the grid is not to be seen, but asks for a warp."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (60, 80, 3)).astype(np.uint8)
    mask = rng.integers(0, 5, (60, 80)).astype(np.uint8)
    angle = quarter * math.pi / 2
    fast = cut_window([image], mask, Window(21, 34, centre, (60, 80), angle, flip))
    window = Window(21, 34, centre, (60, 80), angle, flip)
    at = window.onto((60, 80))[:, 2] - (window._replace(grid=(60.0, 80.00001)).onto((60, 80))[:, 2])
    row, column = centre[0] + at[1] / 60, centre[1] + at[0] / 80
    slow = cut_window([image], mask, Window(21, 34, (row, column), (60, 80.00001), angle, flip))
    np.testing.assert_allclose(fast[0].astype(int), slow[0], atol=1)
    np.testing.assert_array_equal(fast[1], slow[1])
