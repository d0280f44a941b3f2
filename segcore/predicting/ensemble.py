"""Ensembles of networks, and the bundles that hold them.

A bundle is a folder that predicts without any other file:

    bundle.json            the members' weights, the classes' factors, and what the ensemble scored
    member_00/ …           a checkpoint of each (segcore.training.checkpoint), for prediction only
"""

import functools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segcore.config import IGNORE_INDEX, MetricName, View
from segcore.devices import choose_device, send
from segcore.errors import UserError
from segcore.files import whole_folder
from segcore.inference.blending import (
    OVERLAP,
    Looker,
    Strip,
    batch_probs,
    predict_apart,
    predict_strips,
    usual_batch_size,
)
from segcore.inference.photographs import Photograph
from segcore.networks.models import SegmentationNetwork, build_network, on_meta
from segcore.plugins import is_import_path
from segcore.reading.bands import RGB, Bands, Samples
from segcore.training import checkpoint

FORMAT = 2
"""2: ``factors``. A bundle of format 1 is read as one without."""
MANIFEST = "bundle.json"

_TURNS = tuple((turns, flip) for turns in range(4) for flip in (False, True))
"""The 8 flips and rotations of a photograph; the first one is the photograph as it is."""


def load_network(
    folder: Path, device: torch.device, *, allow_plugins: bool = False
) -> SegmentationNetwork:
    """The network of a checkpoint, in evaluation mode.

    A network that is named by an import path is somebody's code, which runs when it is built. That
    is refused with a ``UserError`` unless ``allow_plugins``.
    """
    info = checkpoint.load_info(folder)
    if is_import_path(info.config.architecture) and not allow_plugins:
        raise UserError(
            f"{folder}: its network is code of somebody's own ({info.config.architecture}); "
            "if you trust it, allow it with --allow-plugins"
        )
    # A checkpoint has all weights and the encoder's mean and std: no pretrained file is needed.
    config = info.config.model_copy(update={"encoder_weights": None})
    tensors = checkpoint.load_model_tensors(folder)
    planned = on_meta(lambda: build_network(config, len(info.class_names), info.bands))
    _check_fit(planned.state_dict(), tensors, folder)
    network = build_network(config, len(info.class_names), info.bands)
    network.load_state_dict(tensors)
    return network.to(device).eval()


def _check_fit(
    wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], folder: Path
) -> None:
    """Raise ``UserError`` where weights don't fit a network, before it takes time and memory."""
    odd = [
        name
        for name in sorted(wanted.keys() | found.keys())
        if name not in wanted
        or name not in found
        or (wanted[name].shape, wanted[name].dtype) != (found[name].shape, found[name].dtype)
    ]
    if odd:
        raise UserError(
            f"{folder}: its weights are not those of its network: {len(odd)} of {len(wanted)} "
            f"differ ({', '.join(odd[:3])}); copy it again from its source"
        )


@dataclass(frozen=True)
class Member:
    """A network of an ensemble."""

    network: SegmentationNetwork
    weight: float
    view: View


