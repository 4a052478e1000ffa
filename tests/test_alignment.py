"""Local distances against every monotone path, plain autograd and the exponential of the paper's eq. 1."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from reidnb import alignment
from reidnb.alignment import (
    local_distance_matrix,
    local_distances,
    rigid_distances,
    shortest_path,
    stripe_costs,
)

SIZES = [(1, 1), (1, 4), (4, 1), (2, 2), (3, 5), (5, 2), (5, 5)]
SEEDS = st.integers(0, 999)
BOTH = pytest.mark.parametrize("distances", [local_distances, rigid_distances])
# The product form |x|^2 + |y|^2 - 2 x.y leaves an error of 5e-5 in a float32 distance just above NEAR: 1e-7 /
# 1e-3, halved by the root; where hardly any digit cancels, as between Gaussian features, 2e-5 has room to spare.
FLOAT32 = {"rtol": 2e-5, "atol": 2e-5}
FLOAT64 = {"rtol": 1e-11, "atol": 1e-11}  # the same sums in another order


def images(n, stripes, seed=0, dimensions=6, kind=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, stripes, dimensions, generator=generator, dtype=torch.float64) * scale
    return x.to(kind)


def staircases(h, w):
    """Every path from (0, 0) to (h-1, w-1), right and down: choose which of its h + w - 2 steps go down."""
    for downs in combinations(range(h + w - 2), h - 1):
        path = [(0, 0)]
        for step in range(h + w - 2):
            i, j = path[-1]
            path.append((i + 1, j) if step in downs else (i, j + 1))
        yield path


def cheapest(costs):
    """By trying all paths, in exact enough float64."""
    costs = np.asarray(costs, dtype=np.float64)
    return min(sum(costs[i, j] for i, j in path) for path in staircases(*costs.shape))


def costs_by_exponential(f, g):
    """Eq. 1 as the paper prints it, from differences."""
    d = np.linalg.norm(np.asarray(f, np.float64)[:, None] - np.asarray(g, np.float64), axis=2)
    return (np.exp(d) - 1) / (np.exp(d) + 1)


def brute_force(x, y):
    return np.array([[cheapest(costs_by_exponential(f, g)) for g in y] for f in x])


def plain(x, y):
    """Eq. 1-2 of all pairs by differences and autograd alone."""
    costs = torch.tanh(torch.linalg.vector_norm(x[:, None, :, None] - y[None, :, None], dim=4) / 2)
    sums = {}
    for i in range(x.shape[1]):
        for j in range(y.shape[1]):
            before = [sums[cell] for cell in ((i - 1, j), (i, j - 1)) if cell in sums]
            sums[i, j] = costs[:, :, i, j] + (torch.stack(before).amin(0) if before else 0)
    return sums[i, j]


def plain_rigid(x, y):
    return torch.tanh(torch.linalg.vector_norm(x[:, None] - y, dim=3) / 2).sum(2)


PLAIN = {local_distances: plain, rigid_distances: plain_rigid}


@pytest.fixture(params=[128, 2])
def rows(request, monkeypatch):
    """All images in one block, and in several, the last one smaller."""
    monkeypatch.setattr(alignment, "ROWS", request.param)


# ------------------------------------------------------------------------------------------ the readable form


def test_eq_1_is_the_exponential_and_does_not_overflow():
    f, g = images(2, 5, scale=3)
    torch.testing.assert_close(stripe_costs(f, g).numpy(), costs_by_exponential(f, g), **FLOAT64)
    far = stripe_costs(torch.zeros(2, 3), torch.full((2, 3), 1e4))  # e^d is infinite from d = 89 on in float32
    assert (far == 1).all()
    x = torch.zeros(2, 2, 3).add_(torch.tensor([0, 1e4])[:, None, None]).requires_grad_()
    distances = local_distances(x, x)
    distances.sum().backward()
    assert distances.tolist() == [[0, 3], [3, 0]] and (x.grad == 0).all()


@pytest.mark.parametrize("h, w", SIZES)
def test_shortest_path_is_the_cheapest_of_all_paths(h, w):
    for seed in range(5):
        costs = np.random.default_rng(seed).random((h, w))
        distance, path = shortest_path(costs)
        assert path in list(staircases(h, w))
        assert distance == pytest.approx(cheapest(costs), abs=1e-12)  # nine costs summed in another order
        assert shortest_path(torch.from_numpy(costs)) == (distance, path)


def test_at_a_tie_the_path_comes_from_above():
    assert shortest_path(np.ones((2, 3))) == (4, [(0, 0), (0, 1), (0, 2), (1, 2)])
    assert shortest_path(np.ones((3, 2))) == (4, [(0, 0), (0, 1), (1, 1), (2, 1)])


@given(SEEDS, st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_a_path_is_monotone_and_no_staircase_is_cheaper(seed, h, w):
    random = np.random.default_rng(seed)
    costs = random.random((h, w)).round(1)  # with ties
    distance, path = shortest_path(costs)
    assert path[0] == (0, 0) and path[-1] == (h - 1, w - 1) and len(path) == h + w - 1
    assert all((c - a, d - b) in ((0, 1), (1, 0)) for (a, b), (c, d) in zip(path, path[1:]))
    assert distance == pytest.approx(sum(costs[cell] for cell in path), abs=1e-12)
    assert distance >= max(costs.min(1).sum(), costs.min(0).sum()) - 1e-12  # a path meets every row and column
    downs = [0] * (w - 1) + [1] * (h - 1)
    random.shuffle(downs)
    i = j = 0
    other = costs[0, 0]
    for down in downs:
        i, j = (i + 1, j) if down else (i, j + 1)
        other += costs[i, j]
    assert distance <= other + 1e-12


# ---------------------------------------------------------------------------------------------- the fast form


@pytest.mark.parametrize("h, w", SIZES)
def test_local_distances_are_the_cheapest_of_all_paths(h, w, rows):
    x, y = images(3, h), images(5, w, seed=1)
    torch.testing.assert_close(local_distances(x, y).numpy(), brute_force(x, y), **FLOAT64)
    found = local_distances(x.float(), y.float())
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, brute_force(x, y), **FLOAT32)


def test_fast_and_readable_forms_agree():
    x, y = (
        images(4, 8, dimensions=32, kind=torch.float32),
        images(6, 8, seed=1, dimensions=32, kind=torch.float32),
    )
    slow = [[shortest_path(stripe_costs(f, g))[0] for g in y] for f in x]
    np.testing.assert_allclose(local_distances(x, y), slow, **FLOAT32)
    rigid = [[float(stripe_costs(f, g).diagonal().sum()) for g in y] for f in x]
    np.testing.assert_allclose(rigid_distances(x, y), rigid, **FLOAT32)


def test_a_matrix_of_costs_keeps_its_axes():
    """Both public repositories (huanghoujing's, michuanhaohao's) hand one pair's costs (H, W) as (1, H, W) to a
    path search that takes batches (H, W, N): it adds up the first column."""
    f = np.array([[0.0], [4.0], [8.0]])
    g = np.array([[0.0], [0.5], [0.2]])
    right = cheapest(costs_by_exponential(f, g))
    shifted = costs_by_exponential(f, g)[:, 0].sum()
    assert right - shifted > 0.2, "the example must tell them apart"
    assert shortest_path(stripe_costs(f, g))[0] == pytest.approx(right, abs=1e-12)
    assert local_distances(f[None], g[None]).item() == pytest.approx(right, abs=1e-12)


@BOTH
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("h, w", SIZES)
def test_gradients_are_those_of_plain_autograd(distances, same, h, w, rows):
    if (same or distances is rigid_distances) and h != w:
        w = h
    x = images(5, h).requires_grad_()
    y = x if same else images(4, w, seed=1).requires_grad_()
    weights = images(1, 5, seed=2, dimensions=len(y))[0]
    inputs = (x,) if same else (x, y)
    found, wanted = distances(x, y), PLAIN[distances](x, y)
    torch.testing.assert_close(found, wanted, **FLOAT64)
    for a, b in zip(
        torch.autograd.grad((weights * found).sum(), inputs),
        torch.autograd.grad((weights * wanted).sum(), inputs),
    ):
        torch.testing.assert_close(a, b, **FLOAT64)


@BOTH
def test_gradcheck(distances, rows):
    x, y = images(3, 3, dimensions=2).requires_grad_(), images(2, 3, seed=1, dimensions=2).requires_grad_()
    assert gradcheck(distances, (x, y))
    assert gradcheck(lambda x: distances(x, x), (x,))
    assert gradcheck(lambda x: distances(x, y.detach()), (x,)) and gradcheck(lambda y: distances(x.detach(), y), (y,))
    if distances is local_distances:
        assert gradcheck(distances, (x, images(2, 4, seed=2, dimensions=2).requires_grad_()))


def test_float32_gradients(rows):
    x, y = images(5, 8, dimensions=32), images(4, 8, seed=1, dimensions=32)
    f = x.float().requires_grad_()
    x.requires_grad_()
    (grad,) = torch.autograd.grad(local_distances(x, y).sum(), x)
    (found,) = torch.autograd.grad(local_distances(f, y.float()).sum(), f)
    torch.testing.assert_close(found, grad.float(), rtol=1e-4, atol=1e-6)  # slopes here are of order 1e-3


def test_at_a_tie_the_gradient_goes_one_way_only():
    """Stripes at 0 and 1 against others at 0 and 1: both ways round the corner cost the same. The path that
    `shortest_path` names, and no other, pulls."""
    x = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)
    y = x.clone().requires_grad_()
    distance = local_distances(x, y)
    distance.sum().backward()
    costs = stripe_costs(x[0], x[0])
    assert costs[0, 1] == costs[1, 0]
    assert shortest_path(costs)[1] == [(0, 0), (0, 1), (1, 1)]  # to (1, 1) from above
    slope = (1 - costs[0, 1] ** 2) / 2
    torch.testing.assert_close(y.grad, torch.tensor([[[0.0], [slope]]], dtype=torch.float64), **FLOAT64)


@BOTH
def test_distances_are_symmetric(distances, rows):
    x, y = images(5, 4), images(3, 4, seed=1)
    torch.testing.assert_close(distances(x, y), distances(y, x).T, **FLOAT64)
    torch.testing.assert_close(distances(x, x), distances(x, x.clone()), **FLOAT64)


def test_an_image_is_not_at_distance_0_from_itself(rows):
    """A path cannot stay on the diagonal: it goes right and down, not across."""
    x = images(5, 4)
    own = local_distances(x, x).diagonal()
    assert (own > 0.5).all()
    for f, distance in zip(x, own):
        costs = costs_by_exponential(f, f)
        np.fill_diagonal(costs, 0)
        off = min(sum(costs[i, j] for i, j in path if i != j) for path in staircases(4, 4))
        assert distance == pytest.approx(off, abs=1e-11)
    one = images(5, 1, kind=torch.float32) + 100  # a single stripe: its own cell, exactly 0
    assert (local_distances(one, one).diagonal() == 0).all()
    many = images(5, 4, kind=torch.float32) + 100
    assert (rigid_distances(many, many).diagonal() == 0).all()


def test_alignment_forgives_a_shift_that_rigid_distances_do_not():
    """The same person cut one stripe lower: stripe i is the other's i + 1, with a new one at the foot."""
    x = images(6, 8, dimensions=16)
    shifted = torch.cat([x[:, 1:], images(6, 1, seed=1, dimensions=16)], 1)
    aligned, rigid = (
        torch.stack([d(x, y).diagonal() for y in (x, shifted)]) for d in (local_distances, rigid_distances)
    )
    assert (rigid[1] - rigid[0] > 7).all()  # from 0 to eight costs, each near 1
    assert (aligned[1] - aligned[0] < 1.5).all()  # seven free cells instead of eight: one cost more
    strangers = local_distances(x, x.roll(1, 0)).diagonal()
    assert (aligned[1] < strangers - 6).all()  # fifteen costs without a free one


