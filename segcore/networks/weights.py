"""Pretrained weights of encoders, with the mean and standard deviation that images must have."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from safetensors import safe_open
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import TimmUniversalEncoder, TimmViTEncoder
from torch import Tensor, nn

from segcore.config import TrialConfig
from segcore.errors import UserError
from segcore.files import locked, whole_file
from segcore.reading.bands import RGB, Bands

HUB_TIMEOUT_S = 10.0
"""How long the hub may take to answer the first request."""


class Statistics(NamedTuple):
    """Mean and standard deviation of each channel (of RGB, or of a data set) scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def of_channels(self, bands: Bands) -> "Statistics":
        """What is right for the channels of a data set: these of RGB, and its own of all others."""
        own = Statistics(bands.mean or _HALF.mean[:1] * bands.channels,
                         bands.std or _HALF.std[:1] * bands.channels)  # fmt: skip
        mean, std = (
            tuple(own_value if color is None else of_rgb[color]
                  for own_value, color in zip(own_C, bands.channel_colors, strict=True))
            for of_rgb, own_C in zip(self, own, strict=True)
        )  # fmt: skip
        return Statistics(mean, std)


IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = Statistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_DPN = Statistics((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)

# smp keeps the statistics of its own encoders only on the hub. These are the encoders, by the
# beginning of their names, whose weights need others than ImageNet's.
_UNUSUAL_STATISTICS = {
    "xception": _HALF,
    "inceptionv4": _HALF,
    "inceptionresnetv2": _HALF,
    "timm-tf_efficientnet_lite": _HALF,
    "dpn": _DPN,
}


def encoder_weights_file(config: TrialConfig, weights_dir: Path | None) -> Path | None:
    """The file that ``load_encoder_weights`` reads for a configuration; None for random weights.

    If ``encoder_weights`` is a path, it is that file, or its copy in ``weights_dir`` that
    ``gather_weights`` made. If it is a name ("imagenet", or another that smp knows for the encoder,
    such as "ssl"), it is a file in ``weights_dir``. If that file is missing, it is fetched from the
    Hugging Face hub: let that happen once, before any worker starts. ``HF_ENDPOINT``, ``HF_HOME``,
    ``HF_HUB_OFFLINE`` and proxies are honoured.
    Raises ``UserError`` if there is no such file or name, or if it can't be fetched.
    """
    if config.encoder_weights is None:
        return None
    if config.encoder is None:
        raise UserError(
            f"encoder_weights {config.encoder_weights!r}: architecture {config.architecture!r} "
            "has no encoder to load them into; set encoder_weights=None"
        )
    path = Path(config.encoder_weights).expanduser()
    if path.suffix in (".pth", ".safetensors"):
        if weights_dir is not None and (weights_dir / path.name).is_file():
            return weights_dir / path.name
        if not path.is_file():
            raise UserError(f"encoder_weights {config.encoder_weights!r}: there is no such file")
        return path
    if weights_dir is None:
        raise ValueError(f"encoder_weights {config.encoder_weights!r} need a weights_dir")
    # The parameters of an encoder have other names in a DPT than in any other architecture.
    kind = ".dpt" if config.architecture == "dpt" else ""
    name = "" if config.encoder_weights == "imagenet" else f".{config.encoder_weights}"
    path = weights_dir / f"{config.encoder}{name}{kind}.safetensors"
    if not path.is_file():
        _fetch(config.encoder, config.encoder_weights, path, for_dpt=bool(kind))
    return path


def gather_weights(configs: Iterable[TrialConfig], weights_dir: Path) -> None:
    """Put every file of weights that the configurations name into one folder, for other machines.

    Raises ``UserError`` as ``encoder_weights_file`` does, and if two files have the same name.
    """
    origins: dict[str, str] = {}
    for config in configs:
        if config.encoder_weights is not None:
            name = Path(config.encoder_weights).name
            other = origins.setdefault(name, config.encoder_weights)
            if other != config.encoder_weights:
                raise UserError(
                    f"encoder_weights {other!r} and {config.encoder_weights!r}: files of the same "
                    "name; rename one of them"
                )
        path = encoder_weights_file(config, weights_dir)
        if path is not None and path.parent != weights_dir:
            with _written(weights_dir / path.name) as unfinished:
                shutil.copyfile(path, unfinished)


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """Give a path to write to; the file gets the name ``path`` when it is whole."""
    with locked(path.with_name(f".{path.name}.lock")), whole_file(path) as unfinished:
        yield unfinished


def load_encoder_weights(
    encoder: nn.Module, name: str, path: Path, bands: Bands = RGB
) -> Statistics:
    """Load a file into smp's encoder ``name``; return the statistics that RGB images must have.

    Where the file's first layer takes three channels, they are red, green and blue, and it is made
    to take the channels that ``bands`` tells.

    Every parameter must be in the file with its shape, and the file must hold nothing else, except
    the classifier, which smp itself leaves out, and stages that a shallower encoder doesn't have.
    Raises ``UserError`` naming the first parameters that are wrong.
    """
    state, statistics = _read(path)
    deeper = _deeper_stages(encoder)
    reads_image = _first_layers(encoder, bands.channels)
    state = {
        key: _for_channels(tensor, bands) if key in reads_image else tensor
        for key, tensor in state.items()
        if key not in deeper
    }
    try:
        # smp's encoders leave out the classifier and rename old keys; otherwise they are strict.
        encoder.load_state_dict(dict(state))
    except RuntimeError as error:
        raise UserError(_explain_mismatch(encoder, name, path, state)) from error
    return statistics or usual_statistics(encoder, name)


def _first_layers(encoder: nn.Module, channels: int) -> set[str]:
    """The weights of the convolutions that read the image: some encoders have several."""
    return {
        f"{name}.weight"
        for name, layer in encoder.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.in_channels == channels and layer.groups == 1
    }


def _for_channels(weight: Tensor, bands: Bands) -> Tensor:
    """The weight of a first convolution over RGB for other channels; one of others as it is.

    A channel of a known colour gets that colour's filters, as it gets its mean and std. For others
    the filters are repeated in their order, and all are scaled so that their sum over uniform
    channels stays (as smp's ``set_in_channels`` and timm do it). A single channel gets their sum.
    """
    if weight.shape[1] != 3:
        return weight
    if bands.channels == 1:
        return weight.sum(dim=1, keepdim=True)
    colors = [
        place % 3 if color is None else color for place, color in enumerate(bands.channel_colors)
    ]
    return weight[:, colors] * (3 / bands.channels)


def usual_statistics(encoder: nn.Module | None, name: str | None) -> Statistics:
    """The statistics that the usual weights of an encoder were trained with. Needs no network."""
    if isinstance(encoder, TimmUniversalEncoder | TimmViTEncoder):
        timm_config = timm.models.get_pretrained_cfg(encoder.name)
        return IMAGENET if timm_config is None else _statistics(timm_config.to_dict())
    for prefix, statistics in _UNUSUAL_STATISTICS.items():
        if name is not None and name.startswith(prefix):
            return statistics
    return IMAGENET


def _statistics(values: Mapping[str, Any]) -> Statistics:
    return Statistics(mean=tuple(values["mean"]), std=tuple(values["std"]))


def _read(path: Path) -> tuple[dict[str, Tensor], Statistics | None]:
    """A file's tensors, and the statistics that ``_fetch`` stored with them. Runs no code of it."""
    metadata: dict[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Those of pickle, zipfile, torch and safetensors share no base.
        raise UserError(
            f"encoder_weights {path}: not readable as weights ({error}); "
            "a .safetensors file, or a .pth file of plain tensors, is needed"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(
            f"encoder_weights {path}: holds more than weights; save the encoder's "
            "state_dict() alone: parameter name → tensor"
        )
    if "mean" not in metadata:
        return state, None
    return state, _statistics({key: json.loads(metadata[key]) for key in ("mean", "std")})


def _deeper_stages(encoder: nn.Module) -> set[str]:
    """Parameters of the stages that a timm encoder of less than full depth (PSPNet) leaves out."""
    if not isinstance(encoder, TimmUniversalEncoder) or len(encoder.out_channels) > 5:
        return set()
    with torch.device("meta"):
        full = TimmUniversalEncoder(encoder.name, pretrained=False)
    return set(full.state_dict()) - set(encoder.state_dict())


def _explain_mismatch(encoder: nn.Module, name: str, path: Path, state: dict[str, Tensor]) -> str:
    wanted = encoder.state_dict()
    findings = {
        "missing": sorted(wanted.keys() - state.keys()),
        "unknown": sorted(state.keys() - wanted.keys()),
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
            for key in sorted(wanted.keys() & state.keys())
            if state[key].shape != wanted[key].shape
        ],
    }
    listed = "; ".join(
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for what, keys in findings.items()
        if keys
    )
    return (
        f"encoder_weights {path} don't fit encoder {name!r}: parameters {listed}; "
        "give the state_dict() of smp's encoder of that name"
    )


def _fetch(name: str, weights: str, path: Path, *, for_dpt: bool) -> None:
    """Download with the code of smp or timm; write weights and statistics to one file."""
    repository, revision = _repository(name, weights)
    in_smp = name in smp.encoders.encoders
    try:
        _reach_hub(repository, revision)
        if for_dpt:
            encoder: nn.Module = TimmViTEncoder(name.removeprefix("tu-"), pretrained=True)
        else:
            encoder = smp.encoders.get_encoder(name, weights=weights if in_smp else True)
        if in_smp:
            statistics = _statistics(smp.encoders.get_preprocessing_params(name, weights))
        else:
            statistics = usual_statistics(encoder, name)
    except Exception as error:  # Those of the hub, its HTTP client, smp and timm share no base.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        command = f"python -m segcore.weights --encoder {name} --encoder-weights {weights}"
        raise UserError(
            f"encoder_weights {weights!r} of encoder {name} can't be fetched from the Hugging Face "
            f"hub ({repository}: {reason}). Behind a proxy set HTTPS_PROXY, for a mirror "
            f"HF_ENDPOINT. Without network run `{command}{' --architecture dpt' * for_dpt}` on a "
            f"machine that has one, then copy {path.name} to {path.parent} or give its path as "
            "encoder_weights"
        ) from error
    metadata = {key: json.dumps(value) for key, value in statistics._asdict().items()}
    with _written(path) as unfinished:
        save_file(encoder.state_dict(), unfinished, metadata=metadata)


def _repository(name: str, weights: str) -> tuple[str, str | None]:
    """The repository and revision of weights on the hub. Raises ``UserError`` if there is none."""
    if name in smp.encoders.encoders:
        settings = smp.encoders.encoders[name]["pretrained_settings"]
        if weights not in settings:
            raise UserError(
                f"encoder {name} has no weights {weights!r}; there are "
                f"{', '.join(settings)}, or give a .pth or .safetensors file"
            )
        return settings[weights]["repo_id"], settings[weights]["revision"]
    timm_name = name.removeprefix("tu-")
    if timm_name == name:  # smp has an older name for this one; its module knows timm's name.
        with torch.device("meta"):
            timm_name = smp.encoders.get_encoder(name).name
    timm_config = timm.models.get_pretrained_cfg(timm_name)
    if weights != "imagenet" or timm_config is None or not timm_config.hf_hub_id:
        tags = timm.list_pretrained(f"{timm_name.partition('.')[0]}.*")
        raise UserError(
            f"encoder {name} has no weights {weights!r}; give a .pth or .safetensors file, or "
            f"imagenet for {' or '.join(f'encoder tu-{tag}' for tag in tags) or 'another encoder'}"
        )
    return timm_config.hf_hub_id, None


def _reach_hub(repository: str, revision: str | None) -> None:
    """Ask the hub once. The download itself would try again for a minute."""
    known = try_to_load_from_cache(repository, "model.safetensors", revision=revision)
    if isinstance(known, str):
        return
    try:
        url = hf_hub_url(repository, "model.safetensors", revision=revision)
        get_hf_file_metadata(url, timeout=HUB_TIMEOUT_S)
    except HfHubHTTPError:
        pass  # The hub answers. The download will say what it misses.
