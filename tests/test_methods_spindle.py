"""Spindle Net: seven regions by hand, the tree in loops, its two losses, and what stands at the test."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_world import TINY, WORLD

from reidnb import evaluation, experiments, training
from reidnb.datasets import Split, open_dataset
from reidnb.inference import embed
from reidnb.methods import SpindleRegions, SpindleTree, pose
from reidnb.methods.spindle import KIND, REGIONS, SpindleFusion
from reidnb.network import Output
from reidnb.recipes import recipe

CPU = torch.device("cpu")
NAMES = ("whole", *pose.SPINDLE)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The tiny world, in a cache that lasts for this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REIDNB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield open_dataset("synthetic", size=(64, 32), **WORLD)


def net_of(classes=5, width=16):
    torch.manual_seed(0)
    plan = recipe("spindle", spindle_width=width)
    return plan, plan.network({"classes": classes})


# ------------------------------------------------------------------------------------------------------------- regions


def region_by_hand(image, points, name):
    """One region of one picture as it is kept: the box about its seen points and a quarter of a torso more."""
    seen = [points[pose.AT[joint]] for joint in pose.SPINDLE[name] if points[pose.AT[joint], 2] >= 0.5]
    if len(seen) < 2:
        return image
    spare = float(pose.body_scale(torch.tensor(points)[None])) / 4
    low = [min(p[k] for p in seen) - spare for k in (0, 1)]
    high = [max(p[k] for p in seen) + spare for k in (0, 1)]
    maps = pose.box_maps(torch.tensor([[low]]), torch.tensor([[high]]), image.shape[1:])
    found = pose.cut(torch.from_numpy(image[None].astype(np.float32)) - 128, maps.float(), image.shape[1:])
    return (found[0, 0] + 128).round().clamp(0, 255).byte().numpy()


def test_who_joins_a_batch(data):
    joined = SpindleRegions().bind("toy", data, CPU)
    indices, labels = np.array([3, 0]), np.arange(len(data.train)) * 10
    pictures, theirs = joined(indices, labels, np.random.default_rng(0))
    assert pictures.shape == (14, 3, 64, 32) and pictures.dtype == np.uint8
    assert theirs.tolist() == [30, 0] * 7, "all heads, then all upper bodies, and so on"
    for row, (name, i) in enumerate((name, i) for name in pose.SPINDLE for i in indices):
        wanted = region_by_hand(data.train.images[i], data.train.keypoints[i], name)
        assert np.abs(pictures[row].astype(int) - wanted).max() <= 1, name


def test_a_region_that_is_not_known_is_the_whole_picture(data):
    points = data.query.keypoints.copy()
    points[0, :, 2] = 0
    points[1, [pose.AT["left_knee"], pose.AT["left_ankle"]], 2] = 0
    query = replace(data.query, keypoints=points)
    cuts, known = SpindleRegions().cut(replace(data, query=query), "query")
    assert cuts.shape == (len(points), 7, 3, 64, 32) and known.shape == (len(points), 7)
    assert not known[0].any() and all(np.array_equal(part, data.query.images[0]) for part in cuts[0])
    left = list(pose.SPINDLE).index("left leg")
    assert not known[1, left] and np.array_equal(cuts[1, left], data.query.images[1])
    assert not np.array_equal(cuts[1, 0], data.query.images[1])


def test_where_the_points_come_from(data):
    bare = replace(data, train=Split(data.train.images, data.train.pids, data.train.camids))
    for points in ("true", "mean", "network"):
        with pytest.raises(ValueError, match="spindle with points='.*need key points, which this dataset does not"):
            SpindleRegions(points).bind("toy", bare, CPU)
    mean = SpindleRegions("mean").where(data, "query")
    assert (mean == mean[0]).all() and not (SpindleRegions(keypoint_noise=2.0).where(data, "query") == mean).all()


# ------------------------------------------------------------------------------------------------------------ the tree


def slow_tree(layers, vectors):
    """One person's vectors by name -> the fused feature and the regions' alone, value by value."""

    def layer(name, values):
        weight, bias = layers[name].weight.tolist(), layers[name].bias.tolist()
        return [sum(w * v for w, v in zip(row, values)) + shift for row, shift in zip(weight, bias)]

    def larger(*some):
        return [max(values) for values in zip(*some)]

    arms = layer("arms", larger(vectors["left arm"], vectors["right arm"]))
    legs = layer("legs", larger(vectors["left leg"], vectors["right leg"]))
    upper = layer("upper", larger(vectors["upper body"], arms))
    lower = layer("lower", larger(vectors["lower body"], legs))
    regions = layer("regions", larger(vectors["head and shoulders"], upper, lower))
    return layer("fused", vectors["whole"] + regions), regions


def tree_and_vectors(n=3, width=6):
    torch.manual_seed(1)
    tree = SpindleFusion(width)
    for layer in tree.layers.values():
        torch.nn.init.normal_(layer.bias)
    return tree, torch.randn(n, 8, width)


def test_the_tree_is_the_slow_one():
    tree, vectors = tree_and_vectors()
    fused, regions = tree(vectors)
    for i in range(3):
        slow = slow_tree(tree.layers, dict(zip(NAMES, vectors[i].tolist())))
        for fast, wanted in zip((fused[i], regions[i]), slow):
            torch.testing.assert_close(fast, torch.tensor(wanted), rtol=1e-4, atol=1e-5)


def test_left_and_right_may_be_taken_for_each_other_and_arms_not_for_legs():
    tree, vectors = tree_and_vectors()
    fused, _ = tree(vectors)
    arms, legs, upper = [4, 5], [6, 7], [2]
    for pair in (arms, legs):
        swapped = vectors.clone()
        swapped[:, pair] = vectors[:, pair[::-1]]
        torch.testing.assert_close(tree(swapped)[0], fused)
    for one, other in ((arms, legs), (upper, [3]), ([1], upper), ([0], [1])):
        swapped = vectors.clone()
        swapped[:, one], swapped[:, other] = vectors[:, other], vectors[:, one]
        assert (tree(swapped)[0] - fused).abs().max() > 0.01


def test_gradients_of_the_tree_reach_everybody():
    tree, vectors = tree_and_vectors(n=16)
    vectors.requires_grad_()
    tree(vectors)[0].square().sum().backward()
    assert (vectors.grad.abs().sum((0, 2)) > 0).all()
    single = tree.double()
    assert torch.autograd.gradcheck(lambda v: single(v)[0], vectors[:2].detach().double().requires_grad_())


def test_the_layers_begin_as_turns():
    tree = SpindleFusion(6)
    for name in ("arms", "legs", "upper", "lower", "regions"):
        weight = tree.layers[name].weight
        torch.testing.assert_close(weight @ weight.T, torch.eye(6), atol=1e-5, rtol=0)


# ----------------------------------------------------------------------------------------------------- head and losses


def norm_by_hand(x, layer):
    shape = [1, -1] + [1] * (x.ndim - 2)
    over = [0, *range(2, x.ndim)]
    mean, spread = x.mean(over, keepdim=True), x.var(over, unbiased=False, keepdim=True)
    return (x - mean) / (spread + layer.eps).sqrt() * layer.weight.view(shape) + layer.bias.view(shape)


def test_two_losses_by_hand():
    plan, net = net_of()
    net.train()
    n, labels = 4, torch.tensor([0, 0, 3, 3])
    output = net(torch.randn(8 * n, 3, 64, 32))
    found = training.evaluate_terms(plan.terms, output, training.Batch(labels.repeat(8), np.arange(n)))
    (head,) = net.heads.values()
    said = norm_by_hand(output.features[:n], head.necks["whole"]) @ head.classifiers["whole"]
    torch.testing.assert_close(found["whole"], F.cross_entropy(said, labels, label_smoothing=0.1), rtol=1e-4, atol=1e-5)
    people = [{} for _ in range(n)]
    for kind in range(3):
        rows = [i for i, of in enumerate(KIND) if of == kind]
        cells = torch.cat([output.map[r * n : (r + 1) * n] for r in rows])
        conv, norm, _ = head.read[kind]
        read = norm_by_hand(torch.einsum("nchw,oc->nohw", cells, conv.weight[:, :, 0, 0]), norm).clamp(min=0)
        vectors = F.normalize(norm_by_hand(read.mean((2, 3)), head.norms[kind]), dim=1)
        for r, part in zip(rows, vectors.split(n)):
            for i in range(n):
                people[i][NAMES[r]] = part[i].tolist()
    fused = torch.tensor([slow_tree(head.tree.layers, person)[0] for person in people])
    said = norm_by_hand(fused, head.necks["fused"]) @ head.classifiers["fused"]
    wanted = F.cross_entropy(said, labels, label_smoothing=0.1)
    torch.testing.assert_close(found["spindle"], wanted, rtol=1e-4, atol=1e-5)


def test_kinds_share_and_no_others_do():
    assert REGIONS == 7 and dict(zip(NAMES, KIND)) == {
        "whole": 0, "head and shoulders": 1, "upper body": 1, "lower body": 1,
        "right arm": 2, "left arm": 2, "right leg": 2, "left leg": 2,
    }  # fmt: skip
    _, net = net_of()
    output = net.eval()(torch.randn(2, 3, 64, 32))
    assert output.region_vectors.shape == (2, 3, 16) and "fused_logits" not in output
    torch.testing.assert_close(output.region_vectors.norm(dim=2), torch.ones(2, 3))
    torch.testing.assert_close(output.whole_embedding, output.features / (1 + 1e-5) ** 0.5)


def test_what_cannot_be():
    term = SpindleTree()
    with pytest.raises(ValueError, match="merges 7 regions with each picture, and 4 pictures joined a batch of 4"):
        term(Output(fused_logits=torch.zeros(8, 2)), training.Batch(torch.zeros(8, dtype=torch.long), np.arange(4)))
    with pytest.raises(ValueError, match="15 pictures are no batch with 7 regions"):
        net_of()[1].train()(torch.randn(15, 3, 64, 32))
    with pytest.raises(ValueError, match=r"takes vectors \(N, 8, D\).*got \(2, 7, 6\)"):
        SpindleFusion(6)(torch.zeros(2, 7, 6))
    with pytest.raises(ValueError, match="spindle needs pictures that join the batch"):
        replace(recipe("spindle"), extra=None)
    for wrong in ({"points": "guessed"}, {"keypoint_noise": 3.0}):
        with pytest.raises(ValueError, match="SpindleRegions: "):
            SpindleRegions(**wrong)


# ------------------------------------------------------------------------------------------------------------ the test


def test_a_run_and_its_scores(data, monkeypatch, tmp_path):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path))
    plan = recipe("spindle", "quick", epochs=1, p=4, spindle_width=16)
    result = experiments.make_result(plan, data, 0, CPU)
    assert {"whole", "spindle"} <= set(result.history[0]) and {"local", "both"} <= set(result.extra_scores)
    net, sides, unknown = plan.network(result.facts), {"both": [], "local": []}, []
    net.load_state_dict({key: torch.from_numpy(value) for key, value in result.state.items()})
    (head,) = net.eval().heads.values()
    for split in ("query", "gallery"):
        cuts, known = plan.extra.cut(data, split)
        pictures = [getattr(data, split).images, *cuts.swapaxes(0, 1)]
        read = [embed(net, some, compare="region_vectors")[:, kind] for some, kind in zip(pictures, KIND)]
        with torch.no_grad():
            fused, local = head.tree(torch.stack(read, 1))
            sides["both"].append(F.normalize(head.necks["fused"](fused)).numpy())
        sides["local"].append(F.normalize(local).numpy())
        unknown.append(~known)
    for name, pair in sides.items():
        assert result.extra_scores[name].mAP == pytest.approx(
            evaluation.evaluate_features(*pair, *data.ids).mAP, abs=1e-3
        )
    assert result.numbers["parts_unseen"] == pytest.approx(np.concatenate(unknown).mean())


def test_the_tiny_world_is_run_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path))
    settings = TINY | {"epochs": 2, "spindle_width": 16, "points": "mean"}
    made = experiments.run("spindle", **settings)
    assert made.history[-1]["spindle"] < made.history[0]["spindle"]
    again = experiments.run("spindle", **settings)
    assert again.key == made.key and again.extra_scores["both"].mAP == made.extra_scores["both"].mAP
    assert made.model().eval()(torch.zeros(1, 3, 64, 32)).region_vectors.shape == (1, 3, 16)
