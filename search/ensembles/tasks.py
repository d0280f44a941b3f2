"""What workers do for an ensemble: predict a candidate, score a mixture, make a soup.

Nothing is written to disk. A candidate's answer is its scores, its probabilities at the pixels that
were asked for, and its classes on a few items for pictures; mixtures answer with scores only.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from search.runs.storage import NodeCopy
from search.trials.worker import StoredCheckpoint, prepare_process
from segcore.choosing.pool import WHOLE, ProbsNK
from segcore.choosing.soup import average_weights, greedy_soup, mend_normalisation
from segcore.config import MetricName
from segcore.data.prepared import PreparedData, open_prepared
from segcore.data.splits import Split
from segcore.networks.models import SegmentationNetwork
from segcore.predicting.ensemble import disagreement, load_network, weighted_mean
from segcore.predicting.inference import batch_probs
from segcore.scores.metrics import ScoreAccumulator, Scores
from segcore.training import checkpoint
from segcore.training.checkpoint import StateDict
from segcore.training.loading import plain_loader

BATCH_SIZE = 4
NORMALISATION_IMAGES = 64
"""Training images from which a soup's batch normalisation learns."""

Networks = Sequence[tuple[SegmentationNetwork, float]]
"""With their weights, which sum to 1."""


@dataclass(frozen=True)
class Workplace:
    """What all tasks of an ensemble have in common."""

    data: NodeCopy
    cpus: int
    gpus: float

    def open(self, network: StoredCheckpoint) -> tuple[PreparedData, torch.device]:
        """On a worker: the data as that network's training divided it, and the device."""
        data = open_prepared(self.data.folder()).divided_for(network.info.config)
        return data, prepare_process(self.cpus, self.gpus)


@dataclass(frozen=True)
class CandidatePrediction:
    """What a candidate says of the validation split."""

    scores: Scores
    class_HW: dict[int, NDArray[np.uint8]]
    """Of those of the items that were asked for which are in the split."""
    latency_s: float
    """For one item."""

    @classmethod
    def joined(cls, parts: Sequence["CandidatePrediction"]) -> "CandidatePrediction":
        """Of a candidate's networks, each of which was validated on another part of the data."""
        return cls(
            Scores.joined([part.scores for part in parts]),
            {item: class_HW for part in parts for item, class_HW in part.class_HW.items()},
            sum(part.latency_s for part in parts),
        )


@dataclass(frozen=True)
class MixtureScores:
    """How a weighted mean of networks did on a split."""

    scores: Scores
    uncertainty_P: NDArray[np.float64]
    """Of each photograph, 0 to 1, in the order of ``scores.counts_P3K``."""

    @classmethod
    def joined(cls, parts: Sequence["MixtureScores"]) -> "MixtureScores":
        """Of parts of the data that have no photograph in common."""
        return cls(
            Scores.joined([part.scores for part in parts]),
            np.concatenate([part.uncertainty_P for part in parts]),
        )


@dataclass(frozen=True)
class Soup:
    """The best mean of some trials' weights."""

    kept: tuple[int, ...]
    """Positions among the ingredients; one: no mean was better than the best of them."""
    val: Scores
    test: Scores


def predict_candidate(
    stored: StoredCheckpoint,
    place: Workplace,
    position_N: NDArray[np.int64],
    shown_items: Sequence[int],
) -> tuple[CandidatePrediction, ProbsNK]:
    """Predict the validation split: what it says, and its probabilities at some pixels.

    ``position_N`` counts the pixels of the split's items, ascending.
    """
    data, device = place.open(stored)
    item_px = data.masks_MHW[0].size
    accumulator = ScoreAccumulator(data.num_classes, len(data.photos), device)
    probs, shown, seconds = [], {}, []
    done = 0
    with _networks([stored], device) as (network,):
        for batch in _batches([(network, 1.0)], data, "val", device):
            probs_NKHW = batch.probs_NKHW
            class_NHW = batch.count(accumulator, data)
            seconds.append(batch.seconds / len(batch.item_N))
            for i, item in enumerate(batch.item_N.tolist()):
                first, last = np.searchsorted(position_N, [done * item_px, (done + 1) * item_px])
                here = torch.from_numpy(position_N[first:last] - done * item_px).to(device)
                whole_NK = (probs_NKHW[i].flatten(1)[:, here].T * WHOLE).round().int()
                probs.append(whole_NK.cpu().numpy().astype(np.uint16))
                if item in shown_items:
                    shown[item] = class_NHW[i].cpu().numpy().astype(np.uint8)
                done += 1
    prediction = CandidatePrediction(accumulator.scores(), shown, float(np.median(seconds)))
    return prediction, np.concatenate(probs)


