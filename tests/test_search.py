"""Search: the same rows as a whole matrix of distances gives, in little memory; and the graph."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as of

from reidnb.evaluation.search import build_graph, graph_bytes, nearest


def people(count, seed=0, width=16):
    """Features like ours: of unit length, several of a person."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((50, width))[rng.integers(0, 50, count)] + 0.7 * rng.standard_normal((count, width))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def slowly(queries, gallery, k):
    """Every distance from its difference, in twice the digits, and a stable sort."""
    wide = np.linalg.norm(np.float64(queries)[:, None] - np.float64(gallery), axis=2)
    rows = np.argsort(wide, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(wide, rows, 1)


@pytest.mark.parametrize("k", [1, 10, 300])
def test_exact_search_is_a_sorted_matrix(k):
    queries, gallery = people(40, 1), people(300)
    rows, distances = nearest(queries, gallery, k)
    wanted_rows, wanted = slowly(queries, gallery, k)
    assert rows.dtype == np.int64 and distances.dtype == np.float32
    assert (rows == wanted_rows).all()
    np.testing.assert_allclose(distances, wanted, rtol=1e-6)  # a sum of 16 float32 squares


whole = st.integers(-3, 3).map(float)  # small whole numbers: distances are exact, and many are equal


@settings(deadline=None, max_examples=60)
@given(
    of.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(3)), elements=whole),
    of.arrays(np.float32, st.tuples(st.integers(1, 40), st.just(3)), elements=whole),
    st.data(),
)
def test_blocks_change_nothing(queries, gallery, data):
    k = data.draw(st.integers(1, len(gallery)))
    _, wanted = slowly(queries, gallery, k)
    for memory in (1, 12 * data.draw(st.integers(1, 50)), 2**20):
        rows, distances = nearest(queries, np.float64(gallery), k, memory=memory)
        np.testing.assert_array_equal(distances, np.float32(wanted))
        found = np.linalg.norm(queries[:, None] - gallery[rows], axis=2)
        np.testing.assert_array_equal(found, distances)  # whichever of equals was taken, it lies where it is said to
        assert all(len(set(line)) == k for line in rows.tolist())


def test_equals_come_in_the_gallerys_order():
    gallery = np.tile(people(3), (4, 1))
    for memory in (2**20, 3 * 64):
        rows, _ = nearest(gallery[:3], np.float64(gallery), 4, memory=memory)
        assert rows.tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_near_duplicates_keep_their_distance():
    """Lengths of 100 and a step of 1e-3: |x|^2 + |y|^2 - 2 x.y has lost it."""
    x = 100 * people(1)
    gallery = x + np.float32([[0.0], [1e-3], [2e-3]]) * np.eye(1, 16, dtype=np.float32)
    _, distances = nearest(x, gallery, 3)
    np.testing.assert_allclose(distances[0], np.linalg.norm(np.float64(gallery) - x, axis=1), rtol=1e-3, atol=1e-9)
    assert distances[0, 0] == 0


@pytest.mark.parametrize("scale", [1e-25, 1e-38])
def test_values_whose_squares_are_no_numbers(scale):
    gallery, queries = people(600), people(5, 1)
    rows, distances = nearest(queries, gallery, 3)
    tiny_rows, tiny = nearest(np.float32(queries * scale), np.float32(gallery * scale), 3)
    assert (tiny_rows == rows).all()
    np.testing.assert_allclose(tiny / scale, distances, rtol=1e-3)  # 1e-38 is near float32's last digits


def test_a_gallery_in_a_file_is_read_in_blocks(tmp_path, monkeypatch):
    gallery, queries, asked = people(1000), people(20, 1), []
    np.save(tmp_path / "gallery.npy", np.float16(gallery))
    on_disk = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    import faiss

    knn = faiss.knn
    monkeypatch.setattr(faiss, "knn", lambda q, block, k: asked.append(block.nbytes) or knn(q, block, k))
    rows, _ = nearest(queries, on_disk, 5, memory=8000)
    assert max(asked) <= 8000 and sum(asked) == gallery.nbytes
    assert (rows == slowly(queries, np.float16(gallery), 5)[0]).all()


def test_tensors_are_taken_too():
    queries, gallery = people(5, 1), people(60)
    features = torch.from_numpy(gallery).requires_grad_()
    assert (nearest(torch.from_numpy(queries), features, 3)[0] == nearest(queries, gallery, 3)[0]).all()


