"""Networks that paint pictures: their loops, and how what they learned and painted is kept."""

from reidnb.generators.camera_pairs import all_pair_styles, load_or_train_pairs, repaint
from reidnb.generators.dcgan import DCGAN, Critic, NoiseGenerator, imagine, load_or_train_dcgan, train_dcgan
from reidnb.generators.keeping import Kept
from reidnb.generators.pngan import PNGAN, PoseGenerator, fuse, load_or_train_pngan, paint, train_pngan
from reidnb.generators.poses import canonical_poses, draw_poses
from reidnb.generators.ptgan import PTGAN, Mover, PatchCritic, load_or_train_ptgan, move, person_difference, train_ptgan
from reidnb.generators.stargan import Discriminator, Generator, StarGAN, gradient_penalty, restyle, train_stargan
from reidnb.generators.styles import all_styles, load_or_train_generator, shipped_painters, styles_fingerprint
from reidnb.generators.worth import diversity, frechet_distance, nearest_training

__all__ = [
    "DCGAN",
    "PNGAN",
    "PTGAN",
    "Critic",
    "Discriminator",
    "Generator",
    "Kept",
    "Mover",
    "NoiseGenerator",
    "PatchCritic",
    "PoseGenerator",
    "StarGAN",
    "all_pair_styles",
    "all_styles",
    "canonical_poses",
    "diversity",
    "draw_poses",
    "frechet_distance",
    "fuse",
    "gradient_penalty",
    "imagine",
    "load_or_train_dcgan",
    "load_or_train_generator",
    "load_or_train_pairs",
    "load_or_train_pngan",
    "load_or_train_ptgan",
    "move",
    "nearest_training",
    "paint",
    "person_difference",
    "repaint",
    "restyle",
    "shipped_painters",
    "styles_fingerprint",
    "train_dcgan",
    "train_pngan",
    "train_ptgan",
    "train_stargan",
]
