"""The things of a drawn scene, as tables: what each is made of, and where how many stand."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segcore.scenes import materials as m
from segcore.scenes.materials import Label
from segcore.scenes.solids import Part, Thing, superellipse


class Place(NamedTuple):
    """Where something may stand in a region. Lengths are shares of the region's size."""

    things: tuple[str, ...]  # It is one of these.
    chance: float  # How often there are any.
    at: complex = 0.0  # From the region's middle.
    spread: complex = 0.0  # It stands up to so far from there.
    turns: Sequence[float] = (0.0,)  # It is turned by one of these angles, in radians.
    number: int = 1  # So many stand there, if any do.
    stretched: bool = False  # Whether its own size is in shares of the region, too.


STREET_M = 240.0  # Longer than any view.
_DISC, _OVAL, _SQUARE = (superellipse(power) for power in (2, 3.2, 8))
_BEAN = superellipse(2.4, lobes=0.09)
_BODY = np.array([-10 - 6j, -8 - 10j, 8 - 10j, 10 - 6j, 10 + 6j, 8 + 10j, -8 + 10j, -10 + 6j]) / 20
_HULL = np.array([-10 - 10j, 3 - 10j, 7.6 - 6j, 10, 7.6 + 6j, 3 + 10j, -10 + 10j]) / 20
_SITE = 50 + 30j  # A site's ground; it is stretched to the room that there is.
_STALLS = [complex(u, v) for u in np.arange(-21.0, 22.0, 2.8) for v in (-11.0, -2.8)]
_ISLANDS = (-22.6 - 11j, 22.6 - 11j, -22.6 - 2.8j, 22.6 - 2.8j)
_POLES, _WALKS = (-76, -38, 0, 38, 76), (-6.45j, 6.45j)
_PANES = [complex(u, v) for u in np.arange(-3.3, 3.4, 1.1) for v in (-0.85, 0.85)]
_COURT = (11 + 24j, 8.2 + 24j, 8.2 + 12.8j, 12.8j, 11)
_PITCH = ((33 + 17j, 0), (17j, 0), (4.6 + 9j, -14.2), (4.6 + 9j, 14.2))
THINGS: dict[str, Thing] = {
    # Streets.
    "street": (Label.ROAD, [Part(m.CONCRETE, STREET_M + 9.0j), Part(m.PAVING, STREET_M + 8.5j),
        *(Part(m.TAR, 8.5j, at=u, line_m=0.12) for u in range(-120, 121, 12))]),
    "dashes": (Label.ROAD, [Part(m.ROAD_PAINT, 3 + 0.25j, at=u) for u in range(-120, 121, 7)]),
    "pavements": (Label.BACKGROUND, [Part(m.CONCRETE, STREET_M + 1.3j, at=v) for v in _WALKS]),
    "street light": (Label.STREET_LIGHT, [Part(m.STEEL, 0, (0, 7.5), line_m=0.22),
        Part(m.STEEL, 2.4j, (7.9, 7.5), -1.2j, line_m=0.22),
        Part(m.WHITE, 0.5 + 1.0j, (7.9, 7.9), -2.5j)]),
    "power line": (Label.POWER_LINES, [*(Part(m.WOOD, 0, (0, 9.5), u, line_m=0.35) for u in _POLES),
        *(Part(m.WOOD, 2.6j, (9.5, 9.5), u, line_m=0.3) for u in _POLES),
        *(Part(m.CABLE, STREET_M, (9, 9), v, line_m=0.12) for v in (-1.1j, 0, 1.1j))]),
    "car": (Label.VEHICLE, [Part(m.CAR_PAINT, 4.6 + 1.9j, (0.2, 1), shape=_BODY),
        Part(m.GLASS, 2.6 + 1.6j, (1.2, 1.2), -0.4), Part(m.CAR_PAINT, 2 + 1.4j, (2, 2), -0.4)]),
    "pickup": (Label.VEHICLE, [Part(m.CAR_PAINT, 5.6 + 2.1j, (0.2, 1), shape=_BODY),
        Part(m.GLASS, 1.8 + 1.8j, (1.2, 1.2)), Part(m.CAR_PAINT, 1.1 + 1.6j, (1.6, 1.6)),
        Part(m.BLACK, 1.6 + 1.6j, (1, 1), -1.85)]),
    "van": (Label.VEHICLE, [Part(m.CAR_PAINT, 5.2 + 2.1j, (0.2, 1), shape=_BODY),
        Part(m.GLASS, 4 + 1.8j, (1.2, 1.2), -0.4), Part(m.CAR_PAINT, 2.5 + 1.6j, (2, 2), -0.4)]),
    # Lots.
    "drive": (Label.BACKGROUND, [Part(m.CONCRETE, 5.0 + 11.5j)]),
    "terrace": (Label.BACKGROUND, [Part(m.CONCRETE, 9.5 + 5.6j)]),
    "bare earth": (Label.BACKGROUND, [Part(m.DIRT, 15 + 11j, shape=_BEAN)]),
    "rubbish": (Label.BACKGROUND, [Part(m.RUBBISH, 1.0 + 0.55j, (0, 0.6))]),
    "fences": (Label.BACKGROUND, [Part(m.WOOD, 1 + 0.02j, (0, 1.8), 0.5j),  # in shares of a yard
        *(Part(m.WOOD, 0.014 + 1j, (0, 1.8), u) for u in (-0.5, 0.5))]),
    "bin": (Label.BINS, [Part(m.PLASTIC, 0.85 + 0.95j, (0, 1.1))]),
    **{name: (Label.POOL, [Part(m.CONCRETE, 11.2 + 7.3j, shape=_SQUARE, label=Label.BACKGROUND),
              Part(m.WHITE, 8.3 + 4.8j, shape=shape, label=Label.BACKGROUND),
              Part(m.POOL_WATER, 7.8 + 4.3j, shape=shape)])
       for name, shape in (("pool", _BEAN), ("square pool", _SQUARE))},
    "trampoline": (Label.TRAMPOLINE, [Part(m.CLOTH, 4 + 4j, (0.9, 0.9), shape=_DISC),
        Part(m.BLACK, 3.2 + 3.2j, (0.9, 0.9), shape=_DISC)]),
    "shed": (Label.SECONDARY_STRUCTURE, [Part(m.SHINGLES, 4.0 + 3.0j, (0, 2.1), pitch=0.5)]),
    "carport": (Label.SECONDARY_STRUCTURE, [Part(m.SHEET_METAL, 4.4 + 3.2j, (2.2, 2.5))]),
    "shrub": (Label.TREES, [Part(m.LEAVES, 1.7, (1, 1), crown=True)]),
    "small tree": (Label.TREES, [Part(m.LEAVES, 4.6, (3.2, 3.2), crown=True)]),
    "tree": (Label.TREES, [Part(m.LEAVES, 7.0, (5, 5), crown=True)]),
    "tall tree": (Label.TREES, [Part(m.LEAVES, 9.2, (6.4, 6.4), crown=True)]),
    "old tree": (Label.TREES, [Part(m.LEAVES, 12.0, (8.4, 8.4), crown=True)]),
    # Roofs.
    "vent": (Label.ROOF, [Part(m.STEEL, 0.5 + 0.5j, (0, 0.3))]),
    "skylights": (Label.WINDOW, [Part(m.GLASS, 0.9 + 1.2j, at=u) for u in (-1.2, 1.2)]),
    "solar panels": (Label.SOLAR_PANELS, [Part(m.SOLAR_CELLS, 1 + 1.55j, at=at) for at in _PANES]),
    "chimney": (Label.CHIMNEY, [Part(m.BRICK, 1.4 + 1j, (-0.3, 2)),
        Part(m.BLACK, 0.7 + 0.45j, (2, 2))]),
    "dish": (Label.ANTENNA, [Part(m.WHITE, 1.3 + 1.0j, (0.9, 0.9), shape=_DISC),
        Part(m.STEEL, 0.7 + 0.5j, (0.9, 0.9), 0.1 + 0.1j, _DISC)]),
    # Sites, and what lies beyond the lots.
    "parking ground": (Label.PARKING, [Part(m.CONCRETE, _SITE, label=Label.BACKGROUND),
        Part(m.PAVING, 48 + 18j, at=-5.5j),
        *(Part(m.WHITE, 5.2j, at=at, line_m=0.15) for at in _STALLS),
        *(Part(m.GRASS, 1.8 + 5.0j, at=at, label=Label.GRASS) for at in _ISLANDS)]),
    "shop": (Label.ROOF, [Part(m.SHEET_METAL, 40 + 8.5j, (0, 6.0), pitch=0.12),
        *(Part(m.STEEL, 2.0 + 1.6j, (0, 1.2), at, base_m=6.4) for at in (-12 + 1j, 2 - 2j, 9))]),
    "courts": (Label.SPORTS, [Part(m.COURT_EDGE, _SITE),
        *(Part(m.COURT, 11 + 24j, at=u) for u in (-16, 0, 16)),
        *(Part(m.WHITE, size, at=u, line_m=0.12) for u in (-16, 0, 16) for size in _COURT)]),
    "pitch": (Label.SPORTS, [Part(m.RUNNING_TRACK, _SITE, shape=_OVAL),
        *(Part(m.WHITE, size, shape=_OVAL, line_m=0.12) for size in (47 + 27j, 44 + 24j)),
        Part(m.LAWN, 41 + 21j, shape=_OVAL),
        *(Part(m.MOWN_LAWN, 3.3 + 17j, at=u) for u in (-13.2, -6.6, 0, 6.6, 13.2)),
        Part(m.WHITE, 5 + 5j, shape=_DISC, line_m=0.15),
        *(Part(m.WHITE, size, at=at, line_m=0.15) for size, at in _PITCH)]),
    "yard": (Label.INDUSTRIAL, [Part(m.GRAVEL, _SITE)]),
    "hall": (Label.INDUSTRIAL, [Part(m.SHEET_METAL, 24 + 21j, (0, 7.0), pitch=0.12),
        *(Part(m.STEEL, 2.0 + 1.6j, (0, 1.2), at, base_m=7.9) for at in (-6 + 3j, 5, -3j))]),
    "tank": (Label.TANK, [Part(m.WHITE, 8 + 8j, (0, 4.6), shape=_DISC),
        Part(m.STEEL, 8 + 8j, shape=_DISC, line_m=0.15, base_m=4.6),
        Part(m.STEEL, 0.9 + 0.9j, (0, 0.6), 1.5 + 2j, base_m=4.6)]),
    "container": (Label.INDUSTRIAL, [Part(m.CONTAINER, 2.5 + 6.1j, (0, 2.6))]),
    "dug-up lot": (Label.CONSTRUCTION, [Part(m.DIRT, 19 + 27j, shape=_SQUARE)]),
    "lumber": (Label.CONSTRUCTION, [Part(m.LUMBER, 3.0 + 1.1j, (0, 0.8))]),
    "frame house": (Label.CONSTRUCTION, [Part(m.CONCRETE, 13 + 12j),
        *(Part(m.LUMBER, 13, (2.8, 2.8), v, line_m=0.25) for v in (-6j, -2j, 2j, 6j)),
        *(Part(m.LUMBER, 6j * side, (5.4, 2.8), u + 3j * side, line_m=0.22)
          for u in np.arange(-6.4, 6.5, 1.2) for side in (-1, 1)),
        Part(m.LUMBER, 4.5 + 12j, (0, 2.8), -4.2, pitch=0.44)]),
    "boat": (Label.BOAT, [Part(m.WHITE, 7.0 + 2.35j, (0, 0.9), shape=_HULL),
        Part(m.WOOD, 5.5 + 1.55j, (0.9, 0.9), shape=_HULL),
        Part(m.CLOTH, 2.1 + 1.65j, (1.0, 2.0), -0.7)]),
    "undergrowth": (Label.FOREST, [Part(m.UNDERGROWTH, STREET_M * (1 + 1j))]),
    "forest tree": (Label.FOREST, [Part(m.LEAVES, 6.6, (4.6, 4.6), crown=True)]),
}  # fmt: skip

