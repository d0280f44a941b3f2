"""A network's scores on the validation split, on the grid by which all trials are compared."""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from segcore.config import TrialConfig
from segcore.data.prepared import PreparedData
from segcore.data.windows import scale_image
from segcore.inference.blending import Looker, Strip, batch_probs, predict_strips
from segcore.inference.scoring import prepared_photograph, score_strips, truth_of
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

    def strips() -> Iterator[tuple[int, Strip]]:
        nonlocal total, labelled
        predict = partial(_predict, network, device, micro_batches)
        for number, strip in _predict_split(predict, data, config):
            truth_1HW = truth_of(data, number, strip, device)[None].long()
            logits_1KHW = strip.probs_KHW[None].clamp_min(1e-12).log()
            pixels = (truth_1HW < data.num_classes).sum()
            total += loss(logits_1KHW, truth_1HW) * pixels
            labelled += pixels
            yield number, strip

    scores = score_strips(strips(), data, device)
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


def _predict_split(
    predict: "partial[Tensor]", data: PreparedData, config: TrialConfig
) -> Iterator[tuple[int, Strip]]:
    """Strips of the photographs. Of squeezed ones a batch goes through the network at once."""
    photos = data.of_split("val").tolist()
    step = config.batch_size if config.view.is_whole else 1
    for first in range(0, len(photos), step):
        batch = photos[first : first + step]
        ready: Iterator[Tensor] = iter(())
        if config.view.is_whole:
            squeezed = [scale_image(data.image(p), data.grid(p, config.view)) for p in batch]
            ready = iter(predict(torch.stack([to_tensor(image) for image in squeezed])))
        for number in batch:
            known = next(ready)[None] if config.view.is_whole else None
            look = predict if known is None else partial(_recall, known)
            strips = predict_strips(
                [Looker(look, config.view, 1.0)],
                data.num_classes,
                prepared_photograph(data, number),
                size_px=data.plans[number].score_grid,
                overlap=OVERLAP,
                batch_size=config.batch_size,
            )
            for strip in strips:
                yield number, strip


def _recall(probs_1KHW: Tensor, image_1CHW: Tensor) -> Tensor:
    return probs_1KHW
