"""The truth about what runs: read back from the built objects, compared with the configuration.

A setting that a builder ignores does no harm that one could see: the search compares numbers of
what it didn't ask for. So what each object really holds is read from the object, and what it should
hold is worked out without the builders, from the registered classes and the configuration alone.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from segcore.config import Scalar, TrialConfig
from segcore.data.prepared import PreparedData
from segcore.errors import TrainingFailedError
from segcore.networks.models import SegmentationNetwork, bare_network, on_meta
from segcore.networks.weights import holds_weights
from segcore.plugins import is_import_path
from segcore.training.loading import Batch, EpochSampler, TrainingImages, class_rarity
from segcore.training.losses import loss_settings
from segcore.training.optim import Schedule

_DECIMALS = 12

Facts = dict[str, Scalar]
"""Plain values by name, such as ``optimizer.weight_decay``."""


class MismatchError(TrainingFailedError):
    """Something was built otherwise than the configuration says; ``str()`` lists what."""


@dataclass(frozen=True)
class Built:
    """What a training really uses, before its first step."""

    network: SegmentationNetwork
    weights_file: Path | None
    """What the encoder was loaded from."""
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    clip_norm: float | None
    """Gradients longer than this are shortened to it; None: never."""
    average: AveragedModel | None
    """Of the network's weights."""
    loss: nn.Module
    """As ``build_loss`` gives it."""
    loader: DataLoader[Batch]
    """Of training images."""
    data: PreparedData


def check_built(config: TrialConfig, built: Built) -> str:
    """A hash of all that was read back: 16 hex digits, equal for two trainings of one kind.

    Raises ``MismatchError`` naming each value that is not as the configuration says.
    """
    found = read_back(built)
    differences = [
        f"{name}: sampled {value!r}, built {found.get(name)!r}"
        for name, value in expected(config, built.data).items()
        if found.get(name) != value
    ]
    if differences:
        raise MismatchError(f"built otherwise than sampled: {'; '.join(differences)}")
    return _digest([json.dumps(found, sort_keys=True).encode()])


def read_back(built: Built) -> Facts:
    """What the objects hold."""
    network = built.network
    facts: Facts = {
        **_network_facts(network.network),
        "network.mean": _shown(network.mean_C11),
        "network.std": _shown(network.std_C11),
        **_optimizer_facts(built.optimizer),
        "schedule": built.schedule.kind,
        "schedule.warmup_epochs": built.schedule.warmup_epochs,
        "schedule.max_epochs": built.schedule.max_epochs,
        "clip_norm": built.clip_norm,
        "ema_decay": None if built.average is None else _decay(built.average),
        **_loss_facts(built.loss.get_submodule("loss")),
        **_loader_facts(built.loader, built.data),
    }
    if built.weights_file is not None:
        encoder = network.network.get_submodule("encoder")
        facts["network.encoder_weights"] = holds_weights(encoder, built.weights_file)
    return facts


def expected(config: TrialConfig, data: PreparedData) -> Facts:
    """What the configuration determines of ``read_back``."""
    pixels_K = data.class_pixels("train")
    network = on_meta(lambda: bare_network(config, data.num_classes))
    factory, settings = loss_settings(config, pixels_K)
    of_loss = _loss_facts(factory(**settings))
    if is_import_path(config.loss):  # a user's own may count its calls: only settings are compared
        of_loss = {n: v for n, v in of_loss.items() if n.rpartition(".")[2] in config.loss_kwargs}
    facts: Facts = {
        **_network_facts(network),
        **of_loss,
        "optimizer": config.optimizer,
        "optimizer.lr": config.lr,
        "optimizer.weight_decay": config.weight_decay,
        "optimizer.parameters": _count(network.parameters()),
        "schedule": config.schedule,
        "schedule.warmup_epochs": config.warmup_epochs,
        "schedule.max_epochs": config.max_epochs,
        "clip_norm": config.clip_norm,
        "ema_decay": None if config.ema_decay is None else round(config.ema_decay, _DECIMALS),
        "loader.batch_size": config.batch_size,
        "loader.height_px": config.height_px,
        "loader.width_px": config.width_px,
        "loader.tile_scale": config.tile_scale,
        "loader.seed": config.seed,
        "loader.rare_crop_prob": config.rare_crop_prob,
        "loader.augmentation": config.augmentation,
        "loader.augment_strength": config.augment_strength,
        "loader.greatest_weight": 1
        + (config.oversample_ratio - 1) * float(class_rarity(pixels_K).max()),
    }
    encoder = getattr(network, "encoder", None)
    if isinstance(encoder, nn.Module):
        in_encoder = _count(encoder.parameters())
        facts["optimizer.parameters"] = _count(network.parameters()) - in_encoder
        facts["optimizer.encoder_parameters"] = in_encoder
        facts["optimizer.encoder_lr"] = config.lr * config.encoder_lr_factor
    if config.optimizer == "sgd":
        facts["optimizer.momentum"] = config.momentum
    if config.encoder_weights is not None:
        facts["network.encoder_weights"] = True
    return facts


