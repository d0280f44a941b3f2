"""fit(): it learns, it resumes to the same numbers, and it stops with a reason."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from segcore.config import TrialConfig
from segcore.data.prepared import PreparedData
from segcore.errors import UserError
from segcore.networks.models import build_network
from segcore.predicting.ensemble import load_network
from segcore.training import checkpoint
from segcore.training.fit import DivergedError, EpochResult, fit
from segcore.training.optim import lr_factor

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def config(**values: object) -> TrialConfig:
    small = {
        "height_px": 48, "width_px": 48, "architecture": "scratch_unet", "encoder": None,
        "model_kwargs": {"base_channels": 6, "depth": 2}, "batch_size": 4, "max_epochs": 4,
        "lr": 1e-2, "augment_strength": 0.2,
    }  # fmt: skip
    return TrialConfig.from_dict(small | values)


def numbers(epochs: list[EpochResult]) -> list[tuple[float, float, float]]:
    return [(e.train_loss, e.val_loss, e.scores.dice) for e in epochs]


def test_training_learns_the_blocks(data: PreparedData) -> None:
    epochs = list(fit(config(max_epochs=20, augmentation="none"), data, device=CPU))
    assert [e.epoch for e in epochs] == list(range(1, 21))
    assert [e.finished for e in epochs] == [False] * 19 + [True]
    assert epochs[-1].train_loss < 0.5 * epochs[0].train_loss
    assert epochs[-1].scores.class_iou_K[1] > 0.8


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ema_decay": 0.9, "optimizer": "sgd", "schedule": "plateau"},
        {"optimizer": "adam", "schedule": "poly", "warmup_epochs": 1.5, "clip_norm": 0.5,
         "oversample_ratio": 3.0, "rare_crop_prob": 0.5},
    ],
)  # fmt: skip
def test_a_resumed_run_has_the_numbers_of_an_uninterrupted_one(
    data: PreparedData, tmp_path: Path, settings: dict[str, object]
) -> None:
    chosen = config(**settings)
    whole = []
    for epoch in fit(chosen, data, device=CPU):
        whole.append(epoch)
        if epoch.epoch == 2:
            epoch.save(tmp_path)
    resumed = list(fit(chosen, data, device=CPU, resume_from=tmp_path))
    assert numbers(resumed) == numbers(whole[2:])


class Tied(nn.Module):
    """A network of somebody's own, whose two heads are one."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = self.other = nn.Conv2d(3, num_classes, 1)

    def forward(self, image_NCHW: torch.Tensor) -> torch.Tensor:
        logits_NKHW: torch.Tensor = self.head(image_NCHW) + self.other(-image_NCHW)
        return logits_NKHW


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_network_whose_layers_share_weights_is_resumed(
    data: PreparedData, tmp_path: Path, ema_decay: float | None
) -> None:
    own = {"architecture": f"{__name__}:Tied", "model_kwargs": {}, "ema_decay": ema_decay}
    whole = []
    for epoch in fit(config(**own), data, device=CPU):
        whole.append(epoch)
        if epoch.epoch == 2:
            epoch.save(tmp_path)
    resumed = list(fit(config(**own), data, device=CPU, resume_from=tmp_path))
    assert numbers(resumed) == numbers(whole[2:])


