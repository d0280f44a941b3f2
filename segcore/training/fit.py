"""fit(): trains one configuration, an epoch at a time.

The caller iterates, and decides what to report, keep or stop::

    for epoch in fit(config, data):
        print(epoch.epoch, epoch.scores.dice)
        epoch.save(Path("checkpoint"))
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segcore.config import IGNORE_INDEX, TrialConfig
from segcore.data.prepared import PreparedData
from segcore.devices import amp_dtype, autocast
from segcore.errors import TrainingFailedError, UserError
from segcore.networks.models import SegmentationNetwork, build_network
from segcore.networks.weights import encoder_weights_file
from segcore.scores.metrics import Scores
from segcore.training import checkpoint
from segcore.training.checkpoint import CheckpointInfo
from segcore.training.loading import EpochSampler, plain_loader, to_device, training_loader
from segcore.training.losses import build_loss
from segcore.training.microbatches import MicroBatches, naming_memory
from segcore.training.optim import (
    build_average,
    build_optimizer,
    build_schedule,
    load_optimizer_tensors,
    optimizer_tensors,
    set_lr,
)
from segcore.training.readback import Built, check_built
from segcore.training.scoring import evaluate
from segcore.versions import versions

LOOK_EVERY_STEPS = 16
"""How often the losses are looked at: each look makes the device wait for the host."""


class DivergedError(TrainingFailedError):
    """The loss became NaN or infinite; ``str()`` says at which epoch and step."""


@dataclass(frozen=True)
class EpochResult:
    """What one epoch of training gave, scored on the validation split."""

    epoch: int
    """1-based."""
    finished: bool
    """Whether this was the last one: ``max_epochs`` reached, or ``patience_epochs`` run out."""
    train_loss: float
    val_loss: float
    scores: Scores
    lr: float
    """Of the network's new part at the epoch's last step; the encoder's is ``encoder_lr_factor``
    times that."""
    images_per_s: float
    """Training images, without validation."""
    epoch_s: float
    """With validation."""
    drawn_share_K: NDArray[np.float64]
    """Each class's share of the labelled pixels that training really got."""
    micro_batch_size: int
    """Images that went through the network at once: less than ``batch_size`` where memory is short
    (``segcore.training.fit.microbatches``)."""
    built_hash: str
    """Of what network, optimizer, loss and loader really hold (``segcore.training.readback``)."""
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

    ``device``: CUDA where there is one, by default. ``resume_from``: a checkpoint of the same
    configuration; on a CPU the epochs that follow have the same numbers as those of a run that was
    never interrupted. ``weights_dir`` holds pretrained encoders (``segcore.networks.weights``).
    Raises ``TrainingFailedError``: ``DivergedError`` soon after a step whose loss was not finite,
    ``OutOfMemoryError`` where not even one image at a time fits into memory, ``MismatchError``
    before the first step where something was built otherwise than the configuration says.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with naming_memory():
        divided = data.divided_for(config)
        training = _Training(config, divided, device, weights_dir, loader_workers)
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
    """Seconds of one training step, the mean of a few after one to warm up.

    ``loading`` False: the same batch again and again, already on the device. From random weights:
    a step takes as long with any.
    """
    random = config.model_copy(update={"encoder_weights": None})
    return _Training(random, data, device, None, loader_workers).time_steps(steps, loading)


def _build(
    config: TrialConfig,
    data: PreparedData,
    device: torch.device,
    weights_dir: Path | None,
    loader_workers: int,
) -> Built:
    """What learns, how, and from what; random weights follow from the seed."""
    torch.manual_seed(config.seed)
    network = build_network(config, data.num_classes, weights_dir=weights_dir)
    if device.type == "cuda":
        # The layout that tensor cores want; on a CPU it may be slower.
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Built(
        network=network,
        weights_file=encoder_weights_file(config, weights_dir),
        optimizer=build_optimizer(config, network),
        schedule=build_schedule(config),
        clip_norm=config.clip_norm,
        average=build_average(config, network),
        loss=build_loss(config, data.class_pixels("train")).to(device),
        loader=training_loader(
            data, config, workers=loader_workers, pin_memory=device.type == "cuda"
        ),
        data=data,
    )


