"""Training when memory runs out, when the loss explodes, and with the scaler of float16."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import segcore.devices
import segcore.training.fit
from segcore.config import TrialConfig
from segcore.data.prepared import PreparedData
from segcore.training import checkpoint
from segcore.training.fit import DivergedError, fit
from segcore.training.losses import LOSSES, build_loss, part_of_batch
from segcore.training.microbatches import MicroBatches, OutOfMemoryError
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
                case "cudnn":
                    raise RuntimeError("GET was unable to find an engine to execute this computat")
                case "metal":
                    raise RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB, other")
                case "host":
                    torch.empty(2**50)
                case "numpy":
                    np.empty(2**55)
        return self.conv(image_NCHW)


def weights_after(chosen: TrialConfig, data: PreparedData, folder: Path) -> dict[str, torch.Tensor]:
    for epoch in fit(chosen, data, device=CPU):
        epoch.save(folder)
    return checkpoint.load_model_tensors(folder)


@pytest.mark.parametrize("fault", ["cuda", "cudnn", "metal", "host", "numpy"])
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


class Loud(nn.Module):
    """A network whose gradients overflow in float16 until the loss is scaled by much less."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Conv2d(4, num_classes, 1)
        self.dropout = nn.Dropout(0.1)

    def forward(self, image_NCHW: torch.Tensor) -> torch.Tensor:
        logits_NKHW: torch.Tensor = self.last(300 * self.dropout(self.first(image_NCHW)))
        return logits_NKHW


@pytest.fixture
def half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training in float16, as on an older GPU; a CPU can do it too."""
    for module in (segcore.devices, segcore.training.fit):
        monkeypatch.setattr(module, "amp_dtype", lambda device: torch.float16)


LOUD = {"architecture": f"{__name__}:Loud", "batch_size": 2, "lr": 1e-4, "max_epochs": 4}


@pytest.mark.usefixtures("half_precision")
def test_the_scaler_of_float16_goes_on_where_it_was(data: PreparedData, tmp_path: Path) -> None:
    whole = []
    for epoch in fit(config(**LOUD), data, device=CPU):
        whole.append((epoch.train_loss, epoch.val_loss))
        epoch.save(tmp_path / str(epoch.epoch))
    halfway = checkpoint.load_training_tensors(tmp_path / "2")
    assert 0 < halfway["scaler.scale"] < 65536  # torch's scale at the beginning: it was too large
    assert halfway["scaler._growth_tracker"] > 0

    resumed = fit(config(**LOUD), data, device=CPU, resume_from=tmp_path / "2")
    numbers = []
    for epoch in resumed:
        numbers.append((epoch.train_loss, epoch.val_loss))
        epoch.save(tmp_path / "resumed")
    assert numbers == whole[2:]
    for load in (checkpoint.load_model_tensors, checkpoint.load_training_tensors):
        then, now = load(tmp_path / "4"), load(tmp_path / "resumed")
        assert then.keys() == now.keys()
        assert all(torch.equal(then[name], now[name]) for name in then)


@pytest.mark.usefixtures("half_precision")
def test_a_checkpoint_with_the_scale_alone_is_resumed_with_it(
    data: PreparedData, tmp_path: Path
) -> None:
    """Older versions kept no more of the scaler."""
    epoch = next(fit(config(**LOUD), data, device=CPU))
    epoch.save(tmp_path)
    kept = checkpoint.load_training_tensors(tmp_path)
    kept = {name: value for name, value in kept.items() if not name.startswith("scaler.")}
    kept["scaler.scale"] = torch.tensor(2.0)
    info, model = checkpoint.load_info(tmp_path), checkpoint.load_model_tensors(tmp_path)
    checkpoint.save_checkpoint(tmp_path, info, model, kept)
    next(fit(config(**LOUD), data, device=CPU, resume_from=tmp_path)).save(tmp_path / "next")
    assert checkpoint.load_training_tensors(tmp_path / "next")["scaler.scale"] == 2.0


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no Metal device is here")
def test_a_real_metal_device_trains_as_a_cpu_does(data: PreparedData) -> None:
    chosen = config(optimizer="adamw", max_epochs=1)
    metal, cpu = (
        next(fit(chosen, data, device=torch.device(name))).train_loss for name in ("mps", "cpu")
    )
    assert metal == pytest.approx(cpu, rel=1e-3)
