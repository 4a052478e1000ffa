"""How good is a ranking?  Distances, CMC, mAP, mINP and re-ranking for person re-identification.

The protocol is Market-1501's (Zheng et al., 2015).  For each query the gallery is sorted by distance; then

* gallery images of the query's own identity *and* camera are ignored (finding them is too easy),
* gallery images with pid -1 ("junk": badly cut boxes) are ignored for every query,
* gallery images with pid 0 ("distractors") stay and always count as wrong,
* queries without any match left are left out of every mean.

Exact and approximate search in galleries that outgrow a matrix stands beside it, in `reidnb.evaluation.search`, which
needs faiss. This folder depends on nothing else of reidnb: numpy, torch, scipy and scikit-learn are enough to use it
elsewhere.
"""

from reidnb.evaluation.attributes import AttributeScores, attribute_scores, decide
from reidnb.evaluation.cameras import evaluate_cameras, valid_gallery
from reidnb.evaluation.distances import euclidean_distances
from reidnb.evaluation.queries import multi_query_features
from reidnb.evaluation.reranking import rerank
from reidnb.evaluation.scores import Scores, evaluate, evaluate_features
from reidnb.evaluation.verification import PairScores, verify_features

__all__ = [
    "AttributeScores",
    "PairScores",
    "Scores",
    "attribute_scores",
    "decide",
    "euclidean_distances",
    "evaluate",
    "evaluate_cameras",
    "evaluate_features",
    "multi_query_features",
    "rerank",
    "valid_gallery",
    "verify_features",
]
