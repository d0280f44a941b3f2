"""Checkpoints: a folder of safetensors and JSON, complete or refused.

    model.safetensors      the weights to predict with (the moving average, where there is one)
    training.safetensors   what going on needs besides: optimizer, and raw weights under an average
    checkpoint.json        TrialConfig, epoch, classes, where it came from, and the files' sizes

``checkpoint.json`` is written last and lists the other files' sizes, so that a copy that was cut
off anywhere is seen as such. Nothing is pickled.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from segcore.config import TrialConfig
from segcore.errors import UserError

FORMAT = 1
MANIFEST = "checkpoint.json"
MODEL = "model.safetensors"
TRAINING = "training.safetensors"

StateDict = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself, without its tensors."""

    config: TrialConfig
    epoch: int
    """Epochs done, 1-based: training goes on with the next one."""
    score_history: tuple[float, ...]
    """``config.metric`` on the validation split after each epoch."""
    class_names: tuple[str, ...]
    class_colors: tuple[tuple[int, int, int], ...]
    data_fingerprint: str
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """``config.metric`` on the validation split, of these weights."""
        return self.score_history[-1]


def save_checkpoint(
    folder: Path, info: CheckpointInfo, model: StateDict, training: StateDict | None
) -> None:
    """Write a checkpoint into ``folder``; ``training`` None: for prediction only."""
    folder.mkdir(parents=True, exist_ok=True)
    _save_tensors(folder / MODEL, model)
    names = [MODEL]
    if training is not None:
        _save_tensors(folder / TRAINING, training)
        names.append(TRAINING)
    manifest = {
        **asdict(info),
        "format": FORMAT,
        "config": info.config.to_dict(),
        "files": {name: (folder / name).stat().st_size for name in names},
    }
    partial = folder / f"{MANIFEST}.partial"
    with partial.open("w") as file:
        json.dump(manifest, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / MANIFEST)


def load_info(folder: Path) -> CheckpointInfo:
    """Read a checkpoint's JSON and check its files. Raises ``UserError`` where it isn't whole."""
    path = folder / MANIFEST
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        if values["format"] != FORMAT:
            raise UserError(f"{path}: format {values['format']}; this version reads {FORMAT}")
        for name, size in values["files"].items():
            found = (folder / Path(name).name).stat().st_size
            if found != size:
                raise UserError(f"{folder / name}: {found} bytes of {size}: cut off while written")
        return CheckpointInfo(
            config=TrialConfig.from_dict(values["config"]),
            epoch=int(values["epoch"]),
            score_history=tuple(float(score) for score in values["score_history"]),
            class_names=tuple(values["class_names"]),
            class_colors=tuple((r, g, b) for r, g, b in values["class_colors"]),
            data_fingerprint=values["data_fingerprint"],
            versions=dict(values["versions"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: not a complete checkpoint ({error!r})") from error


def is_complete(folder: Path) -> bool:
    """Whether ``folder`` holds a checkpoint that can be loaded."""
    try:
        load_info(folder)
    except UserError:
        return False
    return True


def load_model_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The weights to predict with, on the CPU."""
    return load_file(folder / MODEL)


def load_training_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """What ``save_checkpoint`` got as ``training``, on the CPU."""
    return load_file(folder / TRAINING)


def _save_tensors(path: Path, tensors: StateDict) -> None:
    # safetensors wants dense memory of its own for each tensor; channels_last weights are not.
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
