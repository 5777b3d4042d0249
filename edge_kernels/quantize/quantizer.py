"""Quantizers by name, and their results as whole models."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_kernels.given import whole
from edge_kernels.integer import qdq
from edge_kernels.integer.net import IntNet
from edge_kernels.quantize.branches import evened
from edge_kernels.quantize.calibrate import ranges
from edge_kernels.quantize.calibration import checked_inputs, inputs
from edge_kernels.quantize.files import load
from edge_kernels.quantize.floats import FloatNet
from edge_kernels.quantize.graph import know_domain
from edge_kernels.quantize.integer_rounding import carried
from edge_kernels.quantize.reader import Split, read, sample_sizes

__all__ = [
    "Quantized",
    "Quantizer",
    "Sharing",
    "by_name",
    "inputs",
    "names",
    "quantize",
    "shared",
    "to_edge",
    "to_lookup",
    "to_qdq",
]

if TYPE_CHECKING:
    from onnx import ModelProto

    from edge_kernels.given import Model

GROUP: Final = "flwr_edge.quantizer"
DOMAIN: Final = "flwr.edge"
_SAME_SINCE: Final = 18
# Operators that compute the same in opsets 13 to 21, and are written the same.
_SAME_SINCE_13: Final = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Neg", "Abs", "Exp", "Log", "Clip", "Max", "Min"),
    *("MatMul", "Gemm", "Gather", "Transpose", "Concat", "Unsqueeze", "Squeeze", "Expand"),
    *("Identity", "Constant", "Softmax", "LogSoftmax", "LpNormalization"),
)
_IR_OF_UINT16: Final = 10


class Quantizer(Protocol):
    """Decides on integers for a network in float."""

    def quantize(self, net: FloatNet, calibration: NDArray[np.float32]) -> IntNet:
        """Return the network in integers.

        Parameters
        ----------
        net : FloatNet
            Not changed.
        calibration : float32 (windows, *net.shapes[0])
            What the network reads: windows after the prologue.
        """
        ...


@runtime_checkable
class Sharing(Quantizer, Protocol):
    """One whose setting ``start`` takes what it once learned of a network like this one."""

    def shared(self, net: FloatNet, calibration: NDArray[np.float32]) -> Any:
        """Return what is learned of the network that persons share; as of `Quantizer.quantize`."""
        ...


@dataclass(frozen=True)
class Quantized:
    """A model in integers, and what of it stays in float.

    Attributes
    ----------
    net : IntNet
    split : Split
        The float model's parts: `prologue`, the tensor `source` that it makes, and the float `net`.
    output : str
        The model's output.
    """

    net: IntNet
    split: Split
    output: str


def names() -> list[str]:
    """Return the quantizers that are installed."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def by_name(name: str, **settings: Any) -> Quantizer:
    """Return a quantizer by name.

    Parameters
    ----------
    name : str
        Of an entry point of the group ``flwr_edge.quantizer``: a class that takes settings by
        name, ``bits`` and ``seed`` among them.

    Raises
    ------
    ValueError
        If there is no such quantizer, or it has no such setting.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}.get(name)
    if found is None:
        raise ValueError(f"no quantizer is called {name!r}; there are {', '.join(names())}")
    try:
        made: Quantizer = found.load()(**settings)
    except TypeError as error:
        raise ValueError(f"quantizer {name!r}: {error}") from error
    return made


def quantize(
    model: Model,
    calibration: ArrayLike,
    *,
    quantizer: str = "distilled",
    bits: int = 8,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Quantized:
    """Turn a float model into integers from its first layer on.

    Branches that are concatenated are evened out before: see `edge_kernels.quantize.branches`.

    Parameters
    ----------
    model : ModelProto, bytes or path
        One input and one output; not changed.
    calibration : float32 (windows, *the input's shape)
        Nobody's own windows: those of the sources.
    quantizer : str
        As `by_name` takes it.
    bits : {8, 4, 2}
        Of weights; activations have 8.
    seed : int
        The same seed gives the same integers.
    settings : mapping, optional
        More of the quantizer's settings; ``ranges`` are those of the float model as it is.

    Raises
    ------
    ImportError
        If onnx, or torch, is not installed.
    ValueError
        If the model cannot run in integers (the message names node, operator and what to do), or
        bits, quantizer or windows are wrong.
    """
    chosen = _chosen(quantizer, bits, seed, settings)
    model = load(model)
    split = read(model)
    x = checked_inputs(split, calibration)
    net = evened(split.net, x)
    given = (settings or {}).get("ranges")
    if given is not None and net is not split.net:
        moved = carried(given, ranges(split.net, x), ranges(net, x))
        chosen = _chosen(quantizer, bits, seed, {**(settings or {}), "ranges": moved})
    return Quantized(chosen.quantize(net, x), split, model.graph.output[0].name)


def shared(
    model: Model,
    calibration: ArrayLike,
    *,
    quantizer: str = "distilled",
    bits: int = 2,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """Learn long from the model that persons share: for the setting ``start`` of theirs.

    Parameters and errors are those of `quantize`. None where the quantizer learns nothing so.
    """
    chosen = _chosen(quantizer, bits, seed, settings)
    if not isinstance(chosen, Sharing):
        return None
    split = read(load(model))
    x = checked_inputs(split, calibration)
    return chosen.shared(evened(split.net, x), x)


def _chosen(name: str, bits: int, seed: int, settings: Mapping[str, Any] | None) -> Quantizer:
    more = dict(settings or {})
    if twice := sorted(more.keys() & {"bits", "seed"}):
        raise ValueError(f"settings hold {' and '.join(twice)}, which have arguments of their own")
    return by_name(name, bits=whole("bits", bits), seed=whole("seed", seed), **more)


def to_qdq(quantized: Quantized) -> ModelProto:
    """Return the whole model in plain ONNX, for any ONNX Runtime.

    Raises
    ------
    ValueError
        If levels have 16 bits, and the model's opset is too old for them: before 18, with nodes
        in float that have changed since.
    """
    model = copy.deepcopy(quantized.split.prologue)
    source, result = quantized.split.source, quantized.split.result
    opset, prefix = _raised(model, quantized), _prefix(quantized, "int")
    parts = qdq.nodes(quantized.net, source, result, opset=opset, prefix=prefix)
    return _ending(model, quantized, [parts])


def to_edge(quantized: Quantized) -> ModelProto:
    """Return the whole model with its integer part as one `IntSequential` of this package."""
    from edge_kernels.integer import edge

    model = copy.deepcopy(quantized.split.prologue)
    net, prefix = quantized.net, _prefix(quantized, "int")
    opset = _raised(model, quantized)
    before, after = f"{prefix}x", f"{prefix}y"
    node, tensors = edge.node(net, before, after)
    parts = [
        qdq.quantized_input(net, quantized.split.source, before, opset=opset, prefix=prefix),
        ([node], list(tensors)),
        qdq.dequantized_output(net, after, quantized.split.result, opset=opset, prefix=prefix),
    ]
    know_domain(model, DOMAIN)
    return _ending(model, quantized, parts)


def to_lookup(quantized: Quantized) -> ModelProto:
    """Return the whole model with its layers on lookup kernels, fused: fewest bytes.

    Raises
    ------
    ValueError
        If weights have 8 bits.
    """
    from onnx import TensorProto, helper

    from edge_kernels.quantize import lookup
    from edge_kernels.sequential import fuse

    model = copy.deepcopy(quantized.split.prologue)
    net, source = quantized.net, quantized.split.source
    prefix = _prefix(quantized, "lut")
    parts = lookup.nodes(net, source, quantized.split.result, opset=_opset(model), prefix=prefix)
    shape = sample_sizes(model, net.shapes[0])
    if all(value.name != source for value in model.graph.input):
        known = helper.make_tensor_value_info(source, TensorProto.FLOAT, shape)
        model.graph.value_info.append(known)
    know_domain(model, DOMAIN)
    return fuse(_ending(model, quantized, [parts]))


def _prefix(quantized: Quantized, word: str) -> str:
    """A prefix that no name of the float parts has: they may hold what an export once wrote."""
    split = quantized.split
    graph, (nodes, tensors) = split.prologue.graph, split.epilogue
    all_nodes = [*graph.node, *nodes]
    named = [*all_nodes, *graph.input, *graph.initializer, *tensors]
    taken = {each.name for each in named} | {split.source, split.result, quantized.output}
    taken.update(name for node in all_nodes for name in (*node.input, *node.output))
    words = (word if n == 1 else f"{word}{n}" for n in count(1))
    return next(f"{w}." for w in words if not any(name.startswith(f"{w}.") for name in taken))


def _raised(model: ModelProto, quantized: Quantized) -> int:
    """Let a model name an opset that knows 16-bit levels, where it needs one; return its opset.

    From 18 to 21 no operator that a float prologue has changed what it computes.
    """
    opset, tail = _opset(model), quantized.split.epilogue[0]
    levels = qdq.written_levels(quantized.net)
    wide = any(each is not None and each.bits == 16 for each in levels)
    kept = all(node.op_type in _SAME_SINCE_13 for node in (*model.graph.node, *tail))
    if not wide or opset >= qdq.UINT16 or not (opset >= _SAME_SINCE or kept):
        return opset
    for each in model.opset_import:
        if each.domain in ("", "ai.onnx"):
            each.version = qdq.UINT16
    model.ir_version = max(model.ir_version, _IR_OF_UINT16)
    return qdq.UINT16


def _opset(model: ModelProto) -> int:
    versions = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    return int(versions[0])


def _ending(model: ModelProto, quantized: Quantized, parts: list[qdq.Parts]) -> ModelProto:
    """Append nodes, and name the output."""
    from onnx import TensorProto, helper

    graph = model.graph
    for nodes, tensors in [*parts, quantized.split.epilogue]:
        known = {each.name for each in graph.initializer}
        graph.node.extend(nodes)
        graph.initializer.extend(each for each in tensors if each.name not in known)
    del graph.output[:]
    net = quantized.split.net
    shape = sample_sizes(model, net.shapes[net.output])
    graph.output.append(helper.make_tensor_value_info(quantized.output, TensorProto.FLOAT, shape))
    return model
