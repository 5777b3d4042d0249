"""Tensors (time, batch, width), as torch's transformers have them by default, written batch first.

What works position by position does the same in either order; so turning a tensor is put off until
something turns it back, averages over time or picks a position.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_kernels.quantize.graph import Graph, attributes, free_name, needed, sizes
from edge_kernels.quantize.observed import Observed, observe
from edge_kernels.quantize.recurrences import KINDS, turned, viewed
from edge_kernels.quantize.shapes import drop

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

_TURNED: Final = [1, 0, 2]
_ELEMENTWISE: Final = frozenset({
    "Abs", "Add", "Cast", "Celu", "Clip", "Div", "Dropout", "Elu", "Erf", "Exp", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Mish", "Mul", "Neg", "Pow", "Reciprocal",
    "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Swish", "Tanh",
})  # fmt: skip
_REDUCTIONS: Final = ("ReduceMean", "ReduceMax", "ReduceSum")


def batch_first(model: ModelProto) -> ModelProto:
    """Put off turning tensors of three axes to (time, batch, width), in place.

    Parameters
    ----------
    model : ModelProto
        With inferred shapes and folded constants.

    Returns
    -------
    The model, with the shapes of what is new.
    """
    from onnx import shape_inference

    graph = Graph(model.graph)
    if not any(map(_turns, graph.nodes)):
        return model
    recurrent = any(node.op_type in KINDS for node in graph.nodes)
    names = {name for node in graph.nodes for name in (*node.input, *node.output)}
    observed = observe(model) if recurrent else None
    turner = Turner(graph, sizes(model), taken=names, observed=observed)
    for node in graph.nodes:
        turner.take(node)
    for value in model.graph.output:
        turner.plain(value.name)
    before = needed(graph.nodes, *(value.name for value in model.graph.output))
    nodes = [copy.deepcopy(node) for node in turner.nodes]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(turner.tensors)
    drop(model, before | turner.made)
    return shape_inference.infer_shapes(model, data_prop=True)


def _turns(node: NodeProto) -> bool:
    """Whether a node puts the batch second of three axes."""
    if node.op_type != "Transpose" or node.domain not in ("", "ai.onnx"):
        return False
    order = list(attributes(node).get("perm", []))
    return len(order) == 3 and order[1] == 0


@dataclass
class Turner:
    """Writes nodes anew.

    Attributes
    ----------
    twins : dict of str → str
        Of each tensor that is turned, the one (batch, time, width).
    states : dict of str → (str, int)
        Of a recurrent node's states (time, directions, batch, H), the tensor (batch, time,
        directions · H), and its width.
    observed : Observed, optional
        Of a model that has such nodes.
    """

    graph: Graph
    shapes: dict[str, tuple[int, ...]]
    twins: dict[str, str] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)
    made: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)
    states: dict[str, tuple[str, int]] = field(default_factory=dict)
    observed: Observed | None = None

    def take(self, node: NodeProto) -> None:
        """Write one node, on twins where it can be."""
        if node.input and node.input[0] in self.states and viewed(self, node):
            return
        if any(name in self.twins for name in node.input):
            write = _WRITERS.get(node.op_type)
            if node.op_type in _ELEMENTWISE:
                write = _elementwise
            if node.domain in ("", "ai.onnx") and write is not None and write(self, node):
                return
            for name in node.input:
                self.plain(name)
        elif _turns(node) and len(self.shapes.get(node.input[0], ())) == 3:
            order = list(attributes(node)["perm"])
            self.turn(node, node.input[0], [0, order[0], order[2]], turned=True)
            return
        self.nodes.append(node)

    def plain(self, name: str) -> None:
        """Make a turned tensor after all."""
        if name in self.twins and name not in self.made:
            self.add("Transpose", [self.twins[name]], name, perm=_TURNED)
            self.made.add(name)

    def add(self, op: str, read: list[str], output: str, **given: Any) -> None:
        """Append a node."""
        from onnx import helper

        self.nodes.append(helper.make_node(op, read, [output], name=f"{output}.{op}", **given))

    def twin(self, name: str) -> str:
        """Return a new name for the twin of a tensor that is made turned."""
        self.twins[name] = made = free_name(f"{name}.batch_first", self.taken)
        self.made.discard(name)
        return made

    def turn(self, node: NodeProto, x: str, order: list[int], *, turned: bool) -> None:
        """Append what is a Transpose of a tensor whose batch is first, or nothing."""
        output = node.output[0]
        if turned and order == [0, 1, 2]:
            self.twins[output] = x
        elif order == [0, 1, 2]:
            self.add("Identity", [x], output)
        else:
            self.add("Transpose", [x], self.twin(output) if turned else output, perm=order)

    def again(self, node: NodeProto, read: list[str], *, turned: bool, **given: Any) -> bool:
        """Append a node that reads others, and may have other attributes."""
        output = self.twin(node.output[0]) if turned else node.output[0]
        self.add(node.op_type, read, output, **{**attributes(node), **given})
        return True

    def constant(self, value: Any, name: str) -> str:
        """Append a constant; return its name."""
        from onnx import numpy_helper

        held = free_name(name, self.taken)
        self.tensors.append(numpy_helper.from_array(np.asarray(value, order="C"), held))
        return held

    def axes(self, node: NodeProto, at: int, rank: int = 3) -> list[int] | None:
        """Return axes of so many: an input, or in old opsets an attribute."""
        given = attributes(node).get("axes")
        known = self.graph.constant(node.input[at]) if len(node.input) > at else None
        given = known.reshape(-1).tolist() if known is not None else given
        return None if given is None else [int(axis) % rank for axis in given]


def _elementwise(turner: Turner, node: NodeProto) -> bool:
    read: list[str] = []
    for name in node.input:
        known = turner.graph.constant(name) if name else None
        if not name or name in turner.twins:
            read.append(turner.twins.get(name, ""))
        elif known is None or known.ndim > 3 or (known.ndim == 2 and len(known) > 1):
            return False
        elif known.ndim < 3:
            read.append(name)
        else:
            read.append(turner.constant(known.transpose(_TURNED), f"{name}.batch_first"))
    return turner.again(node, read, turned=True)


def _matmul(turner: Turner, node: NodeProto) -> bool:
    x, weight = node.input
    known = turner.graph.constant(weight)
    fits = x in turner.twins and known is not None and known.ndim == 2
    return fits and turner.again(node, [turner.twins[x], weight], turned=True)


def _norm(turner: Turner, node: NodeProto) -> bool:
    last = attributes(node).get("axis", -1) in (-1, 2) and not any(node.output[1:])
    known = all(turner.graph.constant(name) is not None for name in node.input[1:])
    read = [turner.twins.get(node.input[0], ""), *node.input[1:]]
    return bool(last and known and read[0]) and turner.again(node, read, turned=True)


def _transpose(turner: Turner, node: NodeProto) -> bool:
    order = [_TURNED[axis] for axis in attributes(node)["perm"]]
    x = turner.twins[node.input[0]]
    if order[0] == 0:
        turner.turn(node, x, order, turned=False)
    elif order[1] == 0:
        turner.turn(node, x, [0, order[0], order[2]], turned=True)
    return 0 in order[:2]


def _reduce(turner: Turner, node: NodeProto) -> bool:
    axes, keep = turner.axes(node, 1), bool(attributes(node).get("keepdims", 1))
    if axes not in ([0], [2]) or (axes == [2] and not keep):
        return False
    x, moved = turner.twins[node.input[0]], [_TURNED[axes[0]]]
    if len(node.input) < 2:
        return turner.again(node, [x], turned=keep, axes=moved)
    held = turner.constant(np.array(moved, np.int64), f"{node.output[0]}.axes")
    return turner.again(node, [x, held], turned=keep)


def _gather(turner: Turner, node: NodeProto) -> bool:
    index = turner.graph.constant(node.input[1])
    axis = attributes(node).get("axis", 0) % 3
    if axis == 1 or index is None or index.ndim > 1 or node.input[0] not in turner.twins:
        return False
    if axis == 2 and index.ndim == 0:
        return False
    read = [turner.twins[node.input[0]], node.input[1]]
    return turner.again(node, read, turned=index.ndim == 1, axis=_TURNED[axis])


def _slice(turner: Turner, node: NodeProto) -> bool:
    axes = turner.axes(node, 3)
    if axes is None or 1 in axes or len(node.input) < 4 or node.input[0] not in turner.twins:
        return False
    moved = np.array([_TURNED[axis] for axis in axes], np.int64)
    held = turner.constant(moved, f"{node.output[0]}.axes")
    read = [turner.twins[node.input[0]], *node.input[1:3], held, *node.input[4:]]
    return turner.again(node, read, turned=True)


def _concat(turner: Turner, node: NodeProto) -> bool:
    axis = attributes(node)["axis"] % 3
    if axis == 1:
        return False
    read = []
    for name in node.input:
        if name not in turner.twins:  # the token of a class, say, copied for each sample
            turner.add("Transpose", [name], turner.twin(name), perm=_TURNED)
            turner.made.add(name)
        read.append(turner.twins[name])
    return turner.again(node, read, turned=True, axis=_TURNED[axis])


def _squeeze(turner: Turner, node: NodeProto) -> bool:
    """Of the first axis, as of a last state (1, batch, H)."""
    if turner.axes(node, 1) != [0]:
        return False
    held = turner.constant(np.array([1], np.int64), f"{node.output[0]}.axes")
    x = turner.twins[node.input[0]]
    if len(node.input) < 2:
        return turner.again(node, [x], turned=False, axes=[1])
    return turner.again(node, [x, held], turned=False)


_WRITERS: Final[dict[str, Callable[[Turner, NodeProto], bool]]] = {
    "MatMul": _matmul,
    "LayerNormalization": _norm,
    "RMSNormalization": _norm,
    "Transpose": _transpose,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Squeeze": _squeeze,
    **dict.fromkeys(KINDS, turned),
    **dict.fromkeys(_REDUCTIONS, _reduce),
}
