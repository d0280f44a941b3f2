"""Soups: one network whose weights are the mean of those of several trained networks.

A soup costs as much as a single network. It is good where its ingredients began at the same
pretrained weights and ended near each other; otherwise it is far worse than any of them
(Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves
accuracy without increasing inference time").
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch.optim.swa_utils import update_bn

from segcore.networks.models import SegmentationNetwork
from segcore.training.checkpoint import StateDict

Kept = tuple[int, ...]
"""Positions of ingredients."""


def average_weights(ingredients: Sequence[StateDict]) -> dict[str, torch.Tensor]:
    """The mean of each tensor. Tensors of whole numbers, such as counters, are the first one's."""
    return {
        name: (
            torch.stack([tensors[name].double() for tensors in ingredients]).mean(0).to(first.dtype)
            if first.is_floating_point()
            else first
        )
        for name, first in ingredients[0].items()
    }


def mend_normalisation(
    network: SegmentationNetwork, images_NCHW: Iterable[torch.Tensor], device: torch.device
) -> None:
    """Estimate the statistics of batch normalisation anew, as those of averaged weights.

    ``images_NCHW`` are batches of two or more training windows.
    """
    update_bn(images_NCHW, network, device)
    network.eval()


def greedy_soup(ingredients: int, score: Callable[[Kept], float]) -> Kept:
    """Which of so many ingredients, which come best first, make a good soup together.

    One after the other is added, and stays unless the score gets lower (recipe 1 of Wortsman).
    """
    kept: Kept = (0,)
    best = score(kept)
    for i in range(1, ingredients):
        tried = score((*kept, i))
        if tried >= best:
            kept, best = (*kept, i), tried
    return kept
