"""Where and when people are seen: dials, cameras, tracklets and Market-1501's splits. Nothing is drawn here."""

import math
from dataclasses import dataclass, field, fields, replace
from numbers import Real

import numpy as np

from reidnb.synthetic.people import Person, make_people

# What one unit of each dial is worth; the places to turn when calibrating.
BOX_SHIFT = (0.036, 0.024)  # standard deviation of the box error across and down, as shares of the box
BOX_SCALE = 0.05  # standard deviation of log scale
CUT_RATE = 0.10  # share of tracklets whose boxes cut the feet or the head
OCCLUDED_RATE = 0.17  # share of tracklets that meet an occluder
COMPANY_RATE = 0.14  # share of tracklets in which someone else walks behind the person
COLOUR_GAIN = 0.12  # largest departure of a camera's channel gain from 1
EXPOSURE = 0.25  # largest departure of its exposure, in stops
GAMMA = 0.20  # largest departure of log gamma from 0
CAMERA_BLUR = 0.7  # largest blur radius, in pixels at height 128
EXPOSURE_JITTER = 0.06  # departure of one shot's exposure, in stops, whatever the camera

SCENES = ("street", "plaza", "corridor", "park", "station", "campus")
OCCLUDERS = ("walker", "pillar", "bench", "bike", "car", "plant", "bin", "sign")
STRANGERS = 40  # passers-by without an identity
PEOPLE, PASSERS_BY, CAMERAS, TRACKLETS, BAD_BOXES, SCENE = range(6)  # what a random stream is for


def stream(world_seed: int, domain: int, purpose: int, index: int = 0) -> np.random.Generator:
    """The random generator of one purpose and one index, the same on every machine and in every order."""
    return np.random.default_rng([world_seed, domain, purpose, index])


@dataclass(frozen=True)
class Dials:
    """How hard the world is. Each dial goes from 0 to 2; 1 is the default, but for the last two. ValueError outside.

    misalignment: error of the detector's boxes; 0 = perfect, 2 = heads and feet cut often.
    occlusion: how often and how much something hides the person, and how often someone walks close behind.
    camera_bias: how much cameras differ in gain, tint, gamma, contrast and blur.
    attribute_imbalance: 0 = all attributes balanced, 1 = Market-1501's shares, 2 = the rare ones rarer still.
    lookalikes: share of people who copy another's clothes but for one detail.
    season: 0 = summer wardrobe and sun, 1 = Market-1501's, 2 = winter wardrobe and dim bluish light.
    swapped: share of people who wear another's two colours the other way round, so that *where* a colour sits is all
        that tells them apart; 0, the default, = nobody but by chance.
    cues: how plainly long hair and gender show; 0, the default, = hair is hidden from the front and a woman a tenth
        narrower, 1 = hair falls over the chest and she is a fifth narrower.
    """

    misalignment: float = 1.0
    occlusion: float = 1.0
    camera_bias: float = 1.0
    attribute_imbalance: float = 1.0
    lookalikes: float = 1.0
    season: float = 1.0
    swapped: float = 0.0
    cues: float = 0.0

    def __post_init__(self):
        for dial in fields(self):
            value = getattr(self, dial.name)
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 2:
                usual = f"{dial.default:g} is the default"
                raise ValueError(f"dial {dial.name}={value!r}: wanted a number from 0 to 2 ({usual})")


@dataclass(frozen=True)
class Camera:
    """One camera: its scene and its optics. Gains multiply, blur is in pixels at height 128."""

    camid: int
    scene: str
    yaw: float  # degrees; people walk along this direction or against it (0 = towards the camera)
    pitch: float  # radians, how steeply the camera looks down
    eye: float  # a person's height over the camera's height
    near: float  # where the nearest feet stand in the scene, 0 = horizon, 1 = lower edge
    far: float
    gain: tuple  # of R, G, B
    gamma: float
    contrast: float
    blur: float
    noise: int  # levels
    quality: int  # of the JPEG
    light: float  # -1 = light from the left, 1 = from the right
    sun: float  # 0 = overcast, 1 = hard shadows


