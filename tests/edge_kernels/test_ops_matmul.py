import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import edge_kernels
from edge_kernels import oracle

Floats = NDArray[np.float32]
Blobs = Callable[..., NDArray[np.uint8]]
Models = Callable[..., bytes]

GROUPS = [0, 32, 64, 128]


def run(model: bytes, x: Any, threads: int = 1) -> list[Floats]:
    outputs: list[Floats] = edge_kernels.session(model, threads=threads).run(None, {"x": x})
    return outputs


def rows(m: int, k: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).standard_normal((m, k)).astype(np.float32)


def assert_exact(y: Floats, x: Floats, blob: NDArray[np.uint8], bias: Any = None) -> None:
    """Only float32's rounding of exact integer sums may differ from the product in float64."""
    expected = oracle.product(x, blob, bias)
    size = np.abs(x).astype(np.float64) @ np.abs(oracle.dequantize(blob)).T + 1e-30
    if bias is not None:
        size += np.abs(bias)
    assert y.shape == expected.shape
    assert (np.abs(y - expected) / size).max(initial=0) <= 1e-6


def relative_rms(y: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean((y - expected) ** 2) / np.mean(expected**2)))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.integers(0, 8),
    group=st.sampled_from(GROUPS),
    n=st.integers(1, 200),
    k=st.integers(1, 330),
    m=st.integers(0, 9),
    with_bias=st.booleans(),
    threads=st.integers(1, 2),
)
def test_the_product_in_float64(
    kind: int,
    group: int,
    n: int,
    k: int,
    m: int,
    with_bias: bool,
    threads: int,
    kinds: list[tuple[int, str]],
    blob: Blobs,
    matmul_model: Models,
) -> None:
    bits, values = kinds[kind]
    weights = blob(n, k, bits, group, values, seed=n + k)
    bias = rows(1, n, seed=7)[0] if with_bias else None
    x = rows(m, k)
    assert_exact(run(matmul_model(weights, bias), x, threads)[0], x, weights, bias)


@pytest.mark.parametrize("group", GROUPS)
def test_both_paths_give_the_same_bits(
    group: int, kinds: list[tuple[int, str]], blob: Blobs, matmul_model: Models
) -> None:
    for bits, values in kinds:
        session = edge_kernels.session(matmul_model(blob(130, 200, bits, group, values)))
        x = rows(150, 200)
        together = session.run(None, {"x": x})[0]
        for first, m in ((0, 1), (1, 2), (3, 3), (6, 5), (11, 16), (27, 65), (149, 1)):
            apart = session.run(None, {"x": x[first : first + m]})[0]
            np.testing.assert_array_equal(apart, together[first : first + m])


@pytest.mark.parametrize(("bits", "fast"), [(1, 0), (2, 0), (2, 1), (3, 0), (4, 0)])
def test_threads_give_the_same_bits(
    bits: int, fast: int, blob: Blobs, matmul_model: Models
) -> None:
    model = matmul_model(blob(2048, 1100, bits), fast=fast)
    one, two = (edge_kernels.session(model, threads=threads) for threads in (1, 2))
    for m in (1, 3, 12, 40):
        x = rows(m, 1100)
        x[m // 2, 7] = np.nan if m == 12 else 0
        np.testing.assert_array_equal(one.run(None, {"x": x})[0], two.run(None, {"x": x})[0])


def test_every_instruction_set_gives_the_same_bits(
    tmp_path: Path, kinds: list[tuple[int, str]], blob: Blobs, matmul_model: Models
) -> None:
    for i, (bits, values) in enumerate(kinds):
        for group in GROUPS:
            weights = blob(70, 150, bits, group, values)
            (tmp_path / f"{i}-{group}.onnx").write_bytes(matmul_model(weights))
    (tmp_path / "fast.onnx").write_bytes(matmul_model(blob(70, 150, 2), fast=1))
    code = (
        "import hashlib, pathlib, sys, numpy, edge_kernels\n"
        "x = numpy.random.default_rng(1).standard_normal((7, 150)).astype('f')\n"
        "digest = hashlib.sha256()\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    session = edge_kernels.session(path)\n"
        "    for m in (1, 2, 7):\n"
        "        digest.update(session.run(None, {'x': x[:m]})[0].tobytes())\n"
        "print(digest.hexdigest())\n"
    )
    digests = {}
    for isa in ("scalar", "avx2", "avxvnni", "avx512", "avx512vnni", "neon", "neon_dot"):
        answer = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, "FLWR_EDGE_ISA": isa},
            capture_output=True,
            text=True,
            check=False,
        )
        if "this CPU and build can run" not in answer.stderr:
            assert answer.returncode == 0, answer.stderr
            digests[isa] = answer.stdout
    assert "scalar" in digests
    assert len(set(digests.values())) == 1, digests


