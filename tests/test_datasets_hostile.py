"""Hostile input: pictures, tables, labels and names as they come from the wild. Each gives the right value, or an error
in words: what was got, what was wanted, what to do; never a silent wrong value, never a word from inside a library."""

import errno
import warnings
from types import SimpleNamespace

import fake_datasets as fake
import numpy as np
import pytest
from PIL import Image

from reidnb.datasets import (
    ReIDDataset,
    Split,
    check_name,
    check_protocol,
    decode,
    has_attributes,
    layouts,
    open_dataset,
    option_names,
    published,
)

HEAD = "path,pid,camid,split"
ROWS = ["t.jpg,1,0,train", "u.jpg,2,1,train", "q.jpg,3,0,query", "g.jpg,3,1,gallery", "h.jpg,0,1,gallery"]
SIZE = (32, 16)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REIDNB_DATA", raising=False)


@pytest.fixture
def mine(tmp_path):
    """A folder with its table; called, it writes another table into it, text or bytes, and opens it."""
    folder = fake.csv(tmp_path / "mine", ROWS, HEAD)

    def opened(table=None, **options):
        data = "\n".join([HEAD, *ROWS]) if table is None else table
        (folder / "index.csv").write_bytes(data if isinstance(data, bytes) else data.encode())
        return open_dataset("csv", root=folder, size=SIZE, **options)

    opened.folder = folder
    return opened


# --- pictures ------------------------------------------------------------------------------------------------------


def save(path, values, **how):
    Image.fromarray(np.asarray(values)).save(path, **how)
    return path


def test_a_picture_taken_sideways_stands_upright(tmp_path):
    """As a telephone stores it: the pixels lie on their side, and a tag says so."""
    upright = np.zeros((32, 16, 3), np.uint8)
    upright[:8] = 200  # the head
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise by a quarter
    path = save(tmp_path / "a.png", np.rot90(upright), exif=exif)
    assert np.array_equal(decode(path, SIZE), upright.transpose(2, 0, 1))
    plain = save(tmp_path / "b.png", upright)
    assert np.array_equal(decode(plain, SIZE), upright.transpose(2, 0, 1)), "and one without the tag stays"


def test_a_box_is_in_pixels_of_the_file(tmp_path):
    values = np.arange(64 * 32 * 3, dtype=np.uint32).reshape(64, 32, 3).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.png", values, exif=exif)
    assert np.array_equal(decode(path, SIZE, np.array([4, 8, 16, 32])), values[8:40, 4:20].transpose(2, 0, 1))


def test_grey_of_more_bits_is_scaled(tmp_path):
    grey = np.linspace(0, 1, 32 * 16).reshape(32, 16)
    eight = np.rint(grey * 255).astype(np.uint8)
    deep = save(tmp_path / "a.png", np.rint(grey * 65535).astype(np.uint16))
    light = save(tmp_path / "b.tiff", grey.astype(np.float32))
    for path in (deep, light):
        found = decode(str(path), SIZE)
        assert found.shape == (3, 32, 16) and np.array_equal(found[0], found[2])
        assert np.abs(found[0].astype(int) - eight).max() <= 1, "rounded twice"
        assert (found.min(), found.max()) == (0, 255)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "YCbCr"])
