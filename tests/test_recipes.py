"""Recipes: every row makes sense, a field is changed by its name, nonsense is refused before anything is trained."""

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
from toys import TOY

from reidnb.batches import Augmentation
from reidnb.methods import (
    MSML,
    AdaptedTriHard,
    Attributes,
    Branches,
    CopiesIdentity,
    Identity,
    LocalTriHard,
    Mutual,
    PartIdentity,
    Stripes,
    TargetStyles,
    TrainingCopies,
    TriHard,
    Verification,
)
from reidnb.models import BACKBONES, check_weights
from reidnb.recipes import PROFILES, RECIPES, Recipe, recipe
from reidnb.values import change, flat_names, key_of


@dataclass(frozen=True)
class OnStripes:
    """A reader's own: a term without a `needs` of its own that says what it works on."""

    on: str = "local"
    weight: float = 1.0

    def __call__(self, output, batch):
        return output[self.on].sum()


def own_loss(output, batch):
    return output.features.sum()


# ---- what cannot be -------------------------------------------------------------------------------------------------

# F15: 29 fields that took nonsense. Each is now what its type says.
NONSENSE = [
    ("ide", "epochs", 2.5, "a whole number from 0 on"),
    ("ide", "epochs", "three", "a whole number from 0 on"),
    ("ide", "epochs", -1, "a whole number from 0 on"),
    ("ide", "p", 0, "a whole number from 1 on"),
    ("ide", "k", 1.5, "a whole number from 1 on"),
    ("ide", "lr", 0.0, "a number above 0"),
    ("ide", "lr", -1.0, "a number above 0"),
    ("ide", "lr", "1e-3", "a number above 0"),
    ("ide", "weight_decay", -5, "a number from 0 on"),
    ("ide", "warmup", -1, "a number from 0 on"),
    ("ide", "smoothing", -1, "a number from 0 to 1"),
    ("ide", "weight", -1, "a number from 0 on"),
    ("ide", "label_noise", 1.5, "a number from 0 to 1"),
    ("ide", "steps", 5, "a tuple, each a whole number from 1 on"),
    ("ide", "steps", (1.5,), "a tuple, each a whole number from 1 on"),
    ("ide", "size", 64, "2 values, each a whole number from 1 on"),
    ("ide", "size", (64, 0), "2 values, each a whole number from 1 on"),
    ("ide", "optimizer", "lion", "one of 'adamw', 'adam', 'sgd'"),
    ("ide", "schedule", "linear", "one of 'cosine', 'step'"),
    ("ide", "pooling", "median", "one of 'avg', 'max', 'both'"),
    ("ide", "last_stride", 3, "one of 1, 2"),
    ("ide", "width", 0, "a whole number from 1 on or None"),
    ("ide", "flip_test", "false", "True or False"),
    ("ide", "flip_test", "no", "True or False"),
    ("ide", "fresh_norm", 1, "True or False"),
    ("ide", "augmentation", {"flip": 0.5}, "a Augmentation or None"),
    ("ide", "colour", -0.1, "a number from 0 to 1"),
    ("ide", "pad", 0.6, "a number from 0 to 0.5"),
    ("ide", "losses", Identity(), "a tuple"),
    ("ide", "heads", "stripes", "a tuple"),
    ("trihard", "margin", "0.3", "a number or None"),
    ("msml", "margin", None, "a number"),
    ("quadruplet", "margin2", None, "a number"),
    ("improved_triplet", "pull", -1, "a number from 0 on"),
    ("hplf", "parts", -1, "a whole number from 1 on"),
    ("hplf", "mining", "hard", "one of 'global', 'local', 'both', 'each'"),
    ("hplf", "distance", "warped", "one of 'rigid', 'aligned'"),
    ("hplf", "local_margin", None, "a number"),
    ("pcb", "classifiers", "yes", "True or False"),
    ("alfo", "parts", 0, "a whole number from 1 on"),
    ("alfo", "focal_gamma", -1.0, "a number from 0 on"),
    ("alfo", "focal_alpha", 1.5, "a number from 0 to 1 or None"),
    ("alfo", "vote", "lowest", "one of 'stripe', 'image', 'mean'"),
    ("alfo", "loss", "bce", "one of 'softmax', 'focal', 'weighted'"),
    ("alfo", "blind_start", "no", "True or False"),
    ("domain", "target_p", 0, "a whole number from 1 on"),
    ("domain", "copies", -1, "a whole number from 1 on"),
    ("domain", "styles", "paint", "one of 'stargan', 'cyclegan', 'truth', 'truth_person', 'truth_ground'"),
    ("domain", "adapt", "both", "one of 'style', 'domain'"),
    ("domain_lstm", "branches", "tree", "one of 'global', 'parts', 'lstm'"),
    ("domain_lstm", "dropout", 1.1, "a number from 0 to 1"),
    ("camstyle", "fakes", 0, "a number above 0"),
    ("camstyle", "fake_labels", "none", "one of 'own', 'smooth', 'uniform'"),
    ("aligned_mm", "zero_gradient", "false", "True or False"),
    ("aligned_mm", "metric_mutual", -0.1, "a number from 0 on"),
    ("aligned_mm", "inner", Identity(), "a tuple"),
]


