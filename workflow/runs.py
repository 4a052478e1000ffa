"""What the batch runs beside the notebooks: recipes with one thing changed at a time, and recipes across domains.

A run is a recipe's name and what is changed in it. The curves of the notebooks and the claims of papers.toml read them.
"""

import re
import shlex
from math import isnan
from statistics import median

BCE = {"focal_gamma": 0.0, "focal_alpha": None}  # what is left of the focal loss is binary cross-entropy
LITE0 = {"model": "lite0", "weights": "imagenet", "size": (128, 64)}  # ImageNet's own network, on drawings
RULES = ("random", "above_zero", "semi_hard", "distance")  # of notebook 02's ladder
HIDDEN = ("ide", "pcb", "aligned", "posebox", "glad", "stn_parts")  # tried where more, or nothing, hides people
STRIPED = ("ide", "baseline", "hplf", "aligned", "pcb")  # stripes, and what they are compared with

# Runs beside the recipes, on the built-in world under "full".
VARIATIONS = (
    # notebook 00: a random start as it is, and ImageNet's; notebook 13: what a training's luck alone does, in one world
    ("untrained", {"weights": None}),
    *((name, LITE0) for name in ("untrained", "baseline")),
    *((name, {"world": 0}) for name in ("ide", "baseline")),
    # notebook 01: one rate for all, three times identification's best; what MSML needs; how the improved triplet pulls
    *(("msml", changes) for changes in ({"p": 16, "lr": 3e-3}, {"p": 16}, {"lr": 3e-3})),
    *((name, {"lr": 1e-3}) for name in ("ide", "baseline", "trihard", "triplet", "contrastive")),
    *(("improved_triplet", {"pull": pull}) for pull in (0.1, 1.0)),
    # and the batch, crossed with the rate; the race from random weights
    *((name, {"p": 4}) for name in ("ide", "baseline", "triplet", "contrastive")),
    *(("ide_msml", {"p": 16}), ("msml", {"lr": 3e-4}), ("triplet", {"p": 8})),
    *((name, {"weights": None}) for name in ("contrastive", "triplet", "improved_triplet", "quadruplet")),
    *((name, {"weights": None}) for name in ("trihard", "msml")),
    # notebook 02: wrong labels, P x K, margins
    *((name, {"label_noise": noise}) for name in ("triplet", "trihard", "msml", "ide") for noise in (0.1, 0.2)),
    *((f"mined_{rule}", {"label_noise": noise}) for rule in RULES for noise in (0.1, 0.2)),
    *(("memory", {"label_noise": 0.2}), *((f"mined_{rule}", {"epochs": 18}) for rule in RULES)),
    *(("ide_matching", {"pairs_by": how}) for how in ("random", "mixed")),
    *(("trihard", shape) for shape in ({"p": 4}, {"p": 8}, {"p": 32}, {"p": 32, "k": 2}, {"p": 8, "k": 8})),
    *(("trihard", {"margin": margin}) for margin in (0.1, 1.0, None)),
    *((name, {"epochs": 18}) for name in ("trihard", "triplet", "baseline", "ide")),
    # notebook 03: HPLF's own mining, how many stripes
    ("hplf", {"mining": "each"}),
    *((name, {"local_weight": weight}) for name in ("hplf", "aligned") for weight in (0.1, 1.0, 3.0)),
    *((name, {"parts": parts}) for name in ("hplf", "pcb") for parts in (1, 2, 4)),
    # notebooks 03 and 06: the dial; PCB as printed where boxes are perfect
    *((name, {"misalignment": dial}) for name in STRIPED for dial in (0.0, 2.0)),
    ("pcb_printed", {"misalignment": 0.0}),
    # where only the place of a colour tells two people apart; fewer and more people in as many steps
    *((name, {"swapped": 1.0}) for name in STRIPED),
    *((name, {"train_identities": 80, "epochs": 18}) for name in STRIPED),
    *((name, {"train_identities": 480, "epochs": 3}) for name in STRIPED[1:]),
    # from the other starts, where the recipes above have no row of their own
    *((name, {"weights": "drawn"}) for name in ("ide", "hplf", "aligned", "pcb")),
    *((name, {"weights": None}) for name in ("hplf", "aligned", "pcb")),
    # notebook 04: whose vote counts, stripes and their overlap; alpha; DeepSAR's other networks
    *(("alfo", {"vote": vote}) for vote in ("image", "mean")),
    *(("alfo", {"parts": parts}) for parts in (2, 4, 8)),
    *(("alfo", {"overlap": overlap}) for overlap in (0.0, 0.25, 0.75)),
    ("alfo", {"blind_start": False}),
    ("alfo_no_focal", {"attribute_weight": 0.1}),
    *(("apr_focal", changes) for changes in (BCE, {"focal_alpha": 0.75})),
    *(("deepsar", {"question": name}) for name in ("hat", "backpack", "upcolour")),
    # the dial; a random start; twice as many people in as many steps
    ("apr", {"weights": None}),
    *(("apr_focal", {"attribute_imbalance": dial, **loss}) for dial in (0.0, 2.0) for loss in ({}, BCE)),
    ("alfo", {"vote": "mean", "attribute_imbalance": 0.0}),
    *((name, {"train_identities": 480, "epochs": 3}) for name in ("ide", "apr", "deepmar")),
    # the weight of the attribute loss; six times as many people, longer training
    *(("apr", {"attribute_weight": weight}) for weight in (0.1, 3.0, 12.0)),
    *((name, {"train_identities": 1440, "epochs": 1}) for name in ("ide", "apr", "deepmar")),
    *(("deepmar", change) for change in ({"train_identities": 720, "epochs": 2}, {"epochs": 24})),
    *(("deepmar", change) for change in ({"train_identities": 1440}, {"size": (128, 64)})),
    *(("deepmar", {"cues": dial}) for dial in (1.0, 2.0)),
    # notebook 05: the dial
    *(("baseline", {"camera_bias": dial}) for dial in (0.0, 2.0)),
    # notebook 06: mining, zero gradient
    *(("aligned", {"mining": distance}) for distance in ("local", "both")),
    ("aligned_mm", {"zero_gradient": False}),
    # stripes of unit length or not, with identification or not, from each start
    *((name, {"unit": False, "weights": start}) for name in ("aligned", "aligned_alone") for start in ("drawn", None)),
    *(("aligned_alone", {"weights": start}) for start in ("drawn", None)),
    *((name, {"unit": False}) for name in ("aligned", "aligned_alone")),
    # notebook 09: pose parts, which no list of plain recipes has; where the points come from, and what spoils them
    *((name, {}) for name in ("posebox", "glad", "spindle")),
    *((name, {"points": "mean"}) for name in ("posebox", "glad", "spindle")),
    *(("posebox", changes) for changes in ({"points": "network"}, {"boxes": "posebox1"}, {"boxes": "posebox2"})),
    *(("posebox", {"keypoint_noise": noise}) for noise in (0.5, 1.0, 2.0)),
    # latent parts without their prior; the dials
    *(("stn_parts", changes) for changes in ({"prior": 0.0}, {"start": "random"}, {"prior": 0.0, "start": "random"})),
    *((name, {"misalignment": dial}) for name in ("posebox", "glad", "stn_parts") for dial in (0.0, 2.0)),
    *(("posebox", {"misalignment": dial, "points": "mean"}) for dial in (0.0, 2.0)),
    *((name, {"occlusion": dial}) for name in HIDDEN for dial in (0.0, 2.0)),
    # notebook 08: as many values and fewer, by a trained layer
    *(("baseline", {"width": width}) for width in (256, 128, 64, 32, 16, 8)),
    # notebook 11: pictures of nobody, and how many
    *((name, {}) for name in ("lsro", "lsro_all_in_one", "lsro_pseudo", "lsro_noise", "lsro_strangers")),
    *(("lsro", {"generated": count}) for count in (400, 6400)),
)

