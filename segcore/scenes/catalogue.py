"""The things of a drawn scene, as tables: what each is made of, and where how many stand."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segcore.scenes import materials as m
from segcore.scenes.materials import Label
from segcore.scenes.solids import Part, superellipse

_DISC, _OVAL, _BEAN = superellipse(2), superellipse(3.2), superellipse(2.4, lobes=0.09)
_BLOCK = superellipse(8)
_BODY = np.array([-10 - 6j, -8 - 10j, 8 - 10j, 10 - 6j, 10 + 6j, 8 + 10j, -8 + 10j, -10 + 6j]) / 20
_HULL = np.array([-10 - 10j, 3 - 10j, 7.6 - 6j, 10, 7.6 + 6j, 3 + 10j, -10 + 10j]) / 20


class Place(NamedTuple):
    """Where something may stand in a region, and how often. Lengths are shares of the region."""

    things: tuple[str, ...]
    """It is one of these."""
    chance: float
    """How often there are any."""
    at: complex = 0.0
    """From the region's middle."""
    spread: complex = 0.0
    """It stands up to so far from there."""
    turns: Sequence[float] = (0.0,)
    """It is turned by one of these angles, in radians."""
    number: int = 1
    """So many stand there, if any do."""


def _car(size: complex, cabin_u: float, cabin_m: float) -> tuple[Part, ...]:
    """A car that heads along u, with a cabin of glass under a roof."""
    cabin, width = Label.VEHICLE, size.imag
    return (
        Part(cabin, m.CAR_PAINT, size, (0.2, 1.0), shape=_BODY),
        Part(cabin, m.GLASS, complex(cabin_m, width - 0.25), (1.2, 1.2), cabin_u),
        Part(cabin, m.CAR_PAINT, complex(cabin_m * 0.62, width - 0.45), (1.6, 1.6), cabin_u - 0.1),
    )


def _court(u: float) -> tuple[Part, ...]:
    """A tennis court, with its long side along v."""
    lines = ((11 + 24j, 0), (8.2 + 24j, 0), (8.2 + 12.8j, 0), (12.8j, 0), (11, 0))
    ground = Part(Label.SPORTS, m.COURT, 11 + 24j, at=u)
    return ground, *(
        Part(Label.SPORTS, m.WHITE, size, at=u + at, line_m=0.12) for size, at in lines
    )


