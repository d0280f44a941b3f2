"""Every setting of a TrialConfig arrives in the training, with the value that it has."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segcore.config import TrialConfig
from segcore.data.prepared import PreparedData
from segcore.networks.models import build_network
from segcore.training import checkpoint
from segcore.training.augment import A
from segcore.training.fit import fit
from segcore.training.loading import Draw, EpochSampler
from segcore.training.losses import CrossEntropyLoss
from segcore.training.optim import (
    WeightAverage,
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    set_lr,
)

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")

SEEN: list[Any] = []
"""What this file's own network, loss and augmentation were given."""


class Small(nn.Module):
    """A network with an encoder, without batch normalisation: each setting shows in its loss."""

    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, width, 3, padding=1)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        SEEN.append((self.training, tuple(image_NCHW.shape)))
        logits_NKHW: Tensor = self.head(self.encoder(image_NCHW).relu())
        return logits_NKHW


class OwnLoss(CrossEntropyLoss):
    def __init__(self, class_pixels_K: np.ndarray, label_smoothing: float) -> None:
        SEEN.append((class_pixels_K.tolist(), label_smoothing))
        super().__init__(class_pixels_K, label_smoothing=label_smoothing)


def own_augmentation(strength: float, height_px: int, width_px: int) -> A.Compose:
    SEEN.append((strength, height_px, width_px))
    return A.Compose([])


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    SEEN.clear()
    yield
    SEEN.clear()


LOSS_KWARGS = {"smooth": 3.0, "region_share": 0.3, "gamma": 1.0, "class_weight_power": 0.5}
ALL_AT_WORK: dict[str, Any] = {
    "height_px": 48, "width_px": 48, "architecture": f"{__name__}:Small", "encoder": None,
    "loss": "dice_focal", "loss_kwargs": LOSS_KWARGS,
    "optimizer": "sgd", "lr": 0.02, "encoder_lr_factor": 0.5, "weight_decay": 0.03,
    "momentum": 0.8, "schedule": "poly", "warmup_epochs": 0.5, "batch_size": 4, "max_epochs": 2,
    "clip_norm": 0.1, "ema_decay": 0.9, "augment_strength": 0.1, "oversample_ratio": 4.0,
    "rare_crop_prob": 0.2, "seed": 7, "fold": 1, "folds": 3,
}  # fmt: skip
CHANGES: dict[str, Any] = {
    "model_kwargs": {"width": 5}, "loss": "dice_ce",
    "optimizer": "adamw", "lr": 0.03, "encoder_lr_factor": 1.0, "weight_decay": 0.0,
    "momentum": 0.5, "schedule": "cosine", "warmup_epochs": 0.0, "batch_size": 2, "max_epochs": 3,
    "clip_norm": 0.2, "ema_decay": 0.15, "augmentation": "none", "augment_strength": 0.9,
    "oversample_ratio": 1.0, "rare_crop_prob": 0.0, "seed": 8, "fold": 0, "folds": 2,
    "height_px": 64, "width_px": 64, "scale": 0.5, "epoch_mpx": 0.04,
}  # fmt: skip
CASES = [
    *CHANGES.items(),
    ("clip_norm", None),
    ("ema_decay", None),
    ("optimizer", "adam"),
    *(("loss_kwargs", LOSS_KWARGS | {name: value + 0.1}) for name, value in LOSS_KWARGS.items()),
]


def config(**values: Any) -> TrialConfig:
    values = ALL_AT_WORK | values
    if values["loss"] == "dice_ce":
        values["loss_kwargs"] = {k: v for k, v in values["loss_kwargs"].items() if k != "gamma"}
    return TrialConfig.from_dict(values)


def losses(chosen: TrialConfig, data: PreparedData, **options: Any) -> list[float]:
    epochs = itertools.islice(fit(chosen, data, device=CPU, **options), 2)
    return [loss for epoch in epochs for loss in (epoch.train_loss, epoch.val_loss)]