@dataclass(frozen=True)
class Sized:
    """A term with names that a recipe has too."""

    lr: float = 0.1
    size: int = 7
    key = "sized"

    def __call__(self, output, batch):
        return self.lr * output.features.sum()


@pytest.mark.parametrize(("name", "field", "given", "wanted"), NONSENSE, ids=lambda v: str(v)[:20])
def test_a_field_takes_no_nonsense(name, field, given, wanted):
    with pytest.raises(ValueError, match=f"{field} must be {wanted}, got "):
        recipe(name, **{field: given})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        # F17
        ({"losses": ()}, "nothing is learned: it has no loss term with a weight above 0"),
        ({"losses": (Identity(weight=0.0),)}, "nothing is learned"),
        ({"p": 1, "k": 1}, "batches of 1 x 1 hold no pairs to compare"),
        ({"k": 1}, "batches of 6 x 1 hold no pairs"),
        ({"label_noise": 1.0}, "label_noise must be below 1"),
        ({"warmup": 5.0}, "a warm-up of 5 epochs leaves nothing of 5"),
        ({"model": "resnet34"}, r"unknown model 'resnet34' \(did you mean 'resnet\d+'\?\): one of small, "),
        ({"model": "lomo"}, "lomo learns nothing, so it goes without heads, losses and extra"),
        # outputs that no head gives
        ({"losses": (LocalTriHard("rigid"),)}, "trihard needs 'local', which no head gives; there is embedding, "),
        ({"losses": (PartIdentity(),), "heads": (Stripes(8),)}, "parts needs 'part_logits', which no head gives"),
        ({"losses": (TriHard(on="local"),)}, "trihard needs 'local', which no head gives"),
        ({"losses": (OnStripes(),)}, "onstripes needs 'local', which no head gives"),
        ({"losses": (Identity(on="branch_logits"),)}, "identity needs 'branch_logits', which no head gives"),
        ({"losses": (AdaptedTriHard(),), "extra": TargetStyles()}, "trihard needs 'branch_features', which no head"),
        ({"losses": (Mutual((LocalTriHard("aligned"),)),)}, "trihard needs 'local', which no head gives"),
        ({"compare": "local"}, "compare is 'local'; there is embedding, features, logits"),
        ({"compare": "map"}, "compare is 'map'; there is embedding, features, logits"),
        ({"losses": (Verification(),), "compare": "pairs"}, "compare is 'pairs'; there is embedding, features$"),
        ({"losses": (TriHard(),), "compare": "logits"}, "compare is 'logits'; there is embedding, features$"),
        ({"heads": (Branches(),), "compare": "local"}, "compare is 'local'; there is branch_features, "),
        # keys
        ({"losses": (Identity(), Identity(on="embedding"))}, "two loss terms are called identity: join them, or give"),
        ({"losses": (TriHard(), MSML(), TriHard(margin=1.0))}, "two loss terms are called trihard"),
        ({"losses": (Identity(), Mutual((Identity(),)))}, "two loss terms are called identity"),
        ({"losses": (Mutual((TriHard(), TriHard(0.1))),)}, "two loss terms are called trihard"),
        ({"heads": (Stripes(8), Stripes(4))}, "two heads are called stripes"),
        ({"losses": (Attributes(),), "heads": (Attributes(),)}, "two heads are called attribute"),
        # what is no part
        ({"losses": ("trihard",)}, "'trihard' is no loss term: it cannot be called with"),
        ({"losses": (Mutual(("trihard",)),)}, "'trihard' is no loss term"),
        ({"losses": (TriHard,)}, r"TriHard is a class: write TriHard\(\)"),
        ({"heads": (Stripes,)}, r"Stripes is a class: write Stripes\(\)"),
        ({"heads": (TriHard(),)}, r"TriHard\(.*\) is no head: it has no build\(channels, facts\)"),
        ({"extra": "stargan", "losses": (Identity(), CopiesIdentity())}, "'stargan' is nothing that joins a batch"),
        # what joins a batch, and who looks at it
        ({"extra": TrainingCopies()}, "trainingcopies join the batch, and no loss term looks at them"),
        ({"losses": (Identity(), CopiesIdentity())}, "fakes needs pictures that join the batch"),
        (
            {"losses": (Identity(), CopiesIdentity(weight=0.0)), "extra": TrainingCopies()},
            "trainingcopies join the batch, and no loss term looks at them",
        ),
        (
            {"losses": (Identity(), AdaptedTriHard(on="features", weight=0.0)), "extra": TargetStyles()},
            "targetstyles join the batch, and no loss term looks at them",
        ),
    ],
    ids=lambda v: str(v)[:40],
)
def test_a_recipe_refuses(changes, says):
    with pytest.raises(ValueError, match=f"^recipe toy: {says}"):
        replace(TOY, **changes)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: Attributes(overlap=1.0), "overlap must be below 1, got 1.0"),
        (lambda: TrainingCopies(fakes=1.5), "fakes is a share of the real pictures, up to 1; got 1.5"),
        (lambda: Mutual((Identity(),), peer="resnet34"), "peer must be one of small, .*; got 'resnet34'"),
        (lambda: Mutual((Identity(),), peer="lomo"), "peer must be one of .*; got 'lomo'"),
        (lambda: Mutual((), class_mutual=0.0), "nothing is learned: no inner terms, class_mutual and metric_mutual"),
        (lambda: Mutual((CopiesIdentity(),)), "students see no pictures that join a batch"),
    ],
)
def test_a_part_refuses(made, says):
    with pytest.raises(ValueError, match=says):
        made()


