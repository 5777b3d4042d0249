"""Quantizers by name, and their results as whole models."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from edge_kernels.integer import qdq
from edge_kernels.integer.net import FREE, IntNet, Shape
from edge_kernels.quantize.files import load
from edge_kernels.quantize.floats import FloatNet, check_finite
from edge_kernels.quantize.reader import Split, read

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

GROUP: Final = "flwr_edge.quantizer"
DOMAIN: Final = "flwr.edge"
_SAME_SINCE: Final = 18
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
    model: ModelProto | bytes | str | os.PathLike[str],
    calibration: NDArray[Any],
    *,
    quantizer: str = "distilled",
    bits: int = 8,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Quantized:
    """Turn a float model into integers from its first layer on.

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
        More of the quantizer's settings.

    Raises
    ------
    ImportError
        If onnx, or torch, is not installed.
    ValueError
        If the model cannot run in integers (the message names node, operator and what to do), or
        bits, quantizer or windows are wrong.
    """
    chosen = by_name(quantizer, bits=bits, seed=seed, **(settings or {}))
    whole = load(model)
    split = read(whole)
    x = inputs(split, calibration)
    return Quantized(chosen.quantize(split.net, x), split, whole.graph.output[0].name)


def shared(
    model: ModelProto | bytes | str | os.PathLike[str],
    calibration: NDArray[Any],
    *,
    quantizer: str = "distilled",
    bits: int = 2,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """Learn long from the model that persons share: for the setting ``start`` of theirs.

    Parameters and errors are those of `quantize`. None where the quantizer learns nothing so.
    """
    chosen = by_name(quantizer, bits=bits, seed=seed, **(settings or {}))
    if not isinstance(chosen, Sharing):
        return None
    split = read(load(model))
    return chosen.shared(split.net, inputs(split, calibration))


def inputs(split: Split, windows: NDArray[Any]) -> NDArray[np.float32]:
    """Return what the network reads of windows: the prologue's result.

    Raises
    ------
    ValueError
        If windows are not of the input's shape, none, or hold NaN or infinity.
    """
    (given,) = split.prologue.graph.input
    shape = [dim.dim_value for dim in given.type.tensor_type.shape.dim][1:]
    fits = windows.ndim == len(shape) + 1 and all(
        wanted in (0, size) for wanted, size in zip(shape, windows.shape[1:], strict=True)
    )
    if not fits:
        raise ValueError(
            f"calibration windows of shape {windows.shape}; the model's input {given.name!r} is "
            f"(windows, {', '.join(str(size or 'any') for size in shape)})"
        )
    check_finite(windows)
    x = np.ascontiguousarray(windows, _dtype(given))
    if split.source == given.name:
        return x
    session = InferenceSession(
        split.prologue.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    made: NDArray[np.float32] = session.run([split.source], {given.name: x})[0]
    return made


def to_qdq(quantized: Quantized) -> ModelProto:
    """Return the whole model in plain ONNX, for any ONNX Runtime.

    Raises
    ------
    ValueError
        If levels have 16 bits, and the model's opset is too old for them.
    """
    model = copy.deepcopy(quantized.split.prologue)
    source, result = quantized.split.source, quantized.split.result
    parts = qdq.nodes(quantized.net, source, result, opset=_raised(model, quantized.net))
    return _ending(model, quantized, [parts])


def to_edge(quantized: Quantized) -> ModelProto:
    """Return the whole model with its integer part as one `IntSequential` of this package.

    Raises
    ------
    ValueError
        If input or output have 16 bits, and the model's opset is too old for them.
    """
    from edge_kernels.integer import edge

    model = copy.deepcopy(quantized.split.prologue)
    net, prefix = quantized.net, "int."
    opset = _raised(model, net)
    qdq.check_opset((net.levels[0], net.levels[net.output]), opset)
    before, after = f"{prefix}x", f"{prefix}y"
    node, tensors = edge.node(net, before, after)
    parts = [
        qdq.quantized_input(net, quantized.split.source, before),
        ([node], list(tensors)),
        qdq.dequantized_output(net, after, quantized.split.result),
    ]
    model.opset_import.add(domain=DOMAIN, version=1)
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
    parts = lookup.nodes(net, source, quantized.split.result, opset=_opset(model))
    shape = _sizes(net.shapes[0])
    if all(value.name != source for value in model.graph.input):
        known = helper.make_tensor_value_info(source, TensorProto.FLOAT, shape)
        model.graph.value_info.append(known)
    model.opset_import.add(domain=DOMAIN, version=1)
    return fuse(_ending(model, quantized, [parts]))


def _dtype(given: ValueInfoProto) -> np.dtype[Any]:
    """What a model's input is of: tokens are integers."""
    from onnx import helper

    return np.dtype(helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type))


def _sizes(shape: Shape) -> list[str | int | None]:
    return ["batch", *("length" if size == FREE else size for size in shape)]


def _raised(model: ModelProto, net: IntNet) -> int:
    """Let a model name an opset that knows 16-bit levels, where it needs one; return its opset.

    From 18 to 21 no operator that a float prologue has changed what it computes.
    """
    opset = _opset(model)
    wide = any(each is not None and each.bits == 16 for each in net.levels)
    if not wide or not _SAME_SINCE <= opset < qdq.UINT16:
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
    shape = _sizes(net.shapes[net.output])
    graph.output.append(helper.make_tensor_value_info(quantized.output, TensorProto.FLOAT, shape))
    return model
