"""Adaptation by clustering: pictures that lie close enough are called one person, the network learns that, and again.

    source = run("direct", "synthetic_summer->synthetic_winter", seed=0)
    adapted = pseudo_label(source)          # five rounds: cluster the target's pictures, train on the clusters
    [line["mAP"] for line in adapted.history]

What has been done about unlabelled people since 2019 (Song et al., 2020, "Theory and practice"; MMT, SpCL: the same
loop with two networks, with a memory): DBSCAN on k-reciprocal Jaccard distances, whose clusters are the labels of the
next training. Nobody is told who is who, nor how many people there are; which camera took a picture is known
(`by_camera=False` does without).
"""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from reidnb.datasets import ReIDDataset
from reidnb.datasets.points import without_points
from reidnb.evaluation import evaluate_features
from reidnb.evaluation.reranking import neighbour_weights, shared_weights
from reidnb.experiments import check_seed
from reidnb.files import cache_root, digest, kept
from reidnb.inference import embed
from reidnb.methods.adaptation import target_of
from reidnb.network import ReIDModel
from reidnb.recipes import Recipe, recipe
from reidnb.result import Result, to_plain, who_is_there
from reidnb.runtime import choose_device, precision
from reidnb.sources import code_digest, source_of
from reidnb.training import train
from reidnb.values import Count, Within, value

FEW = 8  # pictures of a camera that say too little of what it does to pictures


@value
class Clustering:
    """Which pictures are called one person: those that DBSCAN chains together on k-reciprocal Jaccard distances."""

    eps: Annotated[float, Within(0, 1, above=True)] = 0.4  # how far two neighbours may lie apart; 1: nothing in common
    min_samples: Count = 4  # so many pictures, itself among them, make a place dense
    k1: Count = 20  # neighbours that may vouch for each other
    k2: Count = 6  # over so many, itself among them, a description is averaged
    by_camera: bool = True  # features are standardised within each camera first, see `standardise`


@dataclass(frozen=True)
class Adapted:
    """What the rounds gave.

    `history` has a dict a round, the first of them of the source's own network: "round", "mAP" and "rank1",
    "camera_mAP" and "camera_rank1" of standardised features, and of the others "clusters", "clustered" (the share of
    the target's pictures that are in one), "loss" of the last epoch and "seconds". `labels` (rounds, N) says which
    cluster each of the target's pictures was in, -1 for none. `model` is the last round's network, on the CPU.
    """

    history: list[dict]
    labels: np.ndarray
    model: ReIDModel


class Stage(NamedTuple):
    """What one round leaves for the next."""

    line: dict
    labels: np.ndarray  # (N,)
    features: np.ndarray  # (N, D) of the target's pictures, by its network
    net: ReIDModel


