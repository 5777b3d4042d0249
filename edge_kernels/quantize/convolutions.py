"""1-D convolutions as the kernels take them: with pads of their own, and without groups."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_kernels.quantize.graph import Graph, attributes
from edge_kernels.quantize.shapes import shaped

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edge_kernels.integer.net import Shape

# What treats every position alike: a cut of positions may as well come before it.
_POSITIONWISE: Final = ("BatchNormalization", "Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu")
_PLAIN: Final = ("", "ai.onnx")
_ENDLESS: Final = (1 << 31) - 1  # exporters write such an end of a slice that has none
_MOST: Final = 1 << 22  # weights of a layer without groups; on a device they are bytes


def padded(model: ModelProto) -> ModelProto:
    """Have convolutions pad by themselves, in place.

    A Pad of zeros that convolutions alone read becomes theirs, and a Slice that cuts off positions
    that a convolution's own padding made takes that padding away (a causal network pads both ends
    and cuts the later one). Whatever is not surely such stays as it is.

    Parameters
    ----------
    model : ModelProto
        With folded constants: torch's older exporter makes a Pad's by a chain of nodes.
    """
    while _one(model):
        pass
    return model


def ungrouped(model: ModelProto) -> ModelProto:
    """Write out grouped 1-D convolutions with weights of 0 between the groups, in place.

    The same numbers, by ``group`` times as many products: a depthwise layer of a wearable's width
    is so few of them that a kernel of its own would save little. It warns of layers that have more
    bytes so, in 8 bits, than in float.

    Parameters
    ----------
    model : ModelProto
        With folded constants.
    """
    from onnx import numpy_helper

    graph, grown = Graph(model.graph), []
    for node in graph.nodes:
        groups = attributes(node).get("group", 1) if _plain(node, "Conv") else 1
        weights = graph.constant(node.input[1]) if groups > 1 else None
        if weights is None or weights.ndim != 3 or len(weights) % groups:
            continue
        if weights.size * groups > _MOST:
            continue
        name = f"{node.output[0]}.ungrouped"
        wide = _spread(weights, groups)
        if wide.size > weights.nbytes:
            size = f"{weights.nbytes} bytes become {wide.size}"
            grown.append(f"node {node.name or node.output[0]!r}, {groups} groups: {size}")
        model.graph.initializer.append(numpy_helper.from_array(wide, name))
        node.input[1] = name
        next(each for each in node.attribute if each.name == "group").i = 1
    if grown:
        warnings.warn(
            "grouped convolutions are written out with zeros between the groups, and 8-bit weights "
            f"are larger so than the float ones ({'; '.join(grown)}); only the export to QDQ "
            "leaves the zeros out",
            stacklevel=4,
        )
    return model


def _spread(weights: NDArray[Any], groups: int) -> NDArray[Any]:
    rows, channels, kernel = weights.shape
    wide = np.zeros((groups, rows // groups, groups, channels, kernel), weights.dtype)
    for at, each in enumerate(weights.reshape(groups, -1, channels, kernel)):
        wide[at, :, at] = each
    return wide.reshape(rows, groups * channels, kernel)


def _plain(node: NodeProto, *kinds: str) -> bool:
    return node.domain in _PLAIN and node.op_type in kinds


def _one(model: ModelProto) -> bool:
    """Fold the first node that can be; whether there was one."""
    graph = Graph(model.graph)
    for at, node in enumerate(graph.nodes):
        pad = _plain(node, "Pad") and _fold_pad(graph, node)
        if pad or (_plain(node, "Slice") and _fold_cut(model, graph, node)):
            kept = [copy.deepcopy(each) for i, each in enumerate(graph.nodes) if i != at]
            del model.graph.node[:]
            model.graph.node.extend(kept)
            return True
    return False


def _fold_pad(graph: Graph, node: NodeProto) -> bool:
    output = node.output[0]
    layers = [graph.nodes[at] for at in graph.readers.get(output, [])]
    amounts = _zeros(graph, node)
    if amounts is None or not layers or graph.uses[output] != len(layers):
        return False
    pads = [_pads(graph, each) for each in layers if each.input[0] == output]
    own = [each for each in pads if each is not None]
    if len(own) < len(layers):
        return False
    for layer, (begin, end) in zip(layers, own, strict=True):
        _set_pads(layer, begin + amounts[0], end + amounts[1])
        layer.input[0] = node.input[0]
    return True


def _zeros(graph: Graph, node: NodeProto) -> tuple[int, int] | None:
    """How many zeros a Pad puts before and behind the last of three axes; None: it does else."""
    given = attributes(node)
    constants = [graph.constant(name) if name else None for name in node.input[1:]]
    amounts, value, axes = (*constants, None, None, None)[:3]
    named = [name for name in node.input[1:] if name]
    if sum(each is not None for each in constants) < len(named) or amounts is None:
        return None
    if given.get("mode", b"constant") != b"constant":
        return None
    whole = [2] if axes is not None and axes.tolist() in ([2], [-1]) else [0, 1, 2]
    if amounts.size != 2 * len(whole) or (value is not None and value.any()):
        return None
    begin, end = np.split(amounts.reshape(-1), 2)
    if begin[:-1].any() or end[:-1].any() or min(begin[-1], end[-1]) < 0:
        return None
    return int(begin[-1]), int(end[-1])


def _pads(graph: Graph, node: NodeProto) -> tuple[int, int] | None:
    """A 1-D convolution's own pads; None: it is none, or they depend on the length."""
    if not _plain(node, "Conv") or len(node.input) < 2:
        return None
    weights, given = graph.constant(node.input[1]), attributes(node)
    if weights is None or weights.ndim != 3:
        return None
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    begin, end = given.get("pads", (0, 0))
    return begin, end


