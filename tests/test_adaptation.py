"""From one domain to another, from beginning to end: pairs of datasets, runs across them, what copies are worth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reidnb import copies, experiments
from reidnb.datasets import check_name, open_dataset, true_styles
from reidnb.evaluation import evaluate_features
from reidnb.experiments import check_parameters, run
from reidnb.generators import camera_pairs, stargan
from reidnb.inference import embed
from reidnb.methods import adaptation
from reidnb.network import build_model
from reidnb.recipes import RECIPES

WORLD = {"train_identities": 6, "test_identities": 6, "cameras": 3, "distractors": 4, "junk": 2}
PAIR = "synthetic_summer->synthetic_winter"
PLAN = {"epochs": 2, "p": 4, "k": 2, "device": "cpu"}
TINY = {**PLAN, "target_p": 3, "copies": 2, **WORLD}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REIDNB_CACHE", str(tmp_path_factory.mktemp("cache")))
        small = stargan.StarGAN(width=4, blocks=1, critic_width=4, steps=3, batch=4)
        patch.setattr(stargan.StarGAN, "__init__", lambda self, **_: self.__dict__.update(small.__dict__))
        yield


# ---- pairs ----------------------------------------------------------------------------------------------------------


def test_a_pair_learns_from_one_and_is_tested_on_the_other(home):
    pair = open_dataset(PAIR, size=(64, 32), **WORLD)
    summer, winter = (open_dataset(name, size=(64, 32), **WORLD) for name in PAIR.split("->"))
    assert pair.name == PAIR and pair.options == WORLD and "target" in str(pair)
    assert (pair.train.images == summer.train.images).all() and (pair.train.pids == summer.train.pids).all()
    assert (pair.query.images == winter.query.images).all() and (pair.gallery.pids == winter.gallery.pids).all()
    assert (pair.target.images == winter.train.images).all() and (pair.target.camids == winter.train.camids).all()
    assert summer.target is None and pair.fingerprint not in (summer.fingerprint, winter.fingerprint)
    back = open_dataset("synthetic_winter->synthetic_summer", size=(64, 32), **WORLD)
    assert back.fingerprint != pair.fingerprint


def test_nobody_can_peek_at_who_is_in_the_target(home):
    target = open_dataset(PAIR, size=(64, 32), **WORLD).target
    assert (target.pids == -1).all()
    assert target.files is None, "file names begin with the identity"
    assert target.attributes is None and target.tracklets is None and target.shots is None and target.masks is None


@pytest.mark.parametrize("name", ["summer->synthetic", "synthetic->", "synthetic->a->b", "->"])
def test_a_pair_of_what_is_not_there(name):
    with pytest.raises(ValueError, match="source->target"):
        open_dataset(name)
    with pytest.raises(ValueError, match="source->target"):
        check_parameters("quick", name, 0, "cpu")


def test_a_pair_has_no_one_root(tmp_path):
    check_name(PAIR)
    with pytest.raises(TypeError, match="REIDNB_DATA"):
        open_dataset(PAIR, tmp_path)


# ---- whole runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("baseline", {}),
        ("camera_style", {"target_p": 3, "copies": 2}),
        ("lstm_uda", {"target_p": 3, "copies": 2}),
        ("baseline", {"fresh_norm": True}),
    ],
    ids=str,
)
def test_a_run_across_domains(home, name, changes):
    result = run(name, PAIR, **PLAN, **WORLD, **changes)
    assert result.dataset == PAIR and 0 < result.scores.mAP <= 1
    pair = open_dataset(PAIR, size=(64, 32), **WORLD)
    found = embed(result.model(), pair.query.images, "cpu", compare=RECIPES[name].compare).numpy()
    # the same sums, in memory laid out anew
    np.testing.assert_allclose(found, result.features.query, atol=1e-5)
    assert ("branches" in result.extra_scores) == (name != "baseline")
    assert ("style" in result.history[0]) == (name == "camera_style")


def test_the_branches_scores_are_those_of_their_features(home):
    result = run("domain_lstm", PAIR, **TINY)
    pair = open_dataset(PAIR, size=(64, 32), **WORLD)
    model, splits = result.model(), (pair.query, pair.gallery)
    found = [embed(model, split.images, "cpu", compare="branch_features") for split in splits]
    joined = [F.normalize(part.flatten(1)).numpy() for part in found]
    assert result.extra_scores["branches"].mAP == pytest.approx(evaluate_features(*joined, *pair.ids).mAP, abs=1e-6)


def test_true_copies_are_drawn_by_the_other_cameras(home):
    winter = open_dataset("synthetic_winter", size=(64, 32), **WORLD)
    copies = true_styles("synthetic_winter", (64, 32), WORLD)
    own = copies[np.arange(len(winter.train)), winter.train.camids]
    assert (own == winter.train.images).all(), "by its own camera it is the picture itself"
    assert not any((copies[:, c] == winter.train.images).all((1, 2, 3)).all() for c in range(3))
    assert (true_styles("synthetic_winter", (64, 32), WORLD) == copies).all()
    with pytest.raises(ValueError, match="photographed"):
        true_styles("market1501", (64, 32), {})


@pytest.mark.parametrize("styles", ["truth_person", "truth_ground"])
def test_half_a_true_copy(home, styles):
    """Either the person is another camera's and the ground stays, or the other way round."""
    target = open_dataset(PAIR, size=(64, 32), **WORLD).target
    found = adaptation._styled(target, "synthetic_winter", WORLD, styles, 1, torch.device("cpu"))
    known = open_dataset("synthetic_winter", size=(64, 32), **WORLD).train.masks
    whole, person = true_styles("synthetic_winter", (64, 32), WORLD), known > 0
    for picture, camera in ((0, 0), (5, 1), (11, 2)):
        new = person[picture] if styles == "truth_person" else ~person[picture]
        copy = found.copies[picture, camera]
        assert (copy[:, new] == whole[picture, camera][:, new]).all()
        assert (copy[:, ~new] == target.images[picture][:, ~new]).all()


