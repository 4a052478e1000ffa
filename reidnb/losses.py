"""Losses of person re-identification: plain functions of features (N, D) or logits, and labels (N,).

The metric losses differ in how many images they compare at once and in which of them they listen to:

    contrastive   pairs          every pair
    triplet       a, p, n        every triplet; improved_triplet also keeps positives near
    quadruplet    a, p, n1, n2   every quadruplet
    trihard       a, p, n        the hardest positive and negative of each anchor
    msml          a, p, m, n     the hardest positive pair and the hardest negative pair of the batch

Distances are Euclidean and computed in float32 also under autocast; a square root of zero has gradient zero, never
NaN. A batch in which a loss finds nothing to compare gives 0, with a gradient of 0; so does a batch of no images.

Features and logits are floating-point tensors, labels whole numbers in a tensor, an array or a list, margins numbers.
What is of another kind is a TypeError, another shape or a value that cannot be meant a ValueError (`checks`).
"""

from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reidnb.checks import check_choice, check_floats, check_number, check_one_shape, labels_of, told

Labels = Tensor | np.ndarray | Sequence[int]  # (N,) whole numbers
NEAR = 1e-3  # rows whose |x - y|^2 is this small a share of |x|^2 + |y|^2: the product form has cancelled their digits


def pairwise_distances(features: Tensor) -> Tensor:
    """Euclidean distances between all rows of features (N, D) -> (N, N) float32, differentiable, 0 on the diagonal."""
    check_floats(features, "features", "(N, D)")
    with torch.autocast(features.device.type, enabled=False):
        x = features if features.dtype == torch.float64 else features.float()
        # Centred: that changes no distance, and keeps digits where all features lie far from the origin.
        return _Distances.apply(x - x.detach().mean(0) if len(x) else x)


class _Distances(torch.autograd.Function):
    """x (N, D) -> |x_i - x_j| (N, N), differentiable twice: one product forward and, for sum_j g_ij (x_i - x_j) =
    (diag(sum_j g_ij) - g) x , one backward. At distance 0 the gradient is 0."""

    @staticmethod
    def forward(ctx, x):
        squared = x @ x.T
        squares = squared.diagonal().clone()
        both = squares[:, None] + squares
        torch.sub(both, squared, alpha=2, out=squared)
        i, j = torch.nonzero(squared < both.mul_(NEAR).fill_diagonal_(0), as_tuple=True)
        if len(i):
            squared[i, j] = (x[i] - x[j]).square().sum(1)
        ctx.save_for_backward(x, squared.sqrt_(), i, j)
        return squared

    @staticmethod
    def backward(ctx, gradient):
        x, distances, i, j = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            g = gradient / distances.masked_fill(distances == 0, inf)
            g = g + g.T
            if not len(i):
                return (g.sum(1).diag() - g) @ x
            near, g = g[i, j], g.index_put((i, j), g.new_zeros(()))  # these by differences
            return ((g.sum(1).diag() - g) @ x).index_add(0, i, near[:, None] * (x[i] - x[j]))


# ----------------------------------------------------------------------------------- classification and verification


