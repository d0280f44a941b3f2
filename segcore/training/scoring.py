"""A network's scores over a loader of plain items."""

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from segcore.data.prepared import PreparedData
from segcore.devices import autocast
from segcore.networks.models import SegmentationNetwork
from segcore.scores.metrics import ScoreAccumulator, Scores
from segcore.training.loading import Batch, to_device
from segcore.training.microbatches import MicroBatches


@torch.inference_mode()
def evaluate(
    network: SegmentationNetwork,
    loader: DataLoader[Batch],
    data: PreparedData,
    loss: nn.Module,
    device: torch.device,
    micro_batches: MicroBatches,
) -> tuple[Scores, float]:
    """Scores of a network over a loader of plain items, and the mean loss of its batches.

    Photographs are told apart by ``data.photo_M``, so that tiles of one count as one image.
    ``loss`` comes from ``build_loss``. Raises ``OutOfMemoryError``.
    """
    network.eval()
    accumulator = ScoreAccumulator(data.num_classes, len(data.photos), device)
    photo_M = torch.from_numpy(np.array(data.photo_M, dtype=np.int64)).to(device)
    losses = []
    for batch in loader:
        image_NCHW, mask_NHW, item_N = to_device(batch, device)
        predicted_NHW, value = micro_batches.attempt(
            partial(_predict, network, loss, image_NCHW, mask_NHW, micro_batches)
        )
        losses.append(value)
        accumulator.update(predicted_NHW, mask_NHW, photo_M[item_N])
    mean_loss = float(torch.stack(losses).mean()) if losses else math.nan
    return accumulator.scores(), mean_loss


def _predict(
    network: SegmentationNetwork,
    loss: nn.Module,
    image_NCHW: Tensor,
    mask_NHW: Tensor,
    micro_batches: MicroBatches,
) -> tuple[Tensor, Tensor]:
    """A batch's classes and its loss."""
    classes, losses = [], []
    for images, masks in micro_batches.parts(image_NCHW, mask_NHW):
        with autocast(images.device):
            logits_NKHW = network(images)
        losses.append(loss(logits_NKHW.float(), masks, mask_NHW))
        classes.append(logits_NKHW.argmax(dim=1))
        del logits_NKHW  # large: not to be held while the next part is computed
    return torch.cat(classes), torch.stack(losses).sum()
