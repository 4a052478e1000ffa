"""What the datasets' authors say they hold, and a table that compares a folder with it."""

from pathlib import Path

import pandas as pd

from reidnb.datasets import builtin, check_name, folders
from reidnb.datasets.splits import counts

# {dataset, or (dataset, variant): {split: (images, identities)}}; None where it is not published or depends on a draw.
PUBLISHED = {
    # The dataset's own readme. Identities of bounding_box_test do not count 0000 (distractors) and -1 (junk).
    "market1501": {"train": (12936, 751), "query": (3368, 750), "gallery": (19732, 750), "multi_query": (25259, 1501)},
    # Zheng et al., ICCV 2017; 408 of the gallery's identities are seen by one camera only.
    "dukemtmc": {"train": (16522, 702), "query": (2228, 702), "gallery": (17661, 1110)},
    # Zhong et al., CVPR 2017, and the lists themselves.
    ("cuhk03", "767/700", "detected"): {"train": (7365, 767), "query": (1400, 700), "gallery": (5332, 700)},
    ("cuhk03", "767/700", "labeled"): {"train": (7368, 767), "query": (1400, 700), "gallery": (5328, 700)},
    # Li et al., CVPR 2014, with all 1,467 people of the released file; how many images they have depends on the trial.
    ("cuhk03", "1367/100"): {"train": (None, 1367), "query": (None, 100), "gallery": (100, 100)},
    # Zhang et al. 2017 (AlignedReID): 200 identities in the gallery, one image each.
    ("cuhk03", "1267/200"): {"train": (None, 1267), "query": (None, 200), "gallery": (200, 200)},
    # Wei et al., CVPR 2018.
    "msmt17": {"train": (32621, 1041), "query": (11659, 3060), "gallery": (82161, 3060)},
    # Zheng et al., ECCV 2016, and the lists of its info folder: 8,298 training, 12,180 test and 1,980 query tracklets.
    # The paper's 636 test identities count 0 (distractors) and -1 (junk) too.
    "mars": {"train": (509914, 625), "query": (114493, 626), "gallery": (681089, 634)},
    # Xiao et al., CVPR 2017: people searched for; the paper counts scenes (11,206 and 6,978), not the people's boxes.
    "cuhk_sysu": {"train": (None, 5532), "query": (2900, 2900), "gallery": (None, 2900)},
}


def check_counts(name: str, root: str | Path | None = None, **options) -> pd.DataFrame:
    """A dataset's counts beside the published ones; no image is decoded. Raises what `open_dataset` raises.

    Columns: split, images, identities, cameras, published images, published identities, agrees (<NA> where nothing is
    published). Distractors (0) and junk (-1) count as images, not as identities.
    """
    check_name(name)
    if "->" in name:
        raise ValueError(f"a pair of domains is counted one by one: {' and '.join(name.split('->', 1))}; got {name!r}")
    if name in builtin.WORLDS:
        dataset = builtin.open_drawn(name, options.pop("size", None), options)
        splits = {split: getattr(dataset, split) for split in ("train", "query", "gallery")}
    else:
        options.pop("size", None)
        folder, options = folders.prepare(name, root, options)
        splits = folders.list_splits(name, folder, options)
    published, rows = _published(name, options), []
    for split, found in splits.items():
        images, identities, cameras = counts(found.pids, found.camids)
        wanted = published.get(split, (None, None))
        known = [got == want for got, want in zip((images, identities), wanted, strict=True) if want is not None]
        rows.append((split, images, identities, cameras, *wanted, all(known) if known else None))
    table = pd.DataFrame(
        rows, columns=["split", "images", "identities", "cameras", "published images", "published identities", "agrees"]
    )
    return table.astype({"published images": "Int64", "published identities": "Int64", "agrees": "boolean"})


def _published(name: str, options: dict) -> dict[str, tuple[int | None, int | None]]:
    if name == "cuhk03":
        protocol, images = options.get("protocol", "767/700"), options.get("images", "detected")
        return PUBLISHED.get((name, protocol, images)) or PUBLISHED[name, protocol]
    if name == "mars" and (options.get("frames") or not options.get("queries_in_gallery", True)):
        return {split: (None, identities) for split, (_, identities) in PUBLISHED[name].items() if split != "gallery"}
    return PUBLISHED.get(name, {})
