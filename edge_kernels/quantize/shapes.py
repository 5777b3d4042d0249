"""Shapes of a graph: inferred, and made constants where the batch alone is open."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from math import prod
from typing import TYPE_CHECKING, Final

import numpy as np

from edge_kernels.quantize.graph import Graph, free_name, needed

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

_SHAPE_SINCE: Final = 15  # what a Shape returns is inferred in it; graphs of 13 are graphs of 15
_SMALL: Final = 1024  # elements of what may be a shape; longer constants are weights


def shaped(model: ModelProto, known: Iterable[ValueInfoProto] = ()) -> GraphProto:
    """Return a model's graph with shapes; its weights are inputs, so that it may be of any size.

    Parameters
    ----------
    model : ModelProto
        Not changed. Shapes of outputs are not believed.
    known : value infos
        What is believed of the tensors between.
    """
    from onnx import ModelProto as Model
    from onnx import helper, shape_inference

    bare, graph = Model(ir_version=model.ir_version, opset_import=model.opset_import), model.graph
    for each in bare.opset_import:
        if each.domain in ("", "ai.onnx"):
            each.version = max(each.version, _SHAPE_SINCE)
    bare.graph.name = graph.name
    bare.graph.node.extend(graph.node)
    bare.graph.input.extend(graph.input)
    bare.graph.value_info.extend(known)
    bare.graph.output.extend(graph.output)
    for value in bare.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    given = {value.name for value in graph.input}
    for each in graph.initializer:
        if prod(each.dims) <= _SMALL:
            bare.graph.initializer.append(each)
        elif each.name not in given:
            value = helper.make_tensor_value_info(each.name, each.data_type, each.dims)
            bare.graph.input.append(value)
    return shape_inference.infer_shapes(bare, data_prop=True).graph


def settled(model: ModelProto) -> ModelProto:
    """Infer shapes, and have a Reshape to (batch, sizes) take a constant, in place.

    torch's older exporter writes ``x.view(x.size(0), -1)`` as a chain of Shape, Gather and Concat.

    Parameters
    ----------
    model : ModelProto
        As `edge_kernels.quantize.files.load` returns it; of any size.
    """
    # Inferred from the inputs alone: exporters annotate outputs with the batch that they traced.
    while _settle(model, shaped(model)):
        pass  # what follows a settled one is known by now
    inferred = shaped(model, model.graph.value_info).value_info
    del model.graph.value_info[:]
    model.graph.value_info.extend(inferred)
    return model


def _settle(model: ModelProto, found: GraphProto) -> bool:
    """Give constant shapes to what can have them; whether there was one."""
    from onnx import numpy_helper

    graph = Graph(model.graph)
    sizes = {v.name: _sizes(v) for v in (*found.input, *found.value_info, *found.output)}
    before = needed(graph.nodes, *(value.name for value in model.graph.output))
    changed = False
    for node in graph.nodes:
        if not _computed(graph, node):
            continue
        wanted = _wanted(sizes.get(node.input[0], []), sizes.get(node.output[0], []))
        if wanted is None:
            continue
        name = free_name(f"{node.output[0]}.shape", before)
        model.graph.initializer.append(numpy_helper.from_array(np.array(wanted, np.int64), name))
        node.input[1] = name
        changed = True
    if changed:
        drop(model, before)
    return changed


def _computed(graph: Graph, node: NodeProto) -> bool:
    """Whether a node reshapes to what other nodes compute."""
    if node.op_type != "Reshape" or node.domain not in ("", "ai.onnx"):
        return False
    return graph.maker(node.input[1]) is not None and graph.constant(node.input[1]) is None


def _sizes(value: ValueInfoProto) -> list[int | str]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims]


def _wanted(before: list[int | str], after: list[int | str]) -> list[int] | None:
    """The shape for a Reshape whose result is known but for the first axis; None: it is not."""
    rest = after[1:]
    open_ones = [at for at, size in enumerate(rest) if isinstance(size, str)]
    samples = bool(before and after) and before[0] == after[0] != ""
    if len(open_ones) == 1 and samples and not any(isinstance(size, str) for size in before[1:]):
        known = prod(size for size in rest if isinstance(size, int))
        rest[open_ones[0]] = prod(map(int, before[1:])) // max(known, 1)
    sizes = [size for size in rest if isinstance(size, int) and size > 0]
    if not sizes or len(sizes) < len(rest):
        return None
    return [after[0] if isinstance(after[0], int) else -1, *sizes]


def drop(model: ModelProto, before: set[str]) -> None:
    """Take out the nodes that were needed for the model's outputs before, and are no longer."""
    nodes = list(model.graph.node)
    still = needed(nodes, *(value.name for value in model.graph.output))
    kept = [n for n in nodes if still.intersection(n.output) or not before.intersection(n.output)]
    kept = copy.deepcopy(kept)
    del model.graph.node[:]
    model.graph.node.extend(kept)
