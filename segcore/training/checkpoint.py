"""Checkpoints: a folder of safetensors and JSON, which is complete or refused.

    model.safetensors      the weights to predict with: the moving average, if there is one
    training.safetensors   what resuming needs besides: the optimizer's state, the weights
                           themselves if there is an average, and the scaler of float16
    checkpoint.json        TrialConfig, epoch, classes, versions, the sizes of the other files,
                           and the SHA-256 of model.safetensors

``checkpoint.json`` is written last and lists the sizes of the other files, so that an incomplete
copy is noticed. The hash is compared when a bundle is made or loaded, not at every epoch of a
training. A new checkpoint replaces an older one when all of it is on the disk. Nothing is pickled.
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
from segcore.files import sha256_of, sync, whole_file
from segcore.networks.models import build_network, on_meta
from segcore.reading.bands import RGB, Bands

FORMAT = 2
"""2: a configuration has ``scale`` and ``metres_per_px`` instead of ``tile_scale``."""
MANIFEST = "checkpoint.json"
MODEL = "model.safetensors"
TRAINING = "training.safetensors"

_HEADER_BYTES = 120
"""The description of a tensor in a file: its name, type, shape and place."""

StateDict = Mapping[str, torch.Tensor]
_Byte = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint contains besides tensors."""

    config: TrialConfig
    epoch: Annotated[int, Field(ge=1)]
    """Number of epochs done: training goes on with the next one."""
    score_history: Annotated[tuple[float, ...], Field(min_length=1)]
    """``config.metric`` on the validation split after each epoch."""
    class_names: Annotated[tuple[str, ...], Field(min_length=1, max_length=IGNORE_INDEX)]
    class_colors: tuple[tuple[_Byte, _Byte, _Byte], ...]
    data_fingerprint: str
    versions: dict[str, str] = field(default_factory=dict)
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """The number of images at once that fitted into memory."""
    bands: Bands = RGB
    """How photographs are read for this network, with the value ranges of its training data."""

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
    """Write a checkpoint into ``folder``. With ``training`` None, it is for prediction only.

    Raises ``StorageError`` if there is no room, and leaves an older checkpoint as it was.
    """
    tensors = {MODEL: model} if training is None else {MODEL: model, TRAINING: training}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            # Files get their names in reverse order: the manifest is last.
            unfinished = {
                name: stack.enter_context(whole_file(folder / name))
                for name in (MANIFEST, *tensors)
            }
            for name, state in tensors.items():
                _save_tensors(unfinished[name], state)
            manifest = {
                **asdict(info),
                "format": FORMAT,
                "config": info.config.to_dict(),
                "files": {name: unfinished[name].stat().st_size for name in tensors},
                "model_sha256": sha256_of(unfinished[MODEL]),
            }
            unfinished[MANIFEST].write_text(json.dumps(manifest, indent=2))
            for path in unfinished.values():
                sync(path)
            # From here until the manifest has its name there is no checkpoint. Otherwise a process
            # that is killed in between would leave files of two checkpoints.
            for name in (MANIFEST, MODEL, TRAINING):
                (folder / name).unlink(missing_ok=True)
        sync(folder)
    except (OSError, SafetensorError) as error:
        raise StorageError(_explain_failure(folder, [*tensors.values()], error)) from error


def load_info(folder: Path, *, check_content: bool = False) -> CheckpointInfo:
    """Read a checkpoint's JSON and check its files. Raises ``UserError`` if it isn't complete.

    ``check_content`` compares the weights with the hash of what was written. Checkpoints of older
    versions have no hash.
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
    """Check a checkpoint's JSON against the sizes of the files beside it.

    The checkpoint may be on another machine: ``where`` is its name in the ``UserError``.
    """
    try:
        values: dict[str, Any] = json.loads(manifest)
        if values["format"] != FORMAT:
            raise UserError(
                f"{where}: format {values['format']}; this version reads {FORMAT}: train it anew, "
                "or use the version of segsearch that made it"
            )
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


def checkpoint_bytes(config: TrialConfig, num_classes: int, bands: Bands = RGB) -> int:
    """The approximate size of a configuration's checkpoints, with what resuming needs.

    The network is built on torch's meta device: nothing is computed or downloaded.
    """
    config = config.model_copy(update={"encoder_weights": None})
    network = on_meta(lambda: build_network(config, num_classes, bands))
    state = network.state_dict().values()
    weights = sum(tensor.nbytes for tensor in state)
    parameters = sum(parameter.nbytes for parameter in network.parameters())
    moments = {"adam": 2, "adamw": 2, "sgd": int(config.momentum > 0)}[config.optimizer]
    copies = 1 if config.ema_decay is None else 2
    return weights * copies + parameters * moments + len(state) * _HEADER_BYTES * (1 + moments)


def _save_tensors(path: Path, tensors: StateDict) -> None:
    # safetensors wants contiguous tensors, and weights in channels_last are not contiguous. It
    # wants no two that share memory, as layers with common weights do: so each is a copy.
    copies = {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }
    save_file(copies, path)


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