@pytest.mark.parametrize("called", ["loss", "length", "lr", "epoch", "seconds"])
def test_a_term_may_not_take_a_name_of_history(called):
    def term(output, batch):
        return output.features.sum()

    term.__name__ = called
    with pytest.raises(ValueError, match=f"a loss term is called {called}, as history calls something else"):
        replace(TOY, losses=(term,))


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        (lambda: recipe("basline"), ValueError, r"unknown recipe 'basline' \(did you mean 'baseline'\?\); there are "),
        (lambda: recipe(None), ValueError, "unknown recipe None"),
        (lambda: recipe("ide", "fast"), ValueError, "unknown profile 'fast': take one of quick, full, laptop, photo"),
        (lambda: recipe("ide", "papers"), ValueError, r"unknown profile 'papers' \(did you mean 'paper'\?\)"),
        (lambda: recipe("ide", epoch=3), TypeError, r"ide has no field 'epoch' \(did you mean 'epochs'\?\)"),
        (lambda: recipe("ide", margin=0.3), TypeError, "ide has no field 'margin'"),
        (
            lambda: recipe("hplf", weight=2.0),
            TypeError,
            "hplf has 2 fields called 'weight': say which, identity_weight",
        ),
        (lambda: recipe("trihard", margin=0.1, trihard_margin=0.2), TypeError, "cannot be changed together"),
        (lambda: recipe("ide", losses=(TriHard(),), margin=0.1), TypeError, "no field 'margin'"),
        (lambda: recipe("lomo", epochs=2.5), ValueError, "epochs must be a whole number"),
    ],
)
def test_names_that_are_not_there(asked, error, says):
    with pytest.raises(error, match=says):
        asked()


