"""From a photograph to probabilities of its size: whole or in windows, strips, panels; no seams."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torch import Tensor, nn

from segcore.config import View
from segcore.data.windows import Grid, plan_grid, scale_image, scale_mask
from segcore.inference import blending as inference
from segcore.inference import photographs
from segcore.inference.blending import Looker
from segcore.inference.photographs import Photograph
from segcore.networks.models import SegmentationNetwork
from segcore.networks.weights import Statistics
from segcore.predicting.ensemble import Ensemble, Member, disagreement, weighted_mean
from segcore.reading.headers import ImageError
from segcore.reading.images import read_picture
from segcore.reading.measuring import own_bands

CPU = torch.device("cpu")
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


class Blur(nn.Module):
    """A "network" with a receptive field: logits are blurred colours."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x_NCHW, 9, stride=1, padding=4, count_include_pad=False)


class Slope(nn.Module):
    """A "network" that isn't symmetric: class 1 grows to the right, class 2 downwards."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        height, width = x_NCHW.shape[-2:]
        zero = torch.zeros(len(x_NCHW), height, width)
        right = zero + torch.linspace(-2, 2, width)
        down = zero + torch.linspace(-2, 2, height)[:, None]
        return torch.stack([zero, right, down], dim=1)


def ensemble(*views: View, module: nn.Module | None = None) -> Ensemble:
    """Members that look at photographs in these ways, and weigh 1, 2, 3 …"""
    network = SegmentationNetwork(module or Blur(), Statistics((0.0,) * 3, (0.1,) * 3), 1, 1)
    total = sum(range(1, len(views) + 1))
    members = (Member(network.eval(), n / total, view) for n, view in enumerate(views, start=1))
    return Ensemble(tuple(members), ("red", "green", "blue"), COLORS, CPU)


def assembled(model: Ensemble, photo: Photograph, **how: Any) -> np.ndarray:
    """``probs_KHW`` of all strips, none of which may cover another."""
    strips = list(model.strips(photo, **how))
    size_px = max(s.rows.stop for s in strips), max(s.columns.stop for s in strips)
    probs = np.full((3, *size_px), np.nan, np.float32)
    for strip in strips:
        assert np.isnan(probs[:, strip.rows, strip.columns]).all()
        probs[:, strip.rows, strip.columns] = strip.probs_KHW.numpy()
    assert not np.isnan(probs).any()
    return probs


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (16, 20, 3)).astype(np.uint8)
    return np.kron(small, np.ones((10, 10, 1), np.uint8))  # 160 × 200


def test_a_whole_photograph_is_resized_to_what_training_saw(photo: np.ndarray) -> None:
    model = ensemble(View(64, 96, None))
    probs = model.probs(photo)
    assert probs.shape == (3, 160, 200) and probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-5)

    small = torch.from_numpy(scale_image(photo, plan_grid((160, 200), model.members[0].view)))
    with torch.inference_mode():
        on_grid = model.members[0].network(small.permute(2, 0, 1)[None]).softmax(dim=1)
    enlarged = nn.functional.interpolate(on_grid, (160, 200), mode="bilinear")[0].numpy()
    np.testing.assert_allclose(probs, enlarged, atol=1e-4)


def test_windows_show_no_seam(photo: np.ndarray) -> None:
    whole = ensemble(View(160, 200, None)).probs(photo)
    tiled = ensemble(View(64, 64, 1.0)).probs(photo)
    difference = np.abs(tiled - whole).max(axis=0)
    # Only a window's rim sees too little around it, and there its weight is small.
    assert difference.mean() < 0.005
    assert (tiled.argmax(axis=0) == whole.argmax(axis=0)).mean() > 0.98
    # Where windows end there is no step: of 255 levels of probability not a quarter of one.
    step_W = np.abs(np.diff(tiled - whole, axis=2)).max(axis=(0, 1))
    ends = [
        x - 1
        for left in inference._window_starts(200, 64, inference.OVERLAP)
        for x in (left, left + 64)
    ]
    assert step_W[[x for x in ends if 0 <= x < 199]].max() < 0.25 / 255


def test_windows_may_be_larger_than_the_photograph(photo: np.ndarray) -> None:
    probs = ensemble(View(256, 256, 0.5)).probs(photo)
    assert probs.shape == (3, 160, 200)
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-5)


VIEWS = [View(64, 96, None), View(48, 40, 0.37), View(64, 64, 1.0)]


def force_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "PANEL_BYTES", 4 * 3 * 48 * 70)
    monkeypatch.setattr(inference, "STRIP_BYTES", 4 * 3 * 50 * 7)


@pytest.mark.parametrize("size_px", [None, (61, 77), (160, 300)])
@pytest.mark.parametrize("views", [*([view] for view in VIEWS), VIEWS], ids=str)
def test_panels_and_strips_do_not_show(
    photo: np.ndarray,
    views: list[View],
    size_px: tuple[int, int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, image = ensemble(*views), Photograph.in_memory(photo)
    expected = assembled(model, image, size_px=size_px)
    assert expected.shape == (3, *(size_px or (160, 200)))
    force_small_pieces(monkeypatch)
    strips = list(model.strips(image, size_px=size_px))
    assert len(strips) > 4 or views == VIEWS[1:2]
    np.testing.assert_allclose(assembled(model, image, size_px=size_px), expected, atol=1e-4)


def test_a_bundle_of_two_scales_is_the_mean_of_its_members_enlarged_probabilities(
    photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = [View(48, 40, 0.37), View(64, 64, 1.0), View(64, 96, None), View(48, 40, 0.37)]
    image = Photograph.in_memory(photo)
    alone = [assembled(ensemble(view), image) for view in views]
    expected = sum(n * probs for n, probs in enumerate(alone, start=1)) / 10
    np.testing.assert_allclose(ensemble(*views).probs(photo), expected, atol=1e-4)
    force_small_pieces(monkeypatch)
    np.testing.assert_allclose(ensemble(*views).probs(photo), expected, atol=1e-4)


def test_networks_of_one_view_read_the_photograph_once(
    photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Grid] = []
    on_grid = Photograph.on_grid
    monkeypatch.setattr(
        Photograph, "on_grid", lambda p, grid: read.append(grid) or on_grid(p, grid)
    )
    fine, coarse = View(64, 64, 1.0), View(48, 40, None, metres_per_px=2.0)
    model, image = ensemble(fine, fine, coarse), Photograph.in_memory(photo, metres_per_px=0.5)
    assembled(model, image)
    assert read == [image.plan(fine), image.plan(coarse)]
    read.clear()
    assembled(model, image, scale=0.5)
    assert read == [image.plan(View(64, 64, 0.5))] * 2


def test_a_view_of_a_ground_size_wants_a_georeference(photo: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"has no georeference.* at 2 m per pixel"):
        ensemble(View(48, 40, None, metres_per_px=2.0)).probs(photo)


def test_views_refer_to_the_photograph_that_a_smaller_one_was_made_of(photo: np.ndarray) -> None:
    small = scale_image(photo, Grid(80, 100))
    kept = Photograph.in_memory(small, native_px=(160, 200))
    view = View(64, 64, 0.25)
    assert kept.plan(view) == Grid(40, 50) and kept.size_px == (80, 100)
    expected = assembled(ensemble(view), Photograph.in_memory(photo), size_px=(80, 100))
    np.testing.assert_allclose(assembled(ensemble(view), kept), expected, atol=0.02)


def test_a_grid_that_is_coarser_gets_the_means_over_its_areas(photo: np.ndarray) -> None:
    model, image = ensemble(View(64, 64, 1.0)), Photograph.in_memory(photo)
    fine = torch.from_numpy(model.probs(photo))[None]
    by_4 = nn.functional.avg_pool2d(fine, 4)[0].numpy()
    np.testing.assert_allclose(assembled(model, image, size_px=(40, 50)), by_4, atol=1e-5)
    area = cv2.resize(fine[0].permute(1, 2, 0).numpy(), (77, 61), interpolation=cv2.INTER_AREA)
    coarse = assembled(model, image, size_px=(61, 77))
    np.testing.assert_allclose(coarse.sum(axis=0), 1, atol=1e-5)
    assert np.abs(coarse - area.transpose(2, 0, 1)).mean() < 0.005


@pytest.mark.parametrize("overlap", [0.0, 0.125, 0.5])
def test_windows_that_hardly_overlap_leave_no_gap(photo: np.ndarray, overlap: float) -> None:
    ones = Looker(lambda x_NCHW: torch.ones(len(x_NCHW), 1, *x_NCHW.shape[-2:]), View(33, 47, 1.0))
    strips = list(inference.predict_strips([ones], 1, Photograph.in_memory(photo), overlap=overlap))
    assert sum(strip.probs_KHW.numel() for strip in strips) == photo[..., 0].size
    for strip in strips:
        np.testing.assert_allclose(strip.probs_KHW.numpy(), 1, atol=1e-5)


def test_small_windows_go_through_a_gpu_many_at_once() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    sides = (64, 128, 368, 512, 1024)
    sizes = [inference.usual_batch_size(View(side, side, 1.0), gpu) for side in sides]
    assert sizes == [256, 64, 7, 4, 4]
    assert {inference.usual_batch_size(View(side, side, 1.0), cpu) for side in sides} == {4}


class NearestColor(nn.Module):
    """A perfect predictor, which sees each pixel alone: classes are red, green and blue."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW * 10


