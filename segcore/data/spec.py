"""DatasetSpec: the contents of a dataset.yaml, checked."""

import functools
import math
import os
import re
import shlex
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from segcore.config import IGNORE_INDEX, IGNORED_COLOR, describe_validation_error
from segcore.data.splits import Split
from segcore.errors import UserError
from segcore.folders import decode, normal
from segcore.reading.bands import Bands
from segcore.reading.masks import MaskCoding

MAX_CLASSES = IGNORE_INDEX

Color = Annotated[str, Field(pattern=r"^#[0-9A-Fa-f]{6}$")]
Share = Annotated[float, Field(gt=0, lt=1)]
BandName = Annotated[int, Field(strict=True)] | Annotated[str, Field(min_length=1)]
SplitSource = Share | list[str] | str
"""A fraction to draw, a list of photographs, or a text file with one photograph per line."""


class SplitSpec(BaseModel):
    """Where each split comes from; without ``train``, everything that is left is for training."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    train: SplitSource | None = None
    val: SplitSource = 0.15
    test: SplitSource = 0.15
    seed: int = Field(default=0, ge=0)
    """Of the random draw: another seed draws other splits."""

    @field_validator("train", "val", "test", mode="before")
    @classmethod
    def _check_kind(cls, value: Any) -> Any:
        if isinstance(value, float | int) and not isinstance(value, bool) and not 0 < value < 1:
            raise ValueError("a share of the photographs lies between 0 and 1")
        if not isinstance(value, float | list | str):
            raise ValueError("expected a fraction, a list of photographs, or a text file")
        for name in value if isinstance(value, list) else ():
            if not isinstance(name, str) and type(name) is not int:
                raise ValueError(f"{name} is no name as YAML reads it; put quotes around it")
        return value

    @model_validator(mode="after")
    def _check_sum(self) -> "SplitSpec":
        drawn = sum(self.fractions.values())
        if isinstance(self.train, float) and abs(self.train + drawn - 1) > 1e-6:
            raise ValueError(f"train {self.train} and the others {drawn:.4g} don't add up to 1")
        if drawn >= 1:
            raise ValueError(f"val and test take {drawn:.4g} of the photographs; train needs some")
        if isinstance(self.train, list | str) and drawn:
            raise ValueError("train is a list: list val and test too, or leave train out")
        return self

    @property
    def fractions(self) -> dict[Split, float]:
        """The splits to be drawn at random, except train, which is the rest."""
        sources: dict[Split, SplitSource] = {"val": self.val, "test": self.test}
        return {split: value for split, value in sources.items() if isinstance(value, float)}


class MaskRule(BaseModel):
    """Where masks are that are named by another part of the photograph's path than its stem."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: str
    """A regular expression that is searched in the photograph's relative path."""
    path: str
    """Path of a mask. ``{1}``, or ``{name}``, is what that group of ``match`` has found."""

    @field_validator("match")
    @classmethod
    def _check_match(cls, value: str) -> str:
        return _checked_expression(value)

    @property
    def groups(self) -> list[str]:
        """What ``path`` may name of a match."""
        expression = re.compile(self.match)
        return [*map(str, range(1, expression.groups + 1)), *expression.groupindex]


class Snap(BaseModel):
    """Which values of masks are too far from those of classes to mean one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ignore: float = Field(gt=0, lt=0.5)
    """Ignored is what is farther from the nearest class than this share of the way to the next."""


class AreaGroup(BaseModel):
    """Photographs whose middles lie in one square cell of the ground are one group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell_m: float = Field(gt=0)
    """The side of a cell in metres."""


