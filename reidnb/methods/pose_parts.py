"""Pose parts at work in a recipe: parts of the body join a batch as pictures of their own, each kind with a neck and a
classifier (GLAD; PIE's two streams), and stand beside the whole at the test.

Parts are cut from the pictures as they are kept, before anything is varied: so a mirrored or shifted picture never
meets key points that know nothing of it.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reidnb import evaluation, inference, losses
from reidnb.methods.keypoints import check_points, find_points, kept_pose_network, noisy_keypoints
from reidnb.methods.parts import Trial
from reidnb.methods.pose import GLAD, cut, glad_parts, posebox
from reidnb.network import Output
from reidnb.synthetic import KEYPOINTS
from reidnb.training import Batch
from reidnb.values import Count, Share, Weight, Within, value

CHUNK = 512  # pictures that are cut at a time


@value
class PoseParts:
    """Parts of the pictures of a batch, which join it. `boxes`: GLAD's three, or one upright PoseBox. `points`: where
    the body is: "true" (the dataset's), "network" (a small one trained on the training pictures) or "mean" (one average
    body for all, so rigid parts). `keypoint_noise`, 0 to 2: what spoils them (`keypoints.noisy_keypoints`)."""

    boxes: Literal["glad", "posebox1", "posebox2", "posebox3"] = "glad"
    points: Literal["true", "network", "mean"] = "true"
    keypoint_noise: Annotated[float, Within(0, 2)] = 0.0

    needs_target = False

    @property
    def parts(self) -> int:
        """How many parts a picture has."""
        return len(GLAD) if self.boxes == "glad" else 1

    def bind(self, recipe: str, data, device: torch.device) -> Callable:
        cuts, _ = self.cut(data, "train")

        def pictures(indices, labels, rng):
            """The parts of all pictures, one kind after the other."""
            return cuts[indices].swapaxes(0, 1).reshape(-1, *cuts.shape[2:]), np.tile(labels[indices], cuts.shape[1])

        return pictures

    def where(self, data, split: str) -> np.ndarray:
        """Key points (N, 14, 3) of a split's pictures, as `points` and `keypoint_noise` have them."""
        part, size = getattr(data, split), data.train.images.shape[2:]
        who = f"{self.boxes} with points={self.points!r}"
        if self.points == "network":
            check_points(data.train.keypoints, len(data.train), who)
            points = find_points(kept_pose_network(data), part.images)
        elif self.points == "mean":
            points = np.broadcast_to(mean_pose(check_points(data.train.keypoints, None, who)), (len(part), 14, 3))
        else:
            points = check_points(part.keypoints, len(part), who)
        number = ("train", "query", "gallery").index(split)
        return noisy_keypoints(points, self.keypoint_noise, size, np.random.default_rng(number))

    def cut(self, data, split: str) -> tuple[np.ndarray, np.ndarray]:
        """The parts of a split's pictures, uint8 (N, P, 3, H, W) at the size of the whole, and how sure each is,
        float32 (N, P): the share of what it is made of that is there. Grey (128) is what nobody saw."""

        def parts_of(pixels, where, size):
            if self.boxes == "glad":
                maps, found = glad_parts(where, size)
                return cut(pixels, maps, size), found.float()
            parts, found = posebox(pixels, where, self.boxes)
            return parts[:, None], found.float().mean(1, keepdim=True)

        return cut_all(getattr(data, split).images, self.where(data, split), self.parts, parts_of)


