"""Where a model's integers begin: the tensor that all of its layers start from."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from edge_kernels.integer.net import FREE, Norm, Shape
from edge_kernels.quantize.forms import Forms
from edge_kernels.quantize.graph import (
    Graph,
    Unserved,
    candidate,
    depending,
    needed,
    read_layer,
    reads,
    sizes,
    unserved,
)
from edge_kernels.quantize.walk import called

if TYPE_CHECKING:
    from onnx import ModelProto


def first_read(model: ModelProto, graph: Graph, forms: Forms, result: str) -> tuple[str, Shape]:
    """Return what the first layer reads, or the norm before it, and its shape without the batch.

    Where another branch of the network begins before that tensor, it is the one where both begin.

    Raises
    ------
    ValueError
        Naming the last layer that was looked at, and why it cannot be the first.
    """
    wanted = needed(graph.nodes, result)
    shapes = {name: shape[1:] for name, shape in sizes(model).items()}
    why = "it has no Conv, Gemm or MatMul with constant weights"
    left: dict[int, str] = {}
    for at, node in enumerate(graph.nodes):
        if not candidate(node) or not wanted.intersection(node.output):
            continue
        try:
            source = read_layer(graph, at).source
        except Unserved as error:
            left[at] = why = f"{called(node)}: {error}"
            continue
        shape = shapes.get(source, ())
        if forms.observed is not None:
            source, shape = _origin(graph, forms, source)
        common = _common(graph, source, result, model.graph.input[0].name)
        if common != source:
            source, shape = common, _shape(forms, common, shapes)
        if len(shape) in (1, 2) and min(shape[1:] if shape[0] == FREE else shape) > 0:
            _warn_of_floats(graph, left, source)
            return source, shape
        left[at] = why = (
            f"{called(node)} reads {source!r}, whose shape but for the batch is unknown or not "
            "(channels, time) or (inputs,): export with fixed sizes"
        )
    raise ValueError(f"no layer of the model can run in integers: {why}")


def _warn_of_floats(graph: Graph, left: dict[int, str], source: str) -> None:
    """Say which layers of constant weights become part of the float prologue, and why."""
    before = needed(graph.nodes, source)
    nodes = {at: graph.nodes[at] for at in left}
    whys = [
        left[at]
        for at, node in nodes.items()
        if node.output[0] in before and graph.constant(node.input[1]) is not None
    ]
    others = [node for node in graph.nodes if before.intersection(node.output)]
    whys += [f"{called(node)}: {why}" for node in others if (why := unserved(node)) is not None]
    if whys:
        warnings.warn(
            f"layers before {source!r}, where the integers begin, stay in float: {'; '.join(whys)}",
            stacklevel=5,
        )


def _origin(graph: Graph, forms: Forms, source: str) -> tuple[str, Shape]:
    """The tensor (batch, positions, D) whose view a layer reads; before its norm, if it has one."""
    assert forms.observed is not None
    while (shape := forms.observed.logical(source)) is None:
        node = graph.maker(source)
        if node is None or node.op_type != "Reshape":
            return source, ()
        source = node.input[0]
    norm = forms.made(source)
    if norm is not None and isinstance(norm.step, Norm):
        before = forms.observed.logical(norm.sources[0])
        return (norm.sources[0], before) if before == shape else (source, shape)
    return source, shape


def _common(graph: Graph, source: str, result: str, given: str) -> str:
    """The latest tensor before which no node behind it reads, from one on backwards."""
    before, numbers = needed(graph.nodes, source), depending(graph, given)
    wanted = needed(graph.nodes, result)
    behind = [n for n in graph.nodes if wanted.intersection(n.output) - before]
    read = {name for node in behind for name in reads(node)} & before & numbers - {source}
    if not read:
        return source
    made = [name for node in graph.nodes for name in node.output]
    first = given if given in read else min(read, key=made.index)
    return _common(graph, first, result, given)


def _shape(forms: Forms, name: str, shapes: dict[str, Shape]) -> Shape:
    if forms.observed is None:
        return shapes.get(name, ())
    return forms.observed.logical(name) or ()