# Supervised runs on winter, notebook 05: copies, and what they are told to be.
ON_WINTER = (
    *((name, {}) for name in ("ide", "baseline")),
    ("camstyle", {}),
    *(("camstyle", {"fake_labels": labels}) for labels in ("own", "uniform")),
    *(("camstyle", {"styles": who}) for who in ("cyclegan", "truth")),
)
# And on summer: what can be had there with names.
ON_SUMMER = (("ide", {}),)

# Runs across domains, notebook 05: each on both DOMAINS, or from the built-in world to a real dataset. "direct" is also
# run within each target, to see how far it falls. True copies exist in the built-in world alone.
DOMAINS = ("synthetic_summer->synthetic_winter", "synthetic_winter->synthetic_summer")
LADDER = ("camera_style", "domain", "domain_lstm", "lstm_uda")
TRUTH, PAIRS = {"styles": "truth"}, {"styles": "cyclegan"}
ACROSS = (
    *((name, {}) for name in ("untrained", "colour_histogram", "lomo", "direct", *LADDER)),
    *((name, PAIRS) for name in LADDER),
    *((name, TRUTH) for name in LADDER),
)
# And on the first of DOMAINS: half of each copy true, branches and pooling, cameras that differ not at all or twice as
# much.
ONE_WAY = (
    *(("camera_style", {"styles": f"truth_{half}"}) for half in ("person", "ground")),
    *(("lstm_uda", TRUTH | changes) for changes in ({"branches": "parts"}, {"pooling": "max"})),
    ("direct", {"fresh_norm": True}),
    *(("direct", {"camera_bias": dial}) for dial in (0.0, 2.0)),
    *(("camera_style", TRUTH | {"camera_bias": dial}) for dial in (0.0, 2.0)),
)

