import io
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from client.windows import PersonWindows

NAMES = ("train", "labels", "test", "test_labels")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


@pytest.fixture
def folder(person, tmp_path):
    person.save(tmp_path / "person")
    return tmp_path / "person"


def test_what_was_saved_is_read_back_in_place(person, folder):
    windows = PersonWindows.open(folder)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(windows, name), getattr(person, name))
        assert getattr(windows, name).dtype == getattr(person, name).dtype
        assert isinstance(getattr(windows, name), np.memmap)
        assert not getattr(windows, name).flags.writeable


def test_labelled_are_those_with_a_label(person):
    assert person.labelled.tolist() == [1, 2, 5, 8, 11, 14, 17, 20, 23]


def test_the_newest_is_of_either_part(person):
    def newest(**changed):
        window, at = replace(person, **changed).newest
        return window.tobytes(), at

    train, test = person.train[-1].tobytes(), person.test[-1].tobytes()
    assert newest() == (train, None)
    assert newest(train_at=1.0) == newest(train_at=1.0, test_at=0.5) == (train, 1.0)
    assert newest(train_at=1.0, test_at=2.0) == (test, 2.0)
    assert newest(train=person.train[:0]) == (test, None)
    with pytest.raises(IndexError):
        newest(train=person.train[:0], test=person.test[:0])


def test_a_person_may_have_no_label_and_no_test_window(person, tmp_path):
    none = PersonWindows(
        person.train, np.full(24, -1), np.zeros((0, 20, 6), np.float16), np.zeros(0, np.int64)
    )
    none.save(tmp_path)
    read = PersonWindows.open(tmp_path)
    assert read.labelled.size == 0
    assert read.test.shape == (0, 20, 6)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(folder, name):
    (folder / f"{name}.npy").unlink()
    with pytest.raises(ValueError, match=rf"{name}\.npy: not a readable"):
        PersonWindows.open(folder)


def pickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb()], object), allow_pickle=True)
    return buffer.getvalue()


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", b"")
    return buffer.getvalue()


HOSTILE = {
    "pickled array": pickled(),
    "bare pickle": pickle.dumps(Bomb()),
    "empty": b"",
    "zip": zipped(),
    "text": b"1,2,3\n" * 20,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", ["train", "labels"])
def test_hostile_files_are_refused(folder, name, content):
    (folder / f"{name}.npy").write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}\.npy: not a readable"):
        PersonWindows.open(folder)


@pytest.mark.parametrize("left", [10, 100, 128, 1000, -1])
def test_a_file_cut_short_is_refused(folder, left):
    path = folder / "train.npy"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"train\.npy: not a readable"):
        PersonWindows.open(folder)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("labels", np.zeros(23, np.int64)),
        ("labels", np.zeros((24, 1), np.int64)),
        ("train", np.zeros((24, 120), np.float32)),
        ("train", np.zeros((25, 20, 6), np.float32)),
        ("test", np.zeros((6, 20, 6), np.float32)),
        ("test_labels", np.zeros((), np.int64)),
    ],
)
def test_shapes_that_do_not_match_are_refused(folder, name, array):
    np.save(folder / f"{name}.npy", array)
    with pytest.raises(ValueError, match=r"expected \(windows, time, channels\)"):
        PersonWindows.open(folder)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("labels", np.zeros(24)),
        ("labels", np.zeros(24, np.uint8)),
        ("train", np.zeros((24, 20, 6), np.int16)),
        ("train", np.zeros((24, 20, 6), np.complex64)),
        ("test", np.full((7, 20, 6), "1.0")),
    ],
)
def test_types_that_are_no_windows_or_labels_are_refused(folder, name, array):
    np.save(folder / f"{name}.npy", array)
    with pytest.raises(ValueError, match="expected floating and signed integer"):
        PersonWindows.open(folder)