def pseudo_label(
    source: Result,
    data: ReIDDataset | None = None,
    rounds: int = 5,
    epochs: int = 2,
    lr: float = 1e-3,
    clustering: Clustering | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Adapted:
    """Adapt a run on a pair of domains, such as "direct", to the target by its pictures alone -> Adapted.

    A round embeds the target's training pictures, clusters them, leaves out whoever is in no cluster, and trains the
    baseline (identification + TriHard) for `epochs` on the clusters, from the weights of the round before. data: the
    pair, where the run is not to open it again. Each round is kept under a key of all that it depends on, so that a
    call that was killed goes on, and one that asks for more rounds starts where the last one ended. Raises ValueError
    where there is no target, where the run has nothing that learns, and where the clusters are no people: fewer than
    two.
    """
    check_seed(seed)
    for name, number in (("rounds", rounds), ("epochs", epochs)):
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 1:
            raise ValueError(f"{name} must be a whole number from 1 on, got {number!r}")
    model, data, how = source.model(), data or source.data(), clustering or Clustering()
    target, device = target_of(source.name, data), choose_device(device)
    if not len(target):
        raise ValueError(f"{data.name} has no target pictures to cluster")
    plan = _plan(source.recipe, source.profile, epochs, lr)
    about = [source.key, without_points(data.fingerprint), who_is_there(data), to_plain(plan), asdict(how)]
    about += [int(seed), device.type, precision(device)]
    about += [code_digest(plan), source_of(_first), source_of(_next), torch.__version__.split("+")[0]]
    folder, key, done = cache_root() / "pseudo", digest(json.dumps(about, sort_keys=True)), []

    def build(file):
        number, before = len(done), done[-1] if done else None
        _save(file, _next(before, number, data, plan, how, int(seed), device) if done else _first(source, data, device))

    for number in range(rounds + 1):
        found = []
        kept(folder / f"{key}-{number}.npz", build, lambda file, found=found: found.append(_load(file, model, plan)))
        done.append(found[-1])
    return Adapted([r.line for r in done], np.stack([r.labels for r in done[1:]]), done[-1].net)


def standardise(features: np.ndarray, camids: np.ndarray, like: tuple | None = None) -> np.ndarray:
    """Features (N, D) less the mean of their camera's pictures, by their spread, of unit length.

    What a camera does to all of its pictures is no mark of a person (Zhuang et al., 2020, do it in every batch norm).
    camids (N,) says which camera. Mean and spread are those of the pictures themselves or of others, `like` = (features
    (M, D), camids (M,)): what must be known is who took a picture, and nobody's name. Raises ValueError for a camera
    that is not in `like`. Of a camera with fewer than FEW pictures there nothing is known: all of them speak for it.
    """
    given, cameras = (np.asarray(features, np.float32), np.asarray(camids))
    others, theirs = (given, cameras) if like is None else map(np.asarray, like)
    if missing := sorted(set(cameras.tolist()) - set(theirs.tolist())):
        raise ValueError(f"nothing is known of what camera {missing[0]} does: `like` has no picture of it")
    out = np.empty_like(given)
    for camera in np.unique(cameras):
        crowd = own if len(own := others[theirs == camera]) >= FEW else others
        out[cameras == camera] = (given[cameras == camera] - crowd.mean(0)) / (crowd.std(0) + 1e-6)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


def cluster(features: np.ndarray, how: Clustering) -> np.ndarray:
    """Features (N, D) -> the cluster of each, int64 (N,) from 0 on, -1 for whoever is in none."""
    from sklearn.cluster import DBSCAN  # slow to import

    near = jaccard_distances(features, how.k1, how.k2, how.eps)
    return DBSCAN(eps=how.eps, min_samples=how.min_samples, metric="precomputed").fit_predict(near).astype(np.int64)


def jaccard_distances(features: np.ndarray, k1: int = 20, k2: int = 6, within: float = 1.0):
    """k-reciprocal Jaccard distances among N pictures, of features (N, D) -> sparse (N, N) of those up to `within`.

    What `evaluation.rerank` calculates between queries and gallery, with a `lambda_value` of 0, here between all
    pictures of one set; of N x N distances nearly all are 1, and are not written down.
    """
    from scipy import sparse

    weights = neighbour_weights(torch.as_tensor(features).float(), k1, k2).tocsr()
    columns = weights.T.tocsr()
    return sparse.vstack([_jaccard(weights[i : i + 16], columns, within) for i in range(0, len(features), 16)]).tocsr()


def agreement(labels: np.ndarray, people: np.ndarray) -> dict[str, float]:
    """How clusters (N,) agree with the people really there (N,), which only a report may know -> "clusters"; "people",
    how many of all are the most frequent one of some cluster; "purity", the share of clustered pictures that show the
    most frequent person of their cluster; "nmi", the normalised mutual information over clustered pictures."""
    from sklearn.metrics import normalized_mutual_info_score

    labels, people = np.asarray(labels), np.asarray(people)
    if labels.shape != people.shape or labels.ndim != 1:
        raise ValueError(f"labels and people must be one each a picture; got {labels.shape} and {people.shape}")
    inside = labels >= 0
    if not inside.any():
        return {"clusters": 0, "people": 0, "purity": 0.0, "nmi": 0.0}
    (_, who), (names, which) = (np.unique(x[inside], return_inverse=True) for x in (labels, people))
    counts = np.zeros((who.max() + 1, len(names)), int)
    np.add.at(counts, (who, which), 1)
    found = {"clusters": len(counts), "people": len(np.unique(counts.argmax(1)))}
    return found | {
        "purity": float(counts.max(1).sum() / counts.sum()),
        "nmi": float(normalized_mutual_info_score(people[inside], labels[inside])),
    }


# --------------------------------------------------------------------------------------------------------- one round


def _plan(base: Recipe, profile: str, epochs: int, lr: float) -> Recipe:
    """The baseline with the backbone of the run that it goes on from."""
    same = {name: getattr(base, name) for name in ("model", "pooling", "width", "last_stride", "size")}
    fresh = recipe("baseline", profile, epochs=epochs, lr=lr, warmup=0.0, **same)
    return replace(fresh, name="pseudo_labels", title="Clustering pseudo-labels")


def _first(source, data, device):
    """Before the first round: what the source's own network finds, and makes of the target's pictures."""
    compare, flip = source.recipe.compare, source.recipe.flip_test
    compared, features = embed(source.model(), data.target.images, device, flip=flip, compare=(compare, "embedding"))
    scores = _scores(data, source.features.query, source.features.gallery, compared.numpy())
    return Stage({"round": 0, **scores}, np.full(len(features), -1), features.numpy(), source.model())


def _next(before, number, data, plan, how, seed, device):
    """One round: cluster, train, test."""
    started, images, camids = time.perf_counter(), data.target.images, data.target.camids
    labels = cluster(standardise(before.features, camids) if how.by_camera else before.features, how)
    count, inside = int(labels.max()) + 1, np.flatnonzero(labels >= 0)
    if count < 2:
        said = "all who are in one are in the same: lower" if count else "no picture has neighbours enough: raise"
        raise ValueError(
            f"round {number}: {len(labels)} pictures have {count} clusters, of which nothing can be learned; {said} "
            f"eps ({how.eps:g}), or change min_samples ({how.min_samples})"
        )
    torch.manual_seed(seed)
    net = plan.network({"classes": count})
    state = {k: v for k, v in before.net.state_dict().items() if k.split(".")[0] in ("backbone", "neck", "narrow")}
    net.load_state_dict(state, strict=False)
    middles = np.stack([before.features[labels == c].mean(0) for c in range(count)])
    with torch.no_grad():  # a class begins as the middle of its cluster
        net.classifier.weight.copy_(F.normalize(torch.from_numpy(middles)))
    fitting = replace(plan, p=min(plan.p, count))
    history = train(net, images[inside], labels[inside], fitting, 1000 * seed + number, device)
    splits = (data.query, data.gallery, data.target)
    query, gallery, features = (embed(net, part.images, device, flip=plan.flip_test).numpy() for part in splits)
    line = {"round": number, **_scores(data, query, gallery, features), "clusters": count}
    line |= {"clustered": len(inside) / len(labels), "loss": history[-1]["loss"]}
    return Stage(line | {"seconds": time.perf_counter() - started}, labels, features, net.cpu())


def _scores(data, query, gallery, features):
    """Of features as they are, and as they are once what the cameras do to the training pictures is taken off."""
    plain, like = evaluate_features(query, gallery, *data.ids), (features, data.target.camids)
    found = {"mAP": plain.mAP, "rank1": plain.rank1, "camera_mAP": np.nan, "camera_rank1": np.nan}
    if not {*data.query.camids.tolist(), *data.gallery.camids.tolist()} <= {*data.target.camids.tolist()}:
        return found  # cameras that took no picture to learn from: nothing can be taken off
    sides = (standardise(x, part.camids, like) for x, part in ((query, data.query), (gallery, data.gallery)))
    within = evaluate_features(*sides, *data.ids)
    return found | {"camera_mAP": within.mAP, "camera_rank1": within.rank1}


def _save(file: Path, made: Stage) -> None:
    state = {f"state/{name}": values.cpu().numpy() for name, values in made.net.state_dict().items()}
    about = np.frombuffer(json.dumps(made.line).encode(), np.uint8)
    with open(file, "wb") as out:
        np.savez(out, about=about, labels=made.labels, features=made.features, **state)


def _load(file: Path, model: ReIDModel, plan: Recipe) -> Stage:
    with np.load(file) as held:
        line, labels, features = json.loads(held["about"].tobytes()), held["labels"], held["features"]
        state = {n.removeprefix("state/"): torch.from_numpy(held[n]) for n in held.files if n.startswith("state/")}
    net = plan.network({"classes": line["clusters"]}) if line["round"] else model
    net.load_state_dict(state)
    return Stage(line, labels, features, net.eval())


# ------------------------------------------------------------------------------------------- neighbours of one set


def _jaccard(own, columns, within):
    """Of some pictures (M) to all, sparse (M, N), from the weights of each and those by column."""
    from scipy import sparse

    shared = shared_weights(own, columns).ravel()
    some = np.flatnonzero(shared)
    apart = 1 - shared[some] / (2 - shared[some])
    some, apart = some[apart <= within], apart[apart <= within]
    places = np.divmod(some, columns.shape[1])
    return sparse.csr_array((apart.astype(np.float32), places), shape=(own.shape[0], columns.shape[1]))
