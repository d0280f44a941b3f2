"""The values that masks hold → the classes, and what is ignored."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import ImageColor

from segcore.config import IGNORE_INDEX
from segcore.guessing.legends import Legend
from segcore.reading.looking import MaskLook
from segcore.reading.masks import are_near

MANY_VALUES = 48
"""More different values than people give classes: masks were saved with loss, or smoothed."""
STRAY_SHARE = 5e-5
"""A colour with a smaller share of the pixels is rather an accident than a class."""
_CLASS_SHARE = 5e-4
"""The least share of a class among many values."""
_INDEX_LIMIT = 64
"""Numbers below are counted classes; larger ones were spread to be seen."""
_NO_CLASS = re.compile(r"un ?-?label|void|ignore|unknown|no ?data|unclassified", re.IGNORECASE)


@dataclass(frozen=True)
class ClassGuess:
    """What dataset.yaml says of masks' values."""

    by_color: bool
    names: dict[int, str]
    """Of each class's number or colour (0xRRGGBB)."""
    shares: dict[int, float]
    """Of the pixels of all masks, that have exactly this value."""
    files: dict[int, int]
    """Masks that hold it."""
    ignored: dict[int, str] = field(default_factory=dict)
    """Numbers or colours that don't count, and why."""
    moved: float = 0
    """Share of the pixels with values between those of classes, for ``snap``."""
    values: int = 0
    """How many different values there are."""
    colors: dict[int, str] = field(default_factory=dict)
    """The colours that palettes give to numbers."""
    legend: str | None = None
    """The file that the names come from."""
    nodata: int | None = None
    """A number that the files call "no data", but that is taken for a class."""


def guess_classes(looks: Sequence[MaskLook], legends: Sequence[Legend]) -> ClassGuess | str:
    """The classes of masks, or the reason why they can't be guessed."""
    by_color = any(look.by_color for look in looks)
    if not by_color:
        odd = sorted({v for look in looks for v in look.pixels if v not in range(256)
                      and v != look.nodata})  # fmt: skip
        if odd:
            shown = ", ".join(f"{value:g}" for value in odd[:5])
            return (
                f"masks hold {len(odd)} values other than 0, 1 … 255, such as {shown}, but only "
                "those can be classes"
            )
    pixels, inner, files = Counter[int](), Counter[int](), Counter[int]()
    for look in [look.in_colors() for look in looks] if by_color else looks:
        pixels.update({int(value): count for value, count in look.pixels.items()})
        inner.update({int(value): count for value, count in look.inner.items()})
        files.update(int(value) for value in look.pixels)
    nodata = {int(look.nodata) for look in looks
              if look.nodata in range(1, 256) and look.nodata in look.pixels}  # fmt: skip
    for value in nodata if not by_color else ():
        del pixels[value]
    if len(pixels) < 2:
        held = ", ".join(hex_of(value) if by_color else str(value) for value in pixels)
        return f"all masks hold only one value ({held}), so there is nothing to learn"
    guess = _named(by_color, _Counts(pixels, inner, files), legends)
    if len(guess.names) < 2:
        return f"masks hold {len(pixels)} values, none of which is common enough to be a class"
    if nodata and not by_color and not guess.ignored:
        guess = replace(guess, ignored={min(nodata): 'the files call it "no data"'})
    zero = any(look.nodata == 0 for look in looks) and 0 in guess.names and not by_color
    return replace(guess, colors=_palette(looks, guess), nodata=0 if zero else None)


@dataclass(frozen=True)
class _Counts:
    """Of each value, in all masks."""

    pixels: Counter[int]
    inner: Counter[int]
    files: Counter[int]


def _named(by_color: bool, counts: _Counts, legends: Sequence[Legend]) -> ClassGuess:
    pixels, total = counts.pixels, counts.pixels.total()
    legend = next((each for each in legends if _explains(each, by_color, pixels)), None)
    ignored: dict[int, str] = {}
    if legend is not None:
        names = {v: name for v, name in legend.names.items() if not _NO_CLASS.search(name)}
        ignored = {v: name for v, name in legend.names.items() if v not in names}
    else:
        chosen = _common_colors(counts) if by_color else _spikes(counts)
        chosen = [value for value in chosen if value != IGNORE_INDEX or not _ignores(chosen)]
        names = _color_names(chosen) if by_color else _index_names(chosen)
    if not by_color and IGNORE_INDEX not in names and IGNORE_INDEX in pixels and _ignores(pixels):
        ignored[IGNORE_INDEX] = "the usual number of pixels that count nowhere"
    if not by_color and len(ignored) > 1:  # dataset.yaml can name one number.
        kept = max(ignored, key=lambda value: (value == IGNORE_INDEX, pixels[value]))
        names |= {value: name for value, name in ignored.items() if value != kept}
        ignored = {kept: ignored[kept]}
    left = [value for value in pixels if value not in names and value not in ignored]
    if not by_color and left and max(pixels, key=lambda v: v % IGNORE_INDEX) < _INDEX_LIMIT:
        names |= {value: f"Class {value}" for value in left}  # The legend doesn't name them.
        left = []
    if by_color and len(pixels) <= MANY_VALUES:
        near_LK = are_near(left, [*names])
        is_near = {value: bool(near_LK[row].any()) for row, value in enumerate(left)}
        strays = [value for value in left if not is_near[value]]
        if len(strays) <= 4:
            reason = "hardly there" if legend is None else f"not in {legend.file}"
            ignored |= {v: f"{reason}: {pixels[v] / total:.2g} of the pixels" for v in strays}
            left = [value for value in left if is_near[value]]
    return ClassGuess(
        by_color, names,
        shares={value: pixels[value] / total for value in (*names, *ignored)},
        files={value: counts.files[value] for value in (*names, *ignored)},
        ignored=ignored,
        moved=sum(pixels[value] for value in left) / total,
        values=len(pixels),
        legend=None if legend is None else legend.file,
    )  # fmt: skip


