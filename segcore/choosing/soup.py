"""Soups: one network whose weights are the mean of several trained ones'.

A soup costs as much as a single model. It is good where the ingredients began at the same
pretrained weights and ended near each other; elsewhere it is far worse than any of them
(Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves
accuracy without increasing inference time").
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch.optim.swa_utils import update_bn

from segcore.networks.models import SegmentationNetwork
from segcore.training.checkpoint import StateDict


def average_weights(ingredients: Sequence[StateDict]) -> dict[str, torch.Tensor]:
    """The mean of each tensor; of whole numbers (such as counters) the first ingredient's."""
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
    """Estimate batch normalisation's statistics anew: averages of them fit no averaged weights.

    ``images_NCHW``: uint8 batches of training images, of two and more.
    """
    update_bn(images_NCHW, network, device)
    network.eval()


def greedy_soup(
    ingredients: Sequence[StateDict], score: Callable[[StateDict], float]
) -> tuple[int, ...]:
    """Positions of the ingredients, which come best first, whose mean scores best.

    One after the other is added, and kept where the score isn't lower (Wortsman's recipe 1).
    """
    kept, best = [0], score(ingredients[0])
    for i in range(1, len(ingredients)):
        tried = score(average_weights([ingredients[j] for j in [*kept, i]]))
        if tried >= best:
            kept, best = [*kept, i], tried
    return tuple(kept)
