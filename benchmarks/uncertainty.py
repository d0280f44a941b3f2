"""python -m benchmarks.uncertainty BUNDLE DATA: which measure of uncertainty points at errors.

On the test photographs of a data set: how well each measure tells wrong pixels from right ones
(area under the ROC curve, the probability that a wrong pixel has the larger value; 0.5 is chance),
and how the photographs' means go with their shares of wrong pixels (Spearman's rank correlation).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr  # type: ignore[import-untyped]

from segcore.config import IGNORE_INDEX
from segcore.data.prepared import PreparedData
from segcore.data.preparing import prepare_data
from segcore.inference.scoring import prepared_photograph
from segcore.predicting.ensemble import Ensemble, Member, disagreement, weighted_mean

DRAWN_PX = 200_000
Parts = list[tuple[float, torch.Tensor]]
"""Of each member its weight and ``probs_NKHW``."""


@dataclass(frozen=True)
class Options:
    """What to measure on."""

    bundle: Annotated[Path, tyro.conf.Positional]
    data: Annotated[Path, tyro.conf.Positional]
    """Folder with a dataset.yaml."""


def main() -> None:
    """Print both figures of each measure."""
    options = tyro.cli(Options)
    ensemble = Ensemble.load(options.bundle)
    data = prepare_data(options.data, [m.view for m in ensemble.members], progress=False)
    print("members", [round(member.weight, 2) for member in ensemble.members])
    values, wrong_N, photo_N = measure(ensemble, data)
    drawn = np.random.default_rng(0).permutation(len(wrong_N))[:DRAWN_PX]
    for name, value_N in values.items():
        roc_area = area_under_roc(value_N[drawn], wrong_N[drawn])
        means, errors = (
            np.bincount(photo_N, of_N)[np.unique(photo_N)]
            / np.bincount(photo_N)[np.unique(photo_N)]
            for of_N in (value_N, wrong_N)
        )
        print(f"{name:36} pixels {roc_area:.2f}   photographs {spearmanr(means, errors)[0]:+.2f}")


def measures(parts: Parts) -> dict[str, torch.Tensor]:
    """Each measure (N×H×W)."""
    mean_NKHW = weighted_mean(parts)
    class_NHW = mean_NKHW.argmax(dim=1)
    variation = [(w, (probs - mean_NKHW).abs().sum(dim=1) / 2) for w, probs in parts]
    entropies = [(w, torch.special.entr(probs).sum(dim=1)) for w, probs in parts]
    entropy_NHW = torch.special.entr(mean_NKHW).sum(dim=1)
    others = [(1.0, (probs.argmax(dim=1) != class_NHW).float()) for _, probs in parts]
    return {
        "total variation": weighted_mean(variation),
        "mutual information": entropy_NHW - weighted_mean(entropies),
        "members that name another class": weighted_mean(others),
        "entropy": entropy_NHW,
        "probability of other classes (ours)": disagreement(mean_NKHW, class_NHW, 1),
    }


def measure(
    ensemble: Ensemble, data: PreparedData
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_], NDArray[np.int64]]:
    """Of each labelled pixel of the test every measure, whether it is wrong, and its photograph."""
    found: dict[str, list[NDArray[np.float64]]] = {}
    wrong, photos = [], []
    for photo in data.of_split("test").tolist():
        parts: Parts = [
            (member.weight, predict_alone(member, ensemble, data, photo)[None])
            for member in ensemble.members
        ]
        mask_1HW = torch.from_numpy(np.array(data.score_mask(photo)))[None]
        labelled_1HW = mask_1HW != IGNORE_INDEX
        for name, value_1HW in measures(parts).items():
            found.setdefault(name, []).append(value_1HW.double()[labelled_1HW].numpy())
        class_1HW = weighted_mean(parts).argmax(dim=1)
        wrong.append((class_1HW != mask_1HW)[labelled_1HW].numpy())
        photos.append(np.full(int(labelled_1HW.sum()), photo, np.int64))
    values = {name: np.concatenate(parts) for name, parts in found.items()}
    return values, np.concatenate(wrong), np.concatenate(photos)


def predict_alone(
    member: Member, ensemble: Ensemble, data: PreparedData, photo: int
) -> torch.Tensor:
    """``probs_KHW`` of one member, on the photograph's score grid."""
    alone = replace(ensemble, members=(replace(member, weight=1.0),))
    grid = data.plans[photo].score_grid
    probs_KHW = torch.empty(data.num_classes, *grid)
    for strip in alone.strips(prepared_photograph(data, photo), size_px=grid):
        probs_KHW[:, strip.rows, strip.columns] = strip.probs_KHW.cpu()
    return probs_KHW


def area_under_roc(value_N: NDArray[np.float64], wrong_N: NDArray[np.bool_]) -> float:
    """From the ranks of the wrong pixels' values (Mann and Whitney 1947)."""
    count = int(wrong_N.sum())
    ranks = rankdata(value_N)[wrong_N].sum() - count * (count + 1) / 2
    return float(ranks / (count * (len(wrong_N) - count)))


if __name__ == "__main__":
    main()
