"""What the cluster's workers do for an ensemble: predict a trial, score a mixture, make a soup.

Workers write nothing to disk. The answer for a trial is small enough to be sent: its scores, its
probabilities at the pixels that were asked for, and its classes on a few items for pictures. The
answers for mixtures and soups are scores only.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.runs.storage import NodeCopy
from search.trials.worker import StoredCheckpoint, prepare_process
from segcore.choosing.pool import WHOLE, ProbsNK, split_positions
from segcore.choosing.soup import average_weights, greedy_soup, mend_normalisation
from segcore.config import MetricName
from segcore.data.prepared import PreparedData, open_prepared
from segcore.data.splits import Split
from segcore.predicting.ensemble import Ensemble, disagreement
from segcore.scores.metrics import Scores
from segcore.training import checkpoint
from segcore.training.checkpoint import StateDict
from segcore.training.loading import Batch, plain_loader
from segcore.training.scoring import score_items

BATCH_SIZE = 4
NORMALISATION_IMAGES = 64
"""Training images from which the batch normalisation of a soup learns its statistics."""


@dataclass(frozen=True)
class Workplace:
    """What all tasks of an ensemble have in common."""

    data: NodeCopy
    cpus: int
    gpus: float

    def open(self, network: StoredCheckpoint) -> tuple[PreparedData, torch.device]:
        """On a worker: the data as that network's training divided them, and the device."""
        data = open_prepared(self.data.folder()).divided_for(network.info.config)
        return data, prepare_process(self.cpus, self.gpus)


@dataclass(frozen=True)
class TrialPrediction:
    """What a trial's networks say of the validation split."""

    scores: Scores
    class_HW: dict[int, NDArray[np.uint8]]
    """Of those items that are to be shown and that lie in the split, by item."""
    latency_s: float
    """The time that all of the trial's networks take for one item."""

    @classmethod
    def joined(cls, parts: Sequence["TrialPrediction"]) -> "TrialPrediction":
        """One for all folds, each of which another network of the trial predicted."""
        return cls(
            Scores.joined([part.scores for part in parts]),
            {item: class_HW for part in parts for item, class_HW in part.class_HW.items()},
            sum(part.latency_s for part in parts),
        )


@dataclass(frozen=True)
class Soup:
    """The best mean of some trials' weights."""

    kept: tuple[int, ...]
    """Positions among the ingredients. Only one: no mean was better than the best of them."""
    val: Scores
    test: Scores


def predict_trial(
    stored: StoredCheckpoint,
    place: Workplace,
    position_N: NDArray[np.int64],
    shown_items: Sequence[int],
) -> tuple[TrialPrediction, ProbsNK]:
    """Predict the validation split with one network.

    ``position_N`` names the pixels whose probabilities are wanted, ascending: it counts the pixels
    of the split's items, one item after the other.
    """
    data, device = place.open(stored)
    items_M = data.items("val")
    of_item = split_positions(position_N, [data.masks_MHW[0].size] * len(items_M))
    wanted = dict(zip(items_M.tolist(), of_item, strict=True))
    probs, shown, seconds = [], {}, []
    with _loaded([(stored, 1.0)], device) as network:

        def predict(batch: Batch) -> Tensor:
            image_NCHW, _, item_N = batch
            started = time.perf_counter()
            probs_NKHW = network.batch_probs(image_NCHW)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append((time.perf_counter() - started) / len(image_NCHW))
            class_NHW = probs_NKHW.argmax(dim=1)
            for i, item in enumerate(item_N.tolist()):
                here = torch.from_numpy(wanted[item]).to(device)
                whole_NK = (probs_NKHW[i].flatten(1)[:, here].T * WHOLE).round().int()
                probs.append(whole_NK.cpu().numpy().astype(np.uint16))
                if item in shown_items:
                    shown[item] = class_NHW[i].cpu().numpy().astype(np.uint8)
            return class_NHW

        scores = _score(predict, data, "val", device)
    return TrialPrediction(scores, shown, float(np.median(seconds))), np.concatenate(probs)


