"""PoseBox of a batch beside a loop of Pillow's affine warps, 64 pictures of 64 x 32, ten parts each.

    python benchmarks/bench_pose.py

Two loops: "whole" warps each part to a picture of the full size, as `warpAffine` with a mask is used, 640 warps of
64 x 32; "place" warps it to the size of its place alone and pastes it there. Pixels must agree to one grey level but
for those at the edge of a picture, where Pillow repeats what lies there and `grid_sample` fades to black.
"""

import statistics
import sys
import time

import numpy as np
from measuring import machine, main, table

COUNT, SIZE, CALLS = 64, (64, 32), 12


def batch():
    import torch

    from reidnb.methods import pose

    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT, 3, *SIZE), generator=rng).float()
    points = pose.standard_pose(SIZE).repeat(COUNT, 1, 1)
    points[..., :2] = 0.8 * points[..., :2] + torch.tensor([3.0, 6.0]) + torch.randn(COUNT, 14, 2, generator=rng)
    return images, points


def affine(matrix, height, width):
    """A part's map in [-1, 1] as Pillow takes one: from pixels of the part to pixels of the picture."""
    half = np.array([[SIZE[1] / 2], [SIZE[0] / 2]])
    (a, b, c), (d, e, f) = matrix * half + [[0, 0, half[0, 0]], [0, 0, half[1, 0]]]
    return 2 * a / width, 2 * b / height, c - a - b, 2 * d / width, 2 * e / height, f - d - e


def by_pillow(images, maps, parts, whole):
    from PIL import Image

    out = []
    for image, of_parts in zip(images, maps):
        canvas = Image.new("RGB", SIZE[::-1])
        for matrix, part in zip(of_parts, parts):
            (top, bottom), (left, right) = part.rows, part.columns
            height, width = SIZE if whole else (bottom - top, right - left)
            data = affine(matrix, height, width)
            warped = image.transform((width, height), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
            if not whole:
                canvas.paste(warped, (left, top))
        out.append(np.asarray(canvas))
    return np.stack(out)


def loops(repeats):
    from PIL import Image

    from reidnb.methods import pose

    images, points = batch()
    pictures = [Image.fromarray(image.byte().permute(1, 2, 0).numpy()) for image in images]
    maps, parts = pose.posebox_parts(points, SIZE)[0].numpy(), list(pose.PARTS.values())
    forms = {
        "ours": lambda: pose.posebox(images, points)[0],
        "place": lambda: by_pillow(pictures, maps, parts, False),
        "whole": lambda: by_pillow(pictures, maps, parts, True),
    }
    seconds, values = {name: [] for name in forms}, {}
    for call in range(CALLS * repeats):
        for name, form in forms.items():
            started = time.process_time()
            values[name] = form()
            if call >= 2:
                seconds[name].append(time.process_time() - started)
    ours = values["ours"].round().permute(0, 2, 3, 1).numpy()
    apart = np.abs(ours - values["place"])
    if (apart > 1).mean() > 0.005:
        sys.exit(f"{(apart > 1).mean():.1%} of the values differ by more than one grey level")
    said = {name: 1e3 * statistics.median(s) for name, s in seconds.items()}
    return said | {"differ": float((apart > 1).mean())}


if __name__ == "__main__" and (said := main({"posebox": loops}, __doc__)):
    print(machine())
    found = said["posebox"]
    rows = [
        [
            f"Pillow, each part to {words}",
            f"{found[name]:.1f}",
            f"{found['ours']:.2f}",
            f"{found[name] / found['ours']:.1f} x",
        ]
        for name, words in (("whole", "64 x 32"), ("place", "its place"))
    ]
    print(table(rows, ["PoseBox of 64 pictures x 10 parts", "its ms", "ours", "ratio"]))
    print(f"{found['differ']:.2%} of the values differ by more than one grey level")
