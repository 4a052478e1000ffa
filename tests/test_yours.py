"""Search in folders, two pictures compared, and what a distance means."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reidnb import yours
from reidnb.files import cache_root
from reidnb.yours import Calibration, Embedder, calibrate, compare_pictures, picture, search

RNG = np.random.default_rng(7)
pytestmark = pytest.mark.usefixtures("cache")


def write(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 32), tuple(colour)).save(path)
    return path


def by_colour(files):
    """Mean colour, of unit length: what looks alike can be told by hand."""
    found = np.stack([np.asarray(Image.open(file).convert("RGB"), np.float32).mean((0, 1)) for file in files])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture
def asked():
    """An embedder, and the list of the files it was shown."""
    seen = []

    def embed(files):
        seen.extend(Path(file).name for file in files)
        return by_colour(files)

    return Embedder("colour", embed), seen


@pytest.fixture
def folder(tmp_path):
    colours = {"red": (250, 10, 10), "rose": (250, 90, 90), "blue": (10, 10, 250), "sky": (90, 90, 250)}
    for name, colour in colours.items():
        write(tmp_path / "mine" / name[0] / f"{name}.png", colour)
    (tmp_path / "mine" / "notes.txt").write_text("no picture")
    return tmp_path / "mine"


def test_nearest_first_and_not_itself(folder, asked):
    found = search(folder / "r" / "red.png", folder, asked[0])
    assert [one.file.name for one in found] == ["rose.png", "sky.png", "blue.png"]
    wanted = by_colour([folder / "r" / "red.png", folder / "r" / "rose.png"])
    assert np.isclose(found[0].distance, np.linalg.norm(wanted[0] - wanted[1]), atol=1e-6)  # float32
    assert [one.file.name for one in search(folder / "r" / "red.png", folder, asked[0], k=1)] == ["rose.png"]


def test_a_query_from_elsewhere(folder, asked, tmp_path):
    query = write(tmp_path / "red.png", (250, 10, 10))  # of a name that is in the folder too
    found = search(query, folder, asked[0])
    assert [one.file.name for one in found][:2] == ["red.png", "rose.png"] and found[0].distance < 1e-6
    assert len(found) == 4


def test_only_what_is_new_or_changed_is_embedded(folder, asked, tmp_path):
    embedder, seen = asked
    query = write(tmp_path / "query.png", (200, 20, 20))
    search(query, folder, embedder)
    assert sorted(seen) == ["blue.png", "query.png", "red.png", "rose.png", "sky.png"]
    seen.clear()
    first = search(query, folder, embedder)
    assert not seen, "all is kept"
    write(folder / "g" / "green.png", (10, 250, 10))
    os.utime(write(folder / "b" / "blue.png", (251, 9, 9)), (1, 1))
    (folder / "s" / "sky.png").unlink()
    found = search(query, folder, embedder)
    assert sorted(seen) == ["blue.png", "green.png"]
    assert {one.file.name for one in found} == {"blue.png", "green.png", "red.png", "rose.png"}
    assert [one.distance for one in found] != [one.distance for one in first]
    fresh = search(query, folder, Embedder(embedder.key + "x", by_colour))
    assert [(one.file, pytest.approx(one.distance, abs=1e-6)) for one in fresh] == [
        (one.file, one.distance) for one in found
    ]


def test_two_models_do_not_share_what_is_kept(folder, asked):
    search(folder / "r" / "red.png", folder, asked[0])
    other = Embedder(asked[0].key + "other", lambda files: by_colour(files)[:, ::-1].copy())
    found = search(folder / "r" / "rose.png", folder, other)
    assert found[0].file.name == "red.png"


def test_what_is_kept_is_damaged(folder, asked):
    embedder, seen = asked
    first = search(folder / "r" / "red.png", folder, embedder)
    (kept,) = (yours.cache_root() / "embeddings").glob(f"{embedder.key}*.npz")
    kept.write_bytes(kept.read_bytes()[:200])
    seen.clear()
    assert search(folder / "r" / "red.png", folder, embedder) == first and len(seen) == 4
    assert kept.with_suffix(".damaged").exists()


def test_what_is_kept_by_somebody_else_is_no_damage(folder, asked, monkeypatch):
    search(folder / "r" / "red.png", folder, asked[0])

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(yours.np, "load", refused)
    with pytest.raises(PermissionError):
        search(folder / "r" / "red.png", folder, asked[0])
    assert list((cache_root() / "embeddings").glob("*.npz")), "it is still there"


@pytest.mark.parametrize("name", ["$_$.png", "~q.png", "p$1$.png"])
def test_names_that_matplotlib_or_the_shell_would_read_otherwise(folder, asked, name, monkeypatch):
    monkeypatch.chdir(folder)
    write(folder / name, (200, 30, 30))
    found = search(name, folder, asked[0])
    titles = [text.get_text() for ax in picture(name, found).axes for text in [ax.title]]
    assert len(found) == 4 and "query" in titles
    figure = picture(folder / "r" / "red.png", search(folder / "r" / "red.png", folder, asked[0]))
    figure.canvas.draw()  # where what cannot be read as mathematics would be an error


def test_loose_pictures_are_forgotten_in_time(folder, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(yours, "LOOSE", 2)
    embedder, seen = asked
    for i in range(5):
        compare_pictures(write(tmp_path / f"{i}.png", (i, 90, 90)), folder / "r" / "red.png", embedder)
    (kept,) = (yours.cache_root() / "embeddings").glob(f"{embedder.key}*.npz")
    held = [Path(name).name for name in np.load(kept)["names"]]
    assert held == ["red.png", "2.png", "3.png", "4.png"], "the two asked for, and the two embedded last before them"
    seen.clear()
    compare_pictures(tmp_path / "4.png", folder / "r" / "red.png", embedder)
    assert not seen
    compare_pictures(tmp_path / "0.png", folder / "r" / "red.png", embedder)
    assert seen == ["0.png"], "forgotten"


def test_by_another_name_it_is_itself(folder, asked, tmp_path):
    (folder / "r" / "alias.png").symlink_to(folder / "r" / "red.png")
    assert {one.file.name for one in search(folder / "r" / "red.png", folder, asked[0])} == {
        "rose.png", "blue.png", "sky.png"
    }  # fmt: skip


def test_what_is_hidden_or_no_file_is_left_aside(folder, asked):
    for hidden in (".thumbnails", ".ipynb_checkpoints"):
        write(folder / hidden / "red.png", (1, 2, 3))
    (folder / "._rose.png").write_bytes(b"what macOS writes")
    (folder / "album.jpg").mkdir()
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    assert len(search(folder / "r" / "red.png", folder, asked[0])) == 3


def test_what_was_embedded_before_a_stop_is_kept(folder, asked, monkeypatch):
    monkeypatch.setattr(yours, "_blocks", lambda items, size=1: [items[i : i + 1] for i in range(len(items))])
    embedder, seen = asked

    def stopped(files):
        if len(seen) == 2:
            raise KeyboardInterrupt
        return embedder.embed(files)

    with pytest.raises(KeyboardInterrupt):
        search(folder / "r" / "red.png", folder, Embedder(embedder.key, stopped))
    first = seen.copy()
    search(folder / "r" / "red.png", folder, embedder)
    assert len(first) == 2 and len(seen) == 4 and not {*first} & {*seen[2:]}


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"query": "nowhere.png"}, FileNotFoundError, "there is no picture .*nowhere.png"),
        ({"folder": "nowhere"}, FileNotFoundError, "there is no folder .*nowhere: wanted one with pictures"),
        ({"folder": "empty"}, ValueError, "empty holds no pictures"),
        ({"k": 0}, ValueError, "k must be a whole number of pictures from 1 on, got 0"),
        ({"k": 2.5}, ValueError, "k must be .* got 2.5"),
        ({"k": True}, ValueError, "k must be .* got True"),
    ],
)
def test_what_cannot_be_searched(folder, asked, tmp_path, change, error, says):
    (tmp_path / "empty").mkdir()
    given = {"query": folder / "r" / "red.png", "folder": folder, "embedder": asked[0], "k": 3}
    given |= {name: tmp_path / value if isinstance(value, str) else value for name, value in change.items()}
    with pytest.raises(error, match=says):
        search(**given)


def test_a_file_that_is_no_picture(folder, tmp_path):
    (folder / "broken.jpg").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot read the image .*broken.jpg"):
        search(folder / "r" / "red.png", folder)


def test_the_shipped_start_knows_a_picture_when_it_sees_it_again(tmp_path):
    pixels = RNG.integers(0, 256, (20, 64, 32, 3), dtype=np.uint8)
    (tmp_path / "mine").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).resize((16, 32)).save(tmp_path / "mine" / f"{i}.png")
    Image.open(tmp_path / "mine" / "7.png").save(tmp_path / "again.jpg", quality=95)
    found = search(tmp_path / "again.jpg", tmp_path / "mine", k=3)
    assert found[0].file.name == "7.png" and found[0].distance < found[1].distance


def test_ten_thousand_kept_pictures_answer_at_once(tmp_path, asked):
    """Listed, compared and sorted well within a second, so that a slow machine does not fail here (0.2 s on ours)."""
    embedder = Embedder("many", lambda files: np.eye(1, 8, dtype=np.float32).repeat(len(files), 0))
    (tmp_path / "mine").mkdir()
    for i in range(10_000):
        (tmp_path / "mine" / f"{i:05d}.jpg").touch()
    search(tmp_path / "mine" / "00000.jpg", tmp_path / "mine", embedder)
    start = time.monotonic()
    assert len(search(tmp_path / "mine" / "00000.jpg", tmp_path / "mine", embedder)) == 10
    assert time.monotonic() - start < 5


# ---------------------------------------------------------------------------------------------- what a distance means


def people(n=40, spread=0.35, dim=8, tails=False):
    """Features of people with six pictures each, from three cameras; with `tails` some pictures lie far off."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(n, dim))
    far = rng.standard_t(2, size=(n, 6, 1)) if tails else 1.0
    features = (centres[:, None] + spread * far * rng.normal(size=(n, 6, dim))).reshape(-1, dim)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    pids, camids = np.repeat(np.arange(1, n + 1), 6), np.tile([0, 0, 1, 1, 2, 2], n)
    query = np.arange(len(pids)) % 6 == 0
    return features[query], features[~query], pids[query], pids[~query], camids[query], camids[~query]


