"""Who walks in the built-in world: bodies, hair, clothes and bags, drawn at Market-1501's frequencies."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

import numpy as np

UPPER_COLOURS = ("black", "white", "red", "purple", "yellow", "gray", "blue", "green")
LOWER_COLOURS = ("black", "white", "pink", "purple", "yellow", "gray", "blue", "green", "brown")
ATTRIBUTES = (
    "age",
    "backpack",
    "bag",
    "handbag",
    "clothes",
    "down",
    "up",
    "hair",
    "hat",
    "gender",
    *("up" + name for name in UPPER_COLOURS),
    *("down" + name for name in LOWER_COLOURS),
)

# Shares among Market-1501's 1,501 identities (its attribute labels, train and test together, rounded).
# Colours are normalised to 1: in Market some people have none of the listed colours, here everyone has one.
MARKET_AGE = (0.012, 0.805, 0.174, 0.009)
MARKET_SHARES = {
    "backpack": 0.257,
    "bag": 0.247,
    "handbag": 0.108,
    "clothes": 0.871,
    "down": 0.630,
    "up": 0.944,
    "hair": 0.346,
    "hat": 0.029,
    "gender": 0.437,
}
MARKET_UPPER = (0.147, 0.290, 0.103, 0.036, 0.065, 0.128, 0.065, 0.068)
MARKET_LOWER = (0.387, 0.072, 0.033, 0.0015, 0.007, 0.166, 0.185, 0.023, 0.078)

# How far one unit of season moves an attribute's log-odds, towards winter. Season 1 is Market-1501's own wardrobe.
SEASON_SHIFT = {"up": -5.0, "down": -3.0, "clothes": 1.0, "hat": 2.4}

LOOKALIKE_SHARE = 2 / 15  # of the identities, at lookalikes=1
SWAPPED_SHARE = 2 / 5  # of the identities, at swapped=1
BUILD_APART = 0.05  # how much further than at 0 a woman's and a man's widths lie from the middle, at cues=1
SHADE_JITTER = 10  # levels by which two garments of one shade may differ
TEXTURES = ("plain", "stripes", "check", "logo", "print")
TEXTURE_SHARES = (0.46, 0.14, 0.10, 0.18, 0.12)
HAIR_STYLES = (("crop", "parted", "curly"), ("straight", "pony", "bob"))  # short, long

# Four shades of each colour name. A domain mixes two of them, so other domains have other wardrobes.
SHADES = {
    "black": ((24, 24, 28), (46, 46, 52), (34, 27, 26), (30, 36, 50)),
    "white": ((238, 238, 236), (216, 220, 224), (236, 228, 212), (222, 228, 238)),
    "red": ((196, 36, 40), (150, 30, 42), (220, 72, 58), (172, 28, 70)),
    "purple": ((118, 66, 150), (88, 50, 112), (150, 98, 178), (108, 58, 128)),
    "yellow": ((236, 196, 60), (214, 168, 48), (242, 216, 110), (224, 150, 40)),
    "gray": ((136, 138, 142), (104, 106, 112), (160, 158, 152), (120, 130, 136)),
    "blue": ((44, 82, 168), (36, 58, 112), (86, 140, 204), (58, 110, 150)),
    "green": ((52, 124, 72), (78, 98, 54), (110, 160, 90), (30, 110, 100)),
    "pink": ((232, 150, 172), (214, 112, 146), (240, 180, 180), (226, 130, 160)),
    "brown": ((120, 84, 56), (88, 62, 46), (150, 114, 78), (176, 146, 108)),
}
SKINS = ((228, 184, 152), (214, 164, 128), (196, 146, 108), (158, 110, 78), (110, 76, 56))
HAIRS = ((28, 24, 24), (48, 34, 28), (84, 56, 36), (132, 92, 52), (40, 40, 48))
GRAY_HAIRS = ((176, 174, 172), (206, 204, 202), (140, 138, 138))
SHOES = ((32, 32, 36), (236, 236, 236), (108, 72, 48), (176, 44, 44), (44, 68, 128), (150, 152, 156))
BAGS = (
    (34, 34, 40),
    (96, 66, 44),
    (170, 46, 46),
    (40, 70, 130),
    (56, 104, 66),
    (206, 170, 70),
    (124, 126, 132),
    (198, 96, 140),
)


@dataclass(frozen=True)
class Person:
    """One identity: everything that stays the same from camera to camera. Colours are RGB, 0..255."""

    pid: int
    labels: tuple  # the 27 values of ATTRIBUTES
    build: float  # width of the body, 1 = average
    legs: float  # hip height as a share of stature
    head: float  # size of the head, 1 = average
    stoop: float  # how far head and shoulders lean forward, in statures
    skin: tuple
    hair: tuple
    hair_style: str
    hat: tuple
    cap: bool  # a cap with a brim, else a woollen hat
    up: tuple  # the upper garment
    trim: tuple  # its stripes, logo or print
    texture: str
    down: tuple
    shoes: tuple
    backpack: tuple
    bag: tuple
    handbag: tuple
    coat: bool  # a coat hangs to the middle of the thigh
    scarf: tuple | None
    strands: float = 0.0  # how much of long hair falls over the chest


def label(person: Person, name: str) -> int:
    """The value of one attribute, for example label(person, "hat") -> 1."""
    return person.labels[ATTRIBUTES.index(name)]


@lru_cache(maxsize=64)
def shares(market: tuple[float, ...], imbalance: float) -> np.ndarray:
    """Market-1501's shares bent by the dial: 0 makes all equal, 1 keeps them, 2 squares their ratios."""
    powers = np.power(np.asarray(market, float), imbalance)
    return powers / powers.sum()


