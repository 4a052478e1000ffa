"""Attributes: stripes answer questions about looks and vote (ALFO), the whole body answers (APR), or only that is
learned (DeepMAR, DeepSAR)."""

from dataclasses import asdict
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reidnb import evaluation, losses
from reidnb.attributes import Questions, attribute_questions
from reidnb.inference import embed
from reidnb.methods.parts import Trial
from reidnb.network import Output
from reidnb.training import Batch
from reidnb.values import Count, Share, Weight, value

RARE = 0.1  # a statement is rare when it is true of less than this share of the training images
KINDS = {"attribute": lambda line: True, "rare": lambda line: line["train_share"] < RARE}
KINDS["common"] = lambda line: not KINDS["rare"](line)


@value
class Attributes:
    """Overlapping stripes (`parts`, `overlap`; one is the whole body) answer a dataset's questions, and learn from the
    loss of their answers: "softmax" (APR), "focal" (ALFO) or "weighted" (DeepMAR), see `losses.attribute_costs`.

    `vote` says whose answer counts, see `losses.voted_loss`: "stripe", "image" or, all alike, "mean". `question` is the
    only one asked; None: all that the dataset answers. With `blind_start` classifiers begin at the best answer without
    looking, see `losses.blind_logits`; else at a half.
    """

    loss: Literal["softmax", "focal", "weighted"] = "softmax"
    parts: Count = 1
    overlap: Share = 0.5
    vote: Literal["stripe", "image", "mean"] = "stripe"
    focal_gamma: Weight = 2.0
    focal_alpha: Share | None = 0.25
    weight: Weight = 1.0
    question: str | None = None
    blind_start: bool = True

    key, gives, needs, outputs = "attribute", ("attribute_logits",), ("attribute_logits",), ("attribute_logits",)
    needs_attributes = True

    def __post_init__(self):
        if self.overlap >= 1:
            raise ValueError(
                f"Attributes: stripes that overlap wholly are one: overlap must be below 1, got {self.overlap}"
            )

    def facts(self, data) -> dict:
        return {"statements": len(self.questions(data).statements)}

    def questions(self, data) -> Questions:
        return attribute_questions(data, self.question and (self.question,))

    def build(self, channels: int, facts: dict) -> nn.Module:
        return AttributeHead(channels, facts["statements"], self.parts, self.overlap)

    def bind(self, data, net: nn.Module) -> "BoundAttributes":
        return BoundAttributes(self, data, net.heads[self.key])

    def __call__(self, output: Output, batch: Batch) -> torch.Tensor:
        raise TypeError("Attributes knows no dataset yet: bind(data, net) gives the term that does")

    def form(self) -> dict:
        return {"form": self.loss, "gamma": self.focal_gamma, "alpha": self.focal_alpha}


class BoundAttributes:
    """Attributes that know the training images' answers, and the head they teach."""

    key, outputs = Attributes.key, Attributes.outputs

    def __init__(self, settings: Attributes, data, head: "AttributeHead"):
        self.settings, self.head, self.questions = settings, head, settings.questions(data)
        self.answers = self.questions.answers(data.train.attributes)
        if settings.blind_start:
            head.begin_at(
                losses.blind_logits(self.questions, settings.loss, settings.focal_gamma, settings.focal_alpha)
            )

    def __call__(self, output: Output, batch: Batch) -> torch.Tensor:
        logits = output.attribute_logits
        answers = torch.as_tensor(self.answers[batch.indices], device=logits.device)
        costs = losses.attribute_costs(logits, answers, self.questions, **self.settings.form())
        return self.settings.weight * losses.voted_loss(*costs, self.settings.vote)

    def finish(self, trial: Trial) -> None:
        """Hold the vote over the training images."""
        how = trial.recipe.flip_test, self.settings
        self.losses, self.votes = vote_stripes(
            trial.net, self.head, trial.data.train.images, self.questions, self.answers, *how, trial.device
        )

    def test(self, query: dict, gallery: dict, trial: Trial) -> dict:
        """Scores by what the network says of people's looks, and how well each statement is recognised."""
        from scipy.special import expit  # slow to import

        said = [self.head.answer(torch.from_numpy(part["attribute_logits"])) for part in (query, gallery)]
        if self.settings.loss == "softmax":
            said = [_log_odds(logits, self.questions) for logits in said]
        said = [logits.numpy() for logits in said]
        scores = evaluation.evaluate_features(*map(expit, said), *trial.data.ids)
        lines = self._statements(said[1], trial.data.gallery.attributes)
        return {
            "scores": {"attributes": scores},
            "numbers": attribute_means(lines),
            "arrays": {"query": said[0], "gallery": said[1], "losses": self.losses, "votes": self.votes},
            "lines": lines,
        }

    def _statements(self, logits, attributes):
        """A dict a statement, as JSON and results/attributes.csv hold it; `stripe` (from 0) is that of the lowest
        loss."""
        asked = self.questions
        found = asdict(evaluation.attribute_scores(logits, asked.answers(attributes), asked.groups))
        stripes = np.repeat(self.losses.argmin(0), [group.stop - group.start for group in asked.groups])
        columns = {"train_share": asked.shares, **found, "stripe": stripes}
        lines = zip(asked.statements, *(values.tolist() for values in columns.values()))
        return [dict(zip(("statement", *columns), line)) for line in lines]