def stripes(size_px: tuple[int, int], stripe_px: int, *, upright: bool) -> np.ndarray:
    """A truth without corners, which interpolation would round."""
    length = size_px[1] if upright else size_px[0]
    classes = np.random.default_rng(0).integers(0, 3, length // stripe_px).astype(np.uint8)
    line = np.kron(classes, np.ones(stripe_px, np.uint8))
    return np.broadcast_to(line if upright else line[:, None], size_px).copy()


SCALES = [View(48, 40, 0.25), View(64, 64, 0.5), View(40, 72, 1.0), View(40, 50, None)]


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("views", [*([view] for view in SCALES), SCALES], ids=str)
def test_a_perfect_predictor_is_right_at_every_scale(views: list[View], upright: bool) -> None:
    truth = stripes((160, 200), 20, upright=upright)
    image = Photograph.in_memory(np.array(COLORS, np.uint8)[truth])
    model = ensemble(*views, module=NearestColor())
    for size_px in (None, (40, 50), (80, 100), (160, 50)):
        grid = Grid(*(size_px or truth.shape))
        predicted = assembled(model, image, size_px=size_px).argmax(axis=0)
        np.testing.assert_array_equal(predicted, scale_mask(truth, grid))


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.2])
def test_a_perfect_predictor_is_right_on_any_content_at_its_own_scale(scale: float) -> None:
    truth = np.random.default_rng(0).integers(0, 3, (160, 200)).astype(np.uint8)
    own = plan_grid(truth.shape, View(1, 1, scale))
    truth = scale_mask(truth, own)
    # What is kept of the photograph is as fine as the score grid.
    image = Photograph.in_memory(np.array(COLORS, np.uint8)[truth], native_px=(160, 200))
    model = ensemble(View(48, 40, scale), module=NearestColor())
    np.testing.assert_array_equal(assembled(model, image, size_px=own).argmax(axis=0), truth)


