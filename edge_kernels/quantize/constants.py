"""Constants that a graph computes from constants, computed ahead."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_kernels.quantize.graph import Graph, needed, reads
from edge_kernels.quantize.shapes import shaped

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_MOST_FOLDED = 1 << 22  # elements of a constant that is computed ahead
_LITTLE = 1 << 12  # elements of one that may be larger than what it is made of, in any model
_RANDOM = (
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
)


class _Known:
    """What is the same at every run: decoded when it is asked for, since a model may be large."""

    def __init__(self, model: ModelProto, graph: Graph, given: Iterable[str]) -> None:
        self.given = set(given)
        self.made: dict[str, NDArray[Any]] = {}
        self._model, self._graph = model, graph

    @cached_property
    def types(self) -> dict[str, int]:
        """ONNX's numbers of tensors' types, as far as they are known."""
        graph = self._model.graph
        values = (*graph.input, *shaped(self._model, graph.value_info).value_info)
        return {value.name: value.type.tensor_type.elem_type for value in values}

    def __contains__(self, name: str) -> bool:
        return name in self.made or name in self.given

    def __getitem__(self, name: str) -> NDArray[Any]:
        value = self.made[name] if name in self.made else self._graph.constant(name)
        assert value is not None
        return value


def fold(model: ModelProto) -> ModelProto:
    """Compute ahead what depends on constants alone.

    PyTorch's exporter without optimisation writes a batch norm's factor and term as a chain of
    small nodes; once they are constants, `edge_kernels.quantize.rtn` folds them into the layer
    before, which has to happen before its weights are rounded.

    Parameters
    ----------
    model : ModelProto
        Not changed.
    """
    folded = copy.deepcopy(model)
    graph = Graph(folded.graph)
    known = _Known(folded, graph, graph.initializers())
    _fold(folded, known, lambda node: _computed(node, known, folded))
    return folded


def fold_sparingly(model: ModelProto) -> ModelProto:
    """Compute ahead, in place, what `Graph.constant` does not look up; a model hardly grows by it.

    A table and its transposition stay one tensor, weights that are quantized already stay so, and
    what is larger than all that it is made of stays a node.
    """
    graph = Graph(model.graph)
    carried = (node.output[0] for node in graph.nodes if graph.is_constant(node))
    looked_up = {name for name in carried if graph.constant(name) is not None}
    known = _Known(model, graph, looked_up.union(graph.initializers()))

    def small(node: NodeProto) -> list[NDArray[Any]] | None:
        if node.output[0] in looked_up or node.op_type == "DequantizeLinear":
            return None
        results = _computed(node, known, model)
        if results is None:
            return None
        most = max(_LITTLE, sum(known[name].size for name in node.input if name in known))
        return results if sum(each.size for each in results) <= most else None

    _fold(model, known, small)
    return model


def _fold(
    model: ModelProto, known: _Known, computed: Callable[[NodeProto], list[NDArray[Any]] | None]
) -> None:
    """Put what nodes make of constants in their place, in place; a node at a time."""
    from onnx import numpy_helper

    graph = model.graph
    kept: list[NodeProto] = []
    for node in graph.node:
        results = computed(node)
        if results is None:
            kept.append(node)
        else:
            known.made.update(zip(node.output, results, strict=True))
    ends = {value.name for value in (*graph.output, *graph.input)}
    wanted = needed(kept, *ends)
    # What carries a constant goes where nobody reads it any more.
    kept = [n for n in kept if n.output[0] not in known.given or wanted.intersection(n.output)]
    nodes = copy.deepcopy(kept)
    read = ends.union(*(reads(node) for node in nodes))
    del graph.node[:]
    graph.node.extend(nodes)
    for at in reversed(range(len(graph.initializer))):
        if graph.initializer[at].name not in read:
            del graph.initializer[at]
    made = sorted(known.made.keys() & read)
    graph.initializer.extend(numpy_helper.from_array(known.made[name], name) for name in made)


def _computed(node: NodeProto, known: _Known, model: ModelProto) -> list[NDArray[Any]] | None:
    """Return a node's results if it reads constants alone."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    if node.domain not in ("", "ai.onnx") or node.op_type in _RANDOM:
        return None
    if node.op_type == "CastLike" and node.input[0] in known:  # of the other, the type alone counts
        wanted = known.types.get(node.input[1], 0)
        value = known[node.input[0]]
        same = wanted and helper.tensor_dtype_to_np_dtype(wanted) == value.dtype
        return [value] if same else None
    if any(name not in known for name in reads(node)):
        return None
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(known[name].dtype), known[name].shape
        )
        for name in dict.fromkeys(node.input)
        if name
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    body = helper.make_graph([node], "constant", inputs, outputs)
    alone = helper.make_model(body, opset_imports=list(model.opset_import))
    alone.ir_version = model.ir_version
    try:
        feeds = {name: known[name] for name in node.input if name}
        results = [np.asarray(each) for each in ReferenceEvaluator(alone).run(None, feeds)]
    except Exception:  # noqa: BLE001 (whatever onnx cannot compute stays in the graph)
        return None
    return results if all(each.size <= _MOST_FOLDED for each in results) else None
