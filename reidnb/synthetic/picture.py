"""How a camera sees a person: figures are set into the scene, lit, and spoiled as cheap cameras spoil them."""

import csv
import io
import json
import os
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from reidnb.synthetic.brush import MATERIALS, PARTS, PATTERNED, Brush
from reidnb.synthetic.figure import KEYPOINTS, draw_person
from reidnb.synthetic.people import ATTRIBUTES
from reidnb.synthetic.scene import HORIZON, OCCLUDER_COLOURS, OCCLUDER_TONES, draw_occluder, panorama
from reidnb.synthetic.world import EXPOSURE_JITTER, Shot, World, attributes, file_name, person_of

FOOT, STATURE = 0.965, 0.925  # where the feet stand in a perfect box, and how much of its height the person fills
HAZE = 0.06  # the black of a cheap camera is not black
FIGURE, WALKER, COMPANY, THING = 0, 64, 128, 192  # where the material numbers of each figure on the canvas start


@dataclass(frozen=True)
class Drawing:
    """One drawn shot with its ground truth.

    image: uint8 (H, W, 3), RGB. mask: uint8 (H, W), indices into PARTS. keypoints: float32 (14, 3), x and y in pixels
    (the centre of the first pixel is 0.5, 0.5) and 1 where the point is inside the picture and nothing stands before
    it, else 0. occlusion: the share of the person's pixels in the box that something hides, 0..1.
    """

    image: np.ndarray
    mask: np.ndarray
    keypoints: np.ndarray
    occlusion: float


def _by_number(value):
    """A table of 256 from material numbers to value(part, colour, light, height, cloth)."""
    table = np.zeros(256, np.uint8)
    for base in (FIGURE, WALKER, COMPANY):
        table[base : base + len(MATERIALS)] = [value(base, *material) for material in MATERIALS.values()]
    return table


PART_OF = _by_number(
    lambda base, part, *_: (
        0
        if part == "background" or base == COMPANY
        else PARTS.index("occluder")
        if base == WALKER
        else PARTS.index(part)
    )
)
PART_OF[THING : THING + len(OCCLUDER_TONES)] = PARTS.index("occluder")
HEIGHT_OF = _by_number(lambda base, part, colour, light, height, cloth: height)
HEIGHT_OF[THING : THING + len(OCCLUDER_TONES)] = [height for _, _, height in OCCLUDER_TONES]
CLOTH = _by_number(lambda base, part, colour, light, height, cloth: 255 * cloth)
SOLID = np.where(HEIGHT_OF > 0, 255, 0).astype(np.uint8)


def draw(world: World, shot: Shot) -> Drawing:
    """Draw one shot of the world; the same bytes whatever was drawn before. Returns a Drawing."""
    height, width = world.size
    camera = world.cameras[shot.camid]
    stranger = world.strangers[shot.stranger]
    person = stranger if shot.subject == 0 else person_of(world, shot.subject) if shot.subject > 0 else None
    big = Image.new("L", (2 * width, 2 * height))  # material numbers at twice the size
    canvas = ImageDraw.Draw(big)
    scale = 2 * height * STATURE * shot.scale
    x, y = 2 * width * (0.5 + shot.dx), 2 * height * (0.5 + (FOOT - 0.5) * shot.scale + shot.dy)
    other_yaw = shot.yaw + 180 * (shot.stranger % 2)  # some come the other way

    brushes = []  # of everyone on the canvas, for the shadows
    palette = np.zeros((256, 3), np.uint8)

    def walk(brush, who, yaw, phase):
        brushes.append(brush)
        palette[brush.base : brush.base + len(MATERIALS)] = _colours(who)
        return draw_person(brush, who, yaw, phase, camera.pitch)

    if shot.company:
        other = world.strangers[(shot.stranger + 7) % len(world.strangers)]
        near = 1.0 if shot.subject == 0 else 0.86  # the second person of a distractor is no further than the first
        walk(
            Brush(canvas, 2 * width * shot.company, y - 0.35 * (1 - near) * scale, scale * near, COMPANY),
            other,
            other_yaw,
            shot.phase + 1.3,
        )
    points = [(-1.0, -1.0)] * len(KEYPOINTS)
    if person is not None:
        points = walk(Brush(canvas, x, y, scale, FIGURE), person, shot.yaw, shot.phase)
    before = _count_person(big)
    if shot.occluder == "walker":
        walk(
            Brush(canvas, 2 * width * shot.occluder_x, y + 0.06 * scale, scale * 1.08, WALKER),
            stranger,
            other_yaw,
            shot.phase + 0.7,
        )
    elif shot.occluder:
        draw_occluder(canvas, big.size, shot.occluder, shot.occluder_x, shot.occluder_height, THING, shot.stranger)
        palette[THING : THING + len(OCCLUDER_TONES)] = _thing_colours(shot)
    occlusion = 1 - _count_person(big) / before if before else 0.0

    index = np.asarray(big)
    if person is not None and person.texture in ("stripes", "check"):
        index = _weave(index, person.texture, x, y, scale)
    mask = PART_OF[index[1::2, 1::2]]
    image = _compose(world, camera, shot, index, palette, brushes)
    return Drawing(_photograph(world, camera, shot, image), mask, _keypoints(points, mask), occlusion)