def score_mixture(
    members: Sequence[tuple[StoredCheckpoint, float]], place: Workplace, split: Split
) -> MixtureScores:
    """Score the weighted mean of members' probabilities on a split.

    That of "val" all of them must have been validated on.
    """
    data, device = place.open(members[0][0])
    with _networks([stored for stored, _ in members], device) as networks:
        weighted = [(net, weight) for net, (_, weight) in zip(networks, members, strict=True)]
        return _score(weighted, data, split, device)


def make_soup(
    ingredients: Sequence[StoredCheckpoint], place: Workplace, metric: MetricName
) -> Soup:
    """Average trials of one network, which come best first, greedily on the validation split."""
    data, device = place.open(ingredients[0])
    with _networks(ingredients[:1], device) as (network,), _folders(ingredients) as folders:
        tensors = [checkpoint.load_model_tensors(folder) for folder in folders]

        def score(state: StateDict) -> float:
            _pour(state, network, data, device)
            return _score([(network, 1.0)], data, "val", device).scores.metric(metric)

        kept = greedy_soup(tensors, score)
        _pour(average_weights([tensors[i] for i in kept]), network, data, device)
        return Soup(
            kept,
            _score([(network, 1.0)], data, "val", device).scores,
            _score([(network, 1.0)], data, "test", device).scores,
        )


def _pour(
    state: StateDict, network: SegmentationNetwork, data: PreparedData, device: torch.device
) -> None:
    network.load_state_dict(state)
    items_M = data.items("train")
    rng = np.random.default_rng(0)
    drawn_M = rng.choice(items_M, min(len(items_M), NORMALISATION_IMAGES), replace=False)
    loader = plain_loader(data, drawn_M, batch_size=BATCH_SIZE, workers=0, pin_memory=False)
    batches = (image_NCHW for image_NCHW, _, _ in loader if len(image_NCHW) > 1)
    mend_normalisation(network, batches, device)


@dataclass(frozen=True, eq=False)
class _Batch:
    """A few items of a split under some networks."""

    item_N: NDArray[np.int64]
    probs_NKHW: torch.Tensor
    """The weighted mean of the networks'."""
    seconds: float

    def count(self, accumulator: ScoreAccumulator, data: PreparedData) -> torch.Tensor:
        """Count the classes of the mixture, N×H×W, and give them."""
        class_NHW = self.probs_NKHW.argmax(dim=1)
        accumulator.update(
            class_NHW,
            torch.from_numpy(data.masks_MHW[self.item_N].astype(np.int64)),
            torch.from_numpy(data.photo_M[self.item_N].astype(np.int64)),
        )
        return class_NHW

    def uncertainty(self) -> NDArray[np.float64]:
        """The ``disagreement`` of each item, 0 to 1."""
        doubt_NHW = disagreement(self.probs_NKHW, class_dim=1)
        return doubt_NHW.double().mean(dim=(1, 2)).cpu().numpy()


def _batches(
    networks: Networks, data: PreparedData, split: Split, device: torch.device
) -> Iterator[_Batch]:
    items_M = data.items(split)
    loader = plain_loader(data, items_M, batch_size=BATCH_SIZE, workers=0, pin_memory=False)
    for image_NCHW, _, item_N in loader:
        started = time.perf_counter()
        parts = [(weight, batch_probs(network, image_NCHW, device)) for network, weight in networks]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
        yield _Batch(item_N.numpy(), weighted_mean(parts), seconds)


def _score(
    networks: Networks, data: PreparedData, split: Split, device: torch.device
) -> MixtureScores:
    accumulator = ScoreAccumulator(data.num_classes, len(data.photos), device)
    doubts = []
    for batch in _batches(networks, data, split, device):
        batch.count(accumulator, data)
        doubts.append(batch.uncertainty())
    _, photo_of_item_M = np.unique(data.photo_M[data.items(split)], return_inverse=True)
    uncertainty_P = np.bincount(photo_of_item_M, np.concatenate(doubts)) / np.bincount(
        photo_of_item_M
    )
    return MixtureScores(accumulator.scores(), uncertainty_P)


@contextmanager
def _folders(stored: Sequence[StoredCheckpoint]) -> Iterator[list[Path]]:
    """The checkpoints on this machine, for the length of a block."""
    with tempfile.TemporaryDirectory() as folder:
        yield [one.local(Path(folder) / str(i)) for i, one in enumerate(stored)]


@contextmanager
def _networks(
    stored: Sequence[StoredCheckpoint], device: torch.device
) -> Iterator[list[SegmentationNetwork]]:
    with _folders(stored) as folders:
        # The driver checked these configurations' plug-ins; they are this user's own.
        yield [load_network(folder, device, allow_plugins=True) for folder in folders]
