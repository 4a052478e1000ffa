"""Parts that follow the body: each geometry against loops, gradients, and pictures of which nothing is known."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidnb.methods import pose
from reidnb.synthetic import KEYPOINTS

SIZE = (64, 32)
IDENTITY = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def pictures(n, size=SIZE, seed=0):
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(seed))


def bodies(n, seed=0, size=SIZE, unseen=0.1):
    """The standard pose, shaken, with a few points unseen."""
    random = torch.Generator().manual_seed(seed)
    points = pose.standard_pose(size).repeat(n, 1, 1)
    points[..., :2] += torch.randn(n, 14, 2, generator=random) * 1.5
    points[..., 2] = (torch.rand(n, 14, generator=random) >= unseen).float()
    return points


def pixel(image, x, y):
    """The colour at a place in pixels, bilinear between the middles of pixels, black outside."""
    height, width = image.shape[1:]
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    out = torch.zeros(3, dtype=image.dtype)
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < height and 0 <= column < width:
            share = (1 - abs(y - 0.5 - row)) * (1 - abs(x - 0.5 - column))
            out += share * image[:, row, column]
    return out


def named(points):
    """Place and whether it is seen, by name, of one body; the middle of the hips too."""
    found = {name: (points[i, :2].tolist(), float(points[i, 2]) >= 0.5) for i, name in enumerate(KEYPOINTS)}
    hips = [found[f"{side}_hip"] for side in ("left", "right")]
    chosen = [place for place, seen in hips if seen] or [place for place, _ in hips]
    found["hips"] = ([sum(axis) / len(chosen) for axis in zip(*chosen)], any(seen for _, seen in hips))
    return found


def slow_scale(points):
    at, long, wanted = named(points), 0.0, 0.0
    for name, part in pose.PARTS.items():
        (a, a_seen), (b, b_seen) = at[part.start], at[part.end]
        if "arm" not in name and a_seen and b_seen:
            long += math.dist(a, b)
            wanted += (part.rows[1] - part.rows[0]) / 20
    return max(1.0, long / wanted) if wanted else 1.0


def slow_posebox(image, points, left_out=()):
    """Pixel by pixel: of which part is it, and where does that lie?"""
    height, width = image.shape[1:]
    at, scale = named(points), slow_scale(points)
    out, there = torch.zeros_like(image), []
    for name, part in pose.PARTS.items():
        (a, a_seen), (b, b_seen) = at[part.start], at[part.end]
        there.append(a_seen and b_seen and name not in left_out)
        if not there[-1]:
            continue
        length = math.dist(a, b)
        along = [(b[0] - a[0]) / length, (b[1] - a[1]) / length]
        across = [along[1], -along[0]]
        wide = scale * (part.columns[1] - part.columns[0]) / 20
        for row in range(height):
            for column in range(width):
                y, x = (row + 0.5) * 64 / height, (column + 0.5) * 32 / width
                if part.rows[0] < y < part.rows[1] and part.columns[0] < x < part.columns[1]:
                    down = (y - part.rows[0]) / (part.rows[1] - part.rows[0]) * length
                    right = ((x - part.columns[0]) / (part.columns[1] - part.columns[0]) - 0.5) * wide
                    place = [a[k] + down * along[k] + right * across[k] for k in (0, 1)]
                    out[:, row, column] = pixel(image, *place)
    return (out if any(there) else image.clone()), there


@pytest.mark.parametrize("boxes", pose.BOXES)
def test_a_posebox_is_the_slow_one(boxes):
    images, points = pictures(3), bodies(3, unseen=0.2)
    fast, there = pose.posebox(images, points, boxes)
    for i in range(3):
        slow, parts = slow_posebox(images[i], points[i], pose.BOXES[boxes])
        assert there[i].tolist() == parts
        torch.testing.assert_close(fast[i], slow, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (96, 48)])
def test_a_body_that_stands_upright_comes_back_as_it_was(size):
    images = pictures(2, size)
    box, there = pose.posebox(images, pose.standard_pose(size).expand(2, 14, 3))
    shown = (box != 0).all(1)
    assert there.all() and 0.6 < shown.float().mean() < 0.8, "all ten parts; the corners beside the legs stay empty"
    torch.testing.assert_close(box[shown[:, None].expand_as(box)], images[shown[:, None].expand_as(box)])


def test_the_whole_picture_is_the_map_that_changes_nothing():
    images = pictures(2)
    same = pose.cut(images, torch.tensor(IDENTITY).expand(2, 1, 2, 3), SIZE)[:, 0]
    torch.testing.assert_close(same, images)


@pytest.mark.parametrize("boxes", [*pose.BOXES, "glad", "spindle"])
def test_a_shifted_picture_gives_the_same_parts(boxes):
    """As long as its parts are known: what is not is the whole picture, which has moved."""
    ways = {"glad": pose.glad_parts, "spindle": pose.spindle_regions}
    images, points = pictures(4), bodies(4, unseen=0.0)
    images[:, :, :12] = images[:, :, -12:] = 0  # what is lost at the edge was black
    images[..., :8] = images[..., -8:] = 0
    moved, shift = images.roll((5, -3), (2, 3)), torch.tensor([-3.0, 5.0, 0.0])

    def parts(pixels, where):
        if boxes in ways:
            maps, _ = ways[boxes](where, SIZE)
            return pose.cut(pixels, maps, SIZE)
        return pose.posebox(pixels, where, boxes)[0]

    torch.testing.assert_close(parts(moved, points + shift), parts(images, points), atol=1e-4, rtol=0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), angle=st.floats(-3, 3), scale=st.floats(0.5, 2))
def test_a_body_turned_and_enlarged_has_its_parts_turned_and_enlarged(seed, angle, scale):
    points = bodies(1, seed, unseen=0.0).double()
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double() * scale
    turned = torch.cat([points[..., :2] @ turn.T, points[..., 2:]], 2)
    unit = (2, 2)  # pixels are units then, but for a shift by 1
    before, after = (pose.posebox_parts(p, unit)[0] for p in (points, turned))
    before[..., 2] += 1
    after[..., 2] += 1
    torch.testing.assert_close(turn @ before, after, atol=1e-6, rtol=1e-6)


def test_glads_boxes_by_hand():
    points = bodies(6, 3, unseen=0.2)
    maps, known = pose.glad_parts(points, SIZE)
    for i in range(6):
        at, scale = named(points[i]), slow_scale(points[i])
        legs = [at[f"{side}_{joint}"] for joint in ("knee", "ankle") for side in ("left", "right")]
        seen_legs = [place for place, seen in legs if seen]
        foot = max((y for _, y in seen_legs), default=-1)
        ends = [  # two points, whether they are known, and what is spared above, below and to the sides
            (at["head_top"], at["neck"], 0.1, 0.1, 0.4),
            (at["neck"], at["hips"], 0.15, 0.2, 0.6),
            (
                at["hips"],
                ([sum(x for x, _ in seen_legs) / max(len(seen_legs), 1), foot], bool(seen_legs)),
                0.1,
                0.15,
                0.6,
            ),
        ]
        for p, ((a, a_seen), (b, b_seen), above, below, half) in enumerate(ends):
            assert bool(known[i, p]) == (a_seen and b_seen and b[1] > a[1])
            if not known[i, p]:
                assert maps[i, p].tolist() == IDENTITY
                continue
            top, bottom, middle = a[1] - above * scale, b[1] + below * scale, (a[0] + b[0]) / 2
            wanted = [[half * scale / 16, 0, middle / 16 - 1], [0, (bottom - top) / 64, (top + bottom) / 64 - 1]]
            torch.testing.assert_close(maps[i, p], torch.tensor(wanted), atol=1e-4, rtol=1e-4)


def test_spindles_regions_by_hand():
    points = bodies(6, 4, unseen=0.3)
    maps, known = pose.spindle_regions(points, SIZE)
    for i in range(6):
        at, spare = named(points[i]), slow_scale(points[i]) / 4
        for p, names in enumerate(pose.SPINDLE.values()):
            seen = [at[name][0] for name in names if at[name][1]]
            assert bool(known[i, p]) == (len(seen) >= 2)
            if len(seen) < 2:
                assert maps[i, p].tolist() == IDENTITY
                continue
            (x0, y0), (x1, y1) = (
                [edge(axis) + sign * spare for axis in zip(*seen)] for edge, sign in ((min, -1), (max, 1))
            )
            wanted = [[(x1 - x0) / 32, 0, (x0 + x1) / 32 - 1], [0, (y1 - y0) / 64, (y0 + y1) / 64 - 1]]
            torch.testing.assert_close(maps[i, p], torch.tensor(wanted), atol=1e-4, rtol=1e-4)


def test_pooled_regions_are_means_of_bilinear_samples():
    cells = torch.randn(2, 3, 8, 4, generator=torch.Generator().manual_seed(0))
    maps = pose.box_maps(torch.tensor([[[0.5, 1.0]]] * 2), torch.tensor([[[3.0, 7.0]]] * 2), (8, 4))
    found = pose.roi_pool(cells, maps, (2, 1))
    assert found.shape == (2, 1, 3, 2, 1)
    for i in range(2):
        for b in range(2):
            places = [(0.5 + 2.5 * u, 1 + 6 * (b / 2 + v)) for u in (0.25, 0.75) for v in (0.125, 0.375)]
            mean = sum(pixel(cells[i], *place) for place in places) / 4
            torch.testing.assert_close(found[i, 0, :, b, 0], mean, atol=1e-5, rtol=1e-5)


def test_gradients_reach_pixels_and_points():
    size = (16, 8)
    images = pictures(1, size).double().requires_grad_()
    points = bodies(1, 1, size, unseen=0.0).double()
    points[..., :2] = pose.standard_pose(size)[:, :2] + 0.13  # no sample lies on a pixel's middle, where it has a kink
    points = points.requires_grad_()
    seen = torch.ones(1, 14, 1).double()

    def box(pixels, places):
        return pose.posebox(pixels, torch.cat([places, seen], 2))[0]

    places = (
        points[..., :2].detach() + 0.05 * torch.randn(1, 14, 2, generator=torch.Generator().manual_seed(2)).double()
    )
    assert torch.autograd.gradcheck(box, (images, places.requires_grad_()), eps=1e-7, atol=1e-4)
    for way in (pose.glad_parts, pose.spindle_regions):

        def maps(places, way=way):
            return way(torch.cat([places, seen], 2), size)[0]

        assert torch.autograd.gradcheck(maps, (places.detach().requires_grad_(),))


def test_of_whom_nothing_is_known_comes_back_whole_and_is_counted():
    images, points = pictures(3), bodies(3, unseen=0.0)
    points[1, :, 2] = 0
    box, there = pose.posebox(images, points)
    torch.testing.assert_close(box[1], images[1])
    assert there.any(1).tolist() == [True, False, True] and (box[0] == 0).any()
    for way in (pose.glad_parts, pose.spindle_regions):
        maps, known = way(points, SIZE)
        assert known.all(1).tolist() == [True, False, True]
        assert torch.equal(maps[1], torch.tensor(IDENTITY).expand_as(maps[1]))
        assert torch.isfinite(maps).all()
    away = bodies(1, unseen=0.0) + torch.tensor([500.0, 500.0, 0.0])
    box, there = pose.posebox(images[:1], away)
    assert there.all() and (box == 0).all(), "all seen, it is said, and all of it outside of the picture: nothing"


def test_one_place_for_all_points_is_no_division_by_zero():
    points = torch.ones(1, 14, 3)
    assert torch.isfinite(pose.posebox(pictures(1), points)[0]).all()
    assert pose.body_scale(points).item() == 1.0
    for way in (pose.glad_parts, pose.spindle_regions):
        assert torch.isfinite(way(points, SIZE)[0]).all()


@pytest.mark.parametrize("shape", [(14, 3), (2, 13, 3), (2, 14, 2)])
def test_what_are_no_key_points(shape):
    for way in (pose.body_scale, lambda p: pose.glad_parts(p, SIZE), lambda p: pose.posebox(pictures(2), p)):
        with pytest.raises(ValueError, match="key points must be"):
            way(torch.zeros(shape))
    with pytest.raises(ValueError, match="boxes must be one of posebox1"):
        pose.posebox(pictures(1), bodies(1), "posebox4")
