"""One feature of many frames, against slow forms; what order may change and what it may not."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidnb import video
from reidnb.datasets.tracklets import Tracklets
from reidnb.evaluation import evaluate_features

WIDTH = 12
SHAPE = (3, 2, 2)  # of maps, for a 3-D convolution
VOLUMES = {"volume": 3, "volume, blind": 1}


def made(lengths, seed=0, width=WIDTH):
    return np.random.default_rng(seed).standard_normal((sum(lengths), width)).astype(np.float32)


def pieces(features, lengths):
    return np.split(features, np.cumsum(lengths)[:-1])


def unit(vector):
    length = np.linalg.norm(vector)
    return vector / length if length else vector


def learned(kind):
    """A head with weights that are no longer those it begins with."""
    torch.manual_seed(1)
    if kind in ("attention", "quality"):
        head = video.Scored(WIDTH, kind, 5)
    elif kind in VOLUMES:
        head = video.Volume(SHAPE, VOLUMES[kind], inner=4, hidden=5)
    else:
        head = video.Recurrent(WIDTH, kind, 4)
    for weight in head.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return head.eval()


def by_hand(kind, frames):
    """One tracklet's frames (n, D), in plain Python."""
    n = len(frames)
    if kind == "middle":
        return frames[n // 2]
    if kind == "mean":
        return sum(frames) / n
    if kind == "largest":
        return np.array([max(frame[d] for frame in frames) for d in range(frames.shape[1])])
    if kind == "agreeing":
        whole = unit(sum(frames) / n)
        share = [np.exp(8.0 * (unit(frame) @ whole)) for frame in frames]
        return sum(s * frame for s, frame in zip(share, frames)) / sum(share)
    head, x = learned(kind), [torch.from_numpy(frame) * WIDTH**0.5 for frame in frames]
    with torch.no_grad():
        if kind in ("attention", "quality"):
            scores = [float(head.scorer(frame)) for frame in x]
            share = [np.exp(s) if kind == "attention" else 1 / (1 + np.exp(-s)) for s in scores]
            return sum(s * frame for s, frame in zip(share, frames)) / sum(share)
        if kind == "layer":
            return (sum(head.see(frame) for frame in x) / n).numpy()
        if kind == "rnn":
            said, memory = [], torch.zeros(4)
            for frame in x:
                said.append(head.see(frame) + head.recall.weight @ memory)
                memory = torch.tanh(said[-1])
            return (sum(said) / n).numpy()
        if kind == "convolution":
            padded = [torch.zeros(WIDTH), *x, torch.zeros(WIDTH)]
            w, b = head.conv.weight, head.conv.bias
            said = [b + sum(w[:, :, j] @ padded[t + j] for j in range(3)) for t in range(n)]
            return (sum(torch.relu(each) for each in said) / n).numpy()
        if kind in VOLUMES:
            return volume_by_hand(head, frames, VOLUMES[kind])
        return head.lstm(torch.stack(x)[None])[0][0].mean(0).numpy()  # torch's own, of one tracklet without padding


def volume_by_hand(head, frames, reach):
    """A 3-D convolution, cell by cell and frame by frame."""
    n, (_, rows, columns), half = len(frames), SHAPE, reach // 2
    cells = torch.from_numpy(frames.reshape(n, *SHAPE))
    linear, norm = head.narrow[0].weight[:, :, 0, 0, 0], head.narrow[1]
    narrow = torch.einsum("oc,nchw->nohw", linear, cells)
    narrow = narrow / (1 + norm.eps) ** 0.5 * norm.weight[:, None, None] + norm.bias[:, None, None]
    narrow, total = narrow.relu(), torch.zeros(len(head.conv.bias))
    for t in range(n):
        for y in range(rows):
            for x in range(columns):
                said = head.conv.bias.clone()
                for dt in range(-half, half + 1):
                    for dy in (-1, 0, 1):
                        for dx in (-1, 0, 1):
                            if 0 <= t + dt < n and 0 <= y + dy < rows and 0 <= x + dx < columns:
                                weight = head.conv.weight[:, :, dt + half, dy + 1, dx + 1]
                                said += weight @ narrow[t + dt, :, y + dy, x + dx]
                total += said.relu()
    return (total / (n * rows * columns)).numpy()


WITHOUT_ORDER = ("mean", "largest", "agreeing", "attention", "quality", "layer", "volume, blind")
WITH_ORDER = ("rnn", "lstm", "convolution", "volume")
KINDS = ("middle", *WITHOUT_ORDER, *WITH_ORDER)


def way(kind):
    return getattr(video, kind) if hasattr(video, kind) else learned(kind)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=9), st.integers(1, 4), st.integers(0, 99))