@BOTH
def test_duplicates_and_near_duplicates(distances, rows):
    """Far from the origin, and 1e-3 apart: the product form alone would leave no digit of such a distance."""
    x = images(4, 3)
    x[1] = x[0]
    x[2] = x[0] + 1e-3 * images(1, 3, seed=1)[0]
    x[:, 1] = x[0, 1]  # a stripe that all share
    for offset in (0, 10):
        y = (x + offset).float()
        exact = PLAIN[distances](y.double(), y.double())
        y.requires_grad_()
        found = distances(y, y)
        np.testing.assert_allclose(found.detach(), exact.detach(), **FLOAT32)
        found.sum().backward()
        assert y.grad.isfinite().all()
        assert (y.grad.norm(dim=2) < 100).all()  # each of a stripe's few costs pulls by at most 1/2
        other = y.detach().clone().requires_grad_()
        distances(other, y.detach()).sum().backward()
        assert other.grad.isfinite().all()
    zeros = torch.zeros(3, 4, 5, requires_grad=True)
    distances(zeros, zeros).sum().backward()
    assert (zeros.grad == 0).all()


@BOTH
def test_distances_keep_their_digits(distances):
    """Where products cancel: two pairs far out among images near the origin, and all images in one corner."""
    far = images(6, 3)
    far[2:4] += 300 * images(1, 3, seed=1)  # within a pair they differ by no more than others
    far[4:6] -= 300 * images(1, 3, seed=1)
    corner = 0.1 * images(6, 3, dimensions=64) + 3
    for x in (far.float(), corner.float()):
        exact = PLAIN[distances](x.double(), x.double())
        np.testing.assert_allclose(distances(x, x), exact, atol=2e-6, rtol=0)  # five costs, each right to 1e-7


