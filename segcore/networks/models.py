"""Networks by name: photographs of any size in, logits of the same size out."""

import difflib
import inspect
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.encoders import TimmUniversalEncoder
from torch import Tensor, nn
from torch.nn import functional as F

from segcore.config import TrialConfig
from segcore.errors import UserError
from segcore.networks.unet import ScratchUNet
from segcore.networks.weights import (
    Statistics,
    encoder_weights_file,
    load_encoder_weights,
    usual_statistics,
)
from segcore.plugins import resolve
from segcore.reading.bands import RGB, Bands

MODELS: dict[str, Callable[..., nn.Module]] = {
    **smp.MODEL_ARCHITECTURES_MAPPING,
    "scratch_unet": ScratchUNet,
}
"""Architectures by name. A user's own is ``package.module:factory``, called as
``factory(num_classes=K, **model_kwargs)``, and with ``in_channels=C`` if it has a parameter of that
name. It returns a module that takes a normalised float image NCHW and gives logits NKHW. If the
module has a ``size_multiple``, images are padded to multiples of it; if it has an ``encoder``, the
encoder learns with ``encoder_lr_factor``.
"""

_MIN_SIZE_PX = {"pan": 128}
"""PAN halves its deepest map, which is at 1/16 of the image's size, three more times."""
_TYPICAL_ENCODERS = ("resnet34", "tu-convnext_tiny", "mit_b0", "tu-vit_small_patch16_224")
"""One encoder of each kind, which error messages suggest."""
# Arguments of smp's architectures that model_kwargs must not set. Logits need no activation.
_OURS = {
    *("self", "kwargs", "encoder_name", "encoder_weights"),
    *("in_channels", "classes", "activation", "aux_params"),
}


class SegmentationNetwork(nn.Module):
    """Normalises and pads an image, runs ``network`` on it, and crops the logits to its size."""

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(
        self,
        network: nn.Module,
        statistics: Statistics,
        size_multiple: int = 1,
        min_size_px: int = 1,
    ) -> None:
        super().__init__()
        self.network = network
        self.size_multiple = size_multiple
        self.min_size_px = min_size_px
        # Buffers are saved with the weights, so a checkpoint has the statistics of its training.
        self.register_buffer("mean_C11", torch.tensor(statistics.mean).view(-1, 1, 1))
        self.register_buffer("std_C11", torch.tensor(statistics.std).view(-1, 1, 1))

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """Image NCHW of 0..255, uint8 or float (``to_tensor``) → logits NKHW of its H and W."""
        height_px, width_px = image_NCHW.shape[-2:]
        x_NCHW = (image_NCHW.float() / 255 - self.mean_C11) / self.std_C11
        # Padding is below and to the right, with zeros: zero is the mean colour here.
        padding = (0, self._padded(width_px) - width_px, 0, self._padded(height_px) - height_px)
        logits_NKHW: Tensor = self.network(F.pad(x_NCHW, padding))
        return logits_NKHW[..., :height_px, :width_px]

    def encoder_parameters(self) -> list[nn.Parameter]:
        """The parameters that learn with ``encoder_lr_factor``; empty without an encoder."""
        encoder = getattr(self.network, "encoder", None)
        return list(encoder.parameters()) if isinstance(encoder, nn.Module) else []

    def other_parameters(self) -> list[nn.Parameter]:
        """All parameters that don't belong to the encoder."""
        encoder = {id(parameter) for parameter in self.encoder_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in encoder]

    def _padded(self, size_px: int) -> int:
        return self.size_multiple * math.ceil(max(size_px, self.min_size_px) / self.size_multiple)


def build_network(
    config: TrialConfig, num_classes: int, bands: Bands = RGB, *, weights_dir: Path | None = None
) -> SegmentationNetwork:
    """Build the network of a configuration and load ``encoder_weights`` into its encoder.

    ``bands`` tells the channels of its images. Red, green and blue keep the filters, mean and
    standard deviation of the encoder's weights; other channels get the mean and standard deviation
    of the data set.

    If a checkpoint will bring all weights, give a configuration with ``encoder_weights=None``.
    Raises ``UserError`` if architecture, encoder, ``model_kwargs`` and weights don't fit together.
    """
    factory = resolve("architecture", config.architecture, MODELS)
    _check_names(config, factory)
    try:
        network, size_multiple = _call(factory, config, num_classes, bands.channels)
    except UserError:
        raise
    except Exception as error:  # smp, timm and a user's own code may raise anything
        raise UserError(_explain_build_failure(config, error)) from error
    if not isinstance(network, nn.Module):
        raise UserError(
            f"architecture {config.architecture!r} returned {type(network).__name__}; "
            "a factory returns a torch.nn.Module"
        )
    encoder = getattr(network, "encoder", None)
    path = encoder_weights_file(config, weights_dir)
    if path is None or encoder is None or config.encoder is None:
        statistics = usual_statistics(encoder, config.encoder)
    else:
        statistics = load_encoder_weights(encoder, config.encoder, path, bands)
    min_size_px = _MIN_SIZE_PX.get(config.architecture, 1)
    statistics = statistics.of_channels(bands)
    return SegmentationNetwork(network, statistics, size_multiple, min_size_px)