def _count_person(big):
    return sum(big.histogram()[FIGURE + 1 : WALKER])


@lru_cache(maxsize=4096)
def _colours(person):
    """The palette of one person: uint8, a row for each of MATERIALS."""
    rows = []
    for _, field, light, _, _ in MATERIALS.values():
        colour = (field and getattr(person, field)) or (0, 0, 0)
        rows.append([min(255, c * light >> 8) for c in colour])
    return np.array(rows, np.uint8)


def _thing_colours(shot):
    """The palette of an occluder; the same kind of thing comes in a few colours."""
    own = OCCLUDER_COLOURS[shot.occluder]
    turn = shot.stranger % 3 if shot.occluder in ("car", "bike", "bin", "sign") else 0
    own = own[turn:] + own[:turn]
    return [
        [min(255, c * light >> 8) for c in (own if colour == "own" else colour)] for colour, light, _ in OCCLUDER_TONES
    ]


def _weave(index, texture, x, y, scale):
    """Where the cloth has a stripe or a line of its check, the next material number."""
    rows = (np.arange(index.shape[0]) - y) / scale % 0.055 < 0.022
    if texture == "stripes":
        lines = rows[:, None]
    else:
        columns = (np.arange(index.shape[1]) - x) / scale % 0.055 < 0.014
        lines = rows[:, None] ^ columns[None, :]
    return index + (PATTERNED[index] & lines).astype(np.uint8)


def _keypoints(points, mask):
    xy = np.asarray(points, np.float32) / 2
    column, row = np.floor(xy).astype(int).T
    inside = (column >= 0) & (column < mask.shape[1]) & (row >= 0) & (row < mask.shape[0])
    part = mask[np.where(inside, row, 0), np.where(inside, column, 0)]
    visible = inside & (part > 0) & (part < PARTS.index("occluder"))
    return np.concatenate([xy, visible[:, None]], axis=1).astype(np.float32)


@lru_cache(maxsize=8)
def _tables(size):
    """What every picture of one size shares: grain, folds of cloth, and a soft round shadow."""
    rng = np.random.default_rng(1501)  # one grain for all worlds; shots look at different places of it
    height, width = size
    grain = rng.integers(-128, 128, (4, 2 * height, 4 * width, 3), dtype=np.int16).sum(0, dtype=np.int16) // 2
    coarse = rng.integers(0, 256, (24, 26), dtype=np.uint8)
    folds = np.asarray(Image.fromarray(coarse).resize((2 * width, 2 * height), Image.Resampling.BICUBIC), np.int32)
    shadow = Image.new("L", (64, 32))
    ImageDraw.Draw(shadow).ellipse((10, 5, 54, 27), fill=255)
    return grain, (folds - 128), shadow.filter(ImageFilter.GaussianBlur(4))


