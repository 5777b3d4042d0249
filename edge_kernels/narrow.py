"""1-D pools that torch's exporter writes in two dimensions: Unsqueeze, a 2-D pool, Squeeze."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_kernels.quantize.graph import Graph, attributes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_POOLS: Final = ("MaxPool", "AveragePool")
_REDUCTIONS: Final = ("ReduceMean", "ReduceMax")
_GLOBAL: Final = ("GlobalAveragePool", "GlobalMaxPool")
_PLAIN: Final = ("", "ai.onnx")


def narrowed(model: ModelProto) -> ModelProto:
    """Write each pool between an added axis of length 1 and its removal in one dimension, in place.

    `torch.nn.AdaptiveAvgPool1d` and its like are exported so. Whatever is not surely such a pool
    stays as it is.

    Parameters
    ----------
    model : ModelProto
        As `edge_kernels.sequential.fold` returns it: the axes are constants.
    """
    graph = Graph(model.graph)
    made: dict[int, NodeProto] = {}
    gone: set[int] = set()
    for at, node in enumerate(graph.nodes):
        found = _between(graph, at) if node.op_type == "Unsqueeze" else None
        if found is None:
            continue
        pool, squeeze, axis = found
        narrow = _narrow(model, graph, graph.nodes[pool], axis)
        if narrow is not None:
            narrow.input[0], narrow.output[0] = node.input[0], graph.nodes[squeeze].output[0]
            made[pool] = narrow
            gone |= {at, squeeze}
    if made:
        nodes = [
            copy.deepcopy(made.get(at, n)) for at, n in enumerate(graph.nodes) if at not in gone
        ]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    return model


def _between(graph: Graph, at: int) -> tuple[int, int, int] | None:
    """What alone reads an added axis, and the node that removes that same axis again."""
    axis = _axes(graph, graph.nodes[at])
    pool = graph.only_reader(graph.nodes[at].output[0])
    if pool is None or axis is None or len(axis) != 1:
        return None
    squeeze = graph.only_reader(graph.nodes[pool].output[0])
    alone = sum(map(bool, graph.nodes[pool].output)) == 1
    if squeeze is None or not alone or graph.nodes[squeeze].op_type != "Squeeze":
        return None
    return (pool, squeeze, axis[0]) if _axes(graph, graph.nodes[squeeze]) == axis else None


def _axes(graph: Graph, node: NodeProto) -> list[int] | None:
    if len(node.input) < 2 or not node.input[1]:
        given = attributes(node).get("axes")
        return None if given is None else list(given)
    known = graph.constant(node.input[1])
    return None if known is None else [int(axis) for axis in known.reshape(-1)]


def _narrow(model: ModelProto, graph: Graph, node: NodeProto, axis: int) -> NodeProto | None:
    """The node without an axis of length 1; None: it is no pool that leaves that axis alone."""
    if node.domain not in _PLAIN:
        return None
    made = copy.deepcopy(node)
    if node.op_type in _POOLS:
        return _narrow_pool(made, axis)
    if node.op_type in _REDUCTIONS:
        return _narrow_reduction(model, graph, made, axis)
    return made if node.op_type in _GLOBAL and axis in (2, 3, -1, -2) else None


def _narrow_pool(node: NodeProto, axis: int) -> NodeProto | None:
    given: dict[str, Any] = attributes(node)
    window = list(given["kernel_shape"])
    place = axis - 2 if axis >= 0 else axis + 2  # among the two axes of positions
    if len(window) != 2 or place not in (0, 1) or window[place] != 1:
        return None
    kept, pads = 1 - place, list(given.get("pads", (0, 0, 0, 0)))
    if pads[place] or pads[place + 2]:
        return None
    for each in node.attribute:
        if each.name in ("kernel_shape", "strides", "dilations"):
            each.ints[:] = [each.ints[kept]]
        elif each.name == "pads":
            each.ints[:] = [pads[kept], pads[kept + 2]]
    return node


def _narrow_reduction(
    model: ModelProto, graph: Graph, node: NodeProto, axis: int
) -> NodeProto | None:
    axes = _axes(graph, node)
    if not axes or not attributes(node).get("keepdims", 1):
        return None
    if any((each < 0) != (axis < 0) for each in axes):
        return None  # which of them is which depends on how many there are
    left = [_without(each, axis) for each in axes if each != axis]
    if not left:
        return None
    if len(node.input) < 2:
        next(each for each in node.attribute if each.name == "axes").ints[:] = left
        return node
    from onnx import numpy_helper

    node.input[1] = f"{node.output[0]}.narrow_axes"
    model.graph.initializer.append(numpy_helper.from_array(np.array(left), node.input[1]))
    return node


def _without(each: int, axis: int) -> int:
    """Where an axis is after another has gone; both count from the same end."""
    if axis < 0:
        return each if each > axis else each + 1
    return each if each < axis else each - 1
