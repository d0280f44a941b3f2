"""From a photograph to a mask of its size: whole or in tiles, in strips, without seams."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segcore.config import Preparation
from segcore.inference import full_size_mask, photo_probs
from segcore.items import plan_grid
from segcore.models import SegmentationNetwork
from segcore.weights import Statistics

CPU = torch.device("cpu")


class Blur(nn.Module):
    """A "network" with a receptive field: logits are blurred colours."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x_NCHW, 9, stride=1, padding=4, count_include_pad=False)


@pytest.fixture(scope="module")
def network() -> SegmentationNetwork:
    return SegmentationNetwork(Blur(), Statistics((0.0,) * 3, (0.1,) * 3), 1, 1).eval()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (16, 20, 3)).astype(np.uint8)
    return np.kron(small, np.ones((10, 10, 1), np.uint8))  # 160 × 200


def test_a_whole_photograph_is_resized_to_what_training_saw(
    network: SegmentationNetwork, photo: np.ndarray
) -> None:
    probs = photo_probs(network, photo, Preparation(64, 96, None), CPU)
    assert probs.shape == (3, 64, 96) and probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-5)


def test_tiles_show_no_seam(network: SegmentationNetwork, photo: np.ndarray) -> None:
    whole = photo_probs(network, photo, Preparation(160, 200, None), CPU)
    tiled = photo_probs(network, photo, Preparation(64, 64, 1.0), CPU, batch_size=3)
    assert tiled.shape == whole.shape
    difference = np.abs(tiled - whole).max(axis=0)
    # Only a tile's rim sees too little around it, and there its weight is small.
    assert difference.mean() < 0.005
    assert (tiled.argmax(axis=0) == whole.argmax(axis=0)).mean() > 0.98


def test_tiles_may_be_larger_than_the_photograph(
    network: SegmentationNetwork, photo: np.ndarray
) -> None:
    probs = photo_probs(network, photo, Preparation(256, 256, 0.5), CPU)
    assert probs.shape == (3, 80, 100)
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-5)


def test_the_working_grid_follows_the_preparation() -> None:
    assert plan_grid((3000, 4000), Preparation(368, 368, None))[:2] == (368, 368)
    assert plan_grid((3000, 4000), Preparation(512, 512, 0.25))[:2] == (750, 1000)


def test_a_mask_has_the_photographs_size_and_strips_do_not_show() -> None:
    rng = np.random.default_rng(1)
    probs = torch.from_numpy(rng.normal(size=(5, 23, 31))).softmax(dim=0).float().numpy()
    expected = (
        nn.functional.interpolate(
            torch.from_numpy(probs)[None], (301, 207), mode="bilinear", align_corners=False
        )[0]
        .argmax(dim=0)
        .numpy()
    )
    for strip_px in (16, 100, 1000):
        mask = full_size_mask(probs, 301, 207, strip_px=strip_px)
        assert mask.shape == (301, 207) and mask.dtype == np.uint8
        # OpenCV's fixed-point weights may tip a tie.
        assert (mask == expected).mean() > 0.99


def test_a_mask_may_also_be_smaller_than_the_grid() -> None:
    probs = np.zeros((2, 40, 40), np.float32)
    probs[0, :, :20] = probs[1, :, 20:] = 1
    mask = full_size_mask(probs, 10, 10)
    assert mask[:, :5].max() == 0 and mask[:, 5:].min() == 1