@pytest.fixture(scope="module")
def usual(one_thread: None, data: PreparedData) -> list[float]:
    return losses(config(), data)


def test_the_same_settings_give_the_same_losses(data: PreparedData, usual: list[float]) -> None:
    assert losses(config(), data) == usual


@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{n}={v}" for n, v in CASES])
def test_a_setting_changes_the_training(
    data: PreparedData, usual: list[float], name: str, value: Any
) -> None:
    changed = losses(config(**{name: value}), data)
    assert np.isfinite(changed).all()
    assert changed != usual


def test_no_setting_is_left_out_here() -> None:
    elsewhere = {
        "metres_per_px",  # test_images.py: it needs a georeference
        "architecture", "encoder", "encoder_weights",  # of the network, below
        "patience_epochs", "metric",  # below, and in test_training.py
    }  # fmt: skip
    assert {name for name, _ in CASES} | elsewhere == set(TrialConfig.model_fields)


@pytest.mark.parametrize("metric", ["iou", "pixel_accuracy"])
def test_the_metric_is_what_the_history_keeps(
    data: PreparedData, tmp_path: Path, metric: Any
) -> None:
    epoch = next(fit(config(metric=metric), data, device=CPU))
    epoch.save(tmp_path)
    assert checkpoint.load_info(tmp_path).score == epoch.scores.metric(metric)
    assert epoch.scores.metric(metric) != epoch.scores.dice


def test_batches_have_their_size_and_the_augmentation_its_strength(data: PreparedData) -> None:
    chosen = config(augmentation=f"{__name__}:own_augmentation", augment_strength=0.7, batch_size=3)
    losses(chosen, data)
    assert (0.7, 48, 48) in SEEN
    assert {shape for training, shape in SEEN[1:] if training} == {(3, 3, 48, 48)}


def test_a_loss_gets_its_settings_and_the_pixels_of_the_training_split(data: PreparedData) -> None:
    chosen = config(
        loss=f"{__name__}:OwnLoss", loss_kwargs={"label_smoothing": 0.2}, fold=None, folds=None
    )
    losses(chosen, data)
    masks = np.stack([data.mask(p) for p in data.of_split("train")])
    assert SEEN[0] == ([int((masks == k).sum()) for k in range(3)], 0.2)


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.8, "nesterov": False}),
    "adam": (torch.optim.Adam, {"betas": (0.9, 0.999), "eps": 1e-8}),
    "adamw": (torch.optim.AdamW, {"betas": (0.9, 0.999), "eps": 1e-8}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_has_its_settings(name: str) -> None:
    kind, settings = OPTIMIZERS[name]
    chosen = config(optimizer=name)
    network = build_network(chosen, 3)
    optimizer = build_optimizer(chosen, network)
    assert type(optimizer) is kind
    encoder, others = optimizer.param_groups
    for group, lr in ((encoder, 0.01), (others, 0.02)):
        assert group["lr"] == group["base_lr"] == lr
        assert group["weight_decay"] == 0.03
        assert settings.items() <= group.items()
    set_lr(optimizer, 0.5)
    assert (encoder["lr"], others["lr"]) == (0.005, 0.01)
    assert encoder["params"] == network.encoder_parameters()


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"architecture": "scratch_unet", "model_kwargs": {"base_channels": 4, "depth": 2}},
        {"architecture": "linknet", "encoder": "resnet18"},
    ],
)
def test_every_parameter_is_in_one_group(network: dict[str, Any]) -> None:
    chosen = config(**network)
    built = build_network(chosen, 3)
    groups = build_optimizer(chosen, built).param_groups
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in built.parameters())


