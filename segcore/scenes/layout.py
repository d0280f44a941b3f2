"""Where things are in a drawn scene: streets and lots, one large site, water, and the flood.

The world's x axis runs along the streets; the camera is turned at random against it. Flat things
are painted at once; what stands is drawn later, low before high.
"""

from dataclasses import replace

import numpy as np

from segcore.scenes import drawing, houses, sites
from segcore.scenes.canvas import Canvas, Frame, floats
from segcore.scenes.drawing import rectangle, rounded
from segcore.scenes.materials import (
    ASPHALT,
    CONCRETE,
    DIRT,
    RGB,
    WHITE,
    Label,
    Material,
    Ribs,
    varied,
)

_ROAD_M = 8.5
_VERGE_M = 3.6  # from the kerb to the lots: grass and a pavement
_GRASS = Material((98, 116, 60), (126, 128, 80), grain=0.09, mottle=0.09, patch=0.05)
_BANK = replace(DIRT, rgb=(122, 99, 74), patches_rgb=(99, 78, 56))
_SITES = {"parking": sites.parking, "sports": sites.sports, "industrial": sites.industrial}
_WATERS: tuple[RGB, ...] = ((84, 92, 74), (66, 86, 88), (98, 92, 72), (58, 84, 104))
_MUDS: tuple[RGB, ...] = ((110, 94, 70), (82, 72, 56), (62, 58, 48), (128, 110, 84))


