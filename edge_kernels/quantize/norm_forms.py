"""Norms over the last axis: a node, or the chain of nodes that exporters write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_kernels.integer.net import Norm
from edge_kernels.quantize.graph import Graph, Unserved, attributes
from edge_kernels.quantize.observed import Form, Observed

if TYPE_CHECKING:
    from onnx import NodeProto


def norm_node(graph: Graph, observed: Observed, at: int) -> Form:
    """Return the form that is ONNX's own node, with what of its factor and term follows.

    Raises
    ------
    Unserved
        If it norms other axes, its statistics are read, or a factor is no constant a channel.
    """
    node = graph.nodes[at]
    given = attributes(node)
    x = node.input[0]
    width = observed.concrete(x)[-1]
    if given.get("axis", -1) % len(observed.concrete(x)) != len(observed.concrete(x)) - 1:
        raise Unserved(f"it norms from axis {given['axis']} on; the last alone is served")
    if any(node.output[1:]) and any(graph.uses[name] for name in node.output[1:]):
        raise Unserved("its mean or deviation is read")
    factor = _vector(graph, node.input[1], width)
    term = np.zeros(width)
    if len(node.input) > 2 and node.input[2]:
        term = _vector(graph, node.input[2], width)
    rms = node.op_type == "RMSNormalization"
    step = Norm(0, factor, term, float(given.get("epsilon", 1e-5)), rms)
    return _gained(graph, Form(node.output[0], (x,), frozenset([at]), step))


def _vector(graph: Graph, name: str, width: int) -> NDArray[np.float64]:
    known = graph.constant(name)
    fits = known is not None and known.size in (1, width)
    if known is None or not fits or (known.size > 1 and known.shape[-1] != known.size):
        raise Unserved(f"its factor or term {name!r} is not one constant a channel")
    return np.broadcast_to(np.asarray(known, np.float64).reshape(-1), (width,)).copy()


@dataclass
class _Root:
    """What became of a mean of squares: its sum with ε, then one root, then maybe 1 over that."""

    epsilon: float = 0.0
    rooted: bool = False
    inverse: bool = False

    def take(self, graph: Graph, node: NodeProto, tensor: str) -> bool:
        """Follow a node that reads what there is so far; False: it makes something else of it."""
        power = _power(graph, node)
        if self.rooted:
            again, self.inverse = self.inverse, True
            return node.op_type == "Reciprocal" and not again
        if node.op_type == "Add" and (value := _other_scalar(graph, node, tensor)) is not None:
            self.epsilon += value
            return True
        self.rooted, self.inverse = True, power == -0.5
        return node.op_type == "Sqrt" or power in (0.5, -0.5)


def norm_chain(graph: Graph, observed: Observed, at: int) -> Form | None:
    """Return the form that begins at a mean of squares; None: it is no norm.

    ReduceMean, Add ε, Sqrt, Div; or Reciprocal and Mul for Div.
    """
    node = graph.nodes[at]
    squared = graph.maker(node.input[0])
    if squared is None or not _over_last(graph, observed, node):
        return None
    d = _square_of(graph, squared)
    if d is None:
        return None
    x, centring = _centred(graph, observed, d)
    nodes = {at, graph.at(squared), *centring}
    tensor, root = node.output[0], _Root()
    while (after := graph.only_reader(tensor)) is not None:
        step = graph.nodes[after]
        if step.op_type in ("Div", "Mul") and d in step.input:
            return _ended(graph, observed, (d, x), nodes | {after}, root, after)
        if not root.take(graph, step, tensor):
            return None
        nodes.add(after)
        tensor = step.output[0]
    return None


def _ended(
    graph: Graph,
    observed: Observed,
    names: tuple[str, str],
    nodes: set[int],
    root: _Root,
    last: int,
) -> Form | None:
    d, x = names
    node = graph.nodes[last]
    if not root.rooted or (node.op_type == "Mul") != root.inverse:
        return None
    if node.op_type == "Div" and node.input[0] != d:
        return None
    inner = {name for each in nodes for name in graph.nodes[each].output} - {node.output[0]}
    if any(set(graph.readers.get(name, [])) - nodes for name in inner):
        return None  # somebody else reads what lies inside
    width = observed.concrete(x)[-1]
    step = Norm(0, np.ones(width), np.zeros(width), root.epsilon, rms=d == x)
    return _gained(graph, Form(node.output[0], (x,), frozenset(nodes), step))


def _gained(graph: Graph, form: Form) -> Form:
    """Take in a factor and a term of each channel that follow."""
    norm = form.step
    assert isinstance(norm, Norm)
    while (after := graph.only_reader(form.output)) is not None:
        node = graph.nodes[after]
        if node.op_type not in ("Mul", "Add"):
            break
        other = node.input[1] if node.input[0] == form.output else node.input[0]
        try:
            vector = _vector(graph, other, len(norm.factor))
        except Unserved:
            break
        if node.op_type == "Mul":
            norm = Norm(0, norm.factor * vector, norm.term * vector, norm.epsilon, norm.rms)
        else:
            norm = Norm(0, norm.factor, norm.term + vector, norm.epsilon, norm.rms)
        form = Form(node.output[0], form.sources, form.nodes | {after}, norm)
    return form


def _over_last(graph: Graph, observed: Observed, node: NodeProto) -> bool:
    shape = observed.concrete(node.input[0])
    axes = attributes(node).get("axes")
    if axes is None and len(node.input) > 1:
        known = graph.constant(node.input[1])
        axes = None if known is None else known.tolist()
    keep = attributes(node).get("keepdims", 1)
    return bool(keep and axes and [axis % len(shape) for axis in axes] == [len(shape) - 1])


def _square_of(graph: Graph, node: NodeProto) -> str | None:
    if _power(graph, node) == 2:
        return str(node.input[0])
    if node.op_type == "Mul" and node.input[0] == node.input[1]:
        return str(node.input[0])
    return None


def _power(graph: Graph, node: NodeProto) -> float | None:
    if node.op_type != "Pow":
        return None
    known = graph.constant(node.input[1])
    return None if known is None or known.size != 1 else float(known.reshape(()))


def _centred(graph: Graph, observed: Observed, d: str) -> tuple[str, set[int]]:
    """What a tensor is after its mean over the last axis is taken off; itself: none is."""
    sub = graph.maker(d)
    mean = None if sub is None or sub.op_type != "Sub" else graph.maker(sub.input[1])
    if sub is None or mean is None or mean.op_type != "ReduceMean":
        return d, set()
    if mean.input[0] != sub.input[0] or not _over_last(graph, observed, mean):
        return d, set()
    return str(sub.input[0]), {graph.at(sub), graph.at(mean)}


def _other_scalar(graph: Graph, node: NodeProto, name: str) -> float | None:
    other = node.input[1] if node.input[0] == name else node.input[0]
    known = graph.constant(other)
    return None if known is None or known.size != 1 else float(known.reshape(()))
