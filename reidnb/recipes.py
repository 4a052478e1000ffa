"""Recipes: one named value for each row of a table, and what each profile changes in them.

>>> print(recipe("baseline", "quick"))
>>> recipe("hplf", parts=4, mining="each")  # single fields by their flat names, wherever they sit

A recipe is made of values: heads on the network, terms of the loss, pictures that join a batch. What such a part may
have is said in `reidnb.methods`; one of your own, from a notebook's cell, goes where ours go.
"""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Annotated, Any, Literal

from reidnb.batches import Augmentation
from reidnb.descriptors import DESCRIPTORS
from reidnb.methods.adaptation import AdaptedTriHard, Branches, CopiesIdentity, TargetStyles, TrainingCopies
from reidnb.methods.attributes import Attributes
from reidnb.methods.generated import GeneratedPictures, NobodyIdentity
from reidnb.methods.identification import Identity, Verification
from reidnb.methods.latent_parts import LatentParts
from reidnb.methods.metric import MSML, Contrastive, ImprovedTriplet, Quadruplet, TriHard, Triplet
from reidnb.methods.mining import Matching, Mined, Remembered
from reidnb.methods.mutual import Mutual
from reidnb.methods.parts import all_parts, needed
from reidnb.methods.pose_parts import PoseParts, PoseStreams
from reidnb.methods.reweighting import ReweightedIdentity
from reidnb.methods.siamese_lstm import StripeLSTM
from reidnb.methods.spindle import SpindleRegions, SpindleTree
from reidnb.methods.stripes import LocalTriHard, PartIdentity, Stripes
from reidnb.methods.unit import UnitLength
from reidnb.models import BACKBONES
from reidnb.network import GIVEN, PAIRWISE, ReIDModel, build_model
from reidnb.profiles import DESCRIBED, OWN, PROFILES, SCRATCH
from reidnb.training import HISTORY
from reidnb.values import (
    Count,
    Positive,
    Share,
    Weight,
    Within,
    change,
    did_you_mean,
    flat_names,
    key_of,
    places,
    value,
)


