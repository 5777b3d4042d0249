"""Layers that read one position, as the last of a causal network, read two or few of them.

A pooling keeps every p-th position, p among them; the weights for the others are 0: the same
numbers, and steps that a network in integers has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_kernels.quantize.graph import Graph, attributes, exchanged, made_by_layers, sizes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edge_kernels.integer.net import Shape

_TURNED: Final = [0, 2, 1]


@dataclass(frozen=True)
class _Picked:
    """Position ``at`` of ``length``, of so many channels; turned: channels are the last axis."""

    at: int
    length: int
    channels: int
    turned: bool

    @property
    def stride(self) -> int:
        """Of a pooling that keeps the position: one with it alone, or it and those before it."""
        return self.at or self.length

    @property
    def kept(self) -> int:
        """Positions that such a pooling keeps; ours is the second of several, or the first."""
        return -(-self.length // self.stride)


def unpicked(model: ModelProto) -> ModelProto:
    """Have linear layers that alone read a Gather of one position read a Reshape, in place.

    What no layer made stays as it is: it stays in float, before the first layer.

    Parameters
    ----------
    model : ModelProto
        With inferred shapes and folded constants.

    Returns
    -------
    The model, with the shapes of what is new.
    """
    graph, shapes = Graph(model.graph), sizes(model)
    instead: dict[int, list[NodeProto]] = {}
    for at, node in enumerate(graph.nodes):
        picked = _picked(graph, node, shapes.get(node.input[0], ()) if node.input else ())
        layers = _layers(graph, node.output[0]) if picked is not None else []
        if picked is not None and layers:
            instead[at] = _serve(model, graph, node, layers, picked)
    return exchanged(model, instead)


def _picked(graph: Graph, node: NodeProto, shape: Shape) -> _Picked | None:
    """What a Gather takes of (batch, channels, time) that layers made, or of it turned."""
    if node.op_type != "Gather" or node.domain not in ("", "ai.onnx") or len(shape) != 3:
        return None
    axis, index = attributes(node).get("axis", 0) % 3, graph.constant(node.input[1])
    if axis == 0 or min(shape[1:]) < 1 or index is None or index.shape:
        return None
    if not -shape[axis] <= index < shape[axis] or not made_by_layers(graph, node.input[0]):
        return None
    return _Picked(int(index) % shape[axis], shape[axis], shape[3 - axis], axis == 1)


def _layers(graph: Graph, name: str) -> list[tuple[NodeProto, int]]:
    """The linear layers that alone read a tensor, and their weights' axis of inputs."""
    found = []
    for at in graph.readers.get(name, []):
        node = graph.nodes[at]
        axis = 0
        if node.op_type == "Gemm" and not attributes(node).get("transA", 0):
            axis = int(attributes(node).get("transB", 0))
        elif node.op_type != "MatMul":
            return []
        weights = graph.constant(node.input[1])
        if node.input[0] != name or weights is None or weights.ndim != 2:
            return []
        found.append((node, axis))
    return found if len(found) == graph.uses[name] else []


def _serve(
    model: ModelProto,
    graph: Graph,
    node: NodeProto,
    layers: list[tuple[NodeProto, int]],
    picked: _Picked,
) -> list[NodeProto]:
    """Widen the layers' weights; return the nodes that make the tensor that they read instead."""
    from onnx import helper, numpy_helper

    count = picked.channels * picked.kept
    few, shape = f"{node.output[0]}.few_positions", f"{node.output[0]}.few_positions.shape"
    constants = [numpy_helper.from_array(np.array([-1, count], np.int64), shape)]
    for layer, axis in layers:
        narrow = graph.constant(layer.input[1])
        assert narrow is not None
        size = list(narrow.shape)
        size[axis] = count
        wide = np.zeros(size, narrow.dtype)
        ours = slice(min(picked.at, 1), None, picked.kept)
        np.moveaxis(wide, axis, 0)[ours] = np.moveaxis(narrow, axis, 0)
        name = f"{layer.output[0]}.few_positions"
        constants.append(numpy_helper.from_array(wide, name))
        layer.input[0], layer.input[1] = few, name
    model.graph.initializer.extend(constants)
    nodes, source = _pooled(graph, node, picked)
    return [*nodes, helper.make_node("Reshape", [source, shape], [few], name=node.name)]


def _pooled(graph: Graph, node: NodeProto, picked: _Picked) -> tuple[list[NodeProto], str]:
    """Nodes that keep few positions, and the tensor (batch, channels, kept) that they make."""
    from onnx import helper

    nodes: list[NodeProto] = []
    source, maker = node.input[0], graph.maker(node.input[0])
    if picked.turned and maker is not None and attributes(maker).get("perm") == _TURNED:
        source = maker.input[0]
    elif picked.turned:
        turned = f"{node.output[0]}.turned"
        nodes.append(helper.make_node("Transpose", [source], [turned], perm=_TURNED))
        source = turned
    if picked.stride > 1:
        given: dict[str, Any] = {"kernel_shape": [1], "strides": [picked.stride]}
        pooled = f"{node.output[0]}.pooled"
        nodes.append(helper.make_node("MaxPool", [source], [pooled], **given))
        source = pooled
    return nodes, source
