"""Recipes: one named value for each row of a table, and what each profile changes in them.

>>> print(recipe("baseline", "quick"))
"""

import difflib
from dataclasses import dataclass, field, fields, replace

from reidnb.batches import Augmentation
from reidnb.descriptors import DESCRIPTORS
from reidnb.models import BRANCHES, MODELS

__all__ = ["ACROSS", "DOMAINS", "METRICS", "ON_WINTER", "PROFILES", "RECIPES", "VARIATIONS", "Recipe", "recipe"]

METRICS = ("contrastive", "triplet", "improved_triplet", "quadruplet", "trihard", "msml")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a model becomes, apart from the data and the seed."""

    name: str
    title: str
    # the model
    model: str = "small"  # one of reidnb.models.MODELS, or of reidnb.descriptors.DESCRIPTORS, which learn nothing
    weights: str | None = "drawn"  # where the backbone starts: "drawn", "imagenet", None (random) or a file
    last_stride: int = 1  # of a ResNet
    pooling: str = "avg"  # of the map: "avg", "max", or "both", their sum
    width: int | None = None  # values of a feature, by a linear layer behind the pooling; None: those of the map
    branches: str | None = None  # one of reidnb.models.BRANCHES: the LSTM paper's, in place of neck and classifier
    dropout: float = 0.5  # in them
    size: tuple[int, int] = (64, 32)  # height and width of the pictures
    # the batches
    p: int = 16  # identities in a batch
    k: int = 4  # images of each
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(colour=0.1))
    # the losses
    identity_weight: float = 1.0  # of the cross-entropy over training identities
    label_smoothing: float = 0.1
    metric: str | None = None  # one of METRICS
    metric_weight: float = 1.0
    margin: float | None = 0.3  # None: soft margin, of TriHard only
    margin2: float = 0.15  # of the quadruplet loss's second hinge
    pull: float = 1.0  # weight of d(a, p) in the improved triplet loss
    verification_weight: float = 0.0  # of the siamese question: one person or two?
    label_noise: float = 0.0  # share of the training images that carry another person's label
    # the local branch
    parts: int = 0  # horizontal stripes of a picture; 0: no local branch
    local_width: int | None = 128  # values of a stripe, after a 1x1 convolution; None: those of the map, without one
    local: str | None = None  # distance between two pictures' stripes: "rigid" or "aligned"; TriHard acts on it
    local_weight: float = 0.3
    local_margin: float = 0.3
    mining: str = "global"  # what chooses the triplets: "global", "local", "both" (their sum); "each" for itself
    part_weight: float = 0.0  # of the cross-entropy of a classifier for each stripe (PCB)
    # attributes
    attribute_weight: float = 0.0  # of the loss over a dataset's questions; identity_weight is the papers' lambda
    attribute_loss: str = "softmax"  # or "focal", "weighted" (DeepMAR): see losses.attribute_costs
    focal_gamma: float = 2.0
    focal_alpha: float | None = 0.25  # None: no balance
    blind_start: bool = True  # classifiers begin at the best answer without looking; False: at a half
    attribute_parts: int = 1  # overlapping stripes that answer; 1: the whole body
    attribute_overlap: float = 0.5  # what a stripe shares with the next, as a share of its height
    vote: str = "stripe"  # whose answer counts, see losses.voted_loss: "stripe", "image" or, all alike, "mean"
    question: str | None = None  # the only one asked; None: all that the dataset answers
    # another domain, known by its pictures and cameras alone
    adapt: str | None = None  # what the metric loss does with them: "style", for themselves; "domain", beside ours
    target_p: int = 16  # of its pictures in a batch
    copies: int = 3  # of each beside it, in the styles of other cameras drawn by lot (the paper paints all of them)
    styles: str = "stargan"  # who paints the copies; "truth": the built-in world draws them anew, for other cameras
    fresh_norm: bool = False  # batch norm's statistics are taken from the target at the end (AdaBN)
    # generated pictures of the training people
    fakes: float = 0.0  # in a batch, as a share of the real ones: copies in the styles of other cameras (CamStyle)
    fake_labels: str = "smooth"  # "own": they are who they were; "smooth": by 0.9 (LSR); "uniform": nobody (LSRO)
    # mutual learning
    peer: str | None = None  # the other student: one of reidnb.models.MODELS
    class_mutual: float = 0.0  # weight of the KL divergence between the students' classifications
    metric_mutual: float = 0.0  # weight of the squared difference of their distances
    zero_gradient: bool = True  # of the latter: each student takes the other's distances as given
    # the schedule
    epochs: int = 8
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.4
    warmup: float = 1.0  # epochs
    schedule: str = "cosine"  # or "step": a factor 0.1 at each of `steps`
    steps: tuple[int, ...] = ()
    # the test
    compare: str = "embedding"  # or "features": after the BNNeck or before it; "local", "branch_features": in a row
    flip_test: bool = True  # average a picture's embedding with its mirror image's

    def __post_init__(self):
        allowed = {
            "model": (*MODELS, *DESCRIPTORS),
            "optimizer": ("adamw", "adam", "sgd"),
            "schedule": ("cosine", "step"),
            "metric": (None, *METRICS),
            "compare": ("embedding", "features", "local", "branch_features"),
            "pooling": ("avg", "max", "both"),
            "branches": (None, *BRANCHES),
            "adapt": (None, "style", "domain"),
            "styles": ("stargan", "truth"),
            "fake_labels": ("own", "smooth", "uniform"),
            "local": (None, "rigid", "aligned"),
            "mining": ("global", "local", "both", "each"),
            "peer": (None, *MODELS),
            "attribute_loss": ("softmax", "focal", "weighted"),
            "vote": ("stripe", "image", "mean"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"recipe {self.name}: {name} must be one of {values}, got {getattr(self, name)!r}")
        if self.margin is None and self.metric not in (None, "trihard"):
            raise ValueError(f"recipe {self.name}: only TriHard has a soft margin; {self.metric} needs a number")
        if self.local and (self.metric != "trihard" or self.margin is None):
            given = f"{self.metric!r} with margin {self.margin}"
            raise ValueError(f"recipe {self.name}: local distances go with TriHard and a margin, got {given}")
        if self.parts < 0 or self.parts < 1 and (self.local or self.part_weight or self.compare == "local"):
            raise ValueError(f"recipe {self.name}: local features need stripes; parts is {self.parts!r}, 8 is usual")
        others = self.local or self.peer or self.verification_weight
        if self.adapt and (not self.metric or self.fakes or others):
            given = "stripes, verification, peer or fakes"
            raise ValueError(f"recipe {self.name}: adapting needs a metric loss, without {given}")
        if self.fakes and (self.branches or self.metric or others or not 0 < self.fakes <= 1):
            given = f"{self.fakes!r} with metric {self.metric!r} and branches {self.branches!r}"
            raise ValueError(f"recipe {self.name}: fakes, a share up to 1, go with plain identification; got {given}")
        if self.compare == ("local" if self.branches else "branch_features"):
            given = f"{self.compare!r} to compare with branches={self.branches!r}"
            raise ValueError(f"recipe {self.name}: there is no {given}")
        if self.width is not None and (self.width < 1 or self.branches):
            given = f"{self.width!r} with branches={self.branches!r}"
            raise ValueError(f"recipe {self.name}: width is a number of values and goes without branches, got {given}")
        if self.branches and (self.local or self.part_weight or self.verification_weight or self.peer):
            raise ValueError(f"recipe {self.name}: branches go without stripes, verification and peer")
        if self.peer is None and (self.class_mutual or self.metric_mutual):
            raise ValueError(f"recipe {self.name}: mutual learning needs a second student; peer is None")
        if self.attribute_parts < 1 or not 0 <= self.attribute_overlap < 1:
            given = f"{self.attribute_parts!r} and {self.attribute_overlap!r}"
            raise ValueError(f"recipe {self.name}: attributes need a stripe and an overlap from 0 to 1, got {given}")
        if not self.focal_gamma >= 0 or self.focal_alpha is not None and not 0 <= self.focal_alpha <= 1:
            given = f"{self.focal_gamma!r} and {self.focal_alpha!r}"
            raise ValueError(f"recipe {self.name}: focal loss needs a gamma from 0 on, an alpha in 0..1; got {given}")
        if not 0 <= self.label_noise < 1:
            raise ValueError(f"recipe {self.name}: label_noise must be a share from 0 to 1, got {self.label_noise!r}")
        for name in ("epochs", "p", "k", "lr", "target_p", "copies"):
            if not getattr(self, name) > 0:
                raise ValueError(f"recipe {self.name}: {name} must be positive, got {getattr(self, name)!r}")
        if self.schedule == "cosine" and self.warmup >= self.epochs:
            raise ValueError(f"recipe {self.name}: a warm-up of {self.warmup} epochs leaves nothing of {self.epochs}")

    @property
    def needs_pairs(self):
        """Whether a loss compares images of one person, which only P x K batches are sure to hold."""
        return bool(self.metric or self.verification_weight)


# A metric loss alone trains the features before the neck. Rates, batches, margins and weights were chosen on
# synthetic_validation with one seed; quadruplet takes triplet's, and what is joined with identification takes its rate.
ALONE = {"identity_weight": 0.0, "compare": "features", "lr": 3e-4}
STRIPES, ALIGNED = {"parts": 8, "local": "rigid"}, {"parts": 8, "local": "aligned"}
APR = {"attribute_weight": 1.0}
FOCAL = {"attribute_loss": "focal"}
BCE = {"focal_gamma": 0.0, "focal_alpha": None}
ALFO = APR | FOCAL | {"attribute_parts": 6}
# The LSTM paper's: theta 0.3, margin 0.5, a branch in place of the neck, POOL-5 compared.
UDA = {"metric": "trihard", "metric_weight": 0.3, "margin": 0.5, "branches": "global", "compare": "features"}
UDA |= {"lr": 3e-4, "epochs": 4}
DOMAIN = UDA | {"adapt": "domain"}
MC = {"peer": "small_xception", "class_mutual": 1.0}  # classification mutual loss
MM = MC | {"metric_mutual": 0.1}  # and metric mutual loss

RECIPES = {
    r.name: r
    for r in (
        Recipe("colour_histogram", "Colour histogram, nothing learned", model="colour_histogram", weights=None),
        Recipe("ide", "Identification (IDE)"),
        Recipe("ide_scratch", "Identification (IDE) from scratch", weights=None),
        Recipe("baseline", "Identification + TriHard: our baseline", metric="trihard"),
        Recipe("baseline_scratch", "Our baseline from scratch", metric="trihard", weights=None),
        # notebook 01
        Recipe("verification", "Verification", identity_weight=0.0, verification_weight=1.0, lr=3e-4),
        Recipe("ide_verification", "Identification + verification", verification_weight=0.2),
        Recipe("contrastive", "Contrastive", metric="contrastive", margin=2.0, **ALONE),
        Recipe("triplet", "Triplet", metric="triplet", **ALONE),
        Recipe("improved_triplet", "Improved triplet", metric="improved_triplet", pull=0.002, **ALONE),
        Recipe("quadruplet", "Quadruplet", metric="quadruplet", **ALONE),
        Recipe("trihard", "TriHard", metric="trihard", **ALONE),
        Recipe("msml", "MSML", metric="msml", p=4, **ALONE | {"lr": 1e-4}),
        Recipe("ide_contrastive", "Identification + contrastive", metric="contrastive", margin=1.0),
        Recipe("ide_triplet", "Identification + triplet", metric="triplet"),
        Recipe("ide_improved_triplet", "Identification + improved triplet", metric="improved_triplet", pull=0.002),
        Recipe("ide_quadruplet", "Identification + quadruplet", metric="quadruplet"),
        Recipe("ide_msml", "Identification + MSML", metric="msml", p=4, lr=3e-4),
        # notebook 03
        Recipe("hplf", "HPLF: the baseline + rigid stripes", metric="trihard", **STRIPES),
        Recipe("pcb", "PCB: a classifier a stripe", identity_weight=0.0, part_weight=1.0, parts=8, compare="local"),
        # notebook 04
        Recipe("apr", "APR: identification + attributes", **APR),
        Recipe("apr_focal", "APR with focal loss", **APR | FOCAL),
        Recipe("alfo", "ALFO: six overlapping stripes vote", **ALFO),
        Recipe("alfo_no_focal", "ALFO without focal loss", **ALFO | BCE),
        Recipe("alfo_local", "ALFO's stripes alone, no identities", **ALFO | {"identity_weight": 0.0}),
        Recipe(
            "deepmar",
            "DeepMAR: attributes alone, all at once",
            **APR | {"identity_weight": 0.0, "attribute_loss": "weighted"},
        ),
        Recipe(
            "deepsar",
            "DeepSAR: one attribute alone (gender)",
            **APR | {"identity_weight": 0.0, "question": "gender"},
        ),
        # notebook 05
        Recipe("lomo", "LOMO, a small form: nothing learned", model="lomo", weights=None),
        Recipe("direct", "Direct transfer: the source alone", **UDA),
        Recipe("camera_style", "+ camera style", **UDA | {"adapt": "style"}),
        Recipe("domain", "+ domain loss", **DOMAIN),
        Recipe("domain_lstm", "+ LSTM branch", **DOMAIN | {"branches": "lstm"}),
        Recipe(
            "lstm_uda",
            "The whole: + max pooling",
            **DOMAIN | {"branches": "lstm", "pooling": "both"},
        ),
        Recipe("camstyle", "CamStyle: identification + copies, smoothed", fakes=1 / 3),
        # notebook 06
        Recipe("aligned", "AlignedReID: the baseline + aligned stripes", metric="trihard", **ALIGNED),
        Recipe("baseline_x", "The baseline in its Xception form", metric="trihard", model="small_xception"),
        Recipe("aligned_x", "AlignedReID in its Xception form", metric="trihard", model="small_xception", **ALIGNED),
        Recipe("baseline_mc", "The baseline + MC", metric="trihard", **MC),
        Recipe("baseline_mm", "The baseline + MC + MM", metric="trihard", **MM),
        Recipe("aligned_mc", "AlignedReID + MC", metric="trihard", **ALIGNED | MC),
        Recipe("aligned_mm", "AlignedReID + MC + MM", metric="trihard", **ALIGNED | MM),
    )
}

# Runs beside the recipes: one thing changed at a time, for the curves of the notebooks and for claims.
VARIATIONS = (
    # notebook 01: one rate for all, three times identification's best; what MSML needs; how the improved triplet pulls
    *(("msml", changes) for changes in ({"p": 16, "lr": 1e-3}, {"p": 16}, {"lr": 3e-4})),
    *((name, {"lr": 3e-3}) for name in ("ide", "baseline")),
    *(("improved_triplet", {"pull": pull}) for pull in (0.1, 1.0)),
    # notebook 02: wrong labels, P x K, margins
    *((name, {"label_noise": noise}) for name in ("triplet", "trihard", "msml", "ide") for noise in (0.1, 0.2)),
    *(("trihard", shape) for shape in ({"p": 4}, {"p": 8}, {"p": 32}, {"p": 32, "k": 2}, {"p": 8, "k": 8})),
    *(("trihard", {"margin": margin}) for margin in (0.1, 1.0, None)),
    ("trihard", {"epochs": 32, "lr": 1e-3}),
    # notebook 03: HPLF's own mining, how many stripes
    ("hplf", {"mining": "each"}),
    *((name, {"parts": parts}) for name in ("hplf", "pcb") for parts in (2, 4)),
    # notebooks 03 and 06: the dial
    *((name, {"misalignment": dial}) for name in ("baseline", "hplf", "aligned") for dial in (0.0, 2.0)),
    # notebook 04: whose vote counts, stripes and their overlap; alpha; DeepSAR's other networks
    *(("alfo", {"vote": vote}) for vote in ("image", "mean")),
    *(("alfo", {"attribute_parts": parts}) for parts in (2, 4, 8)),
    *(("alfo", {"attribute_overlap": overlap}) for overlap in (0.0, 0.25, 0.75)),
    ("alfo", {"blind_start": False}),
    ("alfo_no_focal", {"attribute_weight": 0.1}),
    *(("apr_focal", changes) for changes in (BCE, {"focal_alpha": 0.75})),
    *(("deepsar", {"question": name}) for name in ("hat", "backpack", "upcolour")),
    # the dial; a random start; four times as many people in as many steps
    ("apr", {"weights": None}),
    *(("apr_focal", {"attribute_imbalance": dial, **loss}) for dial in (0.0, 2.0) for loss in ({}, BCE)),
    ("alfo", {"vote": "mean", "attribute_imbalance": 0.0}),
    *((name, {"train_identities": 480, "epochs": 2}) for name in ("ide", "apr", "deepmar")),
    # notebook 05: the dial
    *(("baseline", {"camera_bias": dial}) for dial in (0.0, 2.0)),
    # notebook 06: mining, zero gradient
    *(("aligned", {"mining": distance}) for distance in ("local", "both")),
    ("aligned_mm", {"zero_gradient": False}),
    # notebook 07: fewer values, by a trained layer
    *(("baseline", {"width": width}) for width in (128, 32, 8)),
)

# Supervised runs on winter, notebook 05: copies, and what they are told to be.
ON_WINTER = (
    ("ide", {}),
    ("camstyle", {}),
    *(("camstyle", {"fake_labels": labels}) for labels in ("own", "uniform")),
    ("camstyle", {"styles": "truth"}),
)

# Runs across domains, notebook 05: each on both DOMAINS, or from the built-in world to a real dataset. "direct" is also
# run within each target, to see how far it falls. True copies exist in the built-in world alone.
DOMAINS = ("synthetic_summer->synthetic_winter", "synthetic_winter->synthetic_summer")
LADDER = ("camera_style", "domain", "domain_lstm", "lstm_uda")
TRUTH = {"styles": "truth"}
ACROSS = (
    *((name, {}) for name in ("colour_histogram", "lomo", "direct", *LADDER)),
    *((name, TRUTH) for name in LADDER),
    *(("lstm_uda", TRUTH | changes) for changes in ({"branches": "parts"}, {"pooling": "max"})),
    ("direct", {"fresh_norm": True}),
)

# What a profile changes in every recipe; SCRATCH adds to it where the start is random.
PROFILES = {
    "quick": {},
    "full": {},
    "laptop": {"size": (64, 32), "epochs": 30},
    "paper": {
        "model": "resnet50",
        "weights": "imagenet",
        "size": (256, 128),
        "epochs": 120,
        "optimizer": "adam",
        "lr": 3.5e-4,
        "weight_decay": 5e-4,
        "warmup": 10.0,
        "schedule": "step",
        "steps": (40, 70),
        "augmentation": Augmentation(),
    },
}
SCRATCH = {
    "quick": {"lr": 3e-3},
    "full": {"lr": 3e-3},
    "laptop": {"lr": 3e-3},
    "paper": {"weights": None, "epochs": 300, "schedule": "cosine"},
}


# The LSTM paper's own settings, section 3.2, under "paper"; it does not say how its rate falls.
LSTM_PAPER = {
    "epochs": 30,
    "lr": 3e-4,
    "warmup": 0.0,
    "steps": (20,),
    "label_smoothing": 0.0,
    "augmentation": Augmentation(pad=0.0, erase=0.0, crop=0.64),
    "flip_test": False,
}


def recipe(name, profile="quick", **changes):
    """The recipe called `name` (or a Recipe) under a profile, with single fields changed -> Recipe.

    Raises ValueError for an unknown recipe or profile, TypeError for a field no recipe has.
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}: take one of {', '.join(PROFILES)}")
    known = {f.name for f in fields(Recipe)}
    for field_name in changes.keys() - known:
        raise TypeError(f"a recipe has no {field_name!r}{_near(field_name, known)}; it has {', '.join(sorted(known))}")
    if isinstance(name, Recipe):
        base = name
    elif name in RECIPES:
        base = RECIPES[name]
    else:
        raise ValueError(f"unknown recipe {name!r}{_near(name, RECIPES)}; there are {', '.join(RECIPES)}")
    if base.model not in DESCRIPTORS:
        scratch = SCRATCH.get(profile, {}) if changes.get("weights", base.weights) is None else {}
        changes = {**_under(profile, base), **scratch, **changes}
    elif profile == "paper":
        changes = {"size": (128, 64), **changes}
    return replace(base, **changes)


def _under(profile, base):
    """What a profile changes in a recipe; its larger model takes the same form, and so does the second student's."""
    changes = dict(PROFILES[profile])
    if "model" in changes:
        forms = {role: getattr(base, role) for role in ("model", "peer") if getattr(base, role)}
        changes |= {role: changes["model"] + name.removeprefix("small") for role, name in forms.items()}
    if profile == "paper" and base.branches:
        changes |= LSTM_PAPER
    return changes


def _near(name, known):
    near = difflib.get_close_matches(str(name), known, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
