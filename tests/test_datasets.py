"""Datasets: every official layout, the cache under every accident, and errors that say what to do."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import fake_datasets as fake
import numpy as np
import pytest

from reidnb import files
from reidnb.datasets import cache, check_protocol, folders, layouts, open_dataset, published, relabel

HOUSE = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REIDNB_DATA", raising=False)
    return tmp_path / "cache" / "datasets" / f"v{cache.FORMAT}"


@pytest.fixture
def market(tmp_path):
    return fake.market1501(tmp_path / "data" / "Market-1501-v15.09.15")


def near(image, i):
    """Is `image` (3, H, W) the flat colour of fake image i?"""
    return np.abs(image.reshape(3, -1).mean(1) - fake.colour(i)).max() < 4


def leftovers(folder):
    """Kept or half-written datasets in the cache, locks left aside."""
    return sorted(path.name for path in folder.glob("*") if path.suffix != ".lock") if folder.exists() else []


# --- layouts -----------------------------------------------------------------------------------------------------


def test_market1501(market):
    dataset = open_dataset("market1501", root=market, size=(32, 16))
    assert dataset.train.pids.tolist() == [2, 2, 7, 7]
    assert dataset.train.camids.tolist() == [0, 1, 9, 2], "sorted by name; two-digit cameras"
    assert dataset.gallery.pids.tolist() == [-1, 0, 1, 1, 3, 3]
    assert dataset.query.files.tolist() == ["query/0001_c1s1_001051_00.jpg", "query/0003_c3s3_064744_00.jpg"]
    assert dataset.multi_query.pids.tolist() == [1, 1, 3]
    for split, first in ((dataset.query, 4), (dataset.gallery, 6)):
        assert split.images.dtype == np.uint8 and split.images.shape == (len(split), 3, 32, 16)
        assert all(near(image, first + i) for i, image in enumerate(split.images))
    assert near(dataset.train.images[2], 3) and near(dataset.train.images[3], 2), "images follow the sorted names"
    for values in (dataset.train.pids, dataset.train.camids):
        assert values.dtype == np.int64
    assert str(dataset).splitlines()[3].split() == ["gallery", "6", "2", "3"]


def test_the_map_is_read_only(market):
    dataset = open_dataset("market1501", root=market)
    assert isinstance(dataset.train.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        dataset.train.images[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        dataset.train.pids[0] = 0


@pytest.mark.parametrize("place", ["option", "inside", "above"])
def test_market1501_attributes(market, tmp_path, place):
    where = {"option": tmp_path / "elsewhere", "inside": market, "above": market.parent}[place]
    where.mkdir(exist_ok=True)
    fake.attributes(where / "market_attribute.mat", "market_attribute", layouts.MARKET_ATTRIBUTES,
                    train={2: {"age": 3, "hat": 2}, 7: {"upred": 2}}, test={1: {"gender": 2}, 3: {"downbrown": 2}})
    options = {"attributes": where} if place == "option" else {}
    dataset = open_dataset("market1501", root=market, **options)
    names = dataset.attribute_names
    assert names == layouts.MARKET_ATTRIBUTES
    of_first = dict(zip(names, dataset.train.attributes[0], strict=True))
    assert of_first["age"] == 2 and of_first["hat"] == 1 and of_first["gender"] == 0
    assert dataset.train.attributes[2, names.index("upred")] == 1
    assert (dataset.gallery.attributes[:2] == -1).all(), "junk and distractors"
    assert dataset.gallery.attributes[:, names.index("downbrown")].tolist() == [-1, -1, 0, 0, 1, 1]


def test_attributes_go_by_the_names_of_the_built_in_world():
    from reidnb import synthetic
    assert tuple(synthetic.ATTRIBUTES) == layouts.MARKET_ATTRIBUTES


def test_dukemtmc(tmp_path):
    folder = fake.dukemtmc(tmp_path / "DukeMTMC-reID")
    fake.attributes(folder / "duke_attribute.mat", "duke_attribute", layouts.DUKE_ATTRIBUTES,
                    train={1: {"boots": 2}}, test={5: {"shoes": 2}, 14: {}})
    dataset = open_dataset("dukemtmc", root=tmp_path)
    assert dataset.train.images.shape == (2, 3, 256, 128)
    assert dataset.train.camids.tolist() == [1, 7] and dataset.gallery.pids.tolist() == [5, 5, 14]
    assert len(dataset.attribute_names) == 23
    assert dataset.query.attributes[0].sum() == 1
    with pytest.raises(FileNotFoundError, match="withdrawn by its authors.*never downloads"):
        open_dataset("dukemtmc", root=tmp_path / "cache")


@pytest.fixture(scope="module")
def cuhk03_folder(tmp_path_factory):
    return fake.cuhk03(tmp_path_factory.mktemp("data") / "cuhk03")


@pytest.mark.parametrize("images", ["detected", "labeled"])
def test_cuhk03_new_protocol(cuhk03_folder, images):
    dataset = open_dataset("cuhk03", root=cuhk03_folder.parent, images=images, size=(16, 8))
    assert len(np.unique(dataset.train.pids)) == 200 and len(np.unique(dataset.query.pids)) == 20
    assert len(dataset.query) == 40 and len(dataset.gallery) == 20 * (2 + 3) - 40
    assert np.unique(dataset.query.camids).tolist() == [0, 1]
    assert dataset.query.files[1] == f"{images}/2_071_2_06.png"
    assert near(dataset.query.images[1], 70 + 5), "pair 2, person 71, cell 6"


def test_cuhk03_original_protocol(cuhk03_folder):
    trials = [layouts.cuhk03(cuhk03_folder, protocol="1367/100", trial=trial) for trial in (0, 19)]
    for listings in trials:
        train, query, gallery = (listings[split] for split in ("train", "query", "gallery"))
        assert len(np.unique(train.pids)) == 120 and len(np.unique(query.pids)) == 100
        assert len(gallery.files) == 100 == len(np.unique(gallery.pids)), "single shot"
        assert set(query.camids) == {0} and set(gallery.camids) == {1}
        assert not set(train.pids) & set(query.pids)
    assert trials[0]["query"].pids.min() == 2, "person 2 of pair 1; person 1 lacks the second view"
    assert trials[1]["query"].pids.max() == 130 + 59, "trial 19's list reaches person 59 of pair 2"


def test_cuhk03_alignedreid_protocol(cuhk03_folder):
    listings = layouts.cuhk03(cuhk03_folder, protocol="1267/200", trial=3)
    assert len(listings["gallery"].files) == 200 and 1 not in listings["gallery"].pids
    again = layouts.cuhk03(cuhk03_folder, protocol="1267/200", trial=3)
    assert listings["gallery"].files == again["gallery"].files
    assert layouts.cuhk03(cuhk03_folder, protocol="1267/200")["gallery"].files != again["gallery"].files


@pytest.mark.parametrize("options, message", [
    ({"images": "drawn"}, "images is one of detected, labeled; got 'drawn'"),
    ({"protocol": "1367"}, "protocol is one of 767/700"),
    ({"trial": 3}, "trial is 0..19 and belongs to"),
    ({"protocol": "1367/100", "trial": 20}, "trial is 0..19")])
def test_cuhk03_options(cuhk03_folder, options, message):
    with pytest.raises(ValueError, match=message):
        open_dataset("cuhk03", root=cuhk03_folder, **options)


@pytest.mark.parametrize("train, test", [("train", "test"), ("mask_train_v2", "mask_test_v2")])
def test_msmt17(tmp_path, train, test):
    fake.msmt17(tmp_path / "MSMT17_V2", train, test)
    dataset = open_dataset("msmt17", root=tmp_path, size=(32, 16))
    assert dataset.train.pids.tolist() == [1, 1, 2, 2], "train and val; identities from 1, for 0 means distractor"
    assert dataset.train.camids.tolist() == [0, 14, 2, 3]
    assert dataset.query.pids.tolist() == [1, 2] and dataset.gallery.camids.tolist() == [2, 11, 0]
    assert near(dataset.gallery.images[2], 32)
    (tmp_path / "MSMT17_V2/list_query.txt").write_text("0000/odd.jpg 0\n")
    with pytest.raises(ValueError, match="line 1 of .*list_query.txt does not parse: '0000/odd.jpg 0'"):
        open_dataset("msmt17", root=tmp_path, size=(32, 16))


def test_mars(tmp_path):
    fake.mars(tmp_path / "MARS")
    dataset = open_dataset("mars", root=tmp_path / "MARS", size=(32, 16))
    assert len(dataset.train) == 9 and dataset.train.tracklets.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert dataset.query.pids.tolist() == [2, 2, 6], "tracklets 3 (two images) and 6 (one) of the test list"
    assert dataset.query.tracklets.tolist() == [2, 2, 5] and dataset.query.camids.tolist() == [0, 0, 2]
    assert len(dataset.gallery) == 18 and set(dataset.gallery.pids.tolist()) == {-1, 0, 2, 6}
    assert dataset.gallery.files[0] == "bbox_test/00-1/00-1C1T0000F001.jpg"
    assert near(dataset.query.images[1], 7 * 2 + 1)
    few = open_dataset("mars", root=tmp_path / "MARS", size=(32, 16), frames=2, queries_in_gallery=False)
    assert [file[-8:] for file in few.train.files[4:]] == ["F001.jpg", "F004.jpg"], "evenly spaced"
    assert set(few.gallery.tracklets.tolist()) == {0, 1, 3, 4, 6}
    with pytest.raises(ValueError, match="frames is how many images"):
        open_dataset("mars", root=tmp_path / "MARS", frames=0)
    (tmp_path / "MARS/info/test_name.txt").write_text("0002C1T0002F001.jpg\n")
    with pytest.raises(ValueError, match="has 1 names, but the tracklets reach line 18"):
        open_dataset("mars", root=tmp_path / "MARS")


@pytest.mark.parametrize("images", [True, False])
def test_cuhk_sysu(tmp_path, images):
    fake.cuhk_sysu(tmp_path / "CUHK-SYSU", images)
    dataset = open_dataset("cuhk_sysu", root=tmp_path, size=(20, 10))
    assert sorted(dataset.train.pids.tolist()) == [7, 7, 9]
    assert dataset.query.pids.tolist() == [11, 12] and dataset.query.camids.tolist() == [0, 0]
    assert near(dataset.query.images[1], 41), "box 1 of scene 4"
    known = dataset.gallery.pids > 0
    assert sorted(dataset.gallery.pids[known].tolist()) == [11, 11, 12] and set(dataset.gallery.camids) == {1}
    assert len(dataset.gallery) == (3 * 3 - 2 if images else 3), "every box of the pool but the queries' own"


def test_csv(tmp_path):
    dataset = open_dataset("csv", root=fake.csv(tmp_path / "mine"), size=(32, 16))
    assert dataset.train.files.tolist() == ["a/1.jpg", "b/2.jpg"] and dataset.train.camids.tolist() == [0, 1]
    assert dataset.train.tracklets.tolist() == [2, 3]
    assert dataset.attribute_names == ("hat",) and dataset.query.attributes.tolist() == [[-1]]
    assert near(dataset.train.images[0], 1) and near(dataset.train.images[1], 0)


@pytest.mark.parametrize("header, row, message", [
    ("path,pid,split", "a.jpg,1,train", "lacks the columns camid; it has path, pid, split"),
    ("path,pid,camid,split", "a.jpg,one,0,train", "column pid .* must hold whole numbers"),
    ("path,pid,camid,split", "a.jpg,1,-1,train", "column camid .* whole numbers from 0"),
    ("path,pid,camid,split", "a.jpg,1,0,test", "column split .* holds test; wanted train, query or gallery"),
    ("path,pid,camid,split", "../a.jpg,1,0,train", "must stay below"),
    ("path,pid,camid,split", "a.jpg,1,0,train", "the query split is empty")])
def test_csv_errors(tmp_path, header, row, message):
    folder = fake.csv(tmp_path / "mine", [row], header)
    with pytest.raises(ValueError, match=message):
        open_dataset("csv", root=folder)


def test_csv_without_its_table(tmp_path):
    fake.write_image(tmp_path / "mine/a.jpg", 0)
    with pytest.raises(FileNotFoundError, match="has no people.csv; found there: a.jpg"):
        open_dataset("csv", root=tmp_path / "mine", table="people.csv")


SMALL_WORLD = {"train_identities": 4, "test_identities": 3, "distractors": 4, "junk": 3, "size": (64, 32)}


def test_synthetic():
    from reidnb import synthetic
    dataset = open_dataset("synthetic", **SMALL_WORLD, misalignment=2.0)
    world = synthetic.make_world(**SMALL_WORLD, dials=synthetic.Dials(misalignment=2.0))
    for split in ("train", "query", "gallery"):
        part, shots = getattr(dataset, split), world.shots[split]
        assert part.images.shape == (len(shots), 3, 64, 32) and part.masks.shape == (len(shots), 64, 32)
        assert part.pids.tolist() == [shot.pid for shot in shots]
        assert part.files.tolist() == [synthetic.file_name(shot) for shot in shots]
        assert part.shots["box_dx"].tolist() == [shot.dx for shot in shots]
        assert part.shots["view"].tolist() == [shot.view for shot in shots]
        drawing = synthetic.draw(world, shots[1])
        assert np.array_equal(part.images[1], drawing.image.transpose(2, 0, 1))
        assert np.array_equal(part.masks[1], drawing.mask) and np.allclose(part.keypoints[1], drawing.keypoints)
        assert part.shots["occlusion"][1] == pytest.approx(drawing.occlusion)
        assert np.array_equal(part.attributes[1], synthetic.attributes(world, shots[1].pid))
    assert dataset.attribute_names == tuple(synthetic.ATTRIBUTES)
    assert open_dataset("synthetic", **SMALL_WORLD).fingerprint != dataset.fingerprint


def test_synthetic_drawn_by_helpers_is_the_same(monkeypatch, tmp_path, cache_folder):
    from reidnb.datasets import drawn
    alone = open_dataset("synthetic", **SMALL_WORLD)
    monkeypatch.setattr(cache, "cores", lambda: 2)
    monkeypatch.setattr(drawn, "WORTH_PROCESSES", 1)
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path / "other"))
    assert open_dataset("synthetic", **SMALL_WORLD).fingerprint == alone.fingerprint
    monkeypatch.setattr(drawn, "record_type", lambda size: np.dtype([("image", "u1", 10**9)]))  # more than is ever sent
    with pytest.raises(RuntimeError, match="a process that draws the world stopped"):
        open_dataset("synthetic", **SMALL_WORLD, seed=1)
    assert len(leftovers(tmp_path / "other" / cache_folder.relative_to(tmp_path / "cache"))) == 1


def test_summer_and_winter_are_two_domains():
    pair = [open_dataset(f"synthetic_{season}", **SMALL_WORLD) for season in ("summer", "winter")]
    up = pair[0].attribute_names.index("up")
    assert pair[0].fingerprint != pair[1].fingerprint
    assert pair[0].train.attributes[:, up].mean() > pair[1].train.attributes[:, up].mean(), "short sleeves in summer"


# --- the interface -----------------------------------------------------------------------------------------------


def test_unknown_names_and_options(market):
    with pytest.raises(ValueError, match="unknown dataset 'market'; known: synthetic, .*market1501.*csv"):
        open_dataset("market")
    with pytest.raises(TypeError, match="market1501 has no option seed; it has root, size, attributes"):
        open_dataset("market1501", root=market, seed=3)
    with pytest.raises(TypeError, match="synthetic has no option ocluson; it has seed.*occlusion"):
        open_dataset("synthetic", ocluson=2)
    with pytest.raises(TypeError, match="no root"):
        open_dataset("synthetic", root=market)
    for size in (128, (128,), (0, 64), (12.5, 64), "64"):
        with pytest.raises(ValueError, match="size is .height, width."):
            open_dataset("market1501", root=market, size=size)


@pytest.mark.parametrize("inside", ["", "market1501", "Market-1501"])
def test_reidnb_data(tmp_path, monkeypatch, inside):
    fake.market1501(tmp_path / "c1_paths" / inside)
    monkeypatch.setenv("REIDNB_DATA", str(tmp_path / "c1_paths"))
    assert len(open_dataset("market1501").train) == 4


def test_resized_once_and_antialiased(tmp_path):
    stripes = np.zeros((64, 32, 3), np.uint8)
    stripes[::2] = 255
    from PIL import Image
    folder = fake.csv(tmp_path / "mine")
    Image.fromarray(stripes).save(folder / "q.jpg", quality=100, subsampling=0)
    image = open_dataset("csv", root=folder, size=(16, 8)).query.images[0]
    assert np.abs(image.astype(int) - 127).max() < 20, "without antialiasing the stripes alias to black and white"


def test_select(market):
    split = open_dataset("market1501", root=market).gallery
    for which in (split.pids > 0, np.array([2, 3, 4, 5]), slice(2, None), [2, 3, 4, 5]):
        part = split.select(which)
        assert len(part) == 4 and part.pids.tolist() == [1, 1, 3, 3]
        assert np.array_equal(part.images, split.images[2:]) and part.files[0] == split.files[2]
    assert np.shares_memory(split.select(slice(2)).images, split.images)
    assert len(split.select([])) == 0 and split.attributes is None
    for which in (np.array([True, False]), np.array([[0]]), np.array([0.5])):
        with pytest.raises(ValueError, match="select wants"):
            split.select(which)
    shots = open_dataset("synthetic", **SMALL_WORLD).gallery.select([3, 1]).shots
    assert len(shots) == 2 and shots.index.tolist() == [0, 1]


def test_relabel():
    labels, classes = relabel(np.array([7, 2, 7, 30]))
    assert labels.tolist() == [1, 0, 1, 2] and labels.dtype == np.int64 and classes.tolist() == [2, 7, 30]


def test_check_protocol_and_its_warning(tmp_path):
    rows = ["t.jpg,1,0,train", "a.jpg,5,0,query", "b.jpg,6,0,query", "c.jpg,7,0,query",
            "d.jpg,5,1,gallery", "e.jpg,6,0,gallery", "f.jpg,6,0,gallery"]
    folder = fake.csv(tmp_path / "mine", rows, "path,pid,camid,split")
    with pytest.warns(UserWarning, match="2 of 3 queries have no answer.*: 1 have an identity that is not there, 1 "):
        dataset = open_dataset("csv", root=folder, size=(32, 16))
    assert check_protocol(dataset) == {"queries": 3, "answerable": 1, "same_camera_only": 1, "not_in_gallery": 1}
    fake.csv(folder, [row for row in rows if row[0] != "d"], "path,pid,camid,split")
    with pytest.raises(ValueError, match="none of the 3 queries.*same-camera rule.*1 queries have only.*, 2 have"):
        open_dataset("csv", root=folder, size=(32, 16))


# --- folders that are not what they should be --------------------------------------------------------------------


def test_no_folder_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match="needs its folder: pass root=..., or set REIDNB_DATA"):
        open_dataset("market1501")
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        open_dataset("market1501", root=tmp_path / "nowhere")


def test_wrong_level(market):
    with pytest.raises(FileNotFoundError, match="lacks bounding_box_train, query, bounding_box_test; found there: 0001"
                                                ".*seems to lie in .*Market-1501-v15.09.15: pass root="):
        open_dataset("market1501", root=market / "query")
    above = market.parent.parent
    with pytest.raises(FileNotFoundError, match=r"found there: data/.*pass root='.*data/Market-1501-v15.09.15'"):
        open_dataset("market1501", root=above)


def test_part_of_the_dataset_is_missing(market):
    (market / "query").rename(market / "queries")
    with pytest.raises(FileNotFoundError, match="lacks query; found there: bounding_box_test/, .*queries/"):
        open_dataset("market1501", root=market.parent)


def test_empty_split(market, cache_folder):
    for path in (market / "query").glob("*.jpg"):
        path.unlink()
    with pytest.raises(ValueError, match="the query split is empty.*Market-1501-v15.09.15; found there: bounding_box"):
        open_dataset("market1501", root=market)
    assert leftovers(cache_folder) == []


@pytest.mark.parametrize("name", ["2_c1.jpg", "0002_s1_c.jpg", "x0002_c1s1_0.jpg"])
def test_a_name_that_does_not_parse(market, name):
    fake.write_image(market / "query" / name, 0)
    with pytest.raises(ValueError, match=f"the name of .*query/{name} does not parse: wanted <identity>_c<camera>"):
        open_dataset("market1501", root=market)


@pytest.mark.parametrize("damage", [lambda data: data[:len(data) // 2], lambda data: b"", lambda data: b"not an image"])
def test_an_image_that_cannot_be_read(market, cache_folder, damage):
    path = market / "bounding_box_test/0001_c2s1_000301_01.jpg"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.raises(ValueError, match="cannot read the image .*0001_c2s1_000301_01.jpg .*Copy it again"):
        open_dataset("market1501", root=market)
    assert leftovers(cache_folder) == []
    path.write_bytes(whole)
    assert len(open_dataset("market1501", root=market).gallery) == 6


def test_attribute_files_that_are_not_right(market, tmp_path):
    with pytest.raises(FileNotFoundError, match="attributes='.*nowhere': there is no file"):
        open_dataset("market1501", root=market, attributes=tmp_path / "nowhere")
    path = market / "market_attribute.mat"
    fake.attributes(path, "market_attribute", layouts.MARKET_ATTRIBUTES[1:], {2: {}, 7: {}}, {1: {}, 3: {}})
    with pytest.raises(ValueError, match="lacks the attributes age; it has"):
        open_dataset("market1501", root=market)
    fake.attributes(path, "duke_attribute", layouts.MARKET_ATTRIBUTES, {2: {}, 7: {}}, {1: {}, 3: {}})
    with pytest.raises(ValueError, match="has no variable market_attribute, but duke_attribute"):
        open_dataset("market1501", root=market)
    path.write_bytes(b"nothing Matlab would write")
    with pytest.raises(ValueError, match="cannot read .*market_attribute.mat"):
        open_dataset("market1501", root=market)


# --- the cache ---------------------------------------------------------------------------------------------------


def never(*args, **kwargs):
    raise AssertionError("an image was decoded again")


def test_second_open_decodes_nothing(market, monkeypatch):
    first = open_dataset("market1501", root=market)
    monkeypatch.setattr(cache, "decode", never)
    second = open_dataset("market1501", root=market.parent)
    assert first.fingerprint == second.fingerprint != ""
    assert np.array_equal(first.train.images, second.train.images)


def test_rebuilt_when_the_folder_changed(market, cache_folder):
    old = open_dataset("market1501", root=market)
    fake.write_image(market / "query/0001_c4s1_001051_00.jpg", 9)
    added = open_dataset("market1501", root=market)
    assert len(added.query) == 3 and added.fingerprint != old.fingerprint
    path = fake.write_image(market / "query/0001_c4s1_001051_00.jpg", 30)
    os.utime(path, ns=(1, 1))
    redrawn = open_dataset("market1501", root=market)
    assert near(redrawn.query.images[1], 30) and redrawn.fingerprint != added.fingerprint
    fake.attributes(market / "market_attribute.mat", "market_attribute", layouts.MARKET_ATTRIBUTES, {2: {}, 7: {}},
                    {1: {}, 3: {}})
    assert open_dataset("market1501", root=market).query.attributes is not None
    path.unlink()
    (market / "market_attribute.mat").unlink()
    assert open_dataset("market1501", root=market).fingerprint == old.fingerprint, "the same content again"
    assert len(leftovers(cache_folder)) == 2, "with and without attributes; outdated states are removed"


def test_sizes_and_options_are_kept_apart(market, monkeypatch):
    sizes = [open_dataset("market1501", root=market, size=size) for size in ((32, 16), (64, 32))]
    monkeypatch.setattr(cache, "decode", never)
    for size, dataset in zip(((32, 16), (64, 32)), sizes, strict=True):
        assert open_dataset("market1501", root=market, size=size).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("accident", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_nothing_half_written_stays(market, cache_folder, monkeypatch, accident):
    write = cache.write_arrays

    def stops(paths, shapes, rows):
        def some():
            yield next(rows)
            raise accident
        return write(paths, shapes, some())

    with monkeypatch.context() as patched, pytest.raises(type(accident)):
        patched.setattr(cache, "write_arrays", stops)
        open_dataset("market1501", root=market)
    assert leftovers(cache_folder) == []
    assert len(open_dataset("market1501", root=market).train) == 4


def test_a_write_that_fails_is_an_error_and_leaves_nothing(market, cache_folder):
    pytest.importorskip("resource")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (110_000, 110_000))"  # the gallery needs 147 kB
    process = script(market, limit)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and "OSError: [Errno 27] File too large" in error
    assert leftovers(cache_folder) == []


def test_a_damaged_cache_is_built_again(market, cache_folder):
    fingerprint = open_dataset("market1501", root=market).fingerprint
    kept = cache_folder / leftovers(cache_folder)[0]
    for accident in ((kept / "labels.npz").unlink, lambda: os.truncate(kept / "train.npy", 500)):
        accident()
        with pytest.warns(UserWarning, match="is damaged .* building it again"):
            assert open_dataset("market1501", root=market).fingerprint == fingerprint


def test_too_little_space_is_said_before_the_work(market, monkeypatch, cache_folder):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="15 images of 128 x 64 need 0.0 GB, but the disk of .* pass a smaller size"):
        open_dataset("market1501", root=market)
    assert leftovers(cache_folder) == []


def test_threads_keep_the_order_and_hand_errors_on(monkeypatch):
    monkeypatch.setattr(cache, "cores", lambda: 3)
    assert list(cache.in_threads(lambda i: (time.sleep(0.001 * (i % 3)), i)[1], range(200))) == list(range(200))
    done = []
    with pytest.raises(ZeroDivisionError):
        list(cache.in_threads(lambda i: (done.append(i), 1 // (i - 5)), range(10_000)))
    assert len(done) < 1000, "the rest is dropped"


def script(market, body):
    """A process that opens `market` after `body` changed something; prints the fingerprint."""
    code = f"""
        import os, sys, time
        from reidnb.datasets import cache, open_dataset
        {body}
        print(open_dataset("market1501", root={str(market)!r}).fingerprint)
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(HOUSE)})


