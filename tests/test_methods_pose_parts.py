"""Parts that join a batch: which pictures, whose labels, each stream's loss by hand, and what stands at the test."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_world import TINY, WORLD

from reidnb import evaluation, experiments, training
from reidnb.datasets import Split, open_dataset
from reidnb.inference import embed
from reidnb.methods import PoseParts, PoseStreams, pose
from reidnb.methods.keypoints import noisy_keypoints
from reidnb.methods.pose_parts import mean_pose, sure_distances
from reidnb.network import Output
from reidnb.recipes import recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The tiny world, in a cache that lasts for this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REIDNB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield open_dataset("synthetic", size=(64, 32), **WORLD)


def part_by_hand(image, points, p):
    """GLAD's p-th part of one picture as it is kept: uint8, grey where nothing is."""
    maps, _ = pose.glad_parts(torch.from_numpy(points[None].copy()), image.shape[1:])
    found = pose.cut(torch.from_numpy(image[None].astype(np.float32)) - 128, maps, image.shape[1:])
    return (found[0, p] + 128).round().clamp(0, 255).byte().numpy()


def test_who_joins_a_batch(data):
    joined = PoseParts("glad").bind("toy", data, CPU)
    indices, labels = np.array([3, 0, 7]), np.arange(len(data.train)) * 10
    pictures, theirs = joined(indices, labels, np.random.default_rng(0))
    assert pictures.shape == (9, 3, 64, 32) and pictures.dtype == np.uint8
    assert theirs.tolist() == [30, 0, 70] * 3, "all heads, then all upper bodies, then all lower ones"
    for row, (part, i) in enumerate((p, i) for p in range(3) for i in indices):
        np.testing.assert_array_equal(pictures[row], part_by_hand(data.train.images[i], data.train.keypoints[i], part))


def test_an_upright_body_joins_as_one_picture(data):
    cuts, sure = PoseParts("posebox2").cut(data, "query")
    points = torch.from_numpy(data.query.keypoints.copy())
    box, there = pose.posebox(torch.from_numpy(data.query.images.astype(np.float32)) - 128, points, "posebox2")
    np.testing.assert_array_equal(cuts[:, 0], (box + 128).round().clamp(0, 255).byte().numpy())
    np.testing.assert_allclose(sure[:, 0], there.float().mean(1))
    assert sure.max() <= 0.9 + 1e-6, "the head is left out"


def test_where_the_points_come_from(data):
    true, mean = (PoseParts("glad", points).where(data, "gallery") for points in ("true", "mean"))
    np.testing.assert_array_equal(true, data.gallery.keypoints)
    assert (mean == mean[0]).all() and (mean[..., 2] == 1).all()
    seen = data.train.keypoints[:, 5, 2] == 1
    np.testing.assert_allclose(mean[0, 5, :2], data.train.keypoints[seen, 5, :2].mean(0), rtol=1e-5)
    np.testing.assert_array_equal(mean_pose(data.train.keypoints), mean[0])
    noisy = PoseParts("glad", keypoint_noise=1.0)
    wanted = noisy_keypoints(data.gallery.keypoints, 1.0, (64, 32), np.random.default_rng(2))
    np.testing.assert_array_equal(noisy.where(data, "gallery"), wanted)
    assert not np.array_equal(noisy.where(data, "query")[:5], noisy.where(data, "gallery")[:5])


def test_a_dataset_without_key_points_is_refused(data):
    bare = replace(data, train=Split(data.train.images, data.train.pids, data.train.camids))
    for points in ("true", "mean", "network"):
        with pytest.raises(ValueError, match="need key points, which this dataset does not have"):
            PoseParts("glad", points).bind("toy", bare, CPU)


def net_of(parts, classes=5):
    torch.manual_seed(0)
    plan = recipe("glad" if parts == 3 else "posebox")
    return plan, plan.network({"classes": classes})


