"""What a figure is drawn with: materials, and a brush that knows how tall the person is on the canvas.

Nothing here knows a colour: every shape is filled with the number of its material. Colours, part masks, shading and
cloth patterns follow from that one picture of numbers by table look-up, so they agree to the pixel.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw

PARTS = ("background", "head", "hair", "hat", "torso", "arms", "legs", "shoes", "bag", "occluder")

# Each material: its part, whose colour it has (a field of Person), how light it is (256 = as is), how far it stands
# out (for the shading), and whether it is cloth. "_far" is the limb on the far side of the body.
MATERIALS = {
    "nothing": ("background", None, 0, 0, 0),
    "head": ("head", "skin", 256, 150, 0),
    "face": ("head", "skin", 104, 150, 0),
    "cheek": ("head", "skin", 226, 150, 0),
    "neck": ("head", "skin", 216, 110, 0),
    "hair": ("hair", "hair", 256, 170, 0),
    "hair_light": ("hair", "hair", 330, 175, 0),
    "hat": ("hat", "hat", 256, 185, 0),
    "brim": ("hat", "hat", 190, 190, 0),
    "up": ("torso", "up", 256, 120, 1),
    "up_trim": ("torso", "trim", 256, 120, 1),
    "seam": ("torso", "up", 205, 118, 1),
    "logo": ("torso", "trim", 256, 122, 0),
    "scarf": ("torso", "scarf", 256, 150, 1),
    "sleeve": ("arms", "up", 250, 165, 1),
    "sleeve_trim": ("arms", "trim", 250, 165, 1),
    "sleeve_far": ("arms", "up", 205, 70, 1),
    "sleeve_far_trim": ("arms", "trim", 205, 70, 1),
    "arm": ("arms", "skin", 250, 160, 0),
    "arm_far": ("arms", "skin", 205, 70, 0),
    "down": ("legs", "down", 256, 110, 1),
    "down_far": ("legs", "down", 200, 60, 1),
    "crease": ("legs", "down", 216, 108, 1),
    "leg": ("legs", "skin", 250, 105, 0),
    "leg_far": ("legs", "skin", 200, 55, 0),
    "shoe": ("shoes", "shoes", 256, 120, 0),
    "shoe_far": ("shoes", "shoes", 205, 70, 0),
    "backpack": ("bag", "backpack", 256, 170, 1),
    "pocket": ("bag", "backpack", 205, 185, 1),
    "strap": ("bag", "backpack", 225, 150, 0),
    "bag": ("bag", "bag", 256, 190, 1),
    "bag_strap": ("bag", "bag", 215, 150, 0),
    "handbag": ("bag", "handbag", 256, 190, 0),
    "handle": ("bag", "handbag", 190, 175, 0),
}
CODE = {name: code for code, name in enumerate(MATERIALS)}
PATTERNED = np.zeros(256, bool)  # materials that the next number up replaces where the pattern of the cloth says so
PATTERNED[[CODE["up"], CODE["sleeve"], CODE["sleeve_far"]]] = True


@dataclass(frozen=True)
class Brush:
    """Draws in statures: (0, 0) is the ground between the feet, x to the right, y up, 1 the height of the person."""

    canvas: ImageDraw.ImageDraw
    x: float  # of (0, 0) on the canvas
    y: float
    scale: float  # canvas pixels a stature
    base: int = 0  # added to every material number: another figure on the same canvas

    def at(self, point):
        return self.x + self.scale * point[0], self.y - self.scale * point[1]

    def shape(self, material, points):
        self.canvas.polygon([self.at(point) for point in points], fill=self.base + CODE[material])

    def around(self, centre, rx, ry):
        x, y = self.at(centre)
        rx, ry = rx * self.scale, ry * self.scale
        return x - rx, y - ry, x + rx, y + ry

    def blob(self, material, centre, rx, ry):
        self.canvas.ellipse(self.around(centre, rx, ry), fill=self.base + CODE[material])

    def cap(self, material, centre, rx, ry, cut=0.0):
        """The upper half of an ellipse, less `cut` degrees at either end."""
        self.canvas.chord(self.around(centre, rx, ry), 180 + cut, 360 - cut, fill=self.base + CODE[material])

    def line(self, material, points, width):
        self.canvas.line(
            [self.at(point) for point in points],
            fill=self.base + CODE[material],
            width=max(1, round(width * self.scale)),
            joint="curve",
        )

    def limb(self, material, a, b, ra, rb):
        """A tapered limb with round ends from a to b."""
        dx, dy = b[0] - a[0], b[1] - a[1]
        length = math.hypot(dx, dy)
        if length > 1e-6:
            nx, ny = -dy / length, dx / length
            self.shape(
                material,
                (
                    (a[0] + nx * ra, a[1] + ny * ra),
                    (b[0] + nx * rb, b[1] + ny * rb),
                    (b[0] - nx * rb, b[1] - ny * rb),
                    (a[0] - nx * ra, a[1] - ny * ra),
                ),
            )
        self.blob(material, a, ra, ra)
        self.blob(material, b, rb, rb)
