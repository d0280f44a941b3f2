"""Exports of annotation tools: LabelMe, COCO, Label Studio and CVAT."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import numpy as np
import shapely
from numpy.typing import NDArray

from segcore.converting.drawings import Drawing, Export, Pixels, Shape
from segcore.errors import Problem, UserError
from segcore.folders import decode, files_below
from segcore.guessing.pairs import PICTURES
from segcore.reading.headers import MAX_PIXELS

_OTHER_SHAPES = "export polygons or boxes; lines and points have no area"
_ODD = (
    ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
    shapely.errors.ShapelyError,
)  # fmt: skip
"""What comes of an entry that isn't as its tool writes it."""


def read_export(source: Path) -> Export:
    """Read an export: a folder of LabelMe's files, or a file of one of the other tools.

    Raises ``UserError`` where it is none of them.
    """
    if source.is_dir():
        return _read_labelme(
            source, [p for p in files_below(source) if p.suffix.lower() == ".json"]
        )
    if source.suffix.lower() == ".xml":
        return _read_cvat(source)
    is_json = source.suffix.lower() == ".json"
    content = _read_json(source) if is_json or not source.exists() else None
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
        return _read_coco(source, content)
    if isinstance(content, dict) and "shapes" in content:
        return _read_labelme(source.parent, [source])
    if isinstance(content, list) and all(isinstance(t, dict) and "data" in t for t in content):
        return _read_label_studio(source, content)
    raise UserError(
        f"{source} is no export that is known; allowed: COCO (.json), Label Studio (.json), CVAT "
        "for images (.xml), LabelMe (a folder of .json), or a GIS (.geojson, .gpkg, .shp)"
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(decode(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read as JSON: {error}") from error


def _read_labelme(folder: Path, files: Sequence[Path]) -> Export:
    drawings: list[Drawing] = []
    problems: list[Problem] = []
    for path in files:
        content = _read_json(path)
        if not isinstance(content, dict) or "shapes" not in content:
            continue  # Another file that lies there.
        where = path.relative_to(folder)
        called = str(content.get("imagePath") or where).replace("\\", "/")
        image = where.parent / called.rstrip("/").split("/")[-1]
        try:
            size_px = _size_px(content["imageHeight"], content["imageWidth"])
            shapes = []
            for shape in content["shapes"]:
                area = _labelme_area(shape.get("shape_type") or "polygon", shape["points"])
                if area is None:
                    what = f"a {shape['shape_type']} of {shape['label']!r} is left out"
                    problems.append(Problem(str(where), what, _OTHER_SHAPES))
                else:
                    shapes.append(Shape(str(shape["label"]), area))
        except _ODD as error:
            problems.append(_unreadable(str(where), error))
            continue
        drawings.append(Drawing(image.as_posix(), size_px, tuple(shapes)))
    if not drawings and not problems:
        what = f"{folder} holds no files of LabelMe (.json with shapes)"
        raise UserError(f"{what}; of another tool's export name the file itself")
    return Export(tuple(drawings), (), tuple(problems))


def _labelme_area(kind: str, points: Any) -> shapely.Geometry | None:
    if kind == "rectangle":
        return _box(points)
    if kind == "circle":
        center, rim = map(shapely.Point, points)
        return center.buffer(center.distance(rim), quad_segs=32)
    return _polygon(points) if kind == "polygon" else None


def _read_coco(source: Path, content: Mapping[str, Any]) -> Export:
    problems: list[Problem] = []
    try:
        labels = {category["id"]: str(category["name"]) for category in content["categories"]}
        shapes = defaultdict[Any, list[Shape]](list)
        sizes = {i["id"]: _size_px(i["height"], i["width"]) for i in content["images"]}
        for annotation in content["annotations"]:
            where = f"annotation {annotation.get('id')}"
            image, category = annotation["image_id"], annotation["category_id"]
            if image not in sizes or category not in labels:
                what = f"its image {image!r} or its category {category!r} isn't in the file"
                problems.append(Problem(where, what, "export them together"))
                continue
            try:
                found = [*_coco_areas(annotation.get("segmentation"), sizes[image])]
            except _ODD as error:
                problems.append(_unreadable(where, error))
                continue
            shapes[image] += [Shape(labels[category], area) for area in found]
            if not found:
                what = f"an object of {labels[category]!r} has only a box, and is left out"
                problems.append(Problem(where, what, _OTHER_SHAPES))
        drawings = tuple(
            Drawing(str(image["file_name"]), sizes[image["id"]], tuple(shapes[image["id"]]))
            for image in content["images"]
        )
    except _ODD as error:
        raise UserError(
            f"{source} is no complete COCO file: {error!r} is missing or odd"
        ) from error
    return Export(drawings, tuple(labels.values()), tuple(problems))


def _coco_areas(segmentation: Any, size_px: tuple[int, int]) -> Iterator[shapely.Geometry | Pixels]:
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        runs = _decompressed(counts) if isinstance(counts, str) else counts
        yield Pixels.of(_pixels(runs, size_px[::-1]).T)  # COCO counts columns.
        return
    for ring in segmentation or ():
        if len(ring) >= 6:
            yield _polygon(np.reshape(np.array(ring, float), (-1, 2)))


def _decompressed(text: str) -> list[int]:
    """COCO's runs: numbers in groups of 5 bits from the lowest, each from the fourth on as the
    difference to the one before the last (cocodataset.org, format of results)."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # More groups follow.
            continue
        if bits & 16:  # Negative.
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def _pixels(runs: Sequence[int], size_px: tuple[int, int]) -> NDArray[np.bool_]:
    """Rows of pixels, from runs that are outside and inside in turn."""
    if sum(runs) != size_px[0] * size_px[1] or min(runs) < 0:
        raise ValueError(f"runs of {sum(runs)} pixels for {size_px[0]}×{size_px[1]}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.asarray(np.repeat(inside, runs).reshape(size_px), np.bool_)


def _read_label_studio(source: Path, tasks: Sequence[Mapping[str, Any]]) -> Export:
    drawings: list[Drawing] = []
    problems: list[Problem] = []
    for number, task in enumerate(tasks):
        where = f"task {task.get('id', number)}"
        try:
            results = [r for a in task.get("annotations") or () for r in a.get("result") or ()
                       if not a.get("was_cancelled")]  # fmt: skip
            told = [_name_of_url(v) for v in task["data"].values() if isinstance(v, str)]
            # Beside the photograph a task may hold texts.
            image = next((name for name in told if _is_picture(name)), told[0])
            shapes, size_px = [], None
            for result in results:
                if "original_height" not in result:
                    continue  # Not about pixels.
                size_px = _size_px(result["original_height"], result["original_width"])
                kind, value = str(result["type"]), result["value"]
                area = _label_studio_area(kind, value, size_px)
                if area is None:
                    what = f"{kind} of {image} are left out"
                    mend = (
                        "export polygons or rectangles; brushes can be exported as PNG by the tool"
                    )
                    problems.append(Problem(where, what, mend))
                    continue
                shapes += [Shape(str(label), area) for label in value[kind][:1]]
        except _ODD as error:
            problems.append(_unreadable(where, error))
            continue
        if size_px is not None:
            drawings.append(Drawing(image, size_px, tuple(shapes)))
    if not drawings and not problems:
        raise UserError(f"{source}: no task of Label Studio holds a drawing")
    return Export(tuple(drawings), (), tuple(problems))


def _label_studio_area(
    kind: str, value: Mapping[str, Any], size_px: tuple[int, int]
) -> shapely.Geometry | None:
    """Coordinates are percent of width and height."""
    percent = np.array(size_px[::-1]) / 100
    if kind == "polygonlabels":
        return _polygon(np.array(value["points"], float) * percent)
    if kind == "rectanglelabels":
        corner = np.array([value["x"], value["y"]]) * percent
        side = np.array([value["width"], value["height"]]) * percent
        box = _box([corner, corner + side])
        return shapely.affinity.rotate(box, value.get("rotation") or 0, origin=tuple(corner))
    return None


def _name_of_url(url: str) -> str:
    """The file's name, also of /data/local-files/?d=folder/name.jpg."""
    parts = urlsplit(url)
    local = parse_qs(parts.query).get("d")
    return unquote(local[0] if local else parts.path).replace("\\", "/").split("/")[-1]


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PICTURES


def _read_cvat(source: Path) -> Export:
    try:
        root = ElementTree.parse(source).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise UserError(f"{source} can't be read as XML: {error}") from error
    if root.tag != "annotations" or root.find("image") is None:
        raise UserError(f"{source} is no export of CVAT; choose the format CVAT for images 1.1")
    drawings: list[Drawing] = []
    problems: list[Problem] = []
    for image in root.iter("image"):
        name = image.get("name", "")
        try:
            size_px = _size_px(image.attrib["height"], image.attrib["width"])
            shapes = []
            for item in image:
                area = _cvat_area(item.tag, item.attrib, size_px)
                if area is not None:
                    z_order = int(item.get("z_order", 0))
                    shapes.append(Shape(item.attrib["label"], area, z_order))
                elif item.tag != "tag":
                    what = f"a {item.tag} of {item.get('label')!r} is left out"
                    problems.append(Problem(name, what, _OTHER_SHAPES))
        except _ODD as error:
            problems.append(_unreadable(name, error))
            continue
        drawings.append(Drawing(name, size_px, tuple(shapes)))
    labels = [str(label.findtext("name")) for label in root.iter("label")]
    return Export(tuple(drawings), tuple(dict.fromkeys(labels)), tuple(problems))


def _cvat_area(
    kind: str, said: Mapping[str, str], size_px: tuple[int, int]
) -> shapely.Geometry | Pixels | None:
    if kind == "polygon":
        return _polygon([tuple(map(float, p.split(","))) for p in said["points"].split(";")])
    if kind == "box":
        box = _box(
            [[float(said[key]) for key in keys] for keys in (("xtl", "ytl"), ("xbr", "ybr"))]
        )
        return shapely.affinity.rotate(box, float(said.get("rotation", 0)))
    if kind == "mask":
        left, top, width, height = (int(said[key]) for key in ("left", "top", "width", "height"))
        if min(top, left) < 0 or top + height > size_px[0] or left + width > size_px[1]:
            raise ValueError("a mask reaches beyond the photograph")
        runs = [int(run) for run in said["rle"].split(",")]
        return Pixels(top, left, _pixels(runs, (height, width)))
    return None


def _polygon(points: Any) -> shapely.Geometry:
    # make_valid turns rings that cross themselves into areas that can be filled.
    return shapely.make_valid(shapely.Polygon(points))


def _box(corners: Any) -> shapely.Geometry:
    """The upright box around two opposite corners, or all four."""
    return shapely.box(*np.min(corners, axis=0), *np.max(corners, axis=0))


def _size_px(height: Any, width: Any) -> tuple[int, int]:
    """Raises ``ValueError`` where no photograph has such a size."""
    size_px = int(height), int(width)
    if min(size_px) < 1 or size_px[0] * size_px[1] > MAX_PIXELS:
        raise ValueError(f"{height}×{width} px is no size of a photograph")
    return size_px


def _unreadable(where: str, error: Exception) -> Problem:
    return Problem(where, f"can't be read: {error!r}", "export it again")