def cut_all(
    images: np.ndarray, points: np.ndarray, count: int, parts_of: Callable, kind: type = np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """`count` parts of pictures uint8 (N, 3, H, W), some at a time -> uint8 (N, count, 3, H, W), and what is known of
    each, of a `kind` (N, count).

    parts_of(pixels around 0, float32 (n, 3, H, W), points (n, 14, 3), (H, W)) -> parts, as pixels are, what is known.
    """
    cuts, known = np.empty((len(images), count, *images.shape[1:]), np.uint8), np.empty((len(images), count), kind)
    for start in range(0, len(images), CHUNK):
        rows = slice(start, start + CHUNK)
        pixels = torch.from_numpy(images[rows].astype(np.float32)) - 128
        parts, found = parts_of(pixels, torch.tensor(points[rows]), images.shape[2:])
        cuts[rows], known[rows] = (parts + 128).round().clamp(0, 255).byte().numpy(), found.numpy()
    return cuts, known


def mean_pose(points: np.ndarray) -> np.ndarray:
    """Where each point is on average where it is seen, in pixels (14, 3), all of them seen."""
    seen = points[..., 2:] >= 0.5
    place = (points[..., :2] * seen).sum(0) / np.maximum(seen.sum(0), 1)
    return np.concatenate([place, np.ones((len(KEYPOINTS), 1))], 1).astype(np.float32)


@value
class PoseStreams:
    """A stream for the whole and one for each of `parts` kinds of parts that joined the batch, through one network: a
    neck, a classifier and a loss each (GLAD), the parts' in mean. Necks are the streams' own, since the moments of a
    batch of heads are not those of whole pictures. At the test whole and parts stand in a row and count alike."""

    parts: Count = 3
    smoothing: Share = 0.1
    weight: Weight = 1.0

    key, sees_joined, needs = "streams", True, ("stream_logits",)
    gives = ("stream_logits", "whole_embedding", "stream_embedding")

    def build(self, channels: int, facts: dict) -> nn.Module:
        return StreamHead(facts["values"], facts["classes"], self.parts)

    def __call__(self, output: Output, batch: Batch) -> dict[str, torch.Tensor]:
        count = len(batch.indices)
        if len(batch.labels) != count * (1 + self.parts):
            raise ValueError(
                f"PoseStreams has {self.parts} streams, and {len(batch.labels) - count} pictures joined a batch of "
                f"{count}: extra must be PoseParts with as many parts"
            )
        ours, theirs = (
            losses.cross_entropy(output.stream_logits[some], batch.labels[some], self.smoothing)
            for some in (slice(count), slice(count, None))
        )
        return {"whole": ours, "streams": self.weight * theirs}

    def test(self, query: dict, gallery: dict, trial: Trial) -> dict:
        """Scores by the parts alone ("local"), with the whole ("both"), and with each part counting as much as it was
        seen in both pictures ("sure"); and which share of the parts was not seen at all."""
        found, sures = [], []
        for split, whole in (("query", query["whole"]), ("gallery", gallery["whole"])):
            cuts, sure = trial.recipe.extra.cut(trial.data, split)
            said = [
                inference.embed(
                    trial.net, cuts[:, p], trial.device, flip=trial.recipe.flip_test, compare="stream_embedding"
                )[:, p]
                for p in range(self.parts)
            ]
            found.append((whole, torch.stack(said, 1).numpy()))
            sures.append(sure)
        (q, q_parts), (g, g_parts) = found
        local = [part.reshape(len(part), -1) / np.sqrt(self.parts) for part in (q_parts, g_parts)]
        both = [np.concatenate([whole, np.sqrt(self.parts) * part], 1) for whole, part in zip((q, g), local)]
        scores = {
            name: evaluation.evaluate_features(
                *(F.normalize(torch.from_numpy(x)).numpy() for x in pair), *trial.data.ids
            )
            for name, pair in (("local", local), ("both", both))
        }
        scores["sure"] = evaluation.evaluate(sure_distances((q, g), (q_parts, g_parts), sures), *trial.data.ids)
        unseen = 1 - np.concatenate(sures).mean()
        return {"scores": scores, "numbers": {"parts_unseen": float(unseen)}}


def sure_distances(whole, parts, sure) -> np.ndarray:
    """Distances (Q, G) of two pairs of features, the whole (Q, D), (G, D) and parts (Q, P, D), (G, P, D), in which part
    p counts c = sure(q, p) sure(g, p): the root of (d0^2 + sum c d^2) / (1 + sum c)."""
    total, weight = np.square(evaluation.euclidean_distances(*whole)), np.ones((), np.float32)
    for p in range(parts[0].shape[1]):
        counts = sure[0][:, p, None] * sure[1][:, p]
        total = total + counts * np.square(evaluation.euclidean_distances(parts[0][:, p], parts[1][:, p]))
        weight = weight + counts
    return np.sqrt(total / weight)


class StreamHead(nn.Module):
    """Features (M, C) -> in training, where M is a batch and P times as many parts, one kind after the other:
    "stream_logits" (M, classes), the whole's and each kind's by its own neck and classifier. At the test
    "whole_embedding" (M, C), a picture as the whole's neck has it, and "stream_embedding" (M, P, C), as each kind's."""

    def __init__(self, channels: int, classes: int, parts: int):
        super().__init__()
        self.necks = nn.ModuleList(nn.BatchNorm1d(channels) for _ in range(1 + parts))
        self.classifiers = nn.Parameter(0.001 * torch.randn(1 + parts, channels, classes))
        for neck in self.necks:
            neck.bias.requires_grad_(False)

    def forward(self, output: Output) -> dict[str, torch.Tensor]:
        features, kinds = output.features, len(self.necks)
        if not self.training:
            whole, *parts = [neck(features) for neck in self.necks]
            return {"whole_embedding": whole, "stream_embedding": torch.stack(parts, 1)}
        if len(features) % kinds:
            raise ValueError(f"{len(features)} pictures are no batch with {kinds - 1} parts of each picture")
        groups = features.view(kinds, -1, features.shape[1])
        said = [neck(group) @ weight for neck, group, weight in zip(self.necks, groups, self.classifiers)]
        return {"stream_logits": torch.cat(said).float()}