@pytest.mark.parametrize(("fast", "most"), [(0, 8e-3), (1, 2e-2)])
def test_near_the_float_product(
    fast: int, most: float, kinds: list[tuple[int, str]], blob: Blobs, matmul_model: Models
) -> None:
    for bits, values in kinds:
        weights, x = blob(256, 1024, bits, 64, values), rows(4, 1024)
        y = run(matmul_model(weights, fast=fast), x[:2])[0]
        assert relative_rms(y, oracle.float_product(x[:2], weights)) <= most, (bits, values)


def test_bias_and_relu(blob: Blobs, matmul_model: Models) -> None:
    weights, x, bias = blob(100, 64, 3), rows(3, 64), rows(1, 100, seed=2)[0]
    plain = run(matmul_model(weights, bias), x)[0]
    assert_exact(plain, x, weights, bias)
    np.testing.assert_array_equal(run(matmul_model(weights, bias, relu=1), x)[0], plain.clip(0))


def test_splits_are_columns_of_one_product(blob: Blobs, matmul_model: Models) -> None:
    weights, bias = blob(150, 96, 1), rows(1, 150, seed=2)[0]
    for m in (0, 1, 20):
        x = rows(m, 96)
        whole = run(matmul_model(weights, bias), x)[0]
        parts = run(matmul_model(weights, bias, splits=[64, 1, 85]), x)
        assert [part.shape for part in parts] == [(m, 64), (m, 1), (m, 85)]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_leading_dimensions_stay(blob: Blobs, matmul_model: Models) -> None:
    weights, x = blob(40, 32), rows(6, 32)
    for lead in ((6,), (2, 3), (1, 6, 1)):
        model = matmul_model(weights, shape=[None] * len(lead) + [32])
        y = run(model, x.reshape(*lead, 32))[0]
        assert_exact(y.reshape(6, 40), x, weights)
        assert y.shape == (*lead, 40)
    assert run(matmul_model(weights, shape=[32]), x[0])[0].shape == (40,)


def test_shapes_are_inferred(blob: Blobs, matmul_model: Models) -> None:
    model = matmul_model(blob(40, 32), shape=["batch", 5, 32], splits=[30, 10])
    session = edge_kernels.session(model)
    assert [y.shape for y in session.get_outputs()] == [["batch", 5, 30], ["batch", 5, 10]]


def test_a_view_with_strides(blob: Blobs, matmul_model: Models) -> None:
    weights, wide = blob(40, 32), rows(32, 12)
    x = wide.T[::2]
    assert_exact(run(matmul_model(weights), x)[0], np.ascontiguousarray(x), weights)


