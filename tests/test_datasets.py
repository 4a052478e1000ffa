"""Datasets: the one interface over all of them, and folders that are not what they should be."""

import subprocess
import sys
from pathlib import Path

import fake_datasets as fake
import numpy as np
import pytest

from reidnb.datasets import (
    DATASETS,
    cache,
    check_protocol,
    has_attributes,
    layouts,
    open_dataset,
    option_names,
    relabel,
)

HOUSE = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REIDNB_DATA", raising=False)
    return tmp_path / "cache" / "datasets" / f"v{cache.FORMAT}"


@pytest.fixture
def market(tmp_path):
    return fake.market1501(tmp_path / "data" / "Market-1501-v15.09.15")


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
    shots = open_dataset("synthetic", **fake.SMALL_WORLD).gallery.select([3, 1]).shots
    assert len(shots) == 2 and shots.index.tolist() == [0, 1]


def test_relabel():
    labels, classes = relabel(np.array([7, 2, 7, 30]))
    assert labels.tolist() == [1, 0, 1, 2] and labels.dtype == np.int64 and classes.tolist() == [2, 7, 30]


def test_check_protocol_and_its_warning(tmp_path):
    rows = [
        "t.jpg,1,0,train",
        "a.jpg,5,0,query",
        "b.jpg,6,0,query",
        "c.jpg,7,0,query",
        "d.jpg,5,1,gallery",
        "e.jpg,6,0,gallery",
        "f.jpg,6,0,gallery",
    ]
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
    with pytest.raises(
        FileNotFoundError,
        match="lacks bounding_box_train, query, bounding_box_test; found there: 0001"
        ".*seems to lie in .*Market-1501-v15.09.15: pass root=",
    ):
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
    with pytest.raises(
        ValueError, match="the query split is empty.*Market-1501-v15.09.15/query; found there: Thumbs.db"
    ):
        open_dataset("market1501", root=market)
    assert fake.leftovers(cache_folder) == []


@pytest.mark.parametrize("name", ["2_c1.jpg", "0002_s1_c.jpg", "x0002_c1s1_0.jpg"])
def test_a_name_that_does_not_parse(market, name):
    fake.write_image(market / "query" / name, 0)
    with pytest.raises(ValueError, match=f"the name of .*query/{name} does not parse: wanted <identity>_c<camera>"):
        open_dataset("market1501", root=market)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"not an image"]
)
def test_an_image_that_cannot_be_read(market, cache_folder, damage):
    path = market / "bounding_box_test/0001_c2s1_000301_01.jpg"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.raises(ValueError, match="cannot read the image .*0001_c2s1_000301_01.jpg .*Copy it again"):
        open_dataset("market1501", root=market)
    assert fake.leftovers(cache_folder) == []
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


def test_option_names_are_what_open_dataset_takes():
    assert option_names("market1501") == ("attributes", "train_identities", "partial")
    assert option_names("msmt17") == ("train_identities", "partial")
    assert option_names("cuhk03") == ("images", "protocol", "trial", "train_identities", "partial")
    assert option_names("folder") == ("split_seed", "train_identities", "partial")
    world = option_names("synthetic")
    assert {"seed", "train_identities", "misalignment", "season", "partial"} <= set(world) and "size" not in world
    assert option_names("synthetic_summer->synthetic_winter") == world
    assert option_names("synthetic->market1501") == ("train_identities", "partial"), (
        "both are given what a pair is given"
    )
    assert option_names("market1501->dukemtmc") == ("attributes", "train_identities", "partial")


def test_which_datasets_come_with_attributes():
    known = {name for name in DATASETS if has_attributes(name)}
    worlds = {name for name in DATASETS if name.startswith("synthetic")}
    assert known == worlds | {"market1501", "market1501_first", "market1501_second", "dukemtmc"} and len(worlds) == 4
    assert has_attributes("synthetic->msmt17") and not has_attributes("msmt17->synthetic"), "it learns from the source"


def test_labels_are_checked_before_the_work(market, monkeypatch):
    monkeypatch.setattr(cache, "decode", fake.never)
    fake.write_image(market / "query/0000_c1s1_001051_00.jpg", 9)
    with pytest.raises(ValueError, match="pids of the query split cannot be used"):
        open_dataset("market1501", root=market)
    for path in (market / "bounding_box_test").glob("000[13]*"):
        path.unlink()
    (market / "query/0000_c1s1_001051_00.jpg").unlink()
    with pytest.raises(ValueError, match="none of the 2 queries has an answer"):
        open_dataset("market1501", root=market)


def test_importing_datasets_is_cheap():
    code = "import sys, reidnb.datasets; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, check=True)
    slow = {"torch", "pandas", "joblib", "scipy", "sklearn", "matplotlib", "h5py", "filelock", "IPython", "tqdm"}
    assert not slow & set(ran.stdout.split())
