"""Losses of person re-identification: plain functions of features (N, D) or logits, and labels (N,).

The metric losses differ in how many images they compare at once and in which of them they listen to:

    contrastive   pairs          every pair
    triplet       a, p, n        every triplet; improved_triplet also keeps positives near
    quadruplet    a, p, n1, n2   every quadruplet
    trihard       a, p, n        the hardest positive and negative of each anchor
    msml          a, p, m, n     the hardest positive pair and the hardest negative pair of the batch

Distances are Euclidean and computed in float32 also under autocast; a square root of zero has gradient zero, never
NaN. A batch in which a loss finds nothing to compare gives 0, with a gradient of 0.
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

__all__ = [
    "active_shares",
    "attribute_costs",
    "blind_logits",
    "class_mutual_loss",
    "contrastive_loss",
    "cross_entropy",
    "focal_loss",
    "hardest_triplets",
    "improved_triplet_loss",
    "metric_mutual_loss",
    "mined_loss",
    "msml_loss",
    "pairwise_distances",
    "quadruplet_loss",
    "trihard_loss",
    "triplet_loss",
    "verification_loss",
    "voted_loss",
]


def pairwise_distances(features):
    """Euclidean distances between all rows of features (N, D) -> (N, N) float32, differentiable, 0 on the diagonal."""
    if features.ndim != 2:
        raise ValueError(f"features must be a matrix (N, D), got shape {tuple(features.shape)}")
    with torch.autocast(features.device.type, enabled=False):
        x = features if features.dtype == torch.float64 else features.float()
        x = x - x.detach().mean(0)  # changes no distance, and keeps digits where all features lie far from the origin
        squared, squares = _SquaredDistances.apply(x)
        near = (squared < 1e-3 * (squares[:, None] + squares)).fill_diagonal_(False)
        i, j = torch.nonzero(near, as_tuple=True)
        if len(i):  # near-duplicates: the product form has cancelled their digits
            squared = squared.index_put((i, j), (x[i] - x[j]).square().sum(1))
        zero = (squared == 0).fill_diagonal_(True)  # the root's slope is infinite: give it a 1, then take it out again
        return torch.where(zero, 0, torch.where(zero, 1, squared).sqrt())


class _SquaredDistances(torch.autograd.Function):
    """x (N, D) -> |x_i - x_j|^2 (N, N) and, without a gradient, |x_i|^2 (N,): one product forward, one backward.

    With g the gradient plus its transpose, the rows' gradient is sum_j 2 g_ij (x_i - x_j) = 2 (diag(sum_j g_ij) - g) x.
    """

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        products = x @ x.T
        squares = products.diagonal().clone()
        ctx.mark_non_differentiable(squares)
        return (squares[:, None] + squares - 2 * products).clamp_(min=0), squares

    @staticmethod
    def backward(ctx, gradient, _):
        (x,) = ctx.saved_tensors
        both = gradient + gradient.T
        return (2 * (both.sum(1).diag() - both)) @ x


# ----------------------------------------------------------------------------------- classification and verification


def cross_entropy(logits, labels, smoothing=0.0):
    """Mean cross-entropy of logits (N, C) with label smoothing -> scalar.

    The target is 1 - e + e / C for the label and e / C for every other class (Szegedy et al., 2016; LSR in CamStyle,
    eq. 4).
    """
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


def verification_loss(pair_logits, labels):
    """The siamese network's question, same person or not, on every pair of a batch (Zheng et al., 2016) -> scalar.

    pair_logits (N, N), symmetric: how sure the model is that two images show one person (`models.Verifier`). Mean
    binary cross-entropy over the pairs i < j, where the few pairs of one person weigh as much as the many others.
    """
    same, one_person = _pairs(labels, pair_logits)
    costs = F.binary_cross_entropy_with_logits(pair_logits.float(), same.float(), reduction="none")
    return (_mean(costs, one_person) + _mean(costs, ~same)) / 2


# ---------------------------------------------------------------------------------------------------------- attributes


def focal_loss(logits, targets, gamma=2.0, alpha=0.25, reduction="mean"):
    """Focal loss (Lin et al., 2017, eq. 5; ALFO, printed there as its formula 1) -> scalar, or with reduction="none"
    one value a logit.

    With p the probability of what is true:  - (1 - p)^gamma log p , times `alpha` where the target is 1 and 1 - alpha
    where it is 0. gamma=0 and alpha=None is binary cross-entropy. logits and targets, 0 or 1, have one shape.
    """
    if logits.shape != targets.shape:
        raise ValueError(f"logits and targets must have one shape, got {tuple(logits.shape)}, {tuple(targets.shape)}")
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}")
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits if logits.dtype == torch.float64 else logits.float()
        true = targets.to(logits.dtype)
        if not torch.equal(true * true, true):
            raise ValueError("targets must be 0 or 1; labels that count from 1, as Market-1501's file does, need a - 1")
        costs = _FocalCosts.apply(logits, true, gamma, alpha)
        return costs.sum() / max(costs.numel(), 1) if reduction == "mean" else costs


class _FocalCosts(torch.autograd.Function):
    """- w q^gamma log p  with p = sigmoid(r) the probability of the truth and q = 1 - p; its slope by r is
    w q^gamma (gamma p log p - q) : finite wherever p is 0 or 1, for any gamma, and one tensor to keep."""

    @staticmethod
    def forward(ctx, logits, true, gamma, alpha):
        sign = 2 * true - 1
        log_p = F.logsigmoid(logits * sign)  # of r, the logit of the truth
        q = torch.expm1(log_p).neg_()
        slope = (1 - q).mul_(log_p).mul_(gamma).sub_(q).mul_(sign)
        weight = q.pow_(gamma)
        if alpha is not None:
            weight.mul_(1 - alpha + true * (2 * alpha - 1))
        ctx.save_for_backward(slope.mul_(weight))
        return log_p.mul_(weight).neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None, None


def attribute_costs(logits, answers, questions, form="focal", gamma=2.0, alpha=0.25):
    """What each stripe's answer to each question costs: logits (N, n, K), answers (N, K) of 1, 0 or NaN (unknown) ->
    costs (N, n, M), 0 where unknown, and asked (N, M), where something is known.

    form="softmax" is the cross-entropy of the one true statement among a question's several, or of yes and no (APR);
    "focal" is the focal loss of each statement, summed over a question's (ALFO); "weighted" binary cross-entropy, less
    for statements that are often true, by exp(-share) (DeepMAR). questions: `attributes.Questions`.
    """
    known, yes = ~answers.isnan(), answers.nan_to_num()
    yes = yes[:, None].expand_as(logits)
    costs = focal_loss(logits, yes, *((gamma, alpha) if form == "focal" else (0.0, None)), reduction="none")
    if form == "weighted":
        costs = costs * torch.as_tensor(-questions.shares, dtype=costs.dtype, device=costs.device).exp()
    costs = costs.masked_fill(~known[:, None], 0)
    several = [form == "softmax" and group.stop - group.start > 1 for group in questions.groups]
    by_question = [
        -(yes[..., group] * F.log_softmax(logits[..., group].float(), -1)).sum(-1)
        if one_of
        else costs[..., group].sum(-1)
        for group, one_of in zip(questions.groups, several)
    ]
    asked = [  # among several, a person may wear a colour that has no name
        (answers[:, group] == 1).any(1) if one_of else known[:, group].any(1)
        for group, one_of in zip(questions.groups, several)
    ]
    return torch.stack(by_question, -1), torch.stack(asked, -1)


def blind_logits(questions, form="focal", gamma=2.0, alpha=0.25):
    """The logits (K,) with the lowest `attribute_costs` for who sees nothing, but knows how often each one is true.

    Cross-entropy's best answer is that share itself, focal loss's lies nearer to a half. Classifiers that start there
    learn from what they see; others spend their first steps on moving there (Lin et al., 2017, section 3.3). What
    never or always occurred counts as 1 in 1000 or 999.
    """
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


def voted_loss(costs, asked, vote="stripe"):
    """The attribute loss of a batch from `attribute_costs` (ALFO, section 2.3) -> scalar, a mean over the questions.

    vote="stripe": for each question the stripe counts whose mean over the batch is lowest. "image": for each question
    and each image the lowest stripe. "mean": all stripes alike, no vote. Questions of which the batch knows nothing
    take no part.
    """
    if vote == "image":
        costs = costs.amin(1, keepdim=True)
    means = (costs * asked[:, None]).sum(0) / asked.sum(0).clamp(min=1)
    return _mean(means.mean(0) if vote == "mean" else means.amin(0), asked.any(0))


# ------------------------------------------------------------------------------------------------------ metric losses


def contrastive_loss(features, labels, margin=1.0):
    """Contrastive loss (Hadsell et al., 2006; survey notes, L_c) -> scalar.

    Mean over the pairs i < j of  d(i, j)^2  for one person,  [ margin - d(i, j) ]+^2  for two: each pair for itself,
    against a fixed distance. features (N, D), labels (N,).
    """
    distances = pairwise_distances(features)
    same, one_person = _pairs(labels, features)
    costs = torch.where(same, distances, F.relu(margin - distances)).square()
    return _mean(costs, one_person | ~same)


def triplet_loss(features, labels, margin=0.3):
    """Triplet loss (Schroff et al., 2015; survey notes, L_t) -> scalar.

    Mean over all triplets (a, p, n) of the batch, satisfied ones included, of  [ d(a, p) - d(a, n) + margin ]+ : what
    triplets drawn at random give on average. features (N, D), labels (N,).
    """
    _, positive, negatives, valid = _triplets(features, labels)
    return _mean(F.relu(positive - negatives + margin), valid)


def improved_triplet_loss(features, labels, margin=0.3, pull=1.0):
    """Triplet loss that also keeps positives near (Cheng et al., 2016; survey notes, L_it) -> scalar.

    Mean over all triplets (a, p, n) of  pull d(a, p) + [ d(a, p) - d(a, n) + margin ]+ . features (N, D), labels (N,).
    The survey writes it without a factor, `pull=1`; the paper's own is 0.002.
    """
    _, positive, negatives, valid = _triplets(features, labels)
    return _mean(pull * positive + F.relu(positive - negatives + margin), valid)


def quadruplet_loss(features, labels, margin=0.3, margin2=0.15):
    """Quadruplet loss (Chen et al., 2017; survey notes, L_q) -> scalar.

    Mean over all (a, p, n1, n2) of three persons of  [ d(a, p) - d(a, n1) + margin ]+  +  [ d(a, p) - d(n1, n2) +
    margin2 ]+ . features (N, D), labels (N,). Needs the time of the triplet loss and one sort, not that of N^4 terms.
    """
    distances = pairwise_distances(features)
    same, one_person = _pairs(labels, features)
    a, p = torch.nonzero(one_person.triu(), as_tuple=True)  # either may be the anchor
    positive, images = distances[a, p].double(), same.sum(1)  # images of each one's person
    # The first hinge does not know n2: count how many go with each (a, p, n1).
    partners = torch.where(same[a], 0, len(same) - images[a][:, None] - images)
    reach = positive[:, None] + margin
    strong = partners * (F.relu(reach - distances.index_select(0, a)) + F.relu(reach - distances.index_select(0, p)))
    # The second knows neither a nor p: over all pairs of two persons, less those that a's person is in.
    reach = positive + margin2
    pair, k = torch.nonzero(same[a], as_tuple=True)
    own = F.relu(reach[pair][:, None] - distances.index_select(0, k)) * ~same[k]
    weak = 2 * _hinge_sums(reach, distances[(~same).triu()]).sum() - 2 * own.sum()
    mean = (strong.sum() + 2 * weak) / (2 * partners.sum()).clamp(min=1)
    return _mean(mean, partners.any()).to(distances.dtype)  # exactly 0 where there is no quadruplet


def trihard_loss(features, labels, margin=0.3):
    """Triplet loss with batch-hard mining, TriHard (Hermans et al., 2017, eq. 5) -> scalar.

    Mean over the anchors a of  [ max_p d(a, p) - min_n d(a, n) + margin ]+ ; with `margin=None` the soft margin log(1
    + exp(.)). features (N, D), labels (N,). Anchors without another image of their person, or without anybody else,
    take no part.
    """
    distances = pairwise_distances(features)
    same, one_person = _pairs(labels, features)
    gaps = distances.masked_fill(~same, -torch.inf).amax(1) - distances.masked_fill(same, torch.inf).amin(1)
    anchors = one_person.any(1) & ~same.all(1)
    return _mean(F.softplus(gaps) if margin is None else F.relu(gaps + margin), anchors)


def msml_loss(features, labels, margin=0.3):
    """Margin sample mining loss, MSML (Xiao et al., 2017; survey notes, L_msml) -> scalar.

    [ max d(a, p) - min d(m, n) + margin ]+  over all pairs of one person and all pairs of two in the batch: TriHard's
    hinge on one pair of pairs, which need not share an image. features (N, D), labels (N,).
    """
    distances = pairwise_distances(features)
    same, one_person = _pairs(labels, features)
    gap = distances.masked_fill(~same, -torch.inf).amax() - distances.masked_fill(same, torch.inf).amin()
    return _mean(F.relu(gap + margin), one_person.any() & ~same.all())


@torch.no_grad()
def active_shares(features, labels, margin=0.3):
    """How much a margin still asks for: the share of all triplets, and of anchors, whose hinge is above zero.

    An anchor counts by its hardest triplet. features (N, D), labels (N,) -> two scalars, NaN for a batch without
    triplets. Small shares mean that there is little left to learn from a random triplet; a share of triplets that rises
    to 1 means collapse.
    """
    a, positive, negatives, valid = _triplets(features, labels)
    active = (positive - negatives + margin > 0) & valid
    anchors, hit = valid.new_zeros(2, len(features))
    anchors[a[valid.any(1)]], hit[a[active.any(1)]] = True, True
    return active.sum() / valid.sum(), hit.sum() / anchors.sum()


# ------------------------------------------------------------------------------- one choice of triplets, two distances


@torch.no_grad()
def hardest_triplets(distances, labels):
    """Each anchor's farthest image of its person and nearest of anybody else -> positives, negatives, valid, all (N,).

    distances (N, N) of any kind; labels (N,). Where `valid` is False an anchor has no triplet.
    """
    same, one_person = _pairs(labels, distances)
    positives = distances.masked_fill(~one_person, -torch.inf).argmax(1)  # by stripes nobody is at 0 from himself
    negatives = distances.masked_fill(same, torch.inf).argmin(1)
    return positives, negatives, one_person.any(1) & ~same.all(1)


def mined_loss(distances, triplets, margin=0.3):
    """The triplet loss on triplets chosen by `hardest_triplets`, maybe with other distances -> scalar.

    AlignedReID mines by the global distance and sums this loss of the global and of the local distance. With triplets
    of the same distances it is `trihard_loss`.
    """
    positives, negatives, valid = triplets
    gaps = distances.gather(1, positives[:, None]) - distances.gather(1, negatives[:, None])
    return _mean(F.relu(gaps.squeeze(1) + margin), valid)


# ------------------------------------------------------------------------------------------------------ mutual learning


def class_mutual_loss(logits, peer_logits):
    """KL(peer || own) of two students' class probabilities, for one of them (Zhang et al., 2018) -> scalar.

    logits, peer_logits (N, C). The peer teaches and is not taught: no gradient reaches it. Mean over the images.
    """
    own, peer = (F.log_softmax(x.float(), 1) for x in (logits, peer_logits.detach()))
    return F.kl_div(own, peer, log_target=True, reduction="batchmean")


def metric_mutual_loss(features, peer_features, zero_gradient=True):
    """Two students' distance matrices of one batch drawn together (AlignedReID, eq. 3) -> scalar, for both.

    features (N, C), peer_features (N, C'). Each term treats the other student's matrix as a constant (the paper's zero
    gradient function, eq. 4); `zero_gradient=False` lets both move both, which is the same direction twice as far.
    """
    own, peer = pairwise_distances(features), pairwise_distances(peer_features)
    if not zero_gradient:
        return 2 * (own - peer).square().mean()
    return (own.detach() - peer).square().mean() + (own - peer.detach()).square().mean()


# ------------------------------------------------------------------------------------------------- pairs and triplets


def _pairs(labels, features):
    """Who is of one person (N, N): with the pairs of an image and itself, and without."""
    labels = torch.as_tensor(labels, device=features.device)
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"labels must be one integer for each of the {len(features)} rows, got shape {tuple(labels.shape)}"
        )
    same = labels[:, None] == labels
    return same, same.clone().fill_diagonal_(False)


def _triplets(features, labels):
    """All triplets of a batch, a row a pair (a, p) and a column an image n: a (M,), d(a, p) (M, 1), d(a, n) (M, N),
    and where n is of another person (M, N)."""
    distances = pairwise_distances(features)
    same, one_person = _pairs(labels, features)
    a, p = torch.nonzero(one_person, as_tuple=True)
    return a, distances[a, p][:, None], distances.index_select(0, a), ~same[a]


def _mean(values, valid):
    """Mean of the values where `valid`; 0, with a gradient of 0, where nothing is."""
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)


def _hinge_sums(x, y):
    """For each x (M,) the sum of [ x - y ]+ over all y (K,), by one sort instead of M x K differences."""
    y = y.to(x.dtype).sort().values
    count = torch.searchsorted(y, x.detach())  # how many lie below each x
    return count * x - F.pad(y.cumsum(0), (1, 0))[count]
