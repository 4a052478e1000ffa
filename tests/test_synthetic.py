"""The built-in world: Market-1501's rules, ground truth that agrees with the pictures, and dials that do something."""

import csv
import hashlib
import math
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reidnb import synthetic
from reidnb.synthetic import ATTRIBUTES, KEYPOINTS, PARTS, Dials

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"^(-1|\d{4})_c(\d+)s(\d)_(\d{6})_(\d{2})\.jpg$")
SMALL = {"seed": 3, "train_identities": 24, "test_identities": 24, "distractors": 30, "junk": 20}


@pytest.fixture(scope="module")
def world():
    return synthetic.make_world(**SMALL)


def every_shot(world):
    return [shot for shots in world.shots.values() for shot in shots]


def small_world(**dials):
    return synthetic.make_world(**{**SMALL, "size": (64, 32)}, dials=Dials(**dials))


# ---- determinism ----------------------------------------------------------------------------------------------

DIGEST = """
import hashlib
from reidnb import synthetic
world = synthetic.make_world(seed=3, train_identities=24, test_identities=24, distractors=30, junk=20)
shots = [shot for shots in world.shots.values() for shot in shots][::40]
print(hashlib.sha256(b"".join(synthetic.draw(world, shot).image.tobytes() for shot in shots)).hexdigest())
"""


def test_another_process_draws_the_same_bytes(world):
    shots = every_shot(world)[::40]
    here = hashlib.sha256(b"".join(synthetic.draw(world, shot).image.tobytes() for shot in shots)).hexdigest()
    there = subprocess.run([sys.executable, "-c", DIGEST], cwd=ROOT, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_order_of_drawing_does_not_matter(world):
    shots = every_shot(world)[::50]
    forward = [synthetic.draw(world, shot) for shot in shots]
    backward = [synthetic.draw(world, shot) for shot in reversed(shots)][::-1]
    for first, second in zip(forward, backward):
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.mask, second.mask)
        np.testing.assert_array_equal(first.keypoints, second.keypoints)


def test_seed_and_domain_change_the_world(world):
    again = synthetic.make_world(**SMALL)
    assert again == world
    assert synthetic.make_world(**{**SMALL, "seed": 4}).people != world.people
    other = synthetic.make_world(**SMALL, domain=1)
    assert other.people != world.people
    assert {camera.scene for camera in other.cameras[:3]}.isdisjoint({camera.scene for camera in world.cameras[:3]})


# Mean colours of the upper and the lower half. Two levels of tolerance: JPEG and resampling may round differently
# from one Pillow to the next, which moves single pixels by a few levels and a mean by far less than one.
GOLDEN = {
    "train": [[171.1, 164.2, 132.9], [182.4, 164.1, 145.1]],
    "query": [[168.2, 160.1, 161.8], [158.8, 168.9, 172.1]],
    "gallery": [[121.0, 126.8, 121.6], [186.4, 188.6, 191.5]],
}
# From the first to the second calibration dial 1 meant what 1.5 means now.
GOLDEN_NOW = {
    "train": [[166.7, 162.0, 129.0], [181.6, 164.0, 144.5]],
    "query": [[166.0, 158.8, 161.1], [156.5, 166.0, 169.5]],
    "gallery": [[121.1, 126.8, 121.6], [186.4, 188.6, 191.5]],
}


@pytest.mark.parametrize("split", ["train", "query", "gallery"])
@pytest.mark.parametrize("dial, golden", [(1.5, GOLDEN), (1.0, GOLDEN_NOW)], ids=["then", "now"])
def test_golden_colours(dial, golden, split):
    world = synthetic.make_world(**SMALL, dials=Dials(misalignment=dial, occlusion=dial))
    image = synthetic.draw(world, world.shots[split][5]).image.astype(float)
    halves = [half.mean((0, 1)) for half in np.split(image, 2)]
    np.testing.assert_allclose(halves, golden[split], atol=2)


# ---- Market-1501's rules --------------------------------------------------------------------------------------


