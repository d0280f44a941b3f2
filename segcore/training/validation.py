"""A network's scores on the validation split, on the grid by which all trials are compared."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from segcore.config import TrialConfig
from segcore.data.prepared import PreparedData
from segcore.inference.blending import Looker, Strip, batch_probs, predict_photos
from segcore.inference.scoring import prepared_photograph, score_strips
from segcore.networks.models import SegmentationNetwork
from segcore.scores.metrics import Scores
from segcore.training.microbatches import MicroBatches

OVERLAP = 0.0
"""The least share of a window's side in common with the next. Predictions have more, which costs
several times as much (benchmarks/README.md)."""

LOSS_STRIDE = 4
"""The loss is that of every fourth row and column. It decides nothing, and of all pixels it would
take longer than the rest of a validation: several times as long for a loss that sorts them."""


@torch.inference_mode()
def validate(
    network: SegmentationNetwork,
    data: PreparedData,
    config: TrialConfig,
    loss: nn.Module,
    device: torch.device,
    micro_batches: MicroBatches,
) -> tuple[Scores, float]:
    """Scores on the split "val", and the mean loss of a sixteenth of its labelled pixels.

    The probabilities that the network gives at its own scale are blended and enlarged to the score
    grid. ``loss`` comes from ``build_loss``; its logits are the logarithms of those probabilities.
    Raises ``OutOfMemoryError``.
    """
    total, labelled = torch.zeros((), device=device), torch.zeros((), device=device)

    def add_loss(strip: Strip, truth_HW: Tensor) -> None:
        nonlocal total, labelled
        truth_1HW = truth_HW[None, ::LOSS_STRIDE, ::LOSS_STRIDE].long()
        probs_1KHW = strip.probs_KHW[None, :, ::LOSS_STRIDE, ::LOSS_STRIDE]
        logits_1KHW = probs_1KHW.clamp_min(1e-12).log()
        pixels = (truth_1HW < data.num_classes).sum()
        total += loss(logits_1KHW, truth_1HW) * pixels
        labelled += pixels

    predict = partial(_predict, network, device, micro_batches)
    photos = data.of_split("val").tolist()
    strips = predict_photos(
        [Looker(predict, config.view, batch_size=micro_batches.size)],
        data.num_classes,
        [(prepared_photograph(data, p), data.plans[p].score_grid) for p in photos],
        overlap=OVERLAP,
    )
    numbered = ((photos[place], strip) for place, strip in strips)
    scores = score_strips(numbered, data, device, add_loss)
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