@pytest.mark.parametrize("views", [*([view] for view in VIEWS[1:]), VIEWS[1:]], ids=str)
def test_turned_photographs_get_turned_masks(photo: np.ndarray, views: list[View]) -> None:
    views = [view._replace(width_px=view.height_px) for view in views]  # turned, the same window
    model = ensemble(*views)
    upright = model.probs(photo)
    for turn in range(8):
        turned = np.rot90(photo[:, ::-1] if turn >= 4 else photo, turn)
        probs = np.rot90(model.probs(np.ascontiguousarray(turned)), -turn, axes=(1, 2))
        probs = probs[:, :, ::-1] if turn >= 4 else probs
        # Windows lie at whole pixels, so that the middle one may be half a pixel off.
        assert (probs.argmax(axis=0) == upright.argmax(axis=0)).mean() > 0.999
        np.testing.assert_allclose(probs, upright, atol=0.02)


def test_the_same_content_as_a_whole_and_in_windows_gets_the_same_mask(photo: np.ndarray) -> None:
    whole = ensemble(View(160, 200, None), module=NearestColor()).predict(photo)
    windows = ensemble(View(64, 64, 1.0), module=NearestColor()).predict(photo)
    np.testing.assert_array_equal(windows, whole)


@pytest.mark.parametrize("channels", [1, 3, 5, 16])
def test_samples_may_have_16_bits_and_any_number_of_bands(channels: int) -> None:
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 65536, (50, 60, channels)).astype(np.uint16)
    seen: list[Tensor] = []

    def predict(image_NCHW: Tensor) -> Tensor:
        seen.append(image_NCHW)
        return image_NCHW[:, :1] / 255

    for scale in (1.0, 0.5, 1.5):
        looker = Looker(predict, View(32, 32, scale))
        list(inference.predict_strips([looker], 1, Photograph.in_memory(samples)))
    assert {tuple(image_NCHW.shape[1:]) for image_NCHW in seen} == {(channels, 32, 32)}
    assert all(image_NCHW.dtype == torch.float32 for image_NCHW in seen)
    first = torch.from_numpy(samples[:32, :32].astype(np.float32)).permute(2, 0, 1) / 257
    np.testing.assert_allclose(seen[0][0], first, rtol=1e-6)


