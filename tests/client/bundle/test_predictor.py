import json

import numpy as np
import pytest

from client import bundle
from client.bundle.predictor import NotRunnableError, Predictor, check_windows, session
from schemas.base import ConfigError
from schemas.signing import new_key
from tests.client import small_models
from tests.hostile.anatomy import Anatomy

INPUT = small_models.card().input


@pytest.fixture
def path(tmp_path):
    bundle.write(tmp_path / "b", small_models.card(), small_models.codes())
    return tmp_path / "b"


@pytest.mark.parametrize("form", ["edge", "qdq"])
def test_int8_products_are_exact_on_every_cpu(form, monkeypatch):
    made = []
    for module in ("client.bundle.predictor", "edge_kernels.library"):
        monkeypatch.setattr(f"{module}.QuickSession", lambda _, options, **__: made.append(options))
    session(form, b"")
    assert made[0].get_session_config_entry("session.x64quantprecision") == "1"


@pytest.mark.parametrize(
    ("windows", "hz", "problem"),
    [
        (np.zeros((2, 41, 3), np.float32), None, r"shape \(2, 41, 3\); expected \(windows, 40, 3"),
        (np.zeros((40, 3), np.float32), None, r"shape \(40, 3\)"),
        (np.zeros((2, 40, 3)), None, "float64; expected float32 or float16"),
        (np.zeros((2, 40, 3), np.int8), None, "int8"),
        (np.zeros((2, 40, 3), np.float32), 50.0, "50 samples a second; the model takes 20"),
    ],
)
def test_windows_that_do_not_fit(windows, hz, problem):
    with pytest.raises(ConfigError, match=problem):
        check_windows(windows, INPUT, hz)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_window_with_nan_is_named(bad):
    windows = small_models.windows(5)
    windows[3, 7, 1] = bad
    with pytest.raises(ConfigError, match="window 3 holds NaN"):
        check_windows(windows, INPUT)


def test_float16_is_taken_as_it_is(path):
    windows = small_models.windows().astype(np.float16)
    predictor = Predictor(bundle.open(path))
    np.testing.assert_array_equal(
        predictor.logits(windows, 20.1), predictor.logits(windows.astype(np.float32))
    )


def test_no_windows(path):
    assert Predictor(bundle.open(path)).logits(np.zeros((0, 40, 3), np.float32)).shape == (0, 4)


def changed(path, change):
    anatomy = Anatomy.of(path.read_bytes())
    change(anatomy.manifest)
    path.write_bytes(anatomy.bytes())
    return bundle.open(path)


@pytest.mark.parametrize(
    ("name", "version", "problem"),
    [
        ("flwr_edge", "99.1", "needs flwr-edge 99.1 or newer; here is 0."),
        ("onnxruntime", "99.0", "needs onnxruntime 99.0 or newer; here is 1."),
    ],
)
def test_a_runtime_that_is_too_old(path, name, version, problem):
    opened = changed(path, lambda manifest: manifest["runtime"].update({name: version}))
    with pytest.raises(NotRunnableError, match=problem):
        Predictor(opened)


def test_another_answer_than_the_references(path):
    def change(manifest):
        manifest["reference"]["logits"][0][0] += 0.5

    assert Predictor(changed(path, change)).reference_error() > 1


def test_a_batch_of_one(tmp_path):
    model = small_models.floats(batch=1)
    bundle.write(tmp_path / "b", small_models.card(), model.SerializeToString(), new_key())
    logits = Predictor(bundle.open(tmp_path / "b")).logits(small_models.windows(5))
    expected = [small_models.logits_of(model, x[None])[0] for x in small_models.windows(5)]
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_a_model_that_passes_the_checks_and_does_not_load(tmp_path):
    model = small_models.floats()
    model.graph.node[0].attribute[0].ints[:] = [0, 0, 0]  # no permutation
    with pytest.raises(bundle.BundleError, match=r"does not load|fails"):
        bundle.write(tmp_path / "b", small_models.card(), model.SerializeToString())


def test_the_manifest_is_plain_json(path):
    assert json.loads(bundle.open(path).manifest.model_dump_json())["task"] == "activity"
