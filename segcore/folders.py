"""What people's folders hold: links, hidden files, and names in whatever Unicode form.

A name is shown and stored in Unicode's composed form (NFC), the same on every machine. A path stays
as it is on the disk, because Linux opens nothing else.
"""

import codecs
import os
import re
import unicodedata
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from segcore.errors import UserError

JUNK = {
    "__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found",
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip
"""What systems leave among people's files, in small letters; hidden like names with a dot."""

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""The byte order marks with which editors begin a text, and the codecs that leave them out."""


def normal(name: str) -> str:
    """The name in NFC: macOS writes "ä" as two characters where others write one."""
    return unicodedata.normalize("NFC", name)


def is_unicode(name: str) -> bool:
    """Whether a name can be printed: Linux takes any bytes, and Python gives them as surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def is_file(path: Path) -> bool:
    """Whether a path is that of a file. It isn't if its name is too long for the disk."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_same_file(path: Path, other: Path) -> bool:
    """Whether two paths are there, and lead to one file."""
    return path.exists() and other.exists() and path.samefile(other)


def decode(content: bytes) -> str:
    """The text of a file, by its byte order mark, else UTF-8. Raises ``UnicodeDecodeError``."""
    for mark, codec in MARKS:
        if content.startswith(mark):
            return content.decode(codec)
    if b"\0" in content[:2]:  # UTF-16 without a mark: a name's first character is seldom Chinese
        return content.decode("utf-16-be" if content[0] == 0 else "utf-16-le")
    return content.decode("utf-8")


class Finder:
    """Finds files by patterns and names in any normal form.

    It lists each folder once, so take a new one each time that the files may have changed.
    """

    def __init__(self) -> None:
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def matching(self, folder: Path, pattern: str) -> list[Path]:
        """The files that a glob finds below a folder, and links that lead nowhere.

        ``**`` also goes through links to folders, into each real folder once. Hidden files and
        folders are left out unless the pattern names them, as in a shell. Raises ``ValueError`` for
        a wrong pattern, ``OSError`` for a folder that can't be read.
        """
        parts = PurePosixPath(normal(pattern)).parts
        if not parts or parts[0] == "/":
            raise ValueError("it must be a path relative to the folder")
        if any("**" in part and part != "**" for part in parts):
            raise ValueError("** can only stand alone between two slashes")
        parts += ("*",) if parts[-1] == "**" else ()
        folders = [folder]
        for part in parts[:-1]:
            if part == "**":
                folders = list(self._trees(folders))
            else:
                found = (path for each in folders for path in self._children(each, part))
                folders = [path for path in found if path.is_dir()]
        found = (path for each in folders for path in self._children(each, parts[-1]))
        return sorted(path for path in found if not path.is_dir())

    def named(self, path: Path) -> list[Path]:
        """What a path may mean on the disk: several where names differ only in normal form."""
        try:
            names = self._listed(path.parent).get(normal(path.name), [])
            if names or path.exists():
                return [path.with_name(name) for name in names] or [path]
        except OSError:  # such as a folder that may not be read
            return [path]
        others = [folder for folder in self.named(path.parent) if folder != path.parent]
        return [found for folder in others for found in self.named(folder / path.name)]

    def _listed(self, folder: Path) -> dict[str, list[str]]:
        """The names in a folder, by their normal form, those of links last."""
        if folder not in self._listings:
            names = self._listings[folder] = defaultdict(list)
            if folder.is_dir():
                with os.scandir(folder) as entries:
                    for entry in sorted(entries, key=lambda e: (e.is_symlink(), e.name)):
                        names[normal(entry.name)].append(entry.name)
        return self._listings[folder]

    def _children(self, folder: Path, part: str) -> list[Path]:
        if not any(character in part for character in "*?["):
            return self.named(folder / part)
        return [
            folder / spelled
            for name, spellings in self._listed(folder).items()
            if fnmatchcase(name, part) or name == part  # a folder may be called "flight [1]"
            if not _is_hidden(name) or part.startswith(".")
            for spelled in spellings
        ]

    def _trees(self, starts: Sequence[Path]) -> Iterator[Path]:
        """The folders and all below them; of several ways to a folder, one without links."""
        plain, links = deque(starts), deque[Path]()
        seen = set()
        while plain or links:
            folder = plain.popleft() if plain else links.popleft()
            real = os.path.realpath(folder)
            if real in seen:
                continue
            seen.add(real)
            yield folder
            for child in self._children(folder, "*"):
                if child.is_symlink():
                    if child.is_dir() and not _is_circle(child):
                        links.append(child)
                elif child.is_dir():
                    plain.append(child)


def files_below(folder: Path) -> list[Path]:
    """All files below a folder but hidden ones, as ``Finder.matching`` finds them.

    Raises ``UserError`` where a folder can't be read.
    """
    try:
        return Finder().matching(folder, "**")
    except OSError as error:
        raise UserError(
            f"{error.filename}: {error.strerror}; make it readable, or move it away"
        ) from error


class Names:
    """Which of the files in a folder people mean, however their tools write it in a list."""

    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        places = (os.path.normpath(folder.absolute()), os.path.realpath(folder))
        self._folders = [f"{normal(place)}/" for place in places]
        self.keys: dict[str, list[str]] = defaultdict(list)
        """Each path, with and without its folders and its ending, and the files that have it."""
        for name in files:
            file = PurePosixPath(name)
            for key in {name, str(file.with_suffix("")), file.name, file.stem}:
                self.keys[key].append(name)
        self.keys |= {name: [name] for name in files}
        self._folded: dict[str, list[str]] = defaultdict(list)
        for key, names in self.keys.items():
            self._folded[_folded(key)] += names

    def by(self, entry: str) -> list[str]:
        """The files that the likeliest reading of the entry means; none, or several."""
        readings = [*self._readings(normal(entry))]
        for reading in readings:
            if names := self.keys.get(reading):
                return names
        for reading in readings:
            if names := self._folded.get(_folded(reading)):
                return sorted(set(names))
        return []

    def _readings(self, entry: str) -> Iterator[str]:
        """As it stands, without blanks and quotes, as a path of Windows; then up to a comment."""
        ends = [match.start() for match in re.finditer(r"\t|\s+#", entry)]
        for end in (len(entry), *reversed(ends)):
            text = entry[:end]
            bare = text.strip().strip("\ufeff")
            for reading in (text, bare, bare.strip("\"'")):
                yield reading
                for path in (reading, reading.replace("\\", "/")):
                    path = os.path.normpath(path)
                    for folder in self._folders:
                        path = path.removeprefix(folder)
                    yield path


def _folded(name: str) -> str:
    r"""What Windows takes for the same name, which is how it may be written in a list: A\B, a/b."""
    return name.replace("\\", "/").casefold()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in JUNK


def _is_circle(link: Path) -> bool:
    """Whether a link leads to a folder that it lies in, so that its files are not below it."""
    target = os.path.realpath(link)
    return any(
        Path(os.path.realpath(above)).is_relative_to(target) for above in link.absolute().parents
    )
