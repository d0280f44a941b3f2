"""What a drawn scene is made of: the classes, and surfaces whose colour is never flat."""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TypeAlias

import numpy as np

RGB: TypeAlias = tuple[float, float, float]


class Label(IntEnum):
    """The classes, by their value in a mask."""

    BACKGROUND = 0
    ROOF = 1
    SECONDARY_STRUCTURE = 2
    POOL = 3
    VEHICLE = 4
    GRASS = 5
    TREES = 6
    SOLAR_PANELS = 7
    CHIMNEY = 8
    STREET_LIGHT = 9
    WINDOW = 10
    ANTENNA = 11
    BINS = 12
    TRAMPOLINE = 13
    ROAD = 14
    CONSTRUCTION = 15
    POWER_LINES = 16
    TANK = 17
    PARKING = 18
    SPORTS = 19
    INDUSTRIAL = 20
    FOREST = 21
    WATER = 22
    FLOODED = 23
    BOAT = 24


@dataclass(frozen=True)
class Ribs:
    """Parallel bright and dark stripes: shingle courses, sheet metal, mown grass."""

    direction: tuple[float, float]
    """Across the stripes, on the ground."""
    period_m: float
    strength: float


@dataclass(frozen=True)
class Material:
    """A surface. ``grain``, ``mottle`` and ``patch`` are shares of its brightness."""

    rgb: RGB
    patches_rgb: RGB | None = None
    """A second colour, blended in over several metres."""
    grain: float = 0.04
    """Noise of 0.15 m."""
    mottle: float = 0.03
    """Noise of 0.5 m."""
    patch: float = 0.04
    """Noise of 6 m."""
    ribs: Ribs | None = None


CONCRETE = Material((172, 166, 154), (150, 146, 137), patch=0.03)
ASPHALT = Material((104, 104, 106), (124, 121, 117), grain=0.06)
GLASS = Material((46, 56, 68), patch=0)
WOOD = Material((134, 112, 86), (156, 138, 112), grain=0.08)
DIRT = Material((152, 124, 92), (124, 98, 70), grain=0.06, mottle=0.08, patch=0.08)
STEEL = Material((168, 170, 172), patch=0)
WHITE = Material((226, 226, 222), patch=0.01)
BLACK = Material((34, 35, 38), mottle=0.06)
PLASTER = Material((188, 176, 158), mottle=0.02)


def varied(rng: np.random.Generator, material: Material, amount: float = 0.08) -> Material:
    """The same material from another maker: brightness, and a little the hue."""
    brightness, *hue = rng.standard_normal(4).tolist()
    factors = [(1 + amount * brightness) * (1 + amount / 6 * shift) for shift in hue]

    def tinted(rgb: RGB) -> RGB:
        red, green, blue = (
            min(max(value * factor, 8.0), 245.0) for value, factor in zip(rgb, factors, strict=True)
        )
        return red, green, blue

    other = tinted(material.patches_rgb) if material.patches_rgb else None
    return replace(material, rgb=tinted(material.rgb), patches_rgb=other)
