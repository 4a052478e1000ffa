"""reidnb: person re-identification taught and reproduced in notebooks."""

__version__ = "0.6.2"