def test_gradient_between_near_duplicates_is_their_direction(rows, monkeypatch):
    """Stripes 1e-6 apart in one direction pull by 1/2 that way; products alone would add noise of 0.1."""
    monkeypatch.setattr(alignment, "PAIRS", 3)
    x = images(3, 5, kind=torch.float32, dimensions=64)
    x[:, :, -1] = 0
    y = x.clone()
    y[:, :, -1] = 1e-6
    for distances in (local_distances, rigid_distances):
        y.grad = None
        distances(x, y.requires_grad_()).diagonal().sum().backward()
        exact = y.detach().double().requires_grad_()
        PLAIN[distances](x.double(), exact).diagonal().sum().backward()
        # Both ways round a corner cost the same but for rounding; the cells there pull by 2e-5 at most.
        torch.testing.assert_close(y.grad, exact.grad.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(y.grad[:, :, -1], torch.full((3, 5), 0.5), rtol=1e-4, atol=0)


@BOTH
def test_many_near_duplicates_are_taken_in_parts(distances, monkeypatch):
    x = (images(5, 3) * 1e-3 + images(1, 3, seed=1)).requires_grad_()  # every image nearly the same
    whole = distances(x, x)
    (wanted,) = torch.autograd.grad(whole.sum(), x)
    monkeypatch.setattr(alignment, "PAIRS", 7)
    parts = distances(x, x)
    torch.testing.assert_close(parts, whole, **FLOAT64)
    torch.testing.assert_close(torch.autograd.grad(parts.sum(), x)[0], wanted, **FLOAT64)
    torch.testing.assert_close(whole, PLAIN[distances](x, x), **FLOAT64)


@BOTH
def test_float32_under_autocast(distances):
    x, y = images(4, 3, kind=torch.float32), images(5, 3, seed=1, kind=torch.float32)
    x.requires_grad_()
    wanted = distances(x, y)
    (gradient,) = torch.autograd.grad(wanted.sum(), x)
    with torch.autocast("cpu", torch.bfloat16):
        found = distances(x, y)
        (same,) = torch.autograd.grad(found.sum(), x)
        from_bf16 = distances(x.bfloat16(), y.bfloat16())
    assert found.dtype == from_bf16.dtype == torch.float32
    assert torch.equal(found, wanted) and torch.equal(same, gradient)
    assert torch.equal(from_bf16, distances(x.bfloat16().float(), y.bfloat16().float()))


@BOTH
def test_gradients_are_kept_only_where_wanted(distances, monkeypatch):
    kept = []
    forward = alignment._forward
    monkeypatch.setattr(alignment, "_forward", lambda *a: kept.append(len(a) > 4) or forward(*a))
    x, y = images(3, 2), images(3, 2, seed=1)
    assert not distances(x, y).requires_grad
    x.requires_grad_()
    with torch.no_grad():
        distances(x, y)
    assert not any(kept)
    assert distances(x, y).requires_grad and kept[-1]
    assert distances(y, x).requires_grad and kept[-1]


def test_a_graph_can_be_walked_twice_but_not_differentiated_twice():
    x = images(3, 3).requires_grad_()
    out = local_distances(x, x).sum()
    first, second = (torch.autograd.grad(out, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    (gradient,) = torch.autograd.grad(local_distances(x, x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


@BOTH
def test_blocks_are_the_whole(distances, rows):
    x, y = images(5, 4, kind=torch.float32), images(7, 4, seed=1, kind=torch.float32)
    aligned = distances is local_distances
    for block in (1, 3, 7, 100):
        found = local_distance_matrix(x.numpy(), y.requires_grad_(), aligned, block)
        assert type(found) is np.ndarray and found.dtype == np.float32 and found.shape == (5, 7)
        np.testing.assert_allclose(found, distances(x, y).detach(), **FLOAT32)  # products of another size round apart
    assert local_distance_matrix(x, x[:0], aligned).shape == (5, 0)
    assert local_distance_matrix(x[:0], x, aligned).shape == (0, 5)
    assert local_distance_matrix(x.double(), x, aligned).dtype == np.float32


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize(("h", "w"), SIZES)
def test_planes_are_walked_alike_by_numpy_and_torch(h, w, same, monkeypatch):
    """numpy where they lie on the CPU, torch elsewhere: the same sums in the same order, so the same bits."""
    x = images(5, h, kind=torch.float32).requires_grad_()
    y = x if same else images(4, w, seed=1, kind=torch.float32).requires_grad_()
    results = []
    for lib in (None, torch):
        if lib:
            monkeypatch.setattr(alignment, "_quick", lambda *planes: (torch, *planes))
        found = local_distances(x, y)
        results.append((found, *torch.autograd.grad(found.square().sum(), {x, y})))
    assert all(torch.equal(a, b) for a, b in zip(*results))


@BOTH
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.05, 0.1, 1.0])
def test_small_distances_keep_their_digits(distances, scale):
    """Below SMALL by tanh and above by the quicker sigmoid, which float32 rounds at 1.2e-7: 4e-6 of a cost of 0.03."""
    x, y = images(6, 3, scale=scale), images(5, 3, seed=1, scale=scale)
    found = distances(x.float(), y.float())
    torch.testing.assert_close(found.double(), PLAIN[distances](x, y), rtol=1e-5, atol=0)


def test_a_batch_with_itself_takes_any_gradient(rows):
    """Also one that is not symmetric, and of an image with itself alone."""
    x, exact = images(5, 4).requires_grad_(), images(5, 4).requires_grad_()
    weights = [images(5, 5, seed=2)[:, :, 0], torch.eye(5, dtype=torch.float64), torch.ones(5, 5).triu().double()]
    for w in weights:
        (found,) = torch.autograd.grad((w * local_distances(x, x)).sum(), x)
        (wanted,) = torch.autograd.grad((w * plain(exact, exact)).sum(), exact)
        torch.testing.assert_close(found, wanted, **FLOAT64)


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 129, 421])
def test_blocks_are_of_one_size_and_leave_nothing_out(n):
    blocks = alignment._blocks(torch.zeros(3, n, 2))
    sizes = [b.stop - b.start for b in blocks]
    assert [i for b in blocks for i in range(b.start, b.stop)] == list(range(n))
    assert max(sizes) <= alignment.ROWS and max(sizes) - min(sizes) <= 1


def test_errors_say_what_was_got_and_what_was_wanted():
    x = torch.zeros(2, 3, 4)
    for wrong in (x[0], torch.zeros(2, 3, 5), torch.zeros(2, 0, 4)):
        for distances in (local_distances, rigid_distances, local_distance_matrix):
            with pytest.raises(ValueError, match=r"\(2, 3, 4\)") as error:
                distances(x, wrong)
            assert str(tuple(wrong.shape)) in str(error.value)
    with pytest.raises(ValueError, match=r"one H, got \(2, 3, 4\) and \(2, 2, 4\)"):
        rigid_distances(x, x[:, :2])
    with pytest.raises(ValueError, match=r"\(H, D\) and \(W, D\) of one D, got \(2, 3, 4\)"):
        stripe_costs(x, x[0])
    for wrong in (np.zeros(3), np.zeros((0, 3)), x):
        with pytest.raises(ValueError, match=r"costs must be a matrix \(H, W\)"):
            shortest_path(wrong)
    with pytest.raises(ValueError, match="block must be a whole number from 1 on, got int 0"):
        local_distance_matrix(x, x, block=0)


def test_beside_nobody_nothing_pulls():
    x = torch.randn(3, 4, 5, requires_grad=True)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # then memory that nobody filled is NaN, and not zero by chance
    local_distances(x, torch.zeros(0, 4, 5)).sum().backward()
    torch.use_deterministic_algorithms(before)
    assert (x.grad == 0).all()
