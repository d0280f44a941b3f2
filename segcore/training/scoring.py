"""Scores over prepared items, whatever predicts them."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from segcore.data.prepared import PreparedData
from segcore.devices import autocast
from segcore.networks.models import SegmentationNetwork
from segcore.scores.metrics import Prediction, Scores, score
from segcore.training.loading import Batch, to_device
from segcore.training.microbatches import MicroBatches


@torch.inference_mode()
def score_items(
    predict: Callable[[Batch], Tensor],
    loader: DataLoader[Batch],
    data: PreparedData,
    device: torch.device,
) -> Scores:
    """Scores of the ``class_NHW`` that ``predict`` names for each batch, which is on ``device``.

    The loader gives plain items. Those with the same ``data.photo_M`` count as one photograph.
    """
    photo_M = torch.from_numpy(data.photo_M.astype("int64")).to(device)

    def predictions() -> Iterator[Prediction]:
        for batch in loader:
            image_NCHW, mask_NHW, item_N = to_device(batch, device)
            yield predict((image_NCHW, mask_NHW, item_N)), mask_NHW, photo_M[item_N]

    return score(predictions(), data.num_classes, len(data.photos), device)


def evaluate(
    network: SegmentationNetwork,
    loader: DataLoader[Batch],
    data: PreparedData,
    loss: nn.Module,
    device: torch.device,
    micro_batches: MicroBatches,
) -> tuple[Scores, float]:
    """Scores of a network over a loader of plain items, and the mean loss of its batches.

    ``loss`` comes from ``build_loss``. Raises ``OutOfMemoryError``.
    """
    network.eval()
    losses: list[Tensor] = []

    def predict(batch: Batch) -> Tensor:
        class_NHW, value = micro_batches.attempt(
            partial(_classes_and_loss, network, loss, batch, micro_batches)
        )
        losses.append(value)
        return class_NHW

    scores = score_items(predict, loader, data, device)
    return scores, float(torch.stack(losses).mean()) if losses else math.nan


def _classes_and_loss(
    network: SegmentationNetwork, loss: nn.Module, batch: Batch, micro_batches: MicroBatches
) -> tuple[Tensor, Tensor]:
    image_NCHW, mask_NHW, _ = batch
    classes, losses = [], []
    for images, masks in micro_batches.parts(image_NCHW, mask_NHW):
        with autocast(images.device):
            logits_NKHW = network(images)
        losses.append(loss(logits_NKHW.float(), masks, mask_NHW))
        classes.append(logits_NKHW.argmax(dim=1))
        del logits_NKHW  # large: not to be held while the next part is computed
    return torch.cat(classes), torch.stack(losses).sum()