def test_a_calibration_says_what_the_pairs_say():
    given = people()
    found = calibrate(*given)
    query, gallery, q_pids, g_pids, q_cams, g_cams = given
    distances = np.linalg.norm(query[:, None] - gallery, axis=2)
    same, other = q_pids[:, None] == g_pids, q_pids[:, None] != g_pids
    ones = distances[same & (q_cams[:, None] != g_cams)]
    np.testing.assert_allclose(found.ones, np.sort(ones), atol=1e-6)  # float32 at the door
    np.testing.assert_allclose(found.twos, np.sort(distances[other]), atol=1e-6)
    for share in (0.01, 0.1):
        threshold = found.threshold(share)
        assert abs((distances[other] < threshold).mean() - share) < 0.002  # a quantile of 7,800 pairs
        assert np.isclose(found.missed(threshold), (ones > threshold).mean())


def test_likely_is_likely():
    """Of pairs, as many of either kind, that it calls 70 to 90 % likely, about eight in ten are one person's."""
    found, rng = calibrate(*people(200, 0.6)), np.random.default_rng(0)
    ones, twos = rng.choice(found.ones, 20_000), rng.choice(found.twos, 20_000)
    likely = np.array([found.read(d).likely for d in (*ones, *twos)])
    kinds = np.repeat((1, 0), 20_000)
    for low in (0.1, 0.3, 0.5, 0.7):
        inside = (likely >= low) & (likely < low + 0.2)
        # 3,600 pairs and more in each fifth: five standard errors
        assert abs(kinds[inside].mean() - likely[inside].mean()) < 0.04


