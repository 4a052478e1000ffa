"""Descriptors that are computed, not learned."""

import numpy as np
import pytest

from reidnb.descriptors import lomo

RNG = np.random.default_rng(0)
SOURCE = RNG.integers(0, 256, (36, 3, 32, 16), np.uint8)


def test_lomo_does_not_mind_where_in_a_row_someone_stands():
    picture = np.full((1, 3, 64, 32), 90, np.uint8)
    person = RNG.integers(0, 256, (3, 48, 8), np.uint8)
    found = []
    for left in (8, 16):  # by whole steps of the windows
        shown = picture.copy()
        shown[0, :, 8:56, left : left + 8] = person
        found.append(lomo(shown)[0])
    turned = shown[:, ::-1].copy()
    assert np.allclose(*found, atol=1e-6) and not np.allclose(found[0], lomo(turned)[0], atol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(lomo(SOURCE), axis=1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="uint8"):
        lomo(SOURCE.astype(float))