def test_in_bulk_as_by_hand(kind, lengths, block, seed):
    features = made(lengths, seed)
    found = video.aggregate(way(kind), features, lengths, block=block)
    for row, frames in zip(found, pieces(features, lengths)):
        wanted = unit(by_hand(kind, frames)) if len(frames) else np.zeros(found.shape[1])
        np.testing.assert_allclose(row, wanted, atol=2e-5)  # float32, sums in another order


@pytest.mark.parametrize("kind", KINDS[1:])
def test_order(kind):
    """Those that look at frames one by one may not care about it; those with a memory must."""
    lengths = [5, 8]
    features, rng = made(lengths), np.random.default_rng(3)
    other = np.concatenate([rng.permutation(frames) for frames in pieces(features, lengths)])
    one, two = (video.aggregate(way(kind), x, lengths) for x in (features, other))
    assert np.allclose(one, two, atol=1e-5) == (kind in WITHOUT_ORDER)


@pytest.mark.parametrize("kind", WITH_ORDER)
def test_order_between_the_ends(kind):
    """The first and the last two frames stay: a convolution without a ReLU would not notice."""
    features = made([8])
    other = np.concatenate([features[:2], features[[4, 2, 5, 3]], features[6:]])
    one, two = (video.aggregate(way(kind), x, [8]) for x in (features, other))
    assert np.abs(one - two).max() > 1e-3


