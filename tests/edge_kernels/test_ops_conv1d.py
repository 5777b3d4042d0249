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


def run(model: bytes, x: Any, threads: int = 1) -> Floats:
    y: Floats = edge_kernels.session(model, threads=threads).run(None, {"x": x})[0]
    return y


def signal(*shape: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def float_conv1d(
    x: NDArray[Any], w: NDArray[Any], kernel: int, **options: Any
) -> NDArray[np.float64]:
    """Convolve with float weights (N, kernel * C) by one product a position."""
    stride, dilation = options.get("stride", 1), options.get("dilation", 1)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), options.get("pads", (0, 0))))
    reach = dilation * (kernel - 1) + 1
    fields = [
        padded[:, :, at : at + reach : dilation].transpose(0, 2, 1).reshape(len(x), w.shape[1])
        for at in range(0, padded.shape[2] - reach + 1, stride)
    ]
    with np.errstate(invalid="ignore"):
        return np.stack([field @ w.T for field in fields], axis=2)


@settings(max_examples=80, deadline=None)
@given(
    kind=st.integers(0, 8),
    group=st.sampled_from([0, 32, 64, 128]),
    n=st.integers(1, 80),
    channels=st.integers(1, 40),
    kernel=st.integers(1, 7),
    extra=st.integers(0, 70),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    pads=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    batch=st.integers(0, 3),
    with_bias=st.booleans(),
    threads=st.integers(1, 2),
)
def test_the_convolution_in_float64(
    kind: int,
    group: int,
    n: int,
    channels: int,
    kernel: int,
    extra: int,
    stride: int,
    dilation: int,
    pads: tuple[int, int],
    batch: int,
    with_bias: bool,
    threads: int,
    kinds: list[tuple[int, str]],
    blob: Blobs,
    conv1d_model: Models,
) -> None:
    bits, values = kinds[kind]
    weights = blob(n, kernel * channels, bits, group, values, seed=n)
    bias = signal(n, seed=3) if with_bias else None
    options: dict[str, Any] = {"stride": stride, "dilation": dilation, "pads": pads}
    x = signal(batch, channels, dilation * (kernel - 1) + 1 + extra)
    y = run(conv1d_model(weights, channels, bias, **options), x, threads)
    expected = oracle.conv1d(x, weights, bias, kernel=kernel, **options)
    assert y.shape == expected.shape
    # Only float32's rounding of exact integer sums: 1e-6 of the sum of what was added.
    largest = np.broadcast_to(np.abs(x).max(axis=(1, 2), keepdims=True, initial=0), x.shape)
    size = float_conv1d(largest, np.abs(oracle.dequantize(weights)), kernel, **options)
    size += 1e-30 if bias is None else np.abs(bias)[:, None]
    assert (np.abs(y - expected) / size).max(initial=0) <= 1e-6


@pytest.mark.parametrize("dilation", [1, 2])
def test_near_the_float_convolution(
    dilation: int, kinds: list[tuple[int, str]], blob: Blobs, conv1d_model: Models
) -> None:
    x = signal(2, 32, 60)
    for bits, values in kinds:
        weights = blob(64, 5 * 32, bits, 64, values)
        exact = float_conv1d(x, oracle.dequantize(weights), 5, dilation=dilation, pads=(2, 2))
        y = run(conv1d_model(weights, 32, dilation=dilation, pads=[2, 2]), x)
        error = np.sqrt(np.mean((y - exact) ** 2) / np.mean(exact**2))
        assert error <= 1.2e-2, (bits, values)  # one scale a sample


