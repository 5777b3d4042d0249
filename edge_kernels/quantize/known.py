"""Numbers that nodes compute of shapes, and that are the same for every window, as constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_kernels.quantize.constants import fold
from edge_kernels.quantize.graph import Graph, depending, needed
from edge_kernels.quantize.observed import observe
from edge_kernels.quantize.shapes import drop

if TYPE_CHECKING:
    from onnx import ModelProto

# Whose operands are looked at: attention's scale is made of a head's width by torch's older
# exporter, and what is taken of learned positions of their number.
_READERS: Final = ("Mul", "Div", "Slice")


def known(model: ModelProto) -> ModelProto:
    """Make constants of operands that depend on shapes alone, in place; and what follows of them.

    They are those of two runs with other batches, and other lengths where these are free.

    Parameters
    ----------
    model : ModelProto
        Of one input; others are returned as they are.
    """
    from onnx import numpy_helper

    if len(model.graph.input) != 1:
        return model
    graph = Graph(model.graph)
    numbers = depending(graph, model.graph.input[0].name)
    nodes = [node for node in graph.nodes if node.op_type in _READERS]
    wanted = {
        name
        for node in nodes
        for name in node.input
        if name and name not in numbers and graph.constant(name) is None
    }
    try:
        held = observe(model).small if wanted else {}
    except ValueError:  # whoever needs it says so
        return model
    wanted &= held.keys()
    if not wanted:
        return model
    before = needed(graph.nodes, *(value.name for value in model.graph.output))
    for node in nodes:
        for at, name in enumerate(node.input):
            if name in wanted:
                node.input[at] = f"{name}.known"
    tensors = [numpy_helper.from_array(held[name], f"{name}.known") for name in sorted(wanted)]
    model.graph.initializer.extend(tensors)
    drop(model, before)
    return fold(model)
