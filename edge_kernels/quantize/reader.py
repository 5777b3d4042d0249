"""Finds in an ONNX graph the network that is to run in integers, by its nodes alone."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edge_kernels.integer.net import FREE, Product, Shape
from edge_kernels.narrow import narrowed
from edge_kernels.quantize.constants import fold
from edge_kernels.quantize.convolutions import padded, ungrouped
from edge_kernels.quantize.floats import FloatNet, simplified
from edge_kernels.quantize.forms import find
from edge_kernels.quantize.graph import Graph, drops, needed, reads, sizes
from edge_kernels.quantize.group_norms import last_axis
from edge_kernels.quantize.implied import unsaid
from edge_kernels.quantize.known import known
from edge_kernels.quantize.packed import unpacked
from edge_kernels.quantize.parts import parted
from edge_kernels.quantize.positions import unpicked
from edge_kernels.quantize.shapes import settled
from edge_kernels.quantize.slices import unsliced
from edge_kernels.quantize.source import first_read
from edge_kernels.quantize.time_first import batch_first
from edge_kernels.quantize.upsampling import interleaved
from edge_kernels.quantize.walk import called, walk
from edge_kernels.quantize.widths import widened

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

# What a model may end with, in float: it is cheap, and in integers it would cost exactness.
_ENDS: Final = ("LpNormalization", "Softmax", "LogSoftmax")
# What may lie between a vector and its division by its length.
_LENGTH: Final = (
    *("Pow", "Mul", "ReduceSum", "ReduceL2", "Sqrt", "Clip", "Max", "Add"),
    *("Expand", "Shape", "Concat"),
)


@dataclass
class Split:
    """A model in parts.

    Attributes
    ----------
    prologue : ModelProto
        The model's input → the tensor that the first layer reads; its nodes stay in float. Without
        nodes where that tensor is the input.
    source : str
        That tensor.
    net : FloatNet
        What follows, to ``result``.
    result : str
        The tensor that the network makes; the model's output where there is no epilogue.
    epilogue : (nodes, initializers)
        From there to the output, in float: a division by the vector's length, or a softmax.
    """

    prologue: ModelProto
    source: str
    net: FloatNet
    result: str = ""
    epilogue: tuple[list[NodeProto], list[TensorProto]] = field(default_factory=lambda: ([], []))


def read(model: ModelProto) -> Split:
    """Split a model at its first layer, and read what follows as a network of steps.

    It warns of layers of constant weights before that one, which stay in float, and why.

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
    model = ungrouped(known(unsaid(settled(padded(narrowed(fold(model)))))))
    model = last_axis(interleaved(unpicked(unsliced(batch_first(unpacked(model))))))
    inputs, outputs = ([v.name for v in each] for each in (model.graph.input, model.graph.output))
    _check_ends(inputs, outputs)
    graph = Graph(model.graph)
    _check_random(graph)
    result, tail = _epilogue(graph, outputs[0])
    forms = find(model, graph, frozenset(tail))
    source, shape = first_read(model, graph, forms, result)
    batch = (sizes(model).get(source) or (0,))[0]
    walked = walk(graph, forms, (source, shape), result, batch)
    net = parted(widened(simplified(walked)))
    if not any(isinstance(step, Product) for step in net.steps):
        raise ValueError("the output depends on no layer; there is nothing to quantize")
    return Split(_prologue(model, source, shape), source, net, result, _held(model, tail))


def _check_ends(inputs: list[str], outputs: list[str]) -> None:
    """Refuse more than one input or output, and say what to do about each."""
    advice = []
    if len(inputs) != 1:
        advice.append(
            f"of the inputs {inputs} keep one: make the person's statistics, and what else is the "
            "same for all windows, constants; hand what changes in as channels of one input"
        )
    if len(outputs) != 1:
        advice.append(
            f"of the outputs {outputs} keep one: export a module that returns it alone, or cut the "
            "file with onnx.utils.extract_model"
        )
    if advice:
        raise ValueError(
            f"the model reads {inputs} and returns {outputs}; a network of one input and one "
            f"output can be quantized: {'; '.join(advice)}"
        )


def _check_random(graph: Graph) -> None:
    for node in graph.nodes:
        if node.op_type == "Dropout" and drops(graph.constant, node):
            raise ValueError(
                f"{called(node)} drops at random: its training_mode may be set; export the model "
                "in eval mode"
            )


def _epilogue(graph: Graph, output: str) -> tuple[str, list[int]]:
    """What odds are made of, or the vector of which the output is the direction; and the nodes."""
    last = graph.maker(output)
    if last is not None and last.op_type in _ENDS:
        return last.input[0], [graph.at(last)]
    if last is None or last.op_type != "Div" or graph.constant(last.input[1]) is not None:
        return output, []
    vector, wanted, nodes = last.input[0], [last.input[1]], {graph.at(last)}
    while wanted:
        name = wanted.pop()
        node = graph.maker(name)
        if name == vector or graph.constant(name) is not None:
            continue
        if node is None or node.op_type not in _LENGTH:
            return output, []
        nodes.add(graph.at(node))
        wanted.extend(() if _counts_samples(graph, node) else reads(node))
    return vector, sorted(nodes)


def _counts_samples(graph: Graph, node: NodeProto) -> bool:
    """Whether a node asks the model's input for its shape, for one other alone to know."""
    of_input = node.op_type == "Shape" and graph.maker(node.input[0]) is None
    return of_input and graph.only_reader(node.output[0]) is not None


def _held(model: ModelProto, nodes: list[int]) -> tuple[list[NodeProto], list[TensorProto]]:
    """Copies of nodes and of the initializers that they read."""
    made = [copy.deepcopy(model.graph.node[at]) for at in nodes]
    names = {name for node in made for name in reads(node)}
    for node in made:
        node.doc_string = ""
        del node.metadata_props[:]
    constants = [n for n in model.graph.node if n.op_type == "Constant" and n.output[0] in names]
    tensors = [copy.deepcopy(t) for t in model.graph.initializer if t.name in names]
    return [*constants, *made], tensors


def _prologue(model: ModelProto, source: str, shape: Shape) -> ModelProto:
    """The model's nodes that make the source."""
    from onnx import TensorProto, helper

    wanted = needed(model.graph.node, source)
    made = copy.deepcopy(model)
    graph = made.graph
    nodes = [copy.deepcopy(n) for n in graph.node if wanted.intersection(n.output)]
    read_names = {name for node in nodes for name in reads(node)}
    held = [copy.deepcopy(t) for t in graph.initializer if t.name in read_names]
    for old, new in ((graph.node, nodes), (graph.initializer, held)):
        del old[:]
        old.extend(new)
    del graph.value_info[:], graph.output[:]
    for each in (made, graph, *graph.node, *graph.initializer):  # exporters leave their traces
        each.doc_string = ""
        del each.metadata_props[:]
    declared = sample_sizes(made, shape)
    graph.output.append(helper.make_tensor_value_info(source, TensorProto.FLOAT, declared))
    return made


def sample_sizes(model: ModelProto, shape: Shape) -> list[str | int]:
    """Return what a tensor of a shape a sample declares: the model's input tells the batch."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    batch = next((dim.dim_value or dim.dim_param for dim in dims[:1]), None)
    return [batch or "batch", *("length" if size == FREE else size for size in shape)]
