"""Every picture of the notebooks: functions of arrays that return a matplotlib Figure.

One palette throughout: green is right, red is wrong, blue is the query or the subject, grey is everybody else; and
beside each colour stands a second mark (a tick, a cross, a shape, a dash) for eyes that do not tell colours apart.
`page` puts a picture and its dials into one page; the game of AlignedReID's section 5 is `reidnb.plots.game`. These two
alone need ipywidgets.
"""

from reidnb.plots.bars import before_and_after
from reidnb.plots.curves import (
    camera_heat,
    claim_bars,
    claim_seeds,
    cmc_curves,
    cooccurrence,
    distance_histogram,
    histories,
    paper_and_ours,
    seed_dots,
    training_curves,
)
from reidnb.plots.diagrams import diagram, gain_intervals
from reidnb.plots.figures import BLUE, GREEN, GREY, ORANGE, RED, save, series_look, style, to_png
from reidnb.plots.maps import (
    domain_maps,
    embedding_map,
    filmstrip,
    forces,
    picture_map,
    plane,
    weights_by_distance,
)
from reidnb.plots.pictures import (
    attribute_cards,
    mistakes,
    people_grid,
    picture_grid,
    picture_row,
    rankings,
    sensitivity,
    show_person,
    style_grid,
    triplet_rows,
)
from reidnb.plots.poses import parts_over, skeletons
from reidnb.plots.stripes import aligned_pair, alignments, rigid_pairs, stripe_maps, stripes_and_votes
from reidnb.plots.tracklets import film_strips, flow_colours, flow_grid
from reidnb.plots.widgets import page

__all__ = [
    "BLUE", "GREEN", "GREY", "ORANGE", "RED", "aligned_pair", "alignments", "attribute_cards", "before_and_after",
    "camera_heat", "claim_bars", "claim_seeds", "cmc_curves", "cooccurrence", "diagram", "distance_histogram",
    "domain_maps", "embedding_map", "film_strips", "filmstrip", "flow_colours",
    "flow_grid", "forces", "gain_intervals", "histories", "mistakes",
    "page",
    "paper_and_ours", "parts_over", "people_grid", "picture_grid", "picture_map", "picture_row", "plane", "rankings",
    "rigid_pairs", "save", "seed_dots", "sensitivity", "series_look", "show_person", "skeletons", "stripe_maps",
    "stripes_and_votes", "style", "style_grid", "to_png", "training_curves", "triplet_rows", "weights_by_distance",
]  # fmt: skip