def test_pictures_of_other_modes(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    Image.new("RGB", (16, 32), (255, 255, 255)).convert(mode).save(path)
    assert decode(path, SIZE).shape == (3, 32, 16) and decode(path, SIZE).min() > 250


def test_a_broken_exif_block_hides_no_picture(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (16, 32), (200, 200, 200)).save(path, exif=b"Exif\0\0rubbish that is no TIFF header")
    assert np.abs(decode(path, SIZE).astype(int) - 200).max() < 4


def nan(path):
    save(path, np.full((4, 4), np.nan, np.float32))


PICTURES = {
    "floats up to 255": lambda path: save(path, np.full((4, 4), 200.0, np.float32)),
    "NaN": nan,
    "below 0": lambda path: save(path, np.full((4, 4), -1.0, np.float32)),
    "32 bits": lambda path: save(path, np.full((4, 4), 10**6, np.int32)),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"<html>404</html>"),
    "a folder": lambda path: path.mkdir(),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_that_cannot_be_read(tmp_path, kind):
    path = tmp_path / "a.tiff"
    PICTURES[kind](path)
    remedy = "Is its path written right" if kind == "nothing" else "Copy it again from where it came, or save"
    with pytest.raises(ValueError, match=f"cannot read the image .*a.tiff .*{remedy}"):
        decode(path, SIZE)


@pytest.mark.parametrize("box", [(40, 2, 8, 8), (2, 2, 0, 8), (-9, 0, 9, 9)])
def test_a_box_outside_of_the_picture(tmp_path, box):
    path = save(tmp_path / "a.png", np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(ValueError, match="lies outside of its 30 x 20 pixels"):
        decode(path, SIZE, np.array(box))


@pytest.mark.parametrize("size", [None, 64, (64,), (64, 32, 3), (0, 8), (12.5, 8), "ab", (float("nan"), 8)])
def test_sizes(tmp_path, size):
    fake.write_image(tmp_path / "a.jpg", 0)
    with pytest.raises(ValueError, match="size is .height, width. in whole pixels"):
        decode(tmp_path / "a.jpg", size)


# --- tables --------------------------------------------------------------------------------------------------------

TEXT = "\n".join([HEAD + ",hat", *(f"{row},{i % 2}" for i, row in enumerate(ROWS))])
RIGHT = {
    "as it is": TEXT,
    "with a mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "utf-16": TEXT.encode("utf-16"),
    "utf-16 big": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "semicolons": TEXT.replace(",", ";"),
    "tabs": TEXT.replace(",", "\t"),
    "backslashes": TEXT.replace("t.jpg", ".\\t.jpg"),
    "windows lines": TEXT.replace("\n", "\r\n"),
    "old mac lines": TEXT.replace("\n", "\r"),
    "blank lines": TEXT.replace("\n", "\n\n") + "\n\n",
    "spaces": TEXT.replace(",", " , "),
    "quotes": TEXT.replace("train", '"train"'),
    "an index column": "\n".join(f"{'' if i == 0 else i - 1},{line}" for i, line in enumerate(TEXT.split("\n"))),
    "an index column of pandas": "\n".join(
        f"{'Unnamed: 0' if i == 0 else i - 1},{line}" for i, line in enumerate(TEXT.split("\n"))
    ),
    "leading zeros": TEXT.replace(",3,", ",0003,"),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_tables_that_say_the_same(mine, kind):
    found = mine(RIGHT[kind])
    assert found.train.pids.tolist() == [1, 2] and found.train.camids.tolist() == [0, 1]
    assert found.query.pids.tolist() == [3] and found.gallery.pids.tolist() == [3, 0]
    assert found.attribute_names == ("hat",) and found.gallery.attributes.tolist() == [[1], [0]]


def test_a_table_in_another_encoding(mine):
    chinese = TEXT.replace("t.jpg", "行人.jpg")
    fake.write_image(mine.folder / "行人.jpg", 0)
    with pytest.raises(ValueError, match="index.csv cannot be read as utf-8 .*encoding='gbk'"):
        mine(chinese.encode("gbk"))
    assert mine(chinese.encode("gbk"), encoding="gbk").train.files.tolist() == ["u.jpg", "行人.jpg"]
    with pytest.raises(ValueError, match="index.csv cannot be read as klingon .unknown encoding"):
        mine(chinese, encoding="klingon")


def test_an_empty_cell_of_an_attribute_is_unknown(mine):
    assert mine(TEXT.replace("gallery,1", "gallery,")).gallery.attributes.tolist() == [[-1], [0]]


def row(number, text):
    return "\n".join([HEAD, *(text if i == number else line for i, line in enumerate(ROWS))])


WRONG = {
    "nothing": ("", "index.csv is empty: its first line names the columns path, pid, camid, split"),
    "blank": ("\n \n", "index.csv is empty"),
    "header only": (HEAD, "the train split is empty: no images of it in .*index.csv"),
    "no header": ("\n".join(ROWS), "index.csv lacks the columns path, pid; it has t.jpg, 1, 0, train"),
    "two columns of a name": (HEAD + ",pid\n", "two columns of the name pid: rename or remove one"),
    "a short row": (row(1, "u.jpg,2,1"), "line 3 of .*index.csv has 3 cells, but the first line 4: 'u.jpg'"),
    "a long row": (row(0, "t.jpg,1,0,train,x"), "line 2 of .*index.csv has 5 cells"),
    "an empty path": (row(0, ",1,0,train"), "column path .* empty cell in line 2: name the image, or remove the row"),
    "an empty pid": (
        row(0, "t.jpg,,0,train"),
        "column pid .*whole numbers from -1 up, below.*line 2 has an empty cell",
    ),
    "an empty camid": (
        row(1, "u.jpg,2,,train"),
        "column camid .*whole numbers from 0 up, below 2.31; line 3 has an empty cell",
    ),
    "an empty split": (row(0, "t.jpg,1,0,"), "column split .* holds an empty cell; wanted train, query.*line 2"),
    "another split": (row(0, "t.jpg,1,0,val"), "column split .* holds val; wanted train, query or gallery"),
    "a pid in words": (row(0, "t.jpg,p1,0,train"), "column pid .*line 2 has 'p1'"),
    "a fraction": (row(0, "t.jpg,1.5,0,train"), "column pid .*line 2 has '1.5'"),
    "NaN": (row(0, "t.jpg,nan,0,train"), "column pid .*line 2 has 'nan'"),
    "a pid of 30 digits": (row(0, f"t.jpg,{10**30},0,train"), "column pid .*line 2 has '1000"),
    "a pid of 2^62": (row(0, f"t.jpg,{2**62},0,train"), "column pid .*below 2.31 .*line 2 has '4611686018427387904'"),
    "a camera of 2^40": (
        row(3, f"g.jpg,3,{2**40},gallery"),
        "column camid .*from 0 up, below 2.31; line 5 has '1099511627776'",
    ),
    "camera -1": (row(0, "t.jpg,1,-1,train"), "column camid .*from 0 up, below 2.31; line 2 has '-1'"),
    "pid -2": (row(4, "h.jpg,-2,1,gallery"), "column pid .*line 6 has '-2'"),
    "training on nobody": (row(0, "t.jpg,0,0,train"), "1 of the 2 pids of the train split cannot be used .0.: people"),
    "training on junk": (
        row(0, "t.jpg,-1,0,train"),
        "pids of the train split cannot be used .-1.: people count from 1",
    ),
    "asking for nobody": (row(2, "q.jpg,0,0,query"), "1 of the 1 pids of the query split cannot be used .0.: people"),
    "asking for junk": (row(2, "q.jpg,-1,0,query"), "pids of the query split cannot be used .-1.: people count from 1"),
    "outside": (row(0, "../t.jpg,1,0,train"), "column path .*must stay below .*mine; got ../t.jpg in line 2"),
    "outside, on Windows": (row(0, "..\\t.jpg,1,0,train"), "must stay below"),
    "absolute": (row(0, "/etc/passwd,1,0,train"), "must stay below .*got /etc/passwd"),
    "a drive": (row(0, "C:\\t.jpg,1,0,train"), "must stay below .*got C:/t.jpg"),
    "no such picture": (row(0, "nowhere.jpg,1,0,train"), "cannot read the image .*nowhere.jpg .No such file"),
    "a workbook": (b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00", "index.csv is no text, or UTF-16 without its"),
    "utf-16 without its mark": (TEXT.encode("utf-16-le"), "index.csv is no text, or UTF-16 without its mark: save it"),
    "a huge cell": (row(0, '"' + "t" * 200_000 + '",1,0,train'), "line 2 of .*index.csv cannot be read .field larger"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_tables_that_are_refused(mine, kind):
    table, message = WRONG[kind]
    with pytest.raises(ValueError, match=message), warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is opened with a warning of wrong counts first
        mine(table)


def test_no_table_at_all(tmp_path):
    fake.write_image(tmp_path / "mine/0001/a.jpg", 0)
    with pytest.raises(FileNotFoundError, match="has no index.csv; found there: 0001/"):
        open_dataset("csv", root=tmp_path / "mine")


# --- official layouts ----------------------------------------------------------------------------------------------


def test_cameras_that_count_from_c0(tmp_path):
    parts = {
        "bounding_box_train": ["0002_c0s1_000451_03.jpg", "0002_c1s1_000551_01.jpg"],
        "query": ["0001_c1s1_001051_00.jpg"],
        "bounding_box_test": ["0001_c2s1_002301_02.jpg", "0000_c1s1_002301_02.jpg"],
        "gt_bbox": ["0001_c1s1_001051_00.jpg"],
    }
    found = open_dataset("market1501", root=fake.market1501(tmp_path / "Market-1501", parts), size=SIZE)
    assert found.train.camids.tolist() == [0, 1] and found.query.camids.tolist() == [1]
    assert found.gallery.camids.tolist() == [1, 2] and found.multi_query.camids.tolist() == [1]


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [
        ("query", "0000_c1s1_000001_00.jpg", "1 of the 3 pids of the query split cannot be used .0.: people count"),
        ("query", "-1_c1s1_000001_00.jpg", "pids of the query split cannot be used .-1."),
        ("bounding_box_train", "0000_c1s1_000001_00.jpg", "1 of the 5 pids of the train split cannot be used .0."),
        ("bounding_box_train", "-1_c1s1_000001_00.jpg", "pids of the train split cannot be used .-1."),
        ("query", "99999999999_c1s1_000001_00.jpg", "query split cannot be used .99999999999.*below 2.31"),
    ],
)
def test_people_that_nobody_can_be(tmp_path, part, name, message):
    folder = fake.market1501(tmp_path / "Market-1501")
    fake.write_image(folder / part / name, 0)
    with pytest.raises(ValueError, match=message):
        open_dataset("market1501", root=folder)


def test_a_folder_for_each_person(tmp_path):
    folder = fake.market1501(tmp_path / "Market-1501")
    for path in (folder / "query").glob("*.jpg"):
        (folder / "query" / path.name[:4]).mkdir(exist_ok=True)
        path.rename(folder / "query" / path.name[:4] / path.name)
    with pytest.raises(
        ValueError, match="query split is empty: .*/query; .*A folder for each person is read by open_dataset..folder"
    ):
        open_dataset("market1501", root=folder)


def test_camera_0_of_a_list_that_counts_from_1(tmp_path):
    folder = fake.msmt17(tmp_path / "MSMT17_V1")
    path = folder / "list_query.txt"
    path.write_text(path.read_text().replace("0000_000_02_", "0000_000_00_"))
    with pytest.raises(ValueError, match="1 of the 2 camids of the query split cannot be used .-1.: count from 0"):
        open_dataset("msmt17", root=folder)


# --- attribute files -----------------------------------------------------------------------------------------------


def with_labels(tmp_path, train, test, names=layouts.MARKET_ATTRIBUTES):
    folder = fake.market1501(tmp_path / "Market-1501")
    fake.attributes(folder / "market_attribute.mat", "market_attribute", names, train, test)
    return open_dataset("market1501", root=folder, size=SIZE)


def test_nan_is_unknown(tmp_path):
    found = with_labels(tmp_path, {2: {"hat": np.nan, "up": 2}, 7: {"age": np.nan}}, {1: {}, 3: {}})
    at = found.attribute_names.index
    assert found.train.attributes[:, at("hat")].tolist() == [-1, -1, 0, 0]
    assert found.train.attributes[:, at("age")].tolist() == [0, 0, -1, -1]
    assert found.train.attributes[:, at("up")].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"hat": 0}, "hat is 0 in market_attribute.train, wanted one of .1, 2., .*add 1 to labels that count from 0"),
        ({"hat": 3}, "hat is 3 in market_attribute.train, wanted one of .1, 2."),
        ({"hat": 1.5}, "hat is 1.5"),
        ({"hat": -1}, "hat is -1"),
        ({"age": 5}, "age is 5 in market_attribute.train, wanted one of .1, 2, 3, 4."),
        ({"age": 0}, "age is 0"),
        ({"age": np.inf}, "age is inf"),
    ],
)
def test_labels_that_no_file_has(tmp_path, labels, message):
    with pytest.raises(ValueError, match=f"market_attribute.mat: {message}"):
        with_labels(tmp_path, {2: labels, 7: {}}, {1: {}, 3: {}})


# --- what a caller may get wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [None, 3, "", "market", ("synthetic",), b"csv", "synthetic->", "->synthetic", "a->b->c"]
)
@pytest.mark.parametrize("ask", [open_dataset, check_name, option_names, has_attributes, published.check_counts])
def test_names_that_no_dataset_has(ask, name):
    with pytest.raises(
        ValueError, match="unknown dataset .*; known: synthetic, .*csv, folder, or two of them as source->target"
    ):
        ask(name)