@value
class Recipe:
    """Everything that decides what a model becomes, apart from the data and the seed."""

    name: str
    title: str = ""
    # the network
    model: str = "small"  # one of reidnb.models.BACKBONES, or of reidnb.descriptors.DESCRIPTORS, which learn nothing
    weights: str | None = "distilled"  # where it starts: "distilled", "drawn", "imagenet", None (random) or a file
    last_stride: Literal[1, 2] = 1  # of a ResNet or Lite0
    pooling: Literal["avg", "max", "both"] = "avg"  # of the map; "both": their sum
    width: Count | None = None  # values of a feature, by a linear layer behind the pooling; None: those of the map
    heads: tuple = ()
    size: tuple[Count, Count] = (64, 32)  # height and width of the pictures
    # the batches
    p: Count = 16  # identities in a batch
    k: Count = 4  # images of each
    augmentation: Augmentation | None = Augmentation(colour=0.1)
    label_noise: Share = 0.0  # share of the training images that carry another person's label
    extra: Any = None  # pictures that join each batch: TargetStyles, TrainingCopies
    # the loss, and how it is brought down
    losses: tuple = ()
    epochs: Annotated[int, Within(0)] = 6  # 0: the start as it is
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: Positive = 3e-3
    weight_decay: Weight = 0.4
    warmup: Weight = 0.5  # epochs
    schedule: Literal["cosine", "step"] = "cosine"  # or "step": a factor 0.1 at each of `steps`
    steps: tuple[Count, ...] = ()
    # the test
    compare: str = "embedding"  # what the network says of a picture, and its distance is Euclidean; stripes in a row
    flip_test: bool = True  # average a picture's embedding with its mirror image's
    fresh_norm: bool = False  # batch norm's statistics are taken from the target at the end (AdaBN)

    def __post_init__(self):
        if self.model not in (*BACKBONES, *DESCRIPTORS):
            known = (*BACKBONES, *DESCRIPTORS)
            self._refuse(f"unknown model {self.model!r}{did_you_mean(self.model, known)}: one of {', '.join(known)}")
        if self.learns:
            self._check_parts()
            self._check_outputs()
            self._check_batches()
        elif self.heads or self.losses or self.extra:
            self._refuse(f"{self.model} learns nothing, so it goes without heads, losses and extra")

    def _check_parts(self):
        terms = tuple(all_parts(self.terms))
        if classes := [part for part in (*self.heads, *self.losses) if isinstance(part, type)]:
            self._refuse(f"{classes[0].__name__} is a class: write {classes[0].__name__}()")
        if not terms:
            self._refuse("nothing is learned: it has no loss term with a weight above 0, such as Identity()")
        if uncalled := [term for term in terms if not callable(term)]:
            self._refuse(f"{uncalled[0]!r} is no loss term: it cannot be called with (output, batch)")
        if unbuilt := [head for head in self.heads if not hasattr(head, "build")]:
            self._refuse(f"{unbuilt[0]!r} is no head: it has no build(channels, facts)")
        for what, parts in (("loss terms", terms), ("heads", self.built)):
            keys = [key_of(part) for part in parts]
            if twice := sorted({key for key in keys if keys.count(key) > 1}):
                self._refuse(f"two {what} are called {', '.join(twice)}: join them, or give one of them another `key`")
        if taken := [key_of(term) for term in terms if key_of(term) in HISTORY]:
            self._refuse(f"a loss term is called {taken[0]}, as history calls something else: give it another `key`")
        if self.extra is not None and not hasattr(self.extra, "bind"):
            self._refuse(f"{self.extra!r} is nothing that joins a batch: it has no bind(recipe, data, device)")

    def _check_outputs(self):
        gives = {*GIVEN, *(name for part in self.parts for name in getattr(part, "gives", ()))}
        for what, wanted in ((key_of(term), name) for term in all_parts(self.terms) for name in needed(term)):
            if wanted not in gives:
                self._refuse(f"{what} needs {wanted!r}, which no head gives; there is {', '.join(sorted(gives))}")
        comparable = gives - {"map", *PAIRWISE} - ({"logits"} if not self.classifies else set())
        if self.compare not in comparable:
            self._refuse(f"compare is {self.compare!r}; there is {', '.join(sorted(comparable))}")

    def _check_batches(self):
        terms = self.terms
        if joined := [key_of(term) for term in terms if getattr(term, "sees_joined", False)]:
            if self.extra is None:
                self._refuse(f"{joined[0]} needs pictures that join the batch (extra), and there are none")
        elif self.extra is not None:
            self._refuse(f"{key_of(self.extra)} join the batch, and no loss term looks at them")
        if self.needs_pairs and (self.p < 2 or self.k < 2):
            self._refuse(f"batches of {self.p} x {self.k} hold no pairs to compare: p and k must be at least 2")
        if self.label_noise >= 1:
            self._refuse("label_noise must be below 1: some labels must be right")
        if self.epochs and self.warmup >= self.epochs:
            self._refuse(f"a warm-up of {self.warmup:g} epochs leaves nothing of {self.epochs}: set warmup, too")

    def _refuse(self, why):
        raise ValueError(f"recipe {self.name}: {why}")

    @property
    def learns(self) -> bool:
        return self.model not in DESCRIPTORS

    @property
    def terms(self) -> tuple:
        """The loss terms that weigh something."""
        return tuple(loss for loss in self.losses if getattr(loss, "weight", 1.0) != 0)

    @property
    def parts(self) -> tuple:
        """Heads and loss terms, those inside others too."""
        return tuple(all_parts((*self.heads, *self.terms)))

    @property
    def built(self) -> tuple:
        """The parts that have a head."""
        return tuple(part for part in self.parts if hasattr(part, "build"))

    @property
    def classifies(self) -> bool:
        """Whether a term looks at the classifier's logits."""
        return any("logits" in needed(part) for part in self.parts)

    @property
    def needs_pairs(self) -> bool:
        """Whether a term compares images of one person, which only P x K batches are sure to hold."""
        return any(getattr(term, "pairs", False) for term in self.terms)

    @property
    def needs_target(self) -> bool:
        """Whether it learns from another domain's pictures, source->target."""
        return self.fresh_norm or getattr(self.extra, "needs_target", False)

    @property
    def joins_pictures(self) -> bool:
        """Whether more pictures join each batch: copies for other cameras, parts cut by key points, people painted."""
        return self.extra is not None

    @property
    def needs_attributes(self) -> bool:
        """Whether it learns what a dataset knows of people's looks."""
        return any(getattr(part, "needs_attributes", False) for part in self.parts)

    def network(self, facts: dict, weights: str | None = None) -> ReIDModel:
        """Its network, for a dataset of which `facts` are known: how many "classes", and what its heads asked for."""
        classes, parts = facts["classes"] * self.classifies, self.built
        shape = self.pooling, self.width, self.last_stride
        return build_model(self.model, classes, weights, parts, *shape, facts=facts)


