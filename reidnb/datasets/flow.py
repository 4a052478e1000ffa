"""True optical flow (光流): where each pixel of a drawn frame goes until the next one. The world knows it.

A frame is drawn from strokes: limbs between two joints, ellipses, polygons, lines. Both frames of a pair are drawn once
more, each stroke in a number of its own instead of a colour. The number says which stroke a pixel shows, and the affine
motion of that stroke's points from frame to frame says where the pixel goes. The background moves with the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import map_coordinates

from reidnb.synthetic.brush import CODE, Brush
from reidnb.synthetic.figure import draw_person, pose
from reidnb.synthetic.picture import FOOT, STATURE
from reidnb.synthetic.scene import HORIZON, draw_occluder, panorama
from reidnb.synthetic.world import Shot, World, person_of

LIMBS = ("arm", "sleeve", "leg", "down", "shoe", "crease")  # materials that each side of the body has
SOFT = 0.05  # squared pixels: of a stroke thinner than this the motion across is hardly known, and is taken for none


@dataclass(frozen=True)
class Flow:
    """Of one frame of H x W pixels, towards the next."""

    pixels: np.ndarray  # float32 (H, W, 2): to the right and down, in pixels; 0 where it is not known
    known: np.ndarray  # bool (H, W): False where what is seen has no counterpart in the other frame
    body: np.ndarray  # bool (H, W): the person in the box
    stays: np.ndarray  # bool (H, W): the other frame still shows there what this one shows here


@dataclass
class Strokes:
    """Stands where a `Brush` does, and draws each stroke in its own number; points are noted in canvas pixels."""

    brush: Brush
    who: tuple  # which figure: no stroke of one is ever taken for one of another
    joints: dict  # of `figure.pose`
    noted: list = field(default_factory=list)  # [kind, material without its tone, side, points, half widths]
    numbers: list = field(default_factory=list)  # the number of each, shared with all figures of a canvas

    def at(self, point):
        return self.brush.at(point)

    def shape(self, material, points):
        self._draw("shape", material, points, None, points)

    def blob(self, material, centre, rx, ry):
        self._draw("blob", material, _round(centre, rx, ry), None, centre, rx, ry)

    def cap(self, material, centre, rx, ry, cut=0.0):
        self._draw("cap", material, _round(centre, rx, ry), None, centre, rx, ry, cut)

    def line(self, material, points, width):
        self._draw("line", material, points, None, points, width)

    def limb(self, material, a, b, ra, rb):
        self._draw("limb", material, (a, b), (ra, rb), a, b, ra, rb)

    def _draw(self, kind, material, points, widths, *drawn):
        self.numbers.append(len(self.numbers) + 1)
        getattr(replace(self.brush, base=self.numbers[-1] - CODE[material]), kind)(material, *drawn)
        part = material.split("_")[0] if material.split("_")[0] in LIMBS else material
        sides = [name.split("_")[0] for name, joint in self.joints.items() if "_" in name and joint in points]
        places = np.array([self.at(point) for point in points])
        widths = None if widths is None else np.array(widths) * self.brush.scale
        self.noted.append([kind, part, sides[0] if part in LIMBS and sides else "", places, widths])

    def named(self) -> dict:
        """{name: (number, points, half widths)}: whose, which kind, which material, which side, how many of these
        before it. Strokes without a joint of their own have the side of what they were drawn with: a hand comes before
        its arm, a shoe's heel and the crease after their limb."""
        side, hands, found = "", [], {}
        for i, (kind, part, own, _, _) in enumerate(self.noted):
            if own:
                side = own
                for hand in hands:
                    self.noted[hand][2] = own
                hands = []
            elif part == "arm":
                hands.append(i)
            elif part in LIMBS and kind != "shape":
                self.noted[i][2] = side
            elif kind == "shape":
                side = ""
        count = {}
        first = len(self.numbers) - len(self.noted)  # of this figure
        for i, (kind, part, own, points, widths) in enumerate(self.noted):
            which = count[kind, part, own] = count.get((kind, part, own), -1) + 1
            found[*self.who, kind, part, own, which] = self.numbers[first + i], points, widths
        return found


