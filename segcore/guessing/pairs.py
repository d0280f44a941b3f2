"""Which files of a folder are photographs, and which of them are whose mask, by their names.

People name a mask like its photograph, but for a few words: 1_sat.jpg and 1_mask.png, x_RGB.tif and
x_label.tif, images/a.jpg and masks/a.png. What is left of a path without such words tells the pair.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

PICTURES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp"}


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_MASK = _set(
    "mask masks label labels lab lbl labeled labelled labelids labeltrainids gt gts gtfine gtcoarse"
    " groundtruth truth annotation annotations annot ann anno anns seg segm segmentation"
    " segmentations semantic segmented target targets segmentationclass class classes"
    " classification"
)
_IMAGE = _set(
    "image images img imgs photo photos photograph photographs sat satellite rgb rgba irrg rgbir ir"
    " nir ortho orthos orthophoto orthophotos orig org original originals picture pictures pic pics"
    " jpegimages leftimg8bit input inputs uav drone aerial raw"
)
_NEUTRAL = _set(
    "ids id trainids instance instanceids color colors colour colored coloured vis noboundary dir"
    " jpg jpeg png tif tiff ground data dataset for participants"
)
_LESSER = _set(
    "color colors colour colored coloured vis rgb instance instanceids noboundary trainids"
    " labeltrainids irrg rgbir ir nir"
)
"""Where there are several kinds of masks or photographs, those with these words come last."""
SPLIT_FOLDERS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What the parts of a data set are called, and the split that each means."""


@dataclass(frozen=True)
class Pairs:
    """Photographs with their masks; all names are relative to the folder."""

    masks: dict[str, str]
    """The mask of each photograph."""
    bare: tuple[str, ...] = ()
    """What lies among the photographs but has no mask."""
    unused: tuple[str, ...] = ()
    """Pictures that are neither."""


@dataclass(frozen=True)
class _Name:
    path: str
    role: str | None
    """"mask", "image", or None where no word tells."""
    key: tuple[str, ...]
    """What is left of the whole path without the words that tell roles."""
    last_key: tuple[str, ...]
    """The same of the file's name alone."""
    variant: tuple[str, ...] = field(default=())
    """The words that were left out."""


def find_pairs(names: Sequence[str], looks_like_mask: Callable[[str], bool]) -> Pairs:
    """Pair pictures. ``looks_like_mask`` opens a file, which is done only where names tell nothing.

    ``names`` are those of all pictures, relative to the folder.
    """
    read = [_read(name) for name in names]
    masks = [name for name in read if name.role == "mask"]
    others = [name for name in read if name.role != "mask"]
    found: dict[str, str] = {}
    if masks:
        found = _join(others, masks, lambda name: name.key)
        found = found or _join(others, masks, lambda name: name.last_key)
    found = found or _by_equal_stems(names, looks_like_mask)
    taken = {*found, *found.values()}
    places = {_place(name) for name in found}
    left = [name for name in names if name not in taken]
    roles = {name.path: name.role for name in read}
    bare = [name for name in left if _place(name) in places and roles[name] != "mask"]
    return Pairs(found, tuple(bare), tuple(name for name in left if name not in {*bare}))


def words(text: str) -> list[str]:
    """The words and numbers of a name in small letters: "trainImages_01" → train, images, 01."""
    found = []
    for run in re.findall(r"[^\W_]+", text):
        whole = run.lower()
        if whole in _MASK | _IMAGE | _NEUTRAL:
            found.append(whole)
            continue
        for part in re.findall(r"\d+|[^\W\d_]+", run):
            found += [word.lower() for word in re.split(r"(?<=[a-z])(?=[A-Z])", part)]
    return found


def is_role_word(word: str) -> bool:
    """Whether a word tells that a file is a photograph or a mask, not which one."""
    return word in _MASK | _IMAGE | _NEUTRAL


