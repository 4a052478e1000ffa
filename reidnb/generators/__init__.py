"""Networks that paint pictures: their loops, and how what they learned and painted is kept."""

from reidnb.generators.dcgan import DCGAN, Critic, NoiseGenerator, imagine, load_or_train_dcgan, train_dcgan
from reidnb.generators.keeping import Kept
from reidnb.generators.ptgan import (
    PTGAN,
    Mover,
    PatchCritic,
    load_or_train_ptgan,
    move,
    person_difference,
    train_ptgan,
)
from reidnb.generators.stargan import Discriminator, Generator, StarGAN, gradient_penalty, restyle, train_stargan
from reidnb.generators.styles import Painter, all_styles, load_or_train_generator, shipped_painters, styles_fingerprint
from reidnb.generators.worth import diversity, frechet_distance, nearest_training

__all__ = [
    "DCGAN",
    "PTGAN",
    "Critic",
    "Discriminator",
    "Generator",
    "Kept",
    "Mover",
    "NoiseGenerator",
    "Painter",
    "PatchCritic",
    "StarGAN",
    "all_styles",
    "diversity",
    "frechet_distance",
    "gradient_penalty",
    "imagine",
    "load_or_train_dcgan",
    "load_or_train_generator",
    "load_or_train_ptgan",
    "move",
    "nearest_training",
    "person_difference",
    "restyle",
    "shipped_painters",
    "styles_fingerprint",
    "train_dcgan",
    "train_ptgan",
    "train_stargan",
]