def test_pixels_without_data_get_no_class(photo: np.ndarray) -> None:
    valid = np.ones((160, 200), bool)
    valid[:, 130:] = False
    image = Photograph.in_memory(photo, valid_HW=valid)
    mask = ensemble(View(32, 32, 0.5), View(64, 96, None)).predict(image)
    assert (mask[~valid] == 255).all() and (mask[valid] < 3).all()
    # A window without a valid pixel isn't computed.
    probs = assembled(ensemble(View(32, 32, 0.5)), image)
    assert (probs[:, :, 175:] == 0).all()
    np.testing.assert_allclose(probs[:, :, :128].sum(axis=0), 1, atol=1e-5)


def test_a_photograph_may_be_smaller_than_what_the_network_sees() -> None:
    image = np.zeros((10, 12, 3), np.uint8)
    image[:, :6, 0] = image[:, 6:, 2] = 255
    mask = ensemble(View(64, 64, None)).predict(image)
    assert mask.shape == (10, 12)
    assert (mask[:, :5] == 0).all() and (mask[:, 7:] == 2).all()


def test_tta_is_the_mean_over_all_flips_and_rotations(photo: np.ndarray) -> None:
    # 64 × 64: turned by 90° the network sees what it sees.
    model = ensemble(View(64, 64, None), module=Slope())
    square = Photograph.in_memory(photo[:64, :64])
    (strip,) = model.strips(square, tta=True)
    probs = strip.probs_KHW.numpy()
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-5)
    for turned in (probs[:, ::-1], probs[:, :, ::-1], probs.swapaxes(1, 2)):
        np.testing.assert_allclose(probs, turned, atol=1e-5)
    (plain,) = model.strips(square)
    assert np.abs(plain.probs_KHW.numpy() - probs).max() > 0.3


