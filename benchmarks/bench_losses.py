"""Metric losses beside pytorch-metric-learning's nearest form, forward and backward, batches of P x 4 x 2048; and the
focal loss beside torchvision's, of 30 statements by each of 6 stripes.

    python benchmarks/bench_losses.py

Ours and the peer's are timed in turn, call by call, so that a change of the machine's clock meets both. Values must
agree to 1e-4 where the two are the same loss.
"""

import statistics
import sys
import time
import warnings

from measuring import machine, main, table

SIZES, DIMENSIONS, CALLS = (64, 128), 2048, 60
# ours -> (the peer's nearest form, whether it is the same loss)
PAIRS = {
    "contrastive": ("contrastive, squared", False),  # theirs squares no hinge
    "triplet": ("triplet, all", True),
    "improved_triplet": ("triplet, all", False),
    "quadruplet": ("triplet, all", False),
    "trihard": ("triplet, batch hard", True),
    "msml": ("triplet, batch hard", False),
    "focal": ("torchvision's focal", True),
}


def batch(n):
    """P x K features as a network gives them, K = 4 -> features that want a gradient, labels."""
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n // 4).repeat_interleave(4)
    people = torch.randn(n // 4, DIMENSIONS, generator=generator).repeat_interleave(4, 0)
    features = 0.05 * (0.4 * people + torch.randn(n, DIMENSIONS, generator=generator))
    return features.requires_grad_(), labels


def statements(n):
    """Logits (N, 6, 30) that want a gradient, and whether each is true: one in ten."""
    import torch

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, 6, 30, generator=generator) - 2
    return logits.requires_grad_(), (torch.rand(n, 6, 30, generator=generator) < 0.1).float()


def peers():
    """pytorch-metric-learning with plain distances and means over all triplets, the papers' losses; and torchvision."""
    warnings.simplefilter("ignore")
    from pytorch_metric_learning import distances, losses, miners, reducers
    from torchvision.ops import sigmoid_focal_loss

    euclidean = distances.LpDistance(normalize_embeddings=False)
    squared = distances.LpDistance(normalize_embeddings=False, power=2)
    every = losses.TripletMarginLoss(0.3, distance=euclidean, reducer=reducers.MeanReducer())
    hardest = miners.BatchHardMiner(distance=euclidean)
    pairs = losses.ContrastiveLoss(0, 1.0, distance=squared, reducer=reducers.MeanReducer())
    return {
        "contrastive, squared": pairs,
        "triplet, all": every,
        "triplet, batch hard": lambda x, labels: every(x, labels, hardest(x, labels)),
        "torchvision's focal": lambda x, targets: sigmoid_focal_loss(x, targets, 0.25, 2.0, "mean"),
    }


def case(name):
    def run(repeats):
        from reidnb import losses

        ours, (nearest, same) = getattr(losses, f"{name}_loss"), PAIRS[name]
        theirs, said = peers()[nearest], {}
        for n in SIZES:
            x, labels = statements(n) if name == "focal" else batch(n)
            seconds, values = {ours: [], theirs: []}, {}
            for call in range(CALLS * repeats):
                for loss in (ours, theirs):
                    x.grad = None
                    started = time.process_time()
                    value = loss(x, labels)
                    value.backward()
                    if call >= 5:
                        seconds[loss].append(time.process_time() - started)
                    values[loss] = float(value.detach())
            if same and abs(values[ours] - values[theirs]) > 1e-4:
                sys.exit(f"{name}: {values[ours]} here, {values[theirs]} in {nearest}")
            said[f"ours {n}"], said[f"peer {n}"] = (1e3 * statistics.median(s) for s in seconds.values())
        return said

    return run


CASES = {name: case(name) for name in PAIRS}

if __name__ == "__main__" and (said := main(CASES, __doc__)):
    rows = []
    for name, times in said.items():
        row = [name, PAIRS[name][0]]
        for n in SIZES:
            ours, theirs = times.get(f"ours {n}"), times.get(f"peer {n}")
            row += [f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.1f} x"] if ours else ["-", "-", "-"]
        rows.append(row)
    columns = ["loss", "nearest form of the peer"]
    print(machine())
    print(table(rows, columns + [f"{what} {n}" for n in SIZES for what in ("ours, ms", "peer, ms", "ratio")]))
