import contextlib
import threading
import time

import numpy as np
import pytest
from pydantic import ValidationError

from client.ring import mapped
from client.sources.base import DiskFull
from client.sources.intake import Intake
from client.sources.replay import ReplaySettings, ReplaySource
from client.windows import PersonWindows

NAMES = ("train", "labels", "test", "test_labels")


@pytest.fixture
def person():
    rng = np.random.default_rng(1)
    train, test = rng.normal(size=(40, 4, 2)), rng.normal(size=(10, 4, 2))
    return PersonWindows(
        train.astype(np.float32),
        rng.integers(-1, 3, 40),
        test.astype(np.float32),
        rng.integers(0, 3, 10),
    )


@pytest.fixture(params=["folder", "npz", "compressed"])
def path(person, tmp_path, request):
    if request.param == "folder":
        person.save(tmp_path / "set")
        return tmp_path / "set"
    save = np.savez if request.param == "npz" else np.savez_compressed
    save(tmp_path / "set.npz", **{name: getattr(person, name) for name in NAMES})
    return tmp_path / "set.npz"


def settings(path, **changed):
    return ReplaySettings(**{"time": 4, "channels": 2, "path": path} | changed)


def play(path, sink, **changed):
    ReplaySource(settings(path, **changed)).run(sink, threading.Event())


def assert_same(found, person):
    for name in NAMES:
        np.testing.assert_array_equal(getattr(found, name), getattr(person, name))
        assert getattr(found, name).dtype == getattr(person, name).dtype


def test_a_replayed_person_is_the_person(path, person, tmp_path):
    intake = Intake(settings(path), tmp_path / "rings")
    play(path, intake)
    assert_same(mapped(tmp_path / "rings"), person)
    assert not intake.troubles
    intake.close()


def stop_after(most, keep, stop):
    """Keep so many windows; then the disk is full and the daemon stops."""
    left = iter(range(most))

    def few(window):
        if next(left, None) is not None:
            return keep(window)
        stop.set()
        return "disk", "full"

    return few


def test_it_goes_on_where_it_stopped(path, person, tmp_path, monkeypatch):
    folder = tmp_path / "rings"
    for most in (7, 20, 8, 9, 99):
        intake, stop = Intake(settings(path), folder), threading.Event()
        monkeypatch.setattr(intake, "_kept", stop_after(most, intake._kept, stop))
        with contextlib.suppress(DiskFull):
            ReplaySource(settings(path)).run(intake, stop)
        intake.close()
    assert_same(mapped(folder), person)


def test_no_window_is_played_twice_where_some_are_refused(person, tmp_path):
    person.train[[2, 3, 11]] = np.nan
    person.test[4] = np.inf
    person.save(tmp_path / "set")
    folder, kept = tmp_path / "rings", np.isfinite(person.train).all((1, 2))
    for _ in range(3):
        intake = Intake(settings(tmp_path / "set"), folder)
        play(tmp_path / "set", intake)
        intake.close()
    found = mapped(folder)
    np.testing.assert_array_equal(found.train, person.train[kept])
    np.testing.assert_array_equal(found.test, np.delete(person.test, 4, 0))


def test_it_keeps_its_pace(person, tmp_path, sink):
    person.save(tmp_path / "set")
    stop, began = threading.Event(), time.monotonic()
    sink.says = lambda _: stop.set() or "" if len(sink.windows) == 10 else ""
    ReplaySource(settings(tmp_path / "set", per_second=20)).run(sink, stop)
    assert time.monotonic() - began >= 0.45
    assert len(sink.windows) == 11


def broken(person, tmp_path, how):
    arrays = {name: getattr(person, name) for name in NAMES}
    path = tmp_path / "bad.npz"
    if how == "no zip":
        path.write_bytes(b"hello")
        return path
    changes = {
        "missing": lambda: arrays.pop("labels"),
        "shape": lambda: arrays.update(train=np.zeros((40, 5, 2), np.float32)),
        "counts": lambda: arrays.update(labels=np.zeros(39, int)),
        "scalar": lambda: arrays.update(train=np.float32(3)),
        "kinds": lambda: arrays.update(labels=np.zeros(40)),
        "objects": lambda: arrays.update(train=np.array([{}] * 40, object)),
    }
    if how in changes:
        changes[how]()
    np.savez(path, **arrays)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-300])
    if how == "altered":
        data = bytearray(path.read_bytes())
        data[1000] ^= 0xFF
        path.write_bytes(data)
    if how == "encrypted":
        data = bytearray(path.read_bytes())
        for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            data[data.find(mark) + offset] |= 1
        path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "how",
    [
        *("no zip", "missing", "shape", "counts", "scalar", "kinds", "objects", "cut", "altered"),
        "encrypted",
    ],
)
def test_what_cannot_be_replayed_is_told(person, tmp_path, sink, how):
    play(broken(person, tmp_path, how), sink)
    assert sink.troubles == {"file": 1}
    assert "bad.npz is not replayed" in sink.details[0]


def test_a_missing_file_is_tried_again(tmp_path, sink):
    with pytest.raises(OSError, match="none"):
        play(tmp_path / "none.npz", sink)


def test_a_replay_holds_out_nothing_itself(tmp_path):
    with pytest.raises(ValidationError, match="brings its own test windows"):
        settings(tmp_path, test_every=3)
