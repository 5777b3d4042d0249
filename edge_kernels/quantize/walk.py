"""Reads the nodes between a model's source and its result as the steps of a network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edge_kernels import sequential_program as codes
from edge_kernels.integer.net import (
    FREE,
    Add,
    Affine,
    Attention,
    Concat,
    Pool,
    Product,
    Reduce,
    Relu,
    Reshape,
    Shape,
    Step,
    Transpose,
)
from edge_kernels.quantize.floats import FloatNet, reading, shape_of
from edge_kernels.quantize.forms import Form, Forms
from edge_kernels.quantize.gates import append, gated, needs, picked, placed, spread, summed, told
from edge_kernels.quantize.graph import Graph, Unserved, candidate, needed, read_layer, reads
from edge_kernels.quantize.softmax_forms import Pooling, pooled, shared
from edge_kernels.sequential_nodes import add_node
from edge_kernels.sequential_program import Program, Unfused, Unmade

if TYPE_CHECKING:
    from onnx import NodeProto

ADVICE: Final = (
    "an integer network is made of Conv, Gemm, MatMul with constant weights, Relu, Add, Sub, Mul, "
    "pooling, ReduceMean, ReduceSum, ReduceMax, Concat, parts in a row by Slice, Split or Gather, "
    "Reshape, Transpose, factors or terms of a channel, norms of a position, a channel or a group "
    "of channels, LSTM, GRU, attention without a mask, sums over time that a softmax weighs, and "
    "functions of one number: replace it, or quantize the part before it as a model of its own"
)
_VIEWS: Final = ("Reshape", "Expand", "Flatten", "Squeeze", "Unsqueeze", "Identity")
_PARTS: Final = ("MatMul", "Mul", "Div", "Transpose", *_VIEWS)  # of attention, and of norms
_ANY_AXES: Final = (*_VIEWS, "Add", "Sub", "Mul", "Div", "Relu", "Clip", "Dropout")


_READ: Final = (placed, gated, summed, picked, spread, shared)


def called(node: NodeProto) -> str:
    """Return how messages call a node."""
    return f"node {node.name or node.output[0]!r} ({node.op_type})"


def walk(
    graph: Graph, forms: Forms, source: tuple[str, Shape], output: str, batch: int = 0
) -> FloatNet:
    """Return the network from a tensor, of a shape and maybe a fixed batch, to another.

    Raises
    ------
    ValueError
        Naming the node, its operator and what to do, where one cannot run in integers.
    """

    def sole(name: str) -> bool:
        return graph.only_reader(name) is not None

    program = Walked(*source, graph.constant, sole, batch=batch, forms=forms, graph=graph)
    wanted = needed(graph.nodes, output, numbers=True)
    for at, node in enumerate(graph.nodes):
        done = any(name in program.values for name in node.output)
        reached = any(name in program.values for name in reads(node))
        form = forms.ending.get(at)
        if form is not None and any(each in program.values for each in form.sources):
            reached = True
        elif at in forms.covered:
            continue
        if done or not reached or not wanted.intersection(node.output):
            continue
        if node.op_type == "Shape":
            continue  # whoever reads it tells why a shape is computed
        made = len(program.instructions)
        try:
            if form is not None:
                program.form(form)
            elif candidate(node):
                program.product(graph, at)
            else:
                program.add(node)
        except (Unserved, Unfused) as why:
            more = f"{_same_for_all(graph, why)}{_beyond(graph, forms, at)}"
            raise ValueError(
                f"{called(node)} cannot run in integers: {why}{more}; {ADVICE}"
            ) from why
        program.made_since(made, node)
    _check_result(program, output)
    return _decode(program, output)


def _check_result(program: Walked, output: str) -> None:
    if output not in program.values:
        raise ValueError(
            f"the output {output!r} does not depend on {program.source!r}, which the first layer "
            "reads"
        )
    seen, shape = program.forms.observed, program.values[output].shape
    if seen is not None and len(seen.concrete(output)) != len(shape) + 1:
        raise ValueError(
            f"the network's result {output!r} has samples and positions on one axis; reshape it to "
            "(batch, positions, channels) in the model"
        )


def _same_for_all(graph: Graph, why: Exception) -> str:
    """That a tensor which no step makes is a constant, as the token of a class is."""
    name = why.name if isinstance(why, Unmade) else ""
    while name and graph.constant(name) is None:
        node = graph.maker(name)
        name = node.input[0] if node is not None and node.op_type in _VIEWS else ""
    return f": it is the constant {name!r}, the same for all samples" if name else ""


def _beyond(graph: Graph, forms: Forms, at: int) -> str:
    """Why the node is not part of a form that begins at it or after it."""
    part = at in forms.why or graph.nodes[at].op_type in _PARTS
    later = [n for n in forms.why if n == at or (n > at and n not in forms.alone)]
    if not part or not later:
        return ""
    return f" ({called(graph.nodes[min(later)])}: {forms.why[min(later)]})"


@dataclass
class Walked(Program):
    """A program whose layers are in float, and that has steps which are ready.

    Where shapes were observed, (samples · positions, D) is known to be (positions, D) a sample.
    """

    graph: Graph = field(kw_only=True)
    forms: Forms = field(default_factory=Forms)
    products: list[Product] = field(default_factory=list)
    ready: list[Step] = field(default_factory=list)
    made_by: dict[int, str] = field(default_factory=dict)

    def product(self, graph: Graph, at: int) -> None:
        """Append a layer; the nodes that are folded in make the same value."""
        layer = read_layer(graph, at)
        x = self.value(layer.source)
        rows = len(layer.weights)
        conv = layer.conv
        bias = np.zeros(rows) if layer.bias is None else layer.bias.astype(np.float64)
        pads = conv.get("pads", [0, 0])
        step = Product(
            x.number,
            layer.weights.astype(np.float64).reshape(rows, conv.get("kernel", 1), -1),
            bias,
            np.ones(rows),
            relu=layer.relu,
            linear=not conv,
            stride=conv.get("stride", 1),
            dilation=conv.get("dilation", 1),
            pad_begin=pads[0],
            pad_end=pads[1],
        )
        span = (step.weight.shape[1] - 1) * step.dilation + 1
        if max(pads) >= span:
            raise Unserved(
                f"its pads {tuple(pads)}, with those of a Pad before it, reach over its kernel's "
                f"{span} positions: {span - 1} at most at either end"
            )
        shape = _shape(step, [()] * x.number + [x.shape])
        self.products.append(step)
        kind = codes.CONV if conv else codes.LINEAR
        # The place of `relu` is the one that `Program` sets where a ReLU follows.
        self.emit(
            layer.output, shape, kind, x.number, len(self.products) - 1, -1, int(step.relu), rows
        )
        for done in layer.nodes:
            for name in graph.nodes[done].output:
                self.values.setdefault(name, self.values[layer.output])

    def form(self, form: Form) -> None:
        """Append what several nodes do together."""
        if isinstance(form.step, Pooling):
            return pooled(self, form)
        needs(self, form.sources)
        numbers = [self.value(name).number for name in form.sources]
        step = form.step
        if isinstance(step, Attention):
            step = replace(step, x=numbers[0], k=numbers[1], v=numbers[2])
        else:
            step = reading(step, lambda _: numbers[0])
        append(self, form.output, step)
        return None

    def made_since(self, count: int, node: NodeProto) -> None:
        """Note which node made the instructions after so many."""
        for number in range(count + 1, len(self.instructions) + 1):
            self.made_by.setdefault(number, node.name or node.output[0])

    def add(self, node: NodeProto) -> None:
        """Append what a node does."""
        if self._same(node):
            self.values[node.output[0]] = self.values[node.input[0]]
            return
        self._refuse_flat(node)
        told(self, node)
        if any(read(self, node) for read in _READ):
            return
        before = len(self.instructions)
        add_node(self, node)
        if len(self.instructions) > before and self.instructions[-1][0] == codes.AFFINE:
            self._into_product(node)
        for code, *operands in self.instructions[before:]:
            if code == codes.AFFINE:
                self._refuse_last_axis(*operands[1:4])

    def _refuse_last_axis(self, factor: int, term: int, axis: int) -> None:
        sizes = [np.size(self.constants[number]) for number in (factor, term) if number >= 0]
        if axis != 0 and max(sizes) > 1:
            raise Unfused("its constant varies along the last axis, not the channels")

    def _same(self, node: NodeProto) -> bool:
        """Whether a node leaves every sample's (positions, D) as it is."""
        seen, x = self.forms.observed, self.values.get(node.input[0])
        if node.op_type not in _VIEWS or seen is None or x is None or len(x.shape) != 2:
            return False
        before, after = seen.concrete(node.input[0]), seen.concrete(node.output[0])
        if x.shape[0] == 1 and len(after) == 2:
            return False  # one position: its axis goes, and no two become one
        rows = int(np.prod(before[:-1]))
        whole = (seen.batch(0), rows // seen.batch(0), x.shape[1])
        return before[-1] == x.shape[1] and after in (whole, (rows, x.shape[1]))

    def _refuse_flat(self, node: NodeProto) -> None:
        """Refuse what would take the axis of samples and positions for one of either."""
        seen = self.forms.observed
        for name in node.input if seen is not None else ():
            x = self.values.get(name)
            flat = x is not None and seen is not None and len(seen.concrete(name)) <= len(x.shape)
            if flat and node.op_type not in _ANY_AXES:
                raise Unfused(f"{name!r} has samples and positions on one axis")
            if x is not None and FREE in x.shape and node.op_type in _VIEWS:
                raise Unfused(f"it changes the shape of {name!r}, which has a free axis")

    def _into_product(self, node: NodeProto) -> None:
        """Fold a factor or a term of each row into the linear layer before it."""
        _, x, factor, term, axis, _ = self.instructions[-1]
        before = self.instructions[x - 1] if x else [0]
        names = [name for name, value in self.values.items() if value.number == x]
        if before[0] != codes.LINEAR or before[4] or x != len(self.instructions) - 1:
            return
        shape = self.values[node.output[0]].shape
        if axis != len(shape) - 1 or not all(self.sole(name) for name in names):
            return
        product = self.products[before[2]]
        if factor >= 0:
            by = np.asarray(self.constants[factor], np.float64)
            weight = product.weight * by.reshape(-1, 1, 1)
            product = replace(product, weight=weight, bias=product.bias * by)
        if term >= 0:
            product = replace(product, bias=product.bias + np.asarray(self.constants[term]))
        self.products[before[2]] = product
        self.instructions.pop()
        self.values[node.output[0]] = replace(self.values[node.output[0]], number=x)


def _shape(step: Step, shapes: list[Shape]) -> Shape:
    try:
        return shape_of(step, shapes)
    except ValueError as error:
        raise Unserved(str(error)) from error


def _decode(program: Walked, output: str) -> FloatNet:
    net = FloatNet([program.input_shape])
    shapes = {value.number: value.shape for value in program.values.values()}
    for number, instruction in enumerate(program.instructions, 1):
        name = program.made_by.get(number, f"step {number}")
        code, *operands = instruction
        try:
            net.steps.append(_step(program, shapes, code, operands))
        except Unserved as why:
            raise ValueError(f"node {name!r} cannot run in integers: {why}; {ADVICE}") from why
        net.shapes.append(shapes[number])
        net.names.append(name)
    net.output = program.values[output].number
    return net


def _step(program: Walked, shapes: dict[int, Shape], code: int, given: list[int]) -> Step:
    """Return an instruction of `edge_kernels.sequential_program` as a step."""
    x = given[0]
    match code:
        case codes.LINEAR | codes.CONV:
            return replace(program.products[given[1]], relu=bool(given[3]))
        case codes.RELU:
            return Relu(x)
        case codes.POOL:
            return _pool(*given)
        case codes.REDUCE:
            return Reduce(x, bool(given[1]), given[2], keep=bool(given[3]))
        case codes.CONCAT:
            return Concat(tuple(given[2:]), given[0])
        case codes.ADD:
            return Add(x, given[1])
        case codes.AFFINE:
            return _affine(program, shapes[x][0], *given)
        case codes.RESHAPE:
            return Reshape(x, (given[1], given[2]) if given[2] else (given[1],))
        case codes.TRANSPOSE:
            return Transpose(x)
        case _:
            return program.ready[x]


def _pool(x: int, kind: int, kernel: int, stride: int, dilation: int, *pads: int) -> Step:
    if dilation != 1:
        raise Unserved(f"a pooling with dilation {dilation}")
    begin, end = pads
    return Pool(x, kind > 0, kernel, stride, begin, end, count_padding=kind == 2)


def _affine(
    program: Walked, channels: int, x: int, factor: int, term: int, _: int, relu: int
) -> Step:
    def vector(number: int, otherwise: float) -> NDArray[np.float64]:
        if number < 0:
            return np.full(channels, otherwise)
        constant = np.asarray(program.constants[number], np.float64)
        return np.broadcast_to(constant, (channels,)).copy()

    return Affine(x, vector(factor, 1.0), vector(term, 0.0), relu=bool(relu))
