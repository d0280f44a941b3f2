"""The plain PyTorch loop that ``benchmarks.recipe`` compares ``fit`` with; nothing of segcore.

Written as one would on a first day: crops anywhere inside a photograph, flips and quarter turns,
Adam, and nothing else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

ENCODER = "tu-tf_efficientnet_lite0"
STRIDE_PX = 32
IGNORED = 255

Photo = tuple[NDArray[np.uint8 | np.uint16], NDArray[np.uint8]]
"""``image_HWC`` and ``mask_HW`` with classes and IGNORED."""


@dataclass(frozen=True)
class Settings:
    """What both sides share."""

    weights: Path  # State dict of the encoder tu-tf_efficientnet_lite0.
    loss: Literal["ce", "dice_ce"] = "ce"  # Cross entropy, or the mean of it and 1 − Dice.
    lr: float = 1e-3  # Adam's learning rate.
    schedule: Literal["constant", "cosine"] = "constant"  # Cosine ends at 1 % of the rate.
    batch_size: int = 8  # Windows in a step.
    side_px: int = 160  # Height and width of a window.


class PlainNetwork(nn.Module):
    """FPN on the pretrained encoder: photographs of 0…255 → logits."""

    def __init__(self, num_classes: int, weights: Path) -> None:
        super().__init__()
        self.network = smp.FPN(ENCODER, encoder_weights=None, classes=num_classes)
        self.network.encoder.load_state_dict(torch.load(weights, weights_only=True))

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """Normalise with the encoder's mean and std, and pad to multiples of its stride."""
        height_px, width_px = image_NCHW.shape[-2:]
        x_NCHW = (image_NCHW.float() / 255 - 0.5) / 0.5
        x_NCHW = F.pad(x_NCHW, (0, -width_px % STRIDE_PX, 0, -height_px % STRIDE_PX))
        return self.network(x_NCHW)[..., :height_px, :width_px]


def train(
    photos: Sequence[Photo],
    num_classes: int,
    settings: Settings,
    steps: int,
    seed: int,
    device: torch.device,
) -> nn.Module:
    """Train a network; a photograph is drawn as often as its area says."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = PlainNetwork(num_classes, settings.weights).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr)
    area = np.array([mask_HW.size for _, mask_HW in photos], np.float64)
    for step in range(steps):
        drawn = rng.choice(len(photos), size=settings.batch_size, p=area / area.sum())
        crops = [crop(photos[number], settings.side_px, rng) for number in drawn]
        image_NCHW = torch.from_numpy(np.stack([image for image, _ in crops])).permute(0, 3, 1, 2)
        mask_NHW = torch.from_numpy(np.stack([mask for _, mask in crops])).long()
        if settings.schedule == "cosine":
            falling = (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.param_groups[0]["lr"] = settings.lr * (0.01 + 0.99 * falling)
        image_NCHW, mask_NHW = image_NCHW.to(device), mask_NHW.to(device)
        logits_NKHW = network(image_NCHW)
        loss = F.cross_entropy(logits_NKHW, mask_NHW, ignore_index=IGNORED)
        if settings.loss == "dice_ce":
            loss = (loss + dice_loss(logits_NKHW, mask_NHW)) / 2
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network


def crop(photo: Photo, side_px: int, rng: np.random.Generator) -> Photo:
    """A window anywhere inside a photograph, which must be as large, flipped and turned."""
    image_HWC, mask_HW = photo
    top, left = (int(rng.integers(length - side_px + 1)) for length in mask_HW.shape)
    window = np.s_[top : top + side_px, left : left + side_px]
    image_HWC, mask_HW = image_HWC[window], mask_HW[window]
    if rng.random() < 0.5:
        image_HWC, mask_HW = image_HWC[:, ::-1], mask_HW[:, ::-1]
    turns = int(rng.integers(4))
    return np.rot90(image_HWC, turns), np.rot90(mask_HW, turns)


def dice_loss(logits_NKHW: Tensor, mask_NHW: Tensor) -> Tensor:
    """1 − Dice of the softmax over the whole batch, the mean over the classes in its truth."""
    labelled_NHW = mask_NHW != IGNORED
    truth_VK = F.one_hot(mask_NHW[labelled_NHW], logits_NKHW.shape[1])
    probs_VK = logits_NKHW.softmax(dim=1).movedim(1, -1)[labelled_NHW]
    dice_K = (2 * (truth_VK * probs_VK).sum(0) + 1) / (truth_VK.sum(0) + probs_VK.sum(0) + 1)
    return 1 - dice_K[truth_VK.any(dim=0)].mean()