# A metric loss alone trains the features before the neck. The rate, one for all but MSML, was chosen on
# synthetic_validation with one seed among 3e-4, 1e-3 and 3e-3; batches, margins and weights stand from the first start.
ALONE = {"compare": "features"}
UNIT = ALONE | {"heads": (UnitLength(),)}  # the loss acts on features of unit length
IDE, BASELINE = (Identity(),), (Identity(), TriHard())
HPLF, ALIGNED = (Identity(), LocalTriHard("rigid")), (Identity(), LocalTriHard("aligned"))
STRIPES = {"heads": (Stripes(8, width=128),)}
BCE = {"focal_gamma": 0.0, "focal_alpha": None}
# The LSTM paper's: theta 0.3, margin 0.5, a branch in place of the neck, POOL-5 compared.
UDA = {"heads": (Branches("global"),), "compare": "features"}
BRANCH_IDE = Identity(on="branch_logits")
DIRECT = (BRANCH_IDE, TriHard(margin=0.5, weight=0.3, on="branch_features"))
STYLE, DOMAIN = (BRANCH_IDE, AdaptedTriHard("style")), (BRANCH_IDE, AdaptedTriHard("domain"))
LSTM = UDA | {"heads": (Branches("lstm"),), "losses": DOMAIN, "extra": TargetStyles()}
STREAMS = {"compare": "whole_embedding"}  # whole and parts have necks of their own
POSEBOX, SPINDLE = STREAMS | {"extra": PoseParts("posebox3")}, STREAMS | {"extra": SpindleRegions()}
READ = {"heads": (StripeLSTM(),), "compare": "read"}
X = {"model": "small_xception"}
MC = {"peer": "small_xception", "class_mutual": 1.0}  # classification mutual loss
MM = MC | {"metric_mutual": 0.1}  # and metric mutual loss
EQUAL = MM | {"peer": "small"}
LSRO = (Identity(), NobodyIdentity())

