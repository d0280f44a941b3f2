"""dataset.yaml → Dataset: photographs and masks are found, paired, grouped, and split as listed.

Only the names of files are looked at here, and for groups by area where they lie on earth.
``segcore.data.preparing`` looks into the files, and draws the splits that are given as fractions.
"""

import contextlib
import difflib
import glob
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from segcore.data.spec import AreaGroup, DatasetSpec, SplitSpec, load_spec
from segcore.data.splits import SPLITS, Split
from segcore.errors import SHOWN, Note, Problem, ProblemsError, counted, some_of
from segcore.folders import Finder, Names, decode, is_file, is_unicode, normal
from segcore.reading.ground import cell_of, middle_of
from segcore.reading.headers import ImageError

SPEC_NAME = "dataset.yaml"


@dataclass(frozen=True)
class Photo:
    """A photograph with its mask."""

    name: str
    """Its path relative to dataset.yaml, with forward slashes and in Unicode's composed form."""
    path: Path
    mask_path: Path
    group: str
    """Photographs of one group stay in one split; without a group, the photograph's own name."""
    split: Split | None
    """None: still to be drawn."""


@dataclass(frozen=True)
class Dataset:
    """What a ``dataset.yaml`` describes, as far as the names of files tell."""

    folder: Path
    spec: DatasetSpec
    photos: tuple[Photo, ...]
    notes: tuple[Note, ...]
    """What is odd but doesn't stop a training."""


def load_dataset(folder: Path) -> Dataset:
    """Read ``folder/dataset.yaml`` and find its photographs, in order of their names.

    Raises ``UserError`` where dataset.yaml itself is wrong, ``ProblemsError`` with everything that
    is wrong with the files' names.
    """
    dataset, problems = scan_dataset(folder)
    if problems:
        raise problems_error(folder, problems)
    return dataset


def scan_dataset(folder: Path) -> tuple[Dataset, list[Problem]]:
    """Like ``load_dataset``, but give back the pairs that are right together with the problems."""
    spec = load_spec(folder / SPEC_NAME)
    problems: list[Problem] = []
    finder = Finder()
    images, masks, notes = _find_pairs(folder, spec, finder, problems)
    groups = _group(images, spec.group, problems)
    splits = _listed_splits(folder, spec.split, [*images], finder, problems)
    problems += _divided_groups(splits, groups)
    if isinstance(spec.split.train, list | str):
        if unlisted := [name for name in images if name not in splits]:
            notes.append(Note("in no list of the split, so not used", tuple(unlisted)))
        images = {name: path for name, path in images.items() if name in splits}
    split_of_group = {groups[name]: split for name, split in splits.items()}
    photos = tuple(
        Photo(name, path, masks[name][0], groups[name], split_of_group.get(groups[name]))
        for name, path in images.items()
        if is_file(masks[name][0])
    )
    return Dataset(folder, spec, photos, tuple(notes)), problems


def problems_error(folder: Path, problems: Sequence[Problem]) -> ProblemsError:
    """One error for everything that is wrong with a data set's files."""
    count = counted(len(problems), "problem")
    every = f"python -m segcore.prepare {shlex.quote(str(folder))} --all"
    return ProblemsError(f"{folder}: {count}", problems, every)


def _find_pairs(
    folder: Path, spec: DatasetSpec, finder: Finder, problems: list[Problem]
) -> tuple[dict[str, Path], dict[str, list[Path]], list[Note]]:
    """Photographs and what may be their masks, by the photographs' names in order."""
    images: dict[str, Path] = {}
    for pattern in [spec.images] if isinstance(spec.images, str) else spec.images:
        images |= _find_images(folder, pattern, finder, problems)
    images = dict(sorted(images.items()))
    masks = {name: _mask_paths(folder, spec, name, finder) for name in images}
    own = {name: os.path.normpath(path) for name, path in images.items()}
    claimed = {
        str(mask) for name, found in masks.items() for mask in found if str(mask) != own[name]
    }
    images = {name: path for name, path in images.items() if own[name] not in claimed}
    masks = {name: masks[name] for name in images}
    for name in [name for name, found in masks.items() if not found]:
        problems.append(Problem(name, "masks: match doesn't match it", "correct the expression"))
        del images[name], masks[name]
    notes = []
    if spec.without_mask == "skip":
        bare = [name for name, (mask, *_) in masks.items() if not os.path.lexists(mask)]
        if bare and len(bare) < len(images):  # Where all are bare, masks is wrong.
            notes.append(Note("no mask, so not used", tuple(bare)))
            images = {name: path for name, path in images.items() if name not in {*bare}}
    problems += _mask_problems({name: masks[name] for name in images})
    notes += _notes_on_masks(folder, spec.mask_name, images, masks, finder)
    return images, masks, notes


