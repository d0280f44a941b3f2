"""What the cluster's workers do for an ensemble: predict a split with a model, or make a soup.

Workers write nothing to disk. Their answers are small enough to be sent: scores, the probabilities
at the pixels that were asked for, and the classes of a few items for pictures.
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

NO_PIXELS = np.zeros(0, np.int64)


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
class Prediction:
    """How a model did on a split."""

    scores: Scores
    uncertainty_P: NDArray[np.float64]
    """The mean of ``disagreement`` over each photograph, 0 to 1, in the order of the scores."""
    class_HW: dict[int, NDArray[np.uint8]]
    """What it names in those of the shown items that lie in the split, by item."""
    latency_s: float
    """The time that it takes for one item."""

    @classmethod
    def joined(cls, parts: Sequence["Prediction"]) -> "Prediction":
        """One for all folds, each of which was predicted by networks of its own."""
        return cls(
            Scores.joined([part.scores for part in parts]),
            np.concatenate([part.uncertainty_P for part in parts]),
            {item: class_HW for part in parts for item, class_HW in part.class_HW.items()},
            sum(part.latency_s for part in parts),
        )


def predict(
    weighted: Sequence[tuple[StoredCheckpoint, float]],
    place: Workplace,
    split: Split,
    position_N: NDArray[np.int64] = NO_PIXELS,
    shown_items: Sequence[int] = (),
) -> tuple[Prediction, ProbsNK]:
    """Predict a split by the weighted mean of networks' probabilities, and score it.

    ``position_N`` names the pixels whose probabilities are wanted, ascending: it counts those of
    the split's items, one item after the other. All networks must have the same "val" split.
    """
    data, device = place.open(weighted[0][0])
    items_M = data.items(split)
    of_item = split_positions(position_N, [data.masks_MHW[0].size] * len(items_M))
    wanted = dict(zip(items_M.tolist(), of_item, strict=True))
    probs, doubts, shown, seconds = [], [], {}, []
    with _loaded(weighted, device) as ensemble:

        def classes(batch: Batch) -> Tensor:
            image_NCHW, _, item_N = batch
            started = time.perf_counter()
            probs_NKHW = ensemble.batch_probs(image_NCHW)
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            seconds.append((time.perf_counter() - started) / len(image_NCHW))
            # The mean is taken in double precision, which Metal lacks.
            doubt_NHW = disagreement(probs_NKHW, class_dim=1).cpu().double()
            doubts.append(doubt_NHW.mean(dim=(1, 2)).numpy())
            class_NHW = probs_NKHW.argmax(dim=1)
            for i, item in enumerate(item_N.tolist()):
                here = torch.from_numpy(wanted[item]).to(device)
                whole_NK = (probs_NKHW[i].flatten(1)[:, here].T * WHOLE).round().int()
                probs.append(whole_NK.cpu().numpy().astype(np.uint16))
                if item in shown_items:
                    shown[item] = class_NHW[i].cpu().numpy().astype(np.uint8)
            return class_NHW

        scores = _score(classes, data, split, device)
    _, photo_of_item_M = np.unique(data.photo_M[items_M], return_inverse=True)
    sum_P = np.bincount(photo_of_item_M, np.concatenate(doubts))
    uncertainty_P = sum_P / np.bincount(photo_of_item_M)
    prediction = Prediction(scores, uncertainty_P, shown, float(np.median(seconds)))
    return prediction, np.concatenate(probs)


def make_soup(
    ingredients: Sequence[StoredCheckpoint], place: Workplace, metric: MetricName
) -> tuple[tuple[int, ...], Scores, Scores]:
    """Average the weights of trials of one network, which come best first (``greedy_soup``).

    Gives the positions of the ingredients that were kept, and the scores on "val" and "test".
    """
    data, device = place.open(ingredients[0])
    with _loaded([(ingredients[0], 1.0)], device) as soup, _local(ingredients) as folders:
        tensors = [checkpoint.load_model_tensors(folder) for folder in folders]
        network = soup.members[0].network

        def fill(state: StateDict) -> None:
            network.load_state_dict(state)
            mend_normalisation(network, _training_batches(data), device)

        def score(split: Split) -> Scores:
            return _score(lambda b: soup.batch_probs(b[0]).argmax(dim=1), data, split, device)

        def try_out(state: StateDict) -> float:
            fill(state)
            return score("val").metric(metric)

        kept = greedy_soup(tensors, try_out)
        fill(average_weights([tensors[i] for i in kept]))
        return kept, score("val"), score("test")


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