def _round(centre, rx, ry):
    (x, y), (rx, ry) = centre[:2], (rx, ry)
    return (x - rx, y), (x + rx, y), (x, y - ry), (x, y + ry)


def stroke_numbers(world: World, shot: Shot) -> tuple[np.ndarray, dict]:
    """A frame in numbers of strokes instead of colours -> (int32 (H, W), {name: (number, points, half widths)}).

    Figures stand where `synthetic.draw` puts them; 0 is the background. Points are in pixels of the frame.
    """
    height, width = world.size
    stranger, names, numbers = world.strangers[shot.stranger], {}, []
    big = Image.new("I", (2 * width, 2 * height))
    canvas = ImageDraw.Draw(big)
    scale = 2 * height * STATURE * shot.scale
    x, y = 2 * width * (0.5 + shot.dx), 2 * height * (0.5 + (FOOT - 0.5) * shot.scale + shot.dy)
    other_yaw, pitch = shot.yaw + 180 * (shot.stranger % 2), world.cameras[shot.camid].pitch

    def walk(role, who, person, x, y, scale, yaw, phase):
        joints = pose(person, yaw, phase, pitch)
        strokes = Strokes(Brush(canvas, x, y, scale), (role, who), joints, numbers=numbers)
        first = len(numbers)
        draw_person(strokes, person, yaw, phase, pitch)
        strokes.numbers = numbers[first:]
        names.update(strokes.named())

    if shot.company:
        other, near = (shot.stranger + 7) % len(world.strangers), 1.0 if shot.subject == 0 else 0.86
        place = 2 * width * shot.company, y - 0.35 * (1 - near) * scale, scale * near
        walk("company", other, world.strangers[other], *place, other_yaw, shot.phase + 1.3)
    if shot.subject >= 0:
        person = person_of(world, shot.subject) if shot.subject else stranger
        walk("person", shot.subject or -shot.stranger, person, x, y, scale, shot.yaw, shot.phase)
    if shot.occluder == "walker":
        place = 2 * width * shot.occluder_x, y + 0.06 * scale, scale * 1.08
        walk("walker", shot.stranger, stranger, *place, other_yaw, shot.phase + 0.7)
    elif shot.occluder:
        thing = Image.new("L", big.size)
        draw_occluder(
            ImageDraw.Draw(thing), big.size, shot.occluder, shot.occluder_x, shot.occluder_height, 1, shot.stranger
        )
        numbers.append(len(numbers) + 1)
        big.paste(numbers[-1], mask=thing.point([0] + 255 * [255]))
        names["thing", shot.occluder] = numbers[-1], np.array([[2 * width * shot.occluder_x, 0.0]]), None
    halved = {k: (n, points / 2, None if r is None else r / 2) for k, (n, points, r) in names.items()}
    return np.asarray(big)[1::2, 1::2], halved


def affine(before: np.ndarray, after: np.ndarray, soft: float = SOFT) -> tuple[np.ndarray, np.ndarray]:
    """The affine motion that takes points (n, 2) to points (n, 2) with the smallest squares -> (A (2, 2), b (2,)):
    p goes to A p + b. A direction in which the points hardly spread is kept as it is: soft draws A to the identity."""
    m, k = before.mean(0), after.mean(0)
    spread = (before - m).T @ (before - m) / len(before) + soft * np.eye(2)
    A = ((after - k).T @ (before - m) / len(before) + soft * np.eye(2)) @ np.linalg.inv(spread)
    return A, k - A @ m


def _motion(before, after):
    """The affine motion of one stroke: (number, points, half widths) in either frame."""
    (_, a, ra), (_, b, rb) = before, after
    if len(a) != len(b):
        return None
    if ra is not None and all(np.hypot(*(p[1] - p[0])) > r.sum() for p, r in ((a, ra), (b, rb))):
        a, b = _outline(a, ra), _outline(b, rb)  # long enough to have a direction: what is across turns with it
    return affine(a, b)


def _outline(ends, widths):
    along = (ends[1] - ends[0]) / np.hypot(*(ends[1] - ends[0]))
    across = np.array((-along[1], along[0])) * widths[:, None]
    return np.concatenate([ends + across, ends - across])


