"""One trial: a recipe trained on a dataset and tested by the protocol. `experiments.run` keeps what comes out."""

import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import expit

from reidnb import evaluation, losses
from reidnb.alignment import local_distance_matrix
from reidnb.attributes import ask
from reidnb.batches import Augmentation, Styled
from reidnb.datasets import relabel, true_styles
from reidnb.descriptors import DESCRIPTORS
from reidnb.models import Students, build_model
from reidnb.recipes import recipe
from reidnb.stargan import all_styles, painter_of
from reidnb.training import elect, embed, renew_norms, train

__all__ = ["build", "camera_classifier", "features", "make", "says_camera", "style_scores"]


def make(plan, data, seed, device, checkpoint=None):
    """Train, embed, score -> a namespace of `history`, `seconds`, the model's `state`, what it says of `query` and
    `gallery`, and what that is worth; see `experiments.Result`."""
    net, peer, history, questions, vote = None, None, [], None, {}
    _check_domains(plan, data)
    if plan.model not in DESCRIPTORS:
        labels, people = relabel(data.train.pids)
        questions = ask(data, plan.question and (plan.question,)) if plan.attribute_weight else None
        answers = questions.answers(data.train.attributes) if questions else None
        start = _start(plan, questions) if questions else None
        torch.manual_seed(seed)
        model = net = build(plan, len(people), start)
        if plan.peer:
            peer = build(replace(plan, model=plan.peer), len(people), start)
            net = Students(model, peer)
        more = questions, answers, _styled(plan, data, device)
        history = train(net, data.train.images, labels, plan, seed, device, checkpoint, *more)
        if plan.fresh_norm:
            renew_norms(net, _target(plan, data).images, device)
        if questions:
            vote = dict(zip(("losses", "votes"), elect(model, data.train.images, questions, answers, plan, device)))
        net = model

    started = time.perf_counter()
    query, gallery = (features(plan, net, split.images, device, questions) for split in (data.query, data.gallery))
    seconds = sum(line["seconds"] for line in history) + time.perf_counter() - started
    ids = data.query.pids, data.gallery.pids, data.query.camids, data.gallery.camids
    also = {"multi_query": _multi_query(plan, net, data, query.whole, gallery.whole, device)}
    also["rerank"] = _reranked(query.whole, gallery.whole, *ids)
    if plan.local:
        also |= _by_stripes(plan, query.whole, gallery.whole, query.local, gallery.local, *ids)
    statements = []
    if questions:
        vote |= {"query": query.attributes, "gallery": gallery.attributes}
        looks = (expit(logits) for logits in (query.attributes, gallery.attributes))
        also["attributes"] = evaluation.evaluate_features(*looks, *ids)
        statements = _statements(questions, gallery.attributes, data.gallery.attributes, vote["losses"])
    if plan.branches:
        also["branches"] = evaluation.evaluate_features(query.branches, gallery.branches, *ids)
    if peer:
        theirs = (features(plan, peer, split.images, device).whole for split in (data.query, data.gallery))
        also["peer"] = evaluation.evaluate_features(*theirs, *ids)
    return SimpleNamespace(
        history=history,
        seconds=seconds,
        state={name: value.cpu().numpy() for name, value in net.state_dict().items()} if net else {},
        query=query.whole,
        gallery=gallery.whole,
        scores=evaluation.evaluate_features(query.whole, gallery.whole, *ids),
        also=also,
        pairs=evaluation.verify_features(query.whole, gallery.whole, *ids),
        attributes=vote,
        statements=statements,
    )


def build(plan, classes, start=None):
    """The recipe's model, with so many training identities; `start` (K,) where it has an attribute head."""
    return build_model(
        plan.model,
        classes,
        plan.weights,
        plan.last_stride,
        verify=plan.verification_weight > 0,
        parts=plan.parts,
        local_width=plan.local_width,
        part_classes=plan.part_weight > 0,
        start=start,
        attribute_parts=plan.attribute_parts,
        attribute_overlap=plan.attribute_overlap,
        pooling=plan.pooling,
        branches=plan.branches,
        dropout=plan.dropout,
        width=plan.width,
    )


