"""Every picture of the notebooks: functions of arrays that return a matplotlib Figure.

One palette throughout: green is right, red is wrong, blue is the query or the subject, grey is everybody else.
"""

from reidnb.plots.attributes import attribute_cards, cooccurrence, stripes_and_votes
from reidnb.plots.curves import cmc_curves, distance_histogram, histories, seed_dots, training_curves
from reidnb.plots.domains import domain_maps, style_grid
from reidnb.plots.forces import filmstrip, forces
from reidnb.plots.look import BLUE, GREEN, GREY, ORANGE, RED, save, style, to_png
from reidnb.plots.people import people_grid, picture_row, rankings, triplet_rows
from reidnb.plots.stripes import aligned_pair, alignments, rigid_pairs, stripe_maps

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "RED",
    "aligned_pair",
    "alignments",
    "attribute_cards",
    "cmc_curves",
    "cooccurrence",
    "distance_histogram",
    "domain_maps",
    "filmstrip",
    "forces",
    "histories",
    "people_grid",
    "picture_row",
    "rankings",
    "rigid_pairs",
    "save",
    "seed_dots",
    "stripe_maps",
    "style_grid",
    "stripes_and_votes",
    "style",
    "to_png",
    "training_curves",
    "triplet_rows",
]