def _explains(legend: Legend, by_color: bool, pixels: Counter[int]) -> bool:
    """Whether nearly all pixels have a value of the legend, or one that is near in color."""
    if legend.by_color != by_color:
        return False
    values, known = [*pixels], [*legend.names]
    means_VK = (
        are_near(values, known) if by_color else np.equal.outer(np.array(values), np.array(known))
    )
    meant = np.array([*pixels.values()])[means_VK.any(axis=1)].sum()
    return bool(meant >= 0.9 * pixels.total() and means_VK.any(axis=0).sum() >= 2)


def _ignores(values: Iterable[int]) -> bool:
    """Whether 255 is not a class, but what doesn't count, beside these other numbers."""
    others = [value for value in values if value != IGNORE_INDEX]
    return len(others) >= 2 and max(others) < _INDEX_LIMIT


def _spikes(counts: _Counts) -> list[int]:
    """The numbers that are classes: all counted ones; of spread ones those that fill areas."""
    pixels, values = counts.pixels, sorted(counts.pixels)
    if _ignores(values) or max(values) < _INDEX_LIMIT:
        return values
    filling = [value for value in values if counts.inner[value]]
    if len(values) <= MANY_VALUES and np.diff(filling).min(initial=255) >= 8:
        return filling
    count_256 = np.array([pixels[value] for value in range(256)])
    spikes: list[int] = []
    for value, count in pixels.most_common():
        around = count_256[max(0, value - 24) : value + 25]
        stands_out = count >= 8 * np.median(around) and count >= _CLASS_SHARE * pixels.total()
        if stands_out and counts.inner[value] and all(abs(value - other) > 12 for other in spikes):
            spikes.append(value)
    return sorted(spikes)


def _common_colors(counts: _Counts) -> list[int]:
    """All of a few colours but the strays; of many those that fill areas and are far apart."""
    pixels, total = counts.pixels, counts.pixels.total()
    if len(pixels) <= MANY_VALUES:
        chosen = [value for value in counts.inner if pixels[value] >= STRAY_SHARE * total]
        if not _has_neighbours(chosen):
            return sorted(chosen, key=lambda value: -pixels[value])
    # JPEG spreads a colour over its neighbours: they are counted together, in cells of 8 levels.
    cells: dict[tuple[int, ...], Counter[int]] = {}
    for value, count in counts.inner.items():
        cells.setdefault(tuple(part // 8 for part in _rgb(value)), Counter())[value] = count
    kept: list[int] = []
    for cell in sorted(cells.values(), key=lambda cell: -cell.total()):
        if cell.total() < _CLASS_SHARE * total or len(kept) == _INDEX_LIMIT:
            break
        value = cell.most_common(1)[0][0]
        if all(np.abs(np.subtract(_rgb(value), _rgb(other))).max() > 40 for other in kept):
            kept.append(value)
    return kept


def _has_neighbours(colors: Sequence[int]) -> bool:
    """Whether some differ by no more than noise does."""
    return bool(are_near(colors, colors)[~np.eye(len(colors), dtype=bool)].any())


def _index_names(values: Sequence[int]) -> dict[int, str]:
    if len(values) == 2:
        return dict(zip(values, ("Background", "Foreground"), strict=True))
    return {value: f"Class {value}" for value in values}


def _color_names(colors: Sequence[int]) -> dict[int, str]:
    """The nearest of the web's colour names, each once."""
    known = {name: ImageColor.getrgb(name)[:3] for name in ImageColor.colormap}
    names: dict[int, str] = {}
    for color in colors:
        distances = [np.linalg.norm(np.subtract(rgb, _rgb(color))) for rgb in known.values()]
        told = list(known)[int(np.argmin(distances))].capitalize()
        names[color] = told if told not in names.values() else f"{told} {hex_of(color)}"
    return names


def _palette(looks: Sequence[MaskLook], guess: ClassGuess) -> dict[int, str]:
    """The colours of classes in the first mask with a palette, if they can be told apart."""
    palette: Mapping[int, tuple[int, int, int]] = next((x.palette for x in looks if x.palette), {})
    colors = {value: palette[value] for value in guess.names if value in palette}
    if guess.by_color or len({*colors.values()}) < len(guess.names):
        return {}
    return {v: hex_of(red << 16 | green << 8 | blue) for v, (red, green, blue) in colors.items()}


def hex_of(color: int) -> str:
    """As "#RRGGBB"."""
    return f"#{color:06X}"


def _rgb(color: int) -> tuple[int, int, int]:
    return color >> 16, color >> 8 & 255, color & 255
