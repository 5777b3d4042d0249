from dataclasses import replace

import numpy as np
import pytest

from client import bundle
from client.bundle.serving import Serving
from client.graphs import GraphStore
from client.windows import PersonWindows
from client.worker import Worker
from schemas.base import ConfigError
from schemas.bundle import BundleError
from schemas.objects import ObjectStore
from schemas.signing import new_key, public_hex
from tests.client import small_models

KEY = new_key()
WINDOWS = small_models.windows(20)


def written(path, seed=0):
    bundle.write(path, small_models.card(bits=2, form="edge"), small_models.lut(seed), KEY)
    return path


@pytest.fixture
def path(tmp_path):
    return written(tmp_path / "ann.flwb")


def test_a_window_s_logits_are_the_bundle_s(path):
    serving = Serving(path, public_hex(KEY))
    found = serving(WINDOWS[3])
    expected = serving.predictor().logits(WINDOWS[3:4])[0]
    np.testing.assert_array_equal(found["logits"], expected)
    assert found["classes"] == small_models.CLASSES


def test_a_file_that_is_replaced_is_opened_again_and_only_then(path, tmp_path):
    serving = Serving(path)
    first = serving(WINDOWS[0])["logits"]
    opened = serving.predictor()
    assert serving.predictor() is opened
    written(tmp_path / "next", seed=1).replace(path)
    assert not np.array_equal(serving(WINDOWS[0])["logits"], first)


def test_what_the_fleet_did_not_sign_or_does_not_fit_is_refused(path):
    with pytest.raises(BundleError, match="not of the fleet's key"):
        Serving(path, "ab" * 32)(WINDOWS[0])
    with pytest.raises(ConfigError, match=r"expected \(windows, 40, 3\)"):
        Serving(path)(WINDOWS[0, :, :2])
    path.unlink()
    with pytest.raises(FileNotFoundError):
        Serving(path)(WINDOWS[0])


@pytest.fixture
def worker(tmp_path, path):
    labels = np.full(20, -1, np.int64)
    person = PersonWindows(WINDOWS, labels, WINDOWS[:0], labels[:0])
    objects = ObjectStore(tmp_path / "objects", 1 << 26)
    graphs = GraphStore(tmp_path / "graphs")
    return Worker(objects, graphs, lambda: person, 7, Serving(path, public_hex(KEY)))


def test_the_process_that_learns_predicts_with_it(worker, path):
    right = Serving(path)(WINDOWS[-1])["logits"].argmax()
    newest = worker({"action": "predict", "model": None, "window": None})
    assert newest["class"] == right
    assert newest["name"] == small_models.CLASSES[right]
    assert sum(newest["scores"]) == pytest.approx(1, abs=1e-5)
    given = worker({"action": "predict", "model": None, "window": WINDOWS[0].tolist()})
    assert given["class"] == Serving(path)(WINDOWS[0])["logits"].argmax()
    assert "expected (windows, 40, 3)" in worker(
        {"action": "predict", "model": None, "window": [[1.0]]}
    )["error"]  # fmt: skip
    assert given["model"] == newest["model"] == bundle.open(path).sha256
    path.write_bytes(path.read_bytes()[:100])
    assert worker({"action": "predict", "model": None, "window": None})["error"].startswith("Bund")


def test_the_newest_window_may_be_one_held_out_and_says_when_it_came(worker, path):
    """Else an app would be told of the last window that happened to be for learning."""
    person = worker.windows()
    held = replace(person, test=WINDOWS[:3], test_labels=np.zeros(3, np.int64))
    worker.windows = lambda: replace(held, train_at=1.5, test_at=2.5)
    asked = {"action": "predict", "model": None, "window": None}
    found, expected = worker(asked), Serving(path)(WINDOWS[2])["logits"]
    assert (found["class"], found["window_at"]) == (expected.argmax(), 2.5)
    assert found["scores"] == pytest.approx(np.exp(expected) / np.exp(expected).sum(), abs=1e-5)
    assert "window_at" not in worker({**asked, "window": WINDOWS[0].tolist()})


@pytest.mark.parametrize("given", ["walk", [[1.0], [2.0, 3.0]], {"x": 1.0}, [["a", "b"]]])
def test_what_is_no_window_is_said_without_numpy_s_words(worker, given):
    said = worker({"action": "predict", "model": None, "window": given})["error"]
    assert said == (
        "LearnerError: the window given is none: expected a list of samples, each a list of its "
        "channels' numbers"
    )


def test_numbers_beyond_float32_are_infinite(worker):
    window = np.full((40, 3), 1e39).tolist()
    said = worker({"action": "predict", "model": None, "window": window})["error"]
    assert "window 0 holds NaN or infinity" in said
