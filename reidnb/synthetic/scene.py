"""What stands around people: one painted panorama for each camera, and the things that hide a passer-by."""

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from reidnb.synthetic.world import SCENE, stream

HORIZON = 0.40  # of the panorama's height
PANORAMA = (8, 2)  # its width and height, in heights of a picture
WALL = {"street": 0.22, "plaza": 0.10, "corridor": 0.34, "park": 0.16, "station": 0.30, "campus": 0.24}

# ground near and far, wall, detail; one row a scene. Another domain mixes in another tone.
COLOURS = {
    "street": ((150, 146, 142), (128, 126, 128), (168, 142, 122), (92, 100, 116)),
    "plaza": ((184, 174, 158), (166, 160, 152), (186, 190, 196), (120, 126, 132)),
    "corridor": ((176, 174, 168), (150, 152, 154), (206, 202, 190), (120, 140, 150)),
    "park": ((160, 148, 122), (116, 140, 90), (92, 122, 84), (70, 96, 62)),
    "station": ((140, 142, 146), (122, 124, 130), (150, 166, 176), (70, 92, 120)),
    "campus": ((158, 150, 142), (140, 138, 132), (158, 104, 86), (206, 200, 190)),
}


def _tone(colour, light):
    return tuple(int(min(255, max(0, c * light))) for c in colour)


def _muted(rng):
    """Any colour, not too loud."""
    gray = rng.integers(50, 200)
    return tuple(np.clip(gray + rng.integers(-40, 41, 3), 20, 235).tolist())


