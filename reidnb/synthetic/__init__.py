"""The built-in world: pedestrians drawn by rule, with the ground truth that photographs never come with.

Read the rooms in this order: `people` (who walks there), `world` (where, when and how badly each is seen),
`brush` and `figure` (how a body is drawn), `scene` and `picture` (how a camera sees it).

>>> from reidnb import synthetic
>>> world = synthetic.make_world(seed=0)
>>> drawing = synthetic.draw(world, world.shots["query"][0])
>>> drawing.image.shape
(128, 64, 3)
"""

from reidnb.synthetic.brush import PARTS
from reidnb.synthetic.figure import KEYPOINTS
from reidnb.synthetic.people import ATTRIBUTES, Person, shape_of
from reidnb.synthetic.picture import Drawing, draw, write_market1501
from reidnb.synthetic.world import Camera, Dials, Shot, World, attributes, file_name, make_world

__all__ = [
    "ATTRIBUTES",
    "KEYPOINTS",
    "PARTS",
    "Camera",
    "Dials",
    "Drawing",
    "Person",
    "Shot",
    "World",
    "attributes",
    "draw",
    "file_name",
    "make_world",
    "shape_of",
    "write_market1501",
]