# ---- what can be ----------------------------------------------------------------------------------------------------


def test_ones_own_parts_and_a_list_of_them():
    plan = Recipe("mine", losses=[Identity(), OnStripes(weight=0.5), own_loss], heads=[Stripes(4)])
    assert plan.losses == (Identity(), OnStripes(weight=0.5), own_loss) and plan.heads == (Stripes(4),)
    assert [key_of(term) for term in plan.terms] == ["identity", "onstripes", "own_loss"]
    assert recipe(plan, onstripes_weight=0.0).terms == (Identity(), own_loss)
    assert not plan.needs_pairs and plan.classifies and plan.built == (Stripes(4),)
    assert Recipe("other", losses=(own_loss,)).classifies is False


def test_what_a_recipe_needs():
    found = {name: (r.needs_pairs, r.needs_target, r.joins_pictures, r.needs_attributes) for name, r in RECIPES.items()}
    pairs, target, cameras, attributes = ({name for name, needs in found.items() if needs[i]} for i in range(4))
    nobody = {name for name in RECIPES if name.startswith("lsro")}
    posed = {"posebox", "glad", "spindle"}
    assert target == {"camera_style", "domain", "domain_lstm", "lstm_uda"} == cameras - {"camstyle", *posed} - nobody
    alfos = {"alfo", "alfo_printed", "alfo_no_focal", "alfo_local"}
    assert attributes == {"apr", "apr_focal", "apr_reweighted", "deepmar", "deepsar"} | alfos
    plain = {"untrained", "untrained_drawn", "ide", "ide_scratch", "pcb", "pcb_printed", "camstyle"} | attributes
    plain |= {"colour_histogram", "lomo", "stn_parts"} | nobody | posed
    assert pairs == set(RECIPES) - plain
    assert {name for name, r in RECIPES.items() if not r.learns} == {"colour_histogram", "lomo"}
    unclassified = {"verification", "contrastive", "triplet", "improved_triplet", "quadruplet", "trihard", "msml"}
    unclassified |= {"pcb", "pcb_printed", "alfo_local", "deepmar", "deepsar", "colour_histogram", "lomo"}
    unclassified |= {"triplet_unit", "quadruplet_unit", "trihard_unit", "aligned_alone", "apr_reweighted"}
    unclassified |= {name for name in RECIPES if name.startswith(("mined_", "memory"))}
    unclassified |= posed | {"siamese_lstm"}
    branched = {"direct", "camera_style", "domain", "domain_lstm", "lstm_uda"}
    assert {name for name, r in RECIPES.items() if not r.classifies} == unclassified | branched
    assert replace(RECIPES["ide"], fresh_norm=True).needs_target


def test_a_weight_of_0_takes_a_term_away_and_its_head_with_it():
    plan = recipe("apr", attribute_weight=0.0)
    assert plan.terms == (Identity(),) and plan.built == () and not plan.needs_attributes
    assert not recipe("baseline", trihard_weight=0.0).needs_pairs


