"""Layers that make more positions than they read, by layers that make as many.

What makes s positions of each makes s times as many channels first; these are laid one behind the
other then: turned, reshaped and turned back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_kernels.quantize.graph import Graph, attributes, exchanged, made_by_layers, sizes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

    from edge_kernels.integer.net import Shape

Parts = tuple[list["NodeProto"], list["TensorProto"]]
_TURNED: Final = [0, 2, 1]
# Ways to say which position is nearest, of those that repeat each as often where factors are whole.
_REPEATING: Final = ((b"asymmetric", b"floor"), (b"half_pixel", b"round_prefer_floor"))


def interleaved(model: ModelProto) -> ModelProto:
    """Write transposed convolutions and nearest Resize of (batch, channels, time) so, in place.

    Served are convolutions of one group, whose result's length is a multiple of their stride, and
    whole factors of what layers made. Whatever is not surely such stays as it is.

    Parameters
    ----------
    model : ModelProto
        With inferred shapes and folded constants.

    Returns
    -------
    The model, with the shapes of what is new.
    """
    for kind, serve in (("ConvTranspose", _transposed), ("Resize", _repeated)):
        graph, shapes = Graph(model.graph), sizes(model)
        found: dict[int, Parts] = {}
        for at, node in enumerate(graph.nodes):
            shape = shapes.get(node.input[0], ()) if node.input else ()
            if node.op_type != kind or node.domain not in ("", "ai.onnx"):
                continue
            parts = serve(graph, node, shape) if len(shape) == 3 and min(shape[1:]) > 0 else None
            if parts is not None:
                found[at] = parts
        tensors = [each for parts in found.values() for each in parts[1]]
        model = exchanged(model, {at: parts[0] for at, parts in found.items()}, tensors)
    return model


def _transposed(graph: Graph, node: NodeProto, shape: Shape) -> Parts | None:
    """A convolution that makes all of s positions of each; then they are interleaved."""
    from onnx import helper, numpy_helper

    weight, given = graph.constant(node.input[1]), attributes(node)
    stride = given.get("strides", [1])[0]
    if weight is None or weight.ndim != 3 or not _simple(given):
        return None
    begin, end = given.get("pads", [0, 0])
    kernel, more = weight.shape[2], given.get("output_padding", [0])[0]
    length = (shape[2] - 1) * stride + kernel + more - begin - end
    # Position s·q + r of the result is the sum over d of x[q − d] with the tap s·d + r + begin.
    first, last = -((stride - 1 + begin) // stride), (kernel - 1 - begin) // stride
    pads = last, length // stride - shape[2] - first
    if length % stride or min(pads) < 0 or max(pads) > last - first:
        return None
    taps = stride * np.arange(last, first - 1, -1) + np.arange(stride)[:, None] + begin
    known = (taps >= 0) & (taps < kernel)
    wide = np.where(known, weight[:, :, np.clip(taps, 0, kernel - 1)], 0)  # (in, out, s, taps)
    channels = weight.shape[1]
    rows = wide.transpose(2, 1, 0, 3).reshape(stride * channels, len(weight), -1)
    name = node.output[0]
    inputs = [node.input[0], f"{name}.rows"]
    tensors = [numpy_helper.from_array(rows.astype(weight.dtype), inputs[1])]
    if len(node.input) > 2 and node.input[2]:
        bias = graph.constant(node.input[2])
        if bias is None:
            return None
        inputs.append(f"{name}.bias")
        tensors.append(numpy_helper.from_array(np.tile(bias, stride), inputs[2]))
    made = f"{name}.channels"
    layer = helper.make_node("Conv", inputs, [made], name=node.name, pads=pads)
    nodes, shapes = _behind_each_other(made, name, (channels, length))
    return [layer, *nodes], tensors + shapes


def _simple(given: dict[str, Any]) -> bool:
    """Whether a transposed convolution has one group, no dilation, and pads that are known."""
    groups, dilations = given.get("group", 1), given.get("dilations", [1])
    plain = given.get("auto_pad", b"NOTSET") == b"NOTSET" and "output_shape" not in given
    return plain and groups == 1 and list(dilations) == [1]


def _repeated(graph: Graph, node: NodeProto, shape: Shape) -> Parts | None:
    """The channels as often as each position is wanted, interleaved."""
    from onnx import helper

    given = attributes(node)
    nearest = given.get("mode", b"nearest") == b"nearest"
    way = (
        given.get("coordinate_transformation_mode", b"half_pixel"),
        given.get("nearest_mode", b"round_prefer_floor"),
    )
    factor = _factor(graph, node, shape)
    if not nearest or way not in _REPEATING or "axes" in given or factor is None:
        return None
    if not made_by_layers(graph, node.input[0]):
        return None
    name = node.output[0]
    made = f"{name}.channels"
    several = helper.make_node("Concat", [node.input[0]] * factor, [made], name=node.name, axis=1)
    nodes, shapes = _behind_each_other(made, name, (shape[1], factor * shape[2]))
    return [several, *nodes], shapes


def _factor(graph: Graph, node: NodeProto, shape: Shape) -> int | None:
    """How often a Resize wants each position; None: it is no whole number, or other axes grow."""
    operands = [graph.constant(name) if name else None for name in node.input[2:4]]
    scales, wanted = (*operands, None, None)[:2]
    by: NDArray[Any] | None = scales
    if (scales is None or not scales.size) and wanted is not None and len(wanted) == 3:
        by = np.array([1, *(np.array(wanted[1:]) / shape[1:])])
    if by is None or len(by) != 3 or list(by[:2]) != [1, 1] or by[2] < 1 or by[2] % 1:
        return None
    return int(by[2])


def _behind_each_other(source: str, output: str, shape: tuple[int, int]) -> Parts:
    """Nodes that make (batch, channels, s · time) of (batch, s · channels, time)."""
    from onnx import helper, numpy_helper

    channels, length = shape
    turned, flat, sized = (f"{output}.{each}" for each in ("turned", "positions", "shape"))
    nodes = [
        helper.make_node("Transpose", [source], [turned], perm=_TURNED),
        helper.make_node("Reshape", [turned, sized], [flat]),
        helper.make_node("Transpose", [flat], [output], perm=_TURNED),
    ]
    return nodes, [numpy_helper.from_array(np.array([-1, length, channels]), sized)]
