"""Clusters as labels: distances against re-ranking, DBSCAN and standardising by hand, rounds that are kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_world import TINY

from reidnb import clustering
from reidnb.clustering import Clustering, agreement, cluster, jaccard_distances, pseudo_label, standardise
from reidnb.datasets import Split
from reidnb.evaluation import rerank
from reidnb.experiments import run

PAIR = "synthetic_summer->synthetic_winter"
LOOSE = Clustering(eps=0.6, min_samples=2, k1=6, k2=2)


def crowd(people=12, pictures=5, values=8, spread=0.4, seed=0):
    """Features of unit length: some pictures about each of some people."""
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(people, values))
    found = np.repeat(middles, pictures, 0) + spread * rng.normal(size=(people * pictures, values))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


# ---- distances ------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 59), st.integers(0, 9))
def test_jaccard_distances_are_those_of_re_ranking(k1, k2, queries, seed):
    """`rerank` knows queries and gallery: cut in two, all pictures are one set for it as well."""
    x = crowd(seed=seed)
    found = dense(jaccard_distances(x, k1, k2))
    wanted = rerank(x[:queries], x[queries:], min(k1, len(x) - 1), k2, lambda_value=0.0)
    np.testing.assert_allclose(found[:queries, queries:], wanted, atol=2e-6)
    np.testing.assert_allclose(found, found.T, atol=2e-6)
    assert found.diagonal().max() < 2e-6


def dense(near):
    """What is not written down is 1."""
    found, rows = np.ones(near.shape), near.tocoo()
    found[rows.row, rows.col] = rows.data
    return found


def test_only_near_pairs_are_written_down():
    x = crowd()
    whole, near = dense(jaccard_distances(x, 8, 3)), jaccard_distances(x, 8, 3, within=0.3)
    assert near.nnz == (whole <= 0.3).sum() < (whole < 1).sum()
    assert near.data.max() <= 0.3


# ---- clusters -------------------------------------------------------------------------------------------------------


def slow_dbscan(distances, eps, least):
    """Ester et al., 1996, in plain loops; a picture near two clusters goes to the one that was found first."""
    near = [[j for j, d in enumerate(row) if d <= eps] for row in distances]
    labels, count = [-1] * len(near), 0
    for i in range(len(near)):
        if labels[i] >= 0 or len(near[i]) < least:
            continue
        waiting, labels[i] = [i], count
        while waiting:
            core = waiting.pop()
            if len(near[core]) < least:
                continue
            for j in near[core]:
                if labels[j] < 0:
                    labels[j] = count
                    waiting.append(j)
        count += 1
    return np.array(labels)


@pytest.mark.parametrize("eps", [0.2, 0.35, 0.5])
@pytest.mark.parametrize("least", [1, 3, 5])
def test_clusters_are_dbscan_s(eps, least):
    x = crowd(spread=0.5)
    how = Clustering(eps=eps, min_samples=least, k1=8, k2=3)
    found, wanted = cluster(x, how), slow_dbscan(dense(jaccard_distances(x, 8, 3)), eps, least)
    assert wanted.max() >= 1, "or it tells nothing"
    np.testing.assert_array_equal(found, wanted)


def test_people_far_apart_are_clusters():
    x = crowd(spread=0.02)
    labels = cluster(x, Clustering(k1=4, k2=2))
    assert agreement(labels, np.repeat(np.arange(12), 5)) == {"clusters": 12, "people": 12, "purity": 1.0, "nmi": 1.0}


def test_agreement_by_hand():
    labels, people = np.array([0, 0, 0, 1, 1, 2, -1, -1]), np.array([7, 7, 8, 7, 7, 9, 9, 5])
    found = agreement(labels, people)
    assert (found["clusters"], found["people"]) == (3, 2), "two clusters are of person 7"
    assert found["purity"] == pytest.approx(5 / 6)  # 2 of 3, 2 of 2, 1 of 1; the last two are in none
    p = np.array([[2, 1, 0], [2, 0, 0], [0, 0, 1]]) / 6
    rows, columns = p.sum(1), p.sum(0)
    shared = sum(p[i, j] * np.log(p[i, j] / rows[i] / columns[j]) for i, j in zip(*p.nonzero()))
    entropies = [-(q * np.log(q)).sum() for q in (rows, columns)]
    assert found["nmi"] == pytest.approx(shared / np.mean(entropies))
    assert agreement(np.full(3, -1), np.arange(3)) == {"clusters": 0, "people": 0, "purity": 0.0, "nmi": 0.0}
    with pytest.raises(ValueError, match=r"one each a picture; got \(3,\) and \(4,\)"):
        agreement(np.zeros(3), np.zeros(4))


# ---- cameras --------------------------------------------------------------------------------------------------------


def test_standardised_by_hand():
    x, cameras = crowd(), np.arange(60) % 3
    others, theirs = crowd(seed=1), np.arange(60) % 4
    found = standardise(x, cameras, like=(others, theirs))
    for i, camera in enumerate(cameras):
        crowd_of = others[theirs == camera].astype(float)
        row = (x[i] - crowd_of.mean(0)) / crowd_of.std(0)
        np.testing.assert_allclose(found[i], row / np.linalg.norm(row), atol=1e-4)
    np.testing.assert_array_equal(standardise(x, cameras), standardise(x, cameras, like=(x, cameras)))
    with pytest.raises(ValueError, match="nothing is known of what camera 2 does"):
        standardise(x, cameras, like=(others[:2], theirs[:2]))


def test_a_camera_of_few_pictures_is_nobody():
    """One picture less its own mean is nothing, and all such pictures would be one person."""
    x, cameras = crowd(), np.r_[np.zeros(40, int), np.ones(16, int), 2, 3, 4, 5]
    found = standardise(x, cameras)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    row = (x[-1] - x.mean(0)) / x.std(0)
    np.testing.assert_allclose(found[-1], row / np.linalg.norm(row), atol=1e-4)


def test_what_a_camera_adds_to_all_is_taken_off():
    x, cameras = crowd(), np.arange(60) % 2
    bent = x * np.where(cameras, 3.0, 1.0)[:, None] + np.where(cameras, 5.0, -2.0)[:, None]
    np.testing.assert_allclose(standardise(bent, cameras), standardise(x, cameras), atol=1e-4)


# ---- rounds ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run across two tiny worlds, in a cache that the tests below share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REIDNB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield run("direct", PAIR, **TINY)


def test_rounds_are_kept_and_go_on(source, monkeypatch):
    one = pseudo_label(source, rounds=1, epochs=1, clustering=LOOSE, device="cpu")
    trained, train = [], clustering.train
    monkeypatch.setattr(clustering, "train", lambda *args: trained.append(args) or train(*args))
    two = pseudo_label(source, rounds=2, epochs=1, clustering=LOOSE, device="cpu")
    assert len(trained) == 1, "the first round is there"
    assert two.history[:2] == one.history and two.history[0]["mAP"] == source.scores.mAP
    assert [line["round"] for line in two.history] == [0, 1, 2]
    again = pseudo_label(source, rounds=2, epochs=1, clustering=LOOSE, device="cpu")
    assert again.history == two.history and len(trained) == 1
    for name, values in two.model.state_dict().items():
        assert torch.equal(values, again.model.state_dict()[name])
    net, images, labels = trained[0][:3]
    inside = two.labels[1] >= 0
    assert len(images) == len(labels) == inside.sum() and set(labels) == set(range(two.history[2]["clusters"]))
    np.testing.assert_array_equal(images, source.data().target.images[inside])


def test_another_target_is_another_key(source):
    """Cut from the same pair, it keeps its fingerprint."""
    whole = source.data()
    half = replace(whole, target=whole.target.select(slice(0, len(whole.target) // 2)))
    one, other = (
        pseudo_label(source, data, rounds=1, epochs=1, clustering=LOOSE, device="cpu") for data in (whole, half)
    )
    assert one.labels.shape[1] == 2 * other.labels.shape[1] == len(whole.target)


def test_without_cameras_nothing_is_taken_off(source):
    """As where a table knows none, and each picture is a camera's of its own: scores without cameras are NaN."""
    data = source.data()
    alone = {
        name: replace(part, camids=1000 * i + np.arange(len(part), dtype=part.camids.dtype))
        for i, (name, part) in enumerate((("query", data.query), ("gallery", data.gallery)), 1)
    }
    how = replace(LOOSE, by_camera=False)
    found = pseudo_label(source, replace(data, **alone), rounds=1, epochs=1, clustering=how, device="cpu")
    assert [np.isnan(line["camera_mAP"]) for line in found.history] == [True, True]
    assert all(line["mAP"] > 0 for line in found.history)