@lru_cache(maxsize=24)
def panorama(place, domain, camera, size):
    """The empty scene of one camera: an RGB image, PANORAMA times as wide and high as the picture is high.

    It is painted at one scale and then resized, so a camera shows the same place at every picture size.
    """
    rng = stream(place, domain, SCENE, camera.camid)
    width, tall = 2048, 512
    image = Image.new("RGB", (width, tall))
    draw = ImageDraw.Draw(image)
    shift = rng.integers(-16, 17) + rng.integers(-7, 8, 3) + (np.array((14, -8, -14)) if domain % 2 else 0)
    near, far, wall, detail = (
        tuple(int(min(245, max(20, c + s))) for c, s in zip(colour, shift)) for colour in COLOURS[camera.scene]
    )
    horizon = int(tall * HORIZON)
    foot = horizon + int(WALL[camera.scene] * (tall - horizon))  # where the wall meets the ground
    _ground(draw, rng, camera.scene, width, tall, horizon, near, far)
    _wall(draw, rng, camera.scene, width, foot, tall, wall, detail)
    _props(draw, rng, camera, width, tall, horizon, foot, detail)
    image = _weather(image.reduce(2), rng, camera, horizon // 2)
    return image.resize((PANORAMA[0] * size[0], PANORAMA[1] * size[0]), Image.Resampling.BICUBIC)


def _ground(draw, rng, scene, width, tall, horizon, near, far):
    """Paving in perspective: rows close up towards the horizon, and joints run to a vanishing point."""
    depth = tall - horizon
    for y in range(horizon, tall, 2):
        t = (y - horizon) / depth
        draw.rectangle((0, y, width, y + 2), fill=tuple(int(f + (n - f) * t) for n, f in zip(near, far)))
    line = _tone(near, 0.74)
    vanish = width * rng.uniform(0.35, 0.65)
    spread = {"plaza": 0.045, "station": 0.06, "corridor": 0.05, "campus": 0.07, "street": 0.10}.get(scene)
    if spread:
        joints = int(3 / spread)
        for k in range(-joints, joints + 1):
            draw.line((vanish, horizon, vanish + k * spread * width * 2.5, tall), fill=line, width=3)
        for k in range(2, 24):
            y = horizon + depth * 1.6 / k
            draw.line((0, y, width, y), fill=line, width=2 + 8 // k)
    if scene == "street":  # a road with a kerb and dashes on the far side
        top, low = horizon + 0.24 * depth, horizon + 0.42 * depth
        draw.rectangle((0, top, width, low), fill=(96, 97, 102))
        draw.rectangle((0, low, width, low + 8), fill=(186, 184, 180))
        for x in range(0, width, width // 24):
            draw.rectangle((x, (top + low) / 2, x + width // 50, (top + low) / 2 + 5), fill=(214, 212, 204))
    elif scene == "park":  # a path between lawns
        draw.polygon((0, horizon + 0.40 * depth, width, horizon + 0.30 * depth, width, tall, 0, tall), fill=near)
        draw.polygon((0, horizon + 0.93 * depth, width, horizon + 0.97 * depth, width, tall, 0, tall), fill=far)
    elif scene == "station":
        y = horizon + 0.46 * depth
        draw.rectangle((0, y, width, y + 14), fill=(214, 184, 76))
    elif scene == "campus":
        draw.rectangle((0, horizon + 0.2 * depth, width, horizon + 0.36 * depth), fill=(112, 138, 84))
    elif scene == "plaza":
        for _ in range(10):
            x, y = rng.uniform(0, width), horizon + depth * rng.uniform(0.3, 0.9)
            draw.ellipse((x - 200, y - 24, x + 200, y + 24), outline=line, width=6)


def _wall(draw, rng, scene, width, foot, tall, wall, detail):
    """Buildings, a train or trees along the far side, one bay after another."""
    sky = (196, 208, 222) if scene in ("park", "plaza", "street") else wall
    draw.rectangle((0, 0, width, foot), fill=sky)
    x = 0
    unit = tall // 10
    while x < width:
        bay = int(unit * rng.uniform(1.6, 3.2))
        face = _tone(wall, rng.uniform(0.78, 1.16))
        if scene == "park" or (scene == "plaza" and rng.random() < 0.45):
            _tree(draw, rng, x + bay / 2, foot + rng.uniform(-4, 10), unit * rng.uniform(1.6, 3.0))
        else:
            top = 0 if scene in ("corridor", "station", "campus") else foot - int(unit * rng.uniform(2.5, 4.5))
            draw.rectangle((x, top, x + bay, foot), fill=face)
            if scene == "station":
                draw.rectangle((x, foot - unit * 1.5, x + bay, foot), fill=_tone(detail, 1.5))
            step = bay / max(1, bay // (unit // 1.2 or 1))
            column = x + step * 0.2
            while column < x + bay - step * 0.5:
                glass = _tone((96, 112, 128), rng.uniform(0.6, 1.35))
                for floor in range(3):
                    low = foot - unit * (0.15 + 1.15 * floor)
                    door = floor == 0 and rng.random() < 0.4
                    bottom = foot if door else low - unit * 0.3
                    colour = _tone(detail, rng.uniform(0.7, 1.3)) if door else glass
                    right = column + step * 0.6
                    draw.rectangle((column - 4, low - unit * 0.86, right + 4, bottom), fill=_tone(face, 0.8))
                    draw.rectangle((column, low - unit * 0.82, right, bottom), fill=colour)
                column += step
            if scene == "street" and rng.random() < 0.6:  # an awning
                colour = _muted(rng)
                draw.polygon(
                    (
                        x + 8,
                        foot - unit * 1.1,
                        x + bay - 8,
                        foot - unit * 1.1,
                        x + bay + 4,
                        foot - unit * 0.85,
                        x - 4,
                        foot - unit * 0.85,
                    ),
                    fill=colour,
                )
            if scene == "corridor" and rng.random() < 0.6:  # a poster
                px = x + bay * rng.uniform(0.2, 0.6)
                draw.rectangle((px, foot - unit * 1.1, px + unit * 0.6, foot - unit * 0.4), fill=_muted(rng))
        x += bay
    draw.rectangle((0, foot - 5, width, foot + 4), fill=_tone(wall, 0.62))  # the foot of the wall lies in shade
    if scene in ("park", "plaza"):
        for _ in range(26):  # a hedge
            x, r = rng.uniform(0, width), unit * rng.uniform(0.3, 0.6)
            leaf = _tone(LEAVES, rng.uniform(0.7, 1.2))
            draw.ellipse((x - 2 * r, foot - r, x + 2 * r, foot + r * 0.5), fill=leaf)


def _tree(draw, rng, x, foot, tall):
    draw.rectangle((x - tall * 0.05, foot - tall, x + tall * 0.05, foot), fill=(94, 76, 62))
    for _ in range(9):
        r = tall * rng.uniform(0.14, 0.30)
        cx, cy = x + tall * rng.uniform(-0.3, 0.3), foot - tall * rng.uniform(0.75, 1.25)
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=_tone(LEAVES, rng.uniform(0.75, 1.35)))


LEAVES = (88, 118, 72)
PROPS = {
    "street": ("car", "person", "post", "bike"),
    "plaza": ("bench", "person", "plant"),
    "corridor": ("plant", "person"),
    "park": ("bench", "plant", "person"),
    "station": ("post", "person", "bench"),
    "campus": ("bike", "plant", "person", "bench"),
}


def _props(draw, rng, camera, width, tall, horizon, foot, detail):
    """Furniture and far passers-by between the wall and the walkers, painted from far to near."""
    kinds = PROPS[camera.scene]
    for row in np.sort(rng.uniform(foot + 6, foot + 0.30 * (tall - foot), 26)).tolist():
        unit = camera.eye * (row - horizon)  # the height of a person who stands there
        _prop(draw, rng, kinds[rng.integers(len(kinds))], rng.uniform(0, width), row, unit, detail)


def _prop(draw, rng, kind, x, row, unit, detail):
    """One thing that stands at (x, row), where a person is `unit` pixels high."""
    colour = _muted(rng)

    def at(*points):  # in units of a person, x from the middle, y up from the ground
        return [(x + unit * dx, row - unit * dy) for dx, dy in points]

    def box(x0, y0, x1, y1, fill, corner=0.0):
        draw.rounded_rectangle(at((x0, y1), (x1, y0)), unit * corner, fill=fill)

    draw.ellipse(at((-0.4, 0.05), (0.4, -0.05)), fill=(90, 88, 87))
    if kind == "person":
        draw.polygon(
            at((-0.10, 0.52), (0.10, 0.52), (0.12, 0), (0.04, 0), (0, 0.4), (-0.05, 0), (-0.12, 0)),
            fill=_tone(_muted(rng), 0.6),
        )
        box(-0.14, 0.46, 0.14, 0.85, colour, 0.05)
        draw.ellipse(at((-0.065, 1.0), (0.065, 0.84)), fill=(84, 64, 54))
    elif kind == "car":
        box(-1.2, 0.1, 1.2, 0.55, colour, 0.12)
        box(-0.7, 0.5, 0.6, 0.85, _tone(colour, 0.6), 0.12)
        for wheel in (-0.75, 0.75):
            draw.ellipse(at((wheel - 0.18, 0.3), (wheel + 0.18, -0.05)), fill=(36, 36, 38))
    elif kind == "plant":
        for _ in range(10):
            r, dx, dy = rng.uniform(0.08, 0.2), rng.uniform(-0.3, 0.3), rng.uniform(0.1, 0.5)
            draw.ellipse(at((dx - r, dy + r), (dx + r, dy - r)), fill=_tone(LEAVES, rng.uniform(0.6, 1.3)))
    elif kind == "bench":
        for y in (0.42, 0.32, 0.22):
            box(-0.5, y - 0.06, 0.5, y, (126, 96, 70))
        for leg in (-0.42, 0.40):
            box(leg, 0, leg + 0.04, 0.22, (70, 68, 66))
    elif kind == "bike":
        for wheel in (-0.3, 0.3):
            draw.ellipse(at((wheel - 0.2, 0.4), (wheel + 0.2, 0)), outline=(44, 44, 46), width=4)
        draw.line(at((-0.3, 0.2), (0, 0.5), (0.3, 0.2)), fill=colour, width=4)
    else:  # a post with a sign
        box(-0.03, 0, 0.03, 2.2, _tone(detail, 0.7))
        box(-0.14, 1.15, 0.14, 1.5, colour)


def _weather(image, rng, camera, horizon):
    """Grain and stains over everything, patches of shade on the ground, a soft focus far away."""
    width, tall = image.size
    far = Image.linear_gradient("L").resize((width, tall)).point([min(255, max(0, 775 - 4 * v)) for v in range(256)])
    image = Image.composite(image.filter(ImageFilter.GaussianBlur(0.8)), image, far)
    light = np.full((tall, width), 256, np.int32)
    for cells, strength in ((24, 14), (96, 14), (400, 11)):
        grid = rng.integers(0, 256, (max(2, cells // 4), cells), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(grid).resize((width, tall), Image.Resampling.BICUBIC), np.int32)
        light += (smooth - 128) * strength // 128
    if camera.sun > 0.2:  # what trees and roofs outside the picture throw on the ground
        shade = Image.new("L", (width, tall), 0)
        brush = ImageDraw.Draw(shade)
        for _ in range(14):
            x, y, r = rng.uniform(0, width), rng.uniform(horizon * 1.25, tall), rng.uniform(0.05, 0.22) * tall
            brush.ellipse((x - 2.4 * r, y - 0.5 * r, x + 2.4 * r, y + 0.5 * r), fill=255)
        shade = np.asarray(shade.filter(ImageFilter.GaussianBlur(tall / 90)), np.int32)
        light -= shade * int(90 * camera.sun) // 255
    pixels = np.asarray(image, np.int32) * light[:, :, None] >> 8
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


# ---- what stands before a person ------------------------------------------------------------------------------

# The eight materials of an occluder: colour and how far it stands out. "own" is the occluder's own colour.
OCCLUDER_TONES = (
    ("own", 256, 200),
    ("own", 200, 190),
    ("own", 320, 210),
    ((44, 44, 48), 256, 200),
    ((150, 158, 166), 256, 205),
    ((104, 128, 150), 256, 195),
    ((90, 122, 70), 256, 190),
    ((122, 152, 88), 256, 205),
)
OWN, OWN_DARK, OWN_LIGHT, BLACK, METAL, GLASS, LEAF, LEAF_LIGHT = range(8)
OCCLUDER_COLOURS = {
    "pillar": (168, 164, 156),
    "bench": (132, 98, 68),
    "bike": (150, 50, 50),
    "car": (120, 130, 150),
    "plant": (150, 92, 66),
    "bin": (70, 104, 84),
    "sign": (60, 96, 160),
}


def draw_occluder(canvas, size, kind, x, tall, base, seed):
    """Draw a thing centred at x that rises to `tall`, both as shares of the canvas, in material numbers from base."""
    width, height = size
    cx, top, low = x * width, (1 - tall) * height, height * 1.01

    def box(x0, y0, x1, y1, tone, round_=0.0):
        """A rectangle in units of the thing: x from its centre in canvas widths, y from its top 0 to the ground 1."""
        corners = (cx + x0 * width, top + y0 * (low - top), cx + x1 * width, top + y1 * (low - top))
        canvas.rounded_rectangle(corners, round_ * width, fill=base + tone)

    def disc(x0, y, rx, ry, tone):
        canvas.ellipse((cx + x0 * width - rx, y - ry, cx + x0 * width + rx, y + ry), fill=base + tone)

    if kind == "pillar":
        canvas.rectangle((cx - 0.17 * width, 0, cx + 0.17 * width, height), fill=base + OWN)
        canvas.rectangle((cx - 0.17 * width, height * 0.9, cx + 0.17 * width, height), fill=base + OWN_DARK)
        canvas.rectangle((cx - 0.05 * width, 0, cx + 0.01 * width, height * 0.9), fill=base + OWN_LIGHT)
    elif kind == "bench":
        for y in (0.0, 0.17, 0.34, 0.52):
            box(-0.55, y, 0.55, y + 0.12, OWN_LIGHT if y == 0 else OWN)
        for leg in (-0.48, 0.42):
            box(leg, 0.05, leg + 0.06, 1.0, BLACK)
    elif kind == "bike":
        r, line = 0.29 * (low - top), max(2, width // 36)
        for x0 in (-0.36, 0.36):
            wheel = (cx + x0 * width - r, low - 2 * r, cx + x0 * width + r, low)
            canvas.ellipse(wheel, outline=base + BLACK, width=line)
        hub, crank, seat, bar = (low - r, low - 0.28 * (low - top), top + 0.14 * (low - top), top + 0.04 * (low - top))
        frame = ((-0.36, hub), (-0.12, seat), (0.02, crank), (0.28, seat), (0.36, hub))
        frame = [(cx + a * width, b) for a, b in frame]
        canvas.line([frame[0], frame[1], frame[2], frame[0], frame[2], frame[3], frame[1]], fill=base + OWN, width=line)
        fork = [frame[4], frame[3], (cx + 0.25 * width, bar), (cx + 0.14 * width, bar)]
        canvas.line(fork, fill=base + METAL, width=line)
        disc(-0.12, seat, 0.09 * width, 0.018 * height, BLACK)
    elif kind == "car":
        side = 0.30 if seed & 1 else -0.30
        box(side - 0.45, 0.0, side + 0.45, 0.55, OWN_DARK, 0.12)
        box(side - 0.38, 0.06, side - 0.03, 0.34, GLASS, 0.05)
        box(side + 0.03, 0.06, side + 0.38, 0.34, GLASS, 0.05)
        box(-0.85, 0.36, 0.85, 0.86, OWN, 0.10)
        box(-0.85, 0.42, 0.85, 0.46, OWN_LIGHT)
        box(-0.85, 0.84, 0.85, 0.90, BLACK)
        for x0 in (-0.5, 0.5):
            hub, r = low - 0.19 * (low - top), 0.19 * (low - top)
            disc(x0, hub, r, r, BLACK)
            disc(x0, hub, 0.4 * r, 0.4 * r, METAL)
    elif kind == "plant":
        for k in range(34):  # leaves in a fixed spiral: golden-angle steps
            angle, reach = 2.39996 * k + seed % 7, math.sqrt(k / 34)
            y = top + (0.36 + 0.36 * reach * math.sin(angle)) * (low - top)
            disc(0.34 * reach * math.cos(angle), y, 0.075 * width, 0.035 * height, LEAF if k % 3 else LEAF_LIGHT)
        box(-0.22, 0.72, 0.22, 1.0, OWN, 0.03)
        box(-0.26, 0.68, 0.26, 0.76, OWN_LIGHT, 0.02)
    elif kind == "bin":
        box(-0.20, 0.10, 0.20, 1.0, OWN, 0.04)
        box(-0.24, 0.0, 0.24, 0.14, OWN_DARK, 0.05)
        for x0 in (-0.12, 0.0, 0.12):
            box(x0 - 0.012, 0.2, x0 + 0.012, 0.95, OWN_DARK)
    else:  # a sign on a post
        box(-0.03, 0.0, 0.03, 1.0, METAL)
        box(-0.26, 0.0, 0.26, 0.52, OWN, 0.04)
        box(-0.20, 0.10, 0.20, 0.18, OWN_LIGHT)
        box(-0.20, 0.26, 0.10, 0.32, OWN_LIGHT)