@dataclass(frozen=True)
class Ensemble:
    """Members that predict together: a weighted mean of their probabilities.

    Each looks at photographs as it was trained to.
    """

    members: tuple[Member, ...]
    """Their weights sum to 1."""
    class_names: tuple[str, ...]
    class_colors: tuple[tuple[int, int, int], ...]
    device: torch.device
    data_fingerprint: str | None = None
    """Of the data that the first member was trained on."""
    bands: Bands = RGB
    """How photographs are read for it."""
    factors: tuple[float, ...] | None = None
    """What each class's probability is multiplied with before the largest one is named; the
    probabilities stay what they are. None: the most probable class is named."""

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: torch.device | None = None,
        *,
        allow_plugins: bool = False,
        use_factors: bool = True,
    ) -> "Ensemble":
        """Load a bundle, onto the fastest device unless another one is given.

        Without ``use_factors`` the most probable class is named, whatever factors the bundle has.
        Raises ``UserError`` where it isn't whole.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        networks = _networks_of(folder, manifest)
        ensemble = cls.of_checkpoints(
            networks, device or choose_device(), allow_plugins=allow_plugins
        )
        if not use_factors or manifest["factors"] is None:
            return ensemble
        factors = _factors_of(manifest["factors"], ensemble.class_names, folder)
        return replace(ensemble, factors=factors)

    @classmethod
    def of_checkpoints(
        cls,
        weighted: Sequence[tuple[Path, float]],
        device: torch.device,
        *,
        allow_plugins: bool = False,
    ) -> "Ensemble":
        """The ensemble of some checkpoints, given with weights that sum to 1.

        Raises ``UserError`` where one is damaged, or where their classes differ.
        """
        infos = [checkpoint.load_info(folder, check_content=True) for folder, _ in weighted]
        if len({(info.class_names, info.bands) for info in infos}) > 1:
            raise UserError(
                f"{weighted[0][0].parent}: its members differ in their classes or bands"
            )
        members = tuple(
            Member(
                load_network(folder, device, allow_plugins=allow_plugins), weight, info.config.view
            )
            for (folder, weight), info in zip(weighted, infos, strict=True)
        )
        first = infos[0]
        return cls(
            members, first.class_names, first.class_colors, device, first.data_fingerprint,
            first.bands,
        )  # fmt: skip

    def strips(
        self,
        photo: Photograph,
        *,
        size_px: tuple[int, int] | None = None,
        tta: bool = False,
        overlap: float = OVERLAP,
        batch_size: int | None = None,
        scale: float | None = None,
    ) -> Iterator[Strip]:
        """Predict a photograph piece by piece, on a grid of ``size_px``: by default its own.

        ``tta`` takes the mean over the 8 flips and rotations. ``scale`` slides windows over the
        photograph at this scale, however the members were trained. ``overlap`` is the least share
        of a window's side in common with the next. A network gets ``batch_size`` windows at once;
        None leaves that to ``usual_batch_size``.
        Raises ``ImageError`` as ``predict_strips`` does.
        """
        by_view: dict[View, list[Member]] = {}
        for member in self.members:
            view = member.view
            if scale is not None:
                view = view._replace(scale=scale, metres_per_px=None)
            by_view.setdefault(view, []).append(member)
        lookers = [
            Looker(
                functools.partial(_mean_probs, members, device=self.device, tta=tta),
                view,
                sum(member.weight for member in members),
                batch_size or usual_batch_size(view, self.device),
            )
            for view, members in by_view.items()
        ]
        classes = len(self.class_names)
        factors_K = None if self.factors is None else torch.tensor(self.factors)
        for strip in predict_strips(lookers, classes, photo, size_px=size_px, overlap=overlap):
            yield replace(strip, factors_K=factors_K)

    def strips_apart(self, photo: Photograph, *, size_px: tuple[int, int]) -> Iterator[list[Strip]]:
        """As ``strips``, but with what each member predicts by itself: a strip of each."""
        lookers = [
            Looker(
                functools.partial(_mean_probs, [member], device=self.device),
                member.view,
                batch_size=usual_batch_size(member.view, self.device),
            )
            for member in self.members
        ]
        apart = predict_apart(lookers, len(self.class_names), [(photo, size_px)])
        return (strips for _, strips in apart)

    def probs(self, image_HWC: Samples) -> NDArray[np.float32]:
        """``probs_KHW`` of one picture, at its own size; the classes of a pixel sum to 1."""
        photo = self._photograph(image_HWC)
        probs_KHW = np.empty((len(self.class_names), *photo.size_px), np.float32)
        for strip in self.strips(photo):
            probs_KHW[:, strip.rows, strip.columns] = strip.probs_KHW.cpu().numpy()
        return probs_KHW

    def predict(self, image: str | Path | Samples | Photograph) -> NDArray[np.uint8]:
        """``mask_HW`` of one picture, at its own size: class indices, or where it holds no data
        ``IGNORE_INDEX``.

        Give the file, or samples (HWC) as the networks need them: else raises ``UserError``.
        """
        if isinstance(image, str | Path):
            with Photograph.open(Path(image), self.bands) as photo:
                return self.predict(photo)
        photo = image if isinstance(image, Photograph) else self._photograph(image)
        mask_HW = self.classes(photo, photo.size_px)
        if photo.has_holes:
            height_px, width_px = photo.size_px
            mask_HW[~photo.valid(slice(0, height_px), slice(0, width_px))] = IGNORE_INDEX
        return mask_HW

    def _photograph(self, image_HWC: Samples) -> Photograph:
        channels, dtype = self.bands.channels, self.bands.dtype
        if image_HWC.shape[2:] != (channels,) or image_HWC.dtype not in (dtype, np.float32):
            raise UserError(
                f"a picture of shape {image_HWC.shape} and type {image_HWC.dtype}; allowed: "
                f"(height, width, {channels}) and {dtype}, or float32 of 0 to 1; or give its file"
            )
        return Photograph.in_memory(image_HWC, bands=self.bands)

    def classes(self, photo: Photograph, size_px: tuple[int, int]) -> NDArray[np.uint8]:
        """``mask_HW`` of class indices on a grid of ``size_px``, also where there are no data."""
        mask_HW = np.empty(size_px, np.uint8)
        for strip in self.strips(photo, size_px=size_px):
            mask_HW[strip.rows, strip.columns] = strip.classes().cpu().numpy()
        return mask_HW


def _mean_probs(
    members: Sequence[Member], image_NCHW: torch.Tensor, *, device: torch.device, tta: bool = False
) -> torch.Tensor:
    """``probs_NKHW`` float32 on ``device``: the weighted mean of members of one view."""
    image_NCHW = send(image_NCHW, device)
    parts = []
    for member in members:
        seen = (
            _turned_back(
                batch_probs(member.network, _turned(image_NCHW, turns, flip), device), turns, flip
            )
            for turns, flip in (_TURNS if tta else _TURNS[:1])
        )
        sum_NKHW = functools.reduce(torch.add, seen)
        parts.append((member.weight, sum_NKHW / len(_TURNS) if tta else sum_NKHW))
    return weighted_mean(parts)


def _turned(image_NCHW: torch.Tensor, turns: int, flip: bool) -> torch.Tensor:
    turned_NCHW = torch.rot90(image_NCHW, turns, dims=(-2, -1))
    return turned_NCHW.flip(-1) if flip else turned_NCHW


def _turned_back(turned_NKHW: torch.Tensor, turns: int, flip: bool) -> torch.Tensor:
    return torch.rot90(turned_NKHW.flip(-1) if flip else turned_NKHW, -turns, dims=(-2, -1))


def disagreement(probs: torch.Tensor, classes: torch.Tensor, class_dim: int) -> torch.Tensor:
    """How much probability the members give to other classes than the ensemble's: 0 … 1.

    ``probs`` are the ensemble's; ``classes`` and the result lack their axis ``class_dim``. As they
    are the weighted mean p̄ of the members' pᵢ, this is 1 − p̄[k] = Σ wᵢ (1 − pᵢ[k]), where k is the
    class that the ensemble names. It is 0 where all members are sure of the same class, and large
    where they name different classes or are all unsure. It finds errors better than the members'
    distance from each other, which a barely trained member dominates (benchmarks/README.md).
    """
    named = probs.gather(class_dim, classes.long().unsqueeze(class_dim))
    return 1 - named.squeeze(class_dim)


def weighted_mean(parts: Sequence[tuple[float, torch.Tensor]]) -> torch.Tensor:
    """The mean of tensors, which come with their weights."""
    total = sum(weight for weight, _ in parts)
    mean = torch.zeros_like(parts[0][1])
    for weight, part in parts:
        mean.add_(part, alpha=weight / total)
    return mean


def write_bundle(
    folder: Path,
    members: Sequence[tuple[Path, float]],
    *,
    metric: MetricName,
    scores: Mapping[str, Any],
    factors: Mapping[str, float] | None = None,
) -> None:
    """Write a bundle of checkpoints with their weights; ``scores`` is kept as it is, for people.

    ``factors``: by class, what its probability is multiplied with before the largest one is named.

    The folder is written as a whole or not at all. An older bundle of that name is replaced.
    Raises ``UserError`` where a checkpoint is damaged.
    """
    entries = []
    with whole_folder(folder) as unfinished:
        for number, (source, weight) in enumerate(members):
            name = f"member_{number:02d}"
            checkpoint.save_checkpoint(
                unfinished / name,
                checkpoint.load_info(source, check_content=True),
                checkpoint.load_model_tensors(source),
                training=None,
            )
            entries.append({"folder": name, "weight": weight})
        manifest = {
            "format": FORMAT,
            "metric": metric,
            "members": entries,
            "factors": None if factors is None else dict(factors),
            "scores": dict(scores),
        }
        (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=2))


def bundle_networks(folder: Path) -> list[tuple[Path, float]]:
    """The checkpoints in a bundle, with weights that sum to 1. Raises as ``read_manifest`` does."""
    return _networks_of(folder, read_manifest(folder))


def _networks_of(folder: Path, manifest: Mapping[str, Any]) -> list[tuple[Path, float]]:
    members = manifest["members"]
    total = sum(member["weight"] for member in members)
    return [(folder / member["folder"], member["weight"] / total) for member in members]


def read_manifest(folder: Path) -> dict[str, Any]:
    """``bundle.json``. Raises ``UserError`` where it is damaged, or leads out of the bundle."""
    _check_links(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: not a bundle: it has no {MANIFEST}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        if manifest["format"] == 1:
            manifest["factors"] = None
        elif manifest["format"] != FORMAT:
            raise UserError(
                f"{path}: format {manifest['format']}; this version reads 1 to {FORMAT}: "
                "use the version of segsearch that wrote it"
            )
        if not manifest["members"]:
            raise UserError(f"{path}: it has no members")
        for member in manifest["members"]:
            if not re.fullmatch(r"member_\d+", member["folder"]) or not member["weight"] > 0:
                raise UserError(
                    f"{path}: member {member!r}; allowed: a folder member_NN and a weight above 0"
                )
        if not math.isfinite(sum(member["weight"] for member in manifest["members"])):
            raise UserError(f"{path}: the members' weights add up to no number")
        factors = {} if manifest["factors"] is None else dict(manifest["factors"])
        for name, factor in factors.items():
            if not 0 < factor < math.inf:
                raise UserError(
                    f"{path}: the factor of {name!r} is {factor}; allowed: a number above 0"
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error!r})") from error
    return manifest


def _factors_of(
    factors: Mapping[str, float], class_names: Sequence[str], bundle: Path
) -> tuple[float, ...]:
    """In the order of the classes. Raises ``UserError`` where they are those of other classes."""
    if set(factors) != set(class_names):
        raise UserError(
            f"{bundle / MANIFEST}: its factors are not those of its classes, "
            f"{', '.join(class_names)}; copy the bundle again from its source"
        )
    return tuple(float(factors[name]) for name in class_names)


def _check_links(bundle: Path) -> None:
    """Raise ``UserError`` where a symbolic link in a bundle leads out of it, or nowhere."""
    inside = bundle.resolve()
    for folder, folders, files in os.walk(bundle):
        for path in (Path(folder, name) for name in (*folders, *files)):
            target = Path(os.path.realpath(path))  # of a circle of links, one that isn't there
            if path.is_symlink() and not (target.exists() and inside in target.parents):
                raise UserError(
                    f"{path}: a link out of the bundle ({path.readlink()}); a bundle holds all "
                    "that it reads: replace the link with the file"
                )