def _network_facts(network: nn.Module) -> Facts:
    encoder = getattr(network, "encoder", None)
    shapes = (f"{name} {tuple(t.shape)}".encode() for name, t in network.state_dict().items())
    return {
        "network": _class_name(network),
        "network.name": str(getattr(network, "name", None)),  # of smp's; it has the encoder's
        "network.encoder": None if encoder is None else _class_name(encoder),
        "network.parameters": _count(network.parameters()),
        "network.shapes": _digest(shapes),
    }


def _optimizer_facts(optimizer: torch.optim.Optimizer) -> Facts:
    *encoder_groups, group = optimizer.param_groups
    facts: Facts = {
        "optimizer": type(optimizer).__name__.lower(),
        "optimizer.lr": group["base_lr"],  # "lr" is set anew at each step, from this
        "optimizer.weight_decay": _one(each["weight_decay"] for each in optimizer.param_groups),
        "optimizer.parameters": _count(group["params"]),
    }
    if encoder_groups:
        facts["optimizer.encoder_lr"] = _one(each["base_lr"] for each in encoder_groups)
        facts["optimizer.encoder_parameters"] = sum(_count(g["params"]) for g in encoder_groups)
    for name in ("momentum", "betas", "eps"):
        if name in group:
            facts[f"optimizer.{name}"] = _one(each[name] for each in optimizer.param_groups)
    return facts


def _decay(average: AveragedModel) -> float | None:
    """What one step of the average leaves of its weights; None where it does something else."""
    if average.multi_avg_fn is None:
        return None
    kept = torch.ones(1, dtype=torch.float64)
    average.multi_avg_fn([kept], [torch.zeros_like(kept)], average.n_averaged)
    return round(kept.item(), _DECIMALS)


def _loss_facts(loss: nn.Module) -> Facts:
    """Its classes, their settings as they store them, and what their buffers hold."""
    facts: Facts = {}
    for path, module in loss.named_modules(prefix="loss"):
        facts[path] = _class_name(module)
        for name, value in vars(module).items():
            if isinstance(value, bool | int | float | str) and name != "training":
                facts[f"{path}.{name}"] = value
        for name, buffer in module.named_buffers(prefix=path, recurse=False):
            facts[name] = _shown(buffer)
    return facts


def _loader_facts(loader: DataLoader[Batch], data: PreparedData) -> Facts:
    sampler, images = loader.sampler, loader.dataset
    assert isinstance(sampler, EpochSampler)  # for the type checker
    assert isinstance(images, TrainingImages)
    _, height_px, width_px, _ = data.images_MHWC.shape
    return {
        "loader.batch_size": loader.batch_size,
        "loader.height_px": height_px,
        "loader.width_px": width_px,
        "loader.tile_scale": data.preparation.tile_scale,
        "loader.seed": sampler.seed,
        "loader.rare_crop_prob": sampler.rare_crop_prob,
        "loader.augmentation": images.config.augmentation,
        "loader.augment_strength": images.config.augment_strength,
        "loader.greatest_weight": float(sampler.weight_M.max()),
    }


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _one(values: Iterable[Any]) -> Scalar:
    """The value that all have; where they differ, or are no plain value, all as text."""
    distinct = list(dict.fromkeys(values))
    if len(distinct) == 1 and isinstance(distinct[0], bool | int | float | str):
        return distinct[0]
    return str(distinct)


def _class_name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _shown(tensor: Tensor) -> str:
    return str([round(value, 6) for value in tensor.flatten().tolist()])


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part + b"\n")
    return digest.hexdigest()[:16]
