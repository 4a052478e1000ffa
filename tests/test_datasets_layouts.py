"""Every official layout on disk, and a table of one's own: what is read, and what is refused."""

import fake_datasets as fake
import numpy as np
import pytest

from reidnb.datasets import cache, folders, layouts, open_dataset, published


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REIDNB_DATA", raising=False)
    return tmp_path / "cache" / "datasets" / f"v{cache.FORMAT}"


@pytest.fixture
def market(tmp_path):
    return fake.market1501(tmp_path / "data" / "Market-1501-v15.09.15")


def test_market1501(market):
    dataset = open_dataset("market1501", root=market, size=(32, 16))
    assert dataset.train.pids.tolist() == [2, 2, 7, 7]
    assert dataset.train.camids.tolist() == [0, 1, 9, 2], "sorted by name; two-digit cameras"
    assert dataset.gallery.pids.tolist() == [-1, 0, 1, 1, 3, 3]
    assert dataset.query.files.tolist() == ["query/0001_c1s1_001051_00.jpg", "query/0003_c3s3_064744_00.jpg"]
    assert dataset.multi_query.pids.tolist() == [1, 1, 3]
    for split, first in ((dataset.query, 4), (dataset.gallery, 6)):
        assert split.images.dtype == np.uint8 and split.images.shape == (len(split), 3, 32, 16)
        assert all(fake.near(image, first + i) for i, image in enumerate(split.images))
    assert fake.near(dataset.train.images[2], 3) and fake.near(dataset.train.images[3], 2), (
        "images follow the sorted names"
    )
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
    fake.attributes(
        where / "market_attribute.mat",
        "market_attribute",
        layouts.MARKET_ATTRIBUTES,
        train={2: {"age": 3, "hat": 2}, 7: {"upred": 2}},
        test={1: {"gender": 2}, 3: {"downbrown": 2}},
    )
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
    fake.attributes(
        folder / "duke_attribute.mat",
        "duke_attribute",
        layouts.DUKE_ATTRIBUTES,
        train={1: {"boots": 2}},
        test={5: {"shoes": 2}, 14: {}},
    )
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
    assert fake.near(dataset.query.images[1], 70 + 5), "pair 2, person 71, cell 6"


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


@pytest.mark.parametrize(
    "options, message",
    [
        ({"images": "drawn"}, "images is one of detected, labeled; got 'drawn'"),
        ({"protocol": "1367"}, "protocol is one of 767/700"),
        ({"trial": 3}, "trial is 0..19 and belongs to"),
        ({"protocol": "1367/100", "trial": 20}, "trial is 0..19"),
    ],
)
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
    assert fake.near(dataset.gallery.images[2], 32)
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
    assert fake.near(dataset.query.images[1], 7 * 2 + 1)
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
    assert fake.near(dataset.query.images[1], 41), "box 1 of scene 4"
    known = dataset.gallery.pids > 0
    assert sorted(dataset.gallery.pids[known].tolist()) == [11, 11, 12] and set(dataset.gallery.camids) == {1}
    assert len(dataset.gallery) == (3 * 3 - 2 if images else 3), "every box of the pool but the queries' own"


def test_csv(tmp_path):
    dataset = open_dataset("csv", root=fake.csv(tmp_path / "mine"), size=(32, 16))
    assert dataset.train.files.tolist() == ["a/1.jpg", "b/2.jpg"] and dataset.train.camids.tolist() == [0, 1]
    assert dataset.train.tracklets.tolist() == [2, 3]
    assert dataset.attribute_names == ("hat",) and dataset.query.attributes.tolist() == [[-1]]
    assert fake.near(dataset.train.images[0], 1) and fake.near(dataset.train.images[1], 0)


@pytest.mark.parametrize(
    "header, row, message",
    [
        ("path,camid,split", "a.jpg,1,train", "lacks the columns pid; it has path, camid, split"),
        ("path,pid,camid,split", "a.jpg,1.5,0,train", "column pid .* must hold whole numbers"),
        ("path,pid,camid,split", "a.jpg,1,-1,train", "column camid .* whole numbers from 0"),
        ("path,pid,camid,split", "a.jpg,1,0,test", "column split .* holds test; wanted train, query or gallery"),
        ("path,pid,camid,split", "../a.jpg,1,0,train", "must stay below"),
        ("path,pid,camid,split", "a.jpg,1,0,train", "the query split is empty: no images of it in .*index.csv"),
    ],
)
def test_csv_errors(tmp_path, header, row, message):
    folder = fake.csv(tmp_path / "mine", [row], header)
    with pytest.raises(ValueError, match=message):
        open_dataset("csv", root=folder)


