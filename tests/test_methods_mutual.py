"""Mutual learning: two students see one batch, learn their own terms and what the other says."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from toys import (
    LABELS,
    TOY,
    aligned,
    apart,
    check,
    coloured_people,
    hardest,
    kl,
    mean_hinge,
    network_of,
    pictures,
    smoothed,
    terms_of,
    tiny_output,
)

from reidnb import evaluation, inference
from reidnb.losses import class_mutual_loss, metric_mutual_loss
from reidnb.methods import (
    MSML,
    Attributes,
    Contrastive,
    Identity,
    ImprovedTriplet,
    LocalTriHard,
    Mutual,
    PartIdentity,
    Quadruplet,
    Remembered,
    Stripes,
    TriHard,
    Triplet,
)
from reidnb.methods.mutual import Students
from reidnb.methods.parts import Trial
from reidnb.network import build_model
from reidnb.recipes import Recipe, recipe
from reidnb.training import HISTORY, train


def students_of(plan, seed=0):
    """Two networks of a recipe: the first its own, the second's backbone the recipe's peer."""
    (mutual,) = plan.losses
    return mutual.wrap(network_of(plan, seed), lambda name: network_of(replace(plan, model=name), seed))


def two_students():
    torch.manual_seed(0)
    return Students(*(build_model(name, 5, heads=(Stripes(4),)) for name in ("small", "small_xception")))


def same_output(one, other):
    for name in ("features", "embedding", "logits", "map", "local"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name))


def test_students_in_training_see_the_same_batch():
    students = two_students().train()
    alone = copy.deepcopy(students)  # its running means move by themselves
    output = students(pictures(4))
    assert "peer" not in output.peer
    same_output(output, alone.first(pictures(4)))
    same_output(output.peer, alone.second(pictures(4)))
    assert (output.features - output.peer.features).abs().max() > 0.1, "they are two"


def test_each_student_remembers_its_own_features():
    inner = (Identity(), Remembered(last=8, weight=0.5))
    plan = replace(TOY, losses=(Mutual(inner, peer="small_xception"),))
    students = students_of(plan).train()
    term, batch = plan.losses[0].bind(None, students), SimpleNamespace(labels=LABELS, indices=torch.arange(len(LABELS)))
    output = students(pictures(len(LABELS)))
    term(output, batch)
    for student, said in ((students.first, output), (students.second, output.peer)):
        memory = student.heads["mined"]
        torch.testing.assert_close(memory.features, said.features.detach()[-8:])
        assert memory.labels.tolist() == LABELS.tolist()[-8:]


def test_after_training_the_first_student_stands_for_itself():
    students = two_students().eval()
    students.second.forward = None  # not even asked
    output = students(pictures())
    assert "peer" not in output
    same_output(output, students.first(pictures()))


MUTUAL = [("baseline_mc", None), ("baseline_mm", None), ("aligned_mc", aligned), ("aligned_mm", aligned)]


@pytest.mark.parametrize("name, distances", MUTUAL)
def test_the_terms_of_two_students(name, distances):
    """Every term of a student alone is the sum of both students'; KL goes both ways, distances are drawn together."""
    plan, students = recipe(name), [tiny_output(5), tiny_output(6)]
    expected = {
        "identity": sum(smoothed(s.logits, LABELS) for s in students),
        "trihard": sum(mean_hinge(apart(s), hardest(apart(s))) for s in students),
    }
    if distances:
        expected["local"] = 0.3 * sum(mean_hinge(distances(s), hardest(apart(s))) for s in students)
    one, other = students
    expected["class_mutual"] = kl(one.logits, other.logits) + kl(other.logits, one.logits)
    if plan.losses[0].metric_mutual:
        squares = [(x - y) ** 2 for rows in zip(apart(one), apart(other)) for x, y in zip(*rows)]
        expected["metric_mutual"] = 0.1 * 2 * sum(squares) / 8**2
    check(tiny_output(5, peer=other), plan, expected)


INNER = [
    (Identity(),),
    (TriHard(),),
    (Contrastive(),),
    (Triplet(),),
    (ImprovedTriplet(),),
    (Quadruplet(),),
    (MSML(),),
    (PartIdentity(),),
    (LocalTriHard("rigid"),),
    (Identity(), PartIdentity(), Quadruplet()),
]


@pytest.mark.parametrize("inner", INNER, ids=lambda inner: "+".join(type(term).__name__ for term in inner))
def test_the_sum_of_both_students_is_that_of_each_alone(inner):
    """Of every term, also those that no recipe joins with a peer yet."""
    heads = (Stripes(4, classifiers=True),)
    plan = Recipe("both", heads=heads, losses=(Mutual(inner, class_mutual=0.5),))
    alone = Recipe("alone", heads=heads, losses=inner)
    one, other = tiny_output(5), tiny_output(6)
    sums = {k: (v + terms_of(alone, other)[k]).item() for k, v in terms_of(alone, one).items()}
    learned = {"class_mutual": 0.5 * (kl(one.logits, other.logits) + kl(other.logits, one.logits))}
    terms = check(tiny_output(5, peer=other), plan, sums | learned)
    assert set(terms) == set(terms_of(alone, one)) | {"class_mutual"}


