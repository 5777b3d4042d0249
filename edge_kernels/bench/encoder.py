"""The simulations' encoder as one operator, beside ONNX Runtime's float and 8-bit networks."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge_kernels.bench.graphs import Arrays, need_onnx, serialized
from edge_kernels.bench.machine import machine, versions
from edge_kernels.bench.sessions import our_session, plain_session
from edge_kernels.bench.timing import Effort, Timing, Turn, calls_of, take_turns, turn_of
from edge_kernels.bench.weights import Floats, relative_rms
from schemas.bench import Bits, EncoderReport, EncoderRow

FEATURES: Final = 8
STEPS: Final = 100  # of a window
LATENT: Final = 64
_CONVS: Final = ((FEATURES, 32, 9), (32, 64, 5), (64, 64, 5))  # inputs, outputs, kernel; stride 2
_CALIBRATION: Final = 16  # windows
_GROUP: Final = 64

# Settings of quantize_static; which is fastest depends on the CPU.
_QDQ: Final[dict[str, dict[str, Any]]] = {
    "QDQ u8": {"activation_type": "QUInt8", "per_channel": False},
    "QDQ u8, by channel": {"activation_type": "QUInt8", "per_channel": True},
    "QDQ s8, by channel": {"activation_type": "QInt8", "per_channel": True},
}
FLOAT: Final = "fp32"


def float_encoder(random: np.random.Generator) -> bytes:
    """Return the network of ``hypernet.networks.ConvEncoder``, batch norms folded, random weights.

    Three convolutions of stride 2 with ReLU, mean and maximum over time, a linear layer with ReLU:
    ``x`` (batch, 8, 100) → ``y`` (batch, 64).
    """
    make = need_onnx().helper.make_node
    nodes: list[Any] = []
    constants: Arrays = {}
    value = "x"
    for i, (inputs, outputs, kernel) in enumerate(_CONVS):
        constants |= _layer(f"conv{i}", (outputs, inputs, kernel), random)
        pads = [kernel // 2] * 2
        arguments = [value, f"conv{i}.w", f"conv{i}.b"]
        nodes.append(make("Conv", arguments, [f"conv{i}"], strides=[2], pads=pads))
        nodes.append(make("Relu", [f"conv{i}"], [f"relu{i}"]))
        value = f"relu{i}"
    constants |= _layer("linear", (LATENT, 2 * _CONVS[-1][1]), random)
    constants["axes"] = np.array([2], np.int64)
    nodes += [
        make("ReduceMean", [value, "axes"], ["mean"], keepdims=0),
        make("ReduceMax", [value, "axes"], ["max"], keepdims=0),
        make("Concat", ["mean", "max"], ["pooled"], axis=1),
        make("Gemm", ["pooled", "linear.w", "linear.b"], ["linear"], transB=1),
        make("Relu", ["linear"], ["y"]),
    ]
    return serialized(nodes, constants, {"x": ["batch", FEATURES, STEPS]}, {"y": ["batch", LATENT]})


def _layer(name: str, shape: tuple[int, ...], random: np.random.Generator) -> dict[str, Any]:
    deviation = np.sqrt(2 / np.prod(shape[1:]))
    return {
        f"{name}.w": (random.standard_normal(shape) * deviation).astype(np.float32),
        f"{name}.b": (random.standard_normal(shape[0]) * 0.1).astype(np.float32),
    }


class _Windows:
    """Calibration windows, as quantize_static reads them."""

    def __init__(self, windows: Floats) -> None:
        self._rest: Iterator[Floats] = iter(windows)

    def get_next(self) -> dict[str, Floats] | None:
        """One more window, or None."""
        window = next(self._rest, None)
        return None if window is None else {"x": window[None]}


def qdq_encoder(model: bytes, windows: Floats, settings: dict[str, Any]) -> bytes:
    """Quantize the network to 8 bits with ONNX Runtime's own tool.

    Parameters
    ----------
    model
        The float network.
    windows : float32 (windows, 8, 100)
        To calibrate with.
    settings
        Activations' type by its name, and whether weights have a scale a channel.
    """
    onnx = need_onnx()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "qdq.onnx"
        logging.disable(logging.WARNING)  # its advice to fold what is folded
        try:
            quantize_static(
                onnx.load_from_string(model),
                path,
                _Windows(windows),
                quant_format=QuantFormat.QDQ,
                weight_type=QuantType.QInt8,
                activation_type=QuantType[settings["activation_type"]],
                per_channel=settings["per_channel"],
            )
        finally:
            logging.disable(logging.NOTSET)
        return path.read_bytes()


def lut_encoder(model: bytes, bits: Bits) -> bytes:
    """Round the network's weights to so many bits and fuse it to one LutSequential."""
    from edge_kernels.quantize import rtn
    from edge_kernels.sequential import fuse

    onnx = need_onnx()
    width = 2 if bits == "ternary" else bits
    floats = onnx.load_from_string(model)
    low = rtn(floats, bits=width, group=_GROUP, ternary=bits == "ternary")
    fused: bytes = fuse(low).SerializeToString()
    return fused