# The grounds of sites are as large as SITE_SIZE; each is stretched to the room that there is.
SITE_SIZE = 50 + 30j
_STALL_U = np.arange(-21.0, 22.0, 2.8)
_STALL_V = (-11.0, -2.8)
THINGS: dict[str, tuple[Part, ...]] = {
    "car": _car(4.6 + 1.9j, -0.4, 2.6),
    "pickup": (
        *_car(5.6 + 2.1j, 0.0, 1.8),
        Part(Label.VEHICLE, m.BLACK, 1.6 + 1.6j, (1.0, 1.0), -1.85),
    ),
    "van": _car(5.2 + 2.1j, -0.4, 4.0),
    "bins": (
        Part(Label.BINS, m.PLASTIC, 0.85 + 0.95j, (0, 1.1)),
        Part(Label.BINS, m.PLASTIC, 0.85 + 0.95j, (0, 1.1), 1.2),
    ),
    "bin": (Part(Label.BINS, m.PLASTIC, 0.85 + 0.95j, (0, 1.1)),),
    "rubbish": (Part(Label.BACKGROUND, m.RUBBISH, 1.0 + 0.55j, (0, 0.6)),),
    "fence": (Part(Label.BACKGROUND, m.WOOD, 1 + 0.3j, (0, 1.8)),),
    "street light": (
        Part(Label.STREET_LIGHT, m.STEEL, 0, (0, 7.5), line_m=0.22),
        Part(Label.STREET_LIGHT, m.STEEL, 2.4j, (7.9, 7.5), -1.2j, line_m=0.22),
        Part(Label.STREET_LIGHT, m.WHITE, 0.5 + 1.0j, (7.9, 7.9), -2.5j),
    ),
    "pole": (
        Part(Label.POWER_LINES, m.WOOD, 0, (0, 9.5), line_m=0.35),
        Part(Label.POWER_LINES, m.WOOD, 2.6j, (9.5, 9.5), line_m=0.3),
    ),
    "square pool": (
        Part(Label.BACKGROUND, m.CONCRETE, 11.2 + 7.3j),
        Part(Label.BACKGROUND, m.WHITE, 8.3 + 4.8j, shape=_BLOCK),
        Part(Label.POOL, m.POOL_WATER, 7.8 + 4.3j, shape=_BLOCK),
    ),
    "pool": (
        Part(Label.BACKGROUND, m.CONCRETE, 11.2 + 7.3j, shape=_BLOCK),
        Part(Label.BACKGROUND, m.WHITE, 8.3 + 4.8j, shape=_BEAN),
        Part(Label.POOL, m.POOL_WATER, 7.8 + 4.3j, shape=_BEAN),
    ),
    "trampoline": (
        Part(Label.TRAMPOLINE, m.TRAMPOLINE_RING, 4.0 + 4.0j, (0.9, 0.9), shape=_DISC),
        Part(Label.TRAMPOLINE, m.BLACK, 3.2 + 3.2j, (0.9, 0.9), shape=_DISC),
    ),
    "shed": (
        Part(Label.SECONDARY_STRUCTURE, m.SHINGLES, 4.0 + 3.0j, (0, 2.1), pitch=0.5),
    ),
    "carport": (Part(Label.SECONDARY_STRUCTURE, m.SHEET_METAL, 4.4 + 3.2j, (2.2, 2.5)),),
    **{
        name: (Part(Label.TREES, m.LEAVES, width, (z, z), crown=True),)
        for name, width, z in (("shrub", 1.7, 1.1), ("small tree", 4.6, 3.2), ("tree", 7.0, 5.0),
                               ("tall tree", 9.2, 6.6), ("old tree", 12.0, 8.6))
    },
    "forest tree": (Part(Label.FOREST, m.FOREST_LEAVES, 6.0, (6.3, 6.3), crown=True),),
    "drive": (Part(Label.BACKGROUND, m.CONCRETE, 5.0 + 11.5j),),
    "path": (Part(Label.BACKGROUND, m.CONCRETE, 1.1 + 8.0j),),
    "terrace": (Part(Label.BACKGROUND, m.CONCRETE, 9.5 + 5.6j),),
    "bare earth": (Part(Label.BACKGROUND, m.DIRT, 15 + 11j, shape=_BEAN),),
    "boat": (
        Part(Label.BOAT, m.WHITE, 7.0 + 2.35j, (0, 0.9), shape=_HULL),
        Part(Label.BOAT, m.WOOD, 5.5 + 1.55j, (0.9, 0.9), shape=_HULL),
        Part(Label.BOAT, m.CANVAS_CLOTH, 2.1 + 1.65j, (1.0, 2.0), -0.7),
    ),
    "chimney": (
        Part(Label.CHIMNEY, m.BRICK, 1.4 + 1.0j, (-0.3, 2.0)),
        Part(Label.CHIMNEY, m.BLACK, 0.7 + 0.45j, (2.0, 2.0)),
    ),
    "dish": (
        Part(Label.ANTENNA, m.WHITE, 1.3 + 1.0j, (0.9, 0.9), shape=_DISC),
        Part(Label.ANTENNA, m.STEEL, 0.7 + 0.5j, (0.9, 0.9), 0.1 + 0.1j, _DISC),
    ),
    "vent": (Part(Label.ROOF, m.STEEL, 0.5 + 0.5j, (0, 0.3)),),
    "skylights": tuple(Part(Label.WINDOW, m.SKYLIGHT, 0.9 + 1.2j, at=u) for u in (-1.2, 1.2)),
    "solar panels": tuple(
        Part(Label.SOLAR_PANELS, m.SOLAR_CELLS, 1.0 + 1.55j, at=complex(u, v))
        for u in np.arange(-3.3, 3.4, 1.1)
        for v in (-0.85, 0.85)
    ),
    "shop": (
        Part(Label.ROOF, m.SHEET_METAL, 40 + 8.5j, (0, 6.0), pitch=0.12),
        *(Part(Label.ROOF, m.STEEL, 2.0 + 1.6j, (6.3, 7.6), at) for at in (-12 + 1j, 2 - 2j, 9)),
    ),
    "hall": (
        Part(Label.INDUSTRIAL, m.SHEET_METAL, 24 + 21j, (0, 7.0), pitch=0.12),
        *(Part(Label.INDUSTRIAL, m.STEEL, 2.0 + 1.6j, (7.9, 9.1), at) for at in (-6 + 3j, 5, -3j)),
    ),
    "tank": (
        Part(Label.TANK, m.WHITE, 8 + 8j, (0, 4.6), shape=_DISC),
        Part(Label.TANK, m.STEEL, 8 + 8j, (4.6, 4.6), shape=_DISC, line_m=0.15),
        Part(Label.TANK, m.STEEL, 0.9 + 0.9j, (4.6, 5.2), 1.5 + 2j),
    ),
    "container": (Part(Label.INDUSTRIAL, m.CONTAINER, 2.5 + 6.1j, (0, 2.6)),),
    "lumber": (Part(Label.CONSTRUCTION, m.LUMBER, 3.0 + 1.1j, (0, 0.8)),),
    "frame house": (
        Part(Label.CONSTRUCTION, m.CONCRETE, 13 + 12j),
        *(Part(Label.CONSTRUCTION, m.LUMBER, 0.3 + 0.3j, (0, 2.8), complex(u, v))
          for u in np.arange(-6.4, 6.5, 1.6) for v in (-6, -2, 2, 6)),
        *(Part(Label.CONSTRUCTION, m.LUMBER, 13, (2.8, 2.8), v, line_m=0.25)
          for v in (-6j, -2j, 2j, 6j)),
        *(Part(Label.CONSTRUCTION, m.LUMBER, 6j * side, (5.4, 2.8), u + 3j * side, line_m=0.22)
          for u in np.arange(-6.4, 6.5, 1.2) for side in (-1, 1)),
        Part(Label.CONSTRUCTION, m.LUMBER, 4.5 + 12j, (2.7, 2.8), -4.2, pitch=0.44),
    ),
    "parking ground": (
        Part(Label.BACKGROUND, m.CONCRETE, SITE_SIZE),
        Part(Label.PARKING, m.PAVING, 48 + 18j, at=-5.5j),
        *(Part(Label.PARKING, m.WHITE, 5.2j, at=complex(u, v), line_m=0.15)
          for u in _STALL_U for v in _STALL_V),
        *(Part(Label.GRASS, m.GRASS, 1.8 + 5.0j, at=complex(u, v))
          for u in (-22.6, 22.6) for v in _STALL_V),
    ),
    "pitch": (
        Part(Label.SPORTS, m.RUNNING_TRACK, SITE_SIZE, shape=_OVAL),
        *(Part(Label.SPORTS, m.WHITE, SITE_SIZE - d * (1 + 1j), shape=_OVAL, line_m=0.12)
          for d in (3, 6)),
        Part(Label.SPORTS, m.LAWN, 41 + 21j, shape=_OVAL),
        *(Part(Label.SPORTS, m.WHITE, size, at=at, line_m=0.15)
          for size, at in ((33 + 17j, 0), (17j, 0), (4.6 + 9j, -14.2), (4.6 + 9j, 14.2))),
        Part(Label.SPORTS, m.WHITE, 5 + 5j, shape=_DISC, line_m=0.15),
    ),
    "courts": (
        Part(Label.SPORTS, m.COURT_EDGE, SITE_SIZE),
        *(part for u in (-16, 0, 16) for part in _court(u)),
    ),
    "yard": (Part(Label.INDUSTRIAL, m.GRAVEL, SITE_SIZE),),
    "dug-up lot": (Part(Label.CONSTRUCTION, m.DIRT, 19 + 27j, shape=superellipse(5, 0.02)),),
}  # fmt: skip


