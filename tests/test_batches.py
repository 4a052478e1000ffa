"""Batches: who is in them, and every picture against the same draws applied pixel by pixel."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reidnb import batches
from reidnb.batches import (
    MEAN,
    STD,
    Augmentation,
    Styled,
    fakes,
    make_batch,
    pk_batches,
    sample_augmentation,
    shuffled_batches,
    with_copies,
    wrong_labels,
)

EVERYTHING = Augmentation(flip=0.5, pad=0.2, erase=0.6, colour=0.4)
# A pixel goes through two roundings in float32, at values up to about 5: an error of some 5e-7.
ROUNDING = {"rtol": 1e-5, "atol": 2e-6}


def pictures(n=12, height=16, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 3, height, width), dtype=np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


# ---- who is in a batch ----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 23), min_size=2, max_size=9),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(0, 999),
)
@example([1, 40, 1, 2], 2, 4, 0)  # trap 18: one image here, many there
@example([5, 5, 5], 3, 4, 0)
def test_pk_batches(counts, p, k, seed):
    labels = np.repeat(np.arange(10, 10 + len(counts)), counts)
    rng(seed).shuffle(labels)
    p = min(p, len(counts))
    chosen = pk_batches(labels, p, k, rng(seed))
    for batch in chosen:
        assert batch.shape == (p * k,)
        assert sorted(Counter(labels[batch]).values()) == [k] * p, "P distinct identities, K images each"
        groups = labels[batch].reshape(p, k)
        assert (groups == groups[:, :1]).all(), "an identity's images lie together"
    assert set(np.concatenate(chosen)) == set(range(len(labels))), "every image is in it"
    again = pk_batches(labels, p, k, rng(seed))
    assert len(again) == len(chosen) and all((a == b).all() for a, b in zip(chosen, again))


def test_pk_batches_differ_from_pass_to_pass():
    labels = np.repeat(np.arange(6), 8)
    one, two = (np.concatenate(pk_batches(labels, 3, 4, rng(seed))) for seed in (0, 1))
    assert (one != two).any()


def test_trap_17_the_length_is_what_is_yielded():
    """Nothing is yielded that was not counted: on an unbalanced set too, a pass is a plain list."""
    labels = np.repeat([0, 1, 2, 3], [1, 3, 50, 8])
    chosen = pk_batches(labels, 2, 4, rng())
    assert len(chosen) == sum(1 for _ in chosen) == 13, "13 groups of the largest identity, one in each batch"


def test_pk_batches_balanced_pass_is_no_longer_than_needed():
    labels = np.repeat(np.arange(16), 8)
    assert len(pk_batches(labels, 4, 4, rng())) == 8, "128 images in batches of 16"


def test_pk_batches_repeat_an_image_only_where_they_must():
    """Once an identity with five images had one of them twice in a group of four."""
    labels = np.repeat(np.arange(8), 5)
    for seed in range(5):
        for batch in pk_batches(labels, 4, 4, rng(seed)):
            assert len(set(batch)) == len(batch), "five images are enough for four different ones"


@pytest.mark.parametrize("p, k", [(4, 2), (0, 2), (2, 0)])
def test_pk_batches_refuse(p, k):
    with pytest.raises(ValueError, match=r"P x K = .* the labels hold 3"):
        pk_batches([5, 5, 6, 9], p, k, rng())


def test_shuffled_batches():
    labels = np.arange(23)
    chosen = shuffled_batches(labels, 5, rng())
    assert [len(batch) for batch in chosen] == [5] * 5
    flat = np.concatenate(chosen)
    assert sorted(flat[:23]) == list(range(23)) and (flat[23:] == flat[:2]).all(), "all once; the last wraps round"
    assert (np.concatenate(shuffled_batches(labels, 5, rng())) == flat).all()
    assert (np.concatenate(shuffled_batches(labels, 5, rng(1))) != flat).any()


def test_shuffled_batches_larger_than_the_data():
    (batch,) = shuffled_batches(np.zeros(3), 8, rng())
    assert len(batch) == 8 and set(batch) == {0, 1, 2}


@pytest.mark.parametrize("labels, size", [(np.zeros(4), 0), (np.zeros(0), 4)])
def test_shuffled_batches_refuse(labels, size):
    """Once a ZeroDivisionError."""
    with pytest.raises(ValueError):
        shuffled_batches(labels, size, rng())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.floats(0, 1, exclude_max=True), st.integers(0, 999))
def test_wrong_labels(counts, share, seed):
    labels = np.repeat(10 + 3 * np.arange(len(counts)), counts)
    rng(seed).shuffle(labels)
    before = labels.copy()
    wrong = wrong_labels(labels, share, rng(seed))
    assert (wrong != labels).sum() == round(share * len(labels)), "nobody who was drawn keeps the own label"
    assert set(wrong) <= set(labels) and wrong.dtype == labels.dtype, "people who are there"
    assert (wrong == wrong_labels(list(labels), share, rng(seed))).all()
    assert wrong is not labels and not np.shares_memory(wrong, labels) and (labels == before).all(), "a copy"


def test_wrong_labels_are_any_other_with_the_same_chance():
    labels = np.repeat([3, 5, 8, 9], 3000)
    wrong = wrong_labels(labels, 0.5, rng())
    assert (wrong != wrong_labels(labels, 0.5, rng(1))).any()
    for person in (3, 5, 8, 9):
        got = Counter(wrong[labels == person])
        # 3000 draws of a half: 1500 +- 27; of a sixth: 500 +- 20. Five of those.
        assert abs(got.pop(person) - 1500) < 140 and all(abs(count - 500) < 105 for count in got.values())
        assert len(got) == 3


def test_wrong_labels_of_one_person_are_right():
    assert (wrong_labels([7, 7, 7], 0, rng()) == 7).all()


@pytest.mark.parametrize("labels, share", [([1, 2], 1), ([1, 2], -0.1), ([1, 2], 1.5), ([1, 2], np.nan), ([1, 1], 0.5)])
def test_wrong_labels_refuse(labels, share):
    with pytest.raises(ValueError, match=f"share from 0 to 1 .*{share!r}"):
        wrong_labels(labels, share, rng())


# ---- what a batch holds ---------------------------------------------------------------------------------------------


def slow_picture(image, flip, shift, box, gain, offset):
    """One picture by the same draws: mirrored, moved over black, jittered, normalised, a rectangle erased."""
    _, height, width = image.shape
    out = np.zeros((3, height, width))
    top, bottom, left, right = box
    for c in range(3):
        for y in range(height):
            for x in range(width):
                from_y, from_x = y + shift[0], x + shift[1]
                value = 0.0
                if 0 <= from_y < height and 0 <= from_x < width:
                    value = float(image[c, from_y, width - 1 - from_x if flip else from_x])
                value = value * float(gain[c]) + float(offset[c])
                out[c, y, x] = (value / 255 - MEAN[c]) / STD[c]
                if top <= y < bottom and left <= x < right:
                    out[c, y, x] = 0.0
    return out


def slow_batch(images, indices, augmentation, seed):
    draws = sample_augmentation(len(indices), *images.shape[2:], augmentation, rng(seed))
    each = zip(draws.flip, draws.shift, draws.boxes, draws.gain, draws.offset, strict=True)
    return np.stack([slow_picture(images[i], *one) for i, one in zip(indices, each)])


@pytest.mark.parametrize(
    "augmentation",
    [
        EVERYTHING,
        Augmentation(0, 0.2, 0, 0),
        Augmentation(1, 0, 0, 0),
        Augmentation(0, 0, 1, 0),
        Augmentation(0, 0, 0, 1),
    ],
    ids=["everything", "pad", "flip", "erase", "colour"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_make_batch_is_the_loop_over_pixels(augmentation, seed):
    images, indices = pictures(), np.array([3, 3, 0, 11, 7, 5, 3])
    expected = slow_batch(images, indices, augmentation, seed)
    batch = make_batch(images, indices, augmentation, rng(seed))
    assert batch.dtype == torch.float32 and batch.shape == expected.shape
    np.testing.assert_allclose(batch.numpy(), expected, **ROUNDING)
    on_device = on_the_device(images, indices, augmentation, seed)
    np.testing.assert_allclose(on_device.numpy(), expected, **ROUNDING)


def on_the_device(images, indices, augmentation, seed):
    """What a GPU would be told to do, done by the CPU."""
    draws = sample_augmentation(len(indices), *images.shape[2:], augmentation, rng(seed)) if augmentation else None
    return batches._make_on_device(torch.from_numpy(images), torch.as_tensor(indices), draws)


def test_the_draws_cover_what_they_promise():
    draws = sample_augmentation(4000, 100, 50, EVERYTHING, rng())
    reach = 20  # a fifth of the height
    assert abs(draws.flip.mean() - 0.5) < 0.05  # six standard errors
    assert draws.shift.min() == -reach and draws.shift.max() == reach, "both ends are reached"
    top, bottom, left, right = draws.boxes.T
    erased = bottom > top
    assert abs(erased.mean() - 0.6) < 0.05
    assert (top >= 0).all() and (bottom <= 100).all() and (left >= 0).all() and (right <= 50).all()
    area = ((bottom - top) * (right - left) / 5000)[erased]
    assert area.max() <= 0.33 and 0.01 < area.min() < 0.03 and 0.14 < area.mean() < 0.19, "2 to 33 %, floors aside"
    assert (bottom - top)[erased].max() > 3 * (right - left)[erased].min(), "tall and wide ones"
    assert draws.gain.std(0).min() > 0.05 and draws.offset.std(0).min() > 10
    assert draws.gain.min() > 0


def test_each_picture_has_draws_of_its_own():
    images = pictures(1)
    batch = make_batch(images, np.zeros(12, int), Augmentation(0.5, 0.3, 0.5, 0.3), rng()).numpy()
    assert len({picture.tobytes() for picture in batch}) == 12


@pytest.mark.parametrize("given", ["numpy", "torch", "memory map"])
def test_without_augmentation_it_is_normalisation(given, tmp_path):
    images, indices = pictures(), np.array([2, 9, 2])
    expected = (images[indices] / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    if given == "torch":
        images = torch.from_numpy(images)
    if given == "memory map":
        np.save(tmp_path / "images.npy", images)
        images = np.load(tmp_path / "images.npy", mmap_mode="r")
    np.testing.assert_allclose(make_batch(images, indices).numpy(), expected, **ROUNDING)
    np.testing.assert_allclose(make_batch(images, indices.tolist()).numpy(), expected, **ROUNDING)
    np.testing.assert_allclose(on_the_device(np.asarray(images).copy(), indices, None, 0).numpy(), expected, **ROUNDING)


def test_no_variation_at_all_is_normalisation_too():
    images = pictures()
    still = make_batch(images, np.arange(12), Augmentation(0, 0, 0, 0), rng())
    torch.testing.assert_close(still, make_batch(images, np.arange(12)), rtol=1e-5, atol=2e-6)


def test_the_images_stay_as_they_are():
    images = pictures()
    before = images.copy()
    make_batch(images, np.arange(12), EVERYTHING, rng())
    assert (images == before).all()


def test_memory_is_used_again():
    images = pictures()
    first = make_batch(images, np.arange(6), EVERYTHING, rng(0))
    expected = make_batch(images, np.arange(6, 12), EVERYTHING, rng(1))
    second = make_batch(images, np.arange(6, 12), EVERYTHING, rng(1), out=first)
    assert second.data_ptr() == first.data_ptr() and (second == expected).all(), "nothing is left of the batch before"
    shorter = make_batch(images, np.arange(4), EVERYTHING, rng(2), out=second)
    assert (shorter == make_batch(images, np.arange(4), EVERYTHING, rng(2))).all() and shorter.shape[0] == 4


def test_the_same_rng_draws_the_same_batch():
    images = pictures()
    one, two, other = (make_batch(images, np.arange(12), EVERYTHING, rng(seed)) for seed in (5, 5, 6))
    assert (one == two).all() and (one != other).any()


@pytest.mark.parametrize(
    "images, got",
    [
        (np.zeros((2, 3, 8, 4), np.float32), "float32"),
        (np.zeros((2, 8, 4, 3), np.uint8), r"\(2, 8, 4, 3\)"),
        (np.zeros((3, 8, 4), np.uint8), r"\(3, 8, 4\)"),
        (torch.zeros(2, 3, 8, 4), "float32"),
    ],
)
def test_make_batch_refuses(images, got):
    with pytest.raises(ValueError, match=f"uint8.*{got}"):
        make_batch(images, [0])


def test_augmentation_without_a_generator():
    """Once an AttributeError of None."""
    with pytest.raises((ValueError, TypeError), match="rng"):
        make_batch(pictures(), [0], EVERYTHING)


@pytest.mark.parametrize("field", ["flip", "pad", "erase", "colour", "crop"])
@pytest.mark.parametrize("given", [-0.1, 1.5, "0.3", None, True, float("nan")])
def test_augmentation_refuses(field, given):
    """Once a shift beyond the picture was numpy's broadcasting error."""
    with pytest.raises(ValueError, match=f"Augmentation: {field} must be a number from 0 to (1|0.5), got {given!r}"):
        Augmentation(**{field: given})