def view(world: World, shot: Shot) -> tuple[float, float, float]:
    """Which part of the scene lies behind the box: (left, top, height), in pixels of the panorama; it is half as wide
    as it is high. As the world places it."""
    camera = world.cameras[shot.camid]
    scene = panorama(world.place, world.domain, camera, world.size)
    ground = HORIZON * scene.height + shot.y * (1 - HORIZON) * scene.height
    tall = min(camera.eye * (ground - HORIZON * scene.height) / (STATURE * shot.scale), scene.height)
    left = shot.x * scene.width - (0.5 + shot.dx) * tall / 2
    top = ground - (0.5 + (FOOT - 0.5) * shot.scale + shot.dy) * tall
    return min(max(left, 0), scene.width - tall / 2), min(max(top, 0), scene.height - tall), tall


def true_flow(world: World, shot: Shot, after: Shot) -> Flow:
    """Where each pixel of the frame `shot` goes until the frame `after`, one `Flow`.

    Where somebody else is in the box (the tracker's mistake), or a stroke is seen in one frame alone (a pocket on a
    back that turns), nothing is known. Shadows count as what they fall on. ValueError for frames of two cameras.
    """
    return _between(world, shot, after, stroke_numbers(world, shot), stroke_numbers(world, after))


def _between(world, shot, after, first, second) -> Flow:
    if shot.camid != after.camid:
        raise ValueError(f"a flow is between two frames of one camera; got cameras {shot.camid} and {after.camid}")
    (here, mine), (there, theirs) = first, second
    height, width = here.shape
    count = max([number for number, _, _ in mine.values()], default=0) + 1
    A, b = np.zeros((count, 2, 2)), np.zeros((count, 2))
    partner, body = np.full(count, -1), np.zeros(count, bool)
    (left, top, tall), (left2, top2, tall2) = view(world, shot), view(world, after)
    A[0], b[0], partner[0] = np.eye(2) * tall / tall2, np.array((left - left2, top - top2)) * height / tall2, 0
    shown = set(np.unique(here).tolist())
    for name, stroke in mine.items():
        number = stroke[0]
        body[number] = name[0] == "person"
        motion = _motion(stroke, theirs[name]) if name in theirs and number in shown else None
        if motion is not None:
            A[number], b[number], partner[number] = *motion, theirs[name][0]
    places = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), 2)
    goes = np.einsum("hwij,hwj->hwi", A[here], places) + b[here]
    column, row = np.floor(goes).astype(np.int64).transpose(2, 0, 1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    known = partner[here] >= 0
    met = there[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    flow = np.where(known[:, :, None], goes - places, 0).astype(np.float32)
    return Flow(flow, known, body[here], known & inside & (met == partner[here]))


def flows_of(world: World, walks: Sequence[Sequence[Shot]]) -> tuple[np.ndarray, np.ndarray]:
    """The true flow of every frame of tracklets towards its next one -> (float16 (F, H, W, 2), known bool (F, H, W)).
    The last frame of a tracklet has no next one: nothing is known there."""
    count = sum(len(walk) for walk in walks)
    flow, known = np.zeros((count, *world.size, 2), np.float16), np.zeros((count, *world.size), bool)
    start = 0
    for walk in walks:
        drawn = [stroke_numbers(world, shot) for shot in walk]
        for i in range(len(walk) - 1):
            found = _between(world, walk[i], walk[i + 1], drawn[i], drawn[i + 1])
            flow[start + i], known[start + i] = found.pixels, found.known
        start += len(walk)
    return flow, known


def warp(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The next frame brought back: image (C, H, W) read at p + flow(p), flow (H, W, 2) -> float32 (C, H, W), bilinear;
    what lies outside is read at the border."""
    height, width = flow.shape[:2]
    rows, columns = np.mgrid[:height, :width] + flow.transpose(2, 0, 1)[::-1]
    planes = [map_coordinates(np.float32(plane), [rows, columns], order=1, mode="nearest") for plane in image]
    return np.stack(planes)
