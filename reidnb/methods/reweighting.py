"""APR's attribute re-weighting module: what is said of looks corrects itself, and then helps to say who it is."""

from collections.abc import Sequence

import torch
from torch import nn

from reidnb import losses
from reidnb.attributes import attribute_questions
from reidnb.network import Output
from reidnb.training import Batch
from reidnb.values import Share, Weight, value


def probabilities(logits: torch.Tensor, groups: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Logits (N, K) of statements -> how likely each is (N, K): a softmax over a question's several statements, a
    sigmoid where it has one. groups: (start, stop) of each question, 0..K-1 in order."""
    parts = [logits[:, start:stop] for start, stop in groups]
    return torch.cat([part.softmax(1) if part.shape[1] > 1 else part.sigmoid() for part in parts], 1)


@value
class ReweightedIdentity:
    """Identification by a feature and re-weighted attributes together (APR, Lin et al., 2019, eq. 3-5): the
    cross-entropy over the training people, with label smoothing. It stands behind `Attributes`, whose answers it reads,
    and in place of `Identity`. "reweighted" (N, C + K) is what the classifier sees, and what they compare at test.
    """

    weight: Weight = 1.0
    smoothing: Share = 0.1

    key, gives = "reweighted", ("reweighted", "reweighted_logits")
    needs, needs_attributes = ("attribute_logits", "reweighted_logits"), True

    def facts(self, data) -> dict:
        return {"groups": [[group.start, group.stop] for group in attribute_questions(data).groups]}

    def build(self, channels: int, facts: dict) -> nn.Module:
        return Reweighting(facts["values"], facts["classes"], facts["groups"])

    def __call__(self, output: Output, batch: Batch) -> torch.Tensor:
        return self.weight * losses.cross_entropy(output.reweighted_logits, batch.labels, self.smoothing)


class Reweighting(nn.Module):
    """Embedding (N, C) and "attribute_logits" (N, n, K) -> "reweighted" (N, C + K) and "reweighted_logits".

    The answers p (K,), probabilities, decide together how far each is to be trusted, sigmoid(V p + b), and are
    multiplied by that (eq. 3 and 4): a skirt may speak against "short hair". Behind the feature they are classified
    with it. Of several stripes the mean answers.
    """

    def __init__(self, channels: int, classes: int, groups: Sequence[tuple[int, int]]):
        super().__init__()
        self.groups = [tuple(group) for group in groups]
        statements = self.groups[-1][1]
        self.trust = nn.Linear(statements, statements)
        self.classifier = nn.Linear(channels + statements, classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, output: Output) -> dict[str, torch.Tensor]:
        if "attribute_logits" not in output:
            raise ValueError("re-weighting needs attribute_logits: put Attributes() before ReweightedIdentity()")
        if (asked := output.attribute_logits.shape[-1]) != self.groups[-1][1]:
            raise ValueError(
                f"re-weighting hears all {self.groups[-1][1]} statements of a dataset, and Attributes asks for {asked} "
                "of them: leave out its question"
            )
        with torch.autocast(output.embedding.device.type, enabled=False):
            said = probabilities(output.attribute_logits.float().mean(1), self.groups)
            said = self.trust(said).sigmoid() * said
            both = torch.cat([output.embedding.float(), said], 1)
            return {"reweighted": both, "reweighted_logits": self.classifier(both)}