def _styled(plan, data, device):
    """The pictures that join a batch, with their copies: the target's, or the training people's own."""
    if not (plan.adapt and plan.metric_weight or plan.fakes):
        return None
    split = _target(plan, data) if plan.adapt else data.train
    name = data.name.split("->")[-1 if plan.adapt else 0]
    if plan.styles == "truth":
        return Styled(split.images, split.camids, true_styles(name, split.images.shape[2:], data.options))
    return all_styles(split, painter_of(split, name, data.options, device=device), device)


def _check_domains(plan, data):
    """Refuse at once what would otherwise fail after a long training."""
    if plan.adapt or plan.fresh_norm:
        _target(plan, data)
    if plan.adapt or plan.fakes:
        cameras = len(np.unique((_target(plan, data) if plan.adapt else data.train).camids))
        copies = plan.copies if plan.adapt else 1
        if copies >= cameras:
            raise ValueError(
                f"recipe {plan.name} wants {copies} copies of a picture, each by a camera that did not "
                f"take it; {data.name} has {cameras} cameras: set copies lower"
            )


def _target(plan, data):
    if data.target is None:
        raise ValueError(
            f"recipe {plan.name} learns from a target's pictures: name the dataset source->target, such "
            f"as synthetic_summer->synthetic_winter; got {data.name}"
        )
    return data.target


def _start(plan, questions):
    """The logits at which the attribute head begins."""
    if not plan.blind_start:
        return torch.zeros(len(questions.statements))
    return losses.blind_logits(questions, plan.attribute_loss, plan.focal_gamma, plan.focal_alpha)


def features(plan, model, images, device, questions=None):
    """What a model says of images: `whole` (N, D), of unit length; `local` stripes and
    `branches` (N, B * 128) where the recipe has them; with questions, log-odds of `attributes`."""
    if model is None:
        return SimpleNamespace(whole=DESCRIPTORS[plan.model](images))
    more = ["local"] * bool(plan.local) + ["attributes"] * bool(questions)
    more += ["branch_features"] * bool(plan.branches)
    whole, *found = embed(model, images, device, flip=plan.flip_test, compare=(plan.compare, *more))
    found = dict(zip(more, found))
    if "attributes" in found:
        said = model.attributes.answer(found["attributes"])
        found["attributes"] = _log_odds(said, questions) if plan.attribute_loss == "softmax" else said
    if "branch_features" in found:
        found["branches"] = F.normalize(found.pop("branch_features").flatten(1))
    whole = F.normalize(whole.flatten(1))  # stripes in a row, where they are what is compared
    return SimpleNamespace(whole=whole.numpy(), **{name: values.numpy() for name, values in found.items()})


def _log_odds(logits, questions):
    """Logits (N, K) whose softmax is a question's answer -> log-odds of the answer's probabilities. A softmax leaves
    its logits open by a constant, different for each image, so that they cannot be compared between images."""
    logits = logits.clone()
    for group in questions.groups:
        if group.stop - group.start > 1:
            log_p = logits[:, group].log_softmax(1)
            logits[:, group] = log_p - torch.log1p(-log_p.exp().clamp(max=1 - 1e-6))
    return logits


# ------------------------------------------------------------------------------------------------------ further scores


def _multi_query(plan, model, data, query, gallery, device):
    """Scores with the mean of all of a person's pictures from the query's camera; Market-1501 has extra ones."""
    pool, pool_features = data.gallery, gallery
    if data.multi_query is not None:
        pool, pool_features = data.multi_query, features(plan, model, data.multi_query.images, device).whole
    many = evaluation.multi_query_features(
        query, data.query.pids, data.query.camids, pool_features, pool.pids, pool.camids
    )
    ids = data.query.pids, data.gallery.pids, data.query.camids, data.gallery.camids
    return evaluation.evaluate_features(many, gallery, *ids)


