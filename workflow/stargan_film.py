"""How StarGAN learns to repaint winter, picture by picture, and what an identity mapping does to colours
-> reidnb/results/stargan_film.npz (samples and losses over time) and stargan_film.csv (what the copies are worth).

    python workflow/stargan_film.py [--steps 600]

Two trainings, six minutes of a core: as the package trains it, and with one more term for the generator, which CamStyle
takes from CycleGAN: asked for the camera that took the picture, it is to change nothing.
"""

import argparse
import copy
import json

import numpy as np
import pandas as pd
import torch
from torch import nn

from reidnb.copies import camera_classifier, style_scores
from reidnb.datasets import open_dataset
from reidnb.experiments import run
from reidnb.files import atomic_write
from reidnb.generators import Discriminator, Generator, StarGAN, restyle
from reidnb.generators.stargan import critic_terms, generator_terms, to_pictures
from reidnb.ledger import RESULTS
from reidnb.runtime import choose_device, circumstances

WORLD, FRAMES = "synthetic_winter", (0, 25, 50, 100, 200, 400, 600, 800, 1200, 1600)
PEOPLE, ASKED = (93, 3), 4  # rows of the queries (a red coat, stripes), and the camera (from 0) to imitate


def train(split, people, plan: StarGAN, identity: float, seed: int = 0):
    """`generators.train_stargan` with an identity mapping of this weight -> generator, frames, history."""
    torch.manual_seed(seed)
    cameras, device = int(split.camids.max()) + 1, choose_device("cpu")
    size = split.images.shape[2:]
    nets = {"generator": Generator(cameras, plan.width, plan.blocks)}
    nets |= {"critic": Discriminator(cameras, plan.critic_width, size), "average": copy.deepcopy(nets["generator"])}
    nets = nn.ModuleDict(nets).to(memory_format=torch.channels_last)
    adam = {k: torch.optim.Adam(nets[k].parameters(), plan.lr, (0.5, 0.999)) for k in ("generator", "critic")}
    frames, history, sums = {0: people}, [], {}
    for step in range(plan.steps):
        rng = np.random.default_rng((seed, step))
        for optimizer in adam.values():
            optimizer.param_groups[0]["lr"] = plan.lr * min(1.0, 2 - 2 * step / plan.steps)
        for _ in range(plan.critic):
            chosen = rng.integers(0, len(split), plan.batch)
            real = to_pictures(split.images, chosen, device, rng.random(plan.batch) < 0.5)
            took, asked = torch.as_tensor(split.camids[chosen]), torch.as_tensor(rng.integers(0, cameras, plan.batch))
            mix = torch.as_tensor(rng.random((plan.batch, 1, 1, 1)), dtype=torch.float32)
            terms = critic_terms(nets, real, took, asked, mix, plan)
            descend(adam["critic"], terms)
        painted = generator_terms(nets, real, took, asked, plan)
        if identity:
            painted["identity"] = identity * (real - nets["generator"](real, took)).abs().mean()
        descend(adam["generator"], painted)
        share = min(plan.average, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, new in zip(nets["average"].parameters(), nets["generator"].parameters()):
                kept.lerp_(new, 1 - share)
        for name, cost in {**terms, **painted}.items():
            sums[name] = sums.get(name, 0.0) + float(cost.detach())
        if (step + 1) % 25 == 0:
            history.append({"step": step + 1, **{name: total / 25 for name, total in sums.items()}})
            sums = {}
            print(identity, history[-1], flush=True)
        if step + 1 in FRAMES:
            frames[step + 1] = restyle(nets["average"].eval(), people, ASKED)
    return nets["average"].eval(), frames, history


def descend(optimizer, terms):
    optimizer.zero_grad(set_to_none=True)
    sum(terms.values()).backward()
    optimizer.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    steps = parser.parse_args().steps
    data = open_dataset(WORLD, size=(64, 32))
    people, arrays, painters = data.query.images[list(PEOPLE)], {}, {}
    for name, identity in (("plain", 0.0), ("identity mapping", 10.0)):
        generator, frames, history = train(data.train, people, StarGAN(steps=steps), identity)
        painters[name] = lambda asked, generator=generator: restyle(generator, data.query.images, asked)
        arrays |= {f"{name}/steps": np.array(list(frames)), f"{name}/frames": np.stack(list(frames.values()))}
        arrays[f"{name}/history"] = np.frombuffer(json.dumps(history).encode(), np.uint8)
    atomic_write(RESULTS / "stargan_film.npz", lambda file: np.savez_compressed(file, people=people, **arrays))
    finder = run("baseline", WORLD, profile="full", device="cpu").model()
    found = style_scores(painters, data, camera_classifier(data.train, device="cpu"), finder, "cpu")
    about = {"dataset": WORLD, "steps": steps}
    rows = [about | {"copies": name} | {k: round(v, 4) for k, v in scores.items()} for name, scores in found.items()]
    table = pd.DataFrame([row | circumstances(choose_device("cpu")) for row in rows])
    atomic_write(RESULTS / "stargan_film.csv", lambda file: table.to_csv(file, index=False, lineterminator="\n"))
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