def attribute_means(lines: list[dict]) -> dict[str, float]:
    """Means over statements, and over the rare and the common ones -> columns of results/runs.csv.

    What is true of no training image, or of none in the test, cannot be learned or judged: it is left out.
    """
    judged, means = [line for line in lines if line["train_share"] > 0 and line["share"] > 0], {}
    for score in ("f1", "balanced", "ap") if judged else ():
        for kind, belongs in KINDS.items():
            values = [line[score] for line in judged if belongs(line)]
            means[f"{kind}_{score}"] = float(np.nanmean(values)) if values else float("nan")
    return means


def vote_stripes(
    model: nn.Module,
    head: "AttributeHead",
    images,
    questions: Questions,
    answers,
    flip: bool,
    settings: Attributes,
    device,
) -> tuple[np.ndarray, np.ndarray]:
    """Hold the vote over the training images: which stripe answers which question from now on (ALFO, section 2.3).

    The one with the lowest mean loss is trusted; under vote="mean" all stay so alike. answers (N, K) -> the mean loss
    of each stripe in each question (stripes, M), and the share of the images for which it has the lowest.
    """
    head.to(device)  # before inference mode: `trust` is written below
    logits = embed(model, images, device, flip=flip, compare="attribute_logits")
    costs, asked = losses.attribute_costs(logits, torch.as_tensor(answers), questions, **settings.form())
    count = asked.sum(0).clamp(min=1)
    means = costs.sum(0) / count
    lowest = F.one_hot(costs.argmin(1), costs.shape[1]).transpose(1, 2) * asked[:, None]
    if settings.vote != "mean":
        for group, winner in zip(questions.groups, means.argmin(0).tolist()):
            head.trust[:, group] = 0
            head.trust[winner, group] = 1
    return means.numpy(), (lowest.sum(0) / count).numpy()


def _log_odds(logits, questions):
    """Logits (N, K) whose softmax is a question's answer -> log-odds of the answer's probabilities. A softmax leaves
    its logits open by a constant, different for each image, so that they cannot be compared between images."""
    logits = logits.clone()
    for group in questions.groups:
        if group.stop - group.start > 1:
            log_p = logits[:, group].log_softmax(1)
            logits[:, group] = log_p - torch.log1p(-log_p.exp().clamp(max=1 - 1e-6))
    return logits


# ----------------------------------------------------------------------------------------------------------- the head


def stripe_edges(height: int, parts: int, overlap: float = 0.5) -> torch.Tensor:
    """Tops and bottoms of `parts` stripes of equal height that cover `height` rows and share `overlap` of their own
    height with the next one -> float tensor (parts, 2), in rows.

    ALFO cuts the 7 rows of its map into 6: two rows each, one of them shared, which is an overlap of a half.
    """
    if parts < 1 or not 0 <= overlap < 1:
        raise ValueError(f"wanted at least one stripe and an overlap from 0 to below 1; got {parts!r} and {overlap!r}")
    tall = height / (1 + (parts - 1) * (1 - overlap))
    tops = torch.arange(parts) * tall * (1 - overlap)
    return torch.stack([tops, tops + tall], 1)


def overlapping_pooling(cells: torch.Tensor, parts: int, overlap: float = 0.5) -> torch.Tensor:
    """Map (N, C, h, w) -> (N, parts, C), the mean of each of `stripe_edges`; a row that a stripe cuts counts by what
    it holds of it."""
    rows = torch.arange(cells.shape[2])
    tops, bottoms = stripe_edges(cells.shape[2], parts, overlap).unsqueeze(2).unbind(1)
    held = (torch.minimum(bottoms, rows + 1) - torch.maximum(tops, rows)).clamp(min=0)
    return (held / held.sum(1, keepdim=True)).to(cells) @ cells.mean(3).transpose(1, 2)


class AttributeHead(nn.Module):
    """Map (N, C, h, w) -> "attribute_logits" (N, parts, K) of K statements about a person, by each overlapping stripe.

    One stripe is the whole body: that is APR; several are ALFO. Each stripe has classifiers of its own behind a batch
    norm they share. `trust` (parts, K) says who answers at test: all alike, until the vote is held.
    """

    def __init__(self, channels: int, statements: int, parts: int = 1, overlap: float = 0.5):
        super().__init__()
        self.parts, self.overlap = parts, overlap
        self.norm = nn.BatchNorm1d(channels)
        self.weight = nn.Parameter(0.001 * torch.randn(parts, channels, statements))
        self.bias = nn.Parameter(torch.zeros(parts * statements))  # of one dimension: no weight decay
        self.register_buffer("trust", torch.full((parts, statements), 1 / parts))

    @torch.no_grad()
    def begin_at(self, logits: torch.Tensor) -> None:
        """Let every stripe's answers (K,) begin there."""
        self.bias.copy_(logits.repeat(self.parts))

    def forward(self, output: Output) -> dict[str, torch.Tensor]:
        cells = output.map
        with torch.autocast(cells.device.type, enabled=False):  # log-odds of rare statements need their digits
            stripes = overlapping_pooling(cells.float(), self.parts, self.overlap)
            stripes = self.norm(stripes.flatten(0, 1)).view_as(stripes)
            logits = torch.einsum("npc,pck->npk", stripes, self.weight) + self.bias.view_as(self.trust)
        return {"attribute_logits": logits}

    def answer(self, logits: torch.Tensor) -> torch.Tensor:
        """What the stripes say together: logits (N, parts, K) -> (N, K)."""
        return (logits * self.trust.to(logits)).sum(1)
