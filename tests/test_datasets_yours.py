"""Pictures of one's own: people by name, no cameras, no split, and files as cameras and telephones write them."""

import csv
import logging

import numpy as np
import pytest
from PIL import Image

from reidnb.datasets import open_dataset
from reidnb.datasets.people import WRITTEN

SIZE = (32, 16)


def write(path, seed, **how):
    """A picture of flat colour, so that what was read can be told from what lies beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = np.random.default_rng(seed).integers(0, 256, 3)
    Image.fromarray(np.full((24, 12, 3), colour, np.uint8)).save(path, **how)
    return colour


@pytest.fixture
def people(tmp_path):
    """Six people by name, three pictures each."""
    for i, name in enumerate(("ann", "Bob", "王", "d e", "eve", "fay")):
        for shot in range(3):
            write(tmp_path / "mine" / name / f"{shot}.png", 10 * i + shot)
    return tmp_path / "mine"


def names(split):
    return {file.split("/")[0] for file in split.files}


def test_a_folder_for_each_person(people, caplog):
    with caplog.at_level(logging.INFO, "reidnb"):
        found = open_dataset("folder", root=people, size=SIZE)
    assert str(people / WRITTEN) in caplog.text
    assert len(names(found.train)) == 3 and names(found.query) == names(found.gallery)
    assert not names(found.train) & names(found.gallery), "by people: nobody is learned from and tested"
    assert len(found.train) == len(found.query) == len(found.gallery) == 9
    order = sorted(names(found.train) | names(found.gallery))
    for split in (found.train, found.query, found.gallery):
        assert [order[pid - 1] for pid in split.pids] == [file.split("/")[0] for file in split.files]
    own = found.query.camids[:, None] == found.gallery.camids
    assert (own == (found.query.files[:, None] == found.gallery.files)).all(), "no camera: only the own file is out"


def test_people_that_are_links(people, tmp_path):
    """Three of six are links to folders elsewhere: they are people too."""
    for name in ("ann", "Bob", "王"):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (people / name).rename(tmp_path / "elsewhere" / name)
        (people / name).symlink_to(tmp_path / "elsewhere" / name)
    found = open_dataset("folder", root=people, size=SIZE)
    assert len(names(found.train) | names(found.gallery)) == 6


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("person,split\nann,train\nann,test\n", "names 'ann' more than once"),
        (
            "person,split\n" + "".join(f"{n},train\n" for n in ("ann", "Bob", "王", "d e", "eve", "fay")),
            "split is empty.*",
        ),
        ("person,split\nm\u00fcller,train\n".encode("latin-1"), "not written in UTF-8"),
    ],
)
def test_a_split_that_was_edited_amiss(people, table, said):
    (people / WRITTEN).write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(ValueError, match=said) as raised:
        open_dataset("folder", root=people, size=SIZE)
    assert WRITTEN in str(raised.value)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "abc"])
def test_a_split_seed_is_a_whole_number(people, seed):
    with pytest.raises(ValueError, match="split_seed must be a whole number"):
        open_dataset("folder", root=people, size=SIZE, split_seed=seed)


def table_of(tmp_path, rows):
    for i, path in enumerate(sorted({row.split(",")[0].removeprefix("./") for row in rows})):
        write(tmp_path / "t" / path, i)
    lines = ["path,pid,split", *rows] if rows[0].count(",") == 2 else ["path,pid", *rows]
    (tmp_path / "t" / "index.csv").write_text("\n".join(lines))
    return tmp_path / "t"


def test_without_cameras_a_query_does_not_find_itself(tmp_path):
    """Though it stands in the table twice, as a query and in the gallery."""
    rows = [f"{p}/{i}.png,{p},train" for p in (1, 2) for i in (0, 1)]
    rows += [f"{p}/{i}.png,{p},{split}" for p in (3, 4) for i in (0, 1, 2) for split in ("query", "gallery")]
    found = open_dataset("csv", root=table_of(tmp_path, rows), size=SIZE)
    own = found.query.camids[:, None] == found.gallery.camids
    assert (own == (found.query.files[:, None] == found.gallery.files)).all()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("1/0.png,1", "names 1/0.png twice, in lines 2 and 10"),
        ("./1/0.png,1", "names 1/0.png twice, in lines 2 and 10"),
    ],
)
def test_a_picture_that_stands_twice(tmp_path, more, said):
    rows = [f"{p}/{i}.png,{p}" for p in (1, 2, 3, 4) for i in (0, 1)]
    with pytest.raises(ValueError, match=said):
        open_dataset("csv", root=table_of(tmp_path, [*rows, more]), size=SIZE)


def test_a_picture_of_two_people_and_one_that_is_learned_and_tested(tmp_path, caplog):
    rows = [f"{p}/{i}.png,{p},train" for p in (1, 2) for i in (0, 1)]
    rows += [f"{p}/{i}.png,{p},{split}" for p in (3, 4) for i in (0, 1, 2) for split in ("query", "gallery")]
    with pytest.raises(ValueError, match="names 3/0.png for two people"):
        open_dataset("csv", root=table_of(tmp_path, [*rows, "3/0.png,4,train"]), size=SIZE)
    with caplog.at_level(logging.WARNING, "reidnb"):
        open_dataset("csv", root=table_of(tmp_path, [*rows, "3/0.png,3,train"]), size=SIZE)
    assert "1 images, such as 3/0.png, among those to learn from and those to test" in caplog.text


def test_the_split_is_written_down_read_and_added_to(people):
    first = open_dataset("folder", root=people, size=SIZE)
    rows = [line.split(",") for line in (people / WRITTEN).read_text(encoding="utf-8").splitlines()]
    assert rows[0] == ["person", "split"] and {name for name, side in rows[1:] if side == "train"} == names(first.train)
    again = open_dataset("folder", root=people, size=SIZE)
    assert again.fingerprint == first.fingerprint and again.train.files.tolist() == first.train.files.tolist()

    for name in ("gus", "hal"):
        write(people / name / "0.png", 90), write(people / name / "1.png", 91)
    more = open_dataset("folder", root=people, size=SIZE)
    assert names(first.train) < names(more.train) and names(first.gallery) < names(more.gallery), "nobody changes sides"

    swapped = [(name, {"train": "test", "test": "train"}[side]) for name, side in rows[1:]]
    with open(people / WRITTEN, "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([rows[0], *swapped, ("gus", "test"), ("hal", "test")])
    assert names(open_dataset("folder", root=people, size=SIZE).train) == names(first.gallery), "as its owner wrote it"


def test_seeds_make_other_splits_and_the_same_again(people):
    """Each with a table of its own, so that one does not answer for another."""
    sides = set()
    for seed in (0, 0, 1, 2, 3):
        sides.add(frozenset(names(open_dataset("folder", root=people, size=SIZE, split_seed=seed).train)))
    assert 2 <= len(sides) <= 4


def test_a_folder_that_one_may_only_read(people, monkeypatch):
    def refuse(path, writer):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("reidnb.datasets.people.atomic_write", refuse)
    found = [open_dataset("folder", root=people, size=SIZE) for _ in range(2)]
    assert not (people / WRITTEN).exists() and names(found[0].train) == names(found[1].train)


def test_cameras_as_folders_and_splits_as_folders(tmp_path):
    for i, name in enumerate(("ann", "bob", "cy", "dan")):
        for camera in ("gate", "hall"):
            write(tmp_path / "cameras" / name / camera / "x.jpg", i)
    found = open_dataset("folder", root=tmp_path / "cameras", size=SIZE)
    assert found.gallery.camids.tolist() == [0, 1, 0, 1] and len(found.query) == 4

    for split, name in (("train", "ann"), ("train", "bob"), ("query", "cy"), ("gallery", "cy"), ("gallery", "dan")):
        write(tmp_path / "splits" / split / name / "x.jpg", 1)
    found = open_dataset("folder", root=tmp_path / "splits", size=SIZE)
    assert [names(part) for part in (found.train, found.query, found.gallery)] == [{"train"}, {"query"}, {"gallery"}]
    assert found.query.pids.tolist() == [3] and found.gallery.pids.tolist() == [3, 4]
    assert not (tmp_path / "splits" / WRITTEN).exists(), "it has a split of its own"


def table(folder, text, encoding="utf-8", name="index.csv"):
    (folder / name).write_bytes(text.encode(encoding))


ROWS = ("path{c}pid", "ann/0.png{c}Ann", "ann\\1.png{c}Ann", "Bob/0.png{c}Bob", "Bob/1.png{c}Bob", "eve/0.png{c}Eve")
ROWS = "\r\n".join((*ROWS, "eve/1.png{c}Eve", ""))


@pytest.mark.parametrize("comma", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_of_paths_and_names(people, comma, encoding):
    """As Excel writes it on Windows: a mark at the start, semicolons, backslashes."""
    table(people, ROWS.format(c=comma), encoding)
    found = open_dataset("csv", root=people, size=SIZE)
    assert len(found.train) + len(found.gallery) == 6 and len(found.query) == len(found.gallery)
    assert (people / "index.split.csv").exists()
    assert set(found.train.files) | set(found.gallery.files) >= {"ann/1.png"}, "backslashes are folders"


def test_a_table_with_names_cameras_and_splits(people):
    lines = ["path,pid,camid,split", "ann/0.png,Ann,gate,train", "ann/1.png,Ann,hall,train"]
    lines += ["eve/0.png,Eve,gate,query", "eve/1.png,Eve,hall,gallery", "fay/0.png,Fay,gate,gallery"]
    table(people, "\n".join(lines))
    found = open_dataset("csv", root=people, size=SIZE)
    assert found.train.pids.tolist() == [1, 1] and found.train.camids.tolist() == [0, 1]
    assert found.query.pids.tolist() == [2] and found.gallery.pids.tolist() == [2, 3]


def test_nobody_and_junk_are_in_the_gallery_only(people):
    lines = ["path,pid"] + [
        f"{name}/{i}.png,{pid}" for pid, name in enumerate(("ann", "Bob", "eve", "fay"), -1) for i in range(3)
    ]
    table(people, "\n".join(lines))
    found = open_dataset("csv", root=people, size=SIZE)
    assert min(found.train.pids) > 0 and min(found.query.pids) > 0 and {-1, 0} < set(found.gallery.pids)


def test_what_telephones_and_scanners_write(tmp_path):
    """Turned by EXIF, with transparency, grey, of 16 bits, with a palette: what people would see."""
    folder = tmp_path / "mine"
    half = np.zeros((24, 12, 3), np.uint8)
    half[:12] = 200  # light above, dark below
    upright = Image.fromarray(half)
    turned, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by who shows it
    grey = Image.fromarray(half[:, :, 0])
    kinds = {
        "exif.jpg": (turned, {"exif": exif, "quality": 95}),
        "clear.png": (upright.convert("RGBA"), {}),
        "grey.png": (grey, {}),
        "deep.png": (Image.fromarray(half[:, :, 0].astype(np.uint16) * 257), {}),
        "palette.png": (upright.convert("P"), {}),
    }
    for name, (image, how) in kinds.items():
        for person in ("ann", "bob"):
            (folder / person).mkdir(parents=True, exist_ok=True)
            image.save(folder / person / name, **how)
    found = open_dataset("folder", root=folder, size=(24, 12))
    for file, image in zip(found.gallery.files, found.gallery.images, strict=True):
        top, bottom = image[:, :8].mean(), image[:, 16:].mean()
        assert abs(top - 200) < 6 and bottom < 6, file  # JPEG and the palette shift a few levels


def test_names_that_end_in_a_space_stay_where_they_are(people):
    (people / "ann").rename(people / " ann ")
    first, again = (names(open_dataset("folder", root=people, size=SIZE).train) for _ in range(2))
    assert first == again and len((people / WRITTEN).read_text(encoding="utf-8").splitlines()) == 7


def test_01_and_1_are_one_person(people):
    rows = [
        ("ann/0", "1"),
        ("ann/1", "01"),
        ("ann/2", "1"),
        ("Bob/0", "2"),
        ("Bob/1", "02"),
        ("eve/0", "3"),
        ("eve/1", "3"),
    ]
    table(people, "\n".join(["path,pid", *(f"{file}.png,{pid}" for file, pid in rows)]))
    for seed in range(4):
        found = open_dataset("csv", root=people, size=SIZE, split_seed=seed)
        assert not {*found.train.pids} & {*found.gallery.pids}


def test_a_folder_of_ones_own_is_named(people, monkeypatch):
    monkeypatch.setenv("REIDNB_DATA", str(people))
    with pytest.raises(FileNotFoundError, match="folder needs its own folder"):
        open_dataset("folder", size=SIZE)


BAD = {
    "half a split": (["train/ann/0.png", "test/bob/0.png"], "has test, train among its folders: wanted train, query"),
    "no query": (["train/ann/0.png", "gallery/bob/0.png"], "has gallery, train among its folders"),
    "one person": (["ann/0.png", "ann/1.png"], "pictures of 1 people: wanted two or more"),
    "no folders": (["0.png", "ann/0.png"], r"0.png lies in 0 folders; wanted one, the person's"),
    "too deep": (["ann/a/b/0.png", "bob/a/b/0.png"], "lies in 3 folders"),
    "cameras of some": (["ann/gate/0.png", "bob/0.png"], "bob/0.png lies in no camera's folder, but .*gate/0.png does"),
    "nobody twice": (["ann/0.png", "bob/0.png"], "the query split is empty"),
    "no pictures": ([], "holds no pictures"),
}


@pytest.mark.parametrize("kind", BAD)
def test_folders_that_are_refused(tmp_path, kind):
    files, message = BAD[kind]
    (tmp_path / "mine").mkdir()
    for file in files:
        write(tmp_path / "mine" / file, 0)
    with pytest.raises(ValueError, match=message):
        open_dataset("folder", root=tmp_path / "mine", size=SIZE)


def test_a_broken_picture_is_named(people):
    (people / "ann" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(ValueError, match="cannot read the image .*ann/broken.jpg"):
        open_dataset("folder", root=people, size=SIZE)


@pytest.mark.parametrize("text", ["", "name,side\nann,train\n", "person,split\nann,val\n", "person,split\nann\n"])
def test_a_split_that_was_spoiled(people, text):
    (people / WRITTEN).write_text(text)
    with pytest.raises(ValueError, match="reidnb_split.csv must have the columns person and split, .*Mend or remove"):
        open_dataset("folder", root=people, size=SIZE)


def test_numbers_among_names_are_a_slip(people):
    table(people, ROWS.format(c=",").replace("0.png,Bob", "0.png,7"))
    with pytest.raises(ValueError, match="column pid .* holds names, but line 4 has '7': write"):
        open_dataset("csv", root=people, size=SIZE)