# On photographs under "laptop": what random weights find before any training.
FLOOR = (("untrained", {"weights": None}),)
# On photographs under "laptop", notebook 04: as few people as the built-in world has, in as many steps as all take.
FEW_PEOPLE = tuple((name, {"epochs": 36, "train_identities": 240}) for name in ("ide", "apr"))
# And notebook 06: who chooses the triplets; the zero gradient.
ALIGNED = (("aligned", {"mining": "both"}), ("aligned_mm", {"zero_gradient": False}))
# Notebook 09: what needs a table of key points (`reidnb keypoints`).
POINTED = (("posebox", {}), ("glad", {}))
# Under "photo", notebook 02: whether TriHard collapses at a fifth of the rate, too.
COOLED = (("trihard", {"lr": 3e-4}),)
# Notebook 05: half of the cameras, with names, to the other half.
HALVES = {"market1501": "market1501_first->market1501_second"}


# A seed of a drawn dataset is a world too. How many were decided on before any run: more because a few gave no verdict
# would be optional stopping (notebook 13 shows what that does).
MAIN_SEEDS, SEEDS = 5, 3  # of what the main tables show, on the built-in world; of all else
# Questions of our own, variations with a name: triplets' lengths and minings, a memory, networks and pictures to try.
ASIDE = ("triplet_unit", "quadruplet_unit", "trihard_unit", *(f"mined_{rule}" for rule in RULES), "memory")
ASIDE += ("memory_above_zero", "ide_memory", "ide_matching", "apr_reweighted", "siamese_lstm", "spindle", "glad")
ASIDE += ("lsro", "lsro_all_in_one", "lsro_pseudo", "lsro_noise", "lsro_strangers")


