"""Failures: what is said to make a query hard is so, slowly counted; and the maps of what a model listens to."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from reidnb import failures, plots
from reidnb.datasets import Split, open_dataset
from reidnb.datasets.builtin import WORLDS, make_world
from reidnb.evaluation import euclidean_distances, evaluate
from reidnb.network import Output
from reidnb.synthetic import ATTRIBUTES, PARTS, draw

WORLD = {"train_identities": 4, "test_identities": 14, "cameras": 3, "distractors": 6, "junk": 4, "lookalikes": 2.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REIDNB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield open_dataset("synthetic", size=(64, 32), **WORLD)


@pytest.fixture(scope="module")
def truth(world):
    return failures.difficulties(world.query, world.gallery)


def test_hidden_is_what_the_world_hid(world, truth):
    drawn = make_world({**WORLDS["synthetic"], **WORLD, "size": (64, 32)})
    for i in np.argsort(-truth.occlusion)[:4]:
        assert truth.occlusion[i] == pytest.approx(draw(drawn, drawn.shots["query"][i]).occlusion)
    assert truth.occlusion.max() > 0


def test_the_box_by_counting_points(world, truth):
    """IoU on a grid of points 1/400 apart: each edge of a box is off by half of that at most."""
    grid = (np.arange(-600, 600) + 0.5) / 400
    for i in (0, 3, 7):
        shot = world.query.shots.iloc[i]
        perfect = abs(grid) < 0.5
        across, down = (abs(grid - shot[f"box_{axis}"]) < shot.box_scale / 2 for axis in ("dx", "dy"))
        one, other = np.outer(perfect, perfect), np.outer(down, across)
        assert truth.box[i] == pytest.approx(1 - (one & other).sum() / (one | other).sum(), abs=0.01)


def test_a_perfect_box_and_one_far_away():
    found = failures._overlap(np.array([0.0, 0.0, 3.0]), np.zeros(3), np.array([1.0, 2.0, 1.0]))
    np.testing.assert_allclose(found, [1, 0.25, 0])


def test_lookalikes_by_hand(world, truth):
    """Two people are alike when at most one of: age, bags, hair..., the colour above, the colour below differs."""
    looks = dict(zip(world.gallery.pids.tolist(), world.gallery.attributes.tolist()))

    def details(pid):
        named = dict(zip(ATTRIBUTES, looks[pid]))
        colours = [tuple(v for k, v in named.items() if k.startswith(g) and k != g) for g in ("up", "down")]
        return [v for k, v in named.items() if k in ("up", "down") or not k.startswith(("up", "down"))] + colours

    people = [pid for pid in looks if pid > 0]
    for i in range(len(world.query)):
        own = details(int(world.query.pids[i]))
        alike = [sum(a != b for a, b in zip(own, details(p))) <= 1 for p in people if p != world.query.pids[i]]
        assert truth.lookalikes[i] == sum(alike)
    assert truth.lookalikes.max() > 0


def test_colours_by_hand(world, truth):
    def clothes(split, i):
        worn = (split.masks[i] == PARTS.index("torso")) | (split.masks[i] == PARTS.index("legs"))
        return [split.images[i, c][worn].mean() / 255 for c in range(3)]

    for q in (0, 5):
        same = world.gallery.pids == world.query.pids[q]
        matches = np.flatnonzero(same & (world.gallery.camids != world.query.camids[q]))
        mean = np.mean([clothes(world.gallery, g) for g in matches], axis=0)
        assert truth.colour[q] == pytest.approx(np.linalg.norm(clothes(world.query, q) - mean))


def test_photographs_have_no_truth(world):
    photographs = Split(world.query.images, world.query.pids, world.query.camids)
    with pytest.raises(ValueError, match="only the built-in world knows"):
        failures.difficulties(photographs, world.gallery)


def test_a_kind_is_the_highest_percentile():
    truth = pd.DataFrame({"occlusion": [0.0, 0.0, 0.0, 0.0, 0.9], "box": [0.5, 0.4, 0.1, 0.2, 0.3]})
    assert failures.failure_kinds(truth).tolist() == ["box", "box", "", "", "occlusion"]
    alone = pd.DataFrame({"occlusion": [0.0], "box": [np.nan]})
    assert failures.failure_kinds(alone).tolist() == [""]  # the highest of all percentiles, and of nothing
    assert set(failures.KINDS) == {"occlusion", "box", "colour", "lookalikes"}


def test_the_worst_queries_by_a_sorted_list(world):
    rng, query, gallery = np.random.default_rng(0), world.query, world.gallery
    distances = rng.random((len(query), len(gallery)))
    ap = evaluate(distances, query.pids, gallery.pids, query.camids, gallery.camids).ap
    worst = failures.worst_queries(distances, query, gallery, ap, 5)
    assert worst.ap.tolist() == sorted(ap)[:5]
    for row in worst.itertuples():
        seen = [
            g
            for g in np.argsort(distances[row.query])
            if gallery.pids[g] != -1
            and (gallery.pids[g], gallery.camids[g]) != (query.pids[row.query], query.camids[row.query])
        ]
        right = [gallery.pids[g] == query.pids[row.query] for g in seen]
        assert row.rank == 1 + right.index(True) and row.right == seen[row.rank - 1]
        assert row.wrong == seen[row.wrong_rank - 1] and row.wrong_rank == 1 + right.index(False)


def test_queries_without_an_answer_are_no_failures(world):
    rng, gallery = np.random.default_rng(0), world.gallery.select(world.gallery.pids != world.query.pids[0])
    distances = rng.random((len(world.query), len(gallery)))
    ids = world.query.pids, gallery.pids, world.query.camids, gallery.camids
    ap = evaluate(distances, *ids).ap
    worst = failures.worst_queries(distances, world.query, gallery, ap, len(ap))
    assert len(worst) == np.isfinite(ap).sum() < len(ap)
    assert not (world.query.pids[worst["query"]] == world.query.pids[0]).any()
    assert failures.worst_queries(distances, world.query, gallery, ap, 0).columns.tolist() == worst.columns.tolist()


class Corner(nn.Module):
    """Listens to the mean of the upper left 8 x 8 pixels and to nothing else."""

    def forward(self, pixels):
        red = pixels[:, 0, :8, :8].mean((1, 2))
        features = torch.stack([red, torch.ones_like(red)], 1)
        return Output(features=features, embedding=features)


def test_a_map_shows_where_a_model_listens():
    image = np.full((3, 32, 16), 40, np.uint8)
    image[:, :8, :8] = 250
    flat = np.full((3, 32, 16), 250, np.uint8)
    model = Corner().eval()
    with torch.inference_mode():
        toward = failures.embed(model, flat[None], "cpu", flip=False)[0]
    growth = failures.occlusion_map(model, image, toward, window=8, stride=4, device="cpu")
    assert growth.shape == (32, 16) and growth.dtype == np.float32
    assert growth[:8, :8].min() > 0.1
    assert abs(growth[12:]).max() < 1e-6  # no window there reaches the corner, nor the one of the mirror image
    with pytest.raises(ValueError, match=r"stride must lie in 1\.\.8, the window"):
        failures.occlusion_map(model, image, toward, window=8, stride=12)
    with pytest.raises(ValueError, match="a window of 40 pixels does not fit into 32"):
        failures.occlusion_map(model, image, toward, window=40)


def test_a_map_by_covering_one_place_after_the_other():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 32, 16), dtype=np.uint8)
    model, toward = Corner().eval(), np.float32([0.6, 0.8])
    growth, counts = np.zeros((32, 16)), np.zeros((32, 16))
    said = failures.embed(model, image[None], "cpu").numpy()
    plain = euclidean_distances(said, toward[None])[0, 0]
    for top in (0, 5, 10, 15, 20, 22):  # windows of 10, every 5 rows; the last one ends at the edge
        for left in (0, 5, 6):
            picture = image.copy()
            picture[:, top : top + 10, left : left + 10] = image.mean((1, 2)).round()[:, None, None]
            distance = euclidean_distances(failures.embed(model, picture[None], "cpu").numpy(), toward[None])[0, 0]
            growth[top : top + 10, left : left + 10] += distance - plain
            counts[top : top + 10, left : left + 10] += 1
    found = failures.occlusion_map(model, image, toward, window=10, stride=5, device="cpu")
    np.testing.assert_allclose(found, growth / counts, atol=1e-5)  # float32 features of length 1


def test_the_pictures_of_failures_can_be_drawn(world):
    rng = np.random.default_rng(0)
    worst = pd.DataFrame({"query": [0, 1], "ap": [0.1, 0.2], "wrong": [3, 4], "right": [5, 6]})
    worst = worst.assign(wrong_rank=[6, 1], rank=[1, 9])
    axes = plots.mistakes(worst, world.query, world.gallery, ["hidden", "bad box"]).axes
    assert [ax.get_title() for ax in axes] == ["hidden", "bad box", "rank 6", "rank 1", "rank 1", "rank 9"]
    scores = np.where(np.eye(3, dtype=bool), np.nan, np.arange(9.0).reshape(3, 3) / 10)
    drawn = plots.camera_heat(scores).axes[0]
    assert drawn.get_ylabel() == "camera of the query"
    np.testing.assert_allclose(np.ma.filled(drawn.collections[0].get_array().reshape(3, 3), np.nan), 100 * scores)
    pictures = world.query.images[:3], world.gallery.images[:3]
    assert plots.sensitivity(*pictures, rng.standard_normal((3, 64, 32)), list("abc")).axes


def test_differences_are_details():
    from reidnb.failures import differences
    from reidnb.synthetic import ATTRIBUTES

    one = np.zeros(len(ATTRIBUTES), int)
    other, third = one.copy(), one.copy()
    other[[ATTRIBUTES.index("upred"), ATTRIBUTES.index("upblue")]] = 1  # another colour is two entries
    third[ATTRIBUTES.index("hat")] = third[ATTRIBUTES.index("downgray")] = 1
    assert differences(one, np.stack([one, other, third])).tolist() == [0, 1, 2]
    assert differences(np.stack([one, other])[:, None], np.stack([one, third])).tolist() == [[0, 2], [1, 3]]