def _read(name: str) -> _Name:
    path = PurePosixPath(name)
    folders, last = [words(part) for part in path.parts[:-1]], words(path.stem)
    all_words = [word for part in (*folders, last) for word in part]
    return _Name(
        name,
        _role(folders, last),
        tuple(word for word in all_words if not is_role_word(word)),
        tuple(word for word in last if not is_role_word(word)),
        tuple(word for word in all_words if is_role_word(word)),
    )


def _role(folders: Sequence[Sequence[str]], last: Sequence[str]) -> str | None:
    """The nearest folder tells, but among photographs a file may be called a mask."""
    own = _role_of(last)
    if own == "mask" and {*last[:1], *last[-1:]} & (_MASK | _NEUTRAL):
        return "mask"
    return next((role for part in reversed(folders) if (role := _role_of(part))), own)


def _role_of(part: Iterable[str]) -> str | None:
    part = set(part)
    return "mask" if part & _MASK else "image" if part & _IMAGE else None


def _join(
    images: Sequence[_Name], masks: Sequence[_Name], key: Callable[[_Name], tuple[str, ...]]
) -> dict[str, str]:
    """Photographs and masks of equal keys; of several kinds the likeliest."""
    image_of, mask_of = _best_kind(images, key), _best_kind(masks, key)
    return {image_of[k]: mask_of[k] for k in image_of if k and k in mask_of}


def _best_kind(
    names: Sequence[_Name], key: Callable[[_Name], tuple[str, ...]]
) -> dict[tuple[str, ...], str]:
    def kind(name: _Name) -> tuple[tuple[str, ...], str]:
        return name.variant, PurePosixPath(name.path).suffix

    counts = Counter(map(kind, names))

    def rank(name: _Name) -> tuple[int, int, str]:
        lesser = len(_LESSER & {*name.variant} - {"rgb"}) + ("rgb" in name.variant) * (
            name.role == "mask"
        )
        return lesser, -counts[kind(name)], name.path

    found: dict[tuple[str, ...], str] = {}
    for name in sorted(names, key=rank):
        found.setdefault(key(name), name.path)
    return found


def _place(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    return str(path.parent), path.suffix.lower()


def _by_equal_stems(names: Sequence[str], looks_like_mask: Callable[[str], bool]) -> dict[str, str]:
    """Pairs of files that differ only in folder, ending or one addition to the stem."""
    families: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    stems = {name: PurePosixPath(name).stem for name in names}
    additions = _additions([*stems.values()])
    for name, stem in stems.items():
        tail = next(
            (tail for tail in additions if stem.endswith(tail) and len(stem) > len(tail)), ""
        )
        families[(*_place(name), tail)][stem.removesuffix(tail) if tail else stem] = name
    kinds = sorted(families, key=lambda kind: -len(families[kind]))[:12]
    is_mask = {kind: _most_look_like(families[kind].values(), looks_like_mask) for kind in kinds}
    found: dict[str, str] = {}
    for image_kind in kinds:
        for mask_kind in kinds:
            if is_mask[mask_kind] and not is_mask[image_kind]:
                masks = families[mask_kind]
                for stem, name in families[image_kind].items():
                    if stem in masks and name not in found:
                        found[name] = masks[stem]
    return found


def _additions(stems: Sequence[str]) -> list[str]:
    """What is added to some names of others, such as "_m" where there are both 1 and 1_m."""
    known, counts = {*stems}, Counter[str]()
    for stem in stems:
        for separator in re.finditer(r"[\W_]", stem):
            if stem[: separator.start()] in known:
                counts[stem[separator.start() :]] += 1
    return [tail for tail, count in counts.most_common(3) if count > 1]


def _most_look_like(names: Iterable[str], looks_like_mask: Callable[[str], bool]) -> bool:
    looked = [looks_like_mask(name) for name in sorted(names)[:3]]
    return sum(looked) * 2 > len(looked)