_CARS = ("car", "car", "pickup", "van")
_TREES = ("small tree", "tree", "tree", "tall tree", "tall tree", "old tree")
_ALONG, _ACROSS = (0.0, math.pi), (math.pi / 2, -math.pi / 2)
_LAMPS = range(-115, 116, 33)
_ANY = tuple(np.arange(0, 6.2, 0.7).tolist())
_POWER_LINE = Place(("power line",), 0.46, -0.8j, 19, stretched=True)
STREET = (  # in metres, from its middle
    Place(("street",), 1, stretched=True),
    Place(("dashes",), 0.45, stretched=True),
    Place(("power line",), 0.22, 5.3j, 19, stretched=True),
    *(Place(_CARS, 0.12, complex(u, v), 10, _ALONG) for u in _LAMPS for v in (-2.8, 2.8)),
    *(Place(("street light",), 0.075, u + 5.3j) for u in _LAMPS),
    *(Place(("street light",), 0.075, u - 5.3j, turns=(math.pi,)) for u in _LAMPS),
)
FRONT_YARD = (  # the drive is on the left, the house ahead
    Place(("drive",), 1, -0.22 - 0.18j),
    Place(_CARS, 0.4, -0.22 - 0.15j, 0.02 + 0.2j, _ACROSS),
    Place(("bin",), 0.07, -0.4 - 0.9j, 0.05, number=2),
    Place(("rubbish",), 0.12, 0.22 - 0.65j, 0.12 + 0.12j, _ANY, number=9),
    Place(("shrub",), 0.5, 0.15 + 0.32j, 0.25, number=4),
)
BACK_YARD = (
    Place(("terrace",), 1, -0.32j, 0.1),
    Place(("bare earth",), 0.6, 0.1j, 0.15),
    Place(("pool", "square pool"), 0.2, 0.04j, 0.1),
    Place(("trampoline",), 0.06, 0.3, 0.08 + 0.2j),
    Place(("shed", "shed", "carport"), 0.42, -0.3 + 0.3j, 0.02, (*_ALONG, *_ACROSS)),
    Place(("fences",), 0.9, stretched=True),
)
GARDEN = (Place(_TREES, 0.35, -0.45j, 0.48 + 0.08j), Place(_TREES, 0.65, 0.34j, 0.48 + 0.16j))
ROOF = (  # one of its slopes, with the ridge ahead
    Place(("vent",), 0.4, 0.2j, 0.2 + 0.15j, number=2),
    Place(("solar panels",), 0.024, 0.05j),
    Place(("skylights",), 0.045),
    Place(("chimney",), 0.15, 0.1j, 0.25),
    Place(("dish",), 0.024, -0.3 - 0.2j),
)
SITES = {  # in metres, for a ground of 50 m × 30 m; "construction" is a lot of 20 m × 31 m
    "parking": (
        Place(("parking ground",), 1, stretched=True), Place(("shop",), 1, 9.5j, stretched=True),
        *(Place(_CARS, 0.4, at + 1.4, 0.25j, _ACROSS) for at in _STALLS[:-2]),
        *(Place(("small tree",), 1, at) for at in _ISLANDS)),
    "sports": (Place(("pitch", "courts"), 1, stretched=True),),
    "industrial": (
        Place(("yard",), 1, stretched=True), Place(("hall",), 1, -11 + 1j, stretched=True),
        *(Place(("tank",), 0.4, at) for at in (7 + 9j, 17 + 9j, 7 - 1j, 17 - 1j)),
        Place(("container",), 0.9, 12 - 9j, 9 + 3j, (*_ALONG, *_ACROSS), number=4),
        Place(_CARS, 0.6, 12 - 5j, 9 + 7j, _ANY, number=2)),
    "construction": (
        Place(("dug-up lot",), 1, stretched=True), Place(("frame house",), 1),
        Place(("lumber",), 1, 9j, 7 + 2j, _ANY, number=3)),
}  # fmt: skip
BEYOND = {  # in metres, from the middle of the upper lots' edge
    "lots": (_POWER_LINE,),
    "water": (_POWER_LINE, *(Place(("boat",), 0.26, u + 5.5j, 3 + 1.5j, (-0.3, 0, 0.3))
                             for u in (-27, -9, 9, 27))),
    "forest": (_POWER_LINE, Place(("undergrowth",), 1, (1 + STREET_M / 2) * 1j, stretched=True),
               Place(("forest tree",), 1, 44j, 78 + 42j, number=900)),
}  # fmt: skip
