"""What the cluster's workers do for an ensemble: predict with a trial, make a soup, score models.

Workers write nothing to disk. Their answers are small enough to be sent: scores, the probabilities
at the pixels that were asked for, and the classes of a few photographs for pictures.
"""

import functools
import itertools
import math
import operator
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from segcore.importing import importing

with importing():
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from search.ensembles.models import Network, Soup
    from search.runs.result import Cost
    from search.runs.storage import NodeCopy
    from search.trials.slot import prepare_process
    from segcore.choosing.pool import WHOLE, ProbsNK, split_positions
    from segcore.choosing.soup import Kept, average_weights, greedy_soup, mend_normalisation
    from segcore.config import MetricName, TrialConfig
    from segcore.data.prepared import PreparedData, open_prepared
    from segcore.data.splits import Split
    from segcore.data.windows import Grid, scale_mask
    from segcore.inference.blending import Strip, count_windows, mixed
    from segcore.inference.scoring import prepared_photograph, score_strips, strip_truth
    from segcore.predicting.ensemble import Ensemble, disagreement
    from segcore.scores.counting import Counting
    from segcore.scores.metrics import Counts, Scores, metric_of_counts
    from segcore.training import checkpoint
    from segcore.training.loading import training_batches, windows_per_epoch

COMPARED_OVERLAP = 0.25
"""The least share of a window's side in common with the next, where candidates and soups are
compared. It takes half of the time of other predictions, and ranks are the same
(benchmarks/README.md)."""

BATCH_SIZE = 4
NORMALISATION_WINDOWS = 64
"""Training windows from which the batch normalisation of a soup learns its statistics."""

MOST_SOUPS = 3
"""For each ingredient so many soups may be tried: bags try others than the whole split does."""

SHOWN_PX = 1024
"""The longer side of the pictures of what a trial predicts."""

NO_PIXELS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Workplace:
    """What all tasks of an ensemble have in common."""

    data: NodeCopy
    cpus: int
    gpus: float

    def open(self, network: Network) -> tuple[PreparedData, torch.device]:
        """On a worker: the data as that network's training divided them, and the device."""
        data = open_prepared(self.data.folder()).divided_for(network.info.config)
        return data, prepare_process(self.cpus, self.gpus)


@dataclass(frozen=True)
class Prediction:
    """How a network did on a split."""

    scores: Scores
    class_HW: dict[int, NDArray[np.uint8]]
    """What it names in those of the shown photographs that lie in the split, by their number and at
    the size of a picture (``SHOWN_PX``)."""
    latency_s: float
    """The time that it takes for one photograph: the median of the split's."""
    cost: Cost

    @classmethod
    def joined(cls, parts: Sequence["Prediction"]) -> "Prediction":
        """One for all folds, each of which was predicted by networks of its own."""
        return cls(
            Scores.joined([part.scores for part in parts]),
            {photo: class_HW for part in parts for photo, class_HW in part.class_HW.items()},
            sum(part.latency_s for part in parts),
            functools.reduce(operator.add, (part.cost for part in parts)),
        )


def predict(
    network: Network,
    place: Workplace,
    split: Split,
    position_N: NDArray[np.int64] = NO_PIXELS,
    shown: Sequence[int] = (),
) -> tuple[Prediction, ProbsNK]:
    """Predict a split as models are compared, with less overlap than usual, and score it.

    The seconds that are told are those that it would take with the usual overlap.
    ``position_N`` names the pixels whose probabilities are wanted, ascending: it counts those of
    the score grids of the split's photographs, one photograph after the other.
    """
    data, device = place.open(network)
    with _loaded([network], device) as ensemble:
        return _predict(ensemble, data, split, position_N, shown)


def _predict(
    ensemble: Ensemble,
    data: PreparedData,
    split: Split,
    position_N: NDArray[np.int64],
    shown: Sequence[int] = (),
) -> tuple[Prediction, ProbsNK]:
    photos = data.of_split(split).tolist()
    grids = [data.plans[photo].score_grid for photo in photos]
    wanted = split_positions(position_N, [grid.area_px for grid in grids])
    kept = {
        photo: _Kept(grid, position_N, data.num_classes, with_classes=photo in shown)
        for photo, grid, position_N in zip(photos, grids, wanted, strict=True)
    }

    def strips() -> Iterator[tuple[int, Strip]]:
        for photo in photos:
            started = time.perf_counter()
            photograph, grid = prepared_photograph(data, photo), data.plans[photo].score_grid
            for strip in ensemble.strips(photograph, size_px=grid, overlap=COMPARED_OVERLAP):
                if ensemble.device.type != "cpu":
                    torch.accelerator.synchronize(ensemble.device)
                kept[photo].seconds += time.perf_counter() - started
                kept[photo].add(strip)
                yield photo, strip
                started = time.perf_counter()

    scores = score_strips(strips(), data, ensemble.device)
    seconds_P = np.array(
        [kept[photo].seconds * _more_windows(ensemble, data, photo) for photo in photos]
    )
    pixels = sum(math.prod(data.plans[photo].size_px) for photo in photos)
    prediction = Prediction(
        scores,
        {photo: kept[photo].picture() for photo in photos if photo in shown},
        float(np.median(seconds_P)),
        _cost(ensemble, float(seconds_P.sum()) / pixels * 1e6),
    )
    return prediction, np.concatenate([kept[photo].probs_NK for photo in photos])