def test_a_run_with_true_copies_is_another_one(home):
    one, other = (run("domain", PAIR, **TINY, styles=styles) for styles in ("truth", "stargan"))
    assert one.key != other.key and one.history[-1]["trihard"] != other.history[-1]["trihard"]
    assert "styles='truth'" in one.changes


def test_copies_by_a_painter_a_pair_of_cameras(home, monkeypatch):
    """They are painted by pairs that learned from the first world's people, whichever world is trained on."""
    monkeypatch.setattr(camera_pairs, "PLAN", replace(camera_pairs.PLAN, width=4, blocks=1, steps=2, batch=2))
    result = run("camstyle", "synthetic", **PLAN, **WORLD, styles="cyclegan")
    assert "fakes" in result.history[0] and "styles='cyclegan'" in result.changes
    monkeypatch.setattr(torch.optim, "Adam", lambda *_, **__: pytest.fail("trained for the second world"))
    run("camstyle", "synthetic", **PLAN, **WORLD, styles="cyclegan", seed=1)


def test_copies_join_a_supervised_run(home):
    result = run("camstyle", "synthetic", **PLAN, **WORLD, fakes=0.5)
    assert "fakes" in result.history[0]


@pytest.mark.parametrize(
    ("name", "changes", "dataset", "said"),
    [
        ("domain", {}, "synthetic", "recipe domain learns from a target.s pictures: name the dataset source->target"),
        ("baseline", {"fresh_norm": True}, "synthetic", "name the dataset source->target"),
        ("camera_style", {"copies": 3}, PAIR, "3 copies .* has 3 cameras"),
    ],
)
def test_what_cannot_be_is_refused_before_any_training(name, changes, dataset, said, home, monkeypatch):
    monkeypatch.setattr(experiments, "train", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr(adaptation, "load_or_train_generator", lambda *_, **__: pytest.fail("trained a StarGAN"))
    with pytest.raises(ValueError, match=said):
        run(name, dataset, **PLAN, **WORLD, **changes)


# ---- what copies are worth ------------------------------------------------------------------------------------------


def test_what_a_generator_that_does_nothing_is_worth(home):
    """It fools nobody, and loses nobody."""
    data = open_dataset("synthetic_winter", size=(64, 32), **WORLD)
    classifier = copies.camera_classifier(data.train, epochs=3, device="cpu")
    finder = build_model("small", 0, "drawn")
    painters = {"idle": lambda _: data.query.images}
    (found,) = copies.style_scores(painters, data, classifier, finder, "cpu").values()
    assert found["fooled"] <= 1 - found["camera"] + 1e-9 and found["change"] == 0
    assert found["rank1"] == found["styled_rank1"] and found["mAP"] == found["styled_mAP"]