def test_did_you_mean():
    for name, meant in (("market", "market1501"), ("Market1501", "market1501"), ("sinthetic", "synthetic")):
        with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
            open_dataset(name)
    with pytest.raises(ValueError, match="unknown dataset 'sumer'"):
        open_dataset("synthetic->sumer")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"misalignment": 3}, ValueError, "dial misalignment=3: wanted a number from 0 to 2"),
        ({"misalignment": "1"}, ValueError, "dial misalignment='1'"),
        ({"train_identities": 2.5}, ValueError, "train_identities=2.5: wanted a whole number"),
        ({"test_identities": 0}, ValueError, "the query split is empty: ask for more identities"),
        ({"size": (64, 64)}, ValueError, "height = 2 x width"),
        ({"misaligment": 1}, TypeError, "synthetic has no option misaligment; it has .*misalignment"),
        ({"root": "."}, TypeError, "synthetic is drawn, not read from a folder: it has no root"),
    ],
)
def test_options_of_the_world(options, error, message):
    with pytest.raises(error, match=message):
        open_dataset("synthetic", **{"train_identities": 2, "distractors": 0, "junk": 0, "size": (32, 16)} | options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"root": 3}, TypeError, "root is the path of a folder, got 3"),
        ({"root": ""}, FileNotFoundError, "csv needs its folder: pass root="),
        ({"root": "/nowhere"}, FileNotFoundError, "there is no folder /nowhere"),
        ({"table": "people.csv"}, FileNotFoundError, "has no people.csv; found there: .*index.csv"),
        ({"seed": 3}, TypeError, "csv has no option seed; it has root, size, table, encoding, split_seed"),
    ],
)
def test_options_of_a_folder(mine, options, error, message):
    with pytest.raises(error, match=message):
        open_dataset("csv", **{"root": mine.folder} | options)


