"""Two domains: pairs of datasets, copies as classes, the domain loss by hand, branches read from head to feet."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reidnb import losses, stargan, training, trials
from reidnb.batches import Augmentation, Styled, draw, fakes, make_batch, with_copies
from reidnb.datasets import check_name, open_dataset, true_styles
from reidnb.descriptors import lomo
from reidnb.evaluation import evaluate_features
from reidnb.experiments import check_parameters, run
from reidnb.models import build_model, pool
from reidnb.models.branches import HIDDEN, METRIC, Branches
from reidnb.recipes import Recipe, recipe
from reidnb.training import all_terms, embed, more_pictures, renew_norms, train

RNG = np.random.default_rng(0)
WORLD = {"train_identities": 6, "test_identities": 6, "cameras": 3, "distractors": 4, "junk": 2}
PAIR = "synthetic_summer->synthetic_winter"
TINY = {"epochs": 2, "p": 4, "k": 2, "target_p": 3, "copies": 2, "device": "cpu", **WORLD}
PEOPLE = np.repeat(np.arange(6), 6)
SOURCE = RNG.integers(0, 256, (36, 3, 32, 16), np.uint8)
TARGET = Styled(*(RNG.integers(0, 256, (10, 3, 32, 16), np.uint8), np.arange(10) % 4,
                  RNG.integers(0, 256, (10, 4, 3, 32, 16), np.uint8)))  # fmt: skip
TOY = Recipe("toy", "Toy", weights=None, size=(32, 16), p=4, k=3, metric="trihard", epochs=2, target_p=3, copies=2)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REIDNB_CACHE", str(tmp_path_factory.mktemp("cache")))
        small = stargan.StarGAN(width=4, blocks=1, critic_width=4, steps=3, batch=4)
        patch.setattr(stargan.StarGAN, "__init__", lambda self, **_: self.__dict__.update(small.__dict__))
        yield


def model_of(plan, classes=6, seed=0):
    torch.manual_seed(seed)
    return trials.build(plan, classes)


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


# ---- copies as classes ----------------------------------------------------------------------------------------------


def test_a_picture_and_its_copies_are_one_class_and_all_others_apart():
    chosen = np.array([7, 0, 3])
    pictures, labels = with_copies(TARGET, chosen, 2, np.random.default_rng(1))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and pictures.shape == (9, 3, 32, 16)
    for place, i in enumerate(chosen):
        own, *copies = pictures[3 * place : 3 * place + 3]
        assert (own == TARGET.images[i]).all()
        styles = [[c for c in range(4) if (TARGET.copies[i, c] == copy).all()] for copy in copies]
        styles = sum(styles, [])
        assert len(set(styles)) == 2 and TARGET.camids[i] not in styles, "two other cameras, each once"


def test_every_other_camera_comes_up():
    seen = set()
    for seed in range(40):
        (copy,) = fakes(TARGET, [5], np.random.default_rng(seed))  # taken by camera 1
        seen |= {c for c in range(4) if (TARGET.copies[5, c] == copy).all()}
    assert seen == {0, 2, 3}


@pytest.mark.parametrize("copies", [0, 4])
def test_more_copies_than_other_cameras(copies):
    with pytest.raises(ValueError, match="between 1 and 3"):
        with_copies(TARGET, np.arange(3), copies, np.random.default_rng(0))


def test_target_classes_never_meet_the_source_ones():
    more, theirs = more_pictures(TARGET, np.arange(12), PEOPLE, replace(TOY, adapt="domain"), np.random.default_rng(0))
    assert theirs.tolist() == [6, 6, 6, 7, 7, 7, 8, 8, 8] and more.shape == (9, 3, 32, 16)


def test_fakes_keep_the_name_of_whom_they_show():
    styled = Styled(SOURCE, PEOPLE % 2, np.broadcast_to(SOURCE[:, None], (36, 2, 3, 32, 16)))
    plan = replace(TOY, metric=None, fakes=0.5, augmentation=None)
    chosen = np.array([1, 8, 20, 35])
    more, theirs = more_pictures(styled, chosen, PEOPLE, plan, np.random.default_rng(0))
    assert len(more) == len(theirs) == 2 and set(theirs) <= set(PEOPLE[chosen])
    for picture, label in zip(more, theirs):
        (which,) = [i for i in chosen if torch.equal(picture, make_batch(SOURCE, [i])[0])]
        assert PEOPLE[which] == label


# ---- the domain loss ------------------------------------------------------------------------------------------------


def halves(branches=None):
    """A model's Output of 12 source pictures and 9 of the target, its labels, and the plan."""
    plan = replace(TOY, branches=branches, dropout=0.0)
    torch.manual_seed(0)
    output = model_of(plan).train()(torch.randn(21, 3, 32, 16))
    return output, torch.tensor([0] * 3 + [1] * 3 + [2] * 3 + [5] * 3 + [6] * 3 + [7] * 3 + [8] * 3), plan


