"""What every notebook does first, in one call."""

import logging
import sys
import warnings

from reidnb import plots
from reidnb.experiments import check_parameters


def setup(profile: str, dataset: str, seed: int, device: str) -> None:
    """Check a notebook's parameters (ValueError for what cannot be meant), set the look of figures, and let training
    say how it goes: a line an epoch where nobody watches a bar, warnings without their place in the code."""
    check_parameters(profile, dataset, seed, device)
    plots.style()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    warnings.formatwarning = lambda message, *about, **more: f"{message}\n"