def test_no_ratio_is_larger_than_what_was_counted():
    """Where no two people are so near, a ratio is bounded by how many pairs of people were looked at: their pictures
    are many, but no other people."""
    found = calibrate(*people(60, 0.2))
    nearest = found.read(0.0)
    within = (found.ones <= found.twos.min()).sum()
    assert 0 < within <= len(found.ones)
    assert nearest.ratio <= within / len(found.ones) * 60 * 59 * 1.001  # pairs of people; float64's digits
    assert 0 < found.read(9.0).likely < 0.5 < nearest.likely < 1, "never certain"


def test_a_ratio_is_what_was_counted_also_in_the_tails():
    """Pictures of some people lie far from their others, so that no logistic curve fits (Platt's gives a third of what
    is counted among the nearest of two people)."""
    found = calibrate(*people(200, 0.3, tails=True))
    for share in (0.0005, 0.005, 0.05, 0.3):
        distance = np.quantile(found.twos, share)
        counted = [(abs(values - distance) < 0.05).mean() for values in (found.ones, found.twos)]
        assert found.read(distance).ratio == pytest.approx(counted[0] / counted[1], rel=0.5)  # a hundred pairs' luck


def test_nearer_is_likelier_and_many_others_make_it_less_so():
    found = calibrate(*people())
    steps = [found.read(d) for d in np.linspace(0, 2, 30)]
    assert all(a.likely >= b.likely and a.nearer <= b.nearer for a, b in zip(steps, steps[1:], strict=False))
    near = found.read(0.1)
    assert near.likely > 0.9 and np.isclose(near.likely_among(1), near.likely)
    assert near.likely_among(10_000) < near.likely_among(10)