def _find_images(
    folder: Path, pattern: str, finder: Finder, problems: list[Problem]
) -> dict[str, Path]:
    """What a glob finds."""
    try:
        found = finder.matching(folder, pattern)
    except ValueError as error:
        problems.append(Problem(SPEC_NAME, f"images: {pattern!r}: {error}", "correct the glob"))
        return {}
    except OSError as error:
        what = f"images: {pattern!r}: {error.filename} can't be read: {error.strerror}"
        problems.append(Problem(SPEC_NAME, what, "make it readable, or correct the glob"))
        return {}
    images: dict[str, Path] = {}
    for path in found:
        name = _relative(path, folder)
        if not is_unicode(name):
            what = "its name is no UTF-8"
            problems.append(Problem(ascii(name), what, "rename it (convmv renames many)"))
        elif (other := images.setdefault(name, path)) != path:
            what = f"two files differ only in Unicode's normal form: {other!a} and {path!a}"
            problems.append(Problem(name, what, "rename or remove one"))
    if not found:
        nearby = (path for depth in ("*", "*/*", "*/*/*") for path in folder.glob(depth))
        endings = sorted({path.suffix for path in nearby if path.suffix and path.is_file()})
        what = f"images: {pattern!r} finds nothing in {folder}"
        there = f"/ divides folders, case counts; endings there: {', '.join(endings) or 'none'}"
        problems.append(Problem(SPEC_NAME, what, f"correct the glob ({there})"))
    return images


def _relative(path: Path | str, folder: Path) -> str:
    return normal(Path(os.path.relpath(path, folder)).as_posix())


def _mask_paths(folder: Path, spec: DatasetSpec, name: str, finder: Finder) -> list[Path]:
    """The files that may be a photograph's mask; where there is none, the path that is missing.

    Nothing where the spec can't say it.
    """
    mask = spec.mask_of(name)
    if mask is None:
        return []
    path = Path(os.path.normpath(folder / mask))
    return finder.named(path) or [path]


def _mask_problems(masks: Mapping[str, Sequence[Path]]) -> Iterator[Problem]:
    """Photographs without a mask or with two, and masks that two photographs claim."""
    owners: dict[Path, str] = {}
    for name, (mask, *others) in masks.items():
        if mask in owners:
            what = f"has the same mask as {owners[mask]}: {mask}"
            yield Problem(name, what, "rename one photograph, or use {folder} in masks")
        elif not is_file(mask):
            yield Problem(name, f"its mask {mask} does not exist", "add the mask, or correct masks")
        elif others:
            what = f"two masks differ only in Unicode's normal form: {mask!a} and {others[0]!a}"
            yield Problem(name, what, "rename or remove one")
        owners.setdefault(mask, name)


def _notes_on_masks(
    folder: Path,
    template: str,
    images: Mapping[str, Path],
    masks: Mapping[str, Sequence[Path]],
    finder: Finder,
) -> list[Note]:
    """One note on the masks that belong to no photograph, if there are any."""
    pattern = re.sub(r"\{\w+\}", "*", glob.escape(template))
    there: set[Path] = set()
    for place in {mask.parent for found in masks.values() for mask in found}:
        with contextlib.suppress(OSError):  # a folder with masks need not be listed
            there |= {*finder.matching(place, pattern)}
    there -= {Path(os.path.normpath(path)) for path in images.values()}
    there -= {mask for found in masks.values() for mask in found}
    extra = sorted(_relative(path, folder) for path in there)
    return [Note("masks without a photograph", tuple(extra))] if extra else []


def _group(
    images: Mapping[str, Path], by: str | AreaGroup | None, problems: list[Problem]
) -> dict[str, str]:
    """The group of each photograph; its own name where that can't be told."""
    if isinstance(by, AreaGroup):
        return _group_by_area(images, by.cell_m, problems)
    return _group_by_name([*images], by, problems)