@pytest.mark.parametrize("name", RECIPES)
def test_every_field_of_every_recipe_has_a_name_of_its_own(name):
    """Changed to what it is, nothing changes; and no two fields share a name."""
    plan = RECIPES[name]
    names = flat_names(plan)
    assert len(set(names.values())) == len(names)
    for flat, way in names.items():
        held = plan
        for step in way:
            held = held[step] if isinstance(step, int) else getattr(held, step)
        assert change(plan, **{flat: held}) == plan


def test_single_fields_by_their_names():
    assert recipe("trihard", margin=0.1).losses == (TriHard(0.1),) and recipe("trihard", margin=None).terms
    assert recipe("hplf", parts=4, mining="each", identity_weight=2.0) == replace(
        RECIPES["hplf"], heads=(Stripes(4),), losses=(Identity(2.0), LocalTriHard("rigid", mining="each"))
    )
    assert recipe("alfo", attribute_parts=3) == recipe("alfo", parts=3)
    assert recipe("ide", epochs=np.int64(20), lr=np.float32(0.5)) == recipe("ide", epochs=20, lr=0.5)
    assert recipe("ide", erase=0.2).augmentation == Augmentation(colour=0.1, erase=0.2)
    assert recipe("ide", augmentation=None).augmentation is None
    assert recipe("ide", name="mine", title="Mine") == replace(RECIPES["ide"], name="mine", title="Mine")


# ---- profiles -------------------------------------------------------------------------------------------------------