def test_compare_reads_the_calibration(folder, asked):
    found = calibrate(*people())
    pair = folder / "r" / "red.png", folder / "r" / "rose.png"
    assert compare_pictures(*pair, asked[0]).likely is None
    assert compare_pictures(*pair, asked[0], found) == found.read(compare_pictures(*pair, asked[0]).distance)


def test_more_pairs_than_a_calibration_looks_at_are_drawn_by_lot(monkeypatch):
    given = people()
    whole = calibrate(*given)
    monkeypatch.setattr(yours, "PAIRS", 2000)
    some = calibrate(*given)
    assert len(some.twos) < 2000 < len(whole.twos) and len(some.ones) == len(whole.ones)
    # a quantile of 1,950 pairs of two people, ten standard errors wide
    assert abs(some.threshold(0.1) - whole.threshold(0.1)) < 0.1


def test_junk_is_nobody_and_a_distractor_somebody_else():
    query, gallery, q_pids, g_pids, q_cams, g_cams = people()
    plain = calibrate(query, gallery, q_pids, g_pids, q_cams, g_cams)
    more = (
        np.concatenate([gallery, gallery[:7], gallery[:5]]),
        np.r_[g_pids, [-1] * 7, [0] * 5],
        np.r_[g_cams, [1] * 12],
    )
    found = calibrate(query, more[0], q_pids, more[1], q_cams, more[2])
    assert len(found.ones) == len(plain.ones) and len(found.twos) == len(plain.twos) + 5 * len(query)


def test_likely_without_a_calibration():
    with pytest.raises(ValueError, match="takes a Calibration"):
        yours.Comparison(0.5).likely_among(3)


def test_calibrations_that_cannot_be():
    query, gallery, q_pids, g_pids, q_cams, g_cams = people()
    with pytest.raises(ValueError, match="ten or more of either; got 0 and"):
        calibrate(query, gallery, q_pids, g_pids, np.zeros_like(q_cams), np.zeros_like(g_cams))
    with pytest.raises(ValueError, match="ten or more of either; got .* and 0"):
        calibrate(query, gallery, np.ones_like(q_pids), np.ones_like(g_pids), q_cams, g_cams)
    found = Calibration(*[np.linspace(0, 1, 100)] * 2, np.array([0.0, 1.0]), np.array([0.9, 0.1]))
    with pytest.raises(ValueError, match="100 pairs of two people cannot tell what 0.001 of all do"):
        found.threshold(0.001)
    for share in (0, 1, -1, 2):
        with pytest.raises(ValueError, match="false_accepts is a share of pairs between 0 and 1"):
            found.threshold(share)
