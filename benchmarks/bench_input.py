"""From JPEG files to training batches at 128 x 64: torchvision's usual pipeline beside reidnb's.

    python benchmarks/bench_input.py

Pictures are drawn, written as JPEG to a temporary folder, and read again. torchvision decodes and varies one picture
at a time (v1 transforms, as most ReID code does); reidnb decodes once, keeps uint8 and varies a batch.
"""

import tempfile
from pathlib import Path

import numpy as np
from measuring import machine, main, measure, table

IMAGES, BATCH, SIZE = 2048, 64, (128, 64)
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def drawn(folder):
    """JPEG files of drawn people -> their paths and their pixels (N, 3, H, W)."""
    from PIL import Image

    from reidnb import synthetic

    world = synthetic.make_world(train_identities=40, test_identities=1, distractors=0, junk=0, size=SIZE)
    pictures = [synthetic.draw(world, shot).image for shot in world.shots["train"][:256]]
    paths = []
    for i in range(IMAGES):
        paths.append(Path(folder, f"{i}.jpg"))
        Image.fromarray(pictures[i % len(pictures)]).save(paths[-1], quality=90)
    images = np.stack([np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) for path in paths])
    return paths, images


def torchvision_pipeline(paths, images, repeats):
    import torch
    from PIL import Image
    from torchvision import transforms as T

    vary = T.Compose(
        [
            T.Resize(SIZE),
            T.RandomHorizontalFlip(),
            T.Pad(10),
            T.RandomCrop(SIZE),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
            T.RandomErasing(0.5, value=0),
        ]
    )

    def work():
        for start in range(0, IMAGES, BATCH):
            torch.stack([vary(Image.open(path).convert("RGB")) for path in paths[start : start + BATCH]])

    return measure(work, repeats)


def torchvision_cached(paths, images, repeats):
    import torch
    from torchvision.transforms import v2 as T

    vary = T.Compose(
        [
            T.RandomHorizontalFlip(),
            T.Pad(10),
            T.RandomCrop(SIZE),
            T.ToDtype(torch.float32, scale=True),
            T.Normalize(MEAN, STD),
            T.RandomErasing(0.5, value=0),
        ]
    )
    kept = torch.from_numpy(images)

    def work():
        for start in range(0, IMAGES, BATCH):
            torch.stack([vary(image) for image in kept[start : start + BATCH]])

    return measure(work, repeats)


def ours(colour):
    def case(paths, images, repeats):
        from reidnb.batches import Augmentation, make_batch

        def work():
            rng, batch = np.random.default_rng(0), None
            for start in range(0, IMAGES, BATCH):
                batch = make_batch(images, np.arange(start, start + BATCH), Augmentation(colour=colour), rng, out=batch)

        return measure(work, repeats)

    return case


def with_pictures(case):
    def wrapped(repeats):
        with tempfile.TemporaryDirectory() as folder:
            seconds, memory, _ = case(*drawn(folder), repeats)
        return {"images/s": IMAGES / seconds, "MiB": memory}

    return wrapped


CASES = {
    name: with_pictures(case)
    for name, case in {
        "torchvision v1 from JPEG": torchvision_pipeline,
        "torchvision v2 from uint8 in memory": torchvision_cached,
        "reidnb": ours(0.0),
        "reidnb with colour jitter": ours(0.2),
    }.items()
}


def report(found):
    ours = found["reidnb"]["images/s"]
    rows = [
        (
            "training input, 128 x 64",
            name,
            f"{one['images/s']:,.0f} img/s",
            f"{ours:,.0f} img/s",
            f"{ours / one['images/s']:.1f} x",
            f"{one['MiB']:.0f} -> {found['reidnb']['MiB']:.0f} MiB",
        )
        for name, one in found.items()
        if "images/s" in one
    ]
    return table(rows, ("what", "peer", "it", "ours", "ratio", "extra memory"))


if __name__ == "__main__":
    found = main(CASES, __doc__, repeats=5)
    if found is not None:
        print(machine())
        print(report(found))