def test_weights_from_outside():
    lengths, features, rng = [3, 0, 4, 1], made([3, 0, 4, 1]), np.random.default_rng(5)
    weights = rng.random(8).astype(np.float32)
    weights[3:7] = 0  # hidden in all its frames: the plain mean
    found = video.aggregate(video.weighted, features, lengths, weights)
    np.testing.assert_allclose(found[0], unit(weights[:3] @ features[:3]), atol=1e-6)
    np.testing.assert_allclose(found[2], unit(features[3:7].mean(0)), atol=1e-6)
    np.testing.assert_allclose(found[3], unit(features[7]), atol=1e-6)
    assert (found[1] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_one_frame_and_none(kind):
    features = made([1, 0])
    found = video.aggregate(way(kind), features, [1, 0])
    assert np.isfinite(found).all() and (found[1] == 0).all()
    if kind not in ("layer", *VOLUMES, *WITH_ORDER):
        np.testing.assert_allclose(found[0], unit(features[0]), atol=1e-6)


def test_a_head_begins_as_the_mean():
    lengths, features = [4, 2], made([4, 2])
    for form in ("attention", "quality"):
        begun = video.aggregate(video.Scored(WIDTH, form), features, lengths)
        np.testing.assert_allclose(begun, video.aggregate(video.mean, features, lengths), atol=1e-6)


@pytest.mark.parametrize("form", ["attention", "quality"])
def test_a_score_is_learned_from(form):
    """The softmax's and the sigmoid's gradients reach the scores though all of them begin equal."""
    head, (frames, mask) = video.Scored(WIDTH, form), video.pad(made([3, 4]), [3, 4])
    head(frames, mask).square().sum().backward()
    assert head.scorer[2].weight.grad.abs().max() > 0


@pytest.mark.parametrize("lengths", [[2, 2], [4, -1], [[3]]])
def test_lengths_that_do_not_fit(lengths):
    with pytest.raises(ValueError, match="lengths"):
        video.aggregate(video.mean, made([3]), lengths)


def test_what_does_not_fit_the_frames():
    """A sum over frames that are not there would be a mean all the same."""
    for lengths in ([1, 1], [3, 3], [5, -1]):
        with pytest.raises(ValueError, match="lengths that add up to"):
            video.merge_rankings(np.arange(12.0).reshape(4, 3), lengths)
    with pytest.raises(ValueError, match="one for each of 4 frames"):
        video.aggregate(video.weighted, made([2, 2]), [2, 2], weights=[1.0, 0.0])


def test_unknown_words():
    for call in (lambda: video.Scored(4, "max"), lambda: video.Recurrent(4, "gru")):
        with pytest.raises(ValueError, match="got '"):
            call()
    with pytest.raises(ValueError, match="got 2"):
        video.Volume(SHAPE, reach=2)
    with pytest.raises(ValueError, match="got 'votes'"):
        video.merge_rankings(np.zeros((2, 2)), [2], "votes")


@pytest.mark.parametrize("kind", ["mean", "largest", "agreeing", "attention", "quality"])
def test_ten_thousand_tracklets_in_a_second(kind):
    """In time of one core, whoever else uses it; the least of three."""
    torch.set_num_threads(1)
    lengths, seconds = np.full(10_000, 16), []
    features = np.random.default_rng(0).random((160_000, 256), np.float32)
    how = getattr(video, kind) if hasattr(video, kind) else video.Scored(256, kind)
    for _ in range(3):
        started = time.process_time()
        video.aggregate(how, features, lengths)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 1


# ------------------------------------------------------------------------------------------------------------ training


def toy(people=20, each=2, n=6, seed=0):
    """People as directions, each with good frames and frames of pure noise, which a mark in the last value tells."""
    rng = np.random.default_rng(seed)
    pids = np.repeat(np.arange(1, people + 1), each)
    directions = rng.standard_normal((people + 1, 15))
    bad = rng.random((len(pids), n)) < 0.5
    bad[:, 0] = False
    noise = rng.standard_normal((len(pids), n, 15))
    x = np.where(bad[:, :, None], 3 * noise, directions[pids][:, None] + 0.5 * noise)
    x = np.concatenate([x, np.where(bad, 3.0, -3.0)[:, :, None]], 2).astype(np.float32).reshape(-1, 16)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    frames = np.zeros((len(x), 3, 8, 4), np.uint8)
    lengths, camids = np.full(len(pids), n), np.arange(len(pids)) % 2
    return x, Tracklets(frames, np.arange(len(x)), lengths, pids, camids), bad.ravel()


@pytest.mark.parametrize("form", ["attention", "quality"])
def test_training_finds_the_frames_that_are_no_use(form):
    x, some, bad = toy()
    head = video.train_head(video.Scored(16, form), x, some, epochs=30, lr=1e-2)
    other, others, bad = toy(seed=1)
    with torch.no_grad():
        scores = head.scores(torch.from_numpy(other)).numpy()
    assert scores[~bad].mean() > scores[bad].mean() + 1
    plain, own = (video.aggregate(how, other, others.lengths) for how in (video.mean, head))
    ids = others.pids, others.pids, others.camids, others.camids
    assert evaluate_features(own, own, *ids).mAP > evaluate_features(plain, plain, *ids).mAP


def test_landmarks_see_what_is_covered():
    """A picture of four bands, each lit where its point is seen."""
    rng = np.random.default_rng(0)
    visible = rng.random((400, 4)) < 0.7
    images = np.repeat(np.where(visible, 200, 30), 4, 1)[:, None, :, None] + rng.integers(-20, 20, (400, 3, 16, 8))
    images = images.astype(np.uint8)
    net = video.train_landmarks(images[:300], visible[:300], epochs=12)
    with torch.no_grad():
        said = net(torch.from_numpy(images[300:])).numpy() > 0
    assert (said == visible[300:]).mean() > 0.95
    quality = net.quality(images[300:], sharpness=1.0)
    assert np.corrcoef(quality, visible[300:].mean(1))[0, 1] > 0.9 and (quality >= 0).all() and (quality <= 1).all()
    np.testing.assert_allclose(net.quality(images[300:], 4.0), quality**4, rtol=1e-4)


def test_training_is_the_same_each_time():
    x, some, _ = toy()
    heads = []
    for _ in range(2):
        torch.manual_seed(5)
        heads.append(video.train_head(video.Recurrent(16, "rnn"), x, some, seed=3, epochs=2))
    assert all(torch.equal(a, b) for a, b in zip(heads[0].parameters(), heads[1].parameters()))


# ---------------------------------------------------------------------------------------------- tracklets are searched


def holding(pids, camids, lengths):
    count = sum(lengths)
    ids = np.array(lengths), np.array(pids), np.array(camids)
    return Tracklets(np.zeros((count, 3, 8, 4), np.uint8), np.arange(count), *ids)


def test_tracklets_are_scored_as_pictures_are():
    rng = np.random.default_rng(0)
    query, gallery = holding([1, 2], [0, 1], [2, 3]), holding([1, 2, 1, 2, 0, -1], [0, 1, 1, 0, 0, 1], [1] * 6)
    x, y = rng.standard_normal((2, 4)), rng.standard_normal((6, 4))
    wanted = evaluate_features(x, y, query.pids, gallery.pids, query.camids, gallery.camids)
    found = video.evaluate_tracklets(x, y, query, gallery)
    assert found.mAP == pytest.approx(wanted.mAP) and (found.cmc == wanted.cmc).all()


def test_empty_tracklets_are_no_answer_and_find_nobody():
    pids, camids = [1, 2, 3, 9], [1, 1, 1, 1]
    near = np.eye(4, dtype=np.float32)
    query, gallery = holding([1, 2], [0, 0], [1, 0]), holding(pids, camids, [1, 1, 1, 0])
    x = near[:2].copy()
    x[1] = 0
    y = near.copy()
    y[3] = 0  # at distance 1 from all of unit length, nearer than people are to each other
    found = video.evaluate_tracklets(x, y, query, gallery)
    assert found.ap[0] == 1
    chance = np.mean([1 / rank for rank in range(1, 5)])  # its one answer among four, at any place
    assert found.ap[1] == pytest.approx(chance)
    far = np.array([[0.2, 0, 0, -(0.96**0.5)]], np.float32)  # farther from its answer than 1
    assert video.evaluate_tracklets(far, y, query.select([0]), gallery).ap[0] == 1, "the empty one is not before it"


def test_padding_is_zero():
    frames, mask = video.pad(made([1, 3]), [1, 3])
    assert mask.sum(1).tolist() == [1, 3] and (frames[~mask] == 0).all() and (frames[mask] != 0).all()


@pytest.mark.parametrize("how", ["mean", "nearest", "ranks"])
def test_rankings_merged_by_hand(how):
    lengths, rng = [3, 0, 1, 4], np.random.default_rng(2)
    distances = rng.random((8, 5))
    found, start = video.merge_rankings(distances, lengths, how), 0
    for row, n in zip(found, lengths):
        for g in range(5):
            mine = [distances[f, g] for f in range(start, start + n)]
            places = [sum(d < distances[f, g] for d in distances[f]) for f in range(start, start + n)]
            said = {"mean": [d * d for d in mine], "nearest": mine, "ranks": places}[how]
            wanted = 0 if not n else min(said) if how == "nearest" else sum(said) / n
            assert row[g] == pytest.approx(wanted)
        start += n


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 999))
def test_merging_squared_distances_ranks_as_the_mean_feature_does(lengths, seed):
    """The chapter's identity: mean |q - g|^2 = |mean q - g|^2 + the spread of q."""
    rng = np.random.default_rng(seed)
    frames, gallery = (rng.standard_normal((n, 8)) for n in (sum(lengths), 7))
    frames, gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (frames, gallery))
    apart = np.linalg.norm(frames[:, None] - gallery, axis=2)
    merged = video.merge_rankings(apart, lengths, "mean")
    for row, some in zip(merged, pieces(frames, lengths)):
        centre = some.mean(0)
        wanted = ((centre - gallery) ** 2).sum(1) + ((some - centre) ** 2).sum(1).mean()
        np.testing.assert_allclose(row, wanted)
        assert (np.argsort(row) == np.argsort(-(gallery @ unit(centre)))).all()


def test_equal_distances_share_their_places():
    """Where all distances are equal nobody is ahead, whoever stands first."""
    assert len(set(video.merge_rankings(np.zeros((4, 6)), [2, 2], "ranks").ravel())) == 1
