import numpy as np
import pytest

from schemas.simulation import Data
from simulations.data.base import DataError
from simulations.data.days import DaysSource
from simulations.data.split import split

PEOPLE, DAYS, CLASSES, TRIALS, EACH = 2, 4, 2, 4, 5


@pytest.fixture
def arrays():
    shape = (PEOPLE, DAYS, CLASSES, TRIALS, EACH)
    person, day, y, trial, _ = (axis.reshape(-1) for axis in np.indices(shape))
    x = np.random.default_rng(0).standard_normal((len(y), 10, 3)).astype(np.float32)
    return {
        "X": x,
        "y": y,
        "subject": person,
        "subjects": ["ann", "bob"],
        "day": day + 1,
        "trial": trial + 1,
        "hz": 10.0,
    }


@pytest.fixture
def opened(tmp_path):
    def load(arrays, **config):
        path = tmp_path / "days.npz"
        np.savez(path, **arrays)
        fields = {"overlap": 0.0, "source_days": 2, "client_days": 1} | config
        data = Data(kind="days", path=str(path), train_fraction=0.75, **fields)
        return DaysSource(data, tmp_path).load(), data

    return load


def test_a_day_of_a_person_is_a_device_and_time_gives_the_roles(arrays, opened):
    recordings, data = opened(arrays)
    assert recordings.persons[:4] == ("ann day 1", "ann day 2", "ann day 3", "ann day 4")
    for seed in (0, 7):
        parts = split(recordings, data, seed)
        named = [
            [recordings.persons[p] for p in side]
            for side in (parts.sources, parts.clients, parts.unseen)
        ]
        assert named == [
            ["ann day 1", "ann day 2", "bob day 1", "bob day 2"],
            ["ann day 3", "bob day 3"],
            ["ann day 4", "bob day 4"],
        ]


def test_who_is_held_out_is_no_source_and_the_others_nothing_else(arrays, opened):
    recordings, data = opened(arrays, held_out=("bob",))
    parts = split(recordings, data, 0)
    named = [
        [recordings.persons[p] for p in side]
        for side in (parts.sources, parts.clients, parts.unseen)
    ]
    assert named == [["ann day 1", "ann day 2"], ["bob day 3"], ["bob day 4"]]
    whole, _ = opened(arrays)
    for name in ("bob day 3", "ann day 1"):
        rows, all_rows = (r.x[r.person == r.persons.index(name)] for r in (recordings, whole))
        np.testing.assert_array_equal(rows, all_rows)


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        (("bob", "eve"), "data.held_out: no person eve in .*; there are ann, bob"),
        (("ann", "bob"), "everybody is; nobody is left"),
    ],
)
def test_who_cannot_be_held_out_is_said(arrays, opened, held_out, message):
    with pytest.raises(DataError, match=message):
        opened(arrays, held_out=held_out)


def test_nothing_of_a_test_trial_is_in_training(arrays, opened):
    recordings, data = opened(arrays)
    for part in split(recordings, data, 0).parts.values():
        assert not set(recordings.stream[part.train]) & set(recordings.stream[part.test])
        assert len(part.test) == CLASSES * EACH
        assert (part.train < len(recordings.x)).all()


def test_an_unseen_day_has_no_label(arrays, opened):
    recordings, data = opened(arrays, label_fraction=1.0)
    parts = split(recordings, data, 0)
    assert all((parts.parts[p].labels == -1).all() for p in parts.unseen)
    assert all((parts.parts[p].labels >= 0).all() for p in parts.clients)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({}, {"source_days": None}, "data.source_days and data.client_days"),
        ({"day": np.zeros(320, int)}, {}, "entry 0 is 0; expected a day from 1"),
        ({"day": np.full(320, 9)}, {}, "9 to 9: no window of a source's day"),
        ({"day": np.ones(3, int)}, {}, r"shape \(3,\); expected \(320,\)"),
    ],
)
def test_what_is_wrong_is_said(arrays, opened, change, config, message):
    with pytest.raises(DataError, match=message):
        opened(arrays | change, **config)


def test_a_file_without_days_is_refused(arrays, opened):
    del arrays["day"]
    with pytest.raises(DataError, match="day: missing"):
        opened(arrays)


def overlapping(arrays, step):
    """The same file, each trial's windows cut from one recording, every ``step`` samples."""
    rng = np.random.default_rng(1)
    length = arrays["X"].shape[1]
    starts = np.arange(EACH) * step
    trials = rng.standard_normal((len(arrays["y"]) // EACH, starts[-1] + length, 3))
    cut = np.stack([trials[:, start : start + length] for start in starts], axis=1)
    return arrays | {"X": cut.reshape(-1, length, 3).astype(np.float32)}


@pytest.mark.parametrize("trial", [True, False])
def test_windows_that_overlap_by_more_than_is_said_are_refused(arrays, opened, trial):
    arrays = overlapping(arrays, 5)
    if not trial:
        del arrays["trial"]
    with pytest.raises(DataError, match=r"share 5 of 10 samples.*set data\.overlap = 0\.5"):
        opened(arrays, overlap=0.0)
    recordings, _ = opened(arrays, overlap=0.5)
    assert recordings.start[:EACH].tolist() == [0, 5, 10, 15, 20]


def test_a_recording_that_goes_on_through_a_change_of_class_needs_its_times(arrays, opened):
    signal = np.random.default_rng(1).standard_normal((len(arrays["y"]) * 5 + 10, 3))
    arrays["X"] = np.stack([signal[5 * n : 5 * n + 10] for n in range(len(arrays["y"]))])
    with pytest.raises(DataError, match=r"share 5 of 10 samples where the class changes"):
        opened(arrays, overlap=0.5)


def test_windows_that_overlap_by_less_than_is_said_are_read(arrays, opened):
    recordings, _ = opened(arrays, overlap=0.5)
    assert recordings.start[:EACH].tolist() == [0, 5, 10, 15, 20]


@pytest.mark.parametrize(
    ("key", "message"),
    [("start", "stream: missing; stream and start go"), ("pos", "run: missing; run and pos go")],
)
def test_half_of_what_says_where_a_window_was_cut_is_refused(arrays, opened, key, message):
    with pytest.raises(DataError, match=message):
        opened(arrays | {key: np.arange(len(arrays["y"]))})