def test_default_world_is_planned_quickly_and_completely():
    world = synthetic.make_world()
    pids = {split: {shot.pid for shot in shots} for split, shots in world.shots.items()}
    assert len(pids["train"]) == 240 and len(pids["query"]) == 200
    assert pids["train"].isdisjoint(pids["query"] | pids["gallery"])
    assert pids["gallery"] == pids["query"] | {0, -1}
    assert pids["train"] | pids["query"] == set(range(1, 441))
    assert sum(shot.pid == 0 for shot in world.shots["gallery"]) == 500
    assert sum(shot.pid == -1 for shot in world.shots["gallery"]) == 200
    known = [shot for shot in every_shot(world) if shot.pid > 0]
    assert 10 < len(known) / 440 < 14


def test_cameras_and_images_of_each_identity(world):
    seen = {}
    for shot in every_shot(world):
        if shot.pid > 0:
            seen.setdefault(shot.pid, {}).setdefault(shot.camid, []).append(shot)
    for cameras in seen.values():
        assert 3 <= len(cameras) <= 6
        assert all(1 <= len(shots) <= 5 for shots in cameras.values())


@pytest.mark.parametrize("cameras", [2, 3, 12])
def test_every_query_has_a_match_from_another_camera(cameras):
    world = synthetic.make_world(**{**SMALL, "cameras": cameras})
    gallery = {(shot.pid, shot.camid) for shot in world.shots["gallery"]}
    queries = [(shot.pid, shot.camid) for shot in world.shots["query"]]
    assert len(set(queries)) == len(queries)  # one query for each person and camera
    for pid, camid in queries:
        assert any(p == pid and c != camid for p, c in gallery)


def test_file_names(world):
    names = [synthetic.file_name(shot) for shot in every_shot(world)]
    assert len(set(names)) == len(names)
    for shot, name in zip(every_shot(world), names):
        pid, camera, *_ = NAME.match(name).groups()
        assert (int(pid), int(camera)) == (shot.pid, shot.camid + 1)
    for shots in world.shots.values():
        assert [synthetic.file_name(shot) for shot in shots] == sorted(synthetic.file_name(shot) for shot in shots)


def test_tracklets_move_smoothly(world):
    tracks = {}
    for shot in every_shot(world):
        tracks.setdefault(shot.tracklet, []).append(shot)
    for track in tracks.values():
        track.sort(key=lambda shot: shot.frame)
        assert [shot.frame for shot in track] == list(range(len(track)))
        for before, after in pairwise(track):
            for name in ("pid", "camid", "yaw", "occluder", "stranger"):
                assert getattr(before, name) == getattr(after, name)
            assert 0.4 < after.phase - before.phase < 1.0
            assert abs(after.x - before.x) < 0.02 and abs(after.y - before.y) < 0.02
            assert abs(after.occluder_x - before.occluder_x) < 0.13


def test_occlusion_varies_within_a_tracklet(world):
    shots = [shot for shot in world.shots["train"] if shot.occluder == "walker"]
    values = {}
    for shot in shots:
        values.setdefault(shot.tracklet, []).append(synthetic.draw(world, shot).occlusion)
    assert any(len(set(v)) > 1 for v in values.values())


# ---- attributes -----------------------------------------------------------------------------------------------


def test_attributes_are_valid(world):
    assert len(ATTRIBUTES) == 27
    for person in world.people:
        values = synthetic.attributes(world, person.pid)
        assert values.dtype == np.int64 and values.shape == (27,)
        assert 0 <= values[0] <= 3 and set(values[1:].tolist()) <= {0, 1}
        assert values[10:18].sum() == 1 and values[18:27].sum() == 1
    for nobody in (0, -1):
        assert (synthetic.attributes(world, nobody) == -1).all()
    with pytest.raises(KeyError, match="pid 999"):
        synthetic.attributes(world, 999)


def frequencies(**dials):
    world = synthetic.make_world(train_identities=600, test_identities=0, distractors=0, junk=0, dials=Dials(**dials))
    table = np.array([person.labels for person in world.people])
    return dict(zip(ATTRIBUTES, (table > 0).mean(0)))


