"""How a body is drawn. A figure is a small skeleton in space, turned, projected and dressed with flat shapes."""

import math

from reidnb.synthetic.brush import Brush
from reidnb.synthetic.people import Person, label

KEYPOINTS = (
    "head_top",
    "neck",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)


def pose(person: Person, yaw: float, phase: float, pitch: float) -> dict[str, tuple[float, float, float]]:
    """The walking skeleton, projected: {joint: (x, y, nearness)} in statures. yaw in degrees, phase, pitch in radians.

    In space X is the person's left, Y up and Z forward. Arms swing against the legs.
    """
    hip_y, stoop, wide = person.legs, person.stoop, person.build
    thigh, shin, upper, fore = 0.505 * (hip_y - 0.04), 0.495 * (hip_y - 0.04), 0.165, 0.145
    space = {
        "neck": (0, 0.845 - 0.4 * stoop, stoop),
        "head": (0, 0.930 - 0.7 * stoop, 0.012 + 1.8 * stoop),
        "chest": (0, 0.72, 0.3 * stoop),
        "pelvis": (0, hip_y + 0.01, 0),
    }
    for side, sign in (("left", 1), ("right", -1)):
        swing = sign * math.sin(phase)
        bend = 0.10 + 0.85 * max(0.0, sign * math.cos(phase)) ** 1.5  # the knee of the leg that comes forward
        a = 0.41 * swing
        hip = (sign * 0.050 * wide, hip_y, 0.0)
        knee = (hip[0], hip_y - thigh * math.cos(a), thigh * math.sin(a))
        ankle = (hip[0] * 0.9, knee[1] - shin * math.cos(a - bend), knee[2] + shin * math.sin(a - bend))
        b, e = -0.42 * swing, 0.22 + 0.25 * max(0.0, -swing)
        shoulder = (sign * 0.093 * wide, 0.798 - 0.5 * stoop, 0.8 * stoop)
        elbow = (shoulder[0] + sign * 0.028, shoulder[1] - upper * math.cos(b), shoulder[2] + upper * math.sin(b))
        wrist = (elbow[0] + sign * 0.008, elbow[1] - fore * math.cos(b + e), elbow[2] + fore * math.sin(b + e))
        space |= {
            f"{side}_hip": hip,
            f"{side}_knee": knee,
            f"{side}_ankle": ankle,
            f"{side}_shoulder": shoulder,
            f"{side}_elbow": elbow,
            f"{side}_wrist": wrist,
            f"{side}_toe": (ankle[0] + sign * 0.012, ankle[1] - 0.022, ankle[2] + 0.070),
        }
    drop = min(space["left_ankle"][1], space["right_ankle"][1]) - 0.04  # the lower foot stands on the ground
    turn = math.radians(yaw)
    cos, sin = math.cos(turn), math.sin(turn)
    joints = {}
    for name, (x, y, z) in space.items():
        near = z * cos - x * sin
        joints[name] = (x * cos + z * sin, y - drop - near * math.sin(pitch), near)
    return joints


def _width(turn, half, depth):
    """Half the width of an upright elliptic cylinder, seen at this angle."""
    return math.hypot(half * math.cos(turn), depth * math.sin(turn))


def draw_person(brush: Brush, person: Person, yaw: float, phase: float, pitch: float) -> list[tuple[float, float]]:
    """Draw one clothed walking person with `brush`; returns the 14 KEYPOINTS as a list of canvas (x, y)."""
    joints = pose(person, yaw, phase, pitch)
    turn = math.radians(yaw)
    left_near = joints["left_shoulder"][2] > joints["right_shoulder"][2]
    near, far = ("left", "right") if left_near else ("right", "left")
    sideways = abs(math.sin(turn)) > 0.45
    back = math.cos(turn) < 0
    pack = label(person, "backpack") and (back or sideways)

    _arm(brush, person, joints, far, "_far" if sideways else "")
    if pack and not back:
        _backpack(brush, person, joints, turn)
    if not back:
        _long_hair(brush, person, joints, turn)
    # Legs first the one that is further back; it is darker, which keeps the two apart.
    legs = sorted(("left", "right"), key=lambda side: joints[side + "_ankle"][2] + joints[side + "_knee"][2])
    for side, tone in zip(legs, ("_far", "")):
        _leg(brush, person, joints, side, tone, turn)
    if label(person, "clothes") == 0:
        _skirt(brush, person, joints, turn)
    _torso(brush, person, joints, turn)
    if label(person, "backpack") and math.cos(turn) > 0.35:
        for side in ("left", "right"):
            x, y, _ = joints[side + "_shoulder"]
            x = joints["neck"][0] + 0.62 * (x - joints["neck"][0])
            brush.line("strap", ((x, y + 0.022), (x, y - 0.13)), 0.020)
    _head(brush, person, joints, turn)
    if person.strands and not back:
        _strands(brush, person, joints, turn)
    if pack and back:
        _backpack(brush, person, joints, turn)
    if label(person, "bag"):
        _shoulder_bag(brush, person, joints, turn)
    _arm(brush, person, joints, near, "")
    if label(person, "handbag"):
        _handbag(brush, joints, near if sideways else "right")
    top = (joints["head"][0], joints["head"][1] + 0.062 * person.head)
    return [brush.at(top), *(brush.at(joints[name]) for name in KEYPOINTS[1:])]