@pytest.mark.parametrize("branches", [None, "lstm"])
def test_the_domain_loss_is_one_trihard_over_source_target_and_copies(branches):
    output, labels, plan = halves(branches)
    plan = replace(plan, adapt="domain", metric_weight=0.3, margin=0.5)
    found = all_terms(output, labels, 12, plan)
    features = [output.features] if branches is None else output.branch_features.unbind(1)
    wanted = 0.3 * sum(losses.trihard_loss(f, labels, 0.5) for f in features)
    torch.testing.assert_close(found["trihard"], wanted)
    logits = [output.logits] if branches is None else output.branch_logits.unbind(1)
    wanted = sum(losses.cross_entropy(x[:12], labels[:12], 0.1) for x in logits)
    torch.testing.assert_close(found["identity"], wanted)
    assert set(found) == {"trihard", "identity"}


def test_camera_style_alone_has_no_triplet_across_the_domains():
    output, labels, plan = halves()
    found = all_terms(output, labels, 12, replace(plan, adapt="style"))
    torch.testing.assert_close(found["trihard"], losses.trihard_loss(output.features[:12], labels[:12], 0.3))
    torch.testing.assert_close(found["style"], losses.trihard_loss(output.features[12:], labels[12:], 0.3))


@pytest.mark.parametrize(("kind", "smoothing"), [("own", 0.0), ("smooth", 0.1), ("uniform", 1.0)])
def test_what_fakes_are_told_to_be(kind, smoothing):
    output, labels, plan = halves()
    labels = labels.clamp(max=5)
    found = all_terms(output, labels, 12, replace(plan, metric=None, fakes=0.5, fake_labels=kind))
    log_p = output.logits[12:].log_softmax(1)
    wanted = -(1 - smoothing) * log_p[torch.arange(9), labels[12:]].mean() - smoothing * log_p.mean()
    torch.testing.assert_close(found["fakes"], wanted)
    torch.testing.assert_close(found["identity"], losses.cross_entropy(output.logits[:12], labels[:12], 0.1))


@pytest.mark.parametrize("adapt", ["style", "domain"])
@pytest.mark.parametrize("branches", [None, "lstm"])
def test_theta_0_is_the_source_alone(adapt, branches):
    """To the last bit: the target's pictures do not even pass through batch norm."""
    plan = replace(TOY, metric_weight=0.0, branches=branches)
    one, other = model_of(plan), model_of(plan)
    first = train(one, SOURCE, PEOPLE, plan, device="cpu")
    second = train(other, SOURCE, PEOPLE, replace(plan, adapt=adapt), device="cpu", styled=TARGET)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))
    assert [line["identity"] for line in first] == [line["identity"] for line in second]


def test_theta_above_0_is_not():
    one, other = model_of(TOY), model_of(TOY)
    train(one, SOURCE, PEOPLE, TOY, device="cpu")
    train(other, SOURCE, PEOPLE, replace(TOY, adapt="domain"), device="cpu", styled=TARGET)
    assert not torch.equal(one.backbone.widen[0].weight, other.backbone.widen[0].weight)