def test_members_disagree_by_the_probability_that_they_give_to_other_classes() -> None:
    sure_of_0, sure_of_1 = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    unsure = torch.full((3,), 1 / 3)

    def of(*parts: tuple[float, torch.Tensor]) -> float:
        mean = weighted_mean(parts)
        return float(disagreement(mean, mean.argmax(dim=0), 0))

    assert of((0.5, sure_of_0), (0.5, sure_of_0)) == of((1.0, sure_of_1)) == 0
    assert of((0.5, sure_of_0), (0.5, sure_of_1)) == 0.5
    assert of((0.75, sure_of_0), (0.25, sure_of_1)) == 0.25
    assert of((0.5, unsure), (0.5, unsure)) == pytest.approx(2 / 3)
    assert of((0.75, sure_of_0), (0.25, unsure)) == pytest.approx(0.25 * 2 / 3)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_a_mosaic_is_read_and_scaled_in_pieces_as_a_photograph_is(
    tmp_path: Path, dtype: str, bands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 200 if dtype == "uint8" else 3000, (bands, 331, 457)).astype(dtype)
    path = tmp_path / "mosaic.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=457, height=331, count=bands, dtype=dtype, tiled=True,
        blockxsize=64, blockysize=64,
    ) as raster:  # fmt: skip
        raster.write(samples)
    bands = own_bands(path)
    image = read_picture(path, bands).blanked()
    monkeypatch.setattr(photographs, "WHOLE_PX", 1000)
    monkeypatch.setattr(photographs, "_PIECE_BYTES", 20_000)
    with Photograph.open(path, bands) as photo:
        assert photo.is_mosaic and photo.size_px == (331, 457)
        for view in (View(64, 64, 1.0), View(64, 64, 0.37), View(64, 64, 1.6)):
            grid = plan_grid(photo.size_px, view)
            expected = scale_image(image, grid).astype(int)
            rows, columns = slice(17, grid.height_px), slice(5, 150)
            scaled = photo.on_grid(grid).read(rows, columns)
            assert scaled.dtype == image.dtype
            assert np.abs(scaled - expected[rows, columns]).max() <= 1


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_a_photograph_that_has_to_be_turned_is_predicted_upright(
    tmp_path: Path, ending: str
) -> None:
    exif = Image.Exif()
    exif[274] = 6
    stored = np.zeros((20, 40, 3), np.uint8)
    stored[:, 20:] = 200
    path = tmp_path / f"turned.{ending}"
    Image.fromarray(stored).save(path, exif=exif)
    with Photograph.open(path) as photo:
        assert photo.size_px == (40, 20)
        image = photo.read(slice(0, 40), slice(0, 20))
    assert image.shape == (40, 20, 3)
    assert image[:16].max() < 20 and image[24:].min() > 180


def test_a_mosaic_without_data_is_not_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "holes.tif"
    samples = np.full((3, 256, 256), 90, np.uint8)
    samples[:, :, 100:] = 0
    with rasterio.open(
        path, "w", driver="GTiff", width=256, height=256, count=3, dtype="uint8", nodata=0
    ) as raster:
        raster.write(samples)
    monkeypatch.setattr(photographs, "WHOLE_PX", 1000)
    seen = 0

    def predict(image_NCHW: Tensor) -> Tensor:
        nonlocal seen
        seen += len(image_NCHW)
        return torch.ones(len(image_NCHW), 1, *image_NCHW.shape[-2:])

    with Photograph.open(path) as photo:
        assert photo.has_holes
        valid = photo.valid(slice(0, 256), slice(0, 256))
        strips = list(inference.predict_strips([Looker(predict, View(64, 64, 1.0))], 1, photo))
    assert valid[:, :100].all() and not valid[:, 100:].any()
    probs = np.concatenate([strip.probs_KHW.numpy() for strip in strips], axis=1)
    np.testing.assert_allclose(probs[0, :, :100], 1, atol=1e-6)
    assert (probs[0, :, 200:] == 0).all()
    assert seen == 7 * 4  # of 7 columns of windows those that begin before pixel 100
