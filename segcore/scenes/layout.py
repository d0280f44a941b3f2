"""Where things are in a drawn scene: streets and lots, one large site, water, and the flood.

Streets run along the world's x axis; the camera is turned at random against it. Flat things are
painted at once; what stands is drawn at the end, low before high.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from segcore.scenes import catalogue
from segcore.scenes import materials as m
from segcore.scenes.canvas import Canvas, Frame
from segcore.scenes.catalogue import THINGS, Place
from segcore.scenes.materials import Label
from segcore.scenes.solids import BOX, draw_block, draw_roof, draw_thing, scaled

_ROAD_M = 8.5
_VERGE_M = 3.6  # From the kerb to the lots: grass and a pavement.
_OVERHANG_M = 0.45


class Suburb:
    """One plan: streets, lots on both sides of each, and what lies beyond the upper lots."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas, self.rng = canvas, canvas.rng
        self.lot_depth_m = self.rng.uniform(27, 36)
        self.lots_y = _ROAD_M / 2 + _VERGE_M  # from a street's middle
        self.street_y = self.rng.uniform(-44, 2)
        self.edge_y = self.street_y + self.lots_y + self.lot_depth_m
        self.grass = m.GRASS.picked(self.rng, 0.12)
        self.leafiness = self.rng.uniform(0.4, 1.3)
        # What stands, with its height: it is drawn when all lower things are.
        self.standing: list[tuple[float, Callable[[], None]]] = []

    def draw(self) -> None:
        """Paint the ground, then the flood, then what stands."""
        canvas, rng = self.canvas, self.rng
        canvas.spread(np.ones(canvas.shape, np.float32), (Label.GRASS, self.grass))
        beyond = rng.choice(["lots", "water", "forest"], p=[0.48, 0.25, 0.27])
        site = rng.choice(["industrial", "sports", "parking", ""], p=[0.07, 0.15, 0.09, 0.69])
        site_m = rng.uniform(42, 56) if site else 0.0
        crossing_m = 2 * self.lots_y if rng.random() < 0.3 else 0.0
        # Lots are laid out to both sides of here; a site is the first one on the right.
        middle_x = rng.uniform(-18, 18) - (site_m + crossing_m) / 2
        gap = 2 * (self.lots_y + self.lot_depth_m)
        numbers = (-1, 0, 1) if beyond == "lots" else (-1, 0)
        streets = [Frame(complex(middle_x, self.street_y + gap * number)) for number in numbers]
        for street in streets:
            for turn, side in ((0.0, -1), (0.0, 1), (math.pi, -1), (math.pi, 1)):
                is_beside_site = street is streets[1] and side == 1 and not turn
                start_m = crossing_m / 2 + (site_m if is_beside_site else 0.0)
                self._row(street.at(0, turn), start_m, side)
        if site:
            spot = complex((crossing_m + site_m) / 2, self.lots_y + self.lot_depth_m / 2)
            stretch = complex((site_m - 2) / 50, self.lot_depth_m / 31)
            self._fill(streets[1].at(spot), stretch, catalogue.SITES[site])
        for street in streets:
            self._stand(street, "pavements", 1 + 1j)
        for street in streets:
            self._fill(street, 1 + 1j, catalogue.STREET)
        if crossing_m:
            end_y = 90.0 if beyond == "lots" else self.edge_y - 6
            crossing = Frame(complex(middle_x, end_y - catalogue.STREET_M / 2), 1j)
            self._fill(crossing, 1 + 1j, catalogue.STREET)
        self._fill(Frame(1j * self.edge_y), 1 + 1j, catalogue.BEYOND[beyond])
        if rng.random() < 0.38:
            self._flood([street.origin.imag for street in streets])
        if beyond == "water":
            self._water()
        for _, draw_it in sorted(self.standing, key=lambda noted: noted[0]):
            draw_it()

    def _stand(self, frame: Frame, name: str, stretch: complex | None = None) -> None:
        """Draw a thing: now if it is flat or on a roof, otherwise when all lower ones are drawn."""
        stretch = stretch or self.rng.uniform(0.88, 1.12) * (1 + 1j)
        height_m = max(part.z[1] for part in THINGS[name][1])
        draw = partial(draw_thing, self.canvas, frame, THINGS[name], stretch)
        if height_m and not frame.z:
            self.standing.append((height_m, draw))
        else:
            draw()

    def _fill(self, frame: Frame, region: complex, places: Sequence[Place]) -> None:
        """Let things stand in a region of this width and depth around a frame."""
        rng = self.rng
        for place in places:
            for _ in range(place.number if rng.random() < place.chance else 0):
                off = scaled(complex(place.spread), complex(*rng.uniform(-1, 1, 2)))
                spot = frame.at(scaled(place.at + off, region), rng.choice(place.turns))
                self._stand(spot, rng.choice(place.things), region if place.stretched else None)

    def _row(self, street: Frame, start_m: float, side: int) -> None:
        """Lots ahead of a street's middle, from ``start_m`` to the right (``side`` 1) or left."""
        u = start_m
        while u < catalogue.STREET_M / 2:
            width = self.rng.uniform(17, 23)
            lot = street.at(complex(side * (u + width / 2), self.lots_y))
            u += width
            if self.canvas.sees(lot.at(0.5j * self.lot_depth_m), 25):
                self._lot(lot, width)

    def _lot(self, lot: Frame, width: float) -> None:
        """A lot; v runs from the pavement to the back fence."""
        middle, size = lot.at(0.5j * self.lot_depth_m), complex(width - 0.3, self.lot_depth_m)
        grass = self.grass.picked(self.rng, 0.07)
        self.canvas.paint(middle, scaled(BOX, size), (Label.GRASS, grass))
        if self.rng.random() < 0.014:
            stretch = complex(width / 20, self.lot_depth_m / 31)
            self._fill(middle, stretch, catalogue.SITES["construction"])
            return
        for _ in range(self.rng.poisson(5.0 * self.leafiness)):
            self._fill(middle, size, catalogue.GARDEN)
        if self.rng.random() < 0.95:
            self._home(lot, width)

    def _home(self, lot: Frame, width: float) -> None:
        """A house between its front yard and its fenced back yard."""
        house = complex(width * self.rng.uniform(0.66, 0.82), self.rng.uniform(9, 13))
        setback = self.rng.uniform(5.5, 8)
        back = setback + house.imag
        width *= self.rng.choice([-1, 1])  # Yards are mirrored at random.
        middle, back_yard = lot.at(0.5j * (back + self.lot_depth_m)), self.lot_depth_m - back
        self._fill(lot.at(0.5j * setback), complex(width, setback), catalogue.FRONT_YARD)
        self._fill(middle, complex(width, back_yard), catalogue.BACK_YARD)
        draw_house = partial(self._house, lot.at(0.5j * (setback + back)), house)
        self.standing.append((7, draw_house))

    def _house(self, frame: Frame, size: complex) -> None:
        """Walls, a roof and what is on it; perhaps a wing towards the street, at negative v."""
        canvas, rng, width, depth = self.canvas, self.rng, size.real, size.imag
        eave, pitch = 5.4 if rng.random() < 0.25 else 2.9, rng.uniform(0.35, 0.65)
        hip = rng.choice([0.05, 0.6, 1.0, 1.0])
        roofs = [(frame, size, (hip, hip))]
        if rng.random() < 0.75:
            wing, length = min(rng.uniform(0.4, 0.6) * width, depth * 0.95), rng.uniform(2.0, 6.0)
            u = rng.choice([-1, 1]) * (width - wing) / 2
            outwards = frame.at(complex(u, -(depth + length) / 2), -math.pi / 2)
            roofs.append((outwards, complex(length, wing), (-1.0, hip)))
        walls = Label.BACKGROUND, m.PLASTER.picked(rng, 0.15)
        shingles = Label.ROOF, m.SHINGLES.picked(rng)
        for place, area, _ in roofs:
            outline = scaled(BOX, area - 2 * _OVERHANG_M * (1 + 1j))
            draw_block(canvas, place, outline, (0, eave), walls)
        for place, area, hips in roofs:
            draw_roof(canvas, place._replace(z=eave), area, pitch, shingles, hips)
        for turn in (0.0, math.pi):
            lower_edge = frame._replace(z=eave).at(0, turn).at(-0.5j * depth)
            slope = lower_edge._replace(rise=pitch).at(0.25j * depth)
            self._fill(slope, complex(width, depth / 2), catalogue.ROOF)

    def _water(self) -> None:
        """A lake or a bayou behind a bank of bare earth."""
        canvas = self.canvas
        offshore_HW = canvas.ground_HW.imag - np.float32(self.edge_y + 1.5) + 0.8 * canvas.patch_HW
        canvas.spread(offshore_HW + 1.5, (Label.BACKGROUND, m.DIRT))
        canvas.spread(offshore_HW, (Label.WATER, m.LAKE.picked(self.rng)))

    def _flood(self, streets_y: Sequence[float]) -> None:
        """Muddy water on low ground; streets, a little lower than lots, fill first."""
        canvas, rng = self.canvas, self.rng
        y_HW = canvas.ground_HW.imag
        to_street_HW = np.min([np.abs(y_HW - np.float32(y)) for y in streets_y], axis=0)
        height_HW = (canvas.noise(28) + 0.38 * canvas.patch_HW) / np.float32(1.1)
        height_HW += np.clip(to_street_HW / 7, 0, 1.4)
        depth_HW = np.float32(np.quantile(height_HW, rng.uniform(0.15, 0.6))) - height_HW
        canvas.bottom_HW = canvas.stroke_HW.copy()
        canvas.clear_HW = np.clip(0.4 - depth_HW, 0.04, 0.4)
        canvas.spread(depth_HW, (Label.FLOODED, m.MUD.picked(rng, 0.06)))