def test_adapting_resumes(tmp_path, monkeypatch):
    plan = replace(TOY, adapt="domain", epochs=3, branches="lstm")
    whole, path = model_of(plan), tmp_path / "a.checkpoint"
    train(whole, SOURCE, PEOPLE, plan, device="cpu", styled=TARGET)

    def stop(bar, line, _):
        if line["epoch"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_report", stop)
        train(model_of(plan), SOURCE, PEOPLE, plan, device="cpu", checkpoint=path, styled=TARGET)
    again = model_of(plan, seed=1)
    assert len(train(again, SOURCE, PEOPLE, plan, device="cpu", checkpoint=path, styled=TARGET)) == 3
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))


def test_fresh_norms_are_the_statistics_of_the_target():
    model = build_model("small", 6)
    before = [p.clone() for p in model.parameters()]
    renew_norms(model, TARGET.images, "cpu")
    stem = model.backbone.stem
    with torch.no_grad():
        through = stem[0](make_batch(TARGET.images, np.arange(10)))
    torch.testing.assert_close(stem[1].running_mean, through.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stem[1].running_var, through.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert stem[1].momentum == 0.1 and all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


# ---- branches -------------------------------------------------------------------------------------------------------


def test_pooling_by_hand():
    cells = torch.rand(2, 5, 4, 3)
    flat = cells.flatten(2)
    assert torch.equal(pool(cells, "max"), flat.max(2).values)
    torch.testing.assert_close(pool(cells), flat.sum(2) / 12)
    torch.testing.assert_close(pool(cells, "both"), flat.sum(2) / 12 + flat.max(2).values)


@pytest.mark.parametrize(("kind", "branches"), [("global", 1), ("parts", 2), ("lstm", 2)])
@pytest.mark.parametrize("pooling", ["avg", "max", "both"])
def test_shapes_of_branches(kind, branches, pooling):
    net = Branches(16, 7, kind, pooling=pooling)
    cells = torch.rand(4, 16, 8, 4)
    features, logits = net(cells, pool(cells, pooling))
    assert features.shape == (4, branches, METRIC) and logits.shape == (4, branches, 7)
    if kind != "global":
        assert net.read(cells).shape == (4, 3, 2 * HIDDEN)


def test_the_lstm_reads_from_head_to_feet_and_back():
    """By PyTorch's own cell, a step at a time."""
    torch.manual_seed(0)
    net = Branches(16, 7, "lstm")
    cells = torch.rand(2, 16, 6, 4)
    bodies = [cells[:, :, 2 * i : 2 * i + 2].mean((2, 3)) for i in range(3)]
    found = net.read(cells)
    for direction, order in (("", (0, 1, 2)), ("_reverse", (2, 1, 0))):
        cell = torch.nn.LSTMCell(16, HIDDEN)
        cell.load_state_dict({k: getattr(net.lstm, f"{k}_l0{direction}") for k in cell.state_dict()})
        state, half = None, slice(HIDDEN, None) if direction else slice(HIDDEN)
        for part in order:
            state = cell(bodies[part], state)
            torch.testing.assert_close(found[:, part, half], state[0])


def test_with_an_lstm_the_feet_change_what_is_known_of_the_head_alone_they_do_not():
    torch.manual_seed(0)
    cells = torch.rand(1, 16, 6, 4)
    other = cells.clone()
    other[:, :, 4:] += 1
    for kind, moved in (("lstm", True), ("parts", False)):
        net = Branches(16, 7, kind)
        assert bool((net.read(cells)[:, 0] != net.read(other)[:, 0]).any()) == moved, kind


# ---- crops, descriptors ---------------------------------------------------------------------------------------------


def test_crops_have_the_papers_area_and_shape():
    cuts = draw(500, 256, 128, Augmentation(crop=0.64), np.random.default_rng(0)).cuts
    width, height = 128 * cuts[:, 0, 0], 256 * cuts[:, 1, 1]
    area, aspect = width * height / (256 * 128), height / width
    assert area.min() > 0.5 and area.max() <= 1 and (width <= 128).all() and (height <= 256).all()
    assert ((aspect + 1e-4 >= 2) & (aspect <= 3 + 1e-4)).mean() > 0.95  # those that do not fit are clipped
    assert (np.abs(cuts[:, :, 2]) <= 1 - np.stack([cuts[:, 0, 0], cuts[:, 1, 1]], 1) + 1e-6).all(), "inside"


def test_a_cut_shows_what_lies_there():
    """A ramp from left to right: a cut shows its own part of the ramp."""
    ramp = np.broadcast_to(np.linspace(0, 248, 32).astype(np.uint8), (6, 3, 64, 32))
    plain = Augmentation(flip=0, pad=0, erase=0, crop=0.64)
    batch = make_batch(ramp, np.arange(6), plain, np.random.default_rng(3))
    cuts = draw(6, 64, 32, plain, np.random.default_rng(3)).cuts
    values = (batch[:, 0, 32] * 0.229 + 0.485) * 255
    for row, cut in zip(values, cuts):
        left, right = (cut[0, 2] + side * cut[0, 0] * (31 / 32) for side in (-1, 1))  # centres of the outer pixels
        wanted = [((at + 1) * 16 - 0.5) * 8 for at in (left, right)]
        # the ramp's steps are whole levels, and beyond the outermost centres the border repeats
        assert abs(float(row[0]) - wanted[0]) < 5 and abs(float(row[-1]) - wanted[1]) < 5


def test_without_a_crop_nothing_more_is_drawn():
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    draw(4, 64, 32, Augmentation(), rng)
    draw(4, 64, 32, Augmentation(crop=0.64), other)
    assert rng.random() != other.random() and draw(4, 64, 32, Augmentation(), rng).cuts is None


def test_lomo_does_not_mind_where_in_a_row_someone_stands():
    picture = np.full((1, 3, 64, 32), 90, np.uint8)
    person = RNG.integers(0, 256, (3, 48, 8), np.uint8)
    found = []
    for left in (8, 16):  # by whole steps of the windows
        shown = picture.copy()
        shown[0, :, 8:56, left : left + 8] = person
        found.append(lomo(shown)[0])
    turned = shown[:, ::-1].copy()
    assert np.allclose(*found, atol=1e-6) and not np.allclose(found[0], lomo(turned)[0], atol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(lomo(SOURCE), axis=1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="uint8"):
        lomo(SOURCE.astype(float))


# ---- whole runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adapt": "style"},
        {"adapt": "domain", "branches": "lstm", "pooling": "both", "compare": "features"},
        {"fresh_norm": True},
    ],
    ids=str,
)
def test_a_run_across_domains(home, changes):
    result = run("baseline", PAIR, **TINY, **changes)
    assert result.dataset == PAIR and 0 < result.scores.mAP <= 1
    pair = open_dataset(PAIR, size=(64, 32), **WORLD)
    compare = changes.get("compare", "embedding")
    found = embed(result.model(), pair.query.images, "cpu", compare=compare).numpy()
    # the same sums, in memory laid out anew
    np.testing.assert_allclose(found, result.features.query, atol=1e-5)
    assert ("branches" in result.also) == ("branches" in changes)
    assert ("style" in result.history[0]) == (changes.get("adapt") == "style")


