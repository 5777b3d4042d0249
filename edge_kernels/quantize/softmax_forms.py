"""Softmax without queries: attention pooling, and shares of a few numbers.

Both are attention between constants: the scores of a pooling are its keys, and its query is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edge_kernels.integer.net import (
    FREE,
    Attention,
    Constant,
    Reshape,
    Shape,
    Step,
    Transpose,
)
from edge_kernels.quantize.gates import append
from edge_kernels.quantize.graph import Graph, Unserved, attributes
from edge_kernels.quantize.observed import Form, Observed

if TYPE_CHECKING:
    from onnx import NodeProto

    from edge_kernels.quantize.walk import Walked

_VIEWS: Final = ("Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout")
_BETWEEN: Final = ("Add", "Sub", "Mul", "Div", "Where")
_MOST_SHARED: Final = 256  # numbers of a softmax, for which a matrix of as many squared is held


@dataclass(frozen=True)
class Pooling(Attention):
    """Sums over time of values, weighted by a softmax of scores; what follows writes its steps.

    Attributes
    ----------
    keys_last, values_last : bool
        Time is the last axis of the scores, and of the values.
    turned : bool
        The result is (V, rows), not (rows, V).
    """

    keys_last: bool
    values_last: bool
    turned: bool


def pooling(graph: Graph, observed: Observed, at: int) -> Form | None:
    """Return the form of a softmax over time whose shares weigh a sum; None: it is none."""
    softmax = graph.nodes[at]
    shape = observed.concrete(softmax.input[0])
    axis = int(attributes(softmax).get("axis", -1)) % len(shape)
    fits = len(shape) in (2, 3) and shape[0] == observed.batch(0) and axis > 0
    if not fits or _of_queries(graph, softmax.input[0]):
        return None
    order = (0, axis, 3 - axis) if len(shape) == 3 else (0, 1)
    places = np.arange(np.prod(shape)).reshape(shape)
    wanted = places.transpose(order).reshape(shape[0], shape[axis], -1)  # (batch, time, rows)
    nodes, tensor, made = {at}, softmax.output[0], places
    while (after := graph.only_reader(tensor)) is not None:
        node = graph.nodes[after]
        nodes.add(after)
        if node.op_type in ("Mul", "MatMul"):
            read = _Read(node, tensor, made, wanted, keys_last=axis == 2)
            return _weighed(graph, observed, softmax.input[0], nodes, read)
        if node.op_type not in _VIEWS:
            return None
        tensor = node.output[0]
        if node.op_type == "Transpose":
            made = made.transpose(attributes(node).get("perm"))
        made = made.reshape(observed.concrete(tensor))
    return None


def _of_queries(graph: Graph, name: str) -> bool:
    """Whether scores come from a product of two computed tensors: attention, with a mask, say."""
    node = graph.maker(name)
    if node is None or node.op_type not in ("MatMul", *_VIEWS, *_BETWEEN):
        return False
    if node.op_type == "MatMul":
        return all(graph.constant(each) is None for each in node.input)
    return any(_of_queries(graph, each) for each in node.input)


@dataclass(frozen=True)
class _Read:
    """Who reads the shares, under which name and in which order, and how the scores lie."""

    node: NodeProto
    tensor: str
    places: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    wanted: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    keys_last: bool

    def shares(self, *axes: int) -> bool:
        """Whether they are (batch, time, rows) in such an order."""
        turned = self.wanted.transpose(axes)
        return self.places.shape == turned.shape and bool((self.places == turned).all())


def _weighed(
    graph: Graph, observed: Observed, scores: str, nodes: set[int], read: _Read
) -> Form | None:
    node = read.node
    other = node.input[1] if node.input[0] == read.tensor else node.input[0]
    if len(observed.shapes[0].get(other, ())) != 3:  # a constant's is not known
        return None
    values_last, turned, output = False, False, node.output[0]
    if node.op_type == "MatMul" and node.input[0] == read.tensor:
        fits = read.shares(0, 2, 1)
    elif node.op_type == "MatMul":
        values_last = turned = True
        fits = read.shares(0, 1, 2)
    else:
        last = graph.only_reader(output)
        if last is None or read.wanted.shape[2] != 1:
            return None
        values_last = not read.shares(0, 1, 2)
        fits = read.shares(0, 2, 1) if values_last else True
        fits = fits and _sums(graph, graph.nodes[last], 2 if values_last else 1)
        nodes, output = nodes | {last}, graph.nodes[last].output[0]
    if not fits:
        return None
    step = Pooling(0, 0, 0, 1, 1.0, read.keys_last, values_last, turned)
    return Form(output, (scores, other), frozenset(nodes), step)


def _sums(graph: Graph, node: NodeProto, axis: int) -> bool:
    axes = attributes(node).get("axes") or []
    if not axes and len(node.input) > 1:
        known = graph.constant(node.input[1])
        axes = [] if known is None else known.tolist()
    return node.op_type == "ReduceSum" and [each % 3 for each in axes] == [axis]


def pooled(program: Walked, form: Form) -> None:
    """Append the steps of a pooling."""
    step, output, seen = form.step, form.output, program.forms.observed
    assert isinstance(step, Pooling)
    assert seen is not None
    keys, values = (program.value(name) for name in form.sources)
    write = _Writer(program, output)
    k, v = keys.number, values.number
    if len(keys.shape) == 1:
        k = write(Reshape(k, (keys.shape[0], 1)))
    elif step.keys_last:
        k = write(Transpose(k))
    if step.values_last:
        v = write(Transpose(v))
    query = write(Constant(np.eye(write.shape(k)[1])))
    made = write(Attention(query, k, v, 1, step.scale))
    if step.turned and 1 not in write.shape(made):
        made = write(Transpose(made))
    write.end(made, tuple(seen.concrete(output)[1:]))


def shared(program: Walked, node: NodeProto) -> bool:
    """Append a softmax in the middle of a network, over few numbers."""
    x = program.values.get(node.input[0]) if node.op_type == "Softmax" else None
    if x is None:
        return False
    axis = int(attributes(node).get("axis", -1)) % (len(x.shape) + 1) - 1
    if axis < 0:
        raise Unserved("it is over the samples")
    count = x.shape[axis]
    if not 1 <= count <= _MOST_SHARED:
        size = "a free axis" if count == FREE else f"{count} numbers"
        raise Unserved(
            f"a softmax of {size}; {_MOST_SHARED} at most are served outside of attention and of "
            "sums over time that it weighs"
        )
    write = _Writer(program, node.output[0])
    flat, turn = len(x.shape) == 1, len(x.shape) == 2 and axis == 0
    q = write(Reshape(x.number, (1, count))) if flat else x.number
    q = write(Transpose(q)) if turn else q
    same = write(Constant(np.eye(count)))
    made = write(Attention(q, same, same, 1, 1.0))
    made = write(Transpose(made)) if turn else made
    write.end(made, x.shape)
    return True


@dataclass
class _Writer:
    """Appends steps under names of one tensor's."""

    program: Walked
    output: str

    def __call__(self, step: Step) -> int:
        """Append a step; return its value's number."""
        return append(self.program, f"{self.output}.{len(self.program.instructions)}", step)

    def shape(self, number: int) -> Shape:
        """Return the shape of a value."""
        return next(v.shape for v in self.program.values.values() if v.number == number)

    def end(self, number: int, shape: Shape) -> None:
        """Give a value the tensor's name, in its shape."""
        if self.shape(number) != shape:
            number = self(Reshape(number, shape))
        held = next(v for v in self.program.values.values() if v.number == number)
        self.program.values[self.output] = held
