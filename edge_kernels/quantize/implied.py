"""What operators assume anyhow, taken out of a graph: devices do without the nodes that say it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_kernels.quantize.graph import Graph, attributes, needed, sizes
from edge_kernels.quantize.shapes import drop

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edge_kernels.integer.net import Shape

_RECURRENT: Final = {"GRU": (5,), "LSTM": (5, 6)}  # operands: initial states
# What makes zeros of zeros.
_KEEPS: Final = ("Expand", "Slice", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity")
_PLAIN: Final = ("", "ai.onnx")


def unsaid(model: ModelProto) -> ModelProto:
    """Take out initial states of zeros, and the widening of a divisor by Expand, in place.

    torch writes the first where a GRU or an LSTM is given no state, the second at the end of
    ``torch.nn.functional.normalize``. A bundle takes neither ConstantOfShape nor Expand: what they
    make has no bound that can be told from a graph.

    Parameters
    ----------
    model : ModelProto
        With inferred shapes.
    """
    graph, shapes = Graph(model.graph), sizes(model)
    before = needed(graph.nodes, *(value.name for value in model.graph.output))
    changed = False
    for node in graph.nodes:
        if node.domain not in _PLAIN:
            continue
        for operand in _RECURRENT.get(node.op_type, ()):
            if operand < len(node.input) and _zeros(graph, node.input[operand]):
                node.input[operand], changed = "", True
        narrow = _narrow(graph, node, shapes) if node.op_type == "Div" else None
        if narrow is not None:
            node.input[1], changed = narrow, True
    if changed:
        drop(model, before)
    return model


def _zeros(graph: Graph, name: str) -> bool:
    """Whether a tensor surely holds nothing but zeros."""
    known, node = graph.constant(name) if name else None, graph.maker(name)
    if known is not None or node is None or node.domain not in _PLAIN:
        return known is not None and not known.any()
    if node.op_type == "ConstantOfShape":
        value = attributes(node).get("value")
        return value is None or not any(value.raw_data or value.float_data)
    return node.op_type in _KEEPS and _zeros(graph, node.input[0])


def _narrow(graph: Graph, node: NodeProto, shapes: dict[str, Shape]) -> str | None:
    """What a divisor is before an Expand that makes it no larger than what is divided."""
    expand = graph.maker(node.input[1])
    if expand is None or expand.op_type != "Expand":
        return None
    whole, wide = (shapes.get(name, ()) for name in node.input)
    fits = len(whole) > 1 and min(whole[1:]) > 0 and len(whole) == len(wide)
    return expand.input[0] if fits and whole[1:] == wide[1:] else None
