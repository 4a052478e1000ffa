"""The human performance game: the rules, and a page that can be played."""

from types import SimpleNamespace

import numpy as np
import pytest

from reidnb.plots.game import Game, make_round, play


@pytest.fixture
def world():
    """One query of person 1 in camera 0; a gallery of 30: junk, the query's own camera, distractors, and strangers."""
    rng = np.random.default_rng(0)
    pids, camids = np.r_[-1, 1, 0, np.full(24, 2), 1, 1, 3], np.r_[1, 0, 1, np.full(24, 1), 1, 2, 1]
    images = rng.integers(0, 256, (30, 3, 8, 4), dtype=np.uint8)
    query = SimpleNamespace(pids=np.array([1]), camids=np.array([0]), images=images[:1])
    gallery = SimpleNamespace(pids=pids, camids=camids, images=images)
    return query, gallery, np.arange(30, dtype=float)  # distances: junk and the own camera nearest


def test_a_round_puts_the_truth_in_and_leaves_out_what_the_protocol_ignores(world):
    query, gallery, distances = world
    turn = make_round(distances, query, gallery, 0, np.random.default_rng(0))
    assert len(turn.candidates) == len(set(turn.candidates)) == 10
    assert 0 not in turn.candidates and 1 not in turn.candidates, "junk and the own camera"
    assert turn.candidates[turn.right].tolist() == [27], "the nearest right one took the place of the tenth"
    assert 11 not in turn.candidates and set(range(2, 11)) < set(turn.candidates)
    assert turn.candidates[turn.networks] == 2


def test_a_right_one_among_the_nearest_stays_where_it_is(world):
    query, gallery, distances = world
    turn = make_round(30 - distances, query, gallery, 0, np.random.default_rng(0))
    assert set(turn.candidates) == set(range(20, 30)) and set(turn.candidates[turn.right]) == {27, 28}
    assert turn.candidates[turn.networks] == 29, "a stranger lies nearest"


def test_the_order_shown_tells_nothing(world):
    query, gallery, distances = world
    places = [make_round(distances, query, gallery, 0, np.random.default_rng(i)).networks for i in range(200)]
    assert np.bincount(places, minlength=10).min() > 5  # 20 expected; 5 or fewer has a chance below 1e-4 a place


def test_a_query_without_an_answer_is_refused(world):
    query, gallery, distances = world
    gallery.pids[27:29] = 5
    with pytest.raises(ValueError, match="query 0 has no right image"):
        make_round(distances, query, gallery, 0, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"distances": np.zeros(29)}, r"distances must have the shape \(30\), got \(29,\)"),
        ({"distances": np.full(30, np.nan)}, "distances holds 30 NaN"),
    ],
)
def test_a_round_that_cannot_be_made(world, change, said):
    query, gallery, distances = world
    with pytest.raises(ValueError, match=said):
        make_round(**{"distances": distances, "query": query, "gallery": gallery, "q": 0, "rng": None, **change})


def test_a_small_gallery_makes_a_small_round(world):
    query, gallery, distances = world
    few = SimpleNamespace(pids=gallery.pids[[0, 1, 2, 27]], camids=gallery.camids[[0, 1, 2, 27]])
    turn = make_round(distances[[0, 1, 2, 27]], query, few, 0, np.random.default_rng(0))
    assert sorted(turn.candidates) == [2, 3] and turn.candidates[turn.right].tolist() == [3]
    page = play(Game([make_round(distances, query, gallery, 0, np.random.default_rng(0)), turn]), query, gallery)
    row, _, onward = page.widget.children
    candidates = row.children[1]
    assert len(candidates.children) == 10
    candidates.children[0].children[1].click()
    onward.click()
    assert len(candidates.children) == 2, "no picture of the round before is left on the page"


def test_a_game_without_rounds(world):
    query, gallery, _ = world
    with pytest.raises(ValueError, match="a game needs a round"):
        play(Game([]), query, gallery)


def test_the_score(world):
    query, gallery, distances = world
    game = Game([make_round(d, query, gallery, 0, np.random.default_rng(0)) for d in (distances, 30 - distances)])
    assert np.isnan(game.score()).all() and not game.done
    assert game.answer(int(np.argmax(game.rounds[0].right))) and game.score() == (1.0, 0.0)
    assert not game.answer(int(np.argmin(game.rounds[1].right))) and game.score() == (0.5, 0.0)
    assert game.done and not game.answer(0) and len(game.answers) == 2, "after the last round nothing counts"


def test_the_page_can_be_played(world):
    query, gallery, distances = world
    game = Game([make_round(distances, query, gallery, 0, np.random.default_rng(i)) for i in range(2)])
    row, said, onward = play(game, query, gallery).widget.children
    (person, _), candidates = row.children[0].children, row.children[1]
    pictures, buttons = zip(*(box.children for box in candidates.children))
    first = [bytes(picture.value) for picture in pictures]
    assert bytes(person.value).startswith(b"\x89PNG") and len(first) == 10 and "who is" in said.value
    assert {(p.layout.width, p.layout.height) for p in (person, *pictures)} == {("71px", "136px")}
    right = int(np.argmax(game.rounds[0].right))
    buttons[right].click()
    assert "Right!" in said.value and "1 of 2" in said.value and "you 100%" in said.value
    assert "The network took" in said.value and "wrong" in said.value
    assert buttons[right].description == f"✓ {'abcdefghij'[right]}" and "#009a70" in pictures[right].layout.border_top
    buttons[right - 1].click()
    assert len(game.answers) == 1 and not buttons[right - 1].button_style, "a round has one answer"
    onward.click()
    assert [bytes(picture.value) for picture in pictures] != first, "the next round is shown"
    assert [button.description for button in buttons] == list("abcdefghij")
    wrong, right = int(np.argmin(game.rounds[1].right)), int(np.argmax(game.rounds[1].right))
    buttons[wrong].click()
    assert f"Somebody else: it was {'abcdefghij'[right]}." in said.value and "you 50%" in said.value
    assert buttons[wrong].description.startswith("✗") and buttons[right].description.startswith("✓")
    assert onward.disabled, "there is no third round"
    buttons[right].click()
    assert len(game.answers) == 2 and "Somebody else" in said.value


def test_a_played_game_is_shown_with_its_last_answer(world):
    query, gallery, distances = world
    game = Game([make_round(distances, query, gallery, 0, np.random.default_rng(0))])
    game.answer(int(np.argmax(game.rounds[0].right)))
    said = play(game, query, gallery).widget.children[1]
    assert "Right!" in said.value and "1 of 1" in said.value


def test_more_candidates_than_letters(world):
    query, gallery, distances = world
    game = Game([make_round(distances, query, gallery, 0, np.random.default_rng(0), candidates=28)])
    candidates = play(game, query, gallery).widget.children[0].children[1]
    assert [box.children[1].description for box in candidates.children] == [str(i + 1) for i in range(28)]
