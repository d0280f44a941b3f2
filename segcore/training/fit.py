"""fit(): trains one configuration, epoch by epoch.

The caller iterates over the epochs, and decides what to report and keep and when to stop::

    for epoch in fit(config, data):
        print(epoch.epoch, epoch.scores.dice)
        epoch.save(Path("checkpoint"))
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segcore.config import IGNORE_INDEX, TrialConfig
from segcore.data.prepared import PreparedData
from segcore.devices import amp_dtype, autocast, choose_device
from segcore.errors import TrainingFailedError, UserError
from segcore.inference.blending import usual_batch_size
from segcore.networks.models import SegmentationNetwork, build_network
from segcore.scores.metrics import Scores
from segcore.training import checkpoint
from segcore.training.checkpoint import CheckpointInfo
from segcore.training.loading import Batch, to_device, training_batches, windows_per_epoch
from segcore.training.losses import build_loss
from segcore.training.microbatches import MicroBatches, naming_memory
from segcore.training.optim import (
    WeightAverage,
    build_optimizer,
    load_optimizer_tensors,
    lr_factor,
    optimizer_tensors,
    set_lr,
)
from segcore.training.validation import validate
from segcore.versions import versions

LOOK_EVERY_STEPS = 16
"""How often the losses are checked. Each check makes the device wait for the host."""


class DivergedError(TrainingFailedError):
    """The loss became NaN or infinite; ``str()`` says at which epoch and step."""


@dataclass(frozen=True)
class EpochResult:
    """What one epoch of training gave, scored on the validation split."""

    epoch: int
    """1-based."""
    finished: bool
    """Whether training is over: ``max_epochs`` or the end of ``patience_epochs`` is reached."""
    train_loss: float
    val_loss: float
    scores: Scores
    lr: float
    """The learning rate at the last step. The encoder's is ``encoder_lr_factor`` times it."""
    images_per_s: float
    """Training windows, without validation."""
    epoch_s: float
    """With validation."""
    val_s: float
    """Validation alone."""
    drawn_share_K: NDArray[np.float64]
    """Each class's share of the labelled pixels of the batches, after oversampling and crops."""
    micro_batch_size: int
    """Images that went through the network at once: fewer than ``batch_size`` if memory is short
    (``segcore.training.microbatches``)."""
    save: Callable[[Path], None] = field(repr=False)
    """Writes a checkpoint to a folder; call it before asking for the next epoch."""


def fit(
    config: TrialConfig,
    data: PreparedData,
    *,
    device: torch.device | None = None,
    resume_from: Path | None = None,
    weights_dir: Path | None = None,
    loader_workers: int = 0,
) -> Iterator[EpochResult]:
    """Train on the split "train" and score on "val" after each epoch; ``config.fold`` divides anew.

    ``device``: the fastest by default. ``resume_from``: a checkpoint of the same configuration. On
    a CPU, the epochs that follow have the same numbers as those of a run that was never
    interrupted. ``weights_dir`` holds pretrained encoders (``segcore.networks.weights``).
    Raises ``TrainingFailedError``: ``DivergedError`` soon after a step whose loss was not finite,
    ``OutOfMemoryError`` if not even one image at a time fits into memory. Raises ``UserError`` if
    data or checkpoint are not those of the configuration.
    """
    device = device or choose_device()
    with naming_memory():
        training = _Training(config, data.divided_for(config), device, weights_dir, loader_workers)
        if resume_from is not None:
            training.restore(resume_from)
    while not training.finished:
        with naming_memory():
            result = training.run_epoch()
        yield result


def time_steps(
    config: TrialConfig,
    data: PreparedData,
    *,
    device: torch.device,
    loader_workers: int = 0,
    steps: int = 3,
    loading: bool = True,
) -> float:
    """The duration of a training step in seconds: the mean of a few steps, after one to warm up.

    With ``loading`` False, each step gets the same batch, which is on the device already. The
    network has random weights, because a step takes equally long with any.
    """
    random = config.model_copy(update={"encoder_weights": None})
    training = _Training(random, data, device, None, loader_workers)
    batches = training.batches()
    first = next(batches)
    training.step(*first).item()  # item() waits for the device.
    started = time.perf_counter()
    for _ in range(steps):
        loss = training.step(*(next(batches) if loading else first))
    loss.item()
    return (time.perf_counter() - started) / steps


