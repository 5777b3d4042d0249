"""Layers that read some channels read all of them, with weights of 0 for the others.

Two encoders that each read their sensor's channels of one input are so two layers on one tensor,
which a network of steps can hold. The products are the same; a sum of zeros is added to each.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edge_kernels.quantize.graph import (
    Graph,
    attributes,
    free_name,
    made_by_layers,
    needed,
    sizes,
)

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edge_kernels.integer.net import Shape

_TURNED: Final = [0, 2, 1]
_SUFFIX: Final = ".all_channels"


@dataclass(frozen=True)
class _Part:
    """Channels ``start`` to ``stop`` of ``total``, along an axis of a tensor of a rank."""

    source: str
    name: str
    rank: int
    axis: int
    start: int
    stop: int
    total: int


def unsliced(model: ModelProto) -> ModelProto:
    """Have layers read the tensor of which they read a Slice or Split of channels, in place.

    A part that something else reads, too, stays as it is; and so does one that may stay in float,
    before the first layer: other channels would cost accuracy there, and time.

    Parameters
    ----------
    model : ModelProto
        With inferred shapes and folded constants.

    Returns
    -------
    The model, with the shapes of what is new.
    """
    from onnx import shape_inference

    changed = False
    while _one(model):
        changed = True
    return shape_inference.infer_shapes(model, data_prop=True) if changed else model


def _one(model: ModelProto) -> bool:
    """Serve the first part that can be; whether there was one."""
    graph = Graph(model.graph)
    shapes = sizes(model)
    for node in graph.nodes:
        if node.op_type not in ("Slice", "Split") or _only_start(graph, node):
            continue
        for part in _parts(graph, node, shapes.get(node.input[0], ())):
            layers = _layers(graph, part)
            if layers:
                _serve(model, graph, part, layers)
                return True
    return False


def _only_start(graph: Graph, node: NodeProto) -> bool:
    """Whether nothing but one part is read of a tensor that no layer made."""
    source = node.input[0]
    if graph.uses[source] > 1 or sum(graph.uses[name] > 0 for name in node.output) > 1:
        return False
    return not made_by_layers(graph, source)


def _parts(graph: Graph, node: NodeProto, shape: Shape) -> list[_Part]:
    """What a Slice or a Split takes of a tensor's channels, where that is known."""
    if node.domain not in ("", "ai.onnx") or len(shape) not in (2, 3):
        return []
    found = sliced(graph, node, shape) if node.op_type == "Slice" else None
    if node.op_type == "Split":
        found = split(graph, node, shape)
    if found is None or not 0 < found[0] < len(shape):
        return []
    axis, bounds = found
    whole = (len(shape), axis)
    return [
        _Part(node.input[0], name, *whole, start, stop, shape[axis])
        for name, (start, stop) in zip(node.output, bounds, strict=True)
        if name and 0 <= start < stop <= shape[axis]
    ]


def sliced(graph: Graph, node: NodeProto, shape: Shape) -> tuple[int, list[tuple[int, int]]] | None:
    """Return the axis of a Slice and its bounds on it; None: they are not known, or it skips."""
    given = [graph.constant(name) for name in node.input[1:] if name]
    if not 2 < len(node.input) < 6 or len(given) != len(node.input) - 1:
        return None
    values = [np.asarray(each).reshape(-1) for each in given if each is not None]
    if len(values) != len(given) or any(each.size != 1 for each in values):
        return None
    start, stop = int(values[0][0]), int(values[1][0])
    axis = int(values[2][0]) % len(shape) if len(values) > 2 else 0
    if len(values) > 3 and values[3][0] != 1:
        return None
    first, last, _ = slice(start, stop).indices(shape[axis])
    return axis, [(first, last)]


def split(graph: Graph, node: NodeProto, shape: Shape) -> tuple[int, list[tuple[int, int]]] | None:
    """Return the axis of a Split and the bounds of each part; None: they are not known."""
    axis, count = int(attributes(node).get("axis", 0)) % len(shape), len(node.output)
    if len(node.input) > 1 and node.input[1]:
        widths = graph.constant(node.input[1])
        if widths is None or len(widths) != count:
            return None
    else:
        widths = np.full(count, -(-shape[axis] // count))
        widths[-1] = shape[axis] - widths[:-1].sum()
    ends = np.cumsum(widths)
    return axis, [(int(end - size), int(end)) for size, end in zip(widths, ends, strict=True)]


def _layers(graph: Graph, part: _Part) -> list[tuple[int, _Part]]:
    """The layers that read a part, and as what; none if another node reads it."""
    found = []
    for at in graph.readers.get(part.name, []):
        node = graph.nodes[at]
        if node.op_type == "Transpose" and attributes(node).get("perm") == _TURNED:
            behind = _layers(graph, _turned(part, node))
        else:
            behind = [(at, part)] if _weight_axis(graph, node, part) is not None else []
        if not behind:
            return []
        found += behind
    return found


def _turned(part: _Part, node: NodeProto) -> _Part:
    source = f"{part.source}{_SUFFIX}_turned"
    return replace(part, source=source, name=node.output[0], axis=3 - part.axis)


def _weight_axis(graph: Graph, node: NodeProto, part: _Part) -> int | None:
    """The axis of a layer's constant weights that runs over the part's channels."""
    if node.domain not in ("", "ai.onnx") or list(node.input).count(part.name) != 1:
        return None
    if len(node.input) < 2 or node.input[0] != part.name:
        return None
    weight = graph.constant(node.input[1])
    if weight is None:
        return None
    given, axis = attributes(node), None
    if node.op_type == "Conv" and given.get("group", 1) == 1 and weight.ndim == part.rank == 3:
        axis = 1 if part.axis == 1 else None
    elif node.op_type == "Gemm" and not given.get("transA", 0):
        axis = int(given.get("transB", 0))
    elif node.op_type == "MatMul" and weight.ndim == 2 and part.axis == part.rank - 1:
        axis = 0
    return axis if axis is not None and weight.shape[axis] == part.stop - part.start else None


def _serve(model: ModelProto, graph: Graph, part: _Part, layers: list[tuple[int, _Part]]) -> None:
    """Have layers read all channels, and take out what no one reads then."""
    from onnx import helper, numpy_helper

    nodes = list(model.graph.node)
    made = {name for node in nodes for name in node.output}
    taken = made | {each.name for each in model.graph.initializer}
    for at, here in layers:
        node = graph.nodes[at]
        axis, weight = _weight_axis(graph, node, here), graph.constant(node.input[1])
        assert axis is not None
        assert weight is not None
        if here.source not in (part.source, *made):
            turn = helper.make_node("Transpose", [part.source], [here.source], perm=_TURNED)
            place = next(i for i, each in enumerate(nodes) if part.name in each.output)
            nodes.insert(place, turn)
            made.add(here.source)
        name = free_name(f"{node.name or node.output[0]}{_SUFFIX}", taken)
        padded = numpy_helper.from_array(_padded(weight, axis, here), name)
        model.graph.initializer.append(padded)
        node.input[0], node.input[1] = here.source, name
    wanted = needed(nodes, *(value.name for value in model.graph.output))
    # Copies, since what is deleted from a graph is gone.
    copies = [copy.deepcopy(node) for node in nodes if wanted.intersection(node.output)]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _padded(weight: NDArray[np.float32], axis: int, part: _Part) -> NDArray[np.float32]:
    around = [(0, 0)] * weight.ndim
    around[axis] = (part.start, part.total - part.stop)
    return np.pad(weight, around)
