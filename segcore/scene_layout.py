"""Where things are in a drawn scene: streets, lots along them, one large site, water, and the flood.

The world's x axis runs along the streets; the camera is turned at random against it. Flat things
are painted at once; what stands is drawn later, low before high.
"""

from dataclasses import replace

import cv2
import numpy as np

from segcore import scene_drawing as draw
from segcore import scene_sites as sites
from segcore.scene_canvas import Canvas, Floats, Frame, Label, Material, Ribs, Window
from segcore.scene_drawing import chance, rectangle, rounded, varied

_ROAD_M = 8.5
_VERGE_M = 3.6  # from the kerb to the lots: grass and a pavement
_GRASS = Material((98, 116, 60), (126, 128, 80), grain=0.09, mottle=0.09, patch=0.05)
_SITES = {"parking": sites.parking, "sports": sites.sports, "industrial": sites.industrial}


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
        self.crossing_x = rng.uniform(-30, 30) if chance(canvas, 0.3) else None
        self.site = rng.choice(["", *_SITES], p=[0.64, 0.13, 0.10, 0.13])
        self.site_frame = Frame(rng.uniform(-14, 14), self.edge_y - self.lot_depth_m / 2)
        self.site_width_m = rng.uniform(42, 56)
        self.grass = varied(canvas, _GRASS, 0.12)
        self.road = varied(canvas, draw.ASPHALT if chance(canvas, 0.5) else draw.CONCRETE, 0.1)
        self.concrete = varied(canvas, draw.CONCRETE, 0.08)
        self.leafiness = rng.uniform(0.4, 1.3)

    def draw(self) -> None:
        """Paint the ground, then the flood, then what stands."""
        canvas = self.canvas
        meadow = canvas.texture(canvas.everywhere, self.grass)
        canvas.blend(canvas.everywhere, np.ones_like(canvas.lit_HW), meadow, Label.GRASS)
        for street_y in self.streets_y:
            for turn in (0.0, np.pi):
                self._row(Frame(0, street_y, turn))
        for street_y in self.streets_y:
            self._street(Frame(0, street_y), 2 * self.reach_m)
        if self.crossing_x is not None:
            top = self.reach_m if self.beyond == "lots" else self.edge_y - 6
            middle, length = (top - self.reach_m) / 2, top + self.reach_m
            self._street(Frame(self.crossing_x, middle, np.pi / 2), length)
        if self.beyond == "forest":
            self._forest()
        elif self.beyond == "field":
            self._field()
        elif self.beyond == "water":
            self._water()
        if self.site:
            site = _SITES[self.site]
            site(canvas, self.site_frame, self.site_width_m - 2, self.lot_depth_m * 0.97)
        if chance(canvas, 0.55):
            y = self.edge_y - 0.8 if chance(canvas, 0.6) else self.streets_y[1] + _ROAD_M / 2 + 1
            canvas.later(10, draw.draw_power_line, Frame(0, y), 2 * self.reach_m)
        if chance(canvas, 0.42):
            self._flood()
        canvas.draw_standing()

    # ------------------------------------------------------------------------------ streets, lots

    def _street(self, frame: Frame, length: float) -> None:
        canvas, rng = self.canvas, self.rng
        for side in (-1, 1):
            pavement = rectangle(length, 1.3, 0, side * (_ROAD_M / 2 + 2.2))
            if self.crossing_x is None or frame.turn == 0:
                canvas.paint(frame.place(pavement), Label.BACKGROUND, self.concrete)
        canvas.paint(frame.place(rectangle(length, _ROAD_M + 0.5)), Label.ROAD, self.concrete)
        canvas.paint(frame.place(rectangle(length, _ROAD_M)), Label.ROAD, self.road)
        tar = replace(draw.ASPHALT, rgb=(74, 74, 76))
        for u in np.arange(-length / 2, length / 2, rng.uniform(5, 14)):
            if chance(canvas, 0.6):
                seam = [(u, -_ROAD_M / 2), (u + rng.normal(0, 0.4), 0), (u, _ROAD_M / 2)]
                canvas.line(frame.place(seam), 0.12, Label.ROAD, tar)
        if chance(canvas, 0.45):
            paint = draw.WHITE if chance(canvas, 0.5) else Material((196, 164, 66))
            for u in np.arange(-length / 2, length / 2, 7):
                canvas.line(frame.place([(u, 0), (u + 3, 0)]), 0.2, Label.ROAD, paint)
        for side in (-1.0, 1.0):
            for u in np.arange(-length / 2 + rng.uniform(0, 30), length / 2, 33):
                if chance(canvas, 0.06):
                    spot = frame.at(float(u), side * (_ROAD_M / 2 + 1), 0 if side > 0 else np.pi)
                    canvas.later(8, draw.draw_street_light, spot)
                if chance(canvas, 0.12):
                    spot = frame.at(u + rng.uniform(-9, 9), side * (_ROAD_M / 2 - 1.4))
                    canvas.later(1.6, draw.draw_car, spot.at(0, 0, 0 if side < 0 else np.pi))

    def _row(self, street: Frame) -> None:
        """Lots on one side of a street, but for the crossing and the site."""
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
            if self.beyond != "lots" and lot.y > self.edge_y:
                continue
            centre = lot.at(0, self.lot_depth_m / 2)
            site = self.site_frame
            near = abs(lot.x - site.x) < (self.site_width_m + width) / 2
            if self.site and near and abs(centre.y - site.y) < self.lot_depth_m / 2:
                continue
            if np.hypot(centre.x, centre.y) < self.reach_m + 10:
                self._lot(lot, width)

    def _lot(self, lot: Frame, width: float) -> None:
        """A lot; v runs from the pavement to the back fence."""
        canvas, rng, depth = self.canvas, self.rng, self.lot_depth_m
        whole = rectangle(width - 0.3, depth, 0, depth / 2)
        canvas.paint(lot.place(whole), Label.GRASS, varied(canvas, self.grass, 0.07))
        kind = rng.choice(["home", "construction", "empty"], p=[0.94, 0.01, 0.05])
        if kind == "construction":
            sites.construction(canvas, lot.at(0, depth / 2), width * 0.95, depth * 0.85)
            return
        if kind == "home":
            self._home(lot, width)
        self._garden(lot, width, count=rng.poisson(5.0 * self.leafiness))

    def _home(self, lot: Frame, width: float) -> None:
        canvas, rng, depth = self.canvas, self.rng, self.lot_depth_m
        house_width, house_depth = width * rng.uniform(0.66, 0.82), rng.uniform(9, 13)
        setback = rng.uniform(5.5, 8)
        middle, back = setback + house_depth / 2, setback + house_depth
        side = float(rng.choice([-1, 1]))
        drive_u, drive = side * house_width * 0.3, rng.uniform(3.5, 6.5)
        driveway = rectangle(drive, setback + _VERGE_M + 1, drive_u, (setback - _VERGE_M + 1) / 2)
        canvas.paint(lot.place(driveway), Label.BACKGROUND, varied(canvas, self.concrete, 0.06))
        walk = rectangle(1.1, setback + 1, -drive_u * 0.3, setback / 2)
        canvas.paint(lot.place(walk), Label.BACKGROUND, self.concrete)
        if chance(canvas, 0.6):
            bare = lot.at(rng.uniform(-3, 3), depth - 6)
            outline = rounded(
                width * rng.uniform(0.6, 0.95), rng.uniform(9, 14), power=2.4, lobes=0.1
            )
            canvas.paint(bare.place(outline), Label.BACKGROUND, varied(canvas, draw.DIRT))
        patio = rectangle(rng.uniform(6, 13), 5.6, rng.uniform(-2, 2), back + 2.4)
        canvas.paint(lot.place(patio), Label.BACKGROUND, varied(canvas, self.concrete))
        canvas.later(7, draw.draw_house, lot.at(0, middle), house_width, house_depth)

        if chance(canvas, 0.4):
            turn = np.pi / 2 * rng.choice([-1, 1]) + rng.normal(0, 0.06)
            canvas.later(1.6, draw.draw_car, lot.at(drive_u, setback - 4.5, turn))
        if chance(canvas, 0.07):
            canvas.later(1.2, draw.draw_bins, lot.at(drive_u + side * 3.5, -_VERGE_M + 0.8))
        if chance(canvas, 0.12):
            canvas.later(0.7, draw.draw_debris, lot.at(-drive_u, -1.0))
        self._backyard(lot, width, back)
        for fence_u in (-width / 2, width / 2) if chance(canvas, 0.8) else ():
            middle_v = (back - 3 + depth) / 2
            fence = lot.at(fence_u, middle_v, np.pi / 2)
            canvas.later(1.8, draw.draw_fence, fence, depth - back + 3)
        canvas.later(1.8, draw.draw_fence, lot.at(0, depth), width)
        for u in np.arange(-house_width / 2, house_width / 2, 1.5):
            if abs(u - drive_u) > 3.5 and chance(canvas, 0.3 * self.leafiness):
                shrub = lot.at(float(u), setback - 1.2)
                canvas.later(1.5, draw.draw_tree, shrub, rng.uniform(0.6, 1.1), 1.5, Label.TREES)

    def _backyard(self, lot: Frame, width: float, back: float) -> None:
        canvas, rng, depth = self.canvas, self.rng, self.lot_depth_m
        free = depth - back
        if free > 9 and chance(canvas, 0.24):
            draw.draw_pool(
                canvas, lot.at(rng.uniform(-2, 2), back + free / 2 + 0.5, rng.normal(0, 0.1))
            )
        elif chance(canvas, 0.10):
            spot = lot.at(rng.uniform(-0.25, 0.25) * width, back + free * 0.55)
            canvas.later(0.9, draw.draw_trampoline, spot)
        if chance(canvas, 0.5):
            corner = float(rng.choice([-1, 1])) * (width / 2 - 3.4)
            canvas.later(
                3.2, draw.draw_shed, lot.at(corner, depth - 2.8, rng.choice([0, np.pi / 2]))
            )

    def _garden(self, lot: Frame, width: float, count: int) -> None:
        """Trees in front and behind; few stand in the middle, where the house is."""
        rng, depth = self.rng, self.lot_depth_m
        for _ in range(count):
            front = rng.random() < 0.35
            v = rng.uniform(-1, 4) if front else rng.uniform(0.68, 1.0) * depth
            height = rng.gamma(6, 1.1) + 1.5
            spot = lot.at(rng.uniform(-0.48, 0.48) * width, v)
            radius = height * rng.uniform(0.40, 0.58)
            self.canvas.later(height, draw.draw_tree, spot, radius, height, Label.TREES)

    # ------------------------------------------------------------------------------ what lies beyond

    def _forest(self) -> None:
        """Crown beside crown, over undergrowth that is as dark."""
        canvas, rng = self.canvas, self.rng
        low = self.edge_y + 1
        ground = Material((58, 70, 38), (76, 80, 46), grain=0.15, mottle=0.2)
        floor = np.float32(
            [
                (-self.reach_m, low),
                (self.reach_m, low),
                (self.reach_m, self.reach_m),
                (-self.reach_m, self.reach_m),
            ]
        )
        if low < self.reach_m:
            canvas.paint(floor, Label.FOREST, ground)
        spacing = 4.2
        for x in np.arange(-self.reach_m, self.reach_m, spacing):
            for y in np.arange(low + 1.5, self.reach_m, spacing):
                spot = Frame(x + rng.normal(0, 1.2), y + rng.normal(0, 1.2))
                height = rng.uniform(7, 11)
                canvas.later(
                    height, draw.draw_tree, spot, rng.uniform(2.2, 3.8), height, Label.FOREST
                )

    def _field(self) -> None:
        """A meadow with a dirt track and clumps of trees."""
        canvas, rng = self.canvas, self.rng
        depth = self.reach_m - self.edge_y
        dry = varied(canvas, replace(_GRASS, rgb=(128, 128, 78), patches_rgb=(150, 138, 94)))
        dry = replace(dry, ribs=Ribs((0.3, 1.0), 3.0, 0.03))
        middle = Frame(0, self.edge_y + depth / 2)
        canvas.paint(middle.place(rectangle(2 * self.reach_m, depth)), Label.GRASS, dry)
        track = np.float32(
            [(x, self.edge_y + 9 + 4 * np.sin(x / 14)) for x in np.arange(-60, 61, 3)]
        )
        canvas.line(track, 2.6, Label.BACKGROUND, draw.DIRT)
        for _ in range(6):
            spot = Frame(rng.uniform(-40, 40), self.edge_y + rng.uniform(4, 40))
            height = rng.uniform(4, 9)
            canvas.later(height, draw.draw_tree, spot, height * 0.45, height, Label.TREES)

    def _water(self) -> None:
        """A lake or a bayou: a bank, water as opaque as the flood's, boats now and then."""
        canvas, rng = self.canvas, self.rng
        ground_xy = canvas.ground_HW2
        offshore_HW = ground_xy[..., 1] - self.edge_y - 1.5 + 0.8 * canvas.patch_HW
        colour = rng.choice([(84, 92, 74), (66, 86, 88), (98, 92, 72), (58, 84, 104)])
        water = varied(canvas, Material(tuple(colour), grain=0.015, mottle=0.025, patch=0.03))
        bank = np.clip(offshore_HW * canvas.px_per_m + 1.5 * canvas.px_per_m, 0, 1)
        canvas.blend(
            canvas.everywhere,
            bank,
            canvas.texture(canvas.everywhere, draw.DIRT) * 0.8,
            Label.BACKGROUND,
        )
        wet_HW = np.clip(offshore_HW * canvas.px_per_m, 0, 1)
        self._fill(wet_HW, water, Label.WATER)
        if chance(canvas, 0.55):
            for x in rng.choice(np.arange(-27, 28, 9), rng.integers(1, 4), replace=False):
                spot = Frame(x, self.edge_y + 5.5 + rng.exponential(1.5), rng.normal(0, 0.3))
                canvas.later(2, draw.draw_boat, spot)

    def _flood(self) -> None:
        """Muddy water on low ground; streets, a little lower than lots, fill first."""
        canvas, rng = self.canvas, self.rng
        ground_xy = canvas.ground_HW2
        to_street_HW = np.min([np.abs(ground_xy[..., 1] - y) for y in self.streets_y], axis=0)
        height_HW = canvas.terrain_HW + 0.08 * canvas.patch_HW + np.clip(to_street_HW / 7, 0, 1.4)
        depth_HW = np.quantile(height_HW, rng.uniform(0.15, 0.6)) - height_HW
        depth_HW[canvas.mask_HW == Label.WATER] = -1
        colour = rng.choice([(110, 94, 70), (82, 72, 56), (62, 58, 48), (128, 110, 84)])
        mud = varied(canvas, Material(tuple(colour), grain=0.015, mottle=0.02, patch=0.05), 0.06)
        self._fill(
            np.clip(depth_HW * 12, 0, 1), mud, Label.FLOODED, np.clip(0.6 + depth_HW, 0.6, 0.96)
        )

    def _fill(
        self, wet_HW: Floats, water: Material, label: Label, opacity_HW: Floats | float = 0.97
    ) -> None:
        """Water over the ground, with the sun's glitter where it mirrors into the camera."""
        canvas = self.canvas
        window: Window = canvas.everywhere
        opacity = np.asarray(opacity_HW, np.float32)[..., None]
        below = cv2.GaussianBlur(canvas.image_HWC, (0, 0), 0.25 * canvas.px_per_m)
        colour = canvas.texture(window, water) * opacity + below * (1 - opacity)
        mirror = -canvas.shadow_per_m * canvas.camera_m
        distance_HW = np.linalg.norm(canvas.ground_HW2 - mirror, axis=-1)
        sparkle = np.clip(canvas.mottle_HW + canvas.grain_HW, 0, None) * np.exp(
            -((distance_HW / 12) ** 2)
        )
        canvas.blend(window, wet_HW, colour + 90 * sparkle[..., None], label)