def _group_by_area(
    images: Mapping[str, Path], cell_m: float, problems: list[Problem]
) -> dict[str, str]:
    groups = {name: name for name in images}
    for name, path in images.items():
        with contextlib.suppress(ImageError):  # Preparing tells it.
            place = middle_of(path)
            if place is None:
                what = "group: by area, but the file doesn't say where it lies"
                problems.append(Problem(name, what, "group by a part of the names instead"))
                continue
            groups[name] = ",".join(map(str, cell_of(place, cell_m)))
    return groups


def _group_by_name(
    images: Sequence[str], pattern: str | None, problems: list[Problem]
) -> dict[str, str]:
    groups = {name: name for name in images}
    for name in images if pattern is not None else ():
        match = re.search(normal(pattern or ""), name)
        if match is None:
            what = f"group {pattern!r} doesn't match it"
            problems.append(Problem(name, what, "correct the expression"))
        else:
            groups[name] = match.group(match.re.groups and 1) or ""
    return groups


def _listed_splits(
    folder: Path, spec: SplitSpec, images: Sequence[str], finder: Finder, problems: list[Problem]
) -> dict[str, Split]:
    """The splits of the photographs that the spec lists by name."""
    meant = Names(folder, images)
    splits: dict[str, Split] = {}
    for split in SPLITS:
        source = getattr(spec, split)
        if isinstance(source, str):
            source = _read_list(folder, split, source, meant, finder, problems)
        if source == []:
            problems.append(Problem(SPEC_NAME, f"split.{split} lists nothing", "name a photograph"))
        unclear: dict[str, Sequence[str]] = {}
        for entry in source if isinstance(source, list) else ():
            names, by_glob = meant.by(entry), False
            if not names and "*" in entry:
                pattern, by_glob = normal(entry), True
                names = [name for name in images if fnmatchcase(name, pattern)]
            if len(names) != 1 and not (names and by_glob):
                unclear[entry] = names
                continue
            for name in names:
                if splits.setdefault(name, split) != split:
                    what = f"is in {splits[name]} and in {split}"
                    problems.append(Problem(name, what, "keep it in one"))
        problems += _unclear_names(split, unclear, images, meant)
    return splits


def _read_list(
    folder: Path,
    split: Split,
    source: str,
    meant: Names,
    finder: Finder,
    problems: list[Problem],
) -> list[str] | None:
    """The entries of a text file, one per line; # begins a comment, unless a photograph's name."""
    mend = "a text file with one photograph per line, in UTF-8"
    try:
        content = (finder.named(folder / source) or [folder / source])[0].read_bytes()
        try:
            text, is_guess = decode(content), False
        except UnicodeDecodeError:
            text, is_guess = content.decode("cp1252"), True  # an old editor of Windows
    except (OSError, ValueError) as error:
        what = f"split.{split}: {source} can't be read: {error}"
        problems.append(Problem(SPEC_NAME, what, mend))
        return None
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip("\ufeff \t")]
    entries = [
        line for line in lines if not line.lstrip("\ufeff ").startswith("#") or meant.by(line)
    ]
    if is_guess and not all(map(meant.by, entries)):
        what = f"split.{split}: {source} is no UTF-8, and its names are not those of photographs"
        problems.append(Problem(SPEC_NAME, what, f"save it as {mend}"))
        return None
    return entries


def _unclear_names(
    split: Split, entries: Mapping[str, Sequence[str]], images: Sequence[str], meant: Names
) -> Iterator[Problem]:
    """What to say about entries of a list that mean no photograph, or several."""
    for entry, names in entries.items() if images else ():  # Without any, that is the problem.
        if names:
            what = f"split.{split}: {entry!r} means {some_of(names)}"
            yield Problem(SPEC_NAME, what, "write the relative path")
            continue
        # A person may have mistyped a few; many are of another kind, and looking would take long.
        near = difflib.get_close_matches(entry, meant.keys) if len(entries) <= SHOWN else []
        form = f"write stems or relative paths, such as {images[0]}, one an entry"
        mend = f"did you mean {' or '.join(near)}?" if near else form
        yield Problem(SPEC_NAME, f"split.{split}: there is no photograph {entry!r}", mend)


def _divided_groups(splits: Mapping[str, Split], groups: Mapping[str, str]) -> Iterator[Problem]:
    """Photographs whose group is listed in two splits."""
    first: dict[str, str] = {}
    for name, split in splits.items():
        other = first.setdefault(groups[name], name)
        if splits[other] != split:
            what = f"is listed in {split}, but {other} of the same group is in {splits[other]}"
            yield Problem(name, what, "keep a group in one split, or correct group")