class _Training:
    """The state of one training run; ``restore`` and ``_save`` are each other's inverse."""

    def __init__(
        self,
        config: TrialConfig,
        data: PreparedData,
        device: torch.device,
        weights_dir: Path | None,
        loader_workers: int,
    ) -> None:
        self._config, self._data, self._device = config, data, device
        built = _build(config, data, device, weights_dir, loader_workers)
        self._built_hash = check_built(config, built)
        self._network, self._optimizer = built.network, built.optimizer
        self._loss, self._train_loader = built.loss, built.loader
        self._schedule, self._clip_norm = built.schedule, built.clip_norm
        self._average = built.average
        self._scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype(device) is torch.float16)
        self._val_loader = plain_loader(
            data,
            data.items("val"),
            batch_size=config.batch_size,
            workers=loader_workers,
            pin_memory=device.type == "cuda",
        )
        self._micro_batches = MicroBatches(config.batch_size)
        # Validation needs less memory than training, so it gets a size of its own.
        self._val_micro_batches = MicroBatches(config.batch_size)
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
        # Dropout draws from here, so that an epoch's numbers don't depend on where a run resumed.
        torch.manual_seed(self._config.seed * 100_003 + self._epoch)
        train_loss, drawn_pixels_K = self._train_epoch()
        train_s = time.perf_counter() - started
        scores, val_loss = evaluate(
            self._predicting_network,
            self._val_loader,
            self._data,
            self._loss,
            self._device,
            self._val_micro_batches,
        )
        self._score_history.append(scores.metric(self._config.metric))
        return EpochResult(
            epoch=self._epoch,
            finished=self.finished,
            train_loss=train_loss,
            val_loss=val_loss,
            scores=scores,
            lr=self._optimizer.param_groups[-1]["lr"],
            images_per_s=len(self._sampler) / train_s,
            epoch_s=time.perf_counter() - started,
            drawn_share_K=drawn_pixels_K / max(drawn_pixels_K.sum(), 1),
            micro_batch_size=self._micro_batches.size,
            built_hash=self._built_hash,
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
            self._average.module.load_state_dict(predicting)
            self._average.n_averaged.copy_(tensors["average.count"])
            self._network.load_state_dict(_with_prefix(tensors, "network."))
        load_optimizer_tensors(self._optimizer, _with_prefix(tensors, "optimizer."))
        if self._scaler.is_enabled():
            self._scaler.update(float(tensors["scaler.scale"]))
        self._micro_batches.size = info.micro_batch_size or self._config.batch_size
        self._epoch = info.epoch
        self._score_history = list(info.score_history)

    def _save(self, folder: Path) -> None:
        tensors = {
            f"optimizer.{name}": tensor
            for name, tensor in optimizer_tensors(self._optimizer).items()
        }
        if self._average is not None:
            tensors["average.count"] = self._average.n_averaged
            tensors |= {f"network.{k}": v for k, v in self._network.state_dict().items()}
        if self._scaler.is_enabled():
            tensors["scaler.scale"] = torch.tensor(self._scaler.get_scale())
        info = CheckpointInfo(
            config=self._config,
            epoch=self._epoch,
            score_history=tuple(self._score_history),
            class_names=self._data.class_names,
            class_colors=self._data.class_colors,
            data_fingerprint=self._data.fingerprint,
            versions=versions(),
            micro_batch_size=self._micro_batches.size,
            built_hash=self._built_hash,
        )
        checkpoint.save_checkpoint(folder, info, self._predicting_network.state_dict(), tensors)

    @property
    def _predicting_network(self) -> SegmentationNetwork:
        network = self._network if self._average is None else self._average.module
        assert isinstance(network, SegmentationNetwork)  # for the type checker: torch says Module
        return network

    @property
    def _sampler(self) -> EpochSampler:
        sampler = self._train_loader.sampler
        assert isinstance(sampler, EpochSampler)  # for the type checker
        return sampler

    def time_steps(self, steps: int, loading: bool) -> float:
        self._network.train()
        batches = itertools.chain.from_iterable(itertools.repeat(self._train_loader))
        first = to_device(next(batches), self._device)
        self._step(*first[:2]).item()  # .item() waits for the device
        started = time.perf_counter()
        for _ in range(steps):
            image_NCHW, mask_NHW, _ = to_device(next(batches), self._device) if loading else first
            loss = self._step(image_NCHW, mask_NHW)
        loss.item()
        return (time.perf_counter() - started) / steps

    def _train_epoch(self) -> tuple[float, NDArray[np.int64]]:
        """One pass over the epoch's draws: the mean loss, and the pixels of each class."""
        self._network.train()
        self._sampler.epoch = self._epoch
        steps = len(self._train_loader)
        finite: list[torch.Tensor] = []
        unseen: list[torch.Tensor] = []
        # One bin more than there are values: pixels to ignore are counted, then left out.
        pixels = torch.zeros(IGNORE_INDEX + 1, dtype=torch.int64)
        for step, batch in enumerate(self._train_loader):
            epochs_done = self._epoch - 1 + step / steps
            set_lr(self._optimizer, self._schedule.factor(epochs_done, self._score_history))
            image_NCHW, mask_NHW, _ = to_device(batch, self._device)
            unseen.append(self._step(image_NCHW, mask_NHW))
            # On the host, while the device works: bincount on CUDA waits for it.
            pixels += torch.bincount(batch[1].flatten(), minlength=IGNORE_INDEX + 1)
            if len(unseen) == LOOK_EVERY_STEPS or step + 1 == steps:
                finite.append(self._check_finite(unseen, step + 1, steps))
                unseen = []
        return float(torch.cat(finite).mean()), pixels[: self._data.num_classes].numpy()

    def _check_finite(self, losses: list[torch.Tensor], step: int, steps: int) -> torch.Tensor:
        """The losses (S) of the last steps up to ``step``, on the host."""
        losses_S = torch.stack(losses).cpu()
        bad = (~torch.isfinite(losses_S)).nonzero()
        if len(bad):
            first = int(bad[0])
            raise DivergedError(
                f"loss became {losses_S[first].item()} in epoch {self._epoch}, "
                f"step {step - len(losses) + first + 1} of {steps} (lr {self._config.lr:.2g})"
            )
        return losses_S

    def _step(self, image_NCHW: torch.Tensor, mask_NHW: torch.Tensor) -> torch.Tensor:
        """One step of the optimizer; the loss of its batch."""
        loss = self._micro_batches.attempt(partial(self._backward, image_NCHW, mask_NHW))
        if self._clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update_parameters(self._network)
        return loss

    def _backward(self, image_NCHW: torch.Tensor, mask_NHW: torch.Tensor) -> torch.Tensor:
        """Gradients of a batch, a micro-batch at a time; its loss."""
        self._optimizer.zero_grad(set_to_none=True)
        losses = []
        for images, masks in self._micro_batches.parts(image_NCHW, mask_NHW):
            with autocast(self._device):
                logits_NKHW = self._network(images)
            loss: torch.Tensor = self._loss(logits_NKHW.float(), masks, mask_NHW)
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            del logits_NKHW, loss  # large: not to be held while the next part is computed
        return torch.stack(losses).sum()


def _with_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
