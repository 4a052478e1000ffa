"""What runs tell beside their scores: stripes, two students, stripes that vote; in the file as they were made."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_world import TINY, WORLD, nearly_the_same, same_result, same_scores

from reidnb import experiments, ledger
from reidnb.alignment import local_distance_matrix, shortest_path, stripe_costs
from reidnb.attributes import attribute_questions
from reidnb.datasets import open_dataset
from reidnb.evaluation import attribute_scores, euclidean_distances, evaluate, evaluate_features, rerank
from reidnb.experiments import run
from reidnb.inference import embed
from reidnb.methods import LocalTriHard
from reidnb.methods.attributes import attribute_means
from reidnb.recipes import recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The tiny world, in a cache that lasts for this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REIDNB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("REIDNB_FP32", raising=False)
        yield open_dataset("synthetic", size=(64, 32), **WORLD)


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(experiments, "train", lambda *_, **__: pytest.fail("it trained"))


# ------------------------------------------------------------------------------------------ stripes and two students

ALIGNED = {"peer": "small", "parts": 8, **TINY}


@pytest.fixture(scope="module")
def pair_of_students(data):
    """A run of AlignedReID with a second student, what went into its file, and the two as they were trained."""
    seen = SimpleNamespace()

    def save(result, path):
        seen.made = result
        keep(result, path)

    def train(net, *arguments):
        seen.students = net
        return learn(net, *arguments)

    keep, learn = experiments.save, experiments.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "save", save)
        patch.setattr(experiments, "train", train)
        seen.result = run("aligned_mm", **ALIGNED)
    return seen


def test_what_a_run_with_stripes_and_a_peer_tells(pair_of_students, no_training):
    result = pair_of_students.result
    assert list(result.extra_scores) == ["multi_query", "rerank", "peer", "local", "both"]
    terms = {"identity", "trihard", "local", "class_mutual", "metric_mutual"}
    assert len(result.history) == 2 and terms < set(result.history[0])
    same_result(run("aligned_mm", **ALIGNED), result)  # loaded: it did not train
    row = result.row()
    for name, scores in result.extra_scores.items():
        assert row[f"{name}_mAP"] == pytest.approx(scores.mAP, abs=1e-5), name
        assert row[f"{name}_rank1"] == pytest.approx(scores.rank1, abs=1e-5), name
    assert row["mAP"] == pytest.approx(result.scores.mAP, abs=1e-5)


def test_scores_go_through_the_file_unchanged(pair_of_students):
    made, result = pair_of_students.made, pair_of_students.result
    for name, scores in result.extra_scores.items():
        same_scores(scores, made.extra_scores[name])
    same_scores(result.scores, made.scores)
    assert result.pairs == made.pairs and result.facts == made.facts


def test_the_kept_model_is_the_first_student(pair_of_students, data):
    result = pair_of_students.result
    model = result.model()
    for name, value in pair_of_students.students.first.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert model.heads["stripes"].parts == 8 and not model.training
    features = embed(model, data.query.images, "cpu").numpy()
    np.testing.assert_allclose(features, result.features.query, atol=1e-6)  # the same sums, in memory laid out anew


def test_the_peers_scores_are_the_second_students(pair_of_students, data):
    query, gallery = (embed(pair_of_students.students.second, s.images, "cpu") for s in (data.query, data.gallery))
    result = pair_of_students.result
    nearly_the_same(result.extra_scores["peer"], evaluate_features(query, gallery, *data.ids))
    moved = result.extra_scores["peer"].ap - result.scores.ap
    assert np.nanmax(np.abs(moved)) > 0.01, "the two students differ: the test can tell"


def test_local_and_both_are_what_one_computes_from_the_model(pair_of_students, data):
    """Both: the global distance and the mean cell of the path, which has 2 x 8 - 1."""
    result = pair_of_students.result
    found = [embed(result.model(), s.images, "cpu", compare=("embedding", "local")) for s in (data.query, data.gallery)]
    (query, local_query), (gallery, local_gallery) = found
    local, apart = local_distance_matrix(local_query, local_gallery), euclidean_distances(query, gallery).numpy()
    nearly_the_same(result.extra_scores["local"], evaluate(local, *data.ids))
    both = evaluate(apart + local / 15, *data.ids)
    nearly_the_same(result.extra_scores["both"], both)
    for other in (apart, local, apart + local, apart + local / 8):
        moved = np.abs(evaluate(other, *data.ids).ap - both.ap)
        assert np.nansum(moved > 1e-9) > 2, "other distances rank otherwise: the test can tell"


def test_reranking_leaves_junk_out(pair_of_students, data):
    """Of the kept features, so the numbers are exactly these."""
    result, found = pair_of_students.result, pair_of_students.result.extra_scores["rerank"]
    known, query, gallery = data.gallery.pids != -1, result.features.query, result.features.gallery
    assert (~known).sum() == WORLD["junk"]
    without = rerank(query, gallery[known])
    query_pids, gallery_pids, query_camids, gallery_camids = data.ids
    same_scores(found, evaluate(without, query_pids, gallery_pids[known], query_camids, gallery_camids[known]))
    with_junk = rerank(query, gallery)
    assert np.abs(with_junk[:, known] - without).max() > 0.01, "junk would be a neighbour"
    assert (evaluate(with_junk, *data.ids).ap != found.ap).any(), "and would change the scores"


@pytest.mark.parametrize("distance", ["rigid", "aligned"])
def test_the_scores_by_stripes_are_the_slow_ones(distance):
    """On drawn numbers, pair by pair: stripe on stripe and their mean, or the readable shortest path and its 2H - 1
    cells."""
    rng = np.random.default_rng(0)
    ids = np.arange(6) % 3 + 1, np.arange(15) % 3 + 1, np.zeros(6, int), np.ones(15, int)
    query, gallery = (rng.normal(size=(n, 4)).astype(np.float32) for n in (6, 15))
    local_query, local_gallery = (2 * rng.normal(size=(n, 3, 2)).astype(np.float32) for n in (6, 15))
    local, both = np.empty((2, 6, 15))
    for i, x in enumerate(local_query):
        for j, y in enumerate(local_gallery):
            if distance == "rigid":
                cells, local[i, j] = 3, sum(np.tanh(np.linalg.norm(f - g) / 2) for f, g in zip(x, y))
            else:
                local[i, j], path = shortest_path(stripe_costs(torch.from_numpy(x), torch.from_numpy(y)))
                cells = len(path)
            both[i, j] = np.linalg.norm(query[i] - gallery[j]) + local[i, j] / cells
    trial = SimpleNamespace(data=SimpleNamespace(ids=ids))
    sides = {"whole": query, "local": local_query}, {"whole": gallery, "local": local_gallery}
    found = LocalTriHard(distance).test(*sides, trial)["scores"]
    assert list(found) == ["local", "both"]
    same_scores(found["local"], evaluate(local, *ids))
    same_scores(found["both"], evaluate(both, *ids))


def test_stripes_in_a_row_are_what_pcb_compares(data):
    """One feature of unit length; and without local distances no scores by them."""
    result = run("pcb", data, epochs=1, warmup=0.0, p=4, stripes_width=16, device="cpu")
    assert list(result.extra_scores) == ["multi_query", "rerank"]
    assert result.features.query.shape == (len(data.query), 8 * 16)
    # float32's rounding of a length of 1, over 128 values
    np.testing.assert_allclose(np.linalg.norm(result.features.gallery, axis=1), 1, atol=1e-6)
    model = result.model()
    assert model.heads["stripes"].classifiers.shape == (8, 16, WORLD["train_identities"])
    stripes = embed(model, data.query.images, "cpu", compare="local")
    in_a_row = stripes.flatten(1).numpy() / np.sqrt(8)  # eight of unit length
    np.testing.assert_allclose(in_a_row, result.features.query, atol=1e-6)
    np.testing.assert_allclose(result.embed(data.query.images[:9], "cpu"), result.features.query[:9], atol=1e-6)
    same_scores(evaluate_features(result.features.query, result.features.gallery, *data.ids), result.scores)


# -------------------------------------------------------------------------------------------------------- attributes

ASKED = {"attribute_parts": 3, **TINY}


@pytest.fixture(scope="module")
def asked(data):
    return run("alfo", **ASKED)


def test_what_a_run_with_attributes_tells(asked, data, no_training):
    questions = attribute_questions(data)
    assert list(asked.extra_scores) == ["multi_query", "rerank", "attributes"]
    assert {"identity", "attribute"} < set(asked.history[0])
    said, again = asked.arrays, run("alfo", **ASKED)
    assert said["query"].shape == (len(data.query), 30) and said["gallery"].shape == (len(data.gallery), 30)
    assert said["losses"].shape == said["votes"].shape == (3, 12)
    same_result(again, asked)
    np.testing.assert_array_equal(again.arrays["gallery"], said["gallery"])
    found = attribute_scores(said["gallery"], questions.answers(data.gallery.attributes), questions.groups)
    assert [line["statement"] for line in asked.lines] == list(questions.statements)
    for name in ("share", "accuracy", "balanced", "f1", "ap"):
        np.testing.assert_array_equal([line[name] for line in asked.lines], getattr(found, name))
    votes = said["losses"]
    best = [votes[:, m].argmin() for m, group in enumerate(questions.groups) for _ in range(*group.indices(30))]
    assert [line["stripe"] for line in asked.lines] == best
    np.testing.assert_allclose([line["train_share"] for line in asked.lines], questions.shares)
    row = asked.row()
    assert row["attribute_f1"] == pytest.approx(attribute_means(asked.lines)["attribute_f1"], abs=1e-5)
    assert row["attributes_mAP"] == pytest.approx(asked.extra_scores["attributes"].mAP, abs=1e-5)
    lines = asked.line_rows()
    assert len(lines) == 30 and all(lines[3][k] == row[k] for k in ledger.IDENTIFIES)


def test_the_kept_model_answers_by_the_stripe_that_was_elected(asked, data):
    model, questions = asked.model(), attribute_questions(data)
    logits = embed(model, data.query.images, "cpu", compare="attribute_logits")
    for m, group in enumerate(questions.groups):
        winner = asked.arrays["losses"][:, m].argmin()
        theirs = logits[:, winner, group].numpy()
        np.testing.assert_allclose(theirs, asked.arrays["query"][:, group], atol=1e-4)  # logits of some units
    by_looks = [1 / (1 + np.exp(-said)) for said in (asked.arrays["query"], asked.arrays["gallery"])]
    nearly_the_same(asked.extra_scores["attributes"], evaluate_features(*by_looks, *data.ids))


def test_one_question_alone(data):
    """DeepSAR; and the others' recipes know nothing of attributes."""
    result = run("deepsar", **TINY)
    assert result.arrays["query"].shape[1] == 1 and [line["statement"] for line in result.lines] == ["gender"]
    assert set(result.history[0]) >= {"attribute"} and "identity" not in result.history[0]


