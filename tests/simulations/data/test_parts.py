from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.simulation import Data
from simulations.data.base import DataError, Recordings
from simulations.data.parts import part_person, shares_samples

Make = Callable[..., Recordings]


@st.composite
def a_person(draw: st.DrawFn) -> tuple[dict[str, Any], Data]:
    """Draw streams of any length and step, whose classes change anywhere, shuffled."""
    length = draw(st.integers(1, 12))
    y, stream, start = [], [], []
    for number in range(draw(st.integers(1, 6))):
        step = draw(st.integers(1, 2 * length))
        offset = draw(st.integers(0, 30))
        for label, run in draw(
            st.lists(st.tuples(st.integers(-1, 2), st.integers(1, 25)), min_size=1, max_size=4)
        ):
            first = stream.count(number)
            y += [label] * run
            stream += [number] * run
            start += [offset + (first + i) * step for i in range(run)]
    order = draw(st.randoms(use_true_random=False)).sample(range(len(y)), len(y))
    columns = {
        "y": np.array(y)[order],
        "stream": np.array(stream)[order],
        "start": np.array(start)[order],
        "person": np.zeros(len(y)),
        "length": length,
    }
    config = Data(train_fraction=draw(st.floats(0.05, 0.95)), label_fraction=draw(st.floats(0, 1)))
    return columns, config


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(a_person())
def test_no_test_window_shares_a_sample_with_a_training_window(
    make: Make, leaks: Callable[..., int], person: tuple[dict[str, Any], Data]
) -> None:
    columns, config = person
    recordings = make(**columns)
    try:
        part = part_person(recordings, 0, config, labelled=True)
    except DataError:
        return  # too few windows of a class: nothing that could leak
    assert leaks(recordings, part.train, part.test) == 0
    assert not set(part.train) & set(part.test)
    assert (recordings.y[part.test] >= 0).all()
    given_labels = part.labels >= 0
    assert (part.labels[given_labels] == recordings.y[part.train][given_labels]).all()
    for label in np.unique(recordings.y[recordings.y >= 0]):
        windows = int((recordings.y[part.train] == label).sum())
        count = max(1, int(config.label_fraction * windows + 0.5)) if config.label_fraction else 0
        assert (part.labels == label).sum() == count
        assert (recordings.y[part.test] == label).any()


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(a_person(), st.integers(0, 2**32 - 1))
def test_shares_samples_is_the_slow_count(
    make: Make, leaks: Callable[..., int], person: tuple[dict[str, Any], Data], seed: int
) -> None:
    recordings = make(**person[0])
    side = np.random.default_rng(seed).random(len(recordings.y)) < 0.5
    rows, others = np.flatnonzero(side), np.flatnonzero(~side)
    slow = [leaks(recordings, others, np.array([row])) > 0 for row in rows]
    assert shares_samples(recordings, rows, others).tolist() == slow


def test_one_stream_is_cut_once_and_the_gap_is_the_training_side_s(simple: Make) -> None:
    part = part_person(simple(1, classes=1), 0, Data(train_fraction=0.7), labelled=True)
    assert part.train.tolist() == list(range(13))
    assert part.test.tolist() == list(range(14, 20))


@pytest.mark.parametrize(("step", "train"), [(10, 13), (20, 13), (5, 13), (4, 12), (2, 10), (1, 5)])
def test_the_gap_is_a_window_and_more_where_they_overlap_by_more_than_half(
    make: Make, step: int, train: int
) -> None:
    recordings = make([0] * 20, [0] * 20, [0] * 20, np.arange(20) * step)
    part = part_person(recordings, 0, Data(train_fraction=0.7), labelled=True)
    assert len(part.train) == train
    assert len(part.test) == 6


def test_up_to_three_streams_are_each_cut(make: Make) -> None:
    recordings = make([0] * 30, [0] * 30, np.repeat([0, 1, 2], 10), np.tile(np.arange(10) * 5, 3))
    part = part_person(recordings, 0, Data(train_fraction=0.7), labelled=True)
    assert part.train.tolist() == [*range(6), *range(10, 16), *range(20, 26)]
    assert part.test.tolist() == [*range(7, 10), *range(17, 20), *range(27, 30)]


def test_many_streams_are_laid_end_to_end(make: Make) -> None:
    recordings = make([0] * 20, [0] * 20, np.repeat(range(5), 4), np.tile(np.arange(4) * 5, 5))
    part = part_person(recordings, 0, Data(train_fraction=0.7), labelled=True)
    assert part.train.tolist() == list(range(13))
    assert part.test.tolist() == list(range(14, 20))


def test_a_stream_too_short_to_be_cut_is_laid_end_to_end_with_the_others(make: Make) -> None:
    recordings = make([0] * 12, [0] * 12, [0] * 10 + [1] * 2, [*np.arange(10) * 5, 0, 5])
    part = part_person(recordings, 0, Data(train_fraction=0.7), labelled=True)
    assert part.test.tolist() == [8, 9, 10, 11]


def test_the_next_class_of_a_stream_loses_the_test_window_that_touches_training(
    make: Make,
) -> None:
    # Class 1's training is before class 0's test in one stream: windows 10 … 19 are class 1.
    y = [0] * 6 + [1] * 10 + [0] * 4
    recordings = make([0] * 20, y, [0] * 20, np.arange(20) * 5)
    part = part_person(recordings, 0, Data(train_fraction=0.5), labelled=True)
    assert part.train.tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
    assert part.test.tolist() == [11, 12, 13, 14, 15, 16, 17, 18, 19]  # 5 touches 6


def test_labels_are_the_first_of_each_stream_in_turn(make: Make) -> None:
    recordings = make([0] * 20, [0] * 20, np.repeat([0, 1], 10), np.tile(np.arange(10) * 5, 2))
    part = part_person(recordings, 0, Data(label_fraction=0.25), labelled=True)
    assert part.train[part.labels >= 0].tolist() == [0, 1, 10]


@pytest.mark.parametrize(("fraction", "count"), [(0, 0), (0.01, 1), (0.2, 3), (1, 13)])
def test_label_counts(simple: Make, fraction: float, count: int) -> None:
    part = part_person(simple(1, 1), 0, Data(label_fraction=fraction), labelled=True)
    assert (part.labels >= 0).sum() == count


def test_who_gives_no_labels_has_none(simple: Make) -> None:
    part = part_person(simple(1), 0, Data(label_fraction=1), labelled=False)
    assert (part.labels == -1).all()
    assert part.labels.dtype == np.int64


def test_windows_of_no_known_class_train_without_label(make: Make) -> None:
    recordings = make(
        [0] * 40, [0] * 20 + [-1] * 20, [0] * 20 + [1] * 20, np.tile(np.arange(20) * 5, 2)
    )
    part = part_person(recordings, 0, Data(label_fraction=1), labelled=True)
    assert part.train.tolist() == [*range(13), *range(20, 33)]
    assert (part.labels[13:] == -1).all()
    assert part.test.max() < 20


def test_a_class_with_too_few_windows_is_named(simple: Make) -> None:
    recordings = simple(1, windows=2)
    with pytest.raises(DataError, match="person 'p0', class 'c0': 2 windows are too few"):
        part_person(recordings, 0, Data(), labelled=True)


def test_a_person_without_known_class_is_named(make: Make) -> None:
    recordings = make([0] * 9, [-1] * 9, [0] * 9, np.arange(9) * 5)
    with pytest.raises(DataError, match=r"person 'p0'.*no window has a known class"):
        part_person(recordings, 0, Data(), labelled=True)
