"""CamStyle's painter as published (Zhong et al., 2018): a CycleGAN for each pair of cameras.

    painters = load_or_train_pairs(split, "synthetic_winter")      # {(0, 1): two networks, (0, 2): ...}
    copies = repaint(painters, split.images[:8], split.camids[:8], 3)      # uint8 in, uint8 out

Where StarGAN has one network for all C cameras, this has C (C - 1), and each learns from two cameras' pictures alone.
"""

import itertools
from collections.abc import Mapping

import numpy as np
from torch import nn

from reidnb.batches import Styled
from reidnb.files import digest
from reidnb.generators.keeping import Kept, load_or_train
from reidnb.generators.ptgan import PTGAN, Mover, move, train_both
from reidnb.generators.styles import kept_copies
from reidnb.runtime import choose_device
from reidnb.sources import source_of

PLAN = PTGAN(person=0.0, same=0.0)  # plain CycleGAN: CamStyle's identity mapping costs here (camera_pair.csv)
Pairs = Mapping[tuple[int, int], Kept]  # (here, there), here the smaller: generators "forth" to there and "back"


def load_or_train_pairs(
    split, name: str, options: dict | None = None, plan: PTGAN | None = None, seed: int = 0, device=None
) -> Pairs:
    """The painters of every pair of cameras of a training split, kept from an earlier call or trained now (about a
    minute a pair on one core); each is kept as it is done, so that a kill costs one of them at most.

    name, options: of the dataset, as `open_dataset` takes them. ValueError for fewer than two cameras.
    """
    cameras = np.unique(split.camids).tolist()
    if len(cameras) < 2:
        raise ValueError(f"pictures of one camera alone have no other style to learn; {name} has cameras {cameras}")
    plan, found = plan or PLAN, {}
    for pair in itertools.combinations(cameras, 2):
        here, there = (split.select(split.camids == camera) for camera in pair)

        def train(checkpoint, here=here, there=there):
            both, history, film = train_both(here, there, plan, seed, device, checkpoint)
            return both, history, {"film": film}

        about = f"{name}-{pair[0]}-{pair[1]}", options, plan, seed, [here.images, there.images]
        found[pair] = load_or_train("cyclegan", *about, train, lambda: _both(plan), source_of(train_both), device)
    return found


def repaint(
    painters: Pairs, images: np.ndarray, camids: np.ndarray, cameras: np.ndarray | int, share: float = 1.0
) -> np.ndarray:
    """Images uint8 (N, 3, H, W) that cameras `camids` (N,) took, as others would have taken them, one for all or one
    each (N,) -> uint8, as many; a camera's own stay as they are. share: how far of the way from a picture to its copy;
    a tenth less keeps more of the person than it loses of the camera (styles.csv). ValueError for a camera that no
    painter knows, and a share that is none."""
    if not 0 <= share <= 1:
        raise ValueError(f"share is how far of the way a copy goes, 0 to 1; got {share!r}")
    took, asked, out = np.asarray(camids), np.broadcast_to(cameras, len(images)), np.array(images)
    for own, camera in sorted(set(zip(took.tolist(), asked.tolist()))):
        pair = min(own, camera), max(own, camera)
        if own == camera:
            continue
        if pair not in painters:
            raise ValueError(f"no painter knows cameras {pair[0]} and {pair[1]}; there are {sorted(painters)}")
        chosen = (took == own) & (asked == camera)
        out[chosen] = move(painters[pair].generator["forth" if own < camera else "back"], images[chosen])
    return out if share == 1 else np.rint(share * out + (1 - share) * images.astype(np.float32)).astype(np.uint8)


def all_pair_styles(split, painters: Pairs, device=None) -> Styled:
    """Every picture of a split in the style of every camera -> batches.Styled, painted once and kept."""
    nets = [painters[pair].generator.to(choose_device(device)) for pair in sorted(painters)]
    weights = [values.detach().cpu().numpy() for net in nets for values in net.state_dict().values()]
    cameras = max(map(max, painters)) + 1
    return kept_copies(
        split, cameras, lambda camera: repaint(painters, split.images, split.camids, camera), digest(*weights)
    )


def _both(plan):
    return nn.ModuleDict({name: Mover(plan.width, plan.blocks) for name in ("forth", "back")})