def _more_windows(ensemble: Ensemble, data: PreparedData, photo: int) -> float:
    """How many times as many windows a photograph has with the usual overlap."""
    usual = compared = 0
    for member in ensemble.members:
        grid = data.grid(photo, member.view)
        usual += count_windows(grid, member.view)
        compared += count_windows(grid, member.view, COMPARED_OVERLAP)
    return usual / compared


def _cost(ensemble: Ensemble, seconds_per_mpx: float) -> Cost:
    states = [member.network.state_dict() for member in ensemble.members]
    weights_bytes = sum(tensor.nbytes for state in states for tensor in state.values())
    return Cost(len(states), seconds_per_mpx, weights_bytes)


class _Kept:
    """What is kept of the probabilities of one photograph, while they pass by in strips."""

    def __init__(
        self, grid: Grid, position_N: NDArray[np.int64], num_classes: int, *, with_classes: bool
    ) -> None:
        self._grid = grid
        self._row_N, self._column_N = np.divmod(position_N, grid.width_px)
        self._class_HW = np.zeros(grid, np.uint8) if with_classes else None
        self.probs_NK: ProbsNK = np.zeros((len(position_N), num_classes), np.uint16)
        self.seconds = 0.0

    def add(self, strip: Strip) -> None:
        rows, columns, probs_KHW = strip.rows, strip.columns, strip.probs_KHW
        row_N, column_N = self._row_N - rows.start, self._column_N - columns.start
        _, height, width = probs_KHW.shape
        here_N = (row_N >= 0) & (row_N < height) & (column_N >= 0) & (column_N < width)
        at = torch.from_numpy(row_N[here_N] * width + column_N[here_N]).to(probs_KHW.device)
        whole_NK = (probs_KHW.flatten(1)[:, at].T * WHOLE).round().int()
        self.probs_NK[here_N] = whole_NK.cpu().numpy()
        if self._class_HW is not None:
            self._class_HW[rows, columns] = strip.classes().cpu().numpy()

    def picture(self) -> NDArray[np.uint8]:
        """The classes at the size of a picture."""
        assert self._class_HW is not None
        return scale_mask(self._class_HW, self._grid.within(SHOWN_PX))


@dataclass(frozen=True)
class Mixture:
    """A model of networks that are known by their places in a list."""

    weighted: tuple[tuple[int, float], ...]
    factors: tuple[float, ...] | None
    """What each class's probability is multiplied with before the largest one is named."""

    def of(self, strips: Sequence[Strip]) -> Strip:
        """What the model predicts, of what each network predicts by itself."""
        members = [strips[place] for place, _ in self.weighted]
        strip = mixed(members, [weight for _, weight in self.weighted])
        factors_K = None if self.factors is None else torch.tensor(self.factors)
        return replace(strip, factors_K=factors_K)


@dataclass(frozen=True)
class Said:
    """How a model did on some photographs."""

    scores: Scores
    uncertainty_P: NDArray[np.float64]
    """The mean of ``disagreement`` over each photograph, 0 to 1, in the order of the scores."""

    @classmethod
    def joined(cls, parts: Sequence["Said"]) -> "Said":
        """Of all their photographs, part after part."""
        return cls(
            Scores.joined([part.scores for part in parts]),
            np.concatenate([part.uncertainty_P for part in parts]),
        )