@dataclass(frozen=True)
class Shot:
    """One image to be drawn: cheap, and complete together with its world."""

    pid: int
    camid: int
    tracklet: int
    frame: int  # index within the tracklet
    seed: int  # of what belongs to this image alone: noise, exposure
    yaw: float  # degrees, 0 = the person faces the camera, 90 = walks to the right, 180 = is seen from behind
    phase: float  # of walking, radians
    x: float  # where the feet stand in the scene, 0 = left, 1 = right
    y: float  # 0 = horizon, 1 = lower edge
    dx: float = 0.0  # the box error: the person's shift right and down as shares of the box ...
    dy: float = 0.0
    scale: float = 1.0  # ... and enlargement
    occluder: str = ""  # one of OCCLUDERS, or none
    occluder_x: float = 0.0  # its centre, as a share of the box width
    occluder_height: float = 0.0  # as a share of the box height
    company: float = 0.0  # where someone else walks behind, as a share of the box width; 0 = nobody
    stranger: int = 0  # which stranger plays the walker, the company, or the subject of a distractor
    subject: int = -1  # the person drawn: a pid; 0 = the stranger, -1 = nobody
    sequence: int = 1

    @property
    def view(self):
        """The side that is seen: "front", "right", "back" or "left"."""
        return ("front", "right", "back", "left")[int(((self.yaw + 45) % 360) // 90)]


@dataclass(frozen=True)
class World:
    """People, cameras and the list of all shots: {"train", "query", "gallery"} -> tuple of Shot."""

    seed: int
    domain: int
    place: int  # the seed of its cameras and scenes
    size: tuple
    dials: Dials
    people: tuple
    cameras: tuple
    shots: dict = field(repr=False)
    strangers: tuple = field(repr=False, default=())


def file_name(shot: Shot) -> str:
    """The shot's name in Market-1501's form, such as "0002_c1s1_000451_03.jpg" (cameras count from 1)."""
    pid = "-1" if shot.pid < 0 else f"{shot.pid:04d}"
    number = 60 * shot.tracklet + 12 * shot.frame + 1  # no two shots share it
    return f"{pid}_c{shot.camid + 1}s{shot.sequence}_{number:06d}_{shot.frame:02d}.jpg"


def attributes(world: World, pid: int) -> np.ndarray:
    """The 27 ATTRIBUTES of a person, int64, 0-based; all -1 for distractors (0) and junk (-1). KeyError if unknown."""
    if pid in (0, -1):
        return np.full(27, -1, np.int64)
    return np.asarray(person_of(world, pid).labels, np.int64)


def person_of(world: World, pid: int) -> Person:
    """The Person with this pid. KeyError if there is none."""
    if not 1 <= pid <= len(world.people):
        raise KeyError(f"pid {pid}: this world has the people 1..{len(world.people)} (0 and -1 are nobody)")
    return world.people[pid - 1]


def make_world(
    seed: int = 0,
    train_identities: int = 240,
    test_identities: int = 200,
    cameras: int = 6,
    distractors: int = 500,
    junk: int = 200,
    size: tuple[int, int] = (128, 64),
    dials: Dials = Dials(),
    domain: int = 0,
    place: int | None = None,
) -> World:
    """Plan a world by Market-1501's rules; nothing is drawn yet.

    size is (height, width) in pixels, ratio 2:1. Another `domain` has other cameras, backgrounds, people and
    wardrobes; `place` is the seed of cameras and backgrounds alone (None: the world's own), so that others may walk
    there. ValueError on impossible numbers. The default world has about 6,600 shots.
    """
    place = seed if place is None else place
    _check(seed, train_identities, test_identities, cameras, distractors, junk, size, dials, domain, place)
    pids = stream(seed, domain, PEOPLE).permutation(np.arange(1, train_identities + test_identities + 1)).tolist()
    train_pids, test_pids = pids[:train_identities], pids[train_identities:]

    def cast(purpose, indices, names):
        return make_people([stream(seed, domain, purpose, index) for index in indices], names, dials, domain)

    # Look-alikes copy within their own split, or they would be no trap.
    people = cast(PEOPLE, train_pids, train_pids) + cast(PEOPLE, test_pids, test_pids)
    people = tuple(sorted(people, key=lambda person: person.pid))
    strangers = cast(PASSERS_BY, range(STRANGERS), [0] * STRANGERS)
    views = tuple(_make_camera(stream(place, domain, CAMERAS, camid), camid, dials, domain) for camid in range(cameras))

    train, query, gallery = [], [], []
    first = 0  # the next free tracklet number
    for split, members in (("train", train_pids), ("test", test_pids)):
        for pid in members:
            seen = _see(stream(seed, domain, TRACKLETS, pid), pid, views, dials, first)
            first = seen[-1][-1].tracklet + 1
            for shots in seen:  # one list a camera
                if split == "train":
                    train += shots
                else:
                    chosen = shots[0].seed % len(shots)
                    query.append(shots[chosen])
                    gallery += shots[:chosen] + shots[chosen + 1 :]
    rng = stream(seed, domain, BAD_BOXES)
    gallery += [_distractor(rng, views, dials, first + index) for index in range(distractors)]
    gallery += [_junk(rng, views, dials, first + distractors + index, len(people)) for index in range(junk)]
    shots = {"train": train, "query": query, "gallery": gallery}
    shots = {split: tuple(sorted(shots[split], key=file_name)) for split in shots}
    return World(seed, domain, place, tuple(size), dials, people, views, shots, strangers)


def _check(seed, train_identities, test_identities, cameras, distractors, junk, size, dials, domain, place):
    counts = {
        "seed": seed,
        "train_identities": train_identities,
        "test_identities": test_identities,
        "distractors": distractors,
        "junk": junk,
        "domain": domain,
        "place": place,
    }
    for name, value in counts.items():
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{name}={value!r}: wanted a whole number from 0 up")
    if not isinstance(cameras, (int, np.integer)) or cameras < 2:
        raise ValueError(f"cameras={cameras!r}: re-identification needs at least 2 cameras")
    if train_identities + test_identities == 0:
        raise ValueError("train_identities and test_identities are both 0: a world needs somebody in it")
    try:
        height, width = size
        good = height == 2 * width and 32 <= height <= 512 and height % 4 == 0
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(
            f"size={size!r}: wanted (height, width) with height = 2 x width, from (32, 16) to (512, 256), "
            "the height a multiple of 4; for example (128, 64)"
        )
    if not isinstance(dials, Dials):
        raise TypeError(f"dials={dials!r}: wanted a Dials(...) value, for example Dials(occlusion=2)")


def _make_camera(rng, camid, dials, domain):
    """One camera. camera_bias scales every departure from the neutral camera; the scene and the view stay."""
    scene = SCENES[(camid + 3 * domain) % len(SCENES)]
    bias = dials.camera_bias
    # Tints alternate between warm and cold and exposures between bright and dark, so that no two cameras agree.
    side = 1 if camid % 2 else -1
    tint = side * COLOUR_GAIN * bias * rng.uniform(0.4, 1.0)
    green = COLOUR_GAIN * bias * rng.uniform(-0.4, 0.4)
    stops = EXPOSURE * bias * rng.uniform(0.3, 1.0) * (1 if (camid // 2 + camid) % 2 else -1)
    cold = 0.06 * (dials.season - 1)  # winter light is bluish and dim, for all cameras alike
    light = 2 ** (stops - 0.20 * (dials.season - 1))
    gain = tuple(light * channel for channel in (1 + tint - cold, 1 + green, 1 - tint + cold))
    sunny = scene != "corridor"
    return Camera(
        camid=camid,
        scene=scene,
        yaw=(0.0, 55.0, 90.0, 20.0, 125.0, 160.0)[(camid + 2 * domain) % 6],
        pitch=rng.uniform(0.06, 0.22),
        eye=rng.uniform(0.86, 1.05),
        near=rng.uniform(0.86, 0.95),
        far=rng.uniform(0.50, 0.66),
        gain=gain,
        gamma=math.exp(GAMMA * bias * rng.uniform(-1, 1)),
        contrast=1 + 0.22 * bias * rng.uniform(-1, 1),
        blur=CAMERA_BLUR * bias * rng.uniform(0, 1) ** 1.5,
        noise=int(3 + 5 * bias * rng.random()),
        quality=int(rng.integers(70, 91)),
        light=float(rng.choice((-1.0, 1.0))) * rng.uniform(0.6, 1.0),
        sun=(1.0 - 0.45 * dials.season) * rng.uniform(0.6, 1.0) if sunny else 0.15,
    )


def _see(rng, pid, cameras, dials, first):
    """All shots of one person: a list a camera, of 1 to 5 shots in one or two tracklets."""
    count = min(len(cameras), int(rng.integers(3, 7)))
    seen, tracklet = [], first
    for position, camid in enumerate(rng.permutation(len(cameras))[:count].tolist()):
        images = int(rng.choice(5, p=(0.14, 0.27, 0.27, 0.19, 0.13))) + 1
        if position < 2:
            images = max(images, 2)  # so that every query finds its match before another camera
        shots = []
        split = int(rng.integers(1, images)) if images > 2 and rng.random() < 0.5 else images
        for length in (split, images - split):
            if length:
                shots += _track(rng, pid, cameras[camid], dials, tracklet, length)
                tracklet += 1
        seen.append(shots)
    return seen


def _track(rng, pid, camera, dials, tracklet, length):
    """One pass of a person before a camera, as `length` shots: step, place, box and occluder change smoothly."""
    yaw = camera.yaw + (180 if rng.random() < 0.5 else 0) + rng.normal(0, 14)
    phase, step = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 0.9)
    x, y = rng.uniform(0.18, 0.82), rng.uniform(camera.far, camera.near)
    turn = math.radians(yaw)
    shift = rng.normal(0, 1, (length + 1, 3)) * dials.misalignment * np.array((*BOX_SHIFT, BOX_SCALE))
    shift = shift[0] * 0.85 + shift[1:] * 0.5  # most of the error stays through the pass
    cut = rng.random() < CUT_RATE * dials.misalignment
    cut_scale, cut_side = rng.uniform(1.15, 1.25 + 0.15 * dials.misalignment), 1 if rng.random() < 0.6 else -1
    occluder, place, speed, height = _plan_occluder(rng, dials)
    u, gap, side = rng.random(3).tolist()
    company = (0.12 + 0.18 * gap) * (1 if side < 0.5 else -1) if u < COMPANY_RATE * dials.occlusion else 0.0
    stranger, sequence = int(rng.integers(STRANGERS)), int(rng.integers(1, 7))
    seeds = rng.integers(2**31, size=length).tolist()
    shots = []
    for frame, (dx, dy, log_scale) in enumerate(shift.tolist()):
        scale = math.exp(log_scale)
        if cut:  # the box keeps the head and loses the feet, or the other way round
            scale, dy = cut_scale * scale, dy + cut_side * (cut_scale - 1) * 0.45
        shots.append(
            Shot(
                pid=pid,
                camid=camera.camid,
                tracklet=tracklet,
                frame=frame,
                seed=seeds[frame],
                yaw=yaw % 360,
                phase=phase + step * frame,
                x=x + 0.012 * frame * math.sin(turn),
                y=y + 0.010 * frame * math.cos(turn),
                dx=dx,
                dy=dy,
                scale=scale,
                occluder=occluder,
                occluder_x=place + speed * frame,
                occluder_height=height,
                company=company and 0.5 + company + 0.03 * frame,
                stranger=stranger,
                subject=pid,
                sequence=sequence,
            )
        )
    return shots


def _plan_occluder(rng, dials):
    """(kind, first place, speed, height) of what stands before the person; kind "" for nothing."""
    u, kind, side, start, speed, height = rng.random(6).tolist()
    if u >= OCCLUDED_RATE * dials.occlusion:
        return "", 0.0, 0.0, 0.0
    strength = min(1.0, 0.3 + 0.35 * dials.occlusion)
    sign = 1 if side < 0.5 else -1
    return (
        OCCLUDERS[int(kind * len(OCCLUDERS))],
        0.5 + sign * (0.5 - 0.45 * start * strength),
        -sign * (0.03 + 0.09 * speed),
        0.22 + 0.30 * strength * height,
    )


def _bad_box(rng, pid, cameras, dials, tracklet):
    camera = cameras[int(rng.integers(len(cameras)))]
    return _track(rng, pid, camera, dials, tracklet, 1)[0]


def _distractor(rng, cameras, dials, tracklet):
    """A box that is nobody of ours: background, half a passer-by, or two of them."""
    shot = _bad_box(rng, 0, cameras, dials, tracklet)
    kind, side = int(rng.integers(3)), int(rng.choice((-1, 1)))
    changes = (
        {"subject": -1, "company": 0.0},
        {"dx": side * rng.uniform(0.28, 0.5), "dy": rng.uniform(-0.3, 0.3), "scale": rng.uniform(0.9, 1.5)},
        {"dx": side * 0.2, "company": 0.5 - side * 0.28, "scale": rng.uniform(0.7, 0.9)},
    )[kind]
    return replace(shot, **{"subject": 0, **changes})


def _junk(rng, cameras, dials, tracklet, people):
    """A very badly cut box of a passer-by or of somebody we know."""
    shot = _bad_box(rng, -1, cameras, dials, tracklet)
    subject = int(rng.integers(1, people + 1)) if rng.random() < 0.5 else 0
    dy = float(rng.choice((-1, 1))) * rng.uniform(0.35, 0.6)
    return replace(shot, subject=subject, dx=rng.normal(0, 0.2), dy=dy, scale=rng.uniform(1.2, 1.9))