def test_frequencies_follow_the_dials():
    balanced, market, extreme = (frequencies(attribute_imbalance=dial, lookalikes=0) for dial in (0, 1, 2))
    # 600 draws: the standard deviation of a share is at most 0.0204, so 0.07 is more than three of them.
    for name, share in (("hat", 0.029), ("backpack", 0.257), ("clothes", 0.871), ("up", 0.944), ("upwhite", 0.32)):
        assert market[name] == pytest.approx(share, abs=0.07), name
    assert balanced["hat"] == pytest.approx(0.5, abs=0.07)
    assert balanced["upgreen"] == pytest.approx(1 / 8, abs=0.07)
    assert extreme["hat"] < market["hat"] < balanced["hat"]
    assert extreme["handbag"] < market["handbag"] < balanced["handbag"]


def test_season_changes_the_wardrobe():
    summer, winter = (frequencies(season=dial) for dial in (0, 2))
    assert summer["up"] > 0.9 and winter["up"] < 0.3  # short sleeves
    assert summer["down"] > 0.85 and winter["down"] < 0.2  # shorts
    assert winter["hat"] > 4 * summer["hat"]


def test_dials_change_clothes_and_not_people(world):
    winter = synthetic.make_world(**SMALL, dials=Dials(season=2, attribute_imbalance=1, occlusion=2))
    body = ATTRIBUTES.index("gender")
    assert [person.labels[body] for person in winter.people] == [person.labels[body] for person in world.people]
    assert [person.skin for person in winter.people] == [person.skin for person in world.people]
    assert [shot.phase for shot in winter.shots["query"]] == [shot.phase for shot in world.shots["query"]]


def test_lookalikes_share_their_clothes():
    def twins(dial):
        people = synthetic.make_world(**SMALL, dials=Dials(lookalikes=dial)).people
        return len(people) - len({person.up for person in people})

    assert twins(0) == 0 and 0 < twins(1) < twins(2)


# ---- drawings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (256, 128)])
def test_drawing_shapes(size):
    world = synthetic.make_world(**{**SMALL, "size": size})
    drawing = synthetic.draw(world, world.shots["train"][0])
    assert drawing.image.shape == (*size, 3) and drawing.image.dtype == np.uint8
    assert drawing.mask.shape == size and drawing.mask.dtype == np.uint8 and drawing.mask.max() < len(PARTS)
    assert drawing.keypoints.shape == (14, 3) and drawing.keypoints.dtype == np.float32
    assert drawing.image.flags.writeable and 0 <= drawing.occlusion <= 1


def test_masks_and_keypoints_agree(world):
    assert len(KEYPOINTS) == 14
    head = {PARTS.index(name) for name in ("head", "hair", "hat")}
    legs = {PARTS.index(name) for name in ("legs", "shoes", "torso")}
    on_leg = []
    for shot in world.shots["train"][::3]:
        drawing = synthetic.draw(world, shot)
        for (x, y, visible), name in zip(drawing.keypoints, KEYPOINTS):
            if not visible:
                continue
            part = int(drawing.mask[int(y), int(x)])
            assert part not in (0, PARTS.index("occluder"))
            if name == "head_top":
                assert part in head
            if name.endswith("knee"):
                on_leg.append(part in legs)
    assert np.mean(on_leg) > 0.8  # an arm or a bag may swing before a knee


def test_bad_boxes(world):
    gallery = world.shots["gallery"]
    nobody = [synthetic.draw(world, shot) for shot in gallery if shot.pid == 0 and shot.subject == -1]
    assert nobody and all(drawing.keypoints[:, 2].sum() == 0 for drawing in nobody)
    assert all(set(np.unique(drawing.mask)) <= {0, PARTS.index("occluder")} for drawing in nobody)
    junk = [synthetic.draw(world, shot) for shot in gallery if shot.pid == -1]
    assert all(drawing.keypoints[:, 2].sum() <= 11 for drawing in junk)


# ---- dials ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-0.1, 2.5, math.nan, "1", None, True])
def test_dials_are_validated(value):
    with pytest.raises(ValueError, match=r"occlusion=.* from 0 to 2"):
        Dials(occlusion=value)


