"""guess_dataset: look at a folder, and write what a dataset.yaml would say of it."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray

from segcore.data.building import crew_of
from segcore.data.spec import DatasetSpec, MaskRule
from segcore.errors import Problem, ProblemsError, some_of
from segcore.facts import FEWEST_UNITS
from segcore.folders import files_below, is_unicode, normal
from segcore.guessing.classes import ClassGuess, guess_classes, hex_of
from segcore.guessing.groups import (
    USUAL_SHARE,
    Grouping,
    guess_group,
    guess_share,
    split_globs,
)
from segcore.guessing.legends import find_legends
from segcore.guessing.pairs import PICTURES, Pairs, find_pairs
from segcore.guessing.patterns import image_globs, mask_rule
from segcore.reading.bands import MAX_CHANNELS
from segcore.reading.headers import ImageError
from segcore.reading.looking import (
    MaskLook,
    PhotoLook,
    look_at_mask,
    look_at_photo,
    looks_like_mask,
)
from segcore.reading.masks import FIT_PX

Result = TypeVar("Result")

_ANNOTATIONS = {".json", ".xml", ".geojson", ".gpkg", ".shp"}
_BY_HAND = "write dataset.yaml yourself: images, masks, classes"


@dataclass(frozen=True)
class Guess:
    """A dataset.yaml, and what a person should look at before trusting it."""

    text: str
    checks: tuple[str, ...]


def guess_dataset(folder: Path, *, workers: int | None = None, progress: bool = True) -> Guess:
    """What dataset.yaml may say of a folder of photographs and masks; nothing is written.

    Raises ``ProblemsError`` with everything that can't be guessed.
    """
    files = _files_in(folder)
    pictures = [name for name in files if PurePosixPath(name).suffix.lower() in PICTURES]
    pairs = find_pairs(pictures, partial(_is_mask, folder))
    if not pairs.masks:
        raise _no_pairs(folder, files, pictures)
    with crew_of(workers, progress) as crew:
        photos = crew.do("Looking", look_at_photo, [folder / name for name in pairs.masks])
        masks = crew.do("Looking", look_at_mask, [folder / name for name in pairs.masks.values()])
    legends = [*find_legends(folder, files)]
    classes = guess_classes([look for look in masks if isinstance(look, MaskLook)], legends)
    if isinstance(classes, str):
        raise _no_guess(folder, Problem("masks", classes, _BY_HAND))
    return _Writer(pairs, _readable(photos), _readable(masks), classes).guess()


def _files_in(folder: Path) -> list[str]:
    names = sorted(path.relative_to(folder).as_posix() for path in files_below(folder))
    return [name for name in names if is_unicode(name)]  # Preparing tells of the others.


def _is_mask(folder: Path, name: str) -> bool:
    try:
        return looks_like_mask(folder / name)
    except ImageError:
        return False


def _readable(looks: Sequence[Result | Problem]) -> list[Result | None]:
    """None for files that have a problem: preparing tells of it."""
    return [None if isinstance(look, Problem) else look for look in looks]


def _no_guess(folder: Path, *problems: Problem) -> ProblemsError:
    return ProblemsError(f"{folder} has no dataset.yaml, and one can't be guessed:", problems)


def _no_pairs(folder: Path, files: Sequence[str], pictures: Sequence[str]) -> ProblemsError:
    """What there is instead of photographs with masks."""
    endings_read = ", ".join(sorted(PICTURES))
    if not pictures:
        endings = Counter(PurePosixPath(name).suffix or "no ending" for name in files)
        there = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(5))
        what = f"there are no pictures (files there: {there or 'none'})"
        mend = f"name the folder that holds photographs and masks ({endings_read})"
        return _no_guess(folder, Problem("images", what, mend))
    families = Counter(
        f"{PurePosixPath(name).parent}/*{PurePosixPath(name).suffix}" for name in files
    )
    there = ", ".join(f"{count} {family}" for family, count in families.most_common(6))
    problems = [
        Problem(
            "masks",
            f"no picture ({endings_read}) is named like the mask of another one; there are {there}",
            "name each mask like its photograph, in a folder masks beside images or with _mask at "
            f"the end; or {_BY_HAND}",
        )
    ]
    drawn = [name for name in files if PurePosixPath(name).suffix.lower() in _ANNOTATIONS]
    if drawn:
        problems.append(
            Problem(
                some_of(drawn, 3),
                "may hold polygons, which must become masks first",
                "python -m segcore.convert --help",
            )
        )
    return _no_guess(folder, *problems)


@dataclass(frozen=True)
class _Writer:
    pairs: Pairs
    photos: Sequence[PhotoLook | None]
    masks: Sequence[MaskLook | None]
    classes: ClassGuess

    def guess(self) -> Guess:
        checks: list[str] = []
        parts = (self._files, self._classes, self._odd_masks, self._bands, self._groups)
        blocks = [block for part in parts for block in part(checks)]
        head = _comment(
            "Written by python -m segcore.prepare from what lies in this folder. All of it is a "
            "guess: correct what is wrong, and run the command again."
        )
        text = "\n\n".join([head, *blocks]) + "\n"
        DatasetSpec.model_validate(yaml.safe_load(normal(text)))
        return Guess(text, tuple(checks))

    def _files(self, checks: list[str]) -> Iterator[str]:
        images = [*self.pairs.masks]
        globs, (rule, failing) = image_globs(images), mask_rule(self.pairs.masks)
        folders = len({PurePosixPath(name).parent for name in images})
        where = f" in {folders} folders" if folders > 1 else ""
        value = _scalar(globs[0]) if len(globs) == 1 else f"[{', '.join(map(_scalar, globs))}]"
        yield f"{_comment(f'{len(images)} photographs with masks{where}.')}\nimages: {value}"
        yield f"{_comment(_explain_rule(rule))}\nmasks: {_rule_text(rule)}"
        bare = [*self.pairs.bare, *failing]
        if bare:
            told = f"({len(bare)}): {some_of(bare, 3)}"
            checks.append(f"photographs have no mask, so they are left out {told}")
            yield f"{_comment(checks[-1] + '.')}\nwithout_mask: skip"
        if self.pairs.unused:
            unused = self.pairs.unused
            checks.append(f"pictures that are not used ({len(unused)}): {some_of(unused, 3)}")
            yield _comment(checks[-1] + ".")

    def _classes(self, checks: list[str]) -> Iterator[str]:
        guess, count = self.classes, len(self.masks)
        kind = "colours" if guess.by_color else "numbers"
        why = f"The masks hold {guess.values} {kind}. "
        if guess.legend:
            why += f"The names are those of {guess.legend}."
        elif guess.by_color:
            why += "The names only describe the colours: write your own in their place."
        else:
            why += "No file tells what they mean: write your own names in front of them."
        if not guess.legend:
            checks.append("the names of the classes: no file in the folder tells them")
            if ignoring := self._how_to_ignore():
                why += (
                    f' Where a {kind[:-1]} means "not labelled", delete its line, and {ignoring}.'
                )
        lines = [_comment(why), "classes:"]
        for value, name in guess.names.items():
            told = _scalar(hex_of(value)) if guess.by_color else str(value)
            lines.append(f"  {_scalar(name)}: {told}  # {self._share(value, count)}")
        yield "\n".join(lines)
        if guess.nodata is not None:
            checks.append(f'the masks\' files call {guess.nodata} "no data"; here it is a class')
            yield _comment(checks[-1] + ".")
        if guess.ignored:
            yield "\n".join(self._ignored())
        if guess.colors:
            pairs = ", ".join(
                f"{_scalar(guess.names[v])}: {_scalar(color)}" for v, color in guess.colors.items()
            )
            why = "The colours of the palette in the masks, for pictures."
            yield f"{_comment(why)}\ncolors: {{{pairs}}}"

    def _how_to_ignore(self) -> str | None:
        """What to do with a value that is no class; None: another number is ignored already."""
        if self.classes.by_color:
            listed = "add it to" if self.classes.ignored else "list it below as"
            return f"{listed} `ignore_colors: ['#RRGGBB']`"
        return None if self.classes.ignored else "write `ignore_index: NUMBER` below"

    def _share(self, value: int, count: int) -> str:
        share, files = self.classes.shares[value], self.classes.files[value]
        return f"{100 * share:.2g} % of the pixels, in {files} of {count} masks"

    def _ignored(self) -> Iterator[str]:
        yield _comment("Pixels that are no class, and count nowhere.")
        if not self.classes.by_color:
            value, reason = next(iter(self.classes.ignored.items()))
            yield f"ignore_index: {value}  # {reason}"
            return
        yield "ignore_colors:"
        for value, reason in self.classes.ignored.items():
            yield f"  - {_scalar(hex_of(value))}  # {reason}"

    def _odd_masks(self, checks: list[str]) -> Iterator[str]:
        guess = self.classes
        if guess.moved:
            kind = "colours" if guess.by_color else "values"
            checks.append(
                f"{100 * guess.moved:.2g} % of the masks' pixels have {kind} between those of "
                "classes, from smoothed edges or lossy files"
            )
            yield (
                _comment(f"{checks[-1]}: each goes to the nearest class. "
                         "{ignore: 0.1} leaves those out that are farther off.") + "\nsnap: nearest"
            )  # fmt: skip
        off = [
            name
            for name, photo, mask in zip(self.pairs.masks, self.photos, self.masks, strict=True)
            if photo and mask and photo.size_px != mask.size_px
            and all(abs(a - b) <= FIT_PX for a, b in zip(photo.size_px, mask.size_px, strict=True))
        ]  # fmt: skip
        if off:
            checks.append(f"{len(off)} masks are a pixel or two larger or smaller than their "
                          f"photographs: {some_of(off, 3)}")  # fmt: skip
            why = f"{checks[-1]}; they are fitted at the upper left corner."
            yield f"{_comment(why)}\nfit: crop"

    def _bands(self, checks: list[str]) -> Iterator[str]:
        looks = [look for look in self.photos if look is not None]
        counts = Counter(look.bands for look in looks)
        if len(counts) > 1 and max(counts) > 3 and min(counts) >= 3:
            told = ", ".join(f"{count} with {bands}" for bands, count in sorted(counts.items()))
            checks.append(f"photographs differ in their bands ({told}): the first three are used")
            yield f"{_comment(checks[-1] + '.')}\nbands: [1, 2, 3]"
        elif len(counts) == 1 and max(counts) not in (1, 3):
            bands = min(max(counts), MAX_CHANNELS)
            names = [name for name in looks[0].descriptions[:bands] if name]
            told = f" ({', '.join(names)})" if names else ""
            numbers = ", ".join(str(number + 1) for number in range(bands))
            yield (
                _comment(f"All bands that the photographs have{told}. Name fewer to use fewer, and "
                         "`show: [3, 2, 1]` for those that people see as red, green and blue.")
                + f"\nbands: [{numbers}]"
            )  # fmt: skip
        deep = sorted({look.dtype for look in looks} - {"uint8"})
        if deep:
            yield _comment(
                f"The photographs' values are of type {', '.join(deep)}. Which become black "
                "and white is measured on the training photographs, unless a line says it, such as "
                "`range: [0, 10000]`."
            )

    def _groups(self, checks: list[str]) -> Iterator[str]:
        images = [*self.pairs.masks]
        globs = split_globs(images)
        places = [None if look is None else look.place for look in self.photos]
        grouping = guess_group(images, places)
        listed = {split: glob for split, glob in globs.items() if split != "train"}
        groups: Sequence[str] = images
        if grouping.value is not None and not _crosses(grouping, images, listed):
            groups = grouping.keys
            checks.append(
                f"the groups: {grouping.reason} are taken for neighbours. Delete `group` where "
                "they aren't, or correct it"
            )
            yield (
                _comment(f"{grouping.reason} stay together in one split, because neighbours look "
                         f"alike: {len({*groups})} groups.") + f"\ngroup: {grouping.value}"
            )  # fmt: skip
        elif not listed:
            checks.append(
                "whether photographs overlap or show the same place: neither folders, names nor "
                "coordinates tell. Where some do, `group` must keep them together"
            )
        yield self._split(listed, groups)

    def _split(self, listed: Mapping[str, str], groups: Sequence[str]) -> str:
        """``listed`` are the splits that folders tell."""
        share = guess_share(self._held(), groups)
        told = {split: f"[{_scalar(glob)}]" for split, glob in listed.items()}
        value = ", ".join(f"{split}: {told.get(split, f'{share:g}')}" for split in ("val", "test"))
        if listed:
            why = "Folders tell the split; what they don't tell is drawn at random."
        else:
            why = "Which shares of the photographs are kept for validation and for the final test."
            if share > USUAL_SHARE:
                units = len({*groups})
                kind = "photographs" if units == len(groups) else "groups"
                why += (
                    f" They are this large because each of the two needs {FEWEST_UNITS} of the "
                    f"{units} {kind}: intervals of scores over fewer are a guess."
                )
        return f"{_comment(why)}\nsplit: {{{value}}}"

    def _held(self) -> NDArray[np.bool_]:
        """Which classes each photograph has (PK), by the exact values in its mask."""
        by_color, values = self.classes.by_color, [*self.classes.names]
        looks = [look.in_colors() if look and by_color else look for look in self.masks]
        held = [look.pixels if look else {} for look in looks]
        return np.array([[value in pixels for value in values] for pixels in held])


def _crosses(grouping: Grouping, images: Sequence[str], listed: Mapping[str, str]) -> bool:
    """Whether a group has photographs in two of the listed splits, or in one and in none."""
    side_of: dict[object, str] = {}
    for name, key in zip(images, grouping.keys, strict=True):
        side = next((split for split, glob in listed.items() if fnmatchcase(name, glob)), "")
        if side_of.setdefault(key, side) != side:
            return True
    return False


def _explain_rule(rule: str | MaskRule) -> str:
    if isinstance(rule, MaskRule):
        return (
            "Where the mask of a photograph is: {1} is what the first group of `match` finds in "
            "the photograph's path, {folder} its folder."
        )
    folder = "{folder} is a photograph's folder, " if "{folder}" in rule else ""
    return f"Where their masks are: {folder}{{stem}} is a photograph's name without its ending."


def _rule_text(rule: str | MaskRule) -> str:
    if isinstance(rule, MaskRule):
        return f"{{match: {_scalar(rule.match)}, path: {_scalar(rule.path)}}}"
    return _scalar(rule)


def _scalar(text: str) -> str:
    """As YAML, in single quotes where it needs some."""
    if not text.isprintable():
        told = (c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08X}" for c in text)
        return f'"{"".join(told)}"'
    plain = text.replace(" ", "").replace("_", "").replace("/", "")
    if plain.isalnum() and plain[0].isalpha() and yaml.safe_load(text) == text:
        return text
    return "'" + text.replace("'", "''") + "'"


def _comment(text: str) -> str:
    text = "".join(character if character.isprintable() else " " for character in text)
    return textwrap.fill(
        text[:1].upper() + text[1:], 96, initial_indent="# ", subsequent_indent="# ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