@pytest.mark.parametrize("m", [2, 20])
def test_nan_and_infinity_as_in_a_float_product(
    m: int, kinds: list[tuple[int, str]], blob: Blobs, matmul_model: Models
) -> None:
    for bits, values in kinds:
        for group in GROUPS:
            weights, x = blob(70, 150, bits, group, values), rows(m, 150)
            x[0, 140] = np.inf
            x[1, [3, 149]] = np.nan, -np.inf
            if m > 2:
                x[2, [5, 6]] = np.inf, -np.inf
            y = run(matmul_model(weights, relu=1), x)[0]
            with np.errstate(invalid="ignore"):
                expected = (x @ oracle.dequantize(weights).astype(np.float32).T).clip(0)
            bad = ~np.isfinite(x).all(axis=1)
            np.testing.assert_allclose(y[bad], expected[bad], rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(y[~bad], run(matmul_model(weights, relu=1), x[~bad])[0])


def test_zeros_and_tiny_values(blob: Blobs, matmul_model: Models) -> None:
    weights = blob(10, 128)
    x = np.zeros((3, 128), np.float32)
    x[1, 7] = 1e-38
    x[2, :64] = 1e-20
    y = run(matmul_model(weights), x)[0]
    assert not y[:2].any()
    assert_exact(y[2:], x[2:], weights)


def test_weights_are_used_where_onnxruntime_keeps_them(
    tmp_path: Path, blob: Blobs, matmul_model: Models
) -> None:
    """Large initializers, from bytes, from a file and from external data, long after loading."""
    import gc

    import onnx

    weights, x = blob(2048, 2048, 3), rows(2, 2048)
    model = matmul_model(weights)
    path, apart = tmp_path / "model.onnx", tmp_path / "apart.onnx"
    path.write_bytes(model)
    onnx.save(
        onnx.load_from_string(model), str(apart), save_as_external_data=True, size_threshold=1024
    )
    sessions = [edge_kernels.session(given) for given in (model, path, apart)]
    del model
    gc.collect()
    path.unlink()
    waste = [np.full(3 << 20, 255, np.uint8) for _ in range(8)]
    for session in sessions:
        for _ in range(3):
            assert_exact(session.run(None, {"x": x})[0], x, weights)
    del waste


def test_concurrent_runs_and_sessions(blob: Blobs, matmul_model: Models) -> None:
    models = [matmul_model(blob(300, 500, bits)) for bits in (1, 4)]
    sessions = [edge_kernels.session(model, threads=2) for model in models for _ in range(2)]
    inputs = [rows(m, 500, seed=m) for m in (1, 3, 30)]
    expected = [[s.run(None, {"x": x})[0] for x in inputs] for s in sessions]

    def work(thread: int) -> bool:
        order = np.random.default_rng(thread)
        for _ in range(50):
            s, i = int(order.integers(len(sessions))), int(order.integers(len(inputs)))
            if not np.array_equal(sessions[s].run(None, {"x": inputs[i]})[0], expected[s][i]):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


BAD_NODES = [
    ({"bits": 3}, "LutMatMul 'layer1': the node says bits 3, its packed weights have 2"),
    ({"bits": 9}, "the node says bits 9, its packed weights have 2"),
    ({"group": 32}, "the node says group 32, its packed weights have 64"),
    ({"values": "ternary"}, "the node says values 'ternary', its packed weights have 'symmetric'"),
    ({"n": 41}, r"the node says n \(outputs\) 41, its packed weights have 40"),
    ({"k": 33}, r"the node says k \(inputs\) 33, its packed weights have 32"),
    ({"relu": 2}, "attribute relu is 2; it must be in 0 to 1"),
    ({"relu": 0.5}, "attribute relu must be an integer"),
    ({"splits": [39]}, "splits sum to 39; they must sum to n = 40"),
    ({"splits": [41, -1]}, "splits must be positive and sum to n"),
    ({"constant": False}, "the packed weights must be a constant initializer"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_NODES)
def test_a_wrong_node_is_refused(
    changes: dict[str, Any], message: str, blob: Blobs, matmul_model: Models
) -> None:
    with pytest.raises(Exception, match=message):
        edge_kernels.session(matmul_model(blob(40, 32), **changes))


def test_a_missing_attribute_is_named(blob: Blobs, matmul_model: Models) -> None:
    import onnx

    model = onnx.load_from_string(matmul_model(blob(40, 32)))
    node = model.graph.node[0]
    del node.attribute[[a.name for a in node.attribute].index("bits")]
    node.name = ""
    with pytest.raises(Exception, match="LutMatMul of output 'y0': attribute bits is missing"):
        edge_kernels.session(model.SerializeToString())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda blob: blob[:-1], "weights are truncated or have bytes left over"),
        (lambda blob: np.append(blob, blob[:1]), "weights are truncated or have bytes left over"),
        (lambda blob: blob[:10], "shorter than their header"),
        (lambda blob: blob[:0], "shorter than their header"),
        (lambda blob: blob[::-1].copy(), "not in the packed layout"),
        (lambda blob: np.where(np.arange(len(blob)) == 8, 2, blob).astype("u1"), "another version"),
    ],
)
def test_a_foreign_blob_is_refused(
    change: Any, message: str, blob: Blobs, matmul_model: Models
) -> None:
    import onnx
    from onnx import numpy_helper

    weights = blob(40, 32)
    model = onnx.load_from_string(matmul_model(weights))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(change(weights), "w"))
    with pytest.raises(Exception, match=f"LutMatMul 'layer1': .*{message}"):
        edge_kernels.session(model.SerializeToString())


def test_the_wrong_type_is_refused(blob: Blobs, matmul_model: Models) -> None:
    from onnx import TensorProto

    with pytest.raises(Exception, match=r"tensor\(double\).*LutMatMul.*layer1"):
        edge_kernels.session(matmul_model(blob(40, 32), x_type=TensorProto.DOUBLE))
    session = edge_kernels.session(matmul_model(blob(40, 32)))
    with pytest.raises(Exception, match="Unexpected input data type"):
        session.run(None, {"x": np.zeros((1, 32))})


def test_a_bias_of_the_wrong_length_is_refused(blob: Blobs, matmul_model: Models) -> None:
    with pytest.raises(Exception, match=r"the bias is of shape \[39\]; it must have n = 40"):
        edge_kernels.session(matmul_model(blob(40, 32), np.zeros(39)))


def test_a_wrong_shape_is_refused(blob: Blobs, matmul_model: Models) -> None:
    session = edge_kernels.session(matmul_model(blob(40, 32), shape=["M", "K"]))
    message = r"LutMatMul 'layer1': x is of shape \[2, 31\]; its last dimension must be k = 32"
    with pytest.raises(Exception, match=message):
        session.run(None, {"x": rows(2, 31)})
    session = edge_kernels.session(matmul_model(blob(40, 32), shape=[]))
    with pytest.raises(Exception, match="LutMatMul 'layer1': x is a scalar"):
        session.run(None, {"x": np.array(1, np.float32)})