@lru_cache(maxsize=256)
def share_of(name: str, dials) -> float:
    """The share of people whose binary attribute `name` is 1 under these dials."""
    odds = math.log(MARKET_SHARES[name] / (1 - MARKET_SHARES[name])) * dials.attribute_imbalance
    odds += (dials.season - 1) * SEASON_SHIFT.get(name, 0.0)
    return 1 / (1 + math.exp(-odds))


def _labels(rng, dials):
    """27 attribute values. Long hair, skirts and handbags go with gender, while every marginal share is kept."""
    threshold = {name: NormalDist().inv_cdf(share_of(name, dials)) for name in MARKET_SHARES}
    value = dict.fromkeys(ATTRIBUTES, 0)
    value["age"] = int(rng.choice(4, p=shares(MARKET_AGE, dials.attribute_imbalance)))
    normal = dict(zip(MARKET_SHARES, rng.standard_normal(len(MARKET_SHARES)).tolist()))
    for name, tie in (("hair", 0.8), ("handbag", 0.6), ("clothes", -0.8)):  # a correlated normal keeps its marginal
        normal[name] = tie * normal["gender"] + math.sqrt(1 - tie * tie) * normal[name]
    value.update({name: int(normal[name] < threshold[name]) for name in MARKET_SHARES})
    upper = UPPER_COLOURS[rng.choice(8, p=shares(MARKET_UPPER, dials.attribute_imbalance))]
    lower = LOWER_COLOURS[rng.choice(9, p=shares(MARKET_LOWER, dials.attribute_imbalance))]
    value["up" + upper] = value["down" + lower] = 1
    return tuple(value[name] for name in ATTRIBUTES), upper, lower


def _mix(rng, first, second):
    """A colour between two shades, with a little jitter of its own."""
    t, *jitter = rng.random(4).tolist()
    return tuple(
        int(min(250, max(8, a + (b - a) * t + SHADE_JITTER * (2 * j - 1)))) for a, b, j in zip(first, second, jitter)
    )


def _garment(rng, name, dials, domain):
    """A shade of the named colour: lighter in summer, darker and duller in winter."""
    start = 2 * (domain % 2)
    colour = _mix(rng, *SHADES[name][start : start + 2])
    light = 1.06 - 0.12 * max(0.0, dials.season - 0.5)
    vivid = 1.0 - 0.25 * max(0.0, dials.season - 1)
    gray = sum(colour) / 3
    return tuple(min(250, int((gray + (c - gray) * vivid) * light)) for c in colour)


def _pick(rng, colours):
    colour = colours[rng.integers(len(colours))]
    return _mix(rng, colour, colour)


def shape_of(attribute: str, value: int, dials) -> dict[str, float | str]:
    """What of a person's shape goes with an attribute's value: fields of Person, the usual ones where bodies vary."""
    apart = BUILD_APART * dials.cues
    of_value = {
        "gender": {"build": 0.93 - apart if value else 1.04 + apart},
        "hair": {"hair_style": "straight" if value else "crop", "strands": float(dials.cues * value)},
    }
    return of_value.get(attribute, {})


