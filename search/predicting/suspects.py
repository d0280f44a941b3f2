"""RUN/suspects: the labels that networks contradict, as JSON, CSV and GeoJSON."""

import csv
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely  # type: ignore[import-untyped]
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from segcore.config import describe_validation_error
from segcore.data.plans import PhotoPlan
from segcore.errors import UserError
from segcore.files import whole_file
from segcore.predicting.polygons import outline_of
from segcore.reading.ground import Georeference, on_earth

if TYPE_CHECKING:
    from segcore.predicting.suspects import Suspect

FOLDER = "suspects"
"""The folder's name in a run's."""
RECORD, TABLE, PLACES = "suspects.json", "suspects.csv", "suspects.geojson"
FORMAT = 1

Rings = tuple[tuple[tuple[float, float], ...], ...]
"""A polygon's outer ring and those of its holes, as GeoJSON has them."""


@dataclass(frozen=True)
class Crop:
    """What is shown of a suspect: pictures of one size, as data URIs."""

    image: str
    label: str
    prediction: str
    width_px: int
    height_px: int
    outline: str
    """Of the region: the path of an SVG in pixels of these pictures."""


@dataclass(frozen=True)
class Place:
    """Where a suspect lies, in pixels of the photograph, upright and in its own resolution."""

    row: float
    column: float
    """A point inside of the region."""
    top: int
    left: int
    bottom: int
    right: int
    """Its box."""
    longitude: float | None
    latitude: float | None
    """Of the point, where the photograph is georeferenced."""


@dataclass(frozen=True)
class SuspectRow:
    """A suspect as it is listed."""

    photo: str
    """Its name, relative to dataset.yaml."""
    label: str
    prediction: str
    """Names of classes."""
    area_px: float
    """In pixels of the photograph."""
    confidence: float
    place: Place
    outline: Rings
    """(column, row) in pixels of the photograph."""
    outline_on_earth: Rings | None
    """(longitude, latitude)."""
    crop: Crop

    @property
    def score(self) -> float:
        """Area × confidence, by which suspects are ranked."""
        return self.area_px * self.confidence


@dataclass(frozen=True)
class SuspectList:
    """The most suspicious labels of a data set, the worst first."""

    rows: tuple[SuspectRow, ...]
    photos: int
    """How many photographs were looked at."""
    written: str
    """When."""
    colors: dict[str, tuple[int, int, int]]
    """Of each class, by its name."""
    format: int = FORMAT

    @property
    def intro(self) -> str:
        """What was looked at, and what was found: for people."""
        photos = "1 photograph was" if self.photos == 1 else f"{self.photos} photographs were"
        where = "this region" if len(self.rows) == 1 else f"these {len(self.rows)} regions"
        found = f"In {where} they contradict the label most"
        if not self.rows:
            found = "They contradict the label nowhere"
        return f"{photos} judged by networks that were not trained on them. {found}."


def row_of(
    suspect: "Suspect",
    photo: str,
    plan: PhotoPlan,
    class_names: Sequence[str],
    georeference: Georeference | None,
    crop: Crop,
) -> SuspectRow:
    """A suspect in a photograph's own pixels, and on earth where the photograph has a place."""
    region = suspect.region
    share = np.divide(plan.size_px[::-1], plan.score_grid[::-1])
    outline = outline_of(region.inside_HW, (region.columns.start, region.rows.start), share)
    point = outline.representative_point()
    left, top, right, bottom = outline.bounds
    placed = _on_earth(outline, georeference)
    at = None if placed is None else placed.representative_point()
    return SuspectRow(
        photo=photo,
        label=class_names[region.label],
        prediction=class_names[region.named],
        area_px=round(suspect.area_px, 1),
        confidence=round(region.confidence, 4),
        place=Place(
            row=round(point.y, 1), column=round(point.x, 1),
            top=math.floor(top), left=math.floor(left),
            bottom=math.ceil(bottom), right=math.ceil(right),
            longitude=None if at is None else at.x, latitude=None if at is None else at.y,
        ),
        outline=_rings(outline, digits=2),
        outline_on_earth=None if placed is None else _rings(placed, digits=8),
        crop=crop,
    )  # fmt: skip


def _on_earth(outline: Any, georeference: Georeference | None) -> Any:
    """The polygon in longitude and latitude; None where that isn't known."""
    if georeference is None:
        return None
    known = True

    def place(points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal known
        placed_N2 = on_earth(georeference, points_N2)
        known &= placed_N2 is not None
        return points_N2 if placed_N2 is None else placed_N2

    placed = shapely.transform(outline, place)
    # Where columns and rows run as on a map or not: an outer ring is counterclockwise (RFC 7946).
    return shapely.orient_polygons(placed) if known else None


def _rings(polygon: Any, digits: int) -> Rings:
    rings = (polygon.exterior, *polygon.interiors)
    return tuple(
        tuple((round(x, digits), round(y, digits)) for x, y in ring.coords) for ring in rings
    )


COLUMNS = ("rank", "photo", "label", "prediction", "score", "area_px", "confidence",
           *(field.name for field in fields(Place)))  # fmt: skip
"""Of the table; the outlines of the GeoJSON have the same as properties."""


def write_suspects(found: SuspectList, folder: Path) -> None:
    """Write the three files into a folder that is there. Raises ``OSError``."""
    with whole_file(folder / RECORD) as unfinished:
        unfinished.write_bytes(_ADAPTER.dump_json(found))
    with whole_file(folder / PLACES) as unfinished:
        unfinished.write_text(json.dumps(_geojson(found.rows)), encoding="utf-8")
    with (
        whole_file(folder / TABLE) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for rank, row in enumerate(found.rows, start=1):
            writer.writerow(_facts(rank, row))


def _facts(rank: int, row: SuspectRow) -> dict[str, Any]:
    """What is in the table, by its columns."""
    return {
        "rank": rank, "photo": row.photo, "label": row.label, "prediction": row.prediction,
        "score": round(row.score, 1), "area_px": row.area_px, "confidence": row.confidence,
        **asdict(row.place),
    }  # fmt: skip


def _geojson(rows: Sequence[SuspectRow]) -> dict[str, Any]:
    """In longitude and latitude (RFC 7946), with no geometry for a photograph without a place.

    Where no photograph has one: in pixels, x to the right and y downwards, as of
    ``write_polygons``.
    """
    in_px = all(row.outline_on_earth is None for row in rows)
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": None if rings is None else {"type": "Polygon", "coordinates": rings},
                "properties": _facts(rank, row),
            }
            for rank, row in enumerate(rows, start=1)
            for rings in [row.outline if in_px else row.outline_on_earth]
        ],
    }


def read_suspects(run: Path) -> SuspectList | None:
    """What ``write_suspects`` wrote into a run's folder; None where nobody has looked for any.

    Raises ``UserError`` where the file is damaged or of another version.
    """
    path = run / FOLDER / RECORD
    if not path.is_file():
        return None
    again = f"look again: python -m search.suspects {shlex.quote(str(run))}"
    try:
        values = json.loads(path.read_bytes())
        if values.get("format") != FORMAT:
            raise UserError(f"{path}: of another version; {again}")
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        raise UserError(f"{path}: damaged ({describe_validation_error(error)}); {again}") from error
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error}); {again}") from error


_ADAPTER = TypeAdapter(SuspectList)
