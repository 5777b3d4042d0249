import os

import numpy as np
import pytest

from client.bundle.windows import read_labelled, read_windows
from client.windows import PersonWindows
from schemas.base import ConfigError
from tests.client import small_models

CARD = small_models.card()
X = small_models.windows(6)
Y = np.array([0, 1, 2, 3, -1, 1])


def test_an_npy_file(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.testing.assert_array_equal(read_windows(tmp_path / "x.npy", CARD, 20.0), X)


@pytest.mark.parametrize("name", ["X", "windows", "test"])
def test_windows_to_predict_on_need_no_labels(tmp_path, name):
    path = tmp_path / "x.npz"
    np.savez(path, **{name: X})
    np.testing.assert_array_equal(read_windows(path, CARD), X)
    np.savez(path, X)
    with pytest.raises(ConfigError, match="holds arr_0; expected X, windows or test"):
        read_windows(path, CARD)


@pytest.mark.parametrize(("said", "given"), [(50.0, None), (50.0, 20.0), (20.0, 50.0)])
def test_windows_to_predict_on_have_the_model_s_rate(tmp_path, said, given):
    """By the file and by who names it: 20."""
    path = tmp_path / "x.npz"
    np.savez(path, X=X, hz=said)
    with pytest.raises(ConfigError, match=r"x\.npz: 50 samples a second; the model takes 20"):
        read_windows(path, CARD, given)


def test_the_windows_of_an_npz_file(tmp_path):
    np.savez(tmp_path / "x.npz", windows=X, labels=Y)
    np.testing.assert_array_equal(read_windows(tmp_path / "x.npz", CARD, 20.0), X)
    with pytest.raises(ConfigError, match="No such file"):
        read_windows(tmp_path / "none.npz", CARD)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        (b"junk", "not a readable .npy file"),
        (np.array([{}], object), "not a readable .npy file"),
        (X[:, :30], r"shape \(6, 30, 3\)"),
        (X.astype(np.float64), "float64"),
        (np.where(X > 2, np.nan, X).astype(np.float32), "holds NaN"),
    ],
)
def test_an_npy_file_that_does_not_fit(tmp_path, content, problem):
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(ConfigError, match=problem) as error:
        read_windows(path, CARD)
    assert str(error.value).startswith(f"{path}: ")


def test_an_npy_file_that_is_cut_short(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, X)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="not a readable"):
        read_windows(path, CARD)


def test_labelled_windows_without_those_that_have_no_label(tmp_path):
    np.savez(tmp_path / "x.npz", X=X, y=Y, hz=20.0, classes=list(CARD.classes))
    found = read_labelled(tmp_path / "x.npz", CARD)
    np.testing.assert_array_equal(found.windows, X[Y >= 0])
    np.testing.assert_array_equal(found.labels, Y[Y >= 0])


def test_a_persons_test_windows(tmp_path):
    PersonWindows(X, Y.astype(np.int64), X[1:4], Y[1:4].astype(np.int64)).save(tmp_path / "ann")
    found = read_labelled(tmp_path / "ann", CARD)
    np.testing.assert_array_equal(found.windows, X[1:4])
    np.savez(tmp_path / "x.npz", test=X[1:4], test_labels=Y[1:4], train=X, labels=Y)
    np.testing.assert_array_equal(read_labelled(tmp_path / "x.npz", CARD).windows, X[1:4])


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"X": X}, "holds X; expected X and y"),
        ({"X": X, "y": Y[:3]}, r"labels int64 \(3,\)"),
        ({"X": X, "y": Y * 0.5}, "labels float64 .*expected one whole number each"),
        ({"X": X, "y": Y + 1}, "a label of 4; the model has 4 classes"),
        ({"X": X, "y": Y * 0 - 1}, "no window has a label"),
        ({"X": X, "y": Y, "hz": 50}, "50 samples a second"),
        ({"X": X, "y": Y, "hz": "fast"}, "expected one number"),
        ({"X": X, "y": Y, "classes": ["a", "b"]}, "other classes than the model's"),
        ({"X": np.array([{}], object), "y": Y}, "not a readable .npz"),
        ({"X": X[:, :, :2], "y": Y}, "expected .windows, 40, 3"),
    ],
)
def test_labelled_windows_that_do_not_fit(tmp_path, arrays, problem):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ConfigError, match=problem) as error:
        read_labelled(tmp_path / "x.npz", CARD)
    assert str(error.value).startswith(f"{tmp_path / 'x.npz'}: ")


def test_no_archive(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"junk")
    with pytest.raises(ConfigError, match=r"not a readable .npz"):
        read_labelled(tmp_path / "x.npz", CARD)


@pytest.mark.parametrize("name", ["pipe.npy", "pipe.npz"])
def test_a_pipe_is_refused_where_it_would_be_waited_on(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match="is no plain file"):
        read_windows(tmp_path / name, CARD, 20.0)