RECIPES = {
    r.name: r
    for r in (
        Recipe("colour_histogram", "Colour histogram, nothing learned", model="colour_histogram", weights=None),
        Recipe("untrained", "The start, untrained", losses=IDE, epochs=0, compare="features"),
        Recipe(
            "untrained_drawn", "The drawn start, untrained", losses=IDE, epochs=0, compare="features", weights="drawn"
        ),
        Recipe("ide", "Identification (IDE)", losses=IDE),
        Recipe("ide_scratch", "Identification (IDE) from scratch", losses=IDE, weights=None),
        Recipe("baseline", "Identification + TriHard: our baseline", losses=BASELINE),
        Recipe("baseline_scratch", "Our baseline from scratch", losses=BASELINE, weights=None),
        Recipe("baseline_drawn", "Our baseline from the drawn start", losses=BASELINE, weights="drawn"),
        # notebook 01
        Recipe("verification", "Verification", losses=(Verification(),)),
        Recipe("ide_verification", "Identification + verification", losses=(Identity(), Verification(weight=0.2))),
        Recipe("contrastive", "Contrastive", losses=(Contrastive(margin=2.0),), **ALONE),
        Recipe("triplet", "Triplet", losses=(Triplet(),), **ALONE),
        Recipe("improved_triplet", "Improved triplet", losses=(ImprovedTriplet(pull=0.002),), **ALONE),
        Recipe("quadruplet", "Quadruplet", losses=(Quadruplet(),), **ALONE),
        Recipe("trihard", "TriHard", losses=(TriHard(),), **ALONE),
        Recipe("msml", "MSML", losses=(MSML(),), p=4, **ALONE | {"lr": 1e-3}),
        Recipe("triplet_unit", "Triplet, unit length", losses=(Triplet(on="unit"),), **UNIT),
        Recipe("quadruplet_unit", "Quadruplet, unit length", losses=(Quadruplet(on="unit"),), **UNIT),
        Recipe("trihard_unit", "TriHard, unit length", losses=(TriHard(on="unit"),), **UNIT),
        Recipe("ide_contrastive", "Identification + contrastive", losses=(Identity(), Contrastive())),
        Recipe("ide_triplet", "Identification + triplet", losses=(Identity(), Triplet())),
        Recipe(
            "ide_improved_triplet",
            "Identification + improved triplet",
            losses=(Identity(), ImprovedTriplet(pull=0.002)),
        ),
        Recipe("ide_quadruplet", "Identification + quadruplet", losses=(Identity(), Quadruplet())),
        Recipe("ide_msml", "Identification + MSML", losses=(Identity(), MSML()), p=4),
        # notebook 02: a ladder of sampling; its other rungs are triplet, trihard and msml
        Recipe("mined_random", "Triplets at random", losses=(Mined("random"),), **ALONE),
        Recipe("mined_above_zero", "All triplets above zero", losses=(Mined("above_zero"),), **ALONE),
        Recipe("mined_semi_hard", "Semi-hard triplets", losses=(Mined("semi_hard"),), **ALONE),
        Recipe("mined_distance", "Distance-weighted triplets", losses=(Mined("distance"),), **ALONE),
        Recipe("memory", "The hardest of 1,024 images gone by", losses=(Remembered("hard"),), **ALONE),
        Recipe("memory_above_zero", "A memory, all above zero", losses=(Remembered("above_zero"),), **ALONE),
        Recipe("ide_memory", "Identification + memory", losses=(Identity(), Remembered("hard"))),
        Recipe("ide_matching", "Identification + matching, mined", losses=(Identity(), Matching()), flip_test=False),
        # notebook 03
        Recipe("hplf", "HPLF: the baseline + rigid stripes", losses=HPLF, **STRIPES),
        Recipe(
            "pcb",
            "PCB: a classifier a stripe",
            heads=(Stripes(8, width=128, classifiers=True),),
            losses=(PartIdentity(),),
            compare="local",
        ),
        # as the papers print them: HPLF's own mining, lambda 1, no 1x1 convolution and no unit length; AlignedReID's
        # stripes without unit length, of equal weight; PCB's 256 values and a sum of losses
        Recipe(
            "hplf_printed",
            "HPLF as printed",
            heads=(Stripes(8, width=None, norm=False, unit=False),),
            losses=(Identity(), LocalTriHard("rigid", local_weight=1.0, mining="each")),
        ),
        Recipe(
            "aligned_printed",
            "AlignedReID as printed",
            heads=(Stripes(8, width=128, unit=False),),
            losses=(Identity(), LocalTriHard("aligned", local_weight=1.0)),
        ),
        Recipe(
            "pcb_printed",
            "PCB as printed: 256 values a stripe, summed losses",
            heads=(Stripes(8, width=256, classifiers=True),),
            losses=(PartIdentity(weight=8.0),),
            compare="local",
        ),
        # notebook 04
        Recipe("apr", "APR: identification + attributes", losses=(Identity(), Attributes())),
        Recipe(
            "apr_reweighted",
            "APR with its re-weighting module",
            losses=(Attributes(), ReweightedIdentity()),
            compare="reweighted",
        ),
        Recipe("apr_focal", "APR with focal loss", losses=(Identity(), Attributes("focal"))),
        Recipe("alfo", "ALFO: six overlapping stripes vote", losses=(Identity(), Attributes("focal", parts=6))),
        Recipe(
            "alfo_printed",
            "ALFO as printed: a plain sum over attributes",
            losses=(Identity(), Attributes("focal", parts=6, weight=12.0)),
        ),
        Recipe("alfo_no_focal", "ALFO without focal loss", losses=(Identity(), Attributes("focal", parts=6, **BCE))),
        Recipe("alfo_local", "ALFO's stripes alone, no identities", losses=(Attributes("focal", parts=6),)),
        Recipe("deepmar", "DeepMAR: attributes alone, all at once", losses=(Attributes("weighted"),)),
        Recipe("deepsar", "DeepSAR: one attribute alone (gender)", losses=(Attributes(question="gender"),)),
        # notebook 05
        Recipe("lomo", "LOMO, a small form: nothing learned", model="lomo", weights=None),
        Recipe("direct", "Direct transfer: the source alone", losses=DIRECT, **UDA),
        Recipe("camera_style", "+ camera style", losses=STYLE, extra=TargetStyles(), **UDA),
        Recipe("domain", "+ domain loss", losses=DOMAIN, extra=TargetStyles(), **UDA),
        Recipe("domain_lstm", "+ LSTM branch", **LSTM),
        Recipe("lstm_uda", "The whole: + max pooling", pooling="both", **LSTM),
        Recipe(
            "camstyle",
            "CamStyle: identification + copies, smoothed",
            losses=(Identity(), CopiesIdentity()),
            extra=TrainingCopies(fakes=1 / 3),
        ),
        # notebook 06
        Recipe("aligned", "AlignedReID: the baseline + aligned stripes", losses=ALIGNED, **STRIPES),
        Recipe(
            "aligned_alone", "AlignedReID without identification", losses=(LocalTriHard("aligned"),), **STRIPES | ALONE
        ),
        Recipe("baseline_x", "The baseline in its Xception form", losses=BASELINE, **X),
        Recipe("aligned_x", "AlignedReID in its Xception form", losses=ALIGNED, **X | STRIPES),
        Recipe("baseline_mc", "The baseline + MC", losses=(Mutual(BASELINE, **MC),)),
        Recipe("baseline_mm", "The baseline + MC + MM", losses=(Mutual(BASELINE, **MM),)),
        Recipe("baseline_mm_equal", "The baseline + MC + MM, two equal students", losses=(Mutual(BASELINE, **EQUAL),)),
        Recipe("aligned_mc", "AlignedReID + MC", losses=(Mutual(ALIGNED, **MC),), **STRIPES),
        Recipe("aligned_mm", "AlignedReID + MC + MM", losses=(Mutual(ALIGNED, **MM),), **STRIPES),
        # notebook 09
        Recipe("glad", "GLAD: head, upper, lower, whole", losses=(PoseStreams(3),), extra=PoseParts("glad"), **STREAMS),
        Recipe("posebox", "PoseBox: the whole and an upright body", losses=(PoseStreams(1),), **POSEBOX),
        Recipe("spindle", "Spindle Net: regions merged by a tree", losses=(SpindleTree(),), **SPINDLE),
        Recipe("stn_parts", "Latent parts by a spatial transformer", losses=(Identity(), LatentParts())),
        Recipe("siamese_lstm", "Siamese LSTM over stripes", losses=(Contrastive(2.0, on="read"),), **READ),
        # notebook 11
        Recipe("lsro", "LSRO: identification + DCGAN's pictures of nobody", losses=LSRO, extra=GeneratedPictures()),
        Recipe(
            "lsro_all_in_one",
            "All in one: DCGAN's pictures as one class more",
            losses=(Identity(), NobodyIdentity("one_more")),
            extra=GeneratedPictures(),
        ),
        Recipe(
            "lsro_pseudo",
            "Pseudo labels: DCGAN's pictures as whoever they look like",
            losses=(Identity(), NobodyIdentity("predicted")),
            extra=GeneratedPictures(),
        ),
        Recipe("lsro_noise", "LSRO with images of noise", losses=LSRO, extra=GeneratedPictures(painter="noise")),
        Recipe(
            "lsro_strangers", "LSRO with drawn strangers", losses=LSRO, extra=GeneratedPictures(painter="strangers")
        ),
    )
}


