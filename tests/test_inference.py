"""From a photograph to probabilities of its size: whole or in tiles, strips, panels; no seams."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torch import Tensor, nn

from segcore.config import View
from segcore.data.windows import plan_grid, scale_image
from segcore.inference import blending as inference
from segcore.inference import photographs
from segcore.inference.photographs import Photograph
from segcore.networks.models import SegmentationNetwork
from segcore.networks.weights import Statistics
from segcore.predicting.ensemble import Ensemble, disagreement, weighted_mean
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


def ensemble(view: View, *modules: nn.Module) -> Ensemble:
    members = tuple(
        (SegmentationNetwork(module, Statistics((0.0,) * 3, (0.1,) * 3), 1, 1).eval(), 1.0)
        for module in modules or (Blur(),)
    )
    return Ensemble(members, view, ("red", "green", "blue"), COLORS, CPU)


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

    small = torch.from_numpy(scale_image(photo, plan_grid((160, 200), model.view)))
    with torch.inference_mode():
        on_grid = model.members[0][0](small.permute(2, 0, 1)[None]).softmax(dim=1)
    enlarged = nn.functional.interpolate(on_grid, (160, 200), mode="bilinear")[0].numpy()
    np.testing.assert_allclose(probs, enlarged, atol=1e-4)


def test_tiles_show_no_seam(photo: np.ndarray) -> None:
    whole = ensemble(View(160, 200, None)).probs(photo)
    tiled = ensemble(View(64, 64, 1.0)).probs(photo)
    difference = np.abs(tiled - whole).max(axis=0)
    # Only a tile's rim sees too little around it, and there its weight is small.
    assert difference.mean() < 0.005
    assert (tiled.argmax(axis=0) == whole.argmax(axis=0)).mean() > 0.98
    # Where tiles end there is no step: of 255 levels of probability not a quarter of one.
    step_W = np.abs(np.diff(tiled - whole, axis=2)).max(axis=(0, 1))
    ends = [x - 1 for left in inference._tile_starts(200, 64) for x in (left, left + 64)]
    assert step_W[[x for x in ends if 0 <= x < 199]].max() < 0.25 / 255


def test_tiles_may_be_larger_than_the_photograph(photo: np.ndarray) -> None:
    probs = ensemble(View(256, 256, 0.5)).probs(photo)
    assert probs.shape == (3, 160, 200)
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("view", [View(64, 96, None), View(48, 40, 0.37)])
def test_panels_and_strips_do_not_show(
    photo: np.ndarray, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ensemble(view)
    expected = model.probs(photo)
    monkeypatch.setattr(inference, "PANEL_BYTES", 4 * 3 * view.height_px * 21)
    monkeypatch.setattr(inference, "STRIP_BYTES", 4 * 3 * 200 * 7)
    assert len({strip.columns.start for strip in model.strips(Photograph.in_memory(photo))}) > 2
    np.testing.assert_allclose(model.probs(photo), expected, atol=1e-4)


def test_a_photograph_may_be_smaller_than_what_the_network_sees() -> None:
    image = np.zeros((10, 12, 3), np.uint8)
    image[:, :6, 0] = image[:, 6:, 2] = 255
    mask = ensemble(View(64, 64, None)).predict(image)
    assert mask.shape == (10, 12)
    assert (mask[:, :5] == 0).all() and (mask[:, 7:] == 2).all()


def test_tta_is_the_mean_over_all_flips_and_rotations(photo: np.ndarray) -> None:
    # 64 × 64: turned by 90° the network sees what it sees.
    model = ensemble(View(64, 64, None), Slope())
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
        return float(disagreement(weighted_mean(parts), class_dim=0))

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
        for view in (View(64, 64, 1.0), View(64, 64, 0.37)):
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
        strips = list(inference.predict_strips(predict, 1, photo, View(64, 64, 1.0)))
    assert valid[:, :100].all() and not valid[:, 100:].any()
    probs = np.concatenate([strip.probs_KHW.numpy() for strip in strips], axis=1)
    np.testing.assert_allclose(probs[0, :, :100], 1, atol=1e-6)
    assert (probs[0, :, 200:] == 0).all()
    assert seen == 7 * 4  # of 7 columns of tiles those that begin before pixel 100