def _arm(brush, person, joints, side, tone):
    shoulder, elbow, wrist = (joints[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist"))
    r, sleeve, skin = 0.030 * person.build, "sleeve" + tone, "arm" + tone
    thick = 1.18 if person.coat else 1.0
    brush.blob(skin, (wrist[0], wrist[1] - 0.014), 0.017, 0.021)
    if label(person, "up"):
        brush.limb(skin, elbow, wrist, r * 0.72, r * 0.55)
        brush.limb(skin, shoulder, elbow, r * 0.8, r * 0.72)
        middle = tuple(s + 0.62 * (e - s) for s, e in zip(shoulder, elbow))
        brush.limb(sleeve, shoulder, middle, r * 1.04, r * 1.14)
    else:
        brush.limb(sleeve, elbow, wrist, r * 0.95 * thick, r * 0.78 * thick)
        brush.limb(sleeve, shoulder, elbow, r * 1.06 * thick, r * thick)


def _leg(brush, person, joints, side, tone, turn):
    hip, knee, ankle, toe = (joints[f"{side}_{name}"] for name in ("hip", "knee", "ankle", "toe"))
    r = 0.046 * (0.35 + 0.65 * person.build)
    heel = (ankle[0] - 0.25 * (toe[0] - ankle[0]), ankle[1] - 0.020)
    brush.limb("shoe" + tone, heel, toe, 0.019, 0.017)
    brush.blob("shoe" + tone, (ankle[0], ankle[1] - 0.008), 0.021, 0.022)
    skirt, short = label(person, "clothes") == 0, label(person, "down") == 1
    if skirt or short:
        brush.limb("leg" + tone, knee, (ankle[0], ankle[1] + 0.012), r * 0.72, r * 0.46)
        brush.limb("leg" + tone, hip, knee, r, r * 0.74)
    if short and not skirt:
        end = tuple(h + 0.86 * (k - h) for h, k in zip(hip, knee))
        brush.limb("down" + tone, hip, end, r * 1.12, r * 0.94)
        brush.line("crease", ((end[0] - r * 0.7, end[1] - r * 0.6), (end[0] + r * 0.7, end[1] - r * 0.6)), 0.005)
    elif not skirt:
        brush.limb("down" + tone, knee, (ankle[0], ankle[1] + 0.008), r * 0.84, r * 0.66)
        brush.limb("down" + tone, hip, knee, r * 1.10, r * 0.84)


def _skirt(brush, person, joints, turn):
    x, y, _ = joints["pelvis"]
    half = _width(turn, 0.088, 0.070) * person.build
    length = 0.24 if label(person, "down") else 0.40
    knees = [joints[side + "_knee"][0] for side in ("left", "right")]
    flare = 0.034 if length < 0.3 else 0.045
    left, right = min(x - half, *knees) - flare, max(x + half, *knees) + flare
    hem = y - length
    brush.shape(
        "down",
        (
            (x - half * 0.9, y + 0.09),
            (x + half * 0.9, y + 0.09),
            (x + half * 1.05, y),
            (right, hem + 0.01),
            ((x + right) / 2, hem - 0.008),
            (x, hem),
            ((x + left) / 2, hem - 0.008),
            (left, hem + 0.01),
            (x - half * 1.05, y),
        ),
    )
    for share in (0.3, 0.62):
        fold = (left + share * (right - left), hem + 0.012)
        brush.line("crease", ((x + half * (2 * share - 1), y - 0.04), fold), 0.006)


def _torso(brush, person, joints, turn):
    wide = person.build
    neck, chest, pelvis = joints["neck"], joints["chest"], joints["pelvis"]
    bulk = 1.10 if person.coat else 1.0
    shoulder = _width(turn, 0.112, 0.058) * wide * bulk
    breast = _width(turn, 0.100, 0.068) * wide * bulk
    waist = _width(turn, 0.082 if label(person, "gender") else 0.090, 0.062) * wide * bulk
    hem = _width(turn, 0.094, 0.070) * wide * bulk
    low = pelvis[1] - (0.15 if person.coat else 0.035)
    if person.coat:
        hem *= 1.10
    x0, x1, x2 = neck[0], chest[0], pelvis[0]
    top = neck[1] - 0.004
    brush.limb("neck", (x0, top - 0.01), (joints["head"][0] * 0.6 + x0 * 0.4, top + 0.045), 0.030, 0.026)
    right = [
        (x0 + 0.034, top + 0.004),
        (x0 + shoulder * 0.62, top - 0.012),
        (x0 + shoulder * 0.93, top - 0.034),
        (x0 + shoulder, top - 0.062),
        (x1 + breast, chest[1] - 0.01),
        (x1 * 0.4 + x2 * 0.6 + waist, pelvis[1] + 0.085),
        (x2 + hem, pelvis[1]),
        (x2 + hem * 0.98, low),
    ]
    left = [(2 * middle - x, y) for (x, y), middle in zip(right, (x0, x0, x0, x0, x1, x1 * 0.4 + x2 * 0.6, x2, x2))]
    brush.shape("up", [*right, (x2, low - 0.007), *reversed(left)])
    facing = math.cos(turn)
    if facing > 0.25:  # collar, and what is printed on the chest
        brush.shape("neck", ((x0 - 0.026, top + 0.008), (x0 + 0.026, top + 0.008), (x0, top - 0.028)))
        x, y = x1 + 0.05 * math.sin(turn), chest[1] + 0.02
        if person.coat or label(person, "up") == 0:
            brush.line("seam", ((x0, top - 0.03), (x1, chest[1]), (x2, low)), 0.009)
        if person.texture == "logo":
            brush.blob("logo", (x + 0.035 * facing, y + 0.012), 0.021 * facing + 0.004, 0.021)
        elif person.texture == "print":
            r = 0.048 * facing * wide
            brush.shape(
                "logo", ((x - r, y + 0.035), (x + r, y + 0.035), (x + r * 0.8, y - 0.05), (x - r * 0.8, y - 0.05))
            )
            brush.blob("up", (x, y - 0.004), r * 0.45, 0.022)
    if person.scarf:
        brush.limb("scarf", (x0 - 0.030, top + 0.012), (x0 + 0.030, top + 0.012), 0.026, 0.026)
        if facing > 0:
            brush.limb("scarf", (x0 + 0.02, top), (x0 + 0.03, top - 0.12), 0.017, 0.019)


def _head(brush, person, joints, turn):
    x, y, _ = joints["head"]
    size = person.head
    rx, ry = _width(turn, 0.047, 0.056) * size, 0.066 * size
    sin, cos = math.sin(turn), math.cos(turn)
    style, hair = person.hair_style, person.hair_style != "bald"
    long = label(person, "hair") == 1
    if cos < -0.35:  # seen from behind: hair all over
        if hair:
            brush.blob("neck", (x, y - 0.02 * size), rx * 0.9, ry * 0.85)
            brush.blob("hair", (x, y + 0.006 * size), rx * 1.08, ry * (1.03 if long else 0.98))
            brush.blob("hair_light", (x - rx * 0.15, y + ry * 0.42), rx * 0.55, ry * 0.26)
        else:
            brush.blob("head", (x, y), rx, ry)
            brush.line("hair", ((x - rx * 0.9, y - ry * 0.2), (x, y - ry * 0.45), (x + rx * 0.9, y - ry * 0.2)), 0.022)
        _long_hair(brush, person, joints, turn)
    else:
        if hair:
            wide, high = {"curly": (1.18, 1.08), "bob": (1.16, 1.02)}.get(style, (1.06, 1.02))
            brush.blob("hair", (x - 0.012 * sin, y + 0.010 * size), rx * wide, ry * high)
        face = x + 0.014 * sin * size
        brush.blob("head", (face, y - 0.008 * size), rx * (0.90 - 0.12 * abs(sin)), ry * 0.90)
        if abs(sin) > 0.35:  # nose, and hair behind the ear
            brush.blob("head", (face + math.copysign(rx * 0.80, sin), y - 0.012), 0.010, 0.011)
            if hair:
                brush.blob("hair", (x - math.copysign(rx * 0.42, sin), y + ry * 0.14), rx * 0.62, ry * 0.80)
        if hair:  # the fringe
            drop = {"parted": 0.40, "crop": 0.55, "curly": 0.42, "straight": 0.38, "pony": 0.50, "bob": 0.30}[style]
            brush.cap("hair", (x - 0.006 * sin, y + 0.012 * size), rx * 1.06, ry, 25 * drop)
            brush.blob("hair_light", (x - rx * 0.2, y + ry * 0.78), rx * 0.40, ry * 0.12)
        for side in (-0.42, 0.42):
            offset = side * cos + 0.70 * sin
            if abs(offset) < 0.95:
                brush.blob("face", (face + offset * rx * 0.8, y - 0.006 * size), 0.0042, 0.0062)
        if abs(sin) < 0.8:
            brush.line(
                "cheek",
                ((face + 0.5 * sin * rx - 0.012, y - 0.040 * size), (face + 0.5 * sin * rx + 0.012, y - 0.040 * size)),
                0.007,
            )
    if label(person, "hat"):
        brush.cap("hat", (x, y + 0.016 * size), rx * 1.16, ry * 1.06)
        front, half = x + sin * rx * 0.9, rx * (1.05 - 0.4 * abs(sin))
        if not person.cap:  # a woollen hat: a turned-up edge and a bobble
            brush.limb("brim", (x - rx, y + 0.020 * size), (x + rx, y + 0.020 * size), 0.012, 0.012)
            brush.blob("brim", (x, y + 0.088 * size), 0.014, 0.014)
        elif cos > -0.35:
            brush.limb("brim", (front - half, y + 0.018 * size), (front + half, y + 0.018 * size), 0.009, 0.009)


def _long_hair(brush, person, joints, turn):
    """What hangs down from the head; behind the face, and over the back."""
    x, y, _ = joints["head"]
    sin, back = math.sin(turn), math.cos(turn) < -0.35
    rx = 0.050 * person.head
    x -= 0.030 * sin
    if person.hair_style == "straight":
        low = y - 0.165
        brush.shape(
            "hair",
            (
                (x - rx * 1.1, y + 0.02),
                (x + rx * 1.1, y + 0.02),
                (x + rx * 1.25, y - 0.08),
                (x + rx * 0.95, low),
                (x, low - 0.008),
                (x - rx * 0.95, low),
                (x - rx * 1.25, y - 0.08),
            ),
        )
    elif person.hair_style == "bob":
        brush.blob("hair", (x, y - 0.030), rx * 1.22, 0.058)
    elif person.hair_style == "pony" and (back or abs(sin) > 0.4):
        x -= 0.030 * sin
        brush.limb("hair", (x, y + 0.005), (x - 0.020 * sin, y - 0.13), 0.024, 0.012)


def _strands(brush, person, joints, turn):
    """Long hair on both sides of the face, down to the chest."""
    x, y, _ = joints["head"]
    for side in (-1, 1):
        beside = x + side * 0.050 * person.head * math.cos(turn) - 0.020 * math.sin(turn)
        brush.limb("hair", (beside, y), (beside, y - 0.17), 0.016 * person.strands, 0.012 * person.strands)


def _backpack(brush, person, joints, turn):
    x = joints["chest"][0] - 0.085 * math.sin(turn)
    y = joints["chest"][1]
    half = _width(turn, 0.080, 0.050)
    brush.shape(
        "backpack",
        (
            (x - half, y + 0.075),
            (x - half * 0.7, y + 0.100),
            (x + half * 0.7, y + 0.100),
            (x + half, y + 0.075),
            (x + half * 1.05, y - 0.100),
            (x + half * 0.8, y - 0.125),
            (x - half * 0.8, y - 0.125),
            (x - half * 1.05, y - 0.100),
        ),
    )
    if math.cos(turn) < 0.3:
        brush.limb("pocket", (x - half * 0.45, y - 0.065), (x + half * 0.45, y - 0.065), 0.034, 0.034)
        brush.line("pocket", ((x - half * 0.9, y + 0.04), (x + half * 0.9, y + 0.04)), 0.008)


def _shoulder_bag(brush, person, joints, turn):
    """It hangs at the person's left hip; from the other side only the strap is seen."""
    hip, shoulder = joints["left_hip"], joints["right_shoulder"]
    out = math.cos(turn) * 0.065 * person.build
    x, y = hip[0] + out, hip[1] + 0.005
    top = (joints["neck"][0] + 0.7 * (shoulder[0] - joints["neck"][0]), shoulder[1] + 0.022)
    brush.line("bag_strap", (top, (x, y + 0.05)), 0.016)
    if math.sin(turn) < 0.6:
        half = _width(turn, 0.032, 0.062)
        brush.shape(
            "bag",
            ((x - half, y + 0.048), (x + half, y + 0.048), (x + half * 1.08, y - 0.060), (x - half * 1.08, y - 0.060)),
        )
        brush.line("bag_strap", ((x - half, y + 0.012), (x + half, y + 0.012)), 0.010)


def _handbag(brush, joints, side):
    x, y, _ = joints[side + "_wrist"]
    y -= 0.025
    brush.line("handle", ((x - 0.026, y - 0.055), (x, y), (x + 0.026, y - 0.055)), 0.009)
    brush.shape(
        "handbag", ((x - 0.038, y - 0.050), (x + 0.038, y - 0.050), (x + 0.050, y - 0.130), (x - 0.050, y - 0.130))
    )