def test_the_branches_scores_are_those_of_their_features(home):
    result = run("baseline", PAIR, **TINY, branches="lstm", compare="features")
    pair = open_dataset(PAIR, size=(64, 32), **WORLD)
    model, splits = result.model(), (pair.query, pair.gallery)
    found = [embed(model, split.images, "cpu", compare="branch_features") for split in splits]
    joined = [F.normalize(part.flatten(1)).numpy() for part in found]
    ids = pair.query.pids, pair.gallery.pids, pair.query.camids, pair.gallery.camids
    assert result.also["branches"].mAP == pytest.approx(evaluate_features(*joined, *ids).mAP, abs=1e-6)


def test_true_copies_are_drawn_by_the_other_cameras(home):
    winter = open_dataset("synthetic_winter", size=(64, 32), **WORLD)
    copies = true_styles("synthetic_winter", (64, 32), WORLD)
    own = copies[np.arange(len(winter.train)), winter.train.camids]
    assert (own == winter.train.images).all(), "by its own camera it is the picture itself"
    assert not any((copies[:, c] == winter.train.images).all((1, 2, 3)).all() for c in range(3))
    assert (true_styles("synthetic_winter", (64, 32), WORLD) == copies).all()
    with pytest.raises(ValueError, match="photographed"):
        true_styles("market1501", (64, 32), {})