_CARS = ("car", "car", "pickup", "van")
_TREES = ("small tree", "tree", "tree", "tall tree", "tall tree", "old tree")
_ALONG, _ACROSS = (0.0, math.pi), (math.pi / 2, -math.pi / 2)
_ANY = tuple(np.arange(0, 6.2, 0.7).tolist())
STREET = (  # 33 m of a street; one of its kerbs is ahead
    Place(("street light",), 0.06, 0.62j),
    Place(_CARS, 0.12, 0.33j, 0.3, _ALONG),
)
FRONT_YARD = (  # the drive is on the left, the house ahead
    Place(("drive",), 1, -0.22 - 0.18j),
    Place(("path",), 1, 0.07 - 0.1j),
    Place(_CARS, 0.4, -0.22 - 0.15j, 0.02 + 0.2j, _ACROSS),
    Place(("bin", "bins"), 0.07, -0.4 - 0.9j),
    Place(("rubbish",), 0.12, 0.22 - 0.65j, 0.12 + 0.12j, _ANY, number=9),
    Place(("shrub",), 0.5, 0.15 + 0.32j, 0.25, number=4),
)
BACK_YARD = (
    Place(("terrace",), 1, -0.32j, 0.1),
    Place(("bare earth",), 0.6, 0.1j, 0.15),
    Place(("pool", "square pool"), 0.2, 0.04j, 0.1),
    Place(("trampoline",), 0.08, 0.3, 0.08 + 0.2j),
    Place(("shed", "shed", "carport"), 0.5, -0.3 + 0.3j, 0.02, (*_ALONG, *_ACROSS)),
)
GARDEN = (Place(_TREES, 0.35, -0.45j, 0.48 + 0.08j), Place(_TREES, 0.65, 0.34j, 0.48 + 0.16j))
ROOF = (  # one of its slopes, with the ridge ahead
    Place(("vent",), 0.4, 0.2j, 0.2 + 0.15j, number=2),
    Place(("solar panels",), 0.018, 0.05j),
    Place(("skylights",), 0.05),
    Place(("chimney",), 0.15, 0.1j, 0.25),
    Place(("dish",), 0.015, -0.3 - 0.2j),
)
SITES = {  # in metres
    "parking": (
        Place(("parking ground",), 1),
        Place(("shop",), 1, 9.5j),
        *(Place(_CARS, 0.4, complex(u + 1.4, v), 0.25j, _ACROSS)
          for u in _STALL_U[:-1] for v in _STALL_V),
        *(Place(("small tree",), 1, complex(u, v)) for u in (-22.6, 22.6) for v in _STALL_V),
    ),
    "sports": (Place(("pitch", "courts"), 1),),
    "industrial": (
        Place(("yard",), 1),
        Place(("hall",), 1, -11 + 1j),
        *(Place(("tank",), 0.6, at) for at in (7 + 9j, 17 + 9j, 7 - 1j, 17 - 1j)),
        Place(("container",), 0.9, 12 - 9j, 9 + 3j, (*_ALONG, *_ACROSS), number=4),
        Place(_CARS, 0.6, 12 - 5j, 9 + 7j, _ANY, number=2),
    ),
    "construction": (
        Place(("dug-up lot",), 1),
        Place(("frame house",), 1),
        Place(("lumber",), 1, 9j, 7 + 2j, _ANY, number=3),
    ),
}  # fmt: skip