class DatasetSpec(BaseModel):
    """The contents of a ``dataset.yaml``; paths are relative to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: str | list[str]
    """Glob of the photographs, or several. What is the mask of another one is no photograph."""
    masks: str | MaskRule
    """Path of a mask. ``{stem}`` is the photograph's name without its ending, ``{folder}`` its
    folder."""
    without_mask: Literal["skip"] | None = None
    """Whether photographs that have no mask are left out; otherwise they are a problem."""
    classes: list[str] | dict[str, int] | dict[str, Color]
    """Names of the index values 0, 1, …; or the index value of each name; or its colour."""
    ignore_index: Annotated[int, Field(ge=0, le=255)] | None = None
    ignore_colors: list[Color] = Field(default_factory=list)
    snap: Literal["nearest"] | Snap | None = None
    """What happens to values of masks that are no class's but near one: they go to the nearest, or
    the doubtful ones are ignored. Otherwise they are a problem."""
    fit: Literal["crop"] | None = None
    """Whether masks that are a pixel or two larger or smaller than their photographs are fitted at
    the upper left corner. Otherwise they are a problem."""
    group: str | AreaGroup | None = None
    """A regular expression that is searched in the photograph's relative path. What its first group
    (or all of it) matches is the name of a group of photographs that stay in one split. Or the size
    of the pieces of ground whose photographs stay together."""
    split: SplitSpec = SplitSpec()
    colors: dict[str, Color] = Field(default_factory=dict)
    """Colours of classes in pictures, if the masks themselves have none."""
    bands: list[BandName] | None = None
    """The bands of the photographs that count: numbers from 1, or descriptions in the files."""
    range: list[tuple[float, float]] | None = None
    """The raw values that become 0 and 1: ``[low, high]``, or one such pair for each band."""
    nodata: float | None = None
    """The raw value of pixels that hold no data, beside what the files themselves say."""
    show: list[BandName] | None = None
    """Three of the bands, which people see as red, green and blue; or one, which they see grey."""

    @field_validator("images")
    @classmethod
    def _check_images(cls, value: str | list[str]) -> str | list[str]:
        if not value:
            raise ValueError('names no photographs; write a glob, such as "images/*.png"')
        return value

    @field_validator("range", mode="before")
    @classmethod
    def _check_range(cls, value: Any) -> Any:
        pairs = [value] if _is_pair(value) else value
        if value is not None and not (isinstance(pairs, list) and all(map(_is_pair, pairs))):
            raise ValueError("expected [low, high], or a list with one such pair for each band")
        return pairs

    @field_validator("classes", mode="before")
    @classmethod
    def _check_classes(cls, classes: Any) -> Any:
        if not isinstance(classes, list | dict) or not 2 <= len(classes) <= MAX_CLASSES:
            raise ValueError(f"expected a list or a mapping of 2 to {MAX_CLASSES} classes")
        if isinstance(classes, dict) and all(type(name) is int for name in classes):
            number, name = next(iter(classes.items()))
            raise ValueError(f"the name comes first: {{{name}: {number}, …}}")
        if odd := [name for name in classes if not isinstance(name, str) or not name.strip()]:
            raise ValueError(f"{odd[0]!r} is no name; put quotes around it")
        if odd := [name for name in classes if any(unicodedata.category(c) == "Cc" for c in name)]:
            raise ValueError(f"{odd[0]!r} holds a control character; write it on one line")
        if isinstance(classes, list):
            if repeated := sorted({name for name in classes if classes.count(name) > 1}):
                raise ValueError(f"{', '.join(repeated)} stand twice")
            return classes
        values = list(classes.values())
        if all(type(value) is int and 0 <= value <= 255 for value in values):
            keys = values
        elif all(isinstance(v, str) and re.fullmatch("#[0-9A-Fa-f]{6}", v) for v in values):
            keys = [value.upper() for value in values]
        else:
            raise ValueError('values are all index values 0 to 255, or all colours "#RRGGBB"')
        if len(set(keys)) < len(keys):
            raise ValueError("two classes have the same value")
        return classes

    @model_validator(mode="after")
    def _check_relations(self) -> "DatasetSpec":
        self._check_masks()
        if self.by_color and self.ignore_index is not None:
            raise ValueError("ignore_index is for index masks; colour masks have ignore_colors")
        if self.ignore_colors and not self.by_color:
            raise ValueError("ignore_colors is for colour masks; index masks have ignore_index")
        known = {value for value, _ in self._class_values()}
        if clash := known & set(self._ignored_values()):
            raise ValueError(f"value {min(clash)} is both a class and ignored")
        _ = self.photo_bands  # Raises ``ValueError``.
        if unknown := set(self.colors) - set(self.class_names):
            raise ValueError(f"colors: {min(unknown)!r} is no class")
        return self

    @field_validator("group")
    @classmethod
    def _check_group(cls, value: str | AreaGroup | None) -> str | AreaGroup | None:
        return _checked_expression(value) if isinstance(value, str) else value

    def _check_masks(self) -> None:
        groups = self.masks.groups if isinstance(self.masks, MaskRule) else []
        path = self.masks.path if isinstance(self.masks, MaskRule) else self.masks
        telling = [f"{{{name}}}" for name in ("stem", *groups)]
        if not any(name in path for name in telling):
            needed = " or ".join(telling)
            raise ValueError(f"masks: needs {needed}, or all photographs would share one mask")
        if other := set(re.findall(r"\{.*?\}", path)) - {*telling, "{folder}"}:
            allowed = f"{', '.join(telling)} and {{folder}}"
            raise ValueError(f"masks: {min(other)} means nothing; allowed: {allowed}")

    @property
    def mask_name(self) -> str:
        """The last part of the masks' path, with its ``{stem}`` or groups."""
        path = self.masks if isinstance(self.masks, str) else self.masks.path
        return path.rsplit("/", 1)[-1]

    def mask_of(self, photo: str) -> str | None:
        """The relative path of a photograph's mask; None: ``match`` doesn't match it."""
        image = PurePosixPath(photo)
        values: dict[str, str | None] = {"folder": str(image.parent), "stem": image.stem}
        path = self.masks if isinstance(self.masks, str) else self.masks.path
        if isinstance(self.masks, MaskRule):
            match = re.search(self.masks.match, photo)
            if match is None:
                return None
            values |= match.groupdict()
            values |= {str(n): text for n, text in enumerate(match.groups(), 1)}
        filled = re.sub(r"\{(\w+)\}", lambda found: values[found[1]] or "", path)
        return os.path.normpath(filled)

    def unset(self) -> set[str]:
        """Fields without a value that older versions didn't have: they are no part of a hash."""
        return {name for name in ("without_mask", "snap", "fit") if getattr(self, name) is None}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of classes 0 to K-1."""
        return tuple(self.classes)

    @property
    def photo_bands(self) -> Bands:
        """How photographs are read; ``measuring.complete_bands`` adds what must be measured."""
        numbers = None if self.bands is None else tuple(self.bands)
        ranges = self.range
        if ranges is not None and len(ranges) == 1:
            ranges = ranges * Bands(numbers).channels
        nodata = self.nodata
        return Bands(
            numbers=numbers,
            ranges=None if ranges is None else tuple(ranges),
            nodata=None if nodata is None or math.isnan(nodata) else nodata,  # NaN always counts.
            show=None if self.show is None else tuple(self.show),
        )

    @property
    def by_color(self) -> bool:
        """Whether the colour of a mask's pixel tells its class."""
        return isinstance(self.classes, dict) and isinstance(next(iter(self.classes.values())), str)

    @property
    def coding(self) -> MaskCoding:
        """What the values of masks mean."""
        ignored = [(value, IGNORE_INDEX) for value in self._ignored_values()]
        classes = (*self._class_values(), *ignored)
        snap = self.snap.ignore if isinstance(self.snap, Snap) else self.snap and 0.5
        return MaskCoding(self.by_color, classes, snap, fit=self.fit is not None)

    @property
    def class_colors(self) -> tuple[tuple[int, int, int], ...]:
        """RGB of each class: as ``colors`` or the masks say, else ``distinct_colors``."""
        own = dict(self.classes) if self.by_color and isinstance(self.classes, dict) else {}
        given = {**own, **self.colors}
        return tuple(
            _rgb(str(given[name])) if name in given else color
            for name, color in zip(
                self.class_names, distinct_colors(len(self.class_names)), strict=True
            )
        )

    def _class_values(self) -> list[tuple[int, int]]:
        """Each class's value in masks, with the class."""
        if not isinstance(self.classes, dict):
            return [(index, index) for index in range(len(self.classes))]
        values = self.classes.values()
        numbers = (value if isinstance(value, int) else _number(value) for value in values)
        return [(number, index) for index, number in enumerate(numbers)]

    def _ignored_values(self) -> list[int]:
        index = [] if self.ignore_index is None else [self.ignore_index]
        return [*index, *map(_number, self.ignore_colors)]


