"""How StarGAN learns to repaint winter, picture by picture, and what an identity mapping does to colours
-> reidnb/results/stargan_film.npz (samples and losses over time) and stargan_film.csv (what the copies are worth).

    python workflow/stargan_film.py [--steps 600]

Two trainings, six minutes of a core for 600 steps each (what ships had 1,600): as the package trains it, and with one
more term for the generator, which CamStyle takes from CycleGAN: asked for the camera that took the picture, it is to
change nothing.
"""

import argparse
import json
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn

from reidnb.copies import camera_classifier, style_scores
from reidnb.datasets import open_dataset
from reidnb.experiments import run
from reidnb.files import atomic_write
from reidnb.generators import Discriminator, Generator, StarGAN, restyle
from reidnb.generators.descent import SIDES, Film, train_against
from reidnb.generators.stargan import one_step
from reidnb.ledger import RESULTS
from reidnb.runtime import choose_device, circumstances

WORLD, FRAMES = "synthetic_winter", (0, 25, 50, 100, 200, 400, 600, 800, 1200, 1600)
PEOPLE, ASKED = (93, 3), 4  # rows of the queries (a red coat, stripes), and the camera (from 0) to imitate


def train(split, people, plan: StarGAN, identity: float, seed: int = 0):
    """`generators.train_stargan` with an identity mapping of this weight -> generator, frames, history."""
    torch.manual_seed(seed)
    cameras = int(split.camids.max()) + 1
    nets = {"generator": Generator(cameras, plan.width, plan.blocks)}
    nets |= {"critic": Discriminator(cameras, plan.critic_width, split.images.shape[2:])}
    nets = nn.ModuleDict(nets).to(memory_format=torch.channels_last)

    def same(real, took):
        return {"identity": identity * (real - nets["generator"](real, took)).abs().mean()}

    step_of = partial(one_step, nets, split.images, split.camids, plan, more=same if identity else None)
    steps = [step for step in FRAMES if 0 < step <= plan.steps]
    look = Film(
        [step / plan.steps for step in steps],
        people.shape,
        lambda average: restyle(average["generator"].eval(), people, ASKED),
    )
    average, history, film = train_against("StarGAN", nets, SIDES, step_of, plan, seed, None, 25, look)
    history = [{name: value for name, value in line.items() if name != "seconds"} for line in history]
    return average["generator"], {0: people} | dict(zip(steps, film)), history


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
