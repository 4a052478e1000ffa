"""The methods of the papers, a file each. What a recipe is made of is here: heads, loss terms, pictures that join.

A part of a recipe is a small frozen dataclass (`values.value`, or `dataclass(frozen=True)`). All that is asked of a
loss term is that it can be called, and of a head that it can be built; the rest is there for those who need it:

    __call__(output, batch)          a term's value, weighted: a scalar, or several by name
    build(channels, facts)           a head's nn.Module: network.Output -> dict of what it adds
    gives, needs                     names in network.Output that a head adds, and that a term cannot do without
    on                               the one of them that a term works on, where it can be chosen
    key                              what it is called in history, tables and flat names; else its class's name
    pairs                            True: batches must be P x K
    sees_joined                      True: a term is shown the pictures that joined the batch too
    facts(data)                      what `build` has to know of a dataset, as a dict of JSON
    bind(data, net)                  the part itself, once it knows the dataset and the network, before training
    wrap(net, build_like)            a network around the network, as mutual learning has two
    finish(trial)                    what is decided after training
    outputs                          names in network.Output that `test` looks at
    test(query, gallery, trial)      -> dict of "scores", "numbers" and "arrays" by name, and "lines" of a table

A reader's own part lives in a notebook cell, and is used like these: see the exercise at the end of notebook 01.
"""

from reidnb.methods.adaptation import AdaptedTriHard, Branches, CopiesIdentity, TargetStyles, TrainingCopies
from reidnb.methods.attributes import Attributes, overlapping_pooling, stripe_edges
from reidnb.methods.generated import GeneratedPictures, NobodyIdentity, nobodies
from reidnb.methods.identification import Identity, Verification
from reidnb.methods.latent_parts import LatentParts
from reidnb.methods.metric import MSML, Contrastive, ImprovedTriplet, Quadruplet, TriHard, Triplet
from reidnb.methods.mining import Matching, Mined, Remembered, choose_triplets
from reidnb.methods.mutual import Mutual
from reidnb.methods.pose_parts import PoseParts, PoseStreams
from reidnb.methods.reweighting import ReweightedIdentity
from reidnb.methods.siamese_lstm import StripeLSTM
from reidnb.methods.spindle import SpindleRegions, SpindleTree
from reidnb.methods.stripes import LocalTriHard, PartIdentity, Stripes, horizontal_pooling
from reidnb.methods.unit import UnitLength

__all__ = [
    "MSML",
    "AdaptedTriHard",
    "Attributes",
    "Branches",
    "Contrastive",
    "CopiesIdentity",
    "GeneratedPictures",
    "Identity",
    "ImprovedTriplet",
    "LatentParts",
    "LocalTriHard",
    "Matching",
    "Mined",
    "Mutual",
    "NobodyIdentity",
    "PartIdentity",
    "PoseParts",
    "PoseStreams",
    "Quadruplet",
    "Remembered",
    "ReweightedIdentity",
    "SpindleRegions",
    "SpindleTree",
    "StripeLSTM",
    "Stripes",
    "TargetStyles",
    "TrainingCopies",
    "TriHard",
    "Triplet",
    "UnitLength",
    "Verification",
    "choose_triplets",
    "horizontal_pooling",
    "nobodies",
    "overlapping_pooling",
    "stripe_edges",
]