def load_spec(path: Path) -> DatasetSpec:
    """Read a ``dataset.yaml``. Raises ``UserError`` saying what is wrong with it."""
    try:
        text = normal(decode(path.read_bytes()))
        values = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError as error:
        refuse_misspelled(path)
        command = f"python -m segcore.prepare {shlex.quote(str(path.parent))}"
        raise UserError(f"{path} does not exist; {command} writes one") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} can't be read: {error}; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} can't be read: {error}") from error
    # YAML's own error, and what its constructors raise on numbers, dates and depths out of range.
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError) as error:
        what = f"{path} is no valid YAML: {' '.join(str(error).split())}"
        mend = "indent with spaces, and put quotes around what begins with *, &, !, % or @"
        raise UserError(f"{what}; {mend}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no mapping; it needs at least images, masks and classes")
    try:
        return DatasetSpec.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {describe_validation_error(error)}") from error


def refuse_misspelled(path: Path) -> None:
    """Raise ``UserError`` where a file beside ``path`` would be it if it were called so."""
    for other in sorted(path.parent.glob("*")):
        if other.name.lower() in {path.name, f"{path.stem}.yml"}:
            raise UserError(f"{other} must be called {path.name} to be read; rename or move it")


class _StrictLoader(yaml.SafeLoader):
    """Refuses what YAML reads otherwise than people: repeated keys, of which the last one wins, so
    that a class would be lost unnoticed; and numbers such as 010, which is 8, and 1:30, 90."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if repeated := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(
                None, None, f"{min(repeated)!r} stands twice", node.start_mark
            )
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        is_plain = re.fullmatch(r"[-+]?[\d_]+", node.value) and int(node.value) == value
        if not is_plain and not re.match("[-+]?0[xb]", node.value):
            what = f"{node.value} means {value} in YAML; write that, or put quotes around it"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
        return value


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)


def _checked_expression(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"no regular expression: {error}") from error
    return value


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    )


def _number(color: str) -> int:
    return int(color.removeprefix("#"), 16)


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue


@functools.cache
def distinct_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """RGB colours that are easy to tell apart, for data sets that bring none; always the same.

    Each one is the farthest, in CIE L*a*b*, from those before it and from ``IGNORED_COLOR``, so the
    first of n colours are the same for every n.
    """
    steps = np.linspace(0, 255, 18).round().astype(np.uint8)
    candidates_Q3 = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    lab_Q3 = _lab(candidates_Q3)
    # Neither near black or white nor glaring: they are seen beside photographs.
    calm_Q = (lab_Q3[:, 0] > 30) & (lab_Q3[:, 0] < 92) & (np.hypot(*lab_Q3[:, 1:].T) < 75)
    candidates_Q3, lab_Q3 = candidates_Q3[calm_Q], lab_Q3[calm_Q]
    distance_Q = np.linalg.norm(lab_Q3 - _lab(np.array([IGNORED_COLOR], np.uint8)), axis=1)
    colors = []
    for _ in range(count):
        farthest = int(distance_Q.argmax())
        red, green, blue = candidates_Q3[farthest].tolist()
        colors.append((red, green, blue))
        distance_Q = np.minimum(distance_Q, np.linalg.norm(lab_Q3 - lab_Q3[farthest], axis=1))
    return tuple(colors)


def _lab(rgb_Q3: NDArray[np.uint8]) -> NDArray[np.float32]:
    """CIE L*a*b*, in which equal distances look about equally far."""
    return np.asarray(cv2.cvtColor(rgb_Q3[None].astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0])
