"""Subsets of the training images: sizes, shares of labels, and the authors' own draws."""

import numpy as np
import pytest

from attribution.datasets import draw
from attribution.errors import ConfigurationError
from attribution.subsets import draw_masks

SETTINGS = {"count": 6, "fraction": 0.5, "stratify": True, "seed": 42}
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [20, 10, 6, 4]))


def test_every_subset_has_its_size_and_the_share_of_every_label():
    masks = draw_masks(LABELS, SETTINGS)
    assert masks.shape == (6, 40)
    assert masks.dtype == bool
    for mask in masks:
        assert np.bincount(LABELS[mask], minlength=4).tolist() == [10, 5, 3, 2]


@pytest.mark.parametrize(("fraction", "size"), [(0.25, 10), (0.5, 20), (0.9, 36), (0.33, 13)])
def test_the_size_is_the_fraction_rounded_down(fraction: float, size: int):
    masks = draw_masks(LABELS, {**SETTINGS, "fraction": fraction, "stratify": False})
    assert masks.sum(1).tolist() == [size] * 6


def test_more_subsets_leave_the_earlier_ones_as_they_are():
    np.testing.assert_array_equal(
        draw_masks(LABELS, {**SETTINGS, "count": 9})[:6], draw_masks(LABELS, SETTINGS)
    )


def test_subset_k_has_the_random_state_seed_plus_2k():
    """The authors' double counting; so the state 44 is subset 1 of seed 42 and subset 0 of 44."""
    np.testing.assert_array_equal(
        draw_masks(LABELS, SETTINGS)[1:], draw_masks(LABELS, {**SETTINGS, "seed": 44})[:-1]
    )
    np.testing.assert_array_equal(
        np.flatnonzero(draw_masks(LABELS, SETTINGS)[3]), np.sort(draw(LABELS, 20, 48))
    )


def test_subsets_differ_and_hold_every_image_about_equally_often():
    masks = draw_masks(np.zeros(200, int), {**SETTINGS, "count": 100})
    assert len({mask.tobytes() for mask in masks}) == 100
    # Binomial(100, 1/2) has a deviation of 5; 200 images stay within 4.5 of them.
    assert np.abs(masks.sum(0) - 50).max() <= 22


def test_the_authors_first_celeba_subset():
    """Their published first ids of idx-train and lds-val/0 (not stratified; rows are the ids)."""
    train = draw(np.zeros(162_770), 5000, 42, stratify=False)
    mask = draw_masks(np.zeros(5000), {**SETTINGS, "count": 1, "stratify": False})[0]
    chosen = train[draw(np.zeros(5000), 2500, 42, stratify=False)]
    assert chosen[:5].tolist() == [151385, 116923, 141417, 23247, 119735]
    assert sorted(train[mask]) == sorted(chosen)


def test_labels_that_cannot_be_shared_are_explained():
    with pytest.raises(ConfigurationError, match=r"cannot be drawn.*stratify to false"):
        draw_masks(np.array([0, 0, 0, 1]), SETTINGS)
    assert draw_masks(np.array([0, 0, 0, 1]), {**SETTINGS, "stratify": False}).shape == (6, 4)
