"""Checkpoints: a folder of safetensors and JSON, complete or refused.

    model.safetensors      the weights to predict with (the moving average, where there is one)
    training.safetensors   what going on needs besides: optimizer, and raw weights under an average
    checkpoint.json        TrialConfig, epoch, classes, where it came from, the files' sizes,
                           and the SHA-256 of model.safetensors

``checkpoint.json`` is written last and lists the other files' sizes, so that a copy that was cut
off anywhere is seen as such. The hash is compared where a bundle is made or loaded, not at every
epoch of a training. A new checkpoint takes an older one's place when all of it is on the
disk. Nothing is pickled.
"""

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from segcore.config import IGNORE_INDEX, TrialConfig, describe_validation_error
from segcore.errors import StorageError, UserError
from segcore.files import sha256_of, sync
from segcore.networks.models import build_network, on_meta

FORMAT = 1
MANIFEST = "checkpoint.json"
MODEL = "model.safetensors"
TRAINING = "training.safetensors"

_HEADER_BYTES = 120
"""What a file says of each tensor: name, type, shape and place."""

StateDict = Mapping[str, torch.Tensor]
_Byte = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself, without its tensors."""

    config: TrialConfig
    epoch: Annotated[int, Field(ge=1)]
    """Epochs done, 1-based: training goes on with the next one."""
    score_history: Annotated[tuple[float, ...], Field(min_length=1)]
    """``config.metric`` on the validation split after each epoch."""
    class_names: Annotated[tuple[str, ...], Field(min_length=1, max_length=IGNORE_INDEX)]
    class_colors: tuple[tuple[_Byte, _Byte, _Byte], ...]
    data_fingerprint: str
    versions: dict[str, str] = field(default_factory=dict)
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """How many images at once fitted into memory."""
    built_hash: str | None = None
    """``segcore.training.readback.check_built`` of the training."""

    def __post_init__(self) -> None:
        if len(self.class_colors) != len(self.class_names):
            raise ValueError(
                f"{len(self.class_names)} class_names, but {len(self.class_colors)} class_colors"
            )

    @property
    def score(self) -> float:
        """``config.metric`` on the validation split, of these weights."""
        return self.score_history[-1]


_INFO = TypeAdapter(CheckpointInfo)


def save_checkpoint(
    folder: Path, info: CheckpointInfo, model: StateDict, training: StateDict | None
) -> None:
    """Write a checkpoint into ``folder``; ``training`` None: for prediction only.

    Raises ``StorageError`` where there is no room, and leaves an older checkpoint as it was.
    """
    tensors = {MODEL: model} if training is None else {MODEL: model, TRAINING: training}
    partials = {name: folder / f"{name}.partial" for name in (*tensors, MANIFEST)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, state in tensors.items():
            _save_tensors(partials[name], state)
        manifest = {
            **asdict(info),
            "format": FORMAT,
            "config": info.config.to_dict(),
            "files": {name: partials[name].stat().st_size for name in tensors},
            "model_sha256": sha256_of(partials[MODEL]),
        }
        partials[MANIFEST].write_text(json.dumps(manifest, indent=2))
        for partial in partials.values():
            sync(partial)
        # From here to the last line there is no checkpoint, rather than files of two.
        for name in (MANIFEST, MODEL, TRAINING):
            (folder / name).unlink(missing_ok=True)
        for name, partial in partials.items():
            partial.rename(folder / name)
        sync(folder)
    except (OSError, SafetensorError) as error:
        for partial in partials.values():
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        raise StorageError(_explain_failure(folder, [*tensors.values()], error)) from error


def load_info(folder: Path, *, check_content: bool = False) -> CheckpointInfo:
    """Read a checkpoint's JSON and check its files. Raises ``UserError`` where it isn't whole.

    ``check_content`` compares the weights with the hash that was kept when they were written; the
    checkpoints of older versions have none.
    """
    try:
        manifest = (folder / MANIFEST).read_bytes()
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        info = parse_manifest(manifest, sizes, str(folder))
        written = json.loads(manifest).get("model_sha256")
        if check_content and written not in (None, sha256_of(folder / MODEL)):
            raise UserError(
                f"{folder / MODEL}: damaged: its content is not what was written (by its SHA-256); "
                "copy it again from its source"
            )
    except OSError as error:
        raise UserError(f"{folder}: not a complete checkpoint ({error!r})") from error
    return info


def parse_manifest(manifest: bytes, sizes: Mapping[str, int], where: str) -> CheckpointInfo:
    """A checkpoint's JSON, checked against the sizes of the files that lie beside it.

    For a checkpoint that isn't on this machine; ``where`` is named in the ``UserError``.
    """
    try:
        values: dict[str, Any] = json.loads(manifest)
        if values["format"] != FORMAT:
            raise UserError(f"{where}: format {values['format']}; this version reads {FORMAT}")
        for name, size in values["files"].items():
            found = sizes[name]
            if found != size:
                raise UserError(f"{where}/{name}: {found} bytes of {size}: cut off while written")
        if MODEL not in values["files"]:
            raise UserError(f"{where}: its {MANIFEST} lists no {MODEL}")
        return _INFO.validate_python(values)
    except ValidationError as error:
        what = describe_validation_error(error)
        raise UserError(f"{where}: not a complete checkpoint ({what})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{where}: not a complete checkpoint ({error!r})") from error


def load_model_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The weights to predict with, on the CPU. Raises ``UserError``."""
    return _load_tensors(folder / MODEL)


def load_training_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """What ``save_checkpoint`` got as ``training``, on the CPU. Raises ``UserError``."""
    return _load_tensors(folder / TRAINING)


def checkpoint_bytes(config: TrialConfig, num_classes: int) -> int:
    """About how large a configuration's checkpoints are, with what resuming needs.

    Nothing is computed or downloaded: the network is built on torch's meta device.
    """
    config = config.model_copy(update={"encoder_weights": None})
    network = on_meta(lambda: build_network(config, num_classes))
    state = network.state_dict().values()
    weights = sum(tensor.nbytes for tensor in state)
    parameters = sum(parameter.nbytes for parameter in network.parameters())
    moments = {"adam": 2, "adamw": 2, "sgd": int(config.momentum > 0)}[config.optimizer]
    copies = 1 if config.ema_decay is None else 2
    return weights * copies + parameters * moments + len(state) * _HEADER_BYTES * (1 + moments)


def _save_tensors(path: Path, tensors: StateDict) -> None:
    # safetensors wants dense memory of its own for each tensor; channels_last weights are not.
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not readable as weights ({error})") from error


def _explain_failure(folder: Path, states: Sequence[StateDict], error: Exception) -> str:
    needed = sum(tensor.nbytes for state in states for tensor in state.values())
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    return (
        f"{folder}: a checkpoint of {needed / 1e6:.1f} MB can't be written ({error}); "
        f"{free / 1e6:.1f} MB are free there: make room, then go on from the last one"
    )