def score_mixtures(
    networks: Sequence[Network],
    place: Workplace,
    split: Split,
    mixtures: Sequence[Mixture],
    part: tuple[int, int] = (0, 1),
) -> list[Said]:
    """Score models that share networks: each network predicts a photograph once for all of them.

    ``part`` is the place and the number of the parts into which the split's photographs are
    divided; nothing is said of a part without any. All networks must have the same photographs in
    this split.
    """
    data, device = place.open(networks[0])
    photos = np.array_split(data.of_split(split), part[1])[part[0]].tolist()
    countings = [Counting(data.num_classes, data.photo_groups, device) for _ in mixtures]
    doubt_MP = np.zeros((len(mixtures), len(photos)))
    with _loaded(networks, device) as ensemble:
        for p, photo in enumerate(photos):
            grid = data.plans[photo].score_grid
            number = torch.tensor([photo])
            for strips in ensemble.strips_apart(prepared_photograph(data, photo), size_px=grid):
                truth_HW = strip_truth(data, photo, strips[0], device)
                for m, mixture in enumerate(mixtures):
                    strip = mixture.of(strips)
                    class_HW = strip.classes()
                    countings[m].add((class_HW[None], truth_HW[None], number))
                    # The sum is taken in double precision, which Metal lacks.
                    doubt_HW = disagreement(strip.probs_KHW, class_HW, 0).cpu().double()
                    doubt_MP[m, p] += float(doubt_HW.sum()) / grid.area_px
    if not photos:
        return []
    return [
        Said(counting.scores(), doubt_P)
        for counting, doubt_P in zip(countings, doubt_MP, strict=True)
    ]


@dataclass(frozen=True)
class MadeSoup:
    """A soup, and those that are made in the same way where photographs count otherwise."""

    kept: Kept
    """Positions of its ingredients."""
    soup: Soup
    bag_kept: tuple[Kept, ...]
    """Those of the soup of each bag."""
    probs: dict[Kept, ProbsNK]
    """Of all these soups, the probabilities at the pixels that were asked for."""


def make_soup(
    ingredients: Sequence[Network],
    place: Workplace,
    metric: MetricName,
    position_N: NDArray[np.int64],
    times_BP: NDArray[np.int64],
) -> MadeSoup | None:
    """Average the weights of trials of one network and view, which come best first.

    ``greedy_soup`` chooses among them by the score on "val", and again by that of each bag, in
    which photographs count ``times_BP`` times. None where only the best one is kept.
    ``position_N`` is as in ``predict``.
    """
    data, device = place.open(ingredients[0])
    with _loaded(ingredients[:1], device) as ensemble, _local(ingredients) as folders:
        tensors = [checkpoint.load_model_tensors(folder) for folder in folders]
        network = ensemble.members[0].network
        tried: dict[Kept, tuple[Counts, ProbsNK]] = {}

        def fill(kept: Kept) -> None:
            network.load_state_dict(average_weights([tensors[i] for i in kept]))
            mend_normalisation(network, _training_batches(data, ingredients[0].info.config), device)

        def greedy(times_P: NDArray[np.int64]) -> Kept:
            def score(kept: Kept) -> float:
                if kept not in tried:
                    if len(tried) >= MOST_SOUPS * len(ingredients):
                        return -math.inf
                    fill(kept)
                    said, probs_NK = _predict(ensemble, data, "val", position_N)
                    tried[kept] = said.scores.counts_P3K, probs_NK
                return metric_of_counts(metric, tried[kept][0], times_P)

            return greedy_soup(len(ingredients), score)

        kept = greedy(np.ones(times_BP.shape[1], np.int64))
        if len(kept) == 1:
            return None
        bag_kept = tuple(greedy(times_P) for times_P in times_BP)
        fill(kept)
        state = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        probs = {soup: tried[soup][1] for soup in dict.fromkeys((kept, *bag_kept))}
        return MadeSoup(kept, Soup(ingredients[0].info, state), bag_kept, probs)


def _training_batches(data: PreparedData, config: TrialConfig) -> Iterator[Tensor]:
    """Windows of training photographs, as the networks saw them but for the augmentation."""
    megapixels = NORMALISATION_WINDOWS * config.height_px * config.width_px / 1e6
    plain = {"augmentation": "none", "oversample_ratio": 1.0, "rare_crop_prob": 0.0}
    changes = {**plain, "batch_size": BATCH_SIZE, "epoch_mpx": megapixels}
    config = config.model_copy(update=changes)
    batches = training_batches(data, config, first_epoch=1, workers=0, pin_memory=False)
    count = windows_per_epoch(data, config) // BATCH_SIZE
    return (image_NCHW for image_NCHW, _ in itertools.islice(batches, count))


@contextmanager
def _local(stored: Sequence[Network]) -> Iterator[list[Path]]:
    """The checkpoints on this machine, during a block."""
    with tempfile.TemporaryDirectory() as folder:
        yield [one.local(Path(folder) / str(i)) for i, one in enumerate(stored)]


@contextmanager
def _loaded(networks: Sequence[Network], device: torch.device) -> Iterator[Ensemble]:
    """The networks, with equal weights, during a block."""
    with _local(networks) as folders:
        weighted = [(folder, 1 / len(folders)) for folder in folders]
        # Plug-ins are allowed: they are the user's own, and the driver has run them already.
        yield Ensemble.of_checkpoints(weighted, device, allow_plugins=True)
