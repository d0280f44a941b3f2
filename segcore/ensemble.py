"""Ensembles: greedy selection of members on the score itself, and the bundle that predicts.

A bundle is a folder that needs nothing else to predict:

    bundle.json            members and weights, classes, preparation, what it scored
    member_00/ …           a checkpoint each (segcore.checkpoint), without the training state
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segcore import checkpoint
from segcore.config import MetricName, Preparation
from segcore.errors import UserError
from segcore.inference import full_size_mask, photo_probs
from segcore.metrics import ScoreAccumulator, Scores
from segcore.models import SegmentationNetwork, build_network
from segcore.plugins import is_import_path

FORMAT = 1
MANIFEST = "bundle.json"

ProbsMKHW = NDArray[np.float16]
"""One candidate's probabilities of every item of a split; usually memory-mapped."""


@dataclass(frozen=True)
class Selection:
    """What greedy selection picked."""

    counts: tuple[int, ...]
    """How often each candidate was picked: its weight in the mean of probabilities."""
    scores: tuple[float, ...]
    """The selection score after each pick, up to the best one."""


def greedy_selection(
    candidates: Sequence[ProbsMKHW],
    masks_MHW: NDArray[np.uint8],
    photo_M: NDArray[np.int32],
    metric: MetricName,
    *,
    max_picks: int = 12,
) -> Selection:
    """Pick candidates one by one, each time the one whose addition scores best.

    With replacement, so that a candidate's count becomes its weight; the picks up to the best score
    are kept (Caruana et al. 2004, "Ensemble selection from libraries of models"). The score is
    ``metric`` of the argmax of the mean probabilities, with tiles put together by ``photo_M``.
    """
    sum_MKHW = np.zeros(candidates[0].shape, dtype=np.float32)
    picks: list[int] = []
    scores: list[float] = []
    for _ in range(max_picks):
        tried = [
            score_probs([(1.0, sum_MKHW), (1.0, candidate)], masks_MHW, photo_M).metric(metric)
            for candidate in candidates
        ]
        pick = int(np.argmax(tried))
        picks.append(pick)
        scores.append(tried[pick])
        sum_MKHW += candidates[pick]
    kept = int(np.argmax(scores)) + 1
    counts = np.bincount(picks[:kept], minlength=len(candidates))
    return Selection(tuple(int(count) for count in counts), tuple(scores[:kept]))


def score_probs(
    parts: Sequence[tuple[float, NDArray[np.floating[Any]]]],
    masks_MHW: NDArray[np.uint8],
    photo_M: NDArray[np.int32],
) -> Scores:
    """Scores of the argmax of a weighted sum of ``probs_MKHW``, an item at a time in memory."""
    num_classes = parts[0][1].shape[1]
    photos, photo_index_M = np.unique(photo_M, return_inverse=True)
    accumulator = ScoreAccumulator(num_classes, len(photos), torch.device("cpu"))
    for m in range(len(masks_MHW)):
        total_KHW = np.zeros(parts[0][1].shape[1:], dtype=np.float32)
        for weight, probs_MKHW in parts:
            total_KHW += np.float32(weight) * probs_MKHW[m]
        accumulator.update(
            torch.from_numpy(total_KHW).argmax(dim=0)[None],
            torch.from_numpy(masks_MHW[m].astype(np.int64))[None],
            torch.tensor([photo_index_M[m]]),
        )
    return accumulator.scores()


def load_network(
    folder: Path, device: torch.device, *, allow_plugins: bool = False
) -> SegmentationNetwork:
    """The network of a checkpoint, in evaluation mode.

    A configuration that names an import path runs code when it is built: that is refused with a
    ``UserError`` unless ``allow_plugins``.
    """
    info = checkpoint.load_info(folder)
    if is_import_path(info.config.architecture) and not allow_plugins:
        raise UserError(
            f"{folder}: its network is code of somebody's own ({info.config.architecture}); "
            "if you trust it, allow it with --allow-plugins"
        )
    # The checkpoint has every weight, and the encoder's mean and std: no pretrained file is needed.
    config = info.config.model_copy(update={"encoder_weights": None})
    network = build_network(config, len(info.class_names))
    network.load_state_dict(checkpoint.load_model_tensors(folder))
    return network.to(device).eval()


@dataclass(frozen=True)
class Ensemble:
    """Members that predict together: a weighted mean of their probabilities."""

    members: tuple[tuple[SegmentationNetwork, float], ...]
    """Networks and weights; the weights sum to 1."""
    preparation: Preparation
    class_names: tuple[str, ...]
    class_colors: tuple[tuple[int, int, int], ...]
    device: torch.device

    @classmethod
    def load(
        cls, folder: Path, device: torch.device | None = None, *, allow_plugins: bool = False
    ) -> "Ensemble":
        """Load a bundle; CUDA where there is one. Raises ``UserError`` where it isn't whole."""
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        manifest = read_manifest(folder)
        total = sum(member["weight"] for member in manifest["members"])
        members = tuple(
            (
                load_network(folder / member["folder"], device, allow_plugins=allow_plugins),
                member["weight"] / total,
            )
            for member in manifest["members"]
        )
        info = checkpoint.load_info(folder / manifest["members"][0]["folder"])
        return cls(members, info.config.preparation, info.class_names, info.class_colors, device)

    def probs(self, image_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``probs_KHW`` of one RGB photograph, on the working grid."""
        parts = [
            weight * photo_probs(network, image_HWC, self.preparation, self.device)
            for network, weight in self.members
        ]
        summed: NDArray[np.float32] = np.sum(parts, axis=0, dtype=np.float32)
        return summed

    def predict(self, image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """``mask_HW`` of class indices at the photograph's own size."""
        return full_size_mask(self.probs(image_HWC), *image_HWC.shape[:2])


def write_bundle(
    folder: Path,
    members: Sequence[tuple[Path, float]],
    *,
    metric: MetricName,
    scores: Mapping[str, Any],
) -> None:
    """Write a bundle of checkpoints and their weights; ``scores`` is kept as it is, for people.

    All or nothing: it is written beside ``folder`` first, then renamed. An older bundle of that
    name is replaced.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    entries = []
    for number, (source, weight) in enumerate(members):
        name = f"member_{number:02d}"
        checkpoint.save_checkpoint(
            partial / name,
            checkpoint.load_info(source),
            checkpoint.load_model_tensors(source),
            training=None,
        )
        entries.append({"folder": name, "weight": weight})
    manifest = {"format": FORMAT, "metric": metric, "members": entries, "scores": dict(scores)}
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=2))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """``bundle.json``, checked: a bundle can name nothing outside of its folder."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: not a bundle: it has no {MANIFEST}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        if manifest["format"] != FORMAT:
            raise UserError(f"{path}: format {manifest['format']}; this version reads {FORMAT}")
        if not manifest["members"]:
            raise UserError(f"{path}: it has no members")
        for member in manifest["members"]:
            if not re.fullmatch(r"member_\d+", member["folder"]) or not member["weight"] > 0:
                raise UserError(
                    f"{path}: member {member!r}; allowed: a folder member_NN and a weight above 0"
                )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error!r})") from error
    return manifest
