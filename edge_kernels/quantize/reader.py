"""Finds in an ONNX graph the network that is to run in integers, by its nodes alone."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_kernels import sequential_program as codes
from edge_kernels.integer.check import shape_of
from edge_kernels.integer.net import (
    Add,
    Affine,
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
from edge_kernels.quantize.floats import FloatNet, simplified
from edge_kernels.quantize.graph import Graph, Unserved, candidate, read_layer, reads
from edge_kernels.sequential import fold
from edge_kernels.sequential_program import Program, Unfused

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_ADVICE = (
    "an integer network is made of Conv, Gemm, MatMul with constant weights, Relu, Add, pooling, "
    "ReduceMean, ReduceMax, Concat, Reshape, Transpose and factors or terms of a channel: replace "
    "it, or quantize the part before it as a model of its own"
)


@dataclass
class Split:
    """A model in two parts.

    Attributes
    ----------
    prologue : ModelProto
        The model's input → the tensor that the first layer reads; its nodes stay in float. Without
        nodes where that tensor is the input.
    source : str
        That tensor.
    net : FloatNet
        The rest, to the model's output.
    """

    prologue: ModelProto
    source: str
    net: FloatNet


def read(model: ModelProto) -> Split:
    """Split a model at its first layer, and read what follows as a network of steps.

    Parameters
    ----------
    model : ModelProto
        One input, one output; batch norm as a node or as factors and terms. Not changed.

    Raises
    ------
    ValueError
        Naming the node, its operator and what to do, where no layer can be served, or something
        after the first one cannot.
    """
    from onnx import shape_inference

    model = shape_inference.infer_shapes(fold(model), data_prop=True)
    inputs, outputs = ([v.name for v in each] for each in (model.graph.input, model.graph.output))
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            f"the model reads {inputs} and returns {outputs}; a network of one input and one "
            "output can be quantized: make the person's statistics constants"
        )
    graph = Graph(model.graph)
    source, shape = _source(model, graph)
    program = _walk(graph, source, shape, outputs[0])
    net = simplified(_decode(program, outputs[0]))
    if not any(isinstance(step, Product) for step in net.steps):
        raise ValueError("the output depends on no layer; there is nothing to quantize")
    return Split(_prologue(model, source, shape), source, net)


def _source(model: ModelProto, graph: Graph) -> tuple[str, Shape]:
    """What the first layer reads, and its shape without the batch."""
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)[1:]
        for value in (*model.graph.input, *model.graph.value_info)
    }
    why = "it has no Conv, Gemm or MatMul with constant weights"
    for at, node in enumerate(graph.nodes):
        if not candidate(node):
            continue
        try:
            layer = read_layer(graph, at)
        except Unserved as error:
            why = f"{_called(node)}: {error}"
            continue
        shape = shapes.get(layer.source, ())
        if len(shape) in (1, 2) and min(shape) > 0:
            return layer.source, shape
        why = (
            f"{_called(node)} reads {layer.source!r}, whose shape but for the batch is unknown or "
            "not (channels, time) or (inputs,): export with fixed sizes"
        )
    raise ValueError(f"no layer of the model can run in integers: {why}")


def _called(node: NodeProto) -> str:
    return f"node {node.name or node.output[0]!r} ({node.op_type})"


@dataclass
class _Walked(Program):
    """A program whose layers are in float."""

    products: list[Product] = field(default_factory=list)
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
        shape = self._shape(step, x.shape)
        self.products.append(step)
        kind = codes.CONV if conv else codes.LINEAR
        # The place of `relu` is the one that `Program` sets where a ReLU follows.
        self.emit(
            layer.output, shape, kind, x.number, len(self.products) - 1, -1, int(step.relu), rows
        )
        for done in layer.nodes:
            for name in graph.nodes[done].output:
                self.values.setdefault(name, self.values[layer.output])

    @staticmethod
    def _shape(step: Product, shape: Shape) -> Shape:
        try:
            return shape_of(step, [()] * step.x + [shape])
        except ValueError as error:
            raise Unserved(str(error)) from error


def _walk(graph: Graph, source: str, shape: Shape, output: str) -> _Walked:
    """Read every node between the source and the output."""

    def sole(name: str) -> bool:
        return graph.only_reader(name) is not None

    program = _Walked(source, shape, graph.constant, sole)
    needed = _needed(graph, output)
    for at, node in enumerate(graph.nodes):
        done = any(name in program.values for name in node.output)
        reached = any(name in program.values for name in reads(node))
        if done or not reached or not needed.intersection(node.output):
            continue
        try:
            if candidate(node):
                program.product(graph, at)
            else:
                program.add(node)
        except (Unserved, Unfused) as why:
            raise ValueError(f"{_called(node)} cannot run in integers: {why}; {_ADVICE}") from why
        number = len(program.instructions)
        program.made_by.setdefault(number, node.name or node.output[0])
    if output not in program.values:
        raise ValueError(
            f"the output {output!r} does not depend on {source!r}, which the first layer reads"
        )
    return program


def _needed(graph: Graph, output: str) -> set[str]:
    """Tensors on which the output depends."""
    needed = {output}
    for node in reversed(graph.nodes):
        if needed.intersection(node.output):
            needed.update(reads(node))
    return needed


def _decode(program: _Walked, output: str) -> FloatNet:
    net = FloatNet([program.input_shape])
    shapes = {value.number: value.shape for value in program.values.values()}
    for number, instruction in enumerate(program.instructions, 1):
        name = program.made_by.get(number, f"step {number}")
        code, *operands = instruction
        try:
            net.steps.append(_step(program, shapes, code, operands))
        except Unserved as why:
            raise ValueError(f"node {name!r} cannot run in integers: {why}; {_ADVICE}") from why
        net.shapes.append(shapes[number])
        net.names.append(name)
    net.output = program.values[output].number
    return net


def _step(program: _Walked, shapes: dict[int, Shape], code: int, given: list[int]) -> Step:
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
        case _:
            return Transpose(x)


def _pool(x: int, kind: int, kernel: int, stride: int, dilation: int, *pads: int) -> Step:
    if dilation != 1:
        raise Unserved(f"a pooling with dilation {dilation}")
    begin, end = pads
    return Pool(x, kind > 0, kernel, stride, begin, end, count_padding=kind == 2)


def _affine(
    program: _Walked, channels: int, x: int, factor: int, term: int, axis: int, relu: int
) -> Step:
    def vector(number: int, otherwise: float) -> NDArray[np.float64]:
        if number < 0:
            return np.full(channels, otherwise)
        constant = np.asarray(program.constants[number], np.float64)
        if axis != 0 and constant.size > 1:
            raise Unserved("its constant varies along the last axis, not the channels")
        return np.broadcast_to(constant, (channels,)).copy()

    return Affine(x, vector(factor, 1.0), vector(term, 0.0), relu=bool(relu))


def _prologue(model: ModelProto, source: str, shape: Shape) -> ModelProto:
    """The model's nodes that make the source."""
    from onnx import TensorProto, helper

    needed = _needed(Graph(model.graph), source)
    made = copy.deepcopy(model)
    graph = made.graph
    nodes = [copy.deepcopy(n) for n in graph.node if needed.intersection(n.output)]
    read_names = {name for node in nodes for name in reads(node)}
    held = [copy.deepcopy(t) for t in graph.initializer if t.name in read_names]
    for old, new in ((graph.node, nodes), (graph.initializer, held)):
        del old[:]
        old.extend(new)
    del graph.value_info[:], graph.output[:]
    for each in (made, graph, *graph.node, *graph.initializer):  # exporters leave their traces
        each.doc_string = ""
        del each.metadata_props[:]
    graph.output.append(helper.make_tensor_value_info(source, TensorProto.FLOAT, ["batch", *shape]))
    return made