def test_a_round_clusters_what_the_network_before_it_says(source):
    found = pseudo_label(source, rounds=1, epochs=1, clustering=LOOSE, device="cpu")
    data = source.data()
    features = clustering.embed(source.model(), data.target.images, "cpu", compare="embedding").numpy()
    wanted = cluster(standardise(features, data.target.camids), LOOSE)
    np.testing.assert_array_equal(found.labels[0], wanted)
    plain = pseudo_label(source, rounds=1, epochs=1, clustering=replace(LOOSE, by_camera=False), device="cpu")
    np.testing.assert_array_equal(plain.labels[0], cluster(features, LOOSE))
    state = found.model.state_dict()
    moved = [not torch.equal(v, state[k]) for k, v in source.model().state_dict().items() if k.startswith("backbone")]
    assert np.mean(moved) > 0.9, "it learned"


def test_a_round_goes_on_from_the_weights_before_and_the_middles_of_clusters(source):
    still = pseudo_label(source, rounds=1, epochs=1, lr=1e-12, clustering=LOOSE, device="cpu")
    features = clustering.embed(source.model(), source.data().target.images, "cpu", compare="embedding").numpy()
    for name, values in source.model().backbone.named_parameters():
        torch.testing.assert_close(still.model.backbone.get_parameter(name), values)
    for c, row in enumerate(still.model.classifier.weight.detach().numpy()):
        middle = features[still.labels[0] == c].mean(0)
        np.testing.assert_allclose(row, middle / np.linalg.norm(middle), atol=1e-5)