def make_person(rng: np.random.Generator, pid: int, dials, domain: int = 0) -> Person:
    """One identity with random looks under `dials`.

    It draws the same random numbers whatever the dials are, so a dial changes people's clothes but not the people.
    """
    labels, upper, lower = _labels(rng, dials)
    value = dict(zip(ATTRIBUTES, labels))
    female, young, old = value["gender"], value["age"] == 0, value["age"] == 3
    up = _garment(rng, upper, dials, domain)
    dark = sum(up) < 330
    trim = _pick(
        rng,
        ((240, 240, 240), (230, 190, 70), (220, 90, 80), (120, 180, 220))
        if dark
        else ((40, 40, 46), (170, 40, 44), (40, 70, 140), (50, 110, 70)),
    )
    usual, apart = shape_of("gender", female, dials)["build"], BUILD_APART * dials.cues
    build = float(np.clip(rng.normal(usual, 0.09), 0.78 - apart, 1.3 + apart))
    style = HAIR_STYLES[value["hair"]][rng.integers(3)]
    bald, wrap, scarf = rng.random(3).tolist()
    if old and not value["hair"] and bald < 0.4:
        style = "bald"
    cold = value["up"] == 0 and wrap < 0.45 * dials.season
    return Person(
        pid=pid,
        labels=labels,
        build=build * (0.9 if young else 1.0),
        legs=float(rng.normal(0.515, 0.010)) - (0.02 if young else 0.0),
        head=float(rng.normal(1.0, 0.04)) * (1.18 if young else 1.0),
        stoop=0.012 * float(rng.random()) + (0.025 if old else 0.0),
        skin=_pick(rng, SKINS),
        hair=_pick(rng, GRAY_HAIRS if old else HAIRS),
        hair_style=style,
        hat=_pick(rng, BAGS),
        cap=bool(rng.random() < 1.2 - 0.5 * dials.season),
        up=up,
        trim=trim,
        texture=str(rng.choice(TEXTURES, p=TEXTURE_SHARES)),
        down=_garment(rng, lower, dials, domain),
        shoes=_pick(rng, SHOES),
        backpack=_pick(rng, BAGS),
        bag=_pick(rng, BAGS),
        handbag=_pick(rng, BAGS),
        coat=bool(cold and dials.season > 1),
        scarf=_pick(rng, BAGS) if cold and scarf < 0.6 else None,
        strands=shape_of("hair", value["hair"], dials)["strands"],
    )


def make_people(streams, pids, dials, domain: int = 0) -> tuple[Person, ...]:
    """Identities, some of whom copy the clothes of one before them; `streams` holds a random generator for each."""
    people, paired = [], set()
    for rng, pid in zip(streams, pids):
        person = make_person(rng, int(pid), dials, domain)
        if rng.random() < LOOKALIKE_SHARE * dials.lookalikes:
            models = [other for other in people if label(other, "gender") == label(person, "gender")]
            if models:
                person = _dress_like(rng, person, models[rng.integers(len(models))])
        if rng.random() < SWAPPED_SHARE * dials.swapped:
            models = [other for other in people if other.pid not in paired and _can_swap(other)]
            if models:
                model = models[rng.integers(len(models))]
                person = _dress_swapped(person, model)
                paired |= {person.pid, model.pid}  # in pairs: a second copy would be somebody's twin
        people.append(person)
    return tuple(people)


def _colours(person):
    """The names of the colours above and below."""
    worn = {name for name in ATTRIBUTES[10:] if label(person, name)}
    return [next((name.removeprefix(g) for name in worn if name.startswith(g)), "") for g in ("up", "down")]


def _can_swap(person):
    """Two plain colours that exist above and below, and are not the same."""
    up, down = _colours(person)
    return up != down and person.texture == "plain" and {f"down{up}", f"up{down}"} <= {*ATTRIBUTES}


def _dress_swapped(person, model):
    """`person`, own body and head, in all that `model` wears, the colour below above and the one above below."""
    up, down = _colours(model)
    value = dict(zip(ATTRIBUTES, model.labels))
    value |= {name: label(person, name) for name in ("age", "hair", "gender")}
    value |= {f"up{up}": 0, f"down{down}": 0} | {f"up{down}": 1, f"down{up}": 1}
    same = ("hat", "cap", "trim", "texture", "shoes", "backpack", "bag", "handbag", "coat", "scarf")
    changes = {name: getattr(model, name) for name in same} | {"up": model.down, "down": model.up}
    return replace(person, labels=tuple(value[name] for name in ATTRIBUTES), **changes)


def _dress_like(rng, person, model):
    """`person`, own body and head, in the clothes of `model` but for one detail."""
    worn = (
        "clothes",
        "down",
        "up",
        "hat",
        "backpack",
        "bag",
        "handbag",
        *ATTRIBUTES[10:],
    )  # all but age, hair and gender
    value = dict(zip(ATTRIBUTES, person.labels)) | {name: label(model, name) for name in worn}
    same = ("hat", "cap", "up", "trim", "texture", "down", "shoes", "backpack", "bag", "handbag", "coat", "scarf")
    changes = {name: getattr(model, name) for name in same}
    detail = ("shoes", "bag", "texture", "down")[rng.integers(4)]
    if detail == "shoes":
        others = [c for c in SHOES if max(abs(a - b) for a, b in zip(c, model.shoes)) > 60]
        changes["shoes"] = others[rng.integers(len(others))]
    elif detail == "bag":
        value["bag"] = 1 - value["bag"]
    elif detail == "texture":
        changes["texture"] = "plain" if model.texture != "plain" else "logo"
    else:  # trousers a tone lighter or darker, still of the same colour name
        step = 34 if sum(model.down) < 360 else -34
        changes["down"] = tuple(min(250, max(8, c + step)) for c in model.down)
    return replace(person, labels=tuple(value[name] for name in ATTRIBUTES), **changes)
