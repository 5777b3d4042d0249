"""Pools whose classes are missing or rare, and bouts that are short."""

import numpy as np
import pytest

from schemas.simulation import Data
from simulations.data.base import Recordings
from simulations.data.parts import part_person
from simulations.data.pools import pooled

CLASSES, EACH = 4, 40


@pytest.fixture
def recordings() -> Recordings:
    y = np.repeat(np.arange(CLASSES), EACH)
    start = np.tile(np.arange(EACH), CLASSES) * 10
    x = np.random.default_rng(0).standard_normal((len(y), 10, 3)).astype(np.float32)
    zero = np.zeros(len(y), np.int64)
    names = tuple("abcd")
    return Recordings(x, y, zero, y, start, ("ann",), names, ("x", "y", "z"), 10.0)


def parts(recordings, **asked):
    config = Data(label_fraction=0.1, **asked)
    part = part_person(recordings, 0, config, labelled=True)
    return part, pooled(recordings, part, config, 3)


def counts(recordings, part):
    return np.bincount(recordings.y[part.train], minlength=CLASSES)


def test_a_full_pool_is_the_persons_own(recordings):
    part, same = parts(recordings)
    assert same is part


def test_half_of_the_classes_are_absent_from_training_alone(recordings):
    part, less = parts(recordings, pool="absent")
    assert sorted(counts(recordings, less)) == [0, 0, 27, 27]
    np.testing.assert_array_equal(less.test, part.test)
    truth = recordings.y[less.train]
    assert np.isin(less.labels, [-1, *np.unique(truth)]).all()


def test_thinned_classes_keep_their_first_quarter(recordings):
    part, less = parts(recordings, pool="thinned")
    assert sorted(counts(recordings, less)) == [6, 6, 27, 27]
    for label in range(CLASSES):
        before = part.train[recordings.y[part.train] == label]
        after = less.train[recordings.y[less.train] == label]
        np.testing.assert_array_equal(after, before[: len(after)])


def test_bouts_hold_what_was_there_in_pieces_of_one_class(recordings):
    part, laid = parts(recordings, bout_windows=5)
    np.testing.assert_array_equal(np.sort(laid.train), np.sort(part.train))
    for rows, labels in ((part.train, part.labels), (laid.train, laid.labels)):
        assert dict(zip(rows.tolist(), labels.tolist(), strict=True)) == dict(
            zip(part.train.tolist(), part.labels.tolist(), strict=True)
        )
    steps = np.flatnonzero(np.diff(laid.train) != 1) + 1
    pieces = np.split(laid.train, steps)
    assert max(len(piece) for piece in pieces) <= 10  # two that follow each other by chance
    assert not np.array_equal(laid.train, part.train)


def test_the_seed_draws_the_classes(recordings):
    config = Data(pool="absent")
    part = part_person(recordings, 0, config, labelled=True)
    drawn = {tuple(counts(recordings, pooled(recordings, part, config, s))) for s in range(20)}
    assert len(drawn) > 2
    again = [pooled(recordings, part, config, 5).train for _ in range(2)]
    np.testing.assert_array_equal(*again)