def recipe(name: str | Recipe, /, profile: str = "quick", **changes: Any) -> Recipe:
    """The recipe called `name` (or a Recipe) under a profile, with single fields changed by their flat names.

    Raises ValueError for an unknown recipe or profile, TypeError for a field that the recipe has not, or has twice.
    """
    if profile not in PROFILES:
        near = did_you_mean(profile, PROFILES)
        raise ValueError(f"unknown profile {profile!r}{near}: take one of {', '.join(PROFILES)}")
    if isinstance(name, Recipe):
        base = name
    elif name in RECIPES:
        base = RECIPES[name]
    else:
        raise ValueError(f"unknown recipe {name!r}{did_you_mean(name, RECIPES)}; there are {', '.join(RECIPES)}")
    if not base.learns:
        return change(base, **DESCRIBED.get(profile, {}) | changes)
    settings = PROFILES[profile] | dict(_larger(base, PROFILES[profile])) | OWN.get(profile, {}).get(base.name, {})
    if changes.get("weights", base.weights) is None:
        settings |= SCRATCH.get(profile, {})
    if base.epochs == 0:  # not trained under any profile
        settings.pop("epochs", None)
    if base.weights == "drawn":  # whoever has none refuses it: another start would be another claim
        settings.pop("weights", None)
    settings = {field: given for field, given in settings.items() if field not in changes}
    own = {name: settings.pop(name) for name in [f.name for f in fields(Recipe)] if name in settings}
    return change(change(replace(base, **own), **settings), **changes)


def _larger(base: Recipe, settings: dict) -> Iterator[tuple[str, str]]:
    """A profile's larger backbone wherever the recipe has a small one, in the same form where it has that."""
    ways, larger = {way: flat for flat, way in flat_names(base).items()}, settings.get("model")
    for place in places(base) if "model" in settings else ():
        if place.way not in (("name",), ("title",)) and str(place.held) in BACKBONES and "small" in place.held:
            form = larger + place.held.removeprefix("small")
            yield ways[place.way], form if form in BACKBONES else larger
