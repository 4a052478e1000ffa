"""Run by a Python that has mediapipe, not by the package's: the path of a picture in, a body out, a line of JSON each.

    "/pictures/a.jpg"  ->  {"size": [64, 128], "body": [[x, y, visibility] * 33] or null, "mask": [[0 or 1] * 32] * 64},
                           or {"error": "why"}

x and y are in pixels of the upright picture; mask, which a body alone has, says of each cell of a grid over the picture
whether the person fills half of it. The first line that it writes is {"ready": "mediapipe 0.10.21"}.
"""

import importlib
import json
import os
import sys

import numpy as np
from PIL import Image, ImageOps

HEIGHT = 384  # smaller pictures are enlarged to it
MARGINS = (0.3, 0.5)  # of the height, put about the picture; the second where the first shows nobody
CELLS = (64, 32)  # of a mask
SURE = 0.3  # from here on mediapipe's detector says that somebody is there


def look(pose, path):
    """One picture -> its size, and 33 landmarks and the person's mask, or None."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image).convert("RGB")
    width, height = image.size
    scale = max(1.0, HEIGHT / height)
    image = image.resize((max(1, round(width * scale)), round(height * scale)), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    for share in MARGINS:  # a person who fills the picture is found only with room about: its edges go on into it
        margin = round(share * pixels.shape[0])
        wide = np.ascontiguousarray(np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
        seen = pose.process(wide)
        if seen.pose_landmarks:
            (h, w), (tall, broad) = pixels.shape[:2], wide.shape[:2]
            body = [
                ((p.x * broad - margin) * width / w, (p.y * tall - margin) * height / h, p.visibility)
                for p in seen.pose_landmarks.landmark
            ]
            inside = seen.segmentation_mask[margin : margin + h, margin : margin + w]
            cells = Image.fromarray(inside).resize(CELLS[::-1], Image.Resampling.BOX)
            return {"size": [width, height], "body": body, "mask": (np.asarray(cells) >= 0.5).astype(int).tolist()}
    return {"size": [width, height], "body": None}


def main():
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what mediapipe prints goes to where errors go
    mediapipe = importlib.import_module("mediapipe")  # no dependency of the package
    how = {"static_image_mode": True, "min_detection_confidence": SURE, "enable_segmentation": True}
    pose = mediapipe.solutions.pose.Pose(**how)

    def say(what):
        said.write(json.dumps(what) + "\n")
        said.flush()

    say({"ready": f"mediapipe {mediapipe.__version__}"})
    for line in sys.stdin:
        try:
            say(look(pose, json.loads(line)))
        except Exception as error:  # Pillow raises many kinds for a broken file
            say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
