"""Images changed by chance in training."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from polyclinic.core.errors import InputError
from polyclinic.models.neural.augment import Augment, augment_of

KEYS = np.arange(2000)


@pytest.fixture
def images():
    return np.random.default_rng(0).random((2000, 2, 6, 6)).astype(np.float32)


def augment(seed=1, round=0, **transforms):
    return Augment(augment_of(transforms), seed, round)


def test_a_draw_belongs_to_the_patient_the_round_and_the_seed(images):
    one = augment(flip={}, crop={"pixels": 2}, rotation={}, noise={})
    found = one(images[:50], KEYS[:50])
    order = np.random.default_rng(1).permutation(50)
    assert np.array_equal(one(images[order], KEYS[order]), found[order])
    for other in (
        augment(round=1, flip={}, crop={"pixels": 2}, rotation={}, noise={}),
        augment(seed=2, flip={}, crop={"pixels": 2}, rotation={}, noise={}),
    ):
        assert not np.allclose(other(images[:50], KEYS[:50]), found)


def test_half_are_flipped(images):
    found = augment(flip={"axes": ["width"]})(images, KEYS)
    same = (found == images).all(axis=(1, 2, 3))
    turned = (found == images[..., ::-1]).all(axis=(1, 2, 3))
    assert (same ^ turned).all()
    assert stats.binomtest(int(turned.sum()), 2000).pvalue > 1e-3


def test_a_cut_moves_by_whole_pixels(images):
    found = augment(crop={"pixels": 1})(images, KEYS)
    wide = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    moves = [wide[:, :, y : y + 6, x : x + 6] for y in range(3) for x in range(3)]
    which = np.array([(found == move).all(axis=(1, 2, 3)) for move in moves])
    assert (which.sum(axis=0) == 1).all()
    assert stats.chisquare(which.sum(axis=1)).pvalue > 1e-3


def test_a_turn_stays_within_its_degrees(images):
    line = np.zeros((300, 1, 41, 41), dtype=np.float32)
    line[:, :, 20, :] = 1
    found = augment(rotation={"degrees": 20})(line, KEYS[:300])
    heights = found[:, 0, :, 38].argmax(axis=1) - 20
    angles = np.degrees(np.arctan2(heights, 18))
    assert np.abs(angles).max() < 23 and angles.min() < -15 and angles.max() > 15


def test_noise_has_its_spread(images):
    found = augment(noise={"sd": 0.2})(images, KEYS) - images
    assert stats.kstest(found.ravel()[:20_000] / 0.2, "norm").pvalue > 1e-3


def test_a_mask_turns_with_its_image_and_keeps_its_values():
    mask = (np.random.default_rng(0).random((40, 1, 16, 16)) > 0.5).astype(np.float32)
    one = augment(flip={}, crop={"pixels": 3}, noise={"sd": 5.0})
    plain = augment(flip={}, crop={"pixels": 3})
    assert np.array_equal(one(mask, KEYS[:40], mask=True), plain(mask, KEYS[:40]))
    turned = augment(rotation={"degrees": 90})(mask, KEYS[:40], mask=True)
    assert set(np.unique(turned)) == {0.0, 1.0}


def test_volumes_turn_in_their_planes():
    volume = np.random.default_rng(0).random((4, 1, 3, 8, 8)).astype(np.float32)
    found = augment(flip={"axes": ["depth"], "share": 1.0})(volume, KEYS[:4])
    assert np.array_equal(found, volume[:, :, ::-1])
    assert augment(rotation={}, crop={}, noise={})(volume, KEYS[:4]).shape == volume.shape


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"mirror": {}}, "UNKNOWN_OPTION"),
        ({"flip": {"pixels": 3}}, "UNKNOWN_OPTION"),
        ({"flip": True}, "UNKNOWN_OPTION"),
        ({"flip": {"axes": ["time"]}}, "WRONG_VALUE"),
        ({"flip": {"share": 2}}, "WRONG_VALUE"),
        ({"crop": {"pixels": 0}}, "WRONG_VALUE"),
        ({"crop": {"pixels": 10**9}}, "WRONG_VALUE"),
        ({"rotation": {"degrees": float("nan")}}, "WRONG_VALUE"),
        ({"noise": {"sd": -1}}, "WRONG_VALUE"),
    ],
)
def test_a_transform_that_there_is_not_is_refused(given, code):
    with pytest.raises(InputError) as error:
        augment_of(given)
    assert error.value.code == code
