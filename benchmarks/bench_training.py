"""One training step (forward, both losses, backward, AdamW), in images a second: float32, bf16, channels last, and with
memory kept (`runtime.keep_memory`), which is what training does.

python benchmarks/bench_training.py            # add --threads 2 for two cores
"""

import contextlib

import numpy as np
from measuring import machine, main, measure, table

STEPS = 4
NETWORKS = {"small": ((64, 32), 64), "lite0": ((128, 64), 64), "resnet18": ((128, 64), 32)}  # size, batch
WAYS = {
    "float32": (False, False, False),
    "float32, channels last": (False, True, False),
    "float32, channels last, memory kept": (False, True, True),
    "bf16": (True, False, False),
    "bf16, channels last": (True, True, False),
    "bf16, channels last, memory kept": (True, True, True),
}


def step(name, bf16, channels_last, kept):
    def case(repeats):
        import torch

        from reidnb.network import build_model
        from reidnb.recipes import RECIPES
        from reidnb.runtime import keep_memory
        from reidnb.training import Batch, evaluate_terms, make_optimizer

        if kept:
            keep_memory()

        torch.manual_seed(0)
        size, batch = NETWORKS[name]
        layout = torch.channels_last if channels_last else torch.contiguous_format
        model = build_model(name, classes=750).to(memory_format=layout).train()
        images = torch.randn(batch, 3, *size).contiguous(memory_format=layout)
        who, recipe = Batch(torch.arange(batch) // 4, np.arange(batch)), RECIPES["baseline"]
        optimizer = make_optimizer(model, recipe)

        def work():
            for _ in range(STEPS):
                with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
                    output = model(images)
                loss = sum(evaluate_terms(recipe.terms, output, who).values())
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

        work()  # the first step also lays out memory
        seconds, memory, _ = measure(work, repeats)
        return {"images/s a core": STEPS * batch / seconds, "MiB": memory}

    return case


CASES = {f"{name}: {way}": step(name, *how) for name in NETWORKS for way, how in WAYS.items()}


def report(found):
    rows = []
    for name, one in found.items():
        network, way = name.split(": ")
        base = found.get(f"{network}: float32", one)["images/s a core"]
        height, width = NETWORKS[network][0]
        rows.append(
            (
                f"{network}, {height} x {width}, batch {NETWORKS[network][1]}",
                way,
                f"{one['images/s a core']:,.0f}",
                f"{one['images/s a core'] / base:.2f} x",
                f"{one['MiB']:.0f} MiB",
            )
        )
    return table(rows, ("training step", "how", "images/s of CPU time", "against float32", "extra memory"))


if __name__ == "__main__":
    found = main(CASES, __doc__)
    if found is not None:
        print(machine())
        print(report(found))