def batch(profile: str, dataset: str = "synthetic") -> dict[str, str]:
    """Every run of a profile on a dataset: its name -> what `python -m reidnb run` is given for it, as shell words.

    All recipes that the dataset can serve; on the built-in world also with something changed; and across domains.
    Under "quick" none: the notebooks make theirs.
    """
    if profile == "quick":
        return {}
    from reidnb.datasets import has_attributes  # here: the lists above are read by tests that need no torch
    from reidnb.profiles import PROFILES
    from reidnb.recipes import RECIPES

    built_in = dataset == "synthetic"
    known = has_attributes(dataset)
    pairs = DOMAINS if built_in else (f"synthetic->{dataset}",)
    runs = [
        (recipe.name, {}, dataset)
        for recipe in RECIPES.values()
        if not recipe.needs_target and not recipe.joins_pictures and (known or not recipe.needs_attributes)
        if not (recipe.weights == "drawn" and "model" in PROFILES[profile])  # that start is the small networks' alone
    ]
    if built_in:
        runs += [(*run, dataset) for run in VARIATIONS if profile == "full"]
        runs += [(*run, "synthetic_winter") for run in ON_WINTER]
        runs += [(*run, "synthetic_summer") for run in ON_SUMMER]
    elif profile == "laptop":
        beside = (*FLOOR, *ALIGNED, *FEW_PEOPLE * known, *POINTED * _has_points(dataset))
        runs += [(*run, dataset) for run in beside]
        runs += [("direct", {}, HALVES[dataset])] if dataset in HALVES else []
    elif profile == "photo":
        runs += [(*run, dataset) for run in COOLED]
    runs += [
        (*run, pair) for pair in pairs for run in ACROSS if built_in or not run[1].get("styles", "").startswith("truth")
    ]
    runs += [(*run, DOMAINS[0]) for run in ONE_WAY if built_in]
    runs += [("direct", {}, pair.split("->")[1]) for pair in pairs]
    return dict(_named(*run, dataset) for run in runs)


def minutes(runs: dict[str, str], measured: list[dict], cores: int) -> float:
    """How long runs as `batch` gives them take from nothing, by the seconds of rows of results/runs.csv: the least of
    the same run's (other work beside it only slows it down), else of its recipe's unchanged, else the median of all."""
    seconds = {}
    for row in measured:
        if not isnan(took := float(row["seconds"])):
            name = _in_words(row["recipe"], re.split(r", (?=\w+=)", row["changes"]))
            seconds.setdefault(name, []).append(took)
    least = {name: min(values) for name, values in seconds.items()}
    usual = median(least.values() or [60.0])
    total = 0.0
    for words in runs.values():
        recipe, settings = words.split()[0], shlex.split(words.partition("--set ")[2])
        each = least.get(_in_words(recipe, settings), least.get(recipe, usual))
        total += int(words.split("--seeds ")[1].split()[0]) * each
    return total / cores / 60


def _in_words(recipe, settings):
    return " ".join([recipe, *sorted(filter(None, settings))]).replace("'", "").replace(", ", ",")


def _has_points(dataset: str) -> bool:
    """Whether a table of key points lies beside the photographs."""
    from reidnb.datasets import folders, points

    try:
        return (folders.find_folder(dataset, None) / points.TABLE).is_file()
    except (FileNotFoundError, NotADirectoryError, KeyError):
        return False  # no photographs either, or no place for a table


def _named(recipe: str, changes: dict, data: str, dataset: str) -> tuple[str, str]:
    """A run's name, which is a file's too, and its words on the command line."""
    settings = [f"{field}={value}".replace(" ", "") for field, value in changes.items()]
    seeds = MAIN_SEEDS if data == "synthetic" and not changes and recipe not in ASIDE else SEEDS
    words = [recipe, "--dataset", f"'{data}'", "--seeds", str(seeds)]
    words += ["--set", *map(shlex.quote, settings)] if settings else []
    name = "+".join([recipe, *settings, *[data] * (data != dataset)]).replace("->", "-to-")
    return re.sub(r"[()]", "", name.replace(",", "x")), " ".join(words)  # a size as 128x64
