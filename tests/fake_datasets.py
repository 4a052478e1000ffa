"""Tiny folders in each dataset's official layout. Image i is one flat colour, so that a test can tell them apart."""

from pathlib import Path

import numpy as np
from PIL import Image

SMALL_WORLD = {"train_identities": 4, "test_identities": 3, "distractors": 4, "junk": 3, "size": (64, 32)}


def colour(i):
    """The RGB colour of image i, far enough apart to survive JPEG."""
    return 20 + 40 * (i % 6), 20 + 40 * (i // 6 % 6), 20 + 40 * (i // 36 % 6)


def near(image, i):
    """Is `image` (3, H, W) the flat colour of fake image i?"""
    return np.abs(image.reshape(3, -1).mean(1) - colour(i)).max() < 4


def leftovers(folder):
    """Kept or half-written datasets in the cache, locks left aside."""
    return sorted(path.name for path in folder.glob("*") if path.suffix != ".lock") if folder.exists() else []


def never(*args, **kwargs):
    raise AssertionError("an image was decoded again")


def write_image(path, i, size=(32, 16)):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), colour(i)).save(path, quality=95)
    return path


MARKET = {
    "bounding_box_train": [
        "0002_c1s1_000451_03.jpg",
        "0002_c2s1_000551_01.jpg",
        "0007_c3s3_077419_03.jpg",
        "0007_c10s3_077419_03.jpg",
    ],
    "query": ["0001_c1s1_001051_00.jpg", "0003_c3s3_064744_00.jpg"],
    "bounding_box_test": [
        "-1_c1s1_000401_03.jpg",
        "0000_c2s1_000151_01.jpg",
        "0001_c1s1_002301_02.jpg",
        "0001_c2s1_000301_01.jpg",
        "0003_c1s6_015971_01.jpg",
        "0003_c6s3_088392_04.jpg",
    ],
    "gt_bbox": ["0001_c1s1_001051_00.jpg", "0001_c2s1_000301_00.jpg", "0003_c3s3_064744_00.jpg"],
}


def market1501(folder, parts=MARKET):
    numbers = iter(range(1000))
    for part, names in parts.items():
        for name in names:
            write_image(Path(folder) / part / name, next(numbers))
        (Path(folder) / part / "Thumbs.db").write_bytes(b"not an image")  # as in the official archive
    return Path(folder)


def attributes(path, key, names, train, test):
    """train, test: {identity: {name: value from 1}}, 1 where unnamed. The two halves order their fields differently."""
    from scipy.io import savemat

    def half(people, names):
        fields = {name: np.array([float(of.get(name, 1)) for of in people.values()]) for name in names}
        return fields | {"image_index": np.array([f"{pid:04d}" for pid in people], dtype=object)}

    savemat(path, {key: {"train": half(train, sorted(names)), "test": half(test, names)}})


def dukemtmc(folder):
    return market1501(
        folder,
        {
            "bounding_box_train": ["0001_c2_f0046182.jpg", "0001_c8_f0046302.jpg"],
            "query": ["0005_c2_f0046985.jpg"],
            "bounding_box_test": ["0005_c1_f0044158.jpg", "0005_c2_f0047105.jpg", "0014_c3_f0085405.jpg"],
        },
    )


def cuhk03(folder, people=(130, 90), views=(2, 3)):
    """Pairs with `people` each; person k has `views` images a view, but person 1 of pair 1 lacks the second view."""
    import h5py
    from scipy.io import savemat

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "cuhk-03.mat", "w") as mat:
        refs = mat.create_group("#refs#")

        def put(values):
            return refs.create_dataset(str(len(refs)), data=values).ref

        empty = put(np.zeros(2, np.uint64))  # as Matlab stores an empty cell
        rows = []
        for images in ("detected", "labeled"):
            pairs = []
            for pair, count in enumerate(people, start=1):
                cells = np.full((10, count), empty, dtype=h5py.ref_dtype)
                for person in range(count):
                    for view, shots in enumerate(views):
                        if (pair, person, view) == (1, 0, 1):
                            continue
                        for shot in range(shots):
                            index = 5 * view + shot
                            pixels = np.full((12 + person % 3, 6, 3), colour(person + index), np.uint8)  # H, W, 3
                            cells[index, person] = put(pixels.T)
                            if images == "detected":
                                pid = sum(people[: pair - 1]) + person + 1
                                rows.append((f"{pair}_{person + 1:03d}_{view + 1}_{index + 1:02d}.png", pid, view + 1))
                pairs.append(put(cells))
            mat.create_dataset(images, data=np.array([pairs], dtype=h5py.ref_dtype))
        tests = [
            np.array([(1, 2 + k) for k in range(60)] + [(2, 1 + trial + k) for k in range(40)], float)
            for trial in range(20)
        ]
        mat.create_dataset("testsets", data=np.array([[put(test.T) for test in tests]], dtype=h5py.ref_dtype))
    names, pids, camids = zip(*rows, strict=True)
    pids, first = np.array(pids), {}
    for row, (_, pid, camera) in enumerate(rows):
        if pid > 200:
            first.setdefault((pid, camera), row)
    query = np.array(sorted(first.values()))
    gallery = np.setdiff1d(np.flatnonzero(pids > 200), query)
    for images in ("detected", "labeled"):
        savemat(
            folder / f"cuhk03_new_protocol_config_{images}.mat",
            {
                "filelist": np.array([[name] for name in names], dtype=object),
                "labels": pids[:, None].astype(np.uint16),
                "camId": np.array(camids, np.uint8)[:, None],
                "train_idx": np.flatnonzero(pids <= 200)[:, None] + 1,
                "query_idx": query[:, None] + 1,
                "gallery_idx": gallery[:, None] + 1,
            },
        )
    return folder