def test_a_loaded_optimizer_has_the_memory_format_of_its_parameters() -> None:
    """With other strides, torch's steps over all tensors at once become steps one by one."""
    chosen = config()
    network = build_network(chosen, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def stepped() -> torch.optim.Optimizer:
        optimizer = build_optimizer(chosen, network)
        network(torch.rand(2, 3, 48, 48)).sum().backward()
        optimizer.step()
        return optimizer

    state = {name: tensor.contiguous() for name, tensor in optimizer_tensors(stepped()).items()}
    loaded = build_optimizer(chosen, network)
    load_optimizer_tensors(loaded, state)
    moments = [
        (parameter, moment)
        for parameter, own in loaded.state.items()
        for name, moment in own.items()
        if name != "step"
    ]
    assert any(not parameter.is_contiguous() for parameter, _ in moments)
    assert all(parameter.stride() == moment.stride() for parameter, moment in moments)
    for name, tensor in optimizer_tensors(loaded).items():
        assert torch.equal(tensor, state[name])


def test_the_average_keeps_its_decay_of_the_weights() -> None:
    network = build_network(config(), 3)
    average = WeightAverage(network, 0.75)
    for value in (1.0, 5.0):
        for parameter in network.parameters():
            parameter.data.fill_(value)
        average.step()
    # After one step the decay is 2/11; it grows to that of the configuration.
    (averaged,) = {p.unique().item() for p in average.network.parameters()}
    assert averaged == pytest.approx(2 / 11 * 1 + 9 / 11 * 5)
    for _ in range(30):
        average.step()
    for parameter in network.parameters():
        parameter.data.fill_(1.0)
    average.step()
    (averaged,) = {p.unique().item() for p in average.network.parameters()}
    assert averaged == pytest.approx(0.75 * 5 + 0.25 * 1, abs=1e-4)


def test_a_sampler_has_its_settings(data: PreparedData) -> None:
    weights = EpochSampler(data, config()).weight_P
    assert weights.max() == 4.0 and weights.min() >= 1.0
    assert set(EpochSampler(data, config(oversample_ratio=1.0)).weight_P) == {1.0}
    for prob in (0.0, 0.5, 1.0):
        sampler = EpochSampler(data, config(rare_crop_prob=prob, batch_size=100))
        drawn = [draw.zoom > 1 for epoch in range(5) for draw in sampler]
        assert np.mean(drawn) == pytest.approx(prob, abs=0.15)


def test_a_loader_draws_by_the_seed(data: PreparedData) -> None:
    def drawn(seed: int) -> list[Draw]:
        return list(EpochSampler(data, config(seed=seed)))

    assert drawn(7) == drawn(7)
    assert {draw[1] for draw in drawn(7)}.isdisjoint(draw[1] for draw in drawn(8))


def test_a_network_has_the_architecture_and_encoder_that_were_chosen() -> None:
    def named(architecture: str, encoder: str, **kwargs: Any) -> tuple[str, str, int]:
        chosen = config(architecture=architecture, encoder=encoder, model_kwargs=kwargs)
        network = build_network(chosen, 3).network
        return type(network).__name__, network.name, sum(p.numel() for p in network.parameters())

    assert named("unet", "resnet18")[:2] == ("Unet", "u-resnet18")
    assert named("unet", "resnet34")[:2] == ("Unet", "u-resnet34")
    assert named("linknet", "resnet18")[:2] == ("Linknet", "link-resnet18")
    without = named("unet", "resnet18", decoder_use_norm=False)
    assert without[2] < named("unet", "resnet18")[2]


def test_a_training_begins_with_the_encoder_weights(data: PreparedData, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "architecture": "linknet", "encoder": "resnet18", "batch_size": 2, "lr": 1e-12,
        "weight_decay": 0.0, "max_epochs": 1, "warmup_epochs": 0.0, "ema_decay": None,
    }  # fmt: skip
    encoder = build_network(config(**settings), 3).get_submodule("network.encoder")
    path = tmp_path / "encoder.safetensors"
    save_file(encoder.state_dict(), path)
    next(fit(config(**settings, encoder_weights=str(path)), data, device=CPU)).save(
        tmp_path / "end"
    )
    trained = checkpoint.load_model_tensors(tmp_path / "end")
    for name, parameter in encoder.named_parameters():
        torch.testing.assert_close(trained[f"network.encoder.{name}"], parameter.data)
