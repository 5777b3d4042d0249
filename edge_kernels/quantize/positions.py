"""Layers that read one position, as the last of a causal network, read all of them.

The weights for the others are 0: the same numbers, and steps that a network in integers has.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_kernels.quantize.graph import Graph, attributes, sizes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edge_kernels.integer.net import Shape


def unpicked(model: ModelProto) -> ModelProto:
    """Have linear layers that alone read a Gather of one position read a Reshape, in place.

    Parameters
    ----------
    model : ModelProto
        With inferred shapes and folded constants.

    Returns
    -------
    The model, with the shapes of what is new.
    """
    from onnx import shape_inference

    graph, shapes = Graph(model.graph), sizes(model)
    reshapes: dict[int, NodeProto] = {}
    for at, node in enumerate(graph.nodes):
        shape = shapes.get(node.input[0], ()) if node.input else ()
        picked = _picked(graph, node, shape)
        layers = _layers(graph, node.output[0]) if picked is not None else []
        if picked is not None and layers:
            reshapes[at] = _serve(model, graph, node, layers, picked)
    if not reshapes:
        return model
    nodes = [copy.deepcopy(reshapes.get(at, node)) for at, node in enumerate(graph.nodes)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return shape_inference.infer_shapes(model, data_prop=True)


def _picked(graph: Graph, node: NodeProto, shape: Shape) -> NDArray[np.intp] | None:
    """Where one position's channels are among all numbers of a sample, (channels,)."""
    if node.op_type != "Gather" or node.domain not in ("", "ai.onnx") or len(shape) != 3:
        return None
    axis, index = attributes(node).get("axis", 0) % 3, graph.constant(node.input[1])
    if axis == 0 or min(shape[1:]) < 1 or index is None or index.shape:
        return None
    if not -shape[axis] <= index < shape[axis]:
        return None
    places = np.arange(shape[1] * shape[2]).reshape(shape[1:])
    picked: NDArray[np.intp] = np.take(places, int(index), axis - 1)
    return picked


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
    picked: NDArray[np.intp],
) -> NodeProto:
    """Widen the layers' weights; return what makes the tensor that they read instead."""
    from onnx import helper, numpy_helper

    count = int(np.prod(sizes(model)[node.input[0]][1:]))
    every, shape = f"{node.output[0]}.every_position", f"{node.output[0]}.every_position.shape"
    constants = [numpy_helper.from_array(np.array([-1, count], np.int64), shape)]
    for layer, axis in layers:
        narrow = graph.constant(layer.input[1])
        assert narrow is not None
        size = list(narrow.shape)
        size[axis] = count
        wide = np.zeros(size, narrow.dtype)
        np.moveaxis(wide, axis, 0)[picked] = np.moveaxis(narrow, axis, 0)
        name = f"{layer.output[0]}.every_position"
        constants.append(numpy_helper.from_array(wide, name))
        layer.input[0], layer.input[1] = every, name
    model.graph.initializer.extend(constants)
    return helper.make_node("Reshape", [node.input[0], shape], [every], name=node.name)