def check_network(config: TrialConfig, num_classes: int, bands: Bands = RGB) -> int:
    """Check that the network can be built and takes a training batch; return its parameter count.

    The check runs on torch's meta device, which computes shapes but no values, and loads no
    weights. If that fails, the network is run for real on at most two images.
    Raises ``UserError``.
    """
    config = config.model_copy(update={"encoder_weights": None})
    shape_NCHW = (config.batch_size, bands.channels, config.height_px, config.width_px)
    try:
        network = on_meta(lambda: build_network(config, num_classes, bands))
        with torch.device("meta"), torch.no_grad():
            logits_NKHW = network.train()(torch.empty(shape_NCHW))
    except UserError:
        raise
    except Exception:  # This may be a limit of the meta device. The real run decides.
        network = build_network(config, num_classes, bands)
        shape_NCHW = (min(config.batch_size, 2), *shape_NCHW[1:])
        try:
            with torch.no_grad():
                logits_NKHW = network.train()(torch.zeros(shape_NCHW))
        except Exception as error:
            raise UserError(_explain_run_failure(config, error)) from error
    wanted = (shape_NCHW[0], num_classes, *shape_NCHW[2:])
    if tuple(logits_NKHW.shape) != wanted:
        raise UserError(
            f"architecture {config.architecture!r} gives {tuple(logits_NKHW.shape)} for images "
            f"{shape_NCHW}; wanted are logits {wanted}: one plane of the image's size per class"
        )
    return sum(parameter.numel() for parameter in network.parameters())


def _call(
    factory: Callable[..., nn.Module], config: TrialConfig, num_classes: int, channels: int
) -> tuple[nn.Module, int]:
    """The network with random weights, and the number that H and W must be multiples of."""
    if not _is_smp(factory):
        kwargs = {"num_classes": num_classes, **config.model_kwargs}
        if _takes_channels(factory):
            kwargs = {"in_channels": channels, **kwargs}
        elif channels != 3:
            raise UserError(
                f"architecture {config.architecture!r} takes only RGB, but the photographs have "
                f"{channels} channels; give its factory a parameter in_channels, or name three "
                "`bands` in dataset.yaml"
            )
        network = factory(**kwargs)
        return network, getattr(network, "size_multiple", 1)
    build = partial(
        factory,
        encoder_name=config.encoder,
        encoder_weights=None,
        in_channels=channels,
        classes=num_classes,
        **config.model_kwargs,
    )
    fixed_px = _fixed_size_px(config)
    if fixed_px is None:
        network, multiple = build(), 1
    else:
        try:  # ViT, Swin and others have an option to take any size.
            network, multiple = build(dynamic_img_size=True), 1
        except TypeError:  # MaxViT and others take only multiples of the size they are made for.
            network, multiple = build(), fixed_px
    return network, math.lcm(multiple, _size_multiple(network, factory, config))


def _takes_channels(factory: Callable[..., nn.Module]) -> bool:
    try:
        return "in_channels" in inspect.signature(factory).parameters
    except ValueError:  # A builtin.
        return False


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """What ``build`` builds, on the meta device: it has shapes, but takes no time or memory."""
    try:
        with torch.device("meta"):
            return build()
    except Exception:  # smp's mit_b* encoders read values while they are built.
        return build().to("meta")


def _size_multiple(
    network: nn.Module, factory: Callable[..., nn.Module], config: TrialConfig
) -> int:
    assert isinstance(network, SegmentationModel)  # for the type checker
    stride: int = network.encoder.output_stride
    if isinstance(network, smp.DPT):
        return math.lcm(stride, 32)  # DPT also makes maps of 1/4 to 1/32 of the image's size.
    if isinstance(network.encoder, TimmUniversalEncoder):
        # Swin, HRNet and DLA need multiples of their full stride, even if the decoder uses fewer
        # stages: 32, or what an architecture asks for that dilates the encoder (DeepLab, PAN).
        dilated = inspect.signature(factory).parameters.get("encoder_output_stride")
        usual = 32 if dilated is None else dilated.default
        return int(config.model_kwargs.get("encoder_output_stride") or usual)
    return stride if network.requires_divisible_input_shape else 1