def pieces(**changes):
    return {"images": np.zeros((3, 3, 8, 8), np.uint8), "pids": np.arange(3), "camids": np.arange(3)} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camids": np.arange(4)}, "each of the 3 pids stands for an image, but there are 4 camids"),
        ({"images": np.zeros((2, 3, 8, 8), np.uint8)}, "but there are 2 images"),
        ({"attributes": np.zeros((5, 2), int)}, "but there are 5 attributes"),
        ({"pids": np.array([1.5, 2, 3])}, "pids must be whole numbers, an array of shape .N,.; got float64"),
        ({"camids": ["a", "b", "c"]}, "camids must be whole numbers"),
        ({"pids": None}, "pids must be whole numbers"),
        ({"pids": np.zeros((3, 1), int)}, r"got int64 of shape \(3, 1\)"),
    ],
)
def test_splits_that_do_not_fit_together(changes, message):
    with pytest.raises(ValueError, match=message):
        Split(**pieces(**changes))


def test_a_dataset_of_ones_own():
    split = Split(**pieces(pids=[1, 2, 3], camids=[0, 1, 0]))
    assert split.pids.dtype == split.camids.dtype == np.int64
    other = Split(**pieces(pids=[1, 2, 3], camids=[1, 0, 1]))
    data = ReIDDataset("mine", split, split, other)
    query, gallery = split, other
    for found, wanted in zip(data.ids, (query.pids, gallery.pids, query.camids, gallery.camids), strict=True):
        assert found is wanted
    assert check_protocol(data)["answerable"] == 3
    for part, odd, message in (
        ("query", [0, 1, 2], "1 of the 3 pids of the query split cannot be used .0."),
        ("train", [1, -1, 0], "2 of the 3 pids of the train split cannot be used .-1, 0."),
        ("gallery", [1, 2, -5], "1 of the 3 pids of the gallery split cannot be used .-5."),
    ):
        changed = {"train": split, "query": split, "gallery": other} | {part: Split(**pieces(pids=odd))}
        with pytest.raises(ValueError, match=message):
            check_protocol(ReIDDataset("mine", **changed))
    with pytest.raises(ValueError, match="camids of the query split cannot be used .-1.: count from 0"):
        check_protocol(
            SimpleNamespace(name="mine", query=Split(**pieces(pids=[1, 2, 3], camids=[-1, 0, 1])), gallery=other)
        )


def test_a_pair_is_not_counted_at_once():
    with pytest.raises(ValueError, match="counted one by one: market1501 and synthetic"):
        published.check_counts("market1501->synthetic")


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "Too many open files"), PermissionError()])
def test_what_passes_is_no_broken_picture(error, monkeypatch):
    """Who is told to copy a file again that is whole copies it for nothing."""

    def fails(*_):
        raise error

    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(type(error)):
        decode("a.jpg", (64, 32))
