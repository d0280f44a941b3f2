"""TrialConfig: all settings of one training run."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from segcore.errors import UserError

IGNORE_INDEX = 255
"""The value of a mask's pixels that no loss, score or statistic of classes counts."""
IGNORED_COLOR = (128, 128, 128)
"""RGB of these pixels in pictures."""

MetricName = Literal["dice", "iou", "dice_per_image", "dice_kaggle", "pixel_accuracy"]
"""The scores that a search can maximise; ``segcore.scores.metrics`` defines them."""

Prefer = Literal["accuracy", "balance", "speed"]
"""Which of several models a search takes; ``segcore.choosing.choice`` says how."""

Scalar = bool | int | float | str | None
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class View(NamedTuple):
    """How a network looks at photographs.

    Without a scale, each photograph is squeezed to ``height_px`` × ``width_px`` as a whole. With
    one, a network sees windows of ``height_px`` × ``width_px`` of the photograph at that scale.
    """

    height_px: int
    width_px: int
    scale: float | None = None
    """Share of the photographs' own resolution; 1.0 is all of it."""
    metres_per_px: float | None = None
    """A ground size instead of a share, for georeferenced photographs."""

    @property
    def is_whole(self) -> bool:
        """Whether photographs are squeezed into the window as a whole."""
        return self.scale is None and self.metres_per_px is None


class TrialConfig(BaseModel):
    """One training run: input, network, loss, optimisation, augmentation and sampling of images.

    It is frozen, and checked when it is created. MLflow's parameters have the names of its fields.
    The search sets ``max_epochs``, ``metric``, ``seed``, ``fold`` and ``folds``, whatever a space
    gives for them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    # Input.
    height_px: Annotated[int, Field(ge=32)] = 368
    width_px: Annotated[int, Field(ge=32)] = 368
    """Of the window that a network sees, which may differ from trial to trial."""
    scale: Annotated[float, Field(gt=0, le=4)] | None = None
    """Share of the photographs' own resolution at which windows are cut; 1.0 is all of it. None,
    without ``metres_per_px``: the whole photograph is squeezed into the window."""
    metres_per_px: Positive | None = None
    """A ground size instead of ``scale``, for georeferenced photographs."""

    # Network: a name of segcore.networks.models.MODELS, or "package.module:factory".
    architecture: str = "unet"
    encoder: str | None = "resnet34"
    """smp's name of the encoder; None for an architecture without encoders."""
    encoder_weights: str | None = None
    """"imagenet", a .pth or .safetensors file, or None for random weights."""
    model_kwargs: dict[str, Scalar] = Field(default_factory=dict)

    # Loss: a name of segcore.training.losses.LOSSES, or "package.module:factory".
    loss: str = "dice_ce"
    loss_kwargs: dict[str, Scalar] = Field(default_factory=dict)

    # Optimisation.
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: Positive = 1e-3
    encoder_lr_factor: Positive = 1.0
    """The encoder learns with ``lr`` times this factor; a pretrained one wants less than 1."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """For "sgd" only. Adam and AdamW have torch's default betas."""
    schedule: Literal["constant", "cosine", "poly", "plateau"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    batch_size: Annotated[int, Field(ge=1)] = 8
    max_epochs: Annotated[int, Field(ge=1)] = 50
    patience_epochs: Annotated[int, Field(ge=1)] | None = None
    """Training ends after so many epochs without a better ``metric``; None: only at max_epochs."""
    clip_norm: Positive | None = 1.0
    """Gradients are scaled down to this norm; None: as they are."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of the moving average of weights that is scored and kept; None: no average. In
    the first steps the decay is less (``segcore.training.optim.WeightAverage``)."""

    # Augmentation and sampling.
    augmentation: str = "aerial"
    """A name of segcore.training.augment.AUGMENTATIONS, or "package.module:factory"."""
    augment_strength: Fraction = 0.5
    oversample_ratio: Annotated[float, Field(ge=1)] = 1.0
    """Photographs that hold rare classes are drawn up to this many times as often as others."""
    rare_crop_prob: Fraction = 0.0
    """Share of windows that lie around a pixel of a rare class, instead of anywhere. Of photographs
    that are squeezed whole, so many are replaced by an enlarged crop around such a pixel."""

    # What the search decides.
    metric: MetricName = "dice"
    """The score that the plateau schedule, early stopping and the search use."""
    seed: Annotated[int, Field(ge=0)] = 0
    epoch_mpx: Positive | None = None
    """Megapixels that go through the network in an epoch, whatever the view. None: as many as the
    training photographs have in the finest view of the search (``PreparedData.epoch_px``)."""
    fold: Annotated[int, Field(ge=0)] | None = None
    """The fold (0…``folds``−1) to validate on; None: the data's own split."""
    folds: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_spelling(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "tile_scale" in values:
            raise ValueError(
                f"tile_scale is gone; write scale={values['tile_scale']!r}: windows are cut "
                "anywhere in the photograph at this share of its resolution"
            )
        return values

    @model_validator(mode="after")
    def _check_relations(self) -> "TrialConfig":
        if self.scale is not None and self.metres_per_px is not None:
            raise ValueError("scale and metres_per_px are two words for one thing; give one")
        if self.warmup_epochs >= self.max_epochs and self.warmup_epochs > 0:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} leaves nothing of max_epochs "
                f"{self.max_epochs}; shorten the warm-up"
            )
        if (self.fold is None) != (self.folds is None) or (self.fold or 0) >= (self.folds or 1):
            raise ValueError(f"fold {self.fold} of {self.folds}: must be below the number of folds")
        return self

    @property
    def view(self) -> View:
        """How this run's network looks at photographs."""
        return View(self.height_px, self.width_px, self.scale, self.metres_per_px)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values, for ``from_dict``."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrialConfig":
        """Read what ``to_dict`` gave. Raises ``UserError`` naming each wrong or unknown field."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise UserError(f"trial configuration: {describe_validation_error(error)}") from error

    def flat(self) -> dict[str, Scalar]:
        """All values by one name each, for tables and MLflow, such as ``loss_kwargs.gamma``."""
        flat: dict[str, Scalar] = {}
        for name, value in self.to_dict().items():
            if isinstance(value, dict):
                flat.update({f"{name}.{key}": inner for key, inner in value.items()})
            else:
                flat[name] = value
        return flat


_SHOWN = 200
"""Characters of a wrong value."""
_PLAIN_WORDS = (
    (r"a valid dictionary( or instance of \w+)?", "a mapping"),
    ("Extra inputs are not permitted", "there is no such setting"),
    ("Field required", "is missing"),
)
"""What pydantic says, and what a person who doesn't know it understands."""


def describe_validation_error(error: ValidationError) -> str:
    """Pydantic's findings in one line: ``lr = -1: should be greater than 0; …``."""
    findings = []
    for finding in error.errors():
        where = ".".join(str(part) for part in finding["loc"]) or "values"
        what = finding["msg"].removeprefix("Value error, ").removeprefix("Input ")
        for theirs, ours in _PLAIN_WORDS:
            what = re.sub(theirs, ours, what)
        shown = repr(finding["input"])
        shown = f" = {shown[:_SHOWN]}…" if len(shown) > _SHOWN else f" = {shown}"
        is_told = finding["loc"] and finding["type"] != "missing"
        findings.append(f"{where}{shown if is_told else ''}: {what}")
    return "; ".join(findings)
