"""Files that lie beside masks and name their classes: CSV, JSON, or lines of text."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segcore.data.spec import MAX_CLASSES
from segcore.folders import decode

_LARGEST_BYTES = 200_000
_LONGEST_NAME = 200
_NAMES = ("name", "class", "class_name", "classname", "label", "title", "category")
_VALUES = (
    "value",
    "index",
    "id",
    "class_id",
    "label_id",
    "code",
    "pixel",
    "pixel_value",
    "class_index",
)
_COLORS = ("color", "colour", "hex", "rgb", "palette")
_CHANNELS = (("r", "g", "b"), ("red", "green", "blue"))
_LISTS = ("classes", "labels", "categories", "names")


@dataclass(frozen=True)
class Legend:
    """The names of classes by their number or colour (0xRRGGBB)."""

    file: str
    by_color: bool
    names: dict[int, str]


def find_legends(folder: Path, files: Sequence[str]) -> Iterator[Legend]:
    """What the small text files among ``files`` (relative to the folder) say of classes."""
    readers = {".csv": _read_csv, ".json": _read_json, ".txt": _read_lines, ".names": _read_lines}
    for name in sorted(files, key=lambda name: (name.count("/"), name)):
        path = folder / name
        reader = readers.get(path.suffix.lower())
        try:
            if reader is None or path.stat().st_size > _LARGEST_BYTES:
                continue
            entries = [*reader(decode(path.read_bytes()), path.stem.lower())]
        except (OSError, ValueError, TypeError, AttributeError, csv.Error, RecursionError):
            continue  # It is some other file.
        for by_color in (False, True):
            valued = [(text, color if by_color else number) for text, number, color in entries]
            # Larger numbers stand in no mask of 8 bits.
            limit = 1 << 24 if by_color else 1 << 8
            named = {v: _plain(text) for text, v in valued if v is not None and v < limit}
            unique = {*named.values()}
            are_names = all(0 < len(each) <= _LONGEST_NAME for each in unique)
            if 2 <= len(named) <= MAX_CLASSES and len(unique) == len(named) and are_names:
                yield Legend(name, by_color, named)


def _plain(text: str) -> str:
    """A name on one line, without characters that nobody sees."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


Entry = tuple[str, int | None, int | None]
"""A class's name, its number and its colour."""


def _read_csv(text: str, stem: str) -> Iterator[Entry]:
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)  # Some languages write a comma in their numbers.
    rows = csv.DictReader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    for row in rows:
        yield _entry(
            {str(key).strip().lower().replace(" ", "_"): value for key, value in row.items()}
        )


def _read_json(text: str, stem: str) -> Iterator[Entry]:
    content = json.loads(text)
    if isinstance(content, dict):
        content = next((content[key] for key in _LISTS if key in content), content)
    if isinstance(content, dict):
        content = [{"name": name, **_described(value)} for name, value in content.items()]
    for number, item in enumerate(content):
        if isinstance(item, str):
            yield item, number, None
        else:
            yield _entry(item)


def _described(value: Any) -> dict[str, Any]:
    """What a mapping says of a name: a number, a colour, or a mapping itself."""
    if isinstance(value, dict):
        return value
    return {"value" if isinstance(value, int) else "color": value}


def _read_lines(text: str, stem: str) -> Iterator[Entry]:
    """Names in a file called classes.txt, labels.txt …; or names beside r,g,b, as CVAT writes."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    colored = [
        re.match(r"\s*(.*?)[\s:,]+(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s:]*$", line) for line in lines
    ]
    if lines and all(colored):
        for match in colored:
            assert match is not None
            yield match[1], None, _color([*match.groups()[1:]])
    elif re.search("class|label|names", stem) and len(lines) <= 255:
        for number, line in enumerate(lines):
            valued = re.match(r"\s*(\d+)[\s:,=]+(\S.*)$", line)
            yield (valued[2], int(valued[1]), None) if valued else (line.strip(), number, None)


def _entry(row: dict[str, Any]) -> Entry:
    row = {key.lower(): value for key, value in row.items()}
    name = next((str(row[key]) for key in _NAMES if row.get(key)), None)
    if name is None:
        raise ValueError("no name")
    value = next(
        (int(row[key]) for key in _VALUES if str(row.get(key, "")).strip().isdigit()), None
    )
    parts = [[row.get(key) for key in keys] for keys in _CHANNELS]
    full = next((p for p in parts if all(part is not None for part in p)), None)
    color = full or next((row[key] for key in _COLORS if row.get(key)), None)
    return name, value, _color(color)


def _color(value: Any) -> int | None:
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch("#?[0-9A-Fa-f]{6}", text):
            return int(text.removeprefix("#"), 16)
        value = re.findall(r"\d+", text)
    if isinstance(value, list | tuple) and len(value) == 3:
        parts = [int(part) for part in value]
        if all(0 <= part <= 255 for part in parts):
            return parts[0] << 16 | parts[1] << 8 | parts[2]
    return None
