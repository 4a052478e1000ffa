"""Every picture of the notebooks: functions of arrays that return a matplotlib Figure.

One palette throughout: green is right, red is wrong, blue is the query or the subject, grey is everybody else.
"""

from reidnb.plots.attributes import attribute_cards, cooccurrence, stripes_and_votes
from reidnb.plots.claims import claim_bars, paper_and_ours
from reidnb.plots.curves import cmc_curves, distance_histogram, histories, seed_dots, training_curves
from reidnb.plots.domains import domain_maps, style_grid
from reidnb.plots.failures import camera_heat, mistakes, sensitivity
from reidnb.plots.forces import filmstrip, forces
from reidnb.plots.look import BLUE, GREEN, GREY, ORANGE, RED, save, style, to_png
from reidnb.plots.maps import embedding_map, picture_map, plane
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
    "camera_heat",
    "claim_bars",
    "cmc_curves",
    "cooccurrence",
    "distance_histogram",
    "domain_maps",
    "embedding_map",
    "filmstrip",
    "forces",
    "histories",
    "mistakes",
    "paper_and_ours",
    "people_grid",
    "picture_map",
    "picture_row",
    "plane",
    "rankings",
    "rigid_pairs",
    "save",
    "seed_dots",
    "sensitivity",
    "stripe_maps",
    "stripes_and_votes",
    "style",
    "style_grid",
    "to_png",
    "training_curves",
    "triplet_rows",
]