def _set_pads(node: NodeProto, begin: int, end: int) -> None:
    from onnx import helper

    kept = [copy.deepcopy(each) for each in node.attribute if each.name not in ("pads", "auto_pad")]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("pads", [begin, end])])


def _fold_cut(model: ModelProto, graph: Graph, node: NodeProto) -> bool:
    between = _back_to_layer(graph, node.input[0])
    layer = between[-1] if between else None
    pads = None if layer is None else _pads(graph, layer)
    if layer is None or pads is None or attributes(layer).get("strides", [1])[0] != 1:
        return False
    cut = _cut(graph, node, partial(_length, model, node.input[0]))
    if cut is None or cut[0] > pads[0] or cut[1] > pads[1]:
        return False
    _set_pads(layer, pads[0] - cut[0], pads[1] - cut[1])
    _forget_shapes(model, {each.output[0] for each in between})
    between[0].output[0] = node.output[0]
    return True


def _back_to_layer(graph: Graph, name: str) -> list[NodeProto]:
    """What makes a tensor, back to a convolution whose positions nobody else reads; else none."""
    found: list[NodeProto] = []
    while (node := graph.maker(name)) is not None and graph.only_reader(name) is not None:
        found.append(node)
        if _plain(node, "Conv"):
            return found
        if not _plain(node, *_POSITIONWISE):
            break
        name = node.input[0]
    return []


def _forget_shapes(model: ModelProto, names: set[str]) -> None:
    kept = [copy.deepcopy(each) for each in model.graph.value_info if each.name not in names]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


def _cut(graph: Graph, node: NodeProto, length: Callable[[], int]) -> tuple[int, int] | None:
    """How many positions a Slice takes off at each end of the last of three axes."""
    known = [graph.constant(name) for name in node.input[1:] if name]
    values = [int(each.reshape(-1)[0]) for each in known if each is not None and each.size == 1]
    if len(values) < 3 or len(values) != len(node.input) - 1:
        return None
    start, stop, axis, *step = values
    if axis not in (2, -1) or step not in ([], [1]) or start < 0:
        return None
    if stop < 0:
        return start, -stop
    if stop >= _ENDLESS:
        return start, 0
    size = length()
    return (start, max(size - stop, 0)) if size else None


def _length(model: ModelProto, name: str) -> int:
    """Positions of a tensor (batch, channels, positions); 0: not known."""
    found = shaped(model)
    sizes: dict[str, Shape] = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*found.input, *found.value_info, *found.output)
    }
    shape = sizes.get(name, ())
    return shape[2] if len(shape) == 3 else 0