def test_a_shift_of_half_the_picture_is_the_most():
    with pytest.raises(ValueError, match="pad must be a number from 0 to 0.5, got 0.6"):
        Augmentation(pad=0.6)
    augmentation, images, indices = Augmentation(pad=0.5, erase=0), pictures(), np.arange(12)
    expected = slow_batch(images, indices, augmentation, 3)
    np.testing.assert_allclose(make_batch(images, indices, augmentation, rng(3)).numpy(), expected, **ROUNDING)


# ---- crops ----------------------------------------------------------------------------------------------------------


def test_crops_have_the_papers_area_and_shape():
    cuts = sample_augmentation(500, 256, 128, Augmentation(crop=0.64), np.random.default_rng(0)).cuts
    width, height = 128 * cuts[:, 0, 0], 256 * cuts[:, 1, 1]
    area, aspect = width * height / (256 * 128), height / width
    assert area.min() > 0.5 and area.max() <= 1 and (width <= 128).all() and (height <= 256).all()
    assert ((aspect + 1e-4 >= 2) & (aspect <= 3 + 1e-4)).mean() > 0.95  # those that do not fit are clipped
    assert (np.abs(cuts[:, :, 2]) <= 1 - np.stack([cuts[:, 0, 0], cuts[:, 1, 1]], 1) + 1e-6).all(), "inside"