@pytest.mark.parametrize("zero_gradient", [True, False])
def test_each_student_learns_its_own_terms_and_what_the_other_says(zero_gradient):
    """A student's gradient: its own terms', KL(other || own), and half or all of a pull on its distances."""
    plan, alone_plan = recipe("aligned_mm", zero_gradient=zero_gradient), recipe("aligned")
    other = tiny_output(6)
    one = tiny_output(5, peer=other)
    sum(terms_of(plan, one).values()).backward()
    for own, peer, seed in ((one, other, 5), (other, one, 6)):
        alone = tiny_output(seed)
        loss = sum(terms_of(alone_plan, alone).values()) + class_mutual_loss(alone.logits, peer.logits)
        pull = 0.1 * metric_mutual_loss(alone.features, peer.features.detach())
        (loss + pull * (1 if zero_gradient else 2)).backward()
        for name in ("features", "logits", "local"):
            ours, expected = getattr(own, name).grad, getattr(alone, name).grad
            assert expected.abs().max() > 1e-3
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)  # float32, summed in another order


@pytest.mark.parametrize(
    ("mutual", "terms"),
    [
        (Mutual((), class_mutual=1.0), {"class_mutual"}),
        (Mutual((), class_mutual=0.0, metric_mutual=1.0), {"metric_mutual"}),
        (
            Mutual((Identity(), LocalTriHard("aligned")), class_mutual=1.0, metric_mutual=0.1),
            {"identity", "trihard", "local", "class_mutual", "metric_mutual"},
        ),
    ],
    ids=["classes", "distances", "all"],
)
def test_two_students_both_move(mutual, terms):
    """A step of the whole loop, also where one learns from nothing but the other."""
    images, labels = coloured_people(each=2)
    plan = replace(TOY, p=12, k=2, epochs=1, warmup=0.0, losses=(mutual,), heads=(Stripes(4),))
    students, start = (students_of(plan) for _ in range(2))
    (line,) = train(students, images, labels, plan, device="cpu")
    assert terms == set(line) - set(HISTORY) and line["loss"] == pytest.approx(sum(line[t] for t in terms), rel=1e-4)
    for student, before in ((students.first, start.first), (students.second, start.second)):
        kept = dict(before.named_parameters())
        moved = {name for name, value in student.named_parameters() if not torch.equal(value, kept[name])}
        assert "backbone.stem.0.weight" in moved
        assert ("classifier.weight" in moved) == ("class_mutual" in terms)
        assert ("heads.stripes.reduce.weight" in moved) == ("local" in terms)


@pytest.mark.parametrize("inner", [(Identity(), term) for (term,) in INNER[1:7]], ids=lambda inner: inner[1].key)
def test_mutual_learning_with_each_metric_loss_trains_both(inner):
    images, labels = coloured_people(each=2)
    plan = replace(TOY, p=12, k=2, epochs=1, warmup=0.0, losses=(Mutual(inner, metric_mutual=0.1),))
    students = students_of(plan)
    start = [parameter.clone() for parameter in students.second.backbone.parameters()]
    (line,) = train(students, images, labels, plan, device="cpu")
    assert {"identity", inner[1].key, "class_mutual", "metric_mutual"} == set(line) - set(HISTORY)
    assert not any(torch.equal(a, b) for a, b in zip(start, students.second.backbone.parameters()) if a.ndim > 1)


def test_batches_hold_pairs_where_an_inner_term_compares():
    assert recipe("baseline_mc").needs_pairs and Recipe("m", losses=(Mutual((TriHard(),)),)).needs_pairs
    assert not Recipe("m", losses=(Mutual((Identity(),)),)).needs_pairs
    assert Recipe("m", losses=(Mutual((Attributes(),)),)).needs_attributes


def test_an_inner_term_is_told_of_the_data_for_both_students():
    """Each student's head begins where it is told; the term that trains knows the first's."""
    told = []

    class Bound:
        pairs = False

        def bind(self, data, net):
            told.append((data, net))
            return self

        def __call__(self, output, batch):
            return output.features.sum()

    students = Students(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    mutual = Mutual((Bound(),))
    assert mutual.bind("data", students).inner == mutual.inner
    assert told == [("data", students.second), ("data", students.first)]


def test_the_second_students_scores():
    data = SimpleNamespace(query=SimpleNamespace(images=coloured_people(1, 6, 2)[0]))
    data.gallery = SimpleNamespace(images=coloured_people(2, 6, 3)[0])
    data.ids = [torch.arange(1, 7).repeat_interleave(n).numpy() for n in (2, 3)]
    data.ids += [0 * data.ids[0], 0 * data.ids[1] + 1]
    plan = replace(TOY, losses=(Mutual((Identity(),)),), compare="features", flip_test=False)
    students = students_of(plan)
    found = plan.losses[0].test({}, {}, Trial(plan, data, students, torch.device("cpu")))["scores"]
    images = data.query.images, data.gallery.images
    theirs = (inference.embed(students.second, some, "cpu", flip=False, compare="features") for some in images)
    assert set(found) == {"peer"} and found["peer"].mAP == evaluation.evaluate_features(*theirs, *data.ids).mAP
