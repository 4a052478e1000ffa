"""True flow: what a frame shows is where the flow says in the next one; the geometry against slow loops."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reidnb import synthetic
from reidnb.datasets import flow
from reidnb.datasets.tracklets import open_video, walks
from reidnb.synthetic import picture

SMALL = {"people": 6, "cameras": 3, "strangers": 3, "frames": (4, 8), "train_identities": 10, "test_identities": 8}
SMALL |= {"distractors": 0, "junk": 0}


@pytest.fixture(scope="module")
def planned():
    return walks(**SMALL)


def neighbours(planned):
    """(world, frame, next frame) of all tracklets of training in which the same person is in both boxes."""
    world, halves = planned
    for walk in halves["train"]:
        for shot, after in zip(walk, walk[1:]):
            if shot.subject == after.subject:
                yield world, shot, after


def picture_of(world, shot):
    return np.float32(synthetic.draw(world, shot).image.transpose(2, 0, 1))


def test_what_is_drawn_in_numbers_is_what_is_drawn_in_colours(planned):
    world, halves = planned
    occluder = synthetic.PARTS.index("occluder")
    for shot in [walk[0] for half in halves.values() for walk in half]:
        mask, (numbers, names) = synthetic.draw(world, shot).mask, flow.stroke_numbers(world, shot)
        role = {number: name[0] for name, (number, _, _) in names.items()}
        wanted = {"person": (mask > 0) & (mask < occluder), "walker": mask == occluder, "thing": mask == occluder}
        for which, where in wanted.items():
            if which == "person" or which in role.values():
                assert (np.isin(numbers, [n for n, who in role.items() if who == which]) == where).all()


def test_the_box_in_the_scene_is_the_world_s(planned):
    world, halves = planned
    for shot in [walk[0] for walk in halves["train"]]:
        left, top, tall = flow.view(world, shot)
        scene, found = picture._background(world, world.cameras[shot.camid], shot)
        assert tall == found
        whole = picture.panorama(world.place, world.domain, world.cameras[shot.camid], world.size)
        mine = whole.resize(scene.size, picture.Image.Resampling.BILINEAR, box=(left, top, left + tall / 2, top + tall))
        assert (np.asarray(mine) == np.asarray(scene)).all()


def test_brought_back_the_next_frame_is_this_one(planned):
    """On pixels of the person that are still seen: much nearer than the next frame as it is."""
    moved, kept = [], []
    for world, shot, after in neighbours(planned):
        found = flow.true_flow(world, shot, after)
        where = found.body & found.stays
        here, there = picture_of(world, shot), picture_of(world, after)
        if where.sum() > 100:
            moved.append(np.abs(here - flow.warp(there, found.pixels))[:, where].mean())
            kept.append(np.abs(here - there)[:, where].mean())
    assert len(kept) > 30 and np.mean(moved) < 0.75 * np.mean(kept)
    assert np.mean(np.array(moved) < kept) > 0.85


def test_a_still_person_under_a_shifting_box_moves_as_one(planned):
    world, halves = planned
    shot = replace(halves["train"][0][0], occluder="", company=0.0, dx=0.0, dy=0.0, scale=1.0, x=0.5, y=0.8)
    found = flow.true_flow(world, shot, replace(shot, dx=0.05, dy=-0.03))
    assert found.known.all() and found.body.any() and not found.body.all()
    np.testing.assert_allclose(found.pixels, np.broadcast_to([0.05 * 32, -0.03 * 64], (64, 32, 2)), atol=1e-4)
    still = flow.true_flow(world, shot, shot)
    assert np.abs(still.pixels).max() < 1e-5 and still.stays.all()


def test_legs_swing_against_each_other(planned):
    """Seen from the side, around the moment when the legs pass: one foot goes forward on the picture, one back."""
    world, halves = planned
    shot = replace(halves["train"][0][0], occluder="", company=0.0, dx=0.0, dy=0.0, scale=1.0, yaw=90.0, phase=-0.3)
    (_, mine), (_, theirs) = (flow.stroke_numbers(world, replace(shot, phase=phase)) for phase in (-0.3, 0.3))
    name = next(name for name in mine if name[2:4] == ("limb", "shoe"))
    sides = {}
    for side in ("left", "right"):
        own = (*name[:4], side, name[5])
        sides[side] = (theirs[own][1] - mine[own][1])[:, 0].mean()
    assert sides["left"] * sides["right"] < 0 and abs(sides["left"]) > 2
    for side in sides:  # the hand is its own arm's
        hand = mine[(*name[:2], "blob", "arm", side, 0)][1].mean(0)
        arms = [mine[key][1] for key in mine if key[2] == "limb" and key[3] in ("arm", "sleeve")]
        own = [mine[key][1] for key in mine if key[2] == "limb" and key[3] in ("arm", "sleeve") and key[4] == side]
        nearest = [min(np.hypot(*(ends - hand).T).min() for ends in some) for some in (own, arms)]
        assert nearest[0] == nearest[1] < 2


def test_back_again(planned):
    """From the next frame to this one: where it stays in sight, the opposite way."""
    total = []
    for world, shot, after in list(neighbours(planned))[:20]:
        there, back = flow.true_flow(world, shot, after), flow.true_flow(world, after, shot)
        rows, columns = np.nonzero(there.stays & there.body)
        ends = np.floor(np.stack([columns, rows], 1) + 0.5 + there.pixels[rows, columns]).astype(int)
        total.append(there.pixels[rows, columns] + back.pixels[ends[:, 1], ends[:, 0]])
    assert np.abs(np.concatenate(total)).mean() < 0.2


def test_somebody_else_has_no_counterpart(planned):
    world, halves = planned
    shot = halves["train"][0][0]
    other = next(walk[0].pid for walk in halves["train"] if walk[0].pid != shot.pid)
    found = flow.true_flow(world, shot, replace(shot, subject=other))
    assert found.body.any() and not found.known[found.body].any() and not found.stays[found.body].any()
    assert (found.pixels[~found.known] == 0).all()
    nobody = flow.true_flow(world, replace(shot, subject=-1, occluder="", company=0.0), shot)
    assert not nobody.body.any() and nobody.known.all()


def test_a_hidden_person_and_two_cameras(planned):
    world, halves = planned
    shot = replace(halves["train"][0][0], occluder="pillar", occluder_x=0.5, occluder_height=1.0, company=0.0)
    shot = replace(shot, dx=0.0, scale=0.3)  # a small person, wholly behind the pillar
    hidden = flow.true_flow(world, shot, replace(shot, occluder_x=0.6))
    assert not hidden.body.any()
    assert np.isclose(hidden.pixels[..., 0], 0.1 * 32, atol=1e-4).mean() > 0.25
    with pytest.raises(ValueError, match="cameras"):
        flow.true_flow(world, shot, replace(shot, camid=shot.camid + 1))


def test_all_frames_of_tracklets_in_order(planned):
    world, halves = planned
    some = [halves["train"][0], halves["train"][1][:1], [], halves["train"][2]]
    found, known = flow.flows_of(world, some)
    assert found.shape == (sum(map(len, some)), 64, 32, 2) and known.shape == found.shape[:3]
    row = 0
    for walk in some:
        for i, shot in enumerate(walk):
            if i + 1 < len(walk):
                one = flow.true_flow(world, shot, walk[i + 1])
                assert (known[row] == one.known).all() and (found[row] == one.pixels.astype(np.float16)).all()
            else:
                assert not known[row].any() and not found[row].any()
            row += 1


def test_the_plan_is_that_of_the_video(cache):
    video, (world, halves) = open_video(size=(32, 16), **SMALL), walks(size=(32, 16), **SMALL)
    for part, half in ((video.train, "train"), (video.gallery, "test")):
        assert [len(walk) for walk in halves[half]] == part.lengths.tolist()
        for i in (0, len(part) - 1):
            assert (part.frames(i)[-1] == picture_of(world, halves[half][i][-1])).all()
    with pytest.raises(ValueError, match="mars was filmed"):
        walks("mars")


# ------------------------------------------------------------------------------------------------------- the geometry


def by_hand(before, after, places, soft):
    """The smallest sum of squares, pulled towards the identity, by normal equations written out."""
    n = len(before)
    mx, my = sum(p[0] for p in before) / n, sum(p[1] for p in before) / n
    kx, ky = sum(p[0] for p in after) / n, sum(p[1] for p in after) / n
    xx = sum((p[0] - mx) ** 2 for p in before) / n + soft
    yy = sum((p[1] - my) ** 2 for p in before) / n + soft
    xy = sum((p[0] - mx) * (p[1] - my) for p in before) / n
    found = []
    for x, y in places:
        goes = []
        for axis, middle in ((0, kx), (1, ky)):
            rx = sum((q[axis] - middle) * (p[0] - mx) for p, q in zip(before, after)) / n + soft * (axis == 0)
            ry = sum((q[axis] - middle) * (p[1] - my) for p, q in zip(before, after)) / n + soft * (axis == 1)
            ax, ay = (rx * yy - ry * xy) / (xx * yy - xy * xy), (ry * xx - rx * xy) / (xx * yy - xy * xy)
            goes.append(ax * (x - mx) + ay * (y - my) + middle)
        found.append(goes)
    return found


points = st.lists(st.tuples(*[st.floats(-20, 20)] * 4), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(points, st.floats(0.01, 1))
def test_affine_motion_by_hand(both, soft):
    before, after = np.array(both)[:, :2], np.array(both)[:, 2:]
    A, b = flow.affine(before, after, soft)
    places = np.array([(0.0, 0.0), (3.0, -2.0), (-7.5, 11.0)])
    np.testing.assert_allclose(places @ A.T + b, by_hand(before, after, places, soft), rtol=1e-5, atol=1e-5)


def test_known_motions():
    square = np.array([(0, 0), (10, 0), (0, 10), (10, 10.0)])
    turn = np.array([(0.8, -0.6), (0.6, 0.8)])
    A, b = flow.affine(square, square @ turn.T + (2, 3), soft=1e-9)
    np.testing.assert_allclose(A, turn, atol=1e-6)
    np.testing.assert_allclose(b, (2, 3), atol=1e-6)
    A, b = flow.affine(square[:1], square[:1] + (4, 5))  # a single point: it is moved, and does not turn
    np.testing.assert_allclose(A, np.eye(2), atol=1e-9)
    np.testing.assert_allclose(b, (4, 5), atol=1e-9)


def test_warp_by_hand():
    rng = np.random.default_rng(0)
    image, move = rng.random((2, 6, 4)), rng.uniform(-2, 2, (6, 4, 2))
    found = flow.warp(image, move)
    for y in range(6):
        for x in range(4):
            at = [np.clip(x + move[y, x, 0], 0, 3), np.clip(y + move[y, x, 1], 0, 5)]
            (i, j), (u, v) = np.floor(at).astype(int), np.mod(at, 1)
            i2, j2 = min(i + 1, 3), min(j + 1, 5)
            wanted = (1 - v) * ((1 - u) * image[:, j, i] + u * image[:, j, i2])
            wanted += v * ((1 - u) * image[:, j2, i] + u * image[:, j2, i2])
            np.testing.assert_allclose(found[:, y, x], wanted, atol=1e-5)