def cross_entropy(logits: Tensor, labels: Labels, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits (N, C) with label smoothing -> scalar.

    The target is 1 - e + e / C for the label, e / C for other classes (Szegedy et al., 2016; CamStyle's LSR, eq. 4).
    """
    check_floats(logits, "logits", "(N, C)")
    check_number(smoothing, "smoothing", 0, 1)
    logits, labels = logits.float(), labels_of(labels, logits).long()
    try:
        known = {"label_smoothing": smoothing, "ignore_index": torch.iinfo(torch.long).min}  # -100 is no label either
        return F.cross_entropy(logits, labels, **known) if len(labels) else logits.sum()
    except IndexError as error:
        raise ValueError(f"labels must be classes 0..{logits.shape[1] - 1}: {error}") from None


def verification_loss(pair_logits: Tensor, labels: Labels) -> Tensor:
    """The siamese network's question, same person or not, on every pair of a batch (Zheng et al., 2016) -> scalar.

    pair_logits (N, N), symmetric: how sure `methods.identification` is that two images show one person. Mean
    binary cross-entropy over the pairs i < j, where the few pairs of one person weigh as much as the many others.
    """
    check_floats(pair_logits, "pair_logits", "(N, N)")
    same, one_person = _pairs(labels, pair_logits)
    costs = F.binary_cross_entropy_with_logits(pair_logits.float(), same.float(), reduction="none")
    return (_mean(costs, one_person) + _mean(costs, ~same)) / 2


# ---------------------------------------------------------------------------------------------------------- attributes


def focal_loss(
    logits: Tensor, targets: Tensor, gamma: float = 2.0, alpha: float | None = 0.25, reduction: str = "mean"
) -> Tensor:
    """Focal loss (Lin et al., 2017, eq. 5; ALFO, printed there as its formula 1) -> scalar, or with reduction="none"
    one value a logit.

    With p the probability of what is true:  - (1 - p)^gamma log p , times `alpha` where the target is 1 and 1 - alpha
    where it is 0. gamma=0 and alpha=None is binary cross-entropy. logits and targets, 0 or 1, have one shape.
    """
    check_floats(logits, "logits")
    check_number(gamma, "gamma", 0)
    check_number(alpha, "alpha", 0, 1, or_none=True)
    check_one_shape(logits=logits, targets=targets)
    check_choice(reduction, "reduction", "mean", "none")
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits if logits.dtype == torch.float64 else logits.float()
        true = targets.to(logits.dtype)
        if not torch.equal(true * true, true):
            raise ValueError("targets must be 0 or 1; labels that count from 1, as Market-1501's file does, need a - 1")
        r = logits * (2 * true - 1)  # the logit of the truth
        costs = -F.logsigmoid(r)
        if gamma:
            costs = costs * (gamma * F.logsigmoid(-r)).exp()
        if alpha is not None:
            costs = costs * (1 - alpha + true * (2 * alpha - 1))
        return costs.sum() / max(costs.numel(), 1) if reduction == "mean" else costs


def attribute_costs(
    logits: Tensor, answers: Tensor, questions: Any, form: str = "focal", gamma: float = 2.0, alpha: float | None = 0.25
) -> tuple[Tensor, Tensor]:
    """What each stripe's answer to each question costs: logits (N, n, K), answers (N, K) of 1, 0 or NaN (unknown) ->
    costs (N, n, M), 0 where unknown, and asked (N, M), where something is known.

    form="softmax" is the cross-entropy of the one true statement among a question's several, or of yes and no (APR);
    "focal" is the focal loss of each statement, summed over a question's (ALFO); "weighted" binary cross-entropy, less
    for statements that are often true, by exp(-share) (DeepMAR). questions: `attributes.Questions`.
    """
    check_choice(form, "form", "softmax", "focal", "weighted")
    check_floats(logits, "logits", "(N, n, K)")
    check_floats(answers, "answers", "(N, K)")
    if logits.shape[::2] != answers.shape or logits.shape[2] != len(questions.shares):
        got = f"got shapes {tuple(logits.shape)}, {tuple(answers.shape)}"
        raise ValueError(f"logits (N, n, K) and answers (N, K) must be of {len(questions.shares)} statements, {got}")
    known, yes = ~answers.isnan(), answers.nan_to_num()[:, None].expand_as(logits)
    costs = focal_loss(logits, yes, *((gamma, alpha) if form == "focal" else (0.0, None)), reduction="none")
    if form == "weighted":
        costs = costs * torch.as_tensor(-questions.shares, dtype=costs.dtype, device=costs.device).exp()
    costs = costs.masked_fill(~known[:, None], 0)
    by_question, asked = [], []
    for group in questions.groups:
        if form == "softmax" and group.stop - group.start > 1:  # a person may wear a colour that has no name
            by_question.append(-(yes[..., group] * F.log_softmax(logits[..., group].float(), -1)).sum(-1))
            asked.append((answers[:, group] == 1).any(1))
        else:
            by_question.append(costs[..., group].sum(-1))
            asked.append(known[:, group].any(1))
    return torch.stack(by_question, -1), torch.stack(asked, -1)


def blind_logits(questions: Any, form: str = "focal", gamma: float = 2.0, alpha: float | None = 0.25) -> Tensor:
    """The logits (K,) with the lowest `attribute_costs` for who sees nothing, but knows how often each one is true.

    Cross-entropy's best answer is that share, focal loss's lies nearer to a half. Classifiers that do not start there
    spend their first steps on moving there (Lin et al., 2017, section 3.3). Shares are kept within 0.001..0.999.
    """
    check_choice(form, "form", "softmax", "focal", "weighted")
    shares = torch.as_tensor(questions.shares, dtype=torch.float64).clamp(1e-3, 1 - 1e-3)
    logits = shares.logit()
    if form == "focal" and (gamma or alpha is not None):
        grid = torch.linspace(-10, 10, 4001, dtype=torch.float64)
        yes, no = (focal_loss(grid, torch.full_like(grid, y), gamma, alpha, reduction="none") for y in (1, 0))
        logits = grid[(shares[:, None] * yes + (1 - shares)[:, None] * no).argmin(1)]
    for group in questions.groups:
        if form == "softmax" and group.stop - group.start > 1:
            logits[group] = shares[group].log()
    return logits.float()


def voted_loss(costs: Tensor, asked: Tensor, vote: str = "stripe") -> Tensor:
    """The attribute loss of a batch from `attribute_costs` (ALFO, section 2.3) -> scalar, a mean over the questions.

    vote="stripe": for each question the stripe counts whose mean over the batch is lowest. "image": for each question
    and each image the lowest stripe. "mean": all stripes alike, no vote. Questions of which the batch knows nothing
    take no part.
    """
    check_choice(vote, "vote", "stripe", "image", "mean")
    check_floats(costs, "costs", "(N, n, M)")
    check_one_shape(costs_of_one_stripe=costs[:, :1].sum(1), asked=asked)
    if vote == "image":
        costs = costs.amin(1, keepdim=True)
    means = (costs * asked[:, None]).sum(0) / asked.sum(0).clamp(min=1)
    return _mean(means.mean(0) if vote == "mean" else means.amin(0), asked.any(0))


# ------------------------------------------------------------------------------------------------------ metric losses


def contrastive_loss(features: Tensor, labels: Labels, margin: float = 1.0) -> Tensor:
    """Contrastive loss (Hadsell et al., 2006; survey notes, L_c) -> scalar.

    Mean over the pairs i < j of  d(i, j)^2  for one person,  [ margin - d(i, j) ]+^2  for two: each pair for itself,
    against a fixed distance. features (N, D), labels (N,).
    """
    check_number(margin, "margin", 0)
    distances, same, one_person = _compared(features, labels)
    costs = torch.where(same, distances, F.relu(margin - distances)).square()
    return _mean(costs, one_person | ~same)


def triplet_loss(features: Tensor, labels: Labels, margin: float = 0.3) -> Tensor:
    """Triplet loss (Schroff et al., 2015; survey notes, L_t) -> scalar.

    Mean over all triplets (a, p, n) of the batch, satisfied ones included, of  [ d(a, p) - d(a, n) + margin ]+ : what
    triplets drawn at random give on average. features (N, D), labels (N,).
    """
    _, positive, negatives, valid = _triplets(features, labels, margin=margin)
    return _mean(F.relu(positive - negatives + margin), valid)


def improved_triplet_loss(features: Tensor, labels: Labels, margin: float = 0.3, pull: float = 1.0) -> Tensor:
    """Triplet loss that also keeps positives near (Cheng et al., 2016; survey notes, L_it) -> scalar.

    Mean over all triplets (a, p, n) of  pull d(a, p) + [ d(a, p) - d(a, n) + margin ]+ : the survey has `pull=1`, the
    paper 0.002. features (N, D), labels (N,).
    """
    check_number(pull, "pull", 0)
    _, positive, negatives, valid = _triplets(features, labels, margin=margin)
    return _mean(pull * positive + F.relu(positive - negatives + margin), valid)


def quadruplet_loss(features: Tensor, labels: Labels, margin: float = 0.3, margin2: float = 0.15) -> Tensor:
    """Quadruplet loss (Chen et al., 2017; survey notes, L_q) -> scalar.

    Mean over all (a, p, n1, n2) of three persons of  [ d(a, p) - d(a, n1) + margin ]+  +  [ d(a, p) - d(n1, n2) +
    margin2 ]+ . features (N, D), labels (N,). Needs the time of the triplet loss and one sort, not that of N^4 terms.
    """
    batch = _compared(features, labels, margin=margin, margin2=margin2)
    slopes, constant = _quadruplets(*(x.detach().cpu().numpy() for x in batch), margin, margin2)
    return ((torch.from_numpy(slopes) * batch[0].cpu()).sum() + constant).to(batch[0])


def _quadruplets(d, same, one_person, margin, margin2):
    """The mean of all hinges as what it is between their kinks: sum_ij slopes_ij d_ij + constant, by counting how often
    a hinge above zero adds a distance or takes it away. In numpy, which loses less time in a call than torch."""
    apart, images = np.where(same, inf, d), same.sum(1)
    # The first hinge does not know n2: count how many go with each (a, p, n1).
    partners = np.where(same, 0, len(d) - images[:, None] - images)
    a, p = np.nonzero(one_person)
    strong = partners[a] * (apart[a] < (d[a, p] + margin)[:, None])
    slopes = -_grouped(strong, a, len(d))
    slopes[a, p] += strong.sum(1)
    quadruplets = max(partners[a].sum(), 1)
    # The second knows neither a nor p: all pairs of two persons, less those that a's person is in. Either may be a.
    a, p, reach = a[a < p], p[a < p], d[a, p][a < p] + margin2
    short = np.sort(reach).searchsorted(apart.ravel(), "right")  # how many do not reach beyond each distance
    below = np.bincount(short, minlength=len(a) + 1).cumsum()[np.searchsorted(np.sort(reach), reach)]
    k, pair = np.nonzero(same[:, a])
    own = apart[k] < reach[pair, None]
    weak = below - 2 * np.bincount(pair, own.sum(1), len(a))
    own = _grouped(own, k, len(d))
    slopes += 2 * (short.reshape(d.shape) - len(a) + own + own.T)
    slopes[a, p] += 2 * weak
    return slopes / quadruplets, float(margin * strong.sum() + margin2 * 2 * weak.sum()) / quadruplets


def _grouped(rows, groups, n):
    """The rows (M, N) added up by their group, 0..n-1 in order -> (n, N)."""
    out, starts = np.zeros((n, rows.shape[1])), np.flatnonzero(np.diff(groups, prepend=-1))
    out[groups[starts]] = np.add.reduceat(rows, starts, dtype=int)
    return out


def trihard_loss(features: Tensor, labels: Labels, margin: float | None = 0.3) -> Tensor:
    """Triplet loss with batch-hard mining, TriHard (Hermans et al., 2017, eq. 5) -> scalar.

    Mean over the anchors a of  [ max_p d(a, p) - min_n d(a, n) + margin ]+ ; with `margin=None` the soft margin log(1
    + exp(.)). features (N, D), labels (N,). Anchors without another image of their person, or without anybody else,
    take no part.
    """
    distances = pairwise_distances(features)
    return mined_loss(distances, hardest_triplets(distances, labels), margin)


def msml_loss(features: Tensor, labels: Labels, margin: float = 0.3) -> Tensor:
    """Margin sample mining loss, MSML (Xiao et al., 2017; survey notes, L_msml) -> scalar.

    [ max d(a, p) - min d(m, n) + margin ]+  over all pairs of one person and all pairs of two in the batch: TriHard's
    hinge on one pair of pairs, which need not share an image. features (N, D), labels (N,).
    """
    distances, same, one_person = _compared(features, labels, margin=margin)
    if not len(distances):
        return distances.sum()
    gap = distances.masked_fill(~same, -inf).amax() - distances.masked_fill(same, inf).amin()
    return _mean(F.relu(gap + margin), one_person.any() & ~same.all())


@torch.no_grad()
def active_shares(features: Tensor, labels: Labels, margin: float = 0.3) -> tuple[Tensor, Tensor]:
    """How much a margin still asks for: the share of all triplets, and of anchors, whose hinge is above zero.

    An anchor counts by its hardest triplet. features (N, D), labels (N,) -> two scalars, NaN for a batch without
    triplets. Small shares leave little to learn from random triplets; a share of triplets that rises to 1 is collapse.
    """
    a, positive, negatives, valid = _triplets(features, labels, margin=margin)
    active = (positive - negatives + margin > 0) & valid
    anchors, hit = valid.new_zeros(2, len(features))
    anchors[a[valid.any(1)]], hit[a[active.any(1)]] = True, True
    return active.sum() / valid.sum(), hit.sum() / anchors.sum()


@torch.no_grad()
def hardest_triplets(distances: Tensor, labels: Labels) -> tuple[Tensor, Tensor, Tensor]:
    """Each anchor's farthest image of its person and nearest of anybody else -> positives, negatives, valid, all (N,).

    distances (N, N) of any kind; labels (N,). Where `valid` is False an anchor has no triplet.
    """
    check_floats(distances, "distances", "(N, N)")
    same, one_person = _pairs(labels, distances)
    # An image is not its own positive: by stripes nobody is at 0 from himself.
    candidates = distances.masked_fill(~one_person, -inf), -distances.masked_fill(same, inf)
    hardest = (x.argmax(1) if len(x) else x.sum(1).long() for x in candidates)
    return *hardest, one_person.any(1) & ~same.all(1)


def mined_loss(distances: Tensor, triplets: tuple[Tensor, Tensor, Tensor], margin: float | None = 0.3) -> Tensor:
    """The triplet loss on triplets chosen by `hardest_triplets`, maybe with other distances -> scalar.

    AlignedReID mines by the global distance and sums this loss of the global and of the local distance. With triplets
    of the same distances it is `trihard_loss`, also for `margin=None`.
    """
    check_number(margin, "margin", or_none=True)
    check_floats(distances, "distances", "(N, N)")
    if not isinstance(triplets, tuple) or [getattr(x, "shape", None) for x in triplets] != 3 * [distances.shape[:1]]:
        raise ValueError(
            f"triplets must be those of hardest_triplets for {len(distances)} images, got {told(triplets)}"
        )
    positives, negatives, valid = triplets
    gaps = (distances.gather(1, positives[:, None]) - distances.gather(1, negatives[:, None])).squeeze(1)
    return _mean(F.softplus(gaps) if margin is None else F.relu(gaps + margin), valid)


# ------------------------------------------------------------------------------------------------------ mutual learning


def class_mutual_loss(logits: Tensor, peer_logits: Tensor) -> Tensor:
    """KL(peer || own) of two students' class probabilities, for one of them (Zhang et al., 2018) -> scalar.

    logits, peer_logits (N, C). The peer teaches and is not taught: no gradient reaches it. Mean over the images.
    """
    check_floats(logits, "logits", "(N, C)")
    check_one_shape(logits=logits, peer_logits=peer_logits)
    own, peer = (F.log_softmax(x.float(), 1) for x in (logits, peer_logits.detach()))
    return F.kl_div(own, peer, log_target=True, reduction="sum") / max(len(own), 1)


def metric_mutual_loss(features: Tensor, peer_features: Tensor, zero_gradient: bool = True) -> Tensor:
    """Two students' distance matrices of one batch drawn together (AlignedReID, eq. 3) -> scalar, for both.

    features (N, C), peer_features (N, C'). Each term treats the other student's matrix as a constant (the paper's zero
    gradient function, eq. 4); `zero_gradient=False` lets both move both, which is the same direction twice as far.
    """
    own, peer = pairwise_distances(features), pairwise_distances(peer_features)
    check_one_shape(distances=own, peer_distances=peer)
    if not len(own):
        return own.sum() + peer.sum()
    if not zero_gradient:
        return 2 * (own - peer).square().mean()
    return (own.detach() - peer).square().mean() + (own - peer.detach()).square().mean()


# ------------------------------------------------------------------------------------------------- pairs and triplets


def _compared(features, labels, **margins):
    """The distances of a batch (N, N), and who is of one person: with the pairs of an image and itself, and without."""
    for name, margin in margins.items():
        check_number(margin, name)
    distances = pairwise_distances(features)
    return distances, *_pairs(labels, distances)


def _pairs(labels, rows):
    labels = labels_of(labels, rows)
    same = labels[:, None] == labels
    return same, same.clone().fill_diagonal_(False)


def _triplets(features, labels, **margins):
    """All triplets, a row a pair (a, p), a column an n: a (M,), d(a, p) (M, 1), d(a, n), does it count (M, N)."""
    distances, same, one_person = _compared(features, labels, **margins)
    a, p = torch.nonzero(one_person, as_tuple=True)
    return a, distances[a, p][:, None], distances.index_select(0, a), ~same[a]


def _mean(values, valid):
    """Mean of the values where `valid`; 0, with a gradient of 0, where nothing is."""
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)
