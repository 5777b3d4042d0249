"""Norms of a channel's positions, or of a group of channels, as norms over the last axis.

A norm of a group is one of the group's numbers as they lie beside each other; factors and terms of
channels come after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_kernels.quantize.graph import Graph, attributes, exchanged, made_by_layers, sizes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

    from edge_kernels.integer.net import Shape

Floats = NDArray[np.float32]
Parts = tuple[list["NodeProto"], list["TensorProto"]]
_NORMS: Final = ("InstanceNormalization", "GroupNormalization")
_LAST_AXIS: Final = 17  # the opset since which there is a norm over the last axis
_OF_CHANNELS: Final = 21  # since then a group norm's factors are a channel's, before a group's


def last_axis(model: ModelProto) -> ModelProto:
    """Write instance and group norms of (batch, channels, time) as LayerNormalization, in place.

    What no layer made stays as it is: it stays in float, before the first layer.

    Parameters
    ----------
    model : ModelProto
        With inferred shapes and folded constants.

    Returns
    -------
    The model, with the shapes of what is new.
    """
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    graph, shapes = Graph(model.graph), sizes(model)
    instead: dict[int, Parts] = {}
    for at, node in enumerate(graph.nodes):
        if node.op_type in _NORMS and node.domain in ("", "ai.onnx") and opset >= _LAST_AXIS:
            parts = _served(graph, node, shapes.get(node.input[0], ()), opset)
            instead |= {} if parts is None else {at: parts}
    nodes = {at: parts[0] for at, parts in instead.items()}
    return exchanged(model, nodes, [each for _, tensors in instead.values() for each in tensors])


def _served(graph: Graph, node: NodeProto, shape: Shape, opset: int) -> Parts | None:
    """What computes the same as a norm of a known shape with constant factors and terms."""
    channels, length = shape[1:] if len(shape) == 3 else (0, 0)
    lines = [graph.constant(name) for name in node.input[1:3]]
    if min(channels, length) < 1 or not made_by_layers(graph, node.input[0]):
        return None
    given = attributes(node)
    of_groups = node.op_type == "GroupNormalization"
    groups = given["num_groups"] if of_groups else channels
    each = channels // groups if of_groups and opset < _OF_CHANNELS else 1  # share a factor
    wide = [np.repeat(line, each) for line in lines if line is not None]
    if len(wide) < 2 or any(line.shape != (channels,) for line in wide):
        return None
    return _written(node, (groups, channels, length), (wide[0], wide[1]))


def _written(node: NodeProto, sizes: tuple[int, int, int], lines: tuple[Floats, Floats]) -> Parts:
    """The nodes that take a norm's place, each with its constant, and the constants."""
    from onnx import helper, numpy_helper

    groups, channels, length = sizes
    factor, term = (line[:, None] for line in lines)
    size = channels * length // groups
    chain: list[tuple[str, NDArray[Any]]] = [("LayerNormalization", np.ones(size, np.float32))]
    if groups < channels:
        chain.insert(0, ("Reshape", np.array([-1, groups, size])))
        chain.append(("Reshape", np.array([-1, channels, length])))
    chain += [("Mul", factor)] if (factor != 1).any() else []
    chain += [("Add", term)] if term.any() else []
    made: Parts = [], []
    x, output = node.input[0], node.output[0]
    for at, (op, constant) in enumerate(chain, 1):
        name = f"{output}.{at}"
        given = {"epsilon": attributes(node).get("epsilon", 1e-5)} if "Norm" in op else {}
        result = output if at == len(chain) else name
        made[0].append(helper.make_node(op, [x, f"{name}.constant"], [result], **given))
        made[1].append(numpy_helper.from_array(constant, f"{name}.constant"))
        x = result
    return made
