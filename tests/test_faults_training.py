"""Training when memory runs out, when the loss explodes, and when something was built wrongly."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import segcore.training.fit
from segcore.config import TrialConfig
from segcore.data.prepared import PreparedData
from segcore.networks.models import build_network
from segcore.training import checkpoint
from segcore.training.fit import DivergedError, fit
from segcore.training.losses import LOSSES, build_loss, part_of_batch
from segcore.training.microbatches import MicroBatches, OutOfMemoryError
from segcore.training.optim import build_optimizer
from segcore.training.readback import MismatchError
from tests.conftest import make_data

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def config(**values: object) -> TrialConfig:
    small = {
        "height_px": 48, "width_px": 48, "architecture": "tests.test_faults_training:Hungry",
        "encoder": None, "batch_size": 8, "max_epochs": 2, "lr": 1e-2, "optimizer": "sgd",
    }  # fmt: skip
    return TrialConfig.from_dict(small | values)


class Hungry(nn.Module):
    """A network without batch normalisation that finds no memory for more images than ``limit``."""

    refused = 0

    def __init__(
        self, num_classes: int, limit: int = 99, val_limit: int = 99, fault: str = "cuda"
    ) -> None:
        super().__init__()
        self.limits = {True: limit, False: val_limit}
        self.fault = fault
        self.conv = nn.Conv2d(3, num_classes, 3, padding=1)

    def forward(self, image_NCHW: torch.Tensor) -> torch.Tensor:
        if len(image_NCHW) > self.limits[self.training]:
            Hungry.refused += 1
            match self.fault:
                case "cuda":
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
                case "host":
                    torch.empty(2**50)
                case "numpy":
                    np.empty(2**55)
        return self.conv(image_NCHW)


def weights_after(chosen: TrialConfig, data: PreparedData, folder: Path) -> dict[str, torch.Tensor]:
    for epoch in fit(chosen, data, device=CPU):
        epoch.save(folder)
    return checkpoint.load_model_tensors(folder)


@pytest.mark.parametrize("fault", ["cuda", "host", "numpy"])
def test_out_of_memory_halves_what_goes_through_at_once_and_learns_the_same(
    data: PreparedData, tmp_path: Path, fault: str
) -> None:
    loss = {"loss": "ce", "loss_kwargs": {"class_weight_power": 0.5}}
    whole = weights_after(config(**loss), data, tmp_path / "whole")
    hungry = config(model_kwargs={"limit": 3, "val_limit": 1, "fault": fault}, **loss)
    epochs = list(fit(hungry, data, device=CPU))
    epochs[-1].save(tmp_path / "parts")
    parts = checkpoint.load_model_tensors(tmp_path / "parts")
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-6)
    assert [epoch.micro_batch_size for epoch in epochs] == [2, 2]
    expected = list(fit(config(**loss), data, device=CPU))
    assert [e.micro_batch_size for e in expected] == [8, 8]
    for epoch, one in zip(epochs, expected, strict=True):
        assert epoch.train_loss == pytest.approx(one.train_loss, rel=1e-4)
        assert epoch.val_loss == pytest.approx(one.val_loss, rel=1e-4)
        assert epoch.scores.dice == pytest.approx(one.scores.dice, abs=1e-3)


def test_a_resumed_training_begins_with_what_fitted(data: PreparedData, tmp_path: Path) -> None:
    hungry = config(model_kwargs={"limit": 2}, max_epochs=3)
    Hungry.refused = 0
    whole = []
    for epoch in fit(hungry, data, device=CPU):
        whole.append(epoch.train_loss)
        if epoch.epoch == 1:
            epoch.save(tmp_path)
    assert Hungry.refused == 2  # at 8 and at 4 images
    assert checkpoint.load_info(tmp_path).micro_batch_size == 2
    resumed = list(fit(hungry, data, device=CPU, resume_from=tmp_path))
    assert Hungry.refused == 2
    assert [epoch.train_loss for epoch in resumed] == whole[1:]


def test_where_not_even_one_image_fits_the_reason_says_so(data: PreparedData) -> None:
    with pytest.raises(OutOfMemoryError, match=r"even at one image at a time.*CUDA out of memory"):
        next(fit(config(model_kwargs={"limit": 0}), data, device=CPU))
    with pytest.raises(OutOfMemoryError, match=r"even at one image at a time.*CUDA out of memory"):
        next(fit(config(model_kwargs={"val_limit": 0}), data, device=CPU))


class HungryPooled(Hungry):
    """With batch normalisation of one value per image and channel."""

    def __init__(self, num_classes: int, **settings: Any) -> None:
        super().__init__(num_classes, **settings)
        self.norm = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(num_classes))

    def forward(self, image_NCHW: torch.Tensor) -> torch.Tensor:
        logits_NKHW = super().forward(image_NCHW)
        return logits_NKHW + self.norm(logits_NKHW)


def test_batch_normalisation_of_a_lone_image_is_the_end_of_halving(data: PreparedData) -> None:
    hungry = config(architecture=f"{__name__}:HungryPooled", model_kwargs={"limit": 1})
    with pytest.raises(OutOfMemoryError, match="batch normalisation can't do with fewer"):
        next(fit(hungry, data, device=CPU))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def fail() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    batches = MicroBatches(8)
    with pytest.raises(RuntimeError, match="mat1"):
        batches.attempt(fail)
    assert batches.size == 8


def logits_and_mask() -> tuple[torch.Tensor, torch.Tensor]:
    """A batch whose images have very different numbers of labelled pixels, one none at all."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, 16, 16, generator=generator, dtype=torch.float64)
    mask = torch.randint(0, 3, (5, 16, 16), generator=generator)
    mask[1, 2:] = 255
    mask[2] = 255
    mask[3, :, 5:] = 2
    return logits.requires_grad_(), mask