def _fixed_size_px(config: TrialConfig) -> int | None:
    """The only image size that a timm encoder takes; None for an encoder that takes any."""
    timm_config = timm.models.get_pretrained_cfg((config.encoder or "").removeprefix("tu-"))
    if timm_config is None or not timm_config.fixed_input_size:
        return None
    size_px = config.model_kwargs.get("img_size") or timm_config.input_size[-1]
    return int(size_px)


def _is_smp(factory: object) -> bool:
    return inspect.isclass(factory) and issubclass(factory, SegmentationModel)


def _check_names(config: TrialConfig, factory: Callable[..., nn.Module]) -> None:
    """Raise ``UserError`` for what smp would ignore, or reject with an unclear message."""
    where = f"architecture {config.architecture!r}"
    if not _is_smp(factory):
        if config.encoder is not None:
            raise UserError(
                f"{where} has no encoder to choose; set encoder=None, not {config.encoder!r}"
            )
        return
    if config.encoder is None:
        raise UserError(f"{where} needs an encoder, such as {', '.join(_TYPICAL_ENCODERS)}")
    if not _is_encoder(config.encoder):
        names = smp.encoders.get_encoder_names()
        known = [*names, *(f"tu-{name}" for name in timm.list_models() + timm.list_pretrained())]
        near = difflib.get_close_matches(config.encoder, known)
        raise UserError(
            f"unknown encoder {config.encoder!r}. "
            + (f"Did you mean {' or '.join(near)}? " if near else "")
            + f"Allowed: smp's own {len(names)} (smp.encoders.get_encoder_names()), such as "
            f"{', '.join(names[:3])}, and tu-NAME for each NAME of timm.list_models()"
        )
    allowed = inspect.signature(factory.__init__).parameters.keys() - _OURS  # type: ignore[misc]
    unknown = config.model_kwargs.keys() - allowed
    # timm's encoders take and check further arguments. Others ignore them silently.
    if unknown & _OURS or (unknown and not config.encoder.startswith("tu-")):
        raise UserError(
            f"{where} takes no model_kwargs {', '.join(sorted(unknown))}; "
            f"it takes {', '.join(sorted(allowed))}"
        )


def _is_encoder(name: str) -> bool:
    if name in smp.encoders.encoders or smp.encoders.is_equivalent_to_timm_universal(name):
        return True
    model, _, tag = name.removeprefix("tu-").partition(".")
    known = name.startswith("tu-") and timm.is_model(model)
    return known and (not tag or bool(timm.list_pretrained(f"{model}.{tag}")))


def _explain_build_failure(config: TrialConfig, error: Exception) -> str:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    where = f"architecture {config.architecture!r}"
    if config.architecture not in smp.MODEL_ARCHITECTURES_MAPPING:
        return (
            f"{where}, called with num_classes and model_kwargs {config.model_kwargs}, failed "
            f"({reason}); a factory takes num_classes and every name in model_kwargs"
        )
    if config.model_kwargs and _fits(config.architecture, config.encoder):
        return f"{where} with encoder {config.encoder} can't take {config.model_kwargs} ({reason})"
    architectures = [
        name for name in smp.MODEL_ARCHITECTURES_MAPPING if _fits(name, config.encoder)
    ]
    encoders = [name for name in _TYPICAL_ENCODERS if _fits(config.architecture, name)]
    return (
        f"{where} can't have encoder {config.encoder} ({reason}). "
        f"Architectures for this encoder: {', '.join(architectures) or 'none'}. "
        f"Encoders for this architecture: {', '.join(encoders)} and others"
    )


def _fits(architecture: str, encoder: str | None) -> bool:
    """Whether smp can build the architecture with the encoder."""
    config = TrialConfig(architecture=architecture, encoder=encoder)
    try:
        on_meta(lambda: _call(MODELS[architecture], config, 2, 3)[0])
    except Exception:  # The reason doesn't matter here.
        return False
    return True


def _explain_run_failure(config: TrialConfig, error: Exception) -> str:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    where = (
        f"architecture {config.architecture!r}"
        + (f" with encoder {config.encoder}" if config.encoder else "")
        + f" can't train on {config.height_px}×{config.width_px} in batches of {config.batch_size}"
    )
    if "more than 1 value per channel" in reason:
        return (
            f"{where}: its batch normalisation gets a single value per channel; "
            "use batch_size 2 or more"
        )
    fixed_px = _fixed_size_px(config)
    if fixed_px is not None:
        where += f", with an encoder made for {fixed_px} px (model_kwargs img_size changes that)"
    return f"{where} ({reason}); choose another size, encoder or architecture"