def test_nobody_s_name_is_looked_at(source):
    """The same labels come out whatever the target's identities say; and so do they where people are other people."""
    data = source.data()
    assert (data.target.pids == -1).all()
    named = Split(data.target.images, np.arange(len(data.target)), data.target.camids)
    named = replace(data, target=named, fingerprint="with names")  # so that it is not loaded
    ours, theirs = (pseudo_label(source, some, 1, 1, clustering=LOOSE, device="cpu") for some in (data, named))
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    lines = [{k: v for k, v in found.history[1].items() if k != "seconds"} for found in (ours, theirs)]
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"eps": 0.1, "min_samples": 500}, "round 1: .* 0 clusters, .*; no picture has neighbours enough: raise eps"),
        ({"eps": 1.0, "min_samples": 1, "k1": 200}, "round 1: .* 1 clusters, .*; all .* are in the same: lower eps"),
    ],
)
def test_clusters_that_are_no_people(source, how, said):
    with pytest.raises(ValueError, match=said):
        pseudo_label(source, rounds=1, clustering=Clustering(**how), device="cpu")


def test_what_cannot_be_adapted(source):
    for changes in ({"rounds": 0}, {"epochs": 0.5}, {"rounds": True}):
        with pytest.raises(ValueError, match="must be a whole number from 1 on"):
            pseudo_label(source, **changes)
    data = source.data()
    with pytest.raises(ValueError, match="learns from a target.s pictures: name the dataset source->target"):
        pseudo_label(source, replace(data, target=None))
    nobody = Split(data.target.images[:0], data.target.pids[:0], data.target.camids[:0])
    with pytest.raises(ValueError, match="has no target pictures to cluster"):
        pseudo_label(source, replace(data, target=nobody))
    with pytest.raises(ValueError, match="learns nothing: there is no model"):
        pseudo_label(run("lomo", PAIR, **{k: v for k, v in TINY.items() if k not in ("epochs", "p")}))