@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        ("ce", {"class_weight_power": 0.7, "label_smoothing": 0.1}),
        ("focal", {"gamma": 1.5, "class_weight_power": 0.5}),
        ("dice_ce", {"region_share": 0.0, "class_weight_power": 1.0}),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_parts_of_a_pixel_loss_add_up_to_the_loss_of_the_batch(
    loss: str, settings: dict[str, float], size: int
) -> None:
    built = build_loss(config(loss=loss, loss_kwargs=settings), np.array([900, 90, 10]))
    logits, mask = logits_and_mask()
    whole = built(logits, mask)
    (gradient,) = torch.autograd.grad(whole, logits)
    batches = MicroBatches(5)
    batches.size = size
    parts = torch.stack([built(*part, mask) for part in batches.parts(logits, mask)]).sum()
    (of_parts,) = torch.autograd.grad(parts, logits)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(of_parts, gradient)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_a_batch_that_is_its_own_only_part_has_its_own_loss(loss: str) -> None:
    built = build_loss(config(loss=loss), np.array([900, 90, 10]))
    logits, mask = logits_and_mask()
    assert built(logits, mask, mask) == built(logits, mask)


def test_parts_of_a_region_loss_count_by_their_labelled_pixels() -> None:
    dice = LOSSES["dice"]()
    logits, mask = logits_and_mask()
    parts = [part_of_batch(dice, logits[n : n + 1], mask[n : n + 1], mask) for n in range(5)]
    labelled = [(mask[n] != 255).sum() / (mask != 255).sum() for n in range(5)]
    alone = [dice(logits[n : n + 1], mask[n : n + 1]) for n in range(5)]
    by_hand = sum(share * loss for share, loss in zip(labelled, alone, strict=True))
    torch.testing.assert_close(torch.stack(parts).sum(), by_hand)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
def test_a_real_cuda_device_that_is_full_takes_fewer_images_at_once() -> None:
    data = make_data(count=32, side_px=256)
    chosen = config(
        height_px=256, width_px=256, batch_size=16, max_epochs=1, optimizer="adamw",
        architecture="scratch_unet", model_kwargs={"base_channels": 32, "depth": 3},
    )  # fmt: skip
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    whole = next(fit(chosen, data, device=device))
    assert whole.micro_batch_size == 16
    share = 0.6 * torch.cuda.max_memory_reserved() / torch.cuda.mem_get_info()[1]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        parts = next(fit(chosen, data, device=device))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert parts.micro_batch_size in (2, 4, 8)
    assert parts.train_loss == pytest.approx(whole.train_loss, rel=0.1)