def share_cut(world):
    """The share of shots whose head or feet lie outside the box."""
    cut = []
    for shot in world.shots["train"][::3]:
        points = synthetic.draw(world, shot).keypoints[[0, 12, 13], :2]
        cut.append(bool((points < 0).any() or (points > (world.size[1], world.size[0])).any()))
    return np.mean(cut)


def test_misalignment():
    perfect, usual, severe = (share_cut(small_world(misalignment=dial)) for dial in (0, 1, 2))
    assert perfect == 0
    assert 0.03 < usual < severe and severe > 0.2


def test_occlusion():
    def hidden(dial):
        world = small_world(occlusion=dial)
        return np.array([synthetic.draw(world, shot).occlusion for shot in world.shots["train"][::3]])

    none, usual, much = hidden(0), hidden(1), hidden(2)
    assert (none == 0).all()
    assert 0.005 < usual.mean() < much.mean()
    assert (much > 0.1).mean() > (usual > 0.1).mean()


def test_camera_bias():
    def spread(dial):
        """How far one shirt's mean colour moves between cameras, in levels."""
        world = small_world(camera_bias=dial, occlusion=0, misalignment=0)
        shot = replace(world.shots["train"][0], yaw=0.0, company=0.0)
        colours = []
        for camera in world.cameras:
            drawing = synthetic.draw(world, replace(shot, camid=camera.camid))
            colours.append(drawing.image[drawing.mask == PARTS.index("torso")].mean(0))
        return np.std(colours, axis=0).max()

    # Without bias only the light's side, distance and JPEG differ, which moves a mean by a few levels.
    assert spread(0) < 5 < spread(1) < spread(2)


# ---- on disk --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    return synthetic.make_world(seed=1, train_identities=2, test_identities=2, distractors=3, junk=3, size=(64, 32))


def test_market1501_round_trip(tiny, tmp_path, capsys):
    folder = synthetic.write_market1501(tiny, tmp_path / "world")
    assert "pictures written" in capsys.readouterr().out
    folders = {"train": "bounding_box_train", "gallery": "bounding_box_test", "query": "query"}
    for split, name in folders.items():
        shots = tiny.shots[split]
        assert sorted(path.name for path in (folder / name).iterdir()) == [synthetic.file_name(shot) for shot in shots]
        image = np.asarray(Image.open(folder / name / synthetic.file_name(shots[0])), int)
        # JPEG at quality 92 moves a pixel by a few levels; a mean over the picture of 3 would be another picture.
        assert np.abs(image - synthetic.draw(tiny, shots[0]).image).mean() < 3
    with open(folder / "ground_truth.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(every_shot(tiny))
    row = next(row for row in rows if row["split"] == "train")
    assert [int(row[name]) for name in ATTRIBUTES] == synthetic.attributes(tiny, int(row["pid"])).tolist()
    synthetic.write_market1501(tiny, folder, progress=False)  # the same world may be written again
    assert capsys.readouterr().out == ""
    assert not list(folder.rglob("*.part"))


def test_write_refuses_other_folders(tiny, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not a synthetic world"):
        synthetic.write_market1501(tiny, tmp_path, progress=False)
    folder = synthetic.write_market1501(tiny, tmp_path / "one", progress=False)
    with pytest.raises(FileExistsError, match="another synthetic world"):
        synthetic.write_market1501(replace(tiny, seed=2), folder, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (128, 128)}, "height = 2 x width"),
        ({"cameras": 1}, "at least 2 cameras"),
        ({"junk": -1}, "junk=-1"),
        ({"train_identities": 0, "test_identities": 0}, "somebody"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"seed": True}, "seed=True"),
        ({"domain": None}, "domain=None"),
        ({"cameras": "6"}, "cameras='6'"),
        *(
            ({"size": size}, "wanted .height, width.")
            for size in (64, None, "ab", (128,), (128, 64, 3), (30, 15), (1024, 512))
        ),
    ],
)
def test_impossible_worlds(changes, message):
    with pytest.raises(ValueError, match=message):
        synthetic.make_world(**changes)