class Suburb:
    """One plan: streets, lots on both sides of each, and what lies beyond the upper lots."""

    def __init__(self, canvas: Canvas) -> None:
        rng = canvas.rng
        self.canvas, self.rng = canvas, rng
        self.reach_m = canvas.radius_m + 12
        self.lot_depth_m = rng.uniform(27, 36)
        street_y = rng.uniform(-44, 2)
        self.edge_y = street_y + _ROAD_M / 2 + _VERGE_M + self.lot_depth_m
        gap = 2 * (self.lot_depth_m + _VERGE_M) + _ROAD_M
        self.streets_y = [street_y - gap, street_y]
        self.beyond = rng.choice(["lots", "water", "forest", "field"], p=[0.40, 0.24, 0.27, 0.09])
        if self.beyond == "lots":
            self.streets_y.append(street_y + gap)
        self.crossing_x = rng.uniform(-30, 30) if canvas.chance(0.3) else None
        self.site = rng.choice(["", *_SITES], p=[0.60, 0.13, 0.11, 0.16])
        self.site_frame = Frame(rng.uniform(-14, 14), self.edge_y - self.lot_depth_m / 2)
        self.site_width_m = rng.uniform(42, 56)
        self.grass = varied(rng, _GRASS, 0.12)
        self.road = varied(rng, ASPHALT if canvas.chance(0.5) else CONCRETE, 0.1)
        self.concrete = varied(rng, CONCRETE, 0.08)
        self.leafiness = rng.uniform(0.4, 1.3)

    def draw(self) -> None:
        """Paint the ground, then the flood, then what stands."""
        canvas = self.canvas
        canvas.spread(np.ones_like(canvas.y_HW), Label.GRASS, self.grass)
        for street_y in self.streets_y:
            for turn in (0.0, np.pi):
                self._row(Frame(0, street_y, turn))
        for street_y in self.streets_y:
            for side in (-1, 1):
                pavement = rectangle(2 * self.reach_m, 1.3, 0, side * (_ROAD_M / 2 + 2.2))
                street = Frame(0, street_y)
                canvas.paint(street.place(pavement), Label.BACKGROUND, self.concrete)
            self._street(street, 2 * self.reach_m)
        if self.crossing_x is not None:
            top = self.reach_m if self.beyond == "lots" else self.edge_y - 6
            middle, length = (top - self.reach_m) / 2, top + self.reach_m
            self._street(Frame(self.crossing_x, middle, np.pi / 2), length)
        match self.beyond:
            case "water":
                self._water()
            case "forest":
                self._forest()
            case "field":
                self._field()
        if self.site:
            paint_site = _SITES[self.site]
            paint_site(canvas, self.site_frame, self.site_width_m - 2, self.lot_depth_m * 0.97)
        if canvas.chance(0.55):
            behind_lots, kerb = self.edge_y - 0.8, self.streets_y[1] + _ROAD_M / 2 + 1
            y = behind_lots if canvas.chance(0.6) else kerb
            canvas.later(10, drawing.draw_power_line, Frame(0, y), 2 * self.reach_m)
        if canvas.chance(0.42):
            self._flood()
        canvas.draw_standing()

    # ------------------------------------------------------------------------------ streets, lots

    def _street(self, frame: Frame, length: float) -> None:
        """A road along u with its kerb and seams, perhaps a dashed line; lamps and parked cars."""
        canvas, rng = self.canvas, self.rng
        canvas.paint(frame.place(rectangle(length, _ROAD_M + 0.5)), Label.ROAD, self.concrete)
        canvas.paint(frame.place(rectangle(length, _ROAD_M)), Label.ROAD, self.road)
        tar = replace(ASPHALT, rgb=(74, 74, 76))
        for u in np.arange(-length / 2, length / 2, rng.uniform(5, 14)):
            if canvas.chance(0.6) and canvas.sees(frame.at(u, 0), _ROAD_M / 2):
                seam = [(u, -_ROAD_M / 2), (u + rng.normal(0, 0.4), 0), (u, _ROAD_M / 2)]
                canvas.line(frame.place(seam), 0.12, Label.ROAD, tar)
        if canvas.chance(0.45):
            paint = canvas.one_of([WHITE, Material((196, 164, 66))])
            for u in np.arange(-length / 2, length / 2, 7):
                canvas.line(frame.place([(u, 0), (u + 3, 0)]), 0.2, Label.ROAD, paint)
        for side in (-1, 1):
            for u in np.arange(-length / 2 + rng.uniform(0, 30), length / 2, 33).tolist():
                if canvas.chance(0.06):
                    kerb = frame.at(u, side * (_ROAD_M / 2 + 1), 0 if side > 0 else np.pi)
                    canvas.later(8, drawing.draw_street_light, kerb)
                if canvas.chance(0.12):
                    lane = side * (_ROAD_M / 2 - 1.4)
                    parked = frame.at(u + rng.uniform(-9, 9), lane, 0 if side < 0 else np.pi)
                    canvas.later(1.6, drawing.draw_car, parked)

    def _row(self, street: Frame) -> None:
        """Lots on one side of a street, but for the crossing, the site and what lies beyond."""
        rng = self.rng
        u = -self.reach_m - rng.uniform(0, 15)
        while u < self.reach_m:
            width = rng.uniform(17, 23)
            if self.crossing_x is not None:
                crossing_u = self.crossing_x * np.cos(street.turn)
                room = crossing_u - _ROAD_M / 2 - _VERGE_M - u
                if 0 <= room < 14:
                    u = crossing_u + _ROAD_M / 2 + _VERGE_M
                elif 14 <= room < 30:
                    width = room
            lot = street.at(u + width / 2, _ROAD_M / 2 + _VERGE_M)
            u += width
            if self._is_free(lot, width):
                self._lot(lot, width)

    def _is_free(self, lot: Frame, width: float) -> bool:
        """Whether a lot is near enough to be seen, and on no other ground."""
        centre, site = lot.at(0, self.lot_depth_m / 2), self.site_frame
        if not self.canvas.sees(centre, self.lot_depth_m / 2 + 12):
            return False
        if self.beyond != "lots" and centre.y > self.edge_y:
            return False
        beside = abs(centre.x - site.x) > (self.site_width_m + width) / 2
        return not self.site or beside or abs(centre.y - site.y) > self.lot_depth_m / 2

    def _lot(self, lot: Frame, width: float) -> None:
        """A lot; v runs from the pavement to the back fence."""
        canvas, rng, depth = self.canvas, self.rng, self.lot_depth_m
        whole = rectangle(width - 0.3, depth, 0, depth / 2)
        canvas.paint(lot.place(whole), Label.GRASS, varied(rng, self.grass, 0.07))
        kind = rng.choice(["home", "construction", "empty"], p=[0.94, 0.01, 0.05])
        if kind == "construction":
            sites.construction(canvas, lot.at(0, depth / 2), width * 0.95, depth * 0.85)
            return
        if kind == "home":
            self._home(lot, width)
        self._garden(lot, width, count=rng.poisson(5.0 * self.leafiness))

    def _home(self, lot: Frame, width: float) -> None:
        """A house, what is paved around it, and what stands before it."""
        canvas, rng = self.canvas, self.rng
        house_width, house_depth = width * rng.uniform(0.66, 0.82), rng.uniform(9, 13)
        setback = rng.uniform(5.5, 8)
        back = setback + house_depth
        side = canvas.one_of([-1, 1])
        drive_u, drive = side * house_width * 0.3, rng.uniform(3.5, 6.5)
        paved = [
            rectangle(drive, setback + _VERGE_M + 1, drive_u, (setback - _VERGE_M + 1) / 2),
            rectangle(1.1, setback + 1, -drive_u * 0.3, setback / 2),
            rectangle(rng.uniform(6, 13), 5.6, rng.uniform(-2, 2), back + 2.4),
        ]
        for outline in paved:
            concrete = varied(rng, self.concrete, 0.06)
            canvas.paint(lot.place(outline), Label.BACKGROUND, concrete)
        self._backyard(lot, width, back)
        house = lot.at(0, setback + house_depth / 2)
        canvas.later(7, houses.draw_house, house, house_width, house_depth)
        if canvas.chance(0.4):
            turn = canvas.one_of([-1, 1]) * np.pi / 2 + rng.normal(0, 0.06)
            canvas.later(1.6, drawing.draw_car, lot.at(drive_u, setback - 4.5, turn))
        if canvas.chance(0.07):
            canvas.later(1.2, drawing.draw_bins, lot.at(drive_u + side * 3.5, -_VERGE_M + 0.8))
        if canvas.chance(0.12):
            canvas.later(0.7, drawing.draw_debris, lot.at(-drive_u, -1.0))
        for u in np.arange(-house_width / 2, house_width / 2, 1.5).tolist():
            if abs(u - drive_u) > 3.5 and canvas.chance(0.3 * self.leafiness):
                shrub, radius = lot.at(u, setback - 1.2), rng.uniform(0.6, 1.1)
                canvas.later(1.5, drawing.draw_tree, shrub, radius, 1.5, Label.TREES)

    def _backyard(self, lot: Frame, width: float, back: float) -> None:
        """Behind the house: bare earth, fences, a pool or a trampoline, a shed."""
        canvas, rng, depth = self.canvas, self.rng, self.lot_depth_m
        if canvas.chance(0.6):
            bare = rounded(width * rng.uniform(0.6, 0.95), rng.uniform(9, 14), 2.4, lobes=0.1)
            spot = lot.at(rng.uniform(-3, 3), depth - 6)
            canvas.paint(spot.place(bare), Label.BACKGROUND, varied(rng, DIRT))
        for u in (-width / 2, width / 2) if canvas.chance(0.8) else ():
            fence = lot.at(u, (back - 3 + depth) / 2, np.pi / 2)
            canvas.later(1.8, drawing.draw_fence, fence, depth - back + 3)
        canvas.later(1.8, drawing.draw_fence, lot.at(0, depth), width)
        middle = (back + depth) / 2
        if depth - back > 9 and canvas.chance(0.24):
            pool = lot.at(rng.uniform(-2, 2), middle + 0.5, rng.normal(0, 0.1))
            drawing.draw_pool(canvas, pool)
        elif canvas.chance(0.10):
            spot = lot.at(rng.uniform(-0.25, 0.25) * width, middle)
            canvas.later(0.9, drawing.draw_trampoline, spot)
        if canvas.chance(0.5):
            u, turn = canvas.one_of([-1, 1]) * (width / 2 - 3.4), canvas.one_of([0, np.pi / 2])
            canvas.later(3.2, houses.draw_shed, lot.at(u, depth - 2.8, turn))

    def _garden(self, lot: Frame, width: float, count: int) -> None:
        """Trees in front and behind; few stand in the middle, where the house is."""
        rng, depth = self.rng, self.lot_depth_m
        for _ in range(count):
            in_front = self.canvas.chance(0.35)
            v = rng.uniform(-1, 4) if in_front else rng.uniform(0.68, 1.0) * depth
            height = rng.gamma(6, 1.1) + 1.5
            spot = lot.at(rng.uniform(-0.48, 0.48) * width, v)
            radius = height * rng.uniform(0.40, 0.58)
            self.canvas.later(height, drawing.draw_tree, spot, radius, height, Label.TREES)

    # ------------------------------------------------------------ what lies beyond, and the flood

    def _forest(self) -> None:
        """Crown beside crown, over undergrowth that is as dark."""
        canvas, rng, reach = self.canvas, self.rng, self.reach_m
        low = self.edge_y + 1
        undergrowth = Material((58, 70, 38), (76, 80, 46), grain=0.15, mottle=0.2)
        ground = Frame(0, low).place(rectangle(2 * reach, 2 * reach, 0, reach))
        canvas.paint(ground, Label.FOREST, undergrowth)
        for x in np.arange(-reach, reach, 4.2):
            for y in np.arange(low + 1.5, reach, 4.2):
                spot = Frame(x + rng.normal(0, 1.2), y + rng.normal(0, 1.2))
                height, radius = rng.uniform(7, 11), rng.uniform(2.2, 3.8)
                canvas.later(height, drawing.draw_tree, spot, radius, height, Label.FOREST)

    def _field(self) -> None:
        """A meadow with a dirt track and a few trees."""
        canvas, rng, reach = self.canvas, self.rng, self.reach_m
        hay = Material((128, 128, 78), (150, 138, 94), 0.09, 0.09, ribs=Ribs((0.3, 1), 3.0, 0.03))
        ground = Frame(0, self.edge_y).place(rectangle(2 * reach, 2 * reach, 0, reach))
        canvas.paint(ground, Label.GRASS, varied(rng, hay))
        x = np.arange(-reach, reach, 3)
        track = np.column_stack([x, self.edge_y + 9 + 4 * np.sin(x / 14)])
        canvas.line(Frame(0, 0).place(track), 2.6, Label.BACKGROUND, DIRT)
        for _ in range(6):
            spot = Frame(rng.uniform(-40, 40), self.edge_y + rng.uniform(4, 40))
            height = rng.uniform(4, 9)
            canvas.later(height, drawing.draw_tree, spot, height * 0.45, height, Label.TREES)

    def _water(self) -> None:
        """A lake or a bayou behind a bank of bare earth; boats now and then."""
        canvas, rng = self.canvas, self.rng
        offshore_HW = floats(canvas.y_HW - self.edge_y - 1.5 + 0.8 * canvas.patch_HW)
        canvas.spread(floats(offshore_HW + 1.5), Label.BACKGROUND, _BANK)
        water = Material(canvas.one_of(_WATERS), grain=0.015, mottle=0.025, patch=0.03)
        opaque_HW = np.full_like(offshore_HW, 0.97)
        canvas.flood(offshore_HW, opaque_HW, Label.WATER, varied(rng, water))
        if canvas.chance(0.55):
            berths = rng.permutation(np.arange(-27, 28, 9))[: rng.integers(1, 4)]
            for x in berths.tolist():
                spot = Frame(x, self.edge_y + 5.5 + rng.exponential(1.5), rng.normal(0, 0.3))
                canvas.later(2, drawing.draw_boat, spot)

    def _flood(self) -> None:
        """Muddy water on low ground; streets, a little lower than lots, fill first."""
        canvas, rng = self.canvas, self.rng
        to_street_HW = np.min([np.abs(canvas.y_HW - y) for y in self.streets_y], axis=0)
        height_HW = (canvas.noise(28) + 0.38 * canvas.patch_HW) / np.float32(1.1)
        height_HW += np.clip(to_street_HW / 7, 0, 1.4)
        depth_HW = floats(np.quantile(height_HW, rng.uniform(0.15, 0.6)) - height_HW)
        depth_HW[canvas.mask() == Label.WATER] = -1
        mud = Material(canvas.one_of(_MUDS), grain=0.015, mottle=0.02, patch=0.05)
        opacity_HW = np.clip(0.6 + depth_HW, 0.6, 0.96)
        canvas.flood(depth_HW, opacity_HW, Label.FLOODED, varied(rng, mud, 0.06))