def _reranked(query, gallery, query_pids, gallery_pids, query_camids, gallery_camids):
    """Scores after re-ranking; junk, which no query may see, is left out of the neighbourhoods too."""
    known = gallery_pids != -1
    distances = evaluation.rerank(query, gallery[known])
    return evaluation.evaluate(distances, query_pids, gallery_pids[known], query_camids, gallery_camids[known])


def _by_stripes(plan, query, gallery, local_query, local_gallery, *ids):
    """Scores by the local distance alone, and by the global one plus the mean of a path's cells."""
    aligned = plan.local == "aligned"
    local = local_distance_matrix(local_query, local_gallery, aligned)
    both = evaluation.euclidean_distances(query, gallery) + local / (2 * plan.parts - 1 if aligned else plan.parts)
    return {"local": evaluation.evaluate(local, *ids), "both": evaluation.evaluate(both, *ids)}


def _statements(questions, logits, attributes, costs):
    """How well each statement is recognised, and in which stripe (from 0) at the lowest loss -> a dict a statement, as
    JSON and results/attributes.csv hold it."""
    found = asdict(evaluation.attribute_scores(logits, questions.answers(attributes), questions.groups))
    found |= {"stripe": np.repeat(costs.argmin(0), [group.stop - group.start for group in questions.groups])}
    shares = questions.shares.tolist()
    lines = zip(questions.statements, shares, *(values.tolist() for values in found.values()))
    return [dict(zip(("statement", "train_share", *found), line)) for line in lines]


# -------------------------------------------------------------------------------------------- what a generator is worth


def camera_classifier(split, epochs=2, seed=0, device=None):
    """A network that tells the cameras of a training split apart, by its pictures as they are -> ReIDModel.

    It knows nothing of the generator, nor the generator of it: whoever fools it looks like that camera's pictures.
    """
    plain = Augmentation(pad=0.04, erase=0.0)  # colours stay: they are what a camera is known by
    plan = recipe("ide", epochs=epochs, label_smoothing=0.0, augmentation=plain)
    torch.manual_seed(seed)
    model = build_model("small", int(split.camids.max()) + 1, "drawn")
    train(model, split.images, split.camids, plan, seed, device)
    return model.eval()


def says_camera(classifier, images, device=None):
    """Which camera it takes each picture for -> int64 (N,)."""
    return embed(classifier, images, device, flip=False, compare="logits").argmax(1).numpy()


def style_scores(painters, data, classifier, finder, device=None):
    """What copies of the queries are worth, for each of `painters` by name -> a dict of shares in [0, 1] each.

    A painter is asked for a camera for each query (Q,) and gives uint8 (Q, 3, H, W). Each query is painted for every
    camera of the training split but its own; means over them. "camera": how often `classifier` names the camera of a
    real query; "fooled": how often it names the one that a copy imitates; "rank1" and "mAP" of the real queries by
    `finder`, a trained model, and "styled_rank1", "styled_mAP" of their copies, in the same gallery by the same
    rules; "change": mean absolute difference of a pixel, in levels of 255.
    """
    query, cameras, gallery = data.query, int(data.train.camids.max()) + 1, embed(finder, data.gallery.images, device)
    ids = query.pids, data.gallery.pids, query.camids, data.gallery.camids
    real = evaluation.evaluate_features(embed(finder, query.images, device), gallery, *ids)
    known = float((says_camera(classifier, query.images, device) == query.camids).mean())
    worth = {}
    for name, paint in painters.items():
        found = []
        for step in range(1, cameras):
            asked = (query.camids + step) % cameras
            copies = paint(asked)
            scores = evaluation.evaluate_features(embed(finder, copies, device), gallery, *ids)
            change = np.abs(copies.astype(np.int16) - query.images).mean()
            found.append([(says_camera(classifier, copies, device) == asked).mean(), scores.rank1, scores.mAP, change])
        means = dict(zip(("fooled", "styled_rank1", "styled_mAP", "change"), np.mean(found, 0).tolist()))
        worth[name] = {"camera": known, "rank1": real.rank1, "mAP": real.mAP} | means
    return worth
