"""fit(): trains one configuration, an epoch at a time.

The caller iterates, and decides what to report, keep or stop::

    for epoch in fit(config, data):
        print(epoch.epoch, epoch.scores.dice)
        epoch.save(Path("checkpoint"))
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from segcore import checkpoint
from segcore.cache import PreparedData
from segcore.checkpoint import CheckpointInfo
from segcore.config import IGNORE_INDEX, TrialConfig
from segcore.errors import UserError
from segcore.loading import Batch, EpochSampler, plain_loader, training_loader
from segcore.losses import build_loss
from segcore.metrics import ScoreAccumulator, Scores
from segcore.models import SegmentationNetwork, build_network
from segcore.optim import build_optimizer, lr_factor, set_lr
from segcore.precision import amp_dtype, autocast
from segcore.versions import versions


class DivergedError(Exception):
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
    """Train on the split "train" and score on "val" after each epoch.

    ``device``: CUDA where there is one, by default. ``resume_from``: a checkpoint of the same
    configuration; on a CPU the epochs that follow have the same numbers as those of a run that was
    never interrupted. ``weights_dir`` holds pretrained encoders (``segcore.weights``).
    Raises ``DivergedError`` after an epoch in which the loss was not finite.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = _Training(config, data, device, weights_dir, loader_workers)
    if resume_from is not None:
        training.restore(resume_from)
    while not training.finished:
        yield training.run_epoch()


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
        torch.manual_seed(config.seed)
        self._config, self._data, self._device = config, data, device
        network = build_network(config, data.num_classes, weights_dir=weights_dir)
        if device.type == "cuda":
            # The layout that tensor cores want; on a CPU it may be slower.
            network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network: SegmentationNetwork = network
        self._average: AveragedModel | None = None
        if config.ema_decay is not None:
            self._average = AveragedModel(
                network,
                multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay),  # type: ignore[no-untyped-call]
            )
        self._optimizer = build_optimizer(config, network)
        self._scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype(device) is torch.float16)
        self._loss = build_loss(config, data.class_pixels("train")).to(device)
        pin_memory = device.type == "cuda"
        self._train_loader = training_loader(
            data, config, workers=loader_workers, pin_memory=pin_memory
        )
        self._val_loader = plain_loader(
            data,
            data.items("val"),
            batch_size=config.batch_size,
            workers=loader_workers,
            pin_memory=pin_memory,
        )
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
            self._predicting_network, self._val_loader, self._data, self._loss, self._device
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
        _load_optimizer_tensors(self._optimizer, _with_prefix(tensors, "optimizer."))
        if self._scaler.is_enabled():
            self._scaler.update(float(tensors["scaler.scale"]))
        self._epoch = info.epoch
        self._score_history = list(info.score_history)

    def _save(self, folder: Path) -> None:
        tensors = {
            f"optimizer.{name}": tensor
            for name, tensor in _optimizer_tensors(self._optimizer).items()
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
        losses = []
        # One bin more than there are values: pixels to ignore are counted, then left out.
        pixels = torch.zeros(IGNORE_INDEX + 1, dtype=torch.int64)
        for step, batch in enumerate(self._train_loader):
            epochs_done = self._epoch - 1 + step / steps
            set_lr(self._optimizer, lr_factor(self._config, epochs_done, self._score_history))
            image_NCHW, mask_NHW, _ = to_device(batch, self._device)
            losses.append(self._step(image_NCHW, mask_NHW))
            # On the host, while the device works: bincount on CUDA waits for it.
            pixels += torch.bincount(batch[1].flatten(), minlength=IGNORE_INDEX + 1)
        # Looked at once an epoch: each look would make the device wait for the host.
        losses_S = torch.stack(losses).cpu()
        if not bool(torch.isfinite(losses_S).all()):
            step = int((~torch.isfinite(losses_S)).nonzero()[0]) + 1
            raise DivergedError(
                f"loss became {losses_S[step - 1].item()} in epoch {self._epoch}, "
                f"step {step} of {steps} (lr {self._config.lr:.2g})"
            )
        return float(losses_S.mean()), pixels[: self._data.num_classes].numpy()

    def _step(self, image_NCHW: torch.Tensor, mask_NHW: torch.Tensor) -> torch.Tensor:
        with autocast(self._device):
            logits_NKHW = self._network(image_NCHW)
        loss: torch.Tensor = self._loss(logits_NKHW.float(), mask_NHW)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self._config.clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._config.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update_parameters(self._network)
        return loss.detach()


@torch.inference_mode()
def evaluate(
    network: SegmentationNetwork,
    loader: DataLoader[Batch],
    data: PreparedData,
    loss: torch.nn.Module,
    device: torch.device,
) -> tuple[Scores, float]:
    """Scores of a network over a loader of plain items, and the mean loss of its batches.

    Photographs are told apart by ``data.photo_M``, so that tiles of one count as one image.
    """
    network.eval()
    accumulator = ScoreAccumulator(data.num_classes, len(data.photos), device)
    photo_M = torch.from_numpy(np.array(data.photo_M, dtype=np.int64)).to(device)
    losses = []
    for batch in loader:
        image_NCHW, mask_NHW, item_N = to_device(batch, device)
        with autocast(device):
            logits_NKHW = network(image_NCHW)
        losses.append(loss(logits_NKHW.float(), mask_NHW))
        accumulator.update(logits_NKHW.argmax(dim=1), mask_NHW, photo_M[item_N])
    mean_loss = float(torch.stack(losses).mean()) if losses else math.nan
    return accumulator.scores(), mean_loss


def to_device(
    batch: Batch, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``image_NCHW`` uint8, ``mask_NHW`` int64 and ``item_N`` on the device, without waiting."""
    image_NCHW, mask_NHW, item_N = (tensor.to(device, non_blocking=True) for tensor in batch)
    if device.type == "cuda":
        image_NCHW = image_NCHW.contiguous(memory_format=torch.channels_last)
    return image_NCHW, mask_NHW.long(), item_N


def _with_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state by ``parameter index.name``; learning rates follow from the config."""
    return {
        f"{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None  # SGD without momentum keeps an empty place
    }


def _load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