def score_mixture(
    weighted: Sequence[tuple[StoredCheckpoint, float]], place: Workplace, split: Split
) -> tuple[Scores, NDArray[np.float64]]:
    """Score the weighted mean of networks' probabilities on a split, whose photographs (P) follow.

    Also gives ``uncertainty_P``, 0 to 1: the mean of ``disagreement`` over each photograph. All
    networks must have the same "val" split.
    """
    data, device = place.open(weighted[0][0])
    doubts = []
    with _loaded(weighted, device) as ensemble:

        def predict(batch: Batch) -> Tensor:
            probs_NKHW = ensemble.batch_probs(batch[0])
            # In double precision, which Metal lacks.
            doubt_NHW = disagreement(probs_NKHW, class_dim=1).cpu().double()
            doubts.append(doubt_NHW.mean(dim=(1, 2)).numpy())
            return probs_NKHW.argmax(dim=1)

        scores = _score(predict, data, split, device)
    _, photo_of_item_M = np.unique(data.photo_M[data.items(split)], return_inverse=True)
    sum_P = np.bincount(photo_of_item_M, np.concatenate(doubts))
    return scores, sum_P / np.bincount(photo_of_item_M)


def make_soup(
    ingredients: Sequence[StoredCheckpoint], place: Workplace, metric: MetricName
) -> Soup:
    """Average the weights of trials of one network, which come best first (``greedy_soup``)."""
    data, device = place.open(ingredients[0])
    with _local(ingredients) as folders, _loaded([(ingredients[0], 1.0)], device) as soup:
        tensors = [checkpoint.load_model_tensors(folder) for folder in folders]
        network = soup.members[0][0]

        def fill(state: StateDict) -> None:
            network.load_state_dict(state)
            mend_normalisation(network, _training_batches(data), device)

        def score(split: Split) -> Scores:
            return _score(
                lambda batch: soup.batch_probs(batch[0]).argmax(dim=1), data, split, device
            )

        def try_out(state: StateDict) -> float:
            fill(state)
            return score("val").metric(metric)

        kept = greedy_soup(tensors, try_out)
        fill(average_weights([tensors[i] for i in kept]))
        return Soup(kept, score("val"), score("test"))


def _training_batches(data: PreparedData) -> Iterator[Tensor]:
    items_M = data.items("train")
    rng = np.random.default_rng(0)
    drawn_M = rng.choice(items_M, min(len(items_M), NORMALISATION_IMAGES), replace=False)
    loader = plain_loader(data, drawn_M, batch_size=BATCH_SIZE, workers=0, pin_memory=False)
    return (image_NCHW for image_NCHW, _, _ in loader if len(image_NCHW) > 1)


def _score(
    predict: Callable[[Batch], Tensor], data: PreparedData, split: Split, device: torch.device
) -> Scores:
    items_M = data.items(split)
    loader = plain_loader(data, items_M, batch_size=BATCH_SIZE, workers=0, pin_memory=False)
    return score_items(predict, loader, data, device)


@contextmanager
def _local(stored: Sequence[StoredCheckpoint]) -> Iterator[list[Path]]:
    """The checkpoints on this machine, during a block."""
    with tempfile.TemporaryDirectory() as folder:
        yield [one.local(Path(folder) / str(i)) for i, one in enumerate(stored)]


@contextmanager
def _loaded(
    weighted: Sequence[tuple[StoredCheckpoint, float]], device: torch.device
) -> Iterator[Ensemble]:
    """The networks with their weights, during a block."""
    with _local([stored for stored, _ in weighted]) as folders:
        pairs = [(folder, weight) for folder, (_, weight) in zip(folders, weighted, strict=True)]
        # Plug-ins are allowed: they are the user's own, and the driver has run them already.
        yield Ensemble.of_checkpoints(pairs, device, allow_plugins=True)
