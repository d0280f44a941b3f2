"""A network's scores on the validation split, on the grid by which all trials are compared."""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from segcore.config import TrialConfig
from segcore.data.prepared import PreparedData
from segcore.data.windows import scale_image
from segcore.inference.blending import Looker, Predict, Strip, batch_probs, predict_strips
from segcore.inference.scoring import prepared_photograph, score_strips
from segcore.networks.models import SegmentationNetwork
from segcore.reading.bands import to_tensor
from segcore.scores.metrics import Scores
from segcore.training.microbatches import MicroBatches

OVERLAP = 0.0
"""The least share of a window's side in common with the next. Predictions have more, which costs
several times as much (benchmarks/README.md)."""


@torch.inference_mode()
def validate(
    network: SegmentationNetwork,
    data: PreparedData,
    config: TrialConfig,
    loss: nn.Module,
    device: torch.device,
    micro_batches: MicroBatches,
) -> tuple[Scores, float]:
    """Scores on the split "val", and the mean loss of its labelled pixels.

    The probabilities that the network gives at its own scale are blended and enlarged to the score
    grid. ``loss`` comes from ``build_loss``; its logits are the logarithms of those probabilities.
    Raises ``OutOfMemoryError``.
    """
    total, labelled = torch.zeros((), device=device), torch.zeros((), device=device)

    def add_loss(strip: Strip, truth_HW: Tensor) -> None:
        nonlocal total, labelled
        truth_1HW = truth_HW[None].long()
        logits_1KHW = strip.probs_KHW[None].clamp_min(1e-12).log()
        pixels = (truth_1HW < data.num_classes).sum()
        total += loss(logits_1KHW, truth_1HW) * pixels
        labelled += pixels

    predict = partial(_predict, network, device, micro_batches)
    scores = score_strips(_strips(predict, data, config), data, device, add_loss)
    return scores, float(total / labelled) if labelled else math.nan


def _predict(
    network: SegmentationNetwork,
    device: torch.device,
    micro_batches: MicroBatches,
    image_NCHW: Tensor,
) -> Tensor:
    """``probs_NKHW``, of as many images at once as memory allows."""

    def work() -> Tensor:
        parts = micro_batches.parts(image_NCHW)
        return torch.cat([batch_probs(network, part, device) for (part,) in parts])

    return micro_batches.attempt(work)


def _strips(
    predict: Predict, data: PreparedData, config: TrialConfig
) -> Iterator[tuple[int, Strip]]:
    for number, look in _looks(predict, data, config):
        strips = predict_strips(
            [Looker(look, config.view)],
            data.num_classes,
            prepared_photograph(data, number),
            size_px=data.plans[number].score_grid,
            overlap=OVERLAP,
            batch_size=config.batch_size,
        )
        yield from ((number, strip) for strip in strips)


def _looks(
    predict: Predict, data: PreparedData, config: TrialConfig
) -> Iterator[tuple[int, Predict]]:
    """Each photograph with what predicts its windows.

    Squeezed ones have a single window each, so a batch of them goes through the network at once.
    """
    photos = data.of_split("val").tolist()
    if not config.view.is_whole:
        yield from ((number, predict) for number in photos)
        return
    for first in range(0, len(photos), config.batch_size):
        batch = photos[first : first + config.batch_size]
        squeezed = [scale_image(data.image(p), data.grid(p, config.view)) for p in batch]
        probs_NKHW = predict(torch.stack([to_tensor(image_HWC) for image_HWC in squeezed]))
        for number, probs_KHW in zip(batch, probs_NKHW, strict=True):
            yield number, partial(_recall, probs_KHW[None])


def _recall(probs_1KHW: Tensor, image_1CHW: Tensor) -> Tensor:
    return probs_1KHW
