"""Networks that paint pictures: their loops, and how what they learned and painted is kept."""

from reidnb.generators.stargan import Discriminator, Generator, StarGAN, gradient_penalty, restyle, train_stargan
from reidnb.generators.styles import Painter, all_styles, load_or_train_generator, shipped_painters, styles_fingerprint

__all__ = [
    "Discriminator",
    "Generator",
    "Painter",
    "StarGAN",
    "all_styles",
    "gradient_penalty",
    "load_or_train_generator",
    "restyle",
    "shipped_painters",
    "styles_fingerprint",
    "train_stargan",
]