# Each image takes 50 ms and adds a letter to the file LOG; nothing starts before that file is there.
SLOW = """
        def slow(*args, decode=cache.decode):
            open(os.environ["LOG"], "a").write("x")
            time.sleep(0.05)
            return decode(*args)
        cache.decode = slow
        while not os.path.exists(os.environ["LOG"]):
            time.sleep(0.01)
"""


def test_two_processes_race_and_one_decodes(market, tmp_path, monkeypatch):
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    racers = [script(market, SLOW) for _ in range(2)]
    time.sleep(1)
    (tmp_path / "log").touch()
    outputs = [racer.communicate(timeout=60) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] == open_dataset("market1501", root=market).fingerprint + "\n"
    assert (tmp_path / "log").read_text() == "x" * 15, "each image once"
    assert sum("waiting for another process" in error for _, error in outputs) <= 1


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_process_leaves_nothing_that_counts(market, tmp_path, monkeypatch, cache_folder):
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    (tmp_path / "log").touch()
    victim = script(market, SLOW)
    while len((tmp_path / "log").read_text()) < 6:
        assert victim.poll() is None, victim.communicate()
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert all(name.startswith(".") for name in leftovers(cache_folder)) and leftovers(cache_folder)
    assert len(open_dataset("market1501", root=market).gallery) == 6
    assert len(leftovers(cache_folder)) == 1, "and the next build clears it away"