PAPER = {
    "size": (256, 128), "epochs": 120, "optimizer": "adam", "lr": 3.5e-4, "weight_decay": 5e-4, "warmup": 10.0,
    "schedule": "step", "steps": (40, 70), "augmentation": Augmentation(), "weights": "imagenet",
}  # fmt: skip
PHOTO = {"size": (128, 64), "epochs": 20, "lr": 1.5e-3, "weight_decay": 0.4, "weights": "imagenet"}
LSTM_PAPER = {
    "epochs": 30, "lr": 3e-4, "warmup": 0.0, "steps": (20,), "flip_test": False,
    "augmentation": Augmentation(pad=0.0, erase=0.0, crop=0.64),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_profile_changes(name):
    """Nothing else: whatever is not said here is the recipe's own."""
    plan, scratch = RECIPES[name], name.endswith("_scratch")
    settings = {"quick": {}, "full": {}, "laptop": {"size": (64, 32), "epochs": 12, "warmup": 1.0}}
    own = LSTM_PAPER if plan.needs_target or name == "direct" else {}
    settings["photo"] = PHOTO | {"model": "lite0"}
    settings["paper"] = PAPER | own | {"model": plan.model.replace("small", "resnet50")}
    if scratch:
        settings["photo"] |= {"weights": None, "lr": 3e-3}
        settings["paper"] |= {"weights": None, "epochs": 300, "schedule": "cosine"}
    if plan.weights == "drawn":  # a start of the small networks alone: a run says so, and takes no other
        settings = {profile: more | {"weights": "drawn"} for profile, more in settings.items()}
    if not plan.epochs:
        settings = {profile: more | {"epochs": 0} for profile, more in settings.items()}
    if not plan.learns:
        settings = dict.fromkeys(settings, {}) | dict.fromkeys(("photo", "paper"), {"size": (128, 64)})
    for profile in PROFILES:
        found = recipe(name, profile)
        for field in fields(plan):
            if field.name != "losses":
                wanted = settings[profile].get(field.name, getattr(plan, field.name))
                assert getattr(found, field.name) == wanted, (profile, field.name)
        wanted = plan.losses
        if profile == "photo":
            wanted = tuple(replace(loss, peer="lite0") if isinstance(loss, Mutual) else loss for loss in wanted)
        if profile == "paper":
            wanted = tuple(
                replace(loss, peer=loss.peer.replace("small", "resnet50")) if isinstance(loss, Mutual) else loss
                for loss in wanted
            )
            wanted = (replace(wanted[0], smoothing=0.0), *wanted[1:]) if own else wanted
        assert found.losses == wanted, profile


def test_a_larger_peer_in_the_same_form():
    """Two students of one size: the second in its Xception form, as in AlignedReID."""
    (mutual,) = recipe("aligned_mm", "paper").losses
    assert mutual.peer == "resnet50_xception" and recipe("aligned_mm", "paper").model == "resnet50"
    assert recipe("aligned_x", "paper").model == "resnet50_xception"
    assert recipe("aligned_mm", "paper", peer="small").losses[0].peer == "small"
    assert recipe("aligned_mm", "laptop").losses == RECIPES["aligned_mm"].losses
    assert recipe(replace(RECIPES["ide"], model="resnet18"), "paper").model == "resnet50", "all rows have one size"


def test_a_recipe_may_be_called_like_a_backbone():
    plan = Recipe("small", "small_xception", losses=(Identity(),))
    found = recipe(plan, "paper")
    assert (found.name, found.title, found.model) == ("small", "small_xception", "resnet50")
    assert set(BACKBONES) == {"small", "small_xception", "lite0", "resnet18", "resnet50", "resnet50_xception"}


def test_what_is_changed_goes_before_what_a_profile_says():
    """Also one field of a value that the profile replaces, which once was lost without a word."""
    assert recipe("ide", "paper", erase=0.2).augmentation == Augmentation(erase=0.2)
    assert recipe("ide", "paper", epochs=3, warmup=0.0, model="small").epochs == 3
    assert recipe("lstm_uda", "paper", identity_smoothing=0.1).losses[0].smoothing == 0.1
    assert recipe("lstm_uda", "paper", losses=RECIPES["lstm_uda"].losses).losses[0].smoothing == 0.1
    long = replace(RECIPES["ide"], epochs=200, warmup=40.0)
    assert recipe(long, "laptop", epochs=200).epochs == 200, "12 would be shorter than the warm-up"


def test_a_start_that_a_larger_network_has_not_is_refused():
    """It was ImageNet's, silently, and the ledger would have judged what drawn people are worth by it."""
    for profile in ("photo", "paper"):
        plan = recipe("baseline_drawn", profile)
        with pytest.raises(ValueError, match="drawn"):
            check_weights(plan.model, plan.weights)


def test_a_profile_means_the_recipes_own_fields():
    """A reader's part may have a rate or a size of its own."""
    plan = Recipe("own", losses=(Identity(), Sized()))
    assert (recipe(plan, "photo").lr, recipe(plan, "photo").losses[1].lr) == (1.5e-3, 0.1)
    assert (recipe(plan, "laptop").size, recipe(plan, "laptop").losses[1].size) == ((64, 32), 7)


def test_a_random_start_has_its_own_rate_and_schedule():
    assert recipe("ide", "photo", weights=None).lr == 3e-3 and recipe("ide", "photo", weights=None, lr=0.5).lr == 0.5
    plan = recipe("baseline", "paper", weights=None)
    assert (plan.weights, plan.epochs, plan.schedule) == (None, 300, "cosine")


def test_the_lstm_papers_own_settings():
    """Section 3.2; a random start keeps its own schedule."""
    plan = recipe("lstm_uda", "paper")
    assert (plan.model, plan.size, plan.optimizer, plan.lr, plan.epochs) == ("resnet50", (256, 128), "adam", 3e-4, 30)
    identity, trihard = plan.losses
    assert (trihard.weight, trihard.margin, plan.heads[0].dropout, identity.smoothing) == (0.3, 0.5, 0.5, 0.0)
    assert (plan.heads, plan.pooling) == ((Branches("lstm"),), "both")
    assert plan.augmentation == Augmentation(flip=0.5, pad=0.0, erase=0.0, crop=0.64) and plan.compare == "features"
    assert recipe("lstm_uda", "paper", weights=None).epochs == 300