def _background(world, camera, shot):
    """The part of the panorama behind the box, and its height in panorama pixels."""
    height, width = world.size
    scene = panorama(world.place, world.domain, camera, world.size)
    horizon = HORIZON * scene.height
    ground = horizon + shot.y * (scene.height - horizon)
    tall = camera.eye * (ground - horizon) / (STATURE * shot.scale)  # the height of the box there
    tall = min(tall, scene.height)
    left = shot.x * scene.width - (0.5 + shot.dx) * tall / 2
    top = ground - (0.5 + (FOOT - 0.5) * shot.scale + shot.dy) * tall
    left, top = min(max(left, 0), scene.width - tall / 2), min(max(top, 0), scene.height - tall)
    box = (left, top, left + tall / 2, top + tall)
    return scene.resize((width, height), Image.Resampling.BILINEAR, box=box), tall


def _compose(world, camera, shot, index, palette, brushes):
    """Scene, shadows and lit figures in one RGB image."""
    height, width = world.size
    _, folds, soft = _tables(world.size)
    scene, tall = _background(world, camera, shot)
    for brush in brushes:
        x, y, scale = brush.x / 2, brush.y / 2, brush.scale / 2
        _shadow(scene, soft, x, y, 0.30 * scale, 0.075 * scale, 110)
        if camera.sun > 0.2:  # the long shadow that the sun throws, away from the light
            reach = -0.34 * scale * camera.light
            _shadow(scene, soft, x + reach, y - 0.015 * scale, 0.80 * scale, 0.085 * scale, int(150 * camera.sun))
    big = Image.fromarray(index)
    solid = np.asarray(big.point(SOLID.tolist()).reduce(2), np.int32)[:, :, None]
    relief = big.point(HEIGHT_OF.tolist()).reduce(2).filter(ImageFilter.BoxBlur(1.6 * height / 128))
    relief = relief.filter(ImageFilter.BoxBlur(1.1 * height / 128))
    cloth = np.asarray(big.point(CLOTH.tolist()).reduce(2), np.int32)
    colours = big.copy()
    colours.putpalette(palette.tobytes())
    colours = np.asarray(colours.convert("RGB").reduce(2), np.int32)

    light = _relight(np.asarray(relief, np.int32), camera.light, height)
    shift = 11 * max(shot.subject, 0) % height
    light += folds[shift : shift + height, :width] * cloth * 34 >> 15
    pixels = (colours * light[:, :, None] >> 8) + (np.asarray(scene, np.int32) * (255 - solid) + 127) // 255
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if tall < 0.85 * height:  # someone far away covers few pixels of the sensor
        rows = max(16, int(tall))
        image = image.resize((rows // 2, rows), Image.Resampling.BILINEAR)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return image


def _shadow(scene, soft, x, y, wide, tall, strength):
    wide, tall = max(4, int(wide)), max(2, int(tall))
    mask = soft.resize((wide, tall)).point([v * strength // 255 for v in range(256)])
    scene.paste((22, 22, 32), (int(x - wide / 2), int(y - tall / 2)), mask)


def _relight(relief, side, height):
    """256 = as painted. Slopes that face the light are brighter, so limbs look round."""
    light = np.full(relief.shape, 262, np.int32)
    # Slopes are steeper in a small picture, hence times height; 14 bits make 145 and 110 about right at any size.
    light[:, 1:-1] += (relief[:, 2:] - relief[:, :-2]) * int(145 * side) * height >> 14
    light[1:-1] += (relief[2:] - relief[:-2]) * 110 * height >> 14
    return np.clip(light, 120, 380)


def _photograph(world, camera, shot, image):
    """Optics, exposure, noise and JPEG. Returns uint8 (H, W, 3)."""
    height, width = world.size
    if camera.blur > 0.25:
        image = image.filter(ImageFilter.BoxBlur(1.3 * camera.blur * height / 128))
    image = image.point(_response(camera, (shot.seed >> 5) % 21 - 10))
    grain = _tables(world.size)[0]
    row, column = (shot.seed >> 3) % height, (shot.seed >> 11) % width
    noise = grain[row : row + height, column : column + width] * np.int16(camera.noise) >> 7
    pixels = np.clip(np.asarray(image, np.int16) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=camera.quality - shot.seed % 11)
    return np.array(Image.open(buffer))


@lru_cache(maxsize=512)
def _response(camera, step):
    """The camera's tone curve as a table of 3 x 256; step, -10..10, is what this shot's exposure departs."""
    exposure = 2.0 ** (EXPOSURE_JITTER * step / 10)
    tables = []
    for gain in camera.gain:
        value = (HAZE + (1 - HAZE) * np.arange(256) / 255) * gain * exposure
        value = np.clip(0.45 + (value - 0.45) * camera.contrast, 0, 2.0) ** camera.gamma
        over = np.maximum(value - 0.75, 0)  # highlights roll off instead of burning out
        value = np.minimum(value, 0.75) + 0.25 * (1 - np.exp(-4 * over))
        tables.append(np.clip(np.rint(255 * value), 0, 255))
    return np.concatenate(tables).astype(np.uint8).tolist()


FOLDERS = {"train": "bounding_box_train", "gallery": "bounding_box_test", "query": "query"}


def write_market1501(world: World, folder: str | Path, progress: bool = True) -> Path:
    """Write the world as JPEG files in Market-1501's layout, with a ground_truth.csv beside them.

    An interrupted or finished folder of the same world may be written again. FileExistsError if the folder holds
    anything else. Returns the folder's Path.
    """
    folder = Path(folder)
    passport = {
        "format": "reidnb synthetic world 1",
        "seed": world.seed,
        "domain": world.domain,
        "place": world.place,
        "size": list(world.size),
        "dials": asdict(world.dials),
        "people": len(world.people),
        "cameras": len(world.cameras),
        "shots": {split: len(shots) for split, shots in world.shots.items()},
    }
    passport_file = folder / "world.json"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        found = passport_file.read_text(encoding="utf-8") if passport_file.is_file() else ""
        if found != json.dumps(passport, indent=1):
            what = "another synthetic world" if found else "files that are not a synthetic world"
            raise FileExistsError(f"{folder} already holds {what}; choose an empty folder, or empty this one first")
    for name in FOLDERS.values():
        (folder / name).mkdir(parents=True, exist_ok=True)
    _replace(passport_file, json.dumps(passport, indent=1).encode())

    header = [
        "file",
        "split",
        "pid",
        "camid",
        "tracklet",
        "frame",
        "view",
        "occluder",
        "occlusion",
        "dx",
        "dy",
        "scale",
        *ATTRIBUTES,
        *(f"{name}_{axis}" for name in KEYPOINTS for axis in ("x", "y", "visible")),
    ]
    table = io.StringIO(newline="")
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(header)
    total, done = sum(len(shots) for shots in world.shots.values()), 0
    for split, name in FOLDERS.items():
        for shot in world.shots[split]:
            drawing = draw(world, shot)
            buffer = io.BytesIO()
            Image.fromarray(drawing.image).save(buffer, "JPEG", quality=92)
            _replace(folder / name / file_name(shot), buffer.getvalue())
            measures = (drawing.occlusion, shot.dx, shot.dy, shot.scale)
            rows.writerow(
                [
                    file_name(shot),
                    split,
                    shot.pid,
                    shot.camid,
                    shot.tracklet,
                    shot.frame,
                    shot.view,
                    shot.occluder,
                    *(f"{value:.4f}" for value in measures),
                    *attributes(world, shot.pid).tolist(),
                    *(f"{value:.2f}" for value in drawing.keypoints.ravel().tolist()),
                ]
            )
            done += 1
            if progress and (done % 1000 == 0 or done == total):
                print(f"{done}/{total} pictures written to {folder}", flush=True)
    _replace(folder / "ground_truth.csv", table.getvalue().encode())
    return folder


def _replace(path, data):
    """Write beside and rename, so that no half-written file is ever seen under its name."""
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(data)
    os.replace(aside, path)