@pytest.mark.parametrize("parts", [1, 3])
def test_a_loss_for_each_stream_by_hand(parts):
    plan, net = net_of(parts)
    net.train()
    count, labels = 6, torch.tensor([0, 0, 1, 1, 4, 4])
    pixels = torch.randn(count * (1 + parts), 3, 64, 32)
    batch = training.Batch(labels.repeat(1 + parts), np.arange(count))
    output = net(pixels)
    found = training.evaluate_terms(plan.terms, output, batch)
    (head,) = (net.heads[name] for name in net.heads)
    losses = []
    for p in range(1 + parts):
        own = output.features[count * p : count * (p + 1)]
        unit = (own - own.mean(0)) / (own.var(0, unbiased=False) + head.necks[p].eps).sqrt()
        losses.append(F.cross_entropy(unit @ head.classifiers[p], labels, label_smoothing=0.1))
    torch.testing.assert_close(found["whole"], losses[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["streams"], sum(losses[1:]) / parts, rtol=1e-4, atol=1e-5)


def test_at_the_test_each_kind_has_its_own_neck():
    _, net = net_of(3)
    net.eval()
    (head,) = net.heads.values()
    for p, neck in enumerate(head.necks):
        neck.running_mean.fill_(float(p))
    output = net(torch.randn(2, 3, 64, 32))
    assert output.stream_embedding.shape == (2, 3, 256) and "stream_logits" not in output
    torch.testing.assert_close(output.whole_embedding, output.features / (1 + 1e-5) ** 0.5)
    for p in range(3):
        torch.testing.assert_close(output.stream_embedding[:, p], (output.features - p - 1) / (1 + 1e-5) ** 0.5)


def test_streams_and_parts_must_agree():
    term, labels = PoseStreams(3), torch.zeros(8, dtype=torch.long)
    with pytest.raises(ValueError, match=r"3 streams, and 4 pictures joined a batch of 4"):
        term(Output(stream_logits=torch.zeros(8, 2)), training.Batch(labels, np.arange(4)))
    with pytest.raises(ValueError, match="7 pictures are no batch with 3 parts"):
        net_of(3)[1].train()(torch.randn(7, 3, 64, 32))
    with pytest.raises(ValueError, match="streams needs pictures that join the batch"):
        replace(recipe("glad"), extra=None)
    with pytest.raises(ValueError, match="keypoint_noise must be a number from 0 to 2"):
        PoseParts("glad", keypoint_noise=3.0)


def test_distances_with_parts_that_count_as_they_are_seen():
    random = np.random.default_rng(0)
    whole = [random.standard_normal((n, 4)).astype(np.float32) for n in (2, 3)]
    parts = [random.standard_normal((n, 2, 4)).astype(np.float32) for n in (2, 3)]
    sure = [random.random((n, 2)).astype(np.float32) for n in (2, 3)]
    found = sure_distances(whole, parts, sure)
    for q in range(2):
        for g in range(3):
            counts = [sure[0][q, p] * sure[1][g, p] for p in range(2)]
            total = ((whole[0][q] - whole[1][g]) ** 2).sum()
            total += sum(c * ((parts[0][q, p] - parts[1][g, p]) ** 2).sum() for p, c in enumerate(counts))
            assert found[q, g] == pytest.approx((total / (1 + sum(counts))) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("name", ["glad", "posebox"])
def test_a_run_and_its_scores(data, name, monkeypatch, tmp_path):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path))
    plan = recipe(name, "quick", epochs=1, p=4)
    result = experiments.make_result(plan, data, 0, CPU)
    assert {"whole", "streams"} <= set(result.history[0]) and {"local", "both", "sure"} <= set(result.extra_scores)
    net, sides = plan.network(result.facts), []
    net.load_state_dict({key: torch.from_numpy(value) for key, value in result.state.items()})
    for split in ("query", "gallery"):
        cuts, sure = plan.extra.cut(data, split)
        parts = [embed(net, cuts[:, p], compare="stream_embedding")[:, p] for p in range(cuts.shape[1])]
        whole = embed(net, getattr(data, split).images, compare="whole_embedding")
        sides.append((torch.cat([whole, *parts], 1) / (1 + len(parts)) ** 0.5).numpy())
        assert sure.min() >= 0 and sure.max() <= 1
    both = evaluation.evaluate_features(*sides, *data.ids)
    assert result.extra_scores["both"].mAP == pytest.approx(both.mAP, abs=1e-3)
    assert 0 < result.numbers["parts_unseen"] < 0.5


def test_the_tiny_world_is_run_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path))
    settings = TINY | {"epochs": 1, "keypoint_noise": 1.0}
    made = experiments.run("posebox", **settings)
    assert made.changes.count("keypoint_noise=1.0") == 1
    again = experiments.run("posebox", **settings)
    assert again.key == made.key and again.extra_scores["both"].mAP == made.extra_scores["both"].mAP
    assert made.model().eval()(torch.zeros(1, 3, 64, 32)).stream_embedding.shape == (1, 1, 256)