@pytest.mark.parametrize("system", ["this", "windows"])
def test_one_at_a_time_in_a_lock(tmp_path, monkeypatch, system):
    if system == "windows":  # a stand-in for its msvcrt, to walk the same lines
        held = threading.Lock()

        def locking(fd, mode, size):
            if mode == "unlock":
                held.release()
            elif not held.acquire(blocking=False):
                raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(files, "fcntl", None)
        monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK="try", LK_UNLCK="unlock", locking=locking))
    inside, most = [], []

    def visit(number):
        with files.locked(tmp_path / "thing"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(visit, range(6)))
    assert most == [1] * 6


def test_write_aside(tmp_path):
    path = tmp_path / "deep" / "result.json"
    files.write_aside(path, lambda aside: aside.write_text("old"))
    for accident in (KeyboardInterrupt, OSError):
        def writer(aside, accident=accident):
            aside.write_text("half")
            raise accident
        with pytest.raises(accident):
            files.write_aside(path, writer)
    assert path.read_text() == "old" and [one.name for one in path.parent.iterdir()] == ["result.json"]
    assert files.write_aside(path, lambda aside: aside.write_text(aside.suffix)).read_text() == ".json"


def test_cache_root(monkeypatch, tmp_path):
    assert files.cache_root() == tmp_path / "cache"
    monkeypatch.delenv("REIDNB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_root() == tmp_path / "xdg" / "reidnb"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_root() == tmp_path / ".cache" / "reidnb"


# --- published counts --------------------------------------------------------------------------------------------


def test_check(market, monkeypatch):
    monkeypatch.setattr(cache, "decode", never)
    table = published.check("market1501", root=market)
    assert table.columns.tolist() == ["split", "images", "identities", "cameras", "published images",
                                      "published identities", "agrees"]
    gallery = table.set_index("split").loc["gallery"]
    assert (gallery["images"], gallery["identities"], gallery["published images"]) == (6, 2, 19732)
    assert not gallery["agrees"]
    monkeypatch.setitem(published.PUBLISHED, "market1501", {"train": (4, 2), "query": (2, None)})
    assert published.check("market1501", root=market)["agrees"].tolist()[:2] == [True, True]
    assert published.check("market1501", root=market)["agrees"].isna().tolist()[2:] == [True, True]


def test_check_every_dataset(tmp_path, cuhk03_folder):
    for name, options in (("dukemtmc", {}), ("msmt17", {}), ("mars", {"frames": 1}), ("cuhk_sysu", {}), ("csv", {})):
        table = published.check(name, root=getattr(fake, name)(tmp_path / name), **options)
        assert table["images"].min() > 0
    for protocol in ("767/700", "1367/100", "1267/200"):
        table = published.check("cuhk03", root=cuhk03_folder, protocol=protocol, images="labeled").set_index("split")
        assert table.loc["query", "published identities"] == int(protocol.split("/")[1])
    assert published.check("synthetic", **SMALL_WORLD)["agrees"].isna().all()
    with pytest.raises(ValueError, match="unknown dataset"):
        published.check("market")
    known = {key if isinstance(key, str) else key[0] for key in published.PUBLISHED}
    assert known == set(folders.LAYOUTS) - {"csv"}
