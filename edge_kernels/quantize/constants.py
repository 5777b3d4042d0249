"""Constants that a graph computes from constants, computed ahead."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_kernels.quantize.graph import reads
from edge_kernels.quantize.shapes import shaped

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_MOST_FOLDED = 1 << 22  # elements of a constant that is computed ahead
_RANDOM = (
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
)


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
    from onnx import numpy_helper

    folded = copy.deepcopy(model)
    graph = folded.graph
    types = {v.name: v.type.tensor_type.elem_type for v in graph.input}
    inferred = shaped(folded, graph.value_info).value_info
    types.update((v.name, v.type.tensor_type.elem_type) for v in inferred)
    fed = {value.name for value in graph.input}
    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name not in fed}
    given = set(known)
    kept: list[NodeProto] = []
    for node in graph.node:
        results = _computed(node, known, types, folded)
        if results is None:
            kept.append(node)
        else:
            known.update(zip(node.output, results, strict=True))
    needed = {v.name for v in graph.output}.union(*(reads(node) for node in kept), fed)
    nodes = copy.deepcopy(kept)
    del graph.node[:]
    graph.node.extend(nodes)
    for at in reversed(range(len(graph.initializer))):
        if graph.initializer[at].name not in needed:
            del graph.initializer[at]
    made = sorted((set(known) - given) & needed)
    graph.initializer.extend(numpy_helper.from_array(known[name], name) for name in made)
    return folded


def _computed(
    node: NodeProto, known: dict[str, NDArray[Any]], types: dict[str, int], model: ModelProto
) -> list[NDArray[Any]] | None:
    """Return a node's results if it reads constants alone."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    if node.domain not in ("", "ai.onnx") or node.op_type in _RANDOM:
        return None
    if node.op_type == "CastLike" and node.input[0] in known:  # of the other, the type alone counts
        wanted = types.get(node.input[1], 0)
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