def test_a_cut_shows_what_lies_there():
    """A ramp from left to right: a cut shows its own part of the ramp."""
    ramp = np.broadcast_to(np.linspace(0, 248, 32).astype(np.uint8), (6, 3, 64, 32))
    plain = Augmentation(flip=0, pad=0, erase=0, crop=0.64)
    batch = make_batch(ramp, np.arange(6), plain, np.random.default_rng(3))
    cuts = sample_augmentation(6, 64, 32, plain, np.random.default_rng(3)).cuts
    values = (batch[:, 0, 32] * 0.229 + 0.485) * 255
    for row, cut in zip(values, cuts):
        left, right = (cut[0, 2] + side * cut[0, 0] * (31 / 32) for side in (-1, 1))  # centres of the outer pixels
        wanted = [((at + 1) * 16 - 0.5) * 8 for at in (left, right)]
        # the ramp's steps are whole levels, and beyond the outermost centres the border repeats
        assert abs(float(row[0]) - wanted[0]) < 5 and abs(float(row[-1]) - wanted[1]) < 5


def test_without_a_crop_nothing_more_is_drawn():
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    sample_augmentation(4, 64, 32, Augmentation(), rng)
    sample_augmentation(4, 64, 32, Augmentation(crop=0.64), other)
    assert rng.random() != other.random() and sample_augmentation(4, 64, 32, Augmentation(), rng).cuts is None