def measure(
    bits: Sequence[Bits],
    threads: Sequence[int],
    effort: Effort,
    say: Callable[[str], None] = lambda _: None,
) -> EncoderReport:
    """Time the encoder on one window a call: whole ``session.run`` from Python, in turns.

    The rivals are ONNX Runtime with the float network, and with its own 8-bit QDQ network in the
    settings that are fastest on one CPU or another. All have the same threads and the same window.
    Ours is called by the `run` of `edge_kernels.session`, which costs less, and once more by ONNX
    Runtime's, as the rivals are (``plain_run_microseconds``).

    Parameters
    ----------
    bits, threads
        A row for each pair.
    effort
        How long.
    say
        Is told what is being done, a line at a time.
    """
    where = machine()
    random = np.random.default_rng(0)
    say("encoder: quantizing")
    model = float_encoder(random)
    windows = random.standard_normal((_CALIBRATION, FEATURES, STEPS), dtype=np.float32)
    rivals = {FLOAT: model} | {
        name: qdq_encoder(model, windows, settings) for name, settings in _QDQ.items()
    }
    ours = {each: lut_encoder(model, each) for each in bits}
    rows: list[EncoderRow] = []
    for count in threads:
        say(f"encoder, {count} threads")
        rows += _rows(ours, rivals, windows, count, effort, where.isa)
    return EncoderReport(machine=where, versions=versions(), rows=rows)


def _rows(
    ours: dict[Bits, bytes],
    rivals: dict[str, bytes],
    windows: Floats,
    threads: int,
    effort: Effort,
    isa: str,
) -> Iterator[EncoderRow]:
    x = np.ascontiguousarray(windows[:1])
    sessions: dict[Any, Any] = {name: plain_session(each, threads) for name, each in rivals.items()}
    turns: dict[Any, Turn] = {
        name: turn_of(lambda run=session.run: run(None, {"x": x}))  # type: ignore[misc]
        for name, session in sessions.items()
    }
    for each, model in ours.items():
        sessions["ours", each] = session = our_session(model, threads)
        turns["ours", each], turns["plain", each] = calls_of(session, {"x": x})
    timings = take_turns(turns, effort, quiet=threads > 1)
    theirs: dict[str, Timing] = {name: timings[name] for name in rivals}
    (exact,) = sessions[FLOAT].run(None, {"x": windows})
    for each in ours:
        mine, plain = timings["ours", each], timings["plain", each]
        (y,) = sessions["ours", each].run(None, {"x": windows})
        yield EncoderRow(
            batch=1,
            bits=each,
            threads=threads,
            isa=isa,
            microseconds=mine.median,
            spread=mine.quartiles,
            plain_run_microseconds=plain.median,
            rivals={name: timing.median for name, timing in theirs.items()},
            rivals_spread={name: timing.quartiles for name, timing in theirs.items()},
            speedup_over={name: timing.median / mine.median for name, timing in theirs.items()},
            plain_run_speedup_over={
                name: timing.median / plain.median for name, timing in theirs.items()
            },
            relative_rms_error=relative_rms(y, exact),
        )
