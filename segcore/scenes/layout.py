"""Where things are in a drawn scene: streets and lots, one large site, water, and the flood.

Streets run along the world's x axis; the camera is turned at random against it. Flat things are
painted at once; what stands is drawn at the end, low before high.
"""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from segcore.scenes import catalogue
from segcore.scenes import materials as m
from segcore.scenes.canvas import Canvas, Frame
from segcore.scenes.catalogue import Place
from segcore.scenes.materials import Label, Material
from segcore.scenes.solids import BOX, draw_block, draw_parts, draw_roof, scaled

_ROAD_M = 8.5
_VERGE_M = 3.6  # From the kerb to the lots: grass and a pavement.
_OVERHANG_M = 0.45


class Suburb:
    """One plan: streets, lots on both sides of each, and what lies beyond the upper lots."""

    def __init__(self, canvas: Canvas) -> None:
        rng = canvas.rng
        self.canvas, self.rng = canvas, rng
        self.reach_m = canvas.reach_m + 12
        self.lot_depth_m = rng.uniform(27, 36)
        gap = 2 * (self.lot_depth_m + _VERGE_M) + _ROAD_M
        street_y = rng.uniform(-44, 2)
        self.streets_y = [street_y - gap, street_y]
        self.edge_y = street_y + gap / 2
        self.beyond = rng.choice(["lots", "water", "forest"], p=[0.48, 0.25, 0.27])
        if self.beyond == "lots":
            self.streets_y.append(street_y + gap)
        self.site = rng.choice(["", "parking", "sports", "industrial"], p=[0.60, 0.13, 0.11, 0.16])
        self.site_width_m = rng.uniform(42, 56) if self.site else 0.0
        self.crossing_m = _ROAD_M + 2 * _VERGE_M if canvas.chance(0.3) else 0.0
        self.middle_x = rng.uniform(-18, 18) - (self.site_width_m + self.crossing_m) / 2
        self.grass, self.pavement = m.GRASS.picked(rng, 0.12), m.CONCRETE.picked(rng)
        self.road = m.PAVING.picked(rng, 0.1)
        self.leafiness = rng.uniform(0.4, 1.3)

    def draw(self) -> None:
        """Paint the ground, then the flood, then what stands."""
        canvas = self.canvas
        canvas.spread(np.ones(canvas.shape, np.float32), Label.GRASS, self.grass)
        streets = [Frame(1j * y) for y in self.streets_y]
        for number, street in enumerate(streets):
            self._row(street.at(self.middle_x), self.site if number == 1 else "")
            self._row(street.at(self.middle_x, math.pi))
        for street in streets:
            for side in (-1, 1):
                pavement = street.at(1j * side * (_ROAD_M / 2 + 2.2))
                size = complex(2 * self.reach_m, 1.3)
                self._rectangle(pavement, size, Label.BACKGROUND, self.pavement)
            self._street(street, 2 * self.reach_m)
        if self.crossing_m:
            top = self.reach_m if self.beyond == "lots" else self.edge_y - 6
            middle = complex(self.middle_x, (top - self.reach_m) / 2)
            self._street(Frame(middle, 1j), top + self.reach_m)
        if self.beyond == "water":
            self._water()
        elif self.beyond == "forest":
            self._forest()
        if canvas.chance(0.55):
            kerb_y = self.streets_y[1] + _ROAD_M / 2 + 1
            y = self.edge_y - 0.8 if canvas.chance(0.6) else kerb_y
            canvas.later(10, partial(self._power_line, Frame(1j * y)))
        if canvas.chance(0.42):
            self._flood()
        canvas.draw_standing()

    # ------------------------------------------------------------------------ things in regions

    def _rectangle(self, frame: Frame, size: complex, label: Label, material: Material) -> None:
        self.canvas.paint(frame, scaled(BOX, size), label, material)

    def _stand(self, frame: Frame, name: str, stretch: complex | None = None) -> None:
        """Draw a thing: now if it is flat, otherwise when all lower ones are drawn."""
        if stretch is None:
            stretch = self.rng.uniform(0.88, 1.12) * (1 + 1j)
        parts = catalogue.THINGS[name]
        draw = partial(draw_parts, self.canvas, frame, parts, stretch)
        height_m = max(part.z[1] for part in parts)
        if height_m == 0 or frame.z > 0:
            draw()
        else:
            self.canvas.later(height_m, draw)

    def _fill(
        self, frame: Frame, region: complex, places: Sequence[Place], stretch: complex | None = None
    ) -> None:
        """Let things stand in a region of this width and depth around a frame."""
        for place in places:
            for _ in range(place.number if self.canvas.chance(place.chance) else 0):
                off = scaled(complex(place.spread), complex(*self.rng.uniform(-1, 1, 2)))
                spot = frame.at(scaled(place.at + off, region), self.canvas.one_of(place.turns))
                self._stand(spot, self.canvas.one_of(place.things), stretch)

    # ----------------------------------------------------------------------------- streets, lots

    def _street(self, frame: Frame, length: float) -> None:
        """A road along u with its kerb and seams, perhaps a dashed line; lamps and parked cars."""
        canvas, rng = self.canvas, self.rng
        self._rectangle(frame, complex(length, _ROAD_M + 0.5), Label.ROAD, self.pavement)
        self._rectangle(frame, complex(length, _ROAD_M), Label.ROAD, self.road)
        for u in np.arange(-length / 2, length / 2, rng.uniform(8, 16)).tolist():
            bend = u + rng.normal(0, 0.4)
            seam = np.array([u - _ROAD_M / 2 * 1j, bend, u + _ROAD_M / 2 * 1j])
            canvas.line(frame, seam, 0.12, Label.ROAD, m.TAR)
        if canvas.chance(0.45):
            paint = m.ROAD_PAINT.picked(rng)
            for u in np.arange(-length / 2, length / 2, 7).tolist():
                canvas.line(frame, np.array([u, u + 3 + 0j]), 0.2, Label.ROAD, paint)
        for u in np.arange(-length / 2, length / 2, 33).tolist():
            for turn in (0.0, math.pi):
                self._fill(frame.at(u, turn), complex(33, _ROAD_M), catalogue.STREET)

    def _row(self, middle: Frame, site: str = "") -> None:
        """Lots on one side of a street, from its middle outwards; the first on the right a site."""
        for side in (-1, 1):
            u = self.crossing_m / 2
            while u < 2 * self.reach_m:
                is_site = bool(site) and side == 1 and u == self.crossing_m / 2
                width = self.site_width_m if is_site else self.rng.uniform(17, 23)
                lot = middle.at(complex(side * (u + width / 2), _ROAD_M / 2 + _VERGE_M))
                u += width
                if is_site:
                    self._site(lot, width, site)
                elif self.canvas.sees(lot.at(0.5j * self.lot_depth_m), 25):
                    self._lot(lot, width)

    def _site(self, lot: Frame, width: float, name: str) -> None:
        stretch = complex((width - 2) / 50, self.lot_depth_m / 31)
        places = catalogue.SITES[name]
        self._fill(lot.at(0.5j * self.lot_depth_m), stretch, places, stretch)

    def _lot(self, lot: Frame, width: float) -> None:
        """A lot; v runs from the pavement to the back fence."""
        rng, depth, middle = self.rng, self.lot_depth_m, lot.at(0.5j * self.lot_depth_m)
        size, grass = complex(width - 0.3, depth), self.grass.picked(rng, 0.07)
        self._rectangle(middle, size, Label.GRASS, grass)
        if self.canvas.chance(0.01):
            stretch = complex(width / 20, depth / 31)
            self._fill(middle, stretch, catalogue.SITES["construction"], stretch)
            return
        for _ in range(rng.poisson(5.0 * self.leafiness)):
            self._fill(middle, size, catalogue.GARDEN)
        if self.canvas.chance(0.95):
            self._home(lot, width)

    def _home(self, lot: Frame, width: float) -> None:
        """A house between its front yard and its fenced back yard."""
        canvas, rng, depth = self.canvas, self.rng, self.lot_depth_m
        house = complex(width * rng.uniform(0.66, 0.82), rng.uniform(9, 13))
        setback = rng.uniform(5.5, 8)
        back = setback + house.imag
        side = canvas.one_of([-1, 1])
        front_yard, back_yard = complex(side * width, setback), complex(side * width, depth - back)
        self._fill(lot.at(0.5j * setback), front_yard, catalogue.FRONT_YARD)
        self._fill(lot.at(0.5j * (back + depth)), back_yard, catalogue.BACK_YARD)
        for u in (-width / 2, width / 2) if canvas.chance(0.8) else ():
            fence = lot.at(complex(u, (back - 3 + depth) / 2), math.pi / 2)
            self._stand(fence, "fence", complex(depth - back + 3, 1))
        self._stand(lot.at(1j * depth), "fence", complex(width, 1))
        canvas.later(7, partial(self._house, lot.at(0.5j * (setback + back)), house))

    def _house(self, frame: Frame, size: complex) -> None:
        """Walls, a roof and what is on it; perhaps a wing towards the street, at negative v."""
        canvas, rng, width, depth = self.canvas, self.rng, size.real, size.imag
        if not canvas.sees(frame, abs(size) / 2 + 12):
            return
        eave, pitch = 5.4 if canvas.chance(0.25) else 2.9, rng.uniform(0.35, 0.65)
        hip = canvas.one_of([0.0, 0.6, 1.0, 1.0])
        shingles, plaster = m.SHINGLES.picked(rng), m.PLASTER.picked(rng, 0.15)
        roofs = [(frame, size, (hip, hip))]
        if canvas.chance(0.75):
            wing, length = min(rng.uniform(0.4, 0.6) * width, depth * 0.95), rng.uniform(2.0, 6.0)
            u = canvas.one_of([-1, 1]) * (width - wing) / 2
            outwards = frame.at(complex(u, -(depth + length) / 2), -math.pi / 2)
            roofs.append((outwards, complex(length, wing), (-1.0, hip)))
        for place, area, _ in roofs:
            walls = scaled(BOX, area - 2 * _OVERHANG_M * (1 + 1j))
            draw_block(canvas, place, walls, (0, eave), Label.BACKGROUND, plaster)
        for place, area, hips in roofs:
            draw_roof(canvas, place._replace(z=eave), area, pitch, Label.ROOF, shingles, hips)
        for turn in (0.0, math.pi):
            lower_edge = frame._replace(z=eave).at(0, turn).at(-0.5j * depth)
            slope = lower_edge._replace(rise=pitch).at(0.25j * depth)
            self._fill(slope, complex(width, depth / 2), catalogue.ROOF)

    def _power_line(self, middle: Frame) -> None:
        """Poles every 38 m along u, and three sagging cables on their cross-arms."""
        canvas, reach, span = self.canvas, self.reach_m, 38.0
        first = -reach + self.rng.uniform(0, span)
        for u in np.arange(first, reach, span).tolist():
            draw_parts(canvas, middle.at(u), catalogue.THINGS["pole"], 1 + 1j)
        u_N = np.arange(-reach, reach + 1, 2.0)
        sag_N = 1 - (2 * ((u_N - first) % span / span) - 1) ** 2  # A parabola between two poles.
        cable = m.CABLE.picked(self.rng)
        for v in (-1.1j, 0j, 1.1j):
            canvas.line(middle, u_N + v, 0.12, Label.POWER_LINES, cable, 9.5 - 1.1 * sag_N)

    # ----------------------------------------------------------- what lies beyond, and the flood

    def _forest(self) -> None:
        """Crown beside crown, over undergrowth that is as dark."""
        reach, edge = self.reach_m, self.edge_y + 1
        ground = Frame(1j * (edge + reach))
        self._rectangle(ground, 2 * reach * (1 + 1j), Label.FOREST, m.UNDERGROWTH)
        for x in np.arange(-reach, reach, 4.2).tolist():
            for y in np.arange(edge + 1.5, reach, 4.2).tolist():
                dx, dy = self.rng.normal(0, 1.2, 2).tolist()
                self._stand(Frame(complex(x + dx, y + dy)), "forest tree")

    def _water(self) -> None:
        """A lake or a bayou behind a bank of bare earth; boats now and then."""
        canvas, rng = self.canvas, self.rng
        offshore_HW = canvas.ground_HW.imag - np.float32(self.edge_y + 1.5) + 0.8 * canvas.patch_HW
        canvas.spread(offshore_HW + 1.5, Label.BACKGROUND, m.BANK)
        opaque_HW = np.full_like(offshore_HW, 0.97)
        canvas.spread(offshore_HW, Label.WATER, m.LAKE.picked(rng), opaque_HW)
        if canvas.chance(0.55):
            for x in rng.permutation(np.arange(-27, 28, 9))[: rng.integers(1, 4)].tolist():
                spot = Frame(complex(x, self.edge_y + 5.5 + rng.exponential(1.5)))
                self._stand(spot.at(0, rng.normal(0, 0.3)), "boat")

    def _flood(self) -> None:
        """Muddy water on low ground; streets, a little lower than lots, fill first."""
        canvas, rng = self.canvas, self.rng
        y_HW = canvas.ground_HW.imag
        to_street_HW = np.min([np.abs(y_HW - np.float32(y)) for y in self.streets_y], axis=0)
        height_HW = (canvas.noise(28) + 0.38 * canvas.patch_HW) / np.float32(1.1)
        height_HW += np.clip(to_street_HW / 7, 0, 1.4)
        depth_HW = np.float32(np.quantile(height_HW, rng.uniform(0.15, 0.6))) - height_HW
        for water in canvas.waters:
            depth_HW[canvas.stroke_HW == water.number] = -1
        opacity_HW = np.clip(0.6 + depth_HW, 0.6, 0.96)
        canvas.spread(depth_HW, Label.FLOODED, m.MUD.picked(rng, 0.06), opacity_HW)