def test_a_run_with_true_copies_is_another_one(home):
    one, other = (run("baseline", PAIR, **TINY, adapt="domain", styles=styles) for styles in ("truth", "stargan"))
    assert one.key != other.key and one.history[-1]["trihard"] != other.history[-1]["trihard"]
    assert "styles='truth'" in one.changes


def test_fakes_join_a_supervised_run(home):
    result = run("ide", "synthetic", **TINY, fakes=0.5)
    assert "fakes" in result.history[0]


@pytest.mark.parametrize(
    ("changes", "dataset", "said"),
    [
        ({"adapt": "domain"}, "synthetic", "name the dataset source->target"),
        ({"fresh_norm": True}, "synthetic", "name the dataset source->target"),
        ({"adapt": "style", "copies": 3}, PAIR, "3 copies .* has 3 cameras"),
    ],
)
def test_what_cannot_be_is_refused_before_any_training(changes, dataset, said, home, monkeypatch):
    monkeypatch.setattr(trials, "train", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr(trials, "painter_of", lambda *_, **__: pytest.fail("trained a StarGAN"))
    with pytest.raises(ValueError, match=said):
        run("baseline", dataset, **TINY | changes)


def test_copies_belong_to_as_many_pictures():
    with pytest.raises(ValueError, match="belong together"):
        Styled(TARGET.images[:4], TARGET.camids[:4], TARGET.copies)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adapt": "domain", "metric": None}, "needs a metric loss"),
        ({"adapt": "style", "fakes": 0.5}, "without stripes, verification, peer or fakes"),
        ({"fakes": 0.5}, "plain identification"),
        ({"metric": None, "fakes": 1.5}, "up to 1"),
        ({"branches": "lstm", "verification_weight": 1.0}, "branches go without"),
        ({"branches": "lstm", "width": 16}, "width is a number of values and goes without branches"),
        ({"branches": "tree"}, "branches must be one of"),
        ({"adapt": "domain", "verification_weight": 1.0}, "without stripes, verification"),
        ({"compare": "branch_features"}, "no 'branch_features' to compare"),
        ({"branches": "lstm", "compare": "local", "parts": 3}, "no 'local' to compare"),
        ({"target_p": 0}, "target_p must be positive"),
        ({"copies": -1}, "copies must be positive"),
    ],
)
def test_recipes_that_cannot_be(changes, said):
    with pytest.raises(ValueError, match=said):
        recipe("baseline", **changes)


def test_the_papers_own_settings():
    """Section 3.2; a random start keeps its own schedule."""
    plan = recipe("lstm_uda", "paper")
    assert (plan.model, plan.size, plan.optimizer, plan.lr, plan.epochs) == ("resnet50", (256, 128), "adam", 3e-4, 30)
    assert (plan.metric_weight, plan.margin, plan.dropout) == (0.3, 0.5, 0.5)
    assert (plan.branches, plan.pooling) == ("lstm", "both")
    assert plan.augmentation == Augmentation(flip=0.5, pad=0.0, erase=0.0, crop=0.64) and plan.compare == "features"
    assert recipe("lstm_uda", "paper", weights=None).epochs == 300


def test_what_a_generator_that_does_nothing_is_worth(home):
    """It fools nobody, and loses nobody."""
    data = open_dataset("synthetic_winter", size=(64, 32), **WORLD)
    classifier = trials.camera_classifier(data.train, epochs=3, device="cpu")
    finder = build_model("small", 0, "drawn")
    painters = {"idle": lambda _: data.query.images}
    (found,) = trials.style_scores(painters, data, classifier, finder, "cpu").values()
    assert found["fooled"] <= 1 - found["camera"] + 1e-9 and found["change"] == 0
    assert found["rank1"] == found["styled_rank1"] and found["mAP"] == found["styled_mAP"]