class _Training:
    """The state of one training run. ``restore`` reads what ``_save`` writes."""

    def __init__(
        self,
        config: TrialConfig,
        data: PreparedData,
        device: torch.device,
        weights_dir: Path | None,
        loader_workers: int,
    ) -> None:
        self._config, self._data, self._device = config, data, device
        on_cuda = device.type == "cuda"
        torch.manual_seed(config.seed)  # The network's random weights follow from the seed.
        # Tensor cores want channels_last. On a CPU it may be slower.
        memory_format = torch.channels_last if on_cuda else torch.preserve_format
        network = build_network(config, data.num_classes, data.bands, weights_dir=weights_dir)
        self._network = network.to(device, memory_format=memory_format)  # type: ignore[call-overload]
        self._optimizer = build_optimizer(config, self._network)
        self._average = (
            None if config.ema_decay is None else WeightAverage(self._network, config.ema_decay)
        )
        self._loss = build_loss(config, data.class_pixels("train")).to(device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype(device) is torch.float16)
        self._loader_workers = loader_workers
        self._windows = windows_per_epoch(data, config)
        self._micro_batches = MicroBatches(config.batch_size)
        # Validation needs less memory than training, so its batches are larger, and divided
        # separately.
        val_batch_size = max(config.batch_size, usual_batch_size(config.view, device))
        self._val_micro_batches = MicroBatches(val_batch_size)
        self._epoch = 0
        self._score_history: list[float] = []

    @property
    def finished(self) -> bool:
        if self._epoch >= self._config.max_epochs:
            return True
        patience_epochs = self._config.patience_epochs
        if patience_epochs is None or not self._score_history:
            return False
        best_epoch = int(np.argmax(self._score_history)) + 1
        return self._epoch - best_epoch >= patience_epochs

    def run_epoch(self) -> EpochResult:
        started = time.perf_counter()
        self._epoch += 1
        # Dropout draws from this seed, so that an epoch is the same in a resumed run. torch takes
        # no seed of more than 64 bits.
        torch.manual_seed((self._config.seed * 100_003 + self._epoch) % 2**63)
        train_loss, drawn_pixels_K = self._train_epoch()
        if self._average is not None:
            self._average.copy_buffers()
        train_s = time.perf_counter() - started
        scores, val_loss = validate(
            self._predicting_network,
            self._data,
            self._config,
            self._loss,
            self._device,
            self._val_micro_batches,
        )
        epoch_s = time.perf_counter() - started
        self._score_history.append(scores.metric(self._config.metric))
        return EpochResult(
            epoch=self._epoch,
            finished=self.finished,
            train_loss=train_loss,
            val_loss=val_loss,
            scores=scores,
            lr=self._optimizer.param_groups[-1]["lr"],
            images_per_s=self._windows / train_s,
            epoch_s=epoch_s,
            val_s=epoch_s - train_s,
            drawn_share_K=drawn_pixels_K / max(drawn_pixels_K.sum(), 1),
            micro_batch_size=self._micro_batches.size,
            save=self._save,
        )

    def restore(self, folder: Path) -> None:
        info = checkpoint.load_info(folder)
        if info.config != self._config:
            raise UserError(f"{folder}: a checkpoint of another configuration; start anew instead")
        if info.data_fingerprint != self._data.fingerprint:
            raise UserError(f"{folder}: a checkpoint of other data ({info.data_fingerprint[:12]})")
        tensors = checkpoint.load_training_tensors(folder)
        predicting = checkpoint.load_model_tensors(folder)
        if self._average is None:
            self._network.load_state_dict(predicting)
        else:
            self._average.network.load_state_dict(predicting)
            self._average.steps = int(tensors["average.count"])
            self._network.load_state_dict(_with_prefix(tensors, "network."))
        load_optimizer_tensors(self._optimizer, _with_prefix(tensors, "optimizer."))
        if self._scaler.is_enabled():
            state = {k: v.item() for k, v in _with_prefix(tensors, "scaler.").items()}
            self._scaler.load_state_dict(self._scaler.state_dict() | state)
        self._micro_batches.size = info.micro_batch_size or self._config.batch_size
        self._epoch = info.epoch
        self._score_history = list(info.score_history)

    def _save(self, folder: Path) -> None:
        tensors = {
            f"optimizer.{name}": tensor
            for name, tensor in optimizer_tensors(self._optimizer).items()
        }
        if self._average is not None:
            tensors["average.count"] = torch.tensor(self._average.steps)
            tensors |= {f"network.{k}": v for k, v in self._network.state_dict().items()}
        tensors |= {f"scaler.{k}": torch.tensor(v) for k, v in self._scaler.state_dict().items()}
        info = CheckpointInfo(
            config=self._config,
            epoch=self._epoch,
            score_history=tuple(self._score_history),
            class_names=self._data.class_names,
            class_colors=self._data.class_colors,
            data_fingerprint=self._data.fingerprint,
            versions=versions(),
            micro_batch_size=self._micro_batches.size,
            bands=self._data.bands,
        )
        checkpoint.save_checkpoint(folder, info, self._predicting_network.state_dict(), tensors)

    @property
    def _predicting_network(self) -> SegmentationNetwork:
        return self._network if self._average is None else self._average.network

    @cached_property
    def _host_batches(self) -> Iterator[Batch]:
        """Training batches from the epoch on that is the first to ask for them."""
        return training_batches(
            self._data,
            self._config,
            first_epoch=max(self._epoch, 1),
            workers=self._loader_workers,
            pin_memory=self._device.type == "cuda",
        )

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of training images and masks on the device, without end."""
        self._network.train()
        return (to_device(batch, self._device) for batch in self._host_batches)

    def _train_epoch(self) -> tuple[float, NDArray[np.int64]]:
        """One pass over the epoch's images; their mean loss, and the pixels of each class."""
        self._network.train()
        steps = self._windows // self._config.batch_size
        finite: list[torch.Tensor] = []
        unseen: list[torch.Tensor] = []
        # There is a bin for pixels to ignore, which is left out at the end.
        pixels = torch.zeros(IGNORE_INDEX + 1, dtype=torch.int64)
        for step, batch in enumerate(itertools.islice(self._host_batches, steps)):
            epochs_done = self._epoch - 1 + step / steps
            factor = lr_factor(self._config, epochs_done, self._score_history)
            set_lr(self._optimizer, factor)
            image_NCHW, mask_NHW = to_device(batch, self._device)
            unseen.append(self.step(image_NCHW, mask_NHW))
            # This runs on the host while the device works: on CUDA, bincount waits for the device.
            pixels += torch.bincount(batch[1].flatten(), minlength=IGNORE_INDEX + 1)
            if len(unseen) == LOOK_EVERY_STEPS or step + 1 == steps:
                finite.append(self._check_finite(unseen, step + 1, steps))
                unseen = []
        return float(torch.cat(finite).mean()), pixels[: self._data.num_classes].numpy()

    def _check_finite(self, losses: list[torch.Tensor], step: int, steps: int) -> torch.Tensor:
        """The losses (S) of the last steps up to ``step``, copied to the host."""
        losses_S = torch.stack(losses).cpu()
        bad = (~torch.isfinite(losses_S)).nonzero()
        if len(bad):
            first = int(bad[0])
            raise DivergedError(
                f"loss became {losses_S[first].item()} in epoch {self._epoch}, "
                f"step {step - len(losses) + first + 1} of {steps} (lr {self._config.lr:.2g})"
            )
        return losses_S

    def step(self, image_NCHW: torch.Tensor, mask_NHW: torch.Tensor) -> torch.Tensor:
        """Do one step of the optimizer; return the loss of its batch."""
        loss = self._micro_batches.attempt(partial(self._backward, image_NCHW, mask_NHW))
        if self._config.clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._config.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.step()
        return loss

    def _backward(self, image_NCHW: torch.Tensor, mask_NHW: torch.Tensor) -> torch.Tensor:
        """Compute the gradients of a batch, one micro-batch at a time; return its loss."""
        self._optimizer.zero_grad(set_to_none=True)
        losses = []
        for images, masks in self._micro_batches.parts(image_NCHW, mask_NHW):
            with autocast(self._device):
                logits_NKHW = self._network(images)
            loss: torch.Tensor = self._loss(logits_NKHW, masks, mask_NHW)
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            del logits_NKHW, loss  # They are large, and the next part needs the memory.
        return torch.stack(losses).sum()


def _with_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