def test_runs_without_attributes_have_none(data):
    plain = run("colour_histogram", **WORLD)
    assert plain.arrays == {} and plain.lines == [] and plain.line_rows() == [] and plain.numbers == {}
    assert "attribute_f1" not in plain.row() and "attributes" not in plain.extra_scores


def test_the_table_of_statements(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(ledger, "RESULTS", tmp_path)
    alfo = ledger.run_name("alfo", asked.changes)
    lines = ledger.statements()
    ledger.write_runs(lines, tmp_path / "attributes.csv")
    again = ledger.statements(kept=False)
    assert len(again) == len(lines) == len(ledger.statements())
    scores = ledger.statement_scores(again, alfo, "accuracy")
    assert list(scores.columns) == [0] and list(scores.index) == [line["statement"] for line in asked.lines]
    np.testing.assert_allclose(scores[0] / 100, [line["accuracy"] for line in asked.lines], atol=1e-4)
    assert not len(ledger.statement_scores(again, "apr", "accuracy"))
    assert not len(ledger.statement_scores(again, alfo, "accuracy", "market1501", "laptop"))


def test_attributes_need_a_dataset_that_has_them(data, no_training):
    bare = replace(data, train=replace(data.train, attributes=None))
    with pytest.raises(ValueError, match="synthetic has no attributes. The built-in world has; for Market-1501"):
        run("apr", bare, epochs=3, p=4, device="cpu")


def test_what_a_part_needs_is_asked_before_training(data, no_training):
    with pytest.raises(ValueError, match="lstm_uda learns from a target's pictures: name the dataset source->target"):
        run("lstm_uda", data, epochs=2, warmup=0.5, device="cpu")
    with pytest.raises(ValueError, match="learns from a target's pictures"):
        run("baseline", data, fresh_norm=True, device="cpu")
    assert recipe("lstm_uda").needs_target and not recipe("baseline").needs_target