def test_bias_relu_and_channels(blob: Blobs, conv1d_model: Models) -> None:
    weights, bias, x = blob(70, 15), signal(70), signal(2, 3, 40)
    plain = run(conv1d_model(weights, 3, bias), x)
    expected = oracle.conv1d(x, weights, bias, kernel=5)
    np.testing.assert_allclose(plain, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(run(conv1d_model(weights, 3, bias, relu=1), x), plain.clip(0))


def test_threads_and_batches_give_the_same_bits(blob: Blobs, conv1d_model: Models) -> None:
    model, x = conv1d_model(blob(200, 96), 32), signal(3, 32, 700)
    y = run(model, x)
    np.testing.assert_array_equal(run(model, x, 2), y)
    for i in range(3):
        np.testing.assert_array_equal(run(model, x[i : i + 1]), y[i : i + 1])


def test_every_instruction_set_gives_the_same_bits(
    tmp_path: Path, kinds: list[tuple[int, str]], blob: Blobs, conv1d_model: Models
) -> None:
    for i, (bits, values) in enumerate(kinds):
        for group in (0, 32, 64, 128):
            model = conv1d_model(blob(70, 5 * 33, bits, group, values), 33, pads=[2, 2])
            (tmp_path / f"{i}-{group}.onnx").write_bytes(model)
    code = (
        "import hashlib, pathlib, sys, numpy, edge_kernels\n"
        "x = numpy.random.default_rng(1).standard_normal((2, 33, 30)).astype('f')\n"
        "digest = hashlib.sha256()\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    digest.update(edge_kernels.session(path).run(None, {'x': x})[0].tobytes())\n"
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


@pytest.mark.parametrize("dilation", [1, 2])
def test_nan_and_infinity_reach_who_sees_them(
    dilation: int, kinds: list[tuple[int, str]], blob: Blobs, conv1d_model: Models
) -> None:
    x = signal(2, 8, 40)
    x[0, 3, 20], x[0, 0, 30] = np.nan, np.inf
    for bits, values in kinds:
        weights = blob(20, 24, bits, 32, values)
        model = conv1d_model(weights, 8, dilation=dilation, pads=[1, 1])
        y = run(model, x)
        expected = float_conv1d(x, oracle.dequantize(weights), 3, dilation=dilation, pads=(1, 1))
        np.testing.assert_allclose(y[0], expected[0], rtol=1e-4, atol=1e-5)
        assert np.isfinite(y[0, :, :10]).all()
        np.testing.assert_array_equal(y[1], run(model, x[1:])[0])


def test_shapes_are_inferred(blob: Blobs, conv1d_model: Models) -> None:
    model = conv1d_model(blob(20, 24), 8, shape=["batch", 8, 30], stride=2, pads=[1, 1])
    assert edge_kernels.session(model).get_outputs()[0].shape == ["batch", 20, 15]


def test_concurrent_runs(blob: Blobs, conv1d_model: Models) -> None:
    session = edge_kernels.session(conv1d_model(blob(150, 160, 4), 32), threads=2)
    inputs = [signal(2, 32, length) for length in (5, 60, 400)]
    expected = [session.run(None, {"x": x})[0] for x in inputs]

    def work(thread: int) -> bool:
        order = np.random.default_rng(thread).integers(3, size=40)
        return all(
            np.array_equal(session.run(None, {"x": inputs[i]})[0], expected[i]) for i in order
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


BAD_NODES = [
    ({"kernel": 4}, r"the node says k \(inputs\) 32, its packed weights have 24"),
    ({"kernel": 0}, "attribute kernel is 0; it must be in 1 to 16777216"),
    ({"n": 21}, r"the node says n \(outputs\) 21, its packed weights have 20"),
    ({"bits": 1}, "the node says bits 1, its packed weights have 2"),
    ({"stride": 0}, "attribute stride is 0; it must be in 1 to 16777216"),
    ({"dilation": -1}, "attribute dilation is -1; it must be in 1 to 16777216"),
    ({"pads": [1]}, "pads must be two integers: at the begin and at the end"),
    ({"pads": [-1, 0]}, "pads must be in 0 to 16777216"),
    ({"constant": False}, "the packed weights must be a constant initializer"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_NODES)
def test_a_wrong_node_is_refused(
    changes: dict[str, Any], message: str, blob: Blobs, conv1d_model: Models
) -> None:
    with pytest.raises(Exception, match=message):
        edge_kernels.session(conv1d_model(blob(20, 24), 8, **changes))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 30), r"x is of shape \[8, 30\]; it must be \[batch, channels, length\]"),
        ((1, 7, 30), r"x is of shape \[1, 7, 30\]; it must have channels = 8"),
        ((1, 8, 2), r"x is of shape \[1, 8, 2\]; padded, it is shorter than the kernel's reach"),
        ((1, 8, 0), r"x is of shape \[1, 8, 0\]; padded, it is shorter"),
    ],
)
def test_a_wrong_shape_is_refused(
    shape: tuple[int, ...], message: str, blob: Blobs, conv1d_model: Models
) -> None:
    session = edge_kernels.session(conv1d_model(blob(20, 24), 8, shape=[None] * len(shape)))
    with pytest.raises(Exception, match=f"LutConv1d 'layer1': {message}"):
        session.run(None, {"x": np.zeros(shape, np.float32)})


def test_a_bias_of_the_wrong_length_is_refused(blob: Blobs, conv1d_model: Models) -> None:
    with pytest.raises(Exception, match=r"the bias is of shape \[19\]; it must have n = 20"):
        edge_kernels.session(conv1d_model(blob(20, 24), 8, np.zeros(19)))


def test_the_wrong_type_is_refused(blob: Blobs, conv1d_model: Models) -> None:
    from onnx import TensorProto

    with pytest.raises(Exception, match=r"tensor\(double\).*LutConv1d.*layer1"):
        edge_kernels.session(conv1d_model(blob(20, 24), 8, x_type=TensorProto.DOUBLE))