def test_the_world_needs_nothing_of_the_rest():
    """It could be a package of its own: of reidnb only its own files are loaded, and neither torch nor pandas."""
    code = "import sys; from reidnb import synthetic; print(*sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = ran.stdout.split()
    assert not [name for name in loaded if name.startswith("reidnb.") and not name.startswith("reidnb.synthetic")]
    assert not {"torch", "pandas", "joblib", "scipy", "matplotlib"} & set(loaded)


def test_swapped_people_wear_anothers_two_colours_the_other_way_round():
    def people(dial):
        return synthetic.make_world(**SMALL | {"test_identities": 30}, dials=Dials(swapped=dial)).people

    def pairs(found):
        worn = [name for name in synthetic.ATTRIBUTES if name.startswith(("up", "down")) and name not in ("up", "down")]
        rest = [n for n in synthetic.ATTRIBUTES if n not in (*worn, "age", "hair", "gender")]
        looks = [dict(zip(synthetic.ATTRIBUTES, person.labels, strict=True)) for person in found]
        return sum(
            a["up" + c] == b["down" + c] == 1 and b["up" + d] == a["down" + d] == 1 and all(a[n] == b[n] for n in rest)
            for i, a in enumerate(looks)
            for b in looks[:i]
            for c in ("black", "white", "blue", "gray", "green", "purple", "yellow")
            for d in ("black", "white", "blue", "gray", "green", "purple", "yellow")
            if c != d
        )

    assert people(0.0) == synthetic.make_world(**SMALL | {"test_identities": 30}).people, "off is as it was"
    assert pairs(people(2.0)) > pairs(people(0.0)) + 5
    worn = [(p.up, p.down, p.texture, p.trim, p.shoes, p.hat) for p in people(2.0)]
    pairs_of_shades = {(a, b) for a, b in ((w[:2], w[1::-1]) for w in worn) if b in {w[:2] for w in worn}}
    assert len(pairs_of_shades) > 8, "to the shade"
    plain = [(p.up, p.down, p.texture, p.trim, p.shoes, p.hat) for p in people(0.0)]
    twins = [len(looks) - len({*looks}) for looks in (worn, plain)]
    assert twins[0] <= twins[1], "nobody becomes somebody's twin"
    for p in people(2.0):
        for garment in ("up", "down"):
            named = [n for n in synthetic.ATTRIBUTES if n.startswith(garment) and n != garment]
            assert sum(p.labels[synthetic.ATTRIBUTES.index(n)] for n in named) == 1
    with pytest.raises(ValueError, match=r"dial swapped=3.*from 0 to 2 \(0 is the default\)"):
        Dials(swapped=3)


def test_cues_show_hair_from_the_front_and_part_the_widths_of_women_and_men():
    few, hair = SMALL | {"test_identities": 30}, PARTS.index("hair")
    plain, plainer = (synthetic.make_world(**few, dials=Dials(cues=dial)) for dial in (0.0, 1.0))
    assert plain.people == synthetic.make_world(**few).people and all(p.strands == 0 for p in plain.people)
    for a, b in zip(plain.people, plainer.people, strict=True):
        female, long = (a.labels[ATTRIBUTES.index(name)] == 1 for name in ("gender", "hair"))
        assert (b.build < a.build) == female and (b.strands > 0) == long
        assert replace(b, build=a.build, strands=0.0) == a, "nothing else of a person changes"
    seen = {}  # pixels of hair in front views, of the long-haired and of the others
    for world in (plain, plainer):
        front = [shot for shot in world.shots["train"] if shot.view == "front"]
        pixels = [(synthetic.draw(world, shot).mask == hair).sum() for shot in front]
        long = np.array([synthetic.attributes(world, shot.pid)[ATTRIBUTES.index("hair")] == 1 for shot in front])
        seen[world.dials.cues] = [np.sum(pixels, where=those) for those in (long, ~long)]
    assert seen[1.0][0] > 1.3 * seen[0.0][0], "hair falls over the chest"
    # a head scales with the picture's box, which a broader body widens
    assert abs(seen[1.0][1] - seen[0.0][1]) < 0.1 * seen[0.0][1]