def test_csv_without_its_table(tmp_path):
    fake.write_image(tmp_path / "mine/a.jpg", 0)
    with pytest.raises(FileNotFoundError, match="has no people.csv; found there: a.jpg"):
        open_dataset("csv", root=tmp_path / "mine", table="people.csv")


# --- published counts -------------------------------------------------------------------------------------------------


def test_check(market, monkeypatch):
    monkeypatch.setattr(cache, "decode", fake.never)
    table = published.check_counts("market1501", root=market)
    assert table.columns.tolist() == [
        "split",
        "images",
        "identities",
        "cameras",
        "published images",
        "published identities",
        "agrees",
    ]
    gallery = table.set_index("split").loc["gallery"]
    assert (gallery["images"], gallery["identities"], gallery["published images"]) == (6, 2, 19732)
    assert not gallery["agrees"]
    monkeypatch.setitem(published.PUBLISHED, "market1501", {"train": (4, 2), "query": (2, None)})
    assert published.check_counts("market1501", root=market)["agrees"].tolist()[:2] == [True, True]
    assert published.check_counts("market1501", root=market)["agrees"].isna().tolist()[2:] == [True, True]


def test_check_every_dataset(tmp_path, cuhk03_folder):
    for name, options in (("dukemtmc", {}), ("msmt17", {}), ("mars", {"frames": 1}), ("cuhk_sysu", {}), ("csv", {})):
        table = published.check_counts(name, root=getattr(fake, name)(tmp_path / name), **options)
        assert table["images"].min() > 0
    for protocol in ("767/700", "1367/100", "1267/200"):
        table = published.check_counts("cuhk03", root=cuhk03_folder, protocol=protocol, images="labeled").set_index(
            "split"
        )
        assert table.loc["query", "published identities"] == int(protocol.split("/")[1])
    assert published.check_counts("synthetic", **fake.SMALL_WORLD)["agrees"].isna().all()
    with pytest.raises(ValueError, match="unknown dataset"):
        published.check_counts("market")
    known = {key if isinstance(key, str) else key[0] for key in published.PUBLISHED}
    assert known == set(folders.LAYOUTS) - {"csv", "folder", "market1501_first", "market1501_second"}, "ours"


# ---- two domains of one dataset -------------------------------------------------------------------------------------


@pytest.fixture
def six_cameras(tmp_path):
    """Twenty training people and ten others, seen twice by each of six cameras, and so a distractor and a junk box."""
    parts = {"bounding_box_train": range(1, 21), "query": range(21, 31), "bounding_box_test": (-1, 0, *range(21, 31))}
    shots = {
        part: [
            f"{'-1' if pid < 0 else f'{pid:04d}'}_c{camera}s1_{frame:06d}_00.jpg"
            for pid in people
            for camera in range(1, 7)
            for frame in range(1 if part == "query" else 2)
        ]
        for part, people in parts.items()
    }
    return fake.market1501(tmp_path / "data" / "Market-1501-v15.09.15", shots)


def test_two_halves_share_no_person_and_no_camera(six_cameras, monkeypatch):
    monkeypatch.setenv("REIDNB_DATA", str(six_cameras.parent))
    first, second = (open_dataset(f"market1501_{half}", size=(32, 16)) for half in ("first", "second"))
    people = [set(half.train.pids.tolist()) for half in (first, second)]
    assert not people[0] & people[1] and len(people[0]) == len(people[1]) == 10
    for half, cameras in ((first, ["c1", "c2", "c3"]), (second, ["c4", "c5", "c6"])):
        for split in (half.train, half.query, half.gallery):
            assert {name.split("_")[-3][:2] for name in split.files} == set(cameras)
            assert set(split.camids.tolist()) == {0, 1, 2}, "cameras count from 0"
    pair = open_dataset("market1501_first->market1501_second", size=(32, 16))
    assert set(pair.target.pids.tolist()) == {-1} and pair.target.files is None, "nothing says who they are"
    assert not set(pair.train.files) & set(second.train.files)
    with pytest.raises(TypeError, match="no option cameras"):
        open_dataset("market1501_first", cameras=(1, 4))


def test_a_half_leaves_out_whom_no_other_camera_saw(six_cameras, monkeypatch):
    for name in ("c4", "c5"):
        for path in (six_cameras / "bounding_box_test").glob(f"0021_{name}*"):
            path.unlink()
    second = open_dataset("market1501_second", root=six_cameras, size=(32, 16))
    asked = [name for name in second.query.files if "/0021_" in name]
    assert [name.split("_")[1][:2] for name in asked] == ["c4", "c5"], "c6 saw them, and is not asked for itself"


def test_a_half_without_a_camera(six_cameras):
    for path in six_cameras.rglob("*_c5s*"):
        path.unlink()
    with pytest.raises(ValueError, match="no training pictures of c5"):
        open_dataset("market1501_second", root=six_cameras)