class NanAt(nn.Module):
    """Cross entropy, but for one step of the training, counted from 1."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.bad_step = step
        self.calls = -1  # the try on a small batch, before training, is call 0

    def forward(self, logits_NKHW: torch.Tensor, mask_NHW: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.cross_entropy(logits_NKHW, mask_NHW, ignore_index=255)
        self.calls += torch.is_grad_enabled()
        return loss * torch.nan if self.calls == self.bad_step else loss


@pytest.mark.parametrize(("step", "place"), [(5, "epoch 1, step 5"), (43, "epoch 2, step 3")])
def test_a_loss_that_is_not_finite_ends_the_training_soon_naming_the_first_bad_step(
    step: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[NanAt] = []
    monkeypatch.setattr(
        NanAt, "__init__", lambda self, step, init=NanAt.__init__: (init(self, step),
                                                                   built.append(self))[0]
    )  # fmt: skip
    data = make_data(count=160)  # 80 training images
    chosen = config(batch_size=2, loss=f"{__name__}:NanAt", loss_kwargs={"step": step})
    with pytest.raises(DivergedError, match=f"loss became nan in {place} of 40"):
        list(fit(chosen, data, device=CPU))
    assert max(loss.calls for loss in built) - step < 16


RESNET = {
    "architecture": "unet", "encoder": "resnet18", "model_kwargs": {}, "batch_size": 2,
    "encoder_lr_factor": 0.5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("builder", "ignored", "message"),
    [
        ("build_optimizer", {"weight_decay": 0.0}, "optimizer.weight_decay: sampled 0.03, built 0"),
        ("build_optimizer", {"lr": 1e-3}, "optimizer.lr: sampled 0.02, built 0.001"),
        ("build_optimizer", {"momentum": 0.5}, "optimizer.momentum: sampled 0.8, built 0.5"),
        ("build_optimizer", {"optimizer": "adam"}, "optimizer: sampled 'sgd', built 'adam'"),
        ("build_optimizer", {"encoder_lr_factor": 1.0}, "encoder_lr: sampled 0.01, built 0.02"),
        ("build_schedule", {"schedule": "constant"}, "schedule: sampled 'poly', built 'constant'"),
        ("build_schedule", {"warmup_epochs": 0.0}, "schedule.warmup_epochs: sampled 0.5, built 0"),
        ("build_schedule", {"max_epochs": 50}, "schedule.max_epochs: sampled 2, built 50"),
        ("build_average", {"ema_decay": 0.9}, "ema_decay: sampled 0.99, built 0.9"),
        ("build_average", {"ema_decay": None}, "ema_decay: sampled 0.99, built None"),
        ("_build", {"clip_norm": 5.0}, "clip_norm: sampled 0.5, built 5.0"),
        ("_build", {"clip_norm": None}, "clip_norm: sampled 0.5, built None"),
        (
            "build_network",
            {"encoder": "resnet34", "encoder_weights": None},
            "u-resnet18', built 'u-resnet34'",
        ),
        ("build_network", {"architecture": "linknet"}, "model.Unet', built '.*model.Linknet'"),
        ("build_network", {"model_kwargs": {}}, "network.parameters: sampled"),
        ("build_network", {"encoder_weights": None}, "encoder_weights: sampled True, built"),
        ("build_loss", {"loss": "ce", "loss_kwargs": {}}, "loss: sampled"),
        ("build_loss", {"loss_kwargs": {"smooth": 3.0}}, "region_share: sampled 0.3, built 0.5"),
        (
            "build_loss",
            {"loss_kwargs": {"smooth": 3.0, "region_share": 0.3}},
            "loss.pixel.weight_K: sampled",
        ),
        ("training_loader", {"batch_size": 1}, "loader.batch_size: sampled 2, built 1"),
        (
            "training_loader",
            {"oversample_ratio": 1.0},
            "loader.greatest_weight: sampled 4.0, built 1.0",
        ),
        ("training_loader", {"rare_crop_prob": 0.0}, "rare_crop_prob: sampled 0.2, built 0.0"),
        ("training_loader", {"seed": 0}, "loader.seed: sampled 7, built 0"),
        ("training_loader", {"augment_strength": 0.9}, "augment_strength: sampled 0.1, built 0.9"),
    ],
)
def test_a_builder_that_ignores_a_parameter_fails_the_training_before_its_first_step(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    builder: str, ignored: dict[str, Any], message: str,
) -> None:  # fmt: skip
    weights = tmp_path / "encoder.safetensors"
    encoder = build_network(config(**RESNET), 3).get_submodule("network.encoder")
    save_file(encoder.state_dict(), weights)
    sampled = config(
        **RESNET | {"model_kwargs": {"decoder_use_norm": False}},
        encoder_weights=str(weights), lr=0.02, weight_decay=0.03, momentum=0.8,
        schedule="poly", warmup_epochs=0.5, clip_norm=0.5, ema_decay=0.99,
        loss="dice_focal", oversample_ratio=4.0, rare_crop_prob=0.2, seed=7, augment_strength=0.1,
        loss_kwargs={"smooth": 3.0, "region_share": 0.3, "class_weight_power": 0.5},
    )  # fmt: skip
    honest = getattr(segcore.training.fit, builder)

    def build(*arguments: Any, **options: Any) -> Any:
        changed = [
            each.model_copy(update=ignored) if isinstance(each, TrialConfig) else each
            for each in arguments
        ]
        return honest(*changed, **options)

    monkeypatch.setattr(segcore.training.fit, builder, build)
    with pytest.raises(MismatchError, match=message):
        next(fit(sampled, data, device=CPU))


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_what_was_built_rightly_passes_and_has_a_hash_of_its_own(
    data: PreparedData, loss: str
) -> None:
    def built_hash(**changes: object) -> str:
        chosen = config(loss=loss, max_epochs=1, **changes)
        return next(fit(chosen, data, device=CPU)).built_hash

    assert built_hash() == built_hash()
    settings = ({"clip_norm": 1.0}, {"ema_decay": 0.9}, {"schedule": "poly"})
    assert len({built_hash(), *(built_hash(**each) for each in settings)}) == 4
    assert len({built_hash(optimizer=name) for name in ("adam", "adamw", "sgd")}) == 3


def test_the_hash_goes_into_the_checkpoint(data: PreparedData, tmp_path: Path) -> None:
    epoch = next(fit(config(), data, device=CPU))
    epoch.save(tmp_path)
    assert checkpoint.load_info(tmp_path).built_hash == epoch.built_hash


def test_all_parameters_learn_and_the_encoder_as_an_encoder(
    data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(chosen: TrialConfig, network: Any) -> torch.optim.Optimizer:
        optimizer = build_optimizer(chosen, network)
        optimizer.param_groups[-1]["params"].pop()
        return optimizer

    monkeypatch.setattr(segcore.training.fit, "build_optimizer", forgetful)
    with pytest.raises(MismatchError, match=r"optimizer\.parameters"):
        next(fit(config(), data, device=CPU))