def msmt17(folder, train="train", test="test"):
    folder = Path(folder)
    lists = {
        "list_train.txt": (train, [(0, 0, 1), (0, 1, 15), (1, 0, 3)]),
        "list_val.txt": (train, [(1, 1, 4)]),
        "list_query.txt": (test, [(0, 0, 2), (1, 0, 12)]),
        "list_gallery.txt": (test, [(0, 1, 3), (1, 1, 12), (1, 2, 1)]),
    }
    for i, (name, (part, images)) in enumerate(lists.items()):
        lines = []
        for pid, number, camera in images:
            file = f"{pid:04d}/{pid:04d}_{number:03d}_{camera:02d}_0303morning_0008_0.jpg"
            write_image(folder / part / file, 10 * i + number)
            lines.append(f"{file} {pid}\n")
        (folder / name).write_text("".join(lines))
    return folder


def mars(folder):
    """Tracklets (identity, camera, length); -1 is junk, 0 a distractor."""
    from scipy.io import savemat

    folder = Path(folder)
    (folder / "info").mkdir(parents=True)
    halves = {
        "train": [(1, 1, 3), (1, 2, 2), (3, 6, 4)],
        "test": [(-1, 1, 2), (0, 2, 3), (2, 1, 2), (2, 1, 3), (2, 4, 5), (6, 3, 1), (6, 5, 2)],
    }
    for half, tracks in halves.items():
        names, rows = [], []
        for track, (pid, camera, length) in enumerate(tracks):
            label = "00-1" if pid < 0 else f"{pid:04d}"
            rows.append((len(names) + 1, len(names) + length, pid, camera))
            for frame in range(length):
                names.append(f"{label}C{camera}T{track:04d}F{frame + 1:03d}.jpg")
                write_image(folder / f"bbox_{half}" / label / names[-1], 7 * track + frame)
        (folder / f"info/{half}_name.txt").write_text("\n".join(names) + "\n")
        savemat(folder / f"info/tracks_{half}_info.mat", {f"track_{half}_info": np.array(rows, np.int32)})
    savemat(folder / "info/query_IDX.mat", {"query_IDX": np.array([[3, 6]], np.uint16)})
    return folder


def cuhk_sysu(folder, images=True):
    """Scenes 60 x 80 with boxes of 10 x 20 at x = 0, 10, 20...; box k of scene s has colour 10 * s + k."""
    from scipy.io import savemat

    folder = Path(folder)
    lists = folder / "annotation/test/train_test"
    lists.mkdir(parents=True)
    (folder / "Image/SSM").mkdir(parents=True)
    for scene in range(1, 6):
        picture = Image.new("RGB", (80, 60))
        for k in range(4):
            picture.paste(colour(10 * scene + k), (10 * k, 0, 10 * k + 10, 20))
        picture.save(folder / f"Image/SSM/s{scene}.jpg", quality=100, subsampling=0)

    def box(k):
        return np.array([[10 * k, 0, 10, 20]], np.int32)

    def cells(values):
        array = np.empty((len(values), 1), object)
        array[:, 0] = values
        return array

    def structs(**columns):
        kind = [(name, object) for name in columns]
        return np.array([tuple(values) for values in zip(*columns.values(), strict=True)], dtype=kind)[None]

    def scenes(*where):
        return structs(
            imname=[f"s{scene}.jpg" for scene, _ in where],
            idlocate=[box(k) if k is not None else np.zeros((0, 0)) for _, k in where],
            ishard=[0] * len(where),
        )

    def person(number, *where):
        return structs(idname=[f"p{number}"], nAppear=[len(where)], scene=[scenes(*where)])

    savemat(lists / "Train.mat", {"Train": cells([person(7, (1, 0), (2, 1)), person(9, (1, 2))])})
    queries = [
        structs(imname=["s3.jpg"], idlocate=[box(0)], ishard=[0], idname=["p11"]),
        structs(imname=["s4.jpg"], idlocate=[box(1)], ishard=[0], idname=["p12"]),
    ]
    galleries = [scenes((4, 0), (5, 0), (3, None)), scenes((5, 2), (3, None))]
    savemat(lists / "TestG50.mat", {"TestG50": structs(Query=queries, Gallery=galleries)})
    savemat(folder / "annotation/pool.mat", {"pool": cells(["s3.jpg", "s4.jpg", "s5.jpg"])})
    if images:
        savemat(
            folder / "annotation/Images.mat",
            {
                "Img": structs(
                    imname=[f"s{scene}.jpg" for scene in range(1, 6)],
                    nAppear=[3] * 5,
                    box=[structs(idlocate=[box(k) for k in range(3)], ishard=[0] * 3) for _ in range(5)],
                )
            },
        )
    return folder


def csv(folder, rows=None, header="path,pid,camid,split,tracklet,hat,place"):
    folder = Path(folder)
    rows = rows or [
        "b/2.jpg,5,1,train,3,1,hall",
        "a/1.jpg,5,0,train,2,0,hall",
        "q.jpg,8,0,query,4,-1,door",
        "g.jpg,8,1,gallery,5,1,door",
        "h.jpg,0,1,gallery,6,0,door",
    ]
    for i, row in enumerate(rows):
        write_image(folder / row.split(",")[0], i)
    (folder / "index.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder
