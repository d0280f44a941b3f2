"""What a drawn scene is made of: the classes, and surfaces whose colour is never flat."""

from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

import numpy as np

RGB: TypeAlias = tuple[float, float, float]


class Label(Enum):
    """The classes in the order of their values in a mask, each with its name and colour."""

    BACKGROUND = "Background", (70, 70, 70)
    ROOF = "Property Roof", (200, 90, 60)
    SECONDARY_STRUCTURE = "Secondary Structure", (232, 160, 120)
    POOL = "Swimming Pool", (40, 220, 230)
    VEHICLE = "Vehicle", (220, 20, 110)
    GRASS = "Grass", (140, 200, 80)
    TREES = "Trees / Shrubs", (40, 140, 50)
    SOLAR_PANELS = "Solar Panels", (60, 60, 190)
    CHIMNEY = "Chimney", (128, 0, 0)
    STREET_LIGHT = "Street Light", (255, 255, 170)
    WINDOW = "Window", (150, 190, 255)
    ANTENNA = "Satellite Antenna", (255, 255, 255)
    BINS = "Garbage Bins", (0, 90, 80)
    TRAMPOLINE = "Trampoline", (150, 70, 220)
    ROAD = "Road/Highway", (150, 150, 155)
    CONSTRUCTION = "Under Construction / In Progress Status", (255, 140, 0)
    POWER_LINES = "Power Lines & Cables", (255, 225, 0)
    TANK = "Water Tank / Oil Tank", (205, 205, 225)
    PARKING = "Parking Area - Commercial", (190, 160, 200)
    SPORTS = "Sports Complex / Arena", (255, 120, 170)
    INDUSTRIAL = "Industrial Site", (140, 110, 160)
    FOREST = "Dense Vegetation / Forest", (10, 80, 30)
    WATER = "Water Body", (20, 90, 200)
    FLOODED = "Flooded", (120, 110, 90)
    BOAT = "Boat", (255, 60, 40)


@dataclass(frozen=True)
class Material:
    """A surface. ``grain``, ``mottle``, ``patch`` and ``rib`` are shares of its brightness."""

    colours: tuple[RGB, ...]  # What it may look like: a thing picks one. 255 is white.
    patches: RGB = (1.0, 1.0, 1.0)  # By which factors it changes in patches of several metres.
    grain: float = 0.04  # Noise of 0.15 m.
    mottle: float = 0.03  # Noise of 0.5 m.
    patch: float = 0.04  # Noise of 6 m.
    rib: float = 0.0  # Stripes across the streets' direction, as of sheet metal.

    def picked(self, rng: np.random.Generator, varies: float = 0.08) -> "Material":
        """The same in one colour, a little lighter or darker than in the table."""
        hue = rng.normal(1, varies) * rng.normal(1, varies / 6, 3)
        colour = self.colours[rng.integers(len(self.colours))]
        red, green, blue = np.clip(colour * hue, 8, 245).tolist()
        return replace(self, colours=((red, green, blue),))


# The ground, and water; after a hurricane some of it is green or brown.
GRASS = Material(((98, 116, 60),), (1.29, 1.10, 1.33), grain=0.09, mottle=0.09, patch=0.05)
DIRT = Material(((152, 124, 92),), (0.82, 0.79, 0.76), grain=0.06, mottle=0.08, patch=0.08)
GRAVEL = Material(((158, 150, 136),), (0.85, 0.85, 0.87), grain=0.08, mottle=0.05)
CONCRETE = Material(((172, 166, 154),), (0.87, 0.88, 0.89), patch=0.03)
PAVING = Material(((172, 166, 154), (104, 104, 106)), (1.0, 0.98, 0.95), grain=0.06)
COURT = Material(((62, 98, 148), (86, 132, 92), (172, 112, 82)))
COURT_EDGE = Material(((74, 112, 84), (148, 84, 66), (72, 104, 128)))
RUNNING_TRACK = Material(((166, 92, 72),), grain=0.07)
LAWN = Material(((86, 122, 58),), grain=0.07)
MOWN_LAWN = Material(((94, 130, 64),), grain=0.07)
POOL_WATER = Material(((96, 188, 204), (80, 160, 190), (92, 124, 96)), grain=0.02, mottle=0.05)
LAKE = Material(((84, 92, 74), (66, 86, 88), (98, 92, 72), (58, 84, 104)), grain=0.015, patch=0.03)
MUD = Material(((110, 94, 70), (82, 72, 56), (62, 58, 48), (128, 110, 84)), grain=0.015, patch=0.05)

# Plants.
LEAVES = Material(((66, 88, 44), (82, 104, 50), (98, 116, 54), (58, 78, 46)), grain=0.1, mottle=0.3)
UNDERGROWTH = Material(((58, 70, 38),), (1.31, 1.14, 1.21), grain=0.15, mottle=0.2)

# What people make.
WHITE = Material(((226, 226, 222),), patch=0.01)
BLACK = Material(((34, 35, 38),), mottle=0.06)
STEEL = Material(((168, 170, 172),), patch=0.0)
GLASS = Material(((52, 68, 84),), patch=0.0)
SOLAR_CELLS = Material(((38, 50, 84),), (1.42, 1.36, 1.29), grain=0.03)
BRICK = Material(((142, 92, 76),), grain=0.1)
PLASTER = Material(((188, 176, 158),), mottle=0.02)
WOOD = Material(((134, 112, 86),), (1.16, 1.23, 1.3), grain=0.08)
LUMBER = Material(((206, 178, 132),), grain=0.06, rib=0.1)
RUBBISH = Material(((150, 135, 118), (96, 88, 80), (196, 186, 170), (120, 96, 72)))
CLOTH = Material(((44, 78, 138), (60, 84, 120), (150, 60, 50), (70, 112, 74)))
CABLE = Material(((52, 52, 54), (52, 52, 54), (186, 186, 184)))
ROAD_PAINT = Material(((226, 226, 222), (196, 164, 66)))
TAR = Material(((74, 74, 76),))
_ROOFS = ((116, 112, 110), (98, 96, 98), (134, 126, 116), (122, 106, 92), (146, 130, 110),
          (88, 80, 76), (150, 104, 82), (106, 114, 122))  # fmt: skip
SHINGLES = Material(_ROOFS, grain=0.09, mottle=0.05)
SHEET_METAL = Material(((170, 172, 172), (130, 138, 146), (186, 180, 166)), rib=0.07)
CONTAINER = Material(((128, 62, 48), (52, 86, 122), (118, 122, 120), (150, 120, 60)), rib=0.07)
PLASTIC = Material(((44, 82, 60), (38, 40, 46), (52, 78, 120), (118, 90, 60)))
_CARS = ((226, 227, 228), (212, 214, 216), (168, 171, 175), (120, 124, 130), (46, 48, 53),
         (30, 31, 34), (136, 32, 34), (40, 66, 118), (94, 84, 70))  # fmt: skip
CAR_PAINT = Material(_CARS, grain=0.02, patch=0.0)