def test_the_graph_finds_nearly_all_and_more_for_more_effort():
    queries, gallery = people(200, 1, 64), people(3000, 0, 64)
    graph, (truth, _) = build_graph(gallery), nearest(queries, gallery, 10)
    found = []
    for effort in (10, 200):
        rows, distances = nearest(queries, graph, 10, effort=effort)
        found.append(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, truth)]))
        np.testing.assert_allclose(
            distances, np.linalg.norm(queries[:, None] - gallery[rows], axis=2), atol=1e-4
        )  # faiss sums squares of differences here
        assert (np.diff(distances) >= 0).all()
    assert found[0] <= found[1] and found[1] > 0.99  # 3,000 rows and 200 kept: nothing but chance is missed


def test_a_graph_takes_about_what_it_says():
    import faiss

    gallery = people(4000, 0, 32)
    size = len(faiss.serialize_index(build_graph(gallery)))
    assert 0.8 * size <= graph_bytes(4000, 32) <= 1.3 * size


def test_a_graph_that_would_not_fit_is_refused_before_any_work():
    with pytest.raises(ValueError, match=r"10000000 rows of 2048 values takes 7\d\.\d GiB, and 1\.0 were allowed"):
        build_graph(np.broadcast_to(np.float32(0), (10_000_000, 2048)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "queries, gallery, k, message",
    [
        (people(2), people(9), 10, r"k must lie in 1\.\.9, the size of the gallery; got 10"),
        (people(2), people(9), 0, r"k must lie in 1\.\.9"),
        (people(2), people(9), 2.0, r"k must lie in 1\.\.9.*got 2\.0"),
        (people(2), people(9), None, r"k must lie in 1\.\.9.*got None"),
        (people(2), None, 1, "gallery must be an array of numbers; got object"),
        ("queries", people(9), 1, "queries must be an array of numbers; got <U7"),
        (people(2), people(9)[:, :0], 1, r"gallery must be a matrix .*\(9, 0\)"),
        (people(2), people(9)[:0], 1, r"k must lie in 1\.\.0"),
        (people(2)[:, :5], people(9), 1, "queries have 5 values a row and the gallery 16"),
        (people(2)[0], people(9), 1, r"queries must be a matrix \(images, values\), got shape \(16,\)"),
        (people(2), people(9) * np.float32(np.nan), 1, "gallery: row 0 is not finite, as are 9 of 9"),
        (people(2), np.where(np.arange(9)[:, None] == 7, np.inf, people(9)), 1, "row 7 is not finite"),
        (
            np.float64(people(2)) * 1e39,
            people(9),
            1,
            "queries: row 0 is beyond float32, as are 2 of 2: .* scale queries and gallery",
        ),
        (people(2), np.float64(people(9)) * 1e39, 1, "gallery: row 0 is beyond float32, as are 9 of 9"),
        (people(2), np.float64(people(9)) * 1e-200, 1, "gallery: row 0 is below float32, as are 9 of 9"),
        (np.full((2, 16), 2**60), people(9), 1, r"queries: row 0 is beyond 2\^53, .* as are 2 of 2"),
    ],
)
def test_what_cannot_be_searched(queries, gallery, k, message):
    with pytest.raises(ValueError, match=message):
        nearest(queries, gallery, k)


def test_no_queries_find_nothing():
    rows, distances = nearest(people(3)[:0], people(9), 2)
    assert rows.shape == distances.shape == (0, 2)


@pytest.mark.parametrize("spread", [3e-3, 1e-3, 1e-4])
def test_one_heap_of_near_equal_features(spread):
    """Enough queries that faiss takes its product form, which has lost what tells these apart."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal(256)
    heap = base / np.linalg.norm(base) + spread * rng.standard_normal((3600, 256)) / 16
    heap = (heap / np.linalg.norm(heap, axis=1, keepdims=True)).astype(np.float32)
    queries, gallery = heap[:600], heap[600:]
    rows, distances = nearest(queries, gallery, 10)
    some = slice(0, 600, 40)
    wanted_rows, wanted = slowly(queries[some], gallery, 10)
    np.testing.assert_allclose(distances[some], wanted, rtol=1e-5)  # differences of float32, summed in float32
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows[some], wanted_rows)]) > 0.99  # but for such sums


def test_near_copies_of_many_people():
    rng = np.random.default_rng(0)
    people_, copies = people(100, 3, 256), 30
    gallery = np.repeat(people_, copies, 0) + np.float32(1e-3 / 16) * rng.standard_normal((3000, 256), np.float32)
    queries = np.tile(people_, (10, 1)) + np.float32(1e-3 / 16) * rng.standard_normal((1000, 256), np.float32)
    rows, distances = nearest(queries, gallery, 5)
    _, wanted = slowly(queries[:40], gallery, 5)
    np.testing.assert_allclose(distances[:40], wanted, rtol=1e-4)
    assert (rows // copies == np.tile(np.arange(100), 10)[:, None]).all()


def test_a_graph_says_where_it_found_nobody_and_refuses_what_it_is_not():
    gallery = np.repeat(people(10), 200, 0)
    rows, distances = nearest(gallery[:5], build_graph(gallery, links=2), 2000)
    assert ((rows == -1) == np.isinf(distances)).all() and (rows[:, 0] >= 0).all()
    import faiss

    flat = faiss.IndexFlatIP(16)
    flat.add(gallery)
    with pytest.raises(ValueError, match="must be an IndexHNSW of Euclidean distances, got IndexFlatIP"):
        nearest(gallery[:5], flat, 3)
    for name, value in (("links", 1), ("links", -1), ("links", 2.5), ("effort", 0), ("effort", None)):
        with pytest.raises(ValueError, match=f"{name} must be .* from [12] on, got {value}"):
            build_graph(gallery, **{name: value})


def test_numbers_of_every_kind():
    queries, gallery = people(5, 1), people(60)
    wanted = nearest(queries, gallery, 3)[0]
    assert (nearest(queries, gallery, np.int64(3))[0] == wanted).all()
    assert nearest(queries, build_graph(gallery), np.int64(3), effort=np.int64(20))[0].shape == (5, 3)
    halves = torch.from_numpy(gallery).bfloat16()
    assert (nearest(torch.from_numpy(queries), halves, 3)[0] == nearest(queries, halves.float(), 3)[0]).all()
    with pytest.raises(ValueError, match="do not fit into float32"):
        nearest(queries * np.float32(1e25), gallery * np.float32(1e25), 3)


def test_many_neighbours_in_little_memory():
    import tracemalloc

    queries, gallery = people(200, 1, 256), people(2000, 0, 256)
    tracemalloc.start()
    nearest(queries, gallery, 900)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120 * 2**20  # all differences at once would be 176 MiB, twice


@pytest.mark.parametrize("count", [3, 400])  # all that are looked at closely anyway, and more
@pytest.mark.parametrize(
    "first, step, kind",
    [(2**24, 1, np.int64), (2**24, 1, np.uint32), (2**24, 1, float), (1, 1e-9, float), (1, 1e-15, np.longdouble)],
)
def test_what_float32_does_not_tell_apart(first, step, kind, count):
    """Once all of these lay at 0, in the gallery's order."""
    places = np.random.default_rng(0).permutation(count)
    line = first + (step * np.arange(count)).astype(kind)
    for memory in (2**20, 4 * 50):
        rows, distances = nearest(line[1:2, None], line[places, None], 3, memory=memory)
        assert places[rows[0, 0]] == 1 and set(places[rows[0, 1:]]) == {0, 2}
        np.testing.assert_allclose(distances[0], [0, step, step], rtol=0.3 if step < 1e-12 else 1e-6)


def test_small_differences_beside_a_large_value():
    """Squares of 1 hide those of 1e-12 from float64, too."""
    gallery = np.float32([[1, i * 1e-12] for i in np.random.default_rng(0).permutation(500)])
    rows, _ = nearest(np.float32([[1, 0]]), gallery, 5)
    assert (rows == slowly(np.float32([[1, 0]]), gallery, 5)[0]).all()


def test_queries_of_one_call_are_strangers():
    """Once 3e-25 found row 1 alone, and row 0 beside a query of 1: only a set all tiny was scaled."""
    gallery = np.float32([[1e-25], [2.9e-25], [3e-26], [0.9], *np.geomspace(1e-24, 1, 40)[:, None]])
    queries = np.float32([[3e-25], [1]])
    rows, distances = nearest(queries, gallery, 3)
    wanted_rows, wanted = slowly(queries, gallery, 3)
    assert (rows == wanted_rows).all() and rows[0, 0] == 1
    np.testing.assert_allclose(distances, wanted, rtol=1e-6)
    for query, row in zip(queries, rows):
        assert (nearest(query[None], gallery, 3)[0] == row).all()


@pytest.mark.parametrize("memory", [0, -5, None, 2.5, True, "all"])
def test_memory_is_a_number_of_bytes(memory):
    """Once 0 and -5 were taken, and None a TypeError."""
    for work in (
        lambda: nearest(people(2), people(9), 1, memory=memory),
        lambda: build_graph(people(9), memory=memory),
    ):
        with pytest.raises(ValueError, match=f"memory must be bytes from 1 on, got {memory!r}"):
            work()