def test_a_run_is_a_function_of_its_seed(data: PreparedData) -> None:
    first, again, other = (
        numbers(list(fit(config(max_epochs=1, seed=seed), data, device=CPU))) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_seed_may_be_as_large_as_a_search_makes_it(data: PreparedData) -> None:
    """A search multiplies its own seed by a million, so that no two searches share a trial's."""
    seed = (2**32 - 1) * 1_000_000
    assert next(fit(config(max_epochs=1, seed=seed), data, device=CPU)).finished


def test_early_stopping_waits_its_patience_after_the_best_epoch(data: PreparedData) -> None:
    # So small a rate changes no weight; scores settle with batch normalisation's averages.
    epochs = list(fit(config(max_epochs=200, patience_epochs=3, lr=1e-12), data, device=CPU))
    scores = [epoch.scores.dice for epoch in epochs]
    assert len(epochs) - (int(np.argmax(scores)) + 1) == 3
    assert [epoch.finished for epoch in epochs] == [False] * (len(epochs) - 1) + [True]
    assert len(epochs) < 200


def test_a_loss_that_explodes_ends_the_run_with_epoch_and_step(data: PreparedData) -> None:
    chosen = config(optimizer="sgd", lr=1e30, schedule="constant")
    with pytest.raises(DivergedError, match=r"loss became nan in epoch 1, step 2 of 2"):
        list(fit(chosen, data, device=CPU))


def test_the_pixels_that_training_really_got_are_recorded(data: PreparedData) -> None:
    def drawn(prob: float) -> np.ndarray:
        return next(fit(config(rare_crop_prob=prob), data, device=CPU)).drawn_share_K

    assert drawn(0.0).sum() == pytest.approx(1)
    assert drawn(1.0)[2] > 2 * drawn(0.0)[2]


def test_a_checkpoint_predicts_as_the_network_did(data: PreparedData, tmp_path: Path) -> None:
    for epoch in fit(config(ema_decay=0.8, max_epochs=2), data, device=CPU):
        epoch.save(tmp_path)
    network = load_network(tmp_path, CPU)
    photos = data.of_split("val")
    images, masks = (np.stack([of(p) for p in photos]) for of in (data.image, data.mask))
    image_NCHW = torch.from_numpy(images).permute(0, 3, 1, 2)
    with torch.inference_mode():
        predicted_NHW = network(image_NCHW).argmax(dim=1).numpy()
    labelled = masks != 255
    right = (predicted_NHW == masks)[labelled].mean()
    assert right == pytest.approx(epoch.scores.pixel_accuracy, abs=1e-6)


STEP_AN_EPOCH = {
    "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "lr": 0.1,
    "batch_size": 8, "max_epochs": 2,
}  # fmt: skip


def test_a_step_is_as_long_as_the_clipped_gradient(data: PreparedData, tmp_path: Path) -> None:
    chosen = config(**STEP_AN_EPOCH, clip_norm=1e-3)
    next(fit(chosen, data, device=CPU)).save(tmp_path)
    torch.manual_seed(chosen.seed)
    start = dict(build_network(chosen, data.num_classes).named_parameters())
    end = checkpoint.load_model_tensors(tmp_path)
    step = torch.cat([(end[name] - start[name]).flatten() for name in start])
    assert step.norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_the_average_moves_by_its_decay(data: PreparedData, tmp_path: Path) -> None:
    raw, average = [], []
    for epoch in fit(config(**STEP_AN_EPOCH, ema_decay=0.75), data, device=CPU):
        epoch.save(tmp_path)
        raw.append(checkpoint.load_training_tensors(tmp_path))
        average.append(checkpoint.load_model_tensors(tmp_path))
    for name, tensor in average[1].items():
        if tensor.is_floating_point() and "running" not in name:
            # After one step the decay is 2/11, not yet 0.75.
            first, second = (tensors[f"network.{name}"] for tensors in raw)
            expected = 2 / 11 * first + 9 / 11 * second
            torch.testing.assert_close(tensor, expected)


def test_a_checkpoint_of_another_configuration_is_refused(
    data: PreparedData, tmp_path: Path
) -> None:
    next(fit(config(), data, device=CPU)).save(tmp_path)
    with pytest.raises(UserError, match="another configuration"):
        next(fit(config(lr=0.5), data, device=CPU, resume_from=tmp_path))


@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.TRAINING, checkpoint.MANIFEST])
def test_a_checkpoint_cut_off_anywhere_is_seen_as_incomplete(
    data: PreparedData, tmp_path: Path, name: str
) -> None:
    next(fit(config(), data, device=CPU)).save(tmp_path)
    assert checkpoint.load_info(tmp_path).epoch == 1
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-20])
    with pytest.raises(UserError, match=r"checkpoint|cut off"):
        checkpoint.load_info(tmp_path)


@pytest.mark.parametrize(
    ("schedule", "at_start", "at_middle", "at_end"),
    [("constant", 1, 1, 1), ("cosine", 1, 0.505, 0.01), ("poly", 1, 0.5405, 0.01)],
)
def test_schedules_by_hand(schedule: str, at_start: float, at_middle: float, at_end: float) -> None:
    chosen = config(schedule=schedule, max_epochs=10)
    found = [lr_factor(chosen, epochs, []) for epochs in (0.0, 5.0, 10.0)]
    assert found == pytest.approx([at_start, at_middle, at_end], abs=1e-3)


def test_warm_up_rises_to_the_full_rate_before_the_schedule_begins() -> None:
    chosen = config(schedule="cosine", max_epochs=12, warmup_epochs=2.0)
    rising = [lr_factor(chosen, epochs, []) for epochs in (0.0, 1.0, 2.0, 7.0)]
    assert rising == pytest.approx([0.01, 0.5, 1.0, 0.505])


def test_a_plateau_halves_the_rate_after_its_patience() -> None:
    chosen = config(schedule="plateau", max_epochs=20)  # patience: 2 epochs

    def factor(history: list[float]) -> float:
        return lr_factor(chosen, float(len(history)), history)

    assert factor([0.1, 0.2, 0.3]) == 1
    assert factor([0.3, 0.2]) == 1
    assert factor([0.3, 0.2, 0.3]) == 0.5
    assert factor([0.3, 0.2, 0.3, 0.1, 0.1]) == 0.25
