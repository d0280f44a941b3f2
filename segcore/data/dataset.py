"""dataset.yaml → Dataset: photographs and masks are found, paired, grouped, and split as listed.

Only the names of files are looked at here. ``segcore.data.preparing`` looks into the files, and
draws the splits that are given as fractions.
"""

import contextlib
import difflib
import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from segcore.data.spec import DatasetSpec, SplitSpec, load_spec
from segcore.data.splits import SPLITS, Split
from segcore.errors import Problem, ProblemsError
from segcore.folders import Finder, Names, decode, normal

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
    notes: tuple[str, ...]
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
    images = _find_images(folder, spec.images, finder, problems)
    masks = {name: _mask_paths(folder, spec.masks, name, finder) for name in images}
    problems += _mask_problems(masks)
    groups = _group([*images], spec.group, problems)
    splits = _listed_splits(folder, spec.split, [*images], finder, problems)
    problems += _divided_groups(splits, groups)
    notes = _notes_on_masks(folder, spec.masks, masks, finder)
    if isinstance(spec.split.train, list | str):
        if unlisted := [name for name in images if name not in splits]:
            notes.append(f"{_some_of(unlisted)}: in no list of the split, so not used")
        images = {name: path for name, path in images.items() if name in splits}
    split_of_group = {groups[name]: split for name, split in splits.items()}
    photos = tuple(
        Photo(name, path, masks[name][0], groups[name], split_of_group.get(groups[name]))
        for name, path in images.items()
        if masks[name][0].is_file()
    )
    return Dataset(folder, spec, photos, tuple(notes)), problems


def problems_error(folder: Path, problems: Sequence[Problem]) -> ProblemsError:
    """One error for everything that is wrong with a data set's files."""
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return ProblemsError(f"{folder}: {count}", problems)


def _find_images(
    folder: Path, pattern: str, finder: Finder, problems: list[Problem]
) -> dict[str, Path]:
    """What the glob finds, in the order of names."""
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
        if not _is_unicode(name):
            what = "its name is no UTF-8"
            problems.append(Problem(ascii(name), what, "rename it (convmv renames many)"))
        elif (other := images.setdefault(name, path)) != path:
            what = f"two files differ only in Unicode's normal form: {other!a} and {path!a}"
            problems.append(Problem(name, what, "rename or remove one"))
    if not found:
        nearby = (path for depth in ("*", "*/*", "*/*/*") for path in folder.glob(depth))
        endings = sorted({path.suffix for path in nearby if path.suffix and path.is_file()})
        what = f"images: {pattern!r} finds nothing in {folder}"
        there = f"case counts; endings there: {', '.join(endings) or 'none'}"
        problems.append(Problem(SPEC_NAME, what, f"correct the glob ({there})"))
    return dict(sorted(images.items()))


def _relative(path: Path | str, folder: Path) -> str:
    return normal(Path(os.path.relpath(path, folder)).as_posix())


def _is_unicode(name: str) -> bool:
    """Whether a name can be printed: Linux takes any bytes, and Python gives them as surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _filled(template: str, folder: str, stem: str) -> str:
    return os.path.normpath(template.replace("{folder}", folder).replace("{stem}", stem))


def _mask_paths(folder: Path, template: str, name: str, finder: Finder) -> list[Path]:
    """The files that may be a photograph's mask; where there is none, the path that is missing."""
    image = PurePosixPath(name)
    path = Path(os.path.normpath(folder / _filled(template, str(image.parent), image.stem)))
    return finder.named(path) or [path]


def _mask_problems(masks: Mapping[str, Sequence[Path]]) -> Iterator[Problem]:
    """Photographs without a mask or with two, and masks that two photographs claim."""
    owners: dict[Path, str] = {}
    for name, (mask, *others) in masks.items():
        if mask in owners:
            what = f"has the same mask as {owners[mask]}: {mask}"
            yield Problem(name, what, "rename one photograph, or use {folder} in masks")
        elif not mask.is_file():
            yield Problem(name, f"its mask {mask} does not exist", "add the mask, or correct masks")
        elif others:
            what = f"two masks differ only in Unicode's normal form: {mask!a} and {others[0]!a}"
            yield Problem(name, what, "rename or remove one")
        owners.setdefault(mask, name)


def _notes_on_masks(
    folder: Path, template: str, masks: Mapping[str, Sequence[Path]], finder: Finder
) -> list[str]:
    """One note on the masks that belong to no photograph, if there are any."""
    patterns = {
        _filled(glob.escape(template), glob.escape(str(PurePosixPath(name).parent)), "*")
        for name in masks
    }
    there: set[Path] = set()
    for pattern in patterns:
        start = Path(Path(pattern).anchor or folder)
        with contextlib.suppress(OSError):  # a folder with masks need not be listed
            found = finder.matching(start, pattern.lstrip("/"))
            there |= {Path(os.path.normpath(path)) for path in found}
    extra = sorted(
        _relative(path, folder) for path in there - {m for ms in masks.values() for m in ms}
    )
    return [f"{_some_of(extra)}: masks without a photograph"] if extra else []


def _group(images: Sequence[str], pattern: str | None, problems: list[Problem]) -> dict[str, str]:
    """The group of each photograph; its own name where the expression doesn't match."""
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
        for entry in source if isinstance(source, list) else ():
            names = meant.by(entry)
            if len(names) != 1:
                problems.append(_unclear_name(split, entry, names, meant.keys))
            elif splits.setdefault(names[0], split) != split:
                what = f"is in {splits[names[0]]} and in {split}"
                problems.append(Problem(names[0], what, "keep it in one"))
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


def _unclear_name(
    split: Split, key: str, names: Sequence[str], names_of_key: Mapping[str, object]
) -> Problem:
    """What to say about an entry of a list that means no photograph, or several."""
    if names:
        what = f"split.{split}: {key!r} means {_some_of(names)}"
        return Problem(SPEC_NAME, what, "write the relative path")
    near = difflib.get_close_matches(key, names_of_key, n=3)
    mend = f"did you mean {' or '.join(near)}?" if near else "write a stem or a relative path"
    return Problem(SPEC_NAME, f"split.{split}: there is no photograph {key!r}", mend)


def _divided_groups(splits: Mapping[str, Split], groups: Mapping[str, str]) -> Iterator[Problem]:
    """Photographs whose group is listed in two splits."""
    first: dict[str, str] = {}
    for name, split in splits.items():
        other = first.setdefault(groups[name], name)
        if splits[other] != split:
            what = f"is listed in {split}, but {other} of the same group is in {splits[other]}"
            yield Problem(name, what, "keep a group in one split, or correct group")


def _some_of(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