# ---- pictures in the style of other cameras -------------------------------------------------------------------------

TARGET = Styled(
    pictures(10, 32, 16), np.arange(10) % 4, np.stack([pictures(10, 32, 16, seed) for seed in range(1, 5)], 1)
)


def test_a_picture_and_its_copies_are_one_class_and_all_others_apart():
    chosen = np.array([7, 0, 3])
    pictures, labels = with_copies(TARGET, chosen, 2, np.random.default_rng(1))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and pictures.shape == (9, 3, 32, 16)
    for place, i in enumerate(chosen):
        own, *copies = pictures[3 * place : 3 * place + 3]
        assert (own == TARGET.images[i]).all()
        styles = [[c for c in range(4) if (TARGET.copies[i, c] == copy).all()] for copy in copies]
        styles = sum(styles, [])
        assert len(set(styles)) == 2 and TARGET.camids[i] not in styles, "two other cameras, each once"


def test_every_other_camera_comes_up():
    seen = set()
    for seed in range(40):
        (copy,) = fakes(TARGET, [5], np.random.default_rng(seed))  # taken by camera 1
        seen |= {c for c in range(4) if (TARGET.copies[5, c] == copy).all()}
    assert seen == {0, 2, 3}


@pytest.mark.parametrize("copies", [0, 4])
def test_more_copies_than_other_cameras(copies):
    with pytest.raises(ValueError, match="between 1 and 3"):
        with_copies(TARGET, np.arange(3), copies, np.random.default_rng(0))


def test_copies_belong_to_as_many_pictures():
    with pytest.raises(ValueError, match="belong together"):
        Styled(TARGET.images[:4], TARGET.camids[:4], TARGET.copies)
