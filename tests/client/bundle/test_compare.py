import numpy as np
import pytest

from client import bundle
from client.bundle import compare
from client.bundle.windows import Labelled
from edge_kernels.bench.timing import Effort
from schemas.base import ConfigError
from simulations.report.metrics import macro_f1
from tests.client import small_models

SHORT = Effort(rounds=2, turn_seconds=0.0005, most_calls=5)
WINDOWS = small_models.windows(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("bundles")
    (made / "float.onnx").write_bytes(small_models.floats().SerializeToString())
    bundle.write(made / "lut", small_models.card(bits=2, form="edge"), small_models.lut())
    bundle.write(made / "qdq", small_models.card(bits=8), small_models.qdq())
    return made


def test_all_three(folder):
    ours, other = bundle.open(folder / "lut"), bundle.open(folder / "qdq")
    truth = small_models.logits_of(small_models.floats(), WINDOWS).argmax(axis=1)
    compare.check_alike(ours, other)
    contenders = {
        compare.OURS: compare.of_bundle(ours),
        compare.FLOAT: compare.of_float(folder / "float.onnx", ours.manifest),
        compare.QDQ: compare.of_bundle(other),
    }
    labelled = Labelled(WINDOWS, truth.astype(np.int64))
    report = compare.measure(ours, contenders, labelled, SHORT)
    assert report.f1_float == 1
    assert 0.9 < report.f1_qdq <= 1
    assert 0.2 < report.f1 < 1
    assert report.bytes == (folder / "lut").stat().st_size
    assert report.bytes_float == (folder / "float.onnx").stat().st_size
    ratio = report.microseconds_float / report.microseconds
    assert report.speedup_over_fp32 == pytest.approx(ratio)
    assert report.memory > 0
    table = compare.rendered(report, "table")
    assert all(part in table for part in ("2 bits", "fp32", "QDQ", "times as fast as fp32"))


def test_what_the_manifest_says_and_is_not_so_is_in_the_report(folder):
    card = small_models.card(bits=2, form="edge", expected=bundle.Expected(memory_bytes=1))
    bundle.write(folder / "slim", card, small_models.lut())
    slim = bundle.open(folder / "slim")
    report = compare.measure(slim, {compare.OURS: compare.of_bundle(slim)}, None, SHORT)
    took = report.memory
    assert bool(report.lies) == (took > (2 << 20) + 2)
    tiny = report.model_copy(update={"lies": ["expected.memory_bytes = 1"]})
    table = compare.rendered(tiny, "table")
    assert "the bundle says otherwise: expected.memory_bytes = 1" in table


def test_the_bundle_alone(folder):
    ours = bundle.open(folder / "lut")
    report = compare.measure(ours, {compare.OURS: compare.of_bundle(ours)}, None, SHORT)
    assert report.f1 is report.f1_float is report.speedup_over_qdq is report.bytes_float is None
    assert "QDQ" not in compare.rendered(report, "table")


def test_macro_f1_is_the_reports():
    random = np.random.default_rng(0)
    labels, told = random.choice([0, 1, 3], 200), random.integers(0, 4, 200)
    confusion = np.zeros((4, 4), np.int64)
    np.add.at(confusion, (labels, told), 1)
    assert compare.macro_f1(labels, told) == pytest.approx(macro_f1(confusion))


def test_what_is_not_the_same_model(folder, tmp_path):
    ours = bundle.open(folder / "lut")
    with pytest.raises(ConfigError, match="--qdq takes one of form qdq"):
        compare.check_alike(ours, ours)
    (tmp_path / "x.onnx").write_bytes(small_models.floats(time=41).SerializeToString())
    with pytest.raises(ConfigError, match="windows of"):
        compare.of_float(tmp_path / "x.onnx", ours.manifest)
    with pytest.raises(ConfigError, match="No such file"):
        compare.of_float(tmp_path / "gone.onnx", ours.manifest)
    bundle.write(
        tmp_path / "other", small_models.card(classes=("a", "b", "c", "d")), small_models.qdq()
    )
    with pytest.raises(ConfigError, match="other classes"):
        compare.check_alike(ours, bundle.open(tmp_path / "other"))
