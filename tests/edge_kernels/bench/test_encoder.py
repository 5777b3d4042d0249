"""The encoder's graphs, and one quick run."""

import numpy as np
import pytest

from edge_kernels.bench.encoder import float_encoder, lut_encoder, measure, qdq_encoder
from edge_kernels.bench.sessions import our_session, plain_session
from edge_kernels.bench.timing import Effort
from edge_kernels.bench.weights import relative_rms

LEAST = Effort(rounds=1, turn_seconds=1e-4, most_calls=2)


@pytest.fixture(scope="module")
def windows():
    return np.random.default_rng(1).standard_normal((16, 8, 100), dtype=np.float32)


@pytest.fixture(scope="module")
def model():
    return float_encoder(np.random.default_rng(0))


def conv(x, w, b):
    """A convolution of stride 2, one position at a time."""
    half = w.shape[2] // 2
    x = np.pad(x, ((0, 0), (half, half)))
    starts = range(0, x.shape[1] - w.shape[2] + 1, 2)
    return np.stack([(w * x[:, i : i + w.shape[2]]).sum((1, 2)) + b for i in starts], axis=1)


def test_the_network_is_the_encoder(model, windows):
    onnx = pytest.importorskip("onnx")
    kept = onnx.load_from_string(model).graph.initializer
    w = {each.name: onnx.numpy_helper.to_array(each) for each in kept}
    x = windows[0].astype(np.float64)
    for i in range(3):
        x = np.maximum(conv(x, w[f"conv{i}.w"], w[f"conv{i}.b"]), 0)
    assert x.shape == (64, 13)
    pooled = np.concatenate([x.mean(1), x.max(1)])
    right = np.maximum(w["linear.w"] @ pooled + w["linear.b"], 0)
    (y,) = plain_session(model, 1).run(None, {"x": windows[:1]})
    assert y[0] == pytest.approx(right, rel=1e-4, abs=1e-4)


def test_the_eight_bit_network_is_close(model, windows):
    settings = {"activation_type": "QUInt8", "per_channel": True}
    (y,) = plain_session(qdq_encoder(model, windows, settings), 1).run(None, {"x": windows})
    (exact,) = plain_session(model, 1).run(None, {"x": windows})
    assert 0 < relative_rms(y, exact) < 0.05


def test_ours_is_one_operator(model, windows):
    onnx = pytest.importorskip("onnx")
    fused = lut_encoder(model, 4)
    assert [node.op_type for node in onnx.load_from_string(fused).graph.node] == ["LutSequential"]
    (y,) = our_session(fused, 1).run(None, {"x": windows})
    assert y.shape == (16, 64)


def test_a_row_for_each_bit_width_and_number_of_threads():
    report = measure((1, "ternary"), (1, 2), LEAST)
    assert [(row.threads, row.bits) for row in report.rows] == [
        (1, 1),
        (1, "ternary"),
        (2, 1),
        (2, "ternary"),
    ]
    for row in report.rows:
        assert set(row.rivals) == set(row.speedup_over) == set(row.rivals_spread)
        assert row.speedup_over["fp32"] == pytest.approx(row.rivals["fp32"] / row.microseconds)
        plain = row.rivals["fp32"] / row.plain_run_microseconds
        assert row.plain_run_speedup_over["fp32"] == pytest.approx(plain)
