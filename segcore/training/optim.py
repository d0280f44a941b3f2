"""Optimizer, learning-rate schedule, and the moving average of weights."""

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from segcore.config import TrialConfig
from segcore.networks.models import SegmentationNetwork

PLATEAU_FACTOR = 0.5
FLOOR = 0.01
"""Warm-up begins, and cosine and polynomial schedules end, at this share of the learning rate."""


def build_optimizer(config: TrialConfig, network: SegmentationNetwork) -> torch.optim.Optimizer:
    """Build ``config.optimizer`` over two parameter groups: the encoder, and everything else.

    Each group's ``base_lr`` is its learning rate before the schedule: ``lr``, times
    ``encoder_lr_factor`` for the encoder.
    """
    encoder_lr = config.lr * config.encoder_lr_factor
    groups = [
        {"params": list(network.encoder_parameters()), "lr": encoder_lr, "base_lr": encoder_lr},
        {"params": list(network.other_parameters()), "lr": config.lr, "base_lr": config.lr},
    ]
    groups = [group for group in groups if group["params"]]
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(groups, weight_decay=config.weight_decay)
        case "adamw":
            return torch.optim.AdamW(groups, weight_decay=config.weight_decay)
        case "sgd":
            return torch.optim.SGD(
                groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
            )


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to ``factor`` times its ``base_lr``."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state by ``parameter index.name``; learning rates follow from the config."""
    return {
        f"{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None  # as the momentum of SGD without momentum is
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Load what ``optimizer_tensors`` gave, with the memory format of the parameters."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    # Checkpoints hold contiguous tensors. Beside parameters in channels_last these would make
    # torch's step over all tensors at once a step for each (ATen's ForeachUtils.h).
    for parameter, own in optimizer.state.items():
        for name, value in own.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                own[name] = torch.empty_like(parameter).copy_(value)


def lr_factor(config: TrialConfig, epochs_done: float, score_history: Sequence[float]) -> float:
    """The schedule: the factor that every learning rate is multiplied with.

    Warm-up is linear over ``warmup_epochs``; ``config.schedule`` runs over the rest of
    ``max_epochs``. "poly" has the power 0.9 of DeepLab (Chen et al. 2018).
    ``epochs_done`` is a fraction within an epoch, and 0 at the very first step. ``score_history``
    holds ``config.metric`` of each epoch so far; only "plateau" needs it.
    """
    if epochs_done < config.warmup_epochs:
        return max(epochs_done / config.warmup_epochs, FLOOR)
    span = config.max_epochs - config.warmup_epochs
    progress = min((epochs_done - config.warmup_epochs) / span, 1.0)
    match config.schedule:
        case "constant":
            return 1.0
        case "cosine":
            return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress))
        case "poly":
            return FLOOR + (1 - FLOOR) * (1 - progress) ** 0.9
        case "plateau":
            patience_epochs = max(2, round(0.1 * config.max_epochs))
            return PLATEAU_FACTOR ** _plateaus(score_history, patience_epochs)


class WeightAverage:
    """The moving average of a network's weights, as a network of its own.

    After t steps the decay is at most (1 + t) / (10 + t), so that a young average isn't dominated
    by the first weights (as in TensorFlow's ExponentialMovingAverage). torch's ``AveragedModel``
    does the same, but a step of it takes the host 2 ms for 180 weights instead of 0.1.
    """

    def __init__(self, network: SegmentationNetwork, decay: float) -> None:
        self.network = copy.deepcopy(network)
        self.steps = 0
        self._decay, self._followed = decay, network
        self._averages, self._weights = (
            [parameter.detach() for parameter in of.parameters()] for of in (self.network, network)
        )

    def step(self) -> None:
        """Follow a step of the optimizer."""
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps)) if self.steps else 0.0
        follow = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        follow(self._averages, self._weights, self.steps)
        self.steps += 1

    @torch.no_grad()
    def copy_buffers(self) -> None:
        """Take over what has no gradient, such as the statistics of batch normalisation."""
        followed = dict(self._followed.named_buffers())
        for name, own in self.network.named_buffers():
            own.copy_(followed[name])


def _plateaus(score_history: Sequence[float], patience_epochs: int) -> int:
    """How many times ``patience_epochs`` epochs in a row brought no new best score."""
    best, waited, plateaus = -math.inf, 0, 0
    for score in score_history:
        if score > best:
            best, waited = score, 0
            continue
        waited += 1
        if waited == patience_epochs:
            plateaus, waited = plateaus + 1, 0
    return plateaus
