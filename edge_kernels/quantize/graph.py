"""Finds in an ONNX graph the layers that the kernels can run."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

Floats = NDArray[np.float32]
_CANDIDATES = ("MatMul", "Gemm", "Conv")
_OTHERS = ("ConvTranspose", "Einsum", "GRU", "LSTM", "RNN")
_QUANTIZED = (
    *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
    *("DynamicQuantizeMatMul", "MatMulNBits", "QGemm"),
)
_SHAPES = ("Shape", "Size")  # what reads a tensor's shape reads none of its numbers
_PASSED = ("Identity", "Transpose")


class Unserved(Exception):  # noqa: N818
    """Why a layer stays in float."""


@dataclass
class Layer:
    """A product with constant weights, and what follows it that can be folded in.

    Attributes
    ----------
    name, op : str
        Of the ONNX node that multiplies.
    source, output : str
        Tensors that it reads and that its last folded node writes.
    weights : float32 (N, K)
        For a convolution K runs tap by tap: kernel * channels.
    bias : float32 (N,) or None
    relu : bool
    conv : dict
        Attributes of LutConv1d; empty for a product.
    nodes : list of int
        Indices of the nodes that this layer replaces.
    """

    name: str
    op: str
    source: str
    output: str
    weights: Floats
    bias: Floats | None = None
    relu: bool = False
    conv: dict[str, Any] = field(default_factory=dict)
    nodes: list[int] = field(default_factory=list)


class Graph:
    """An index of a graph: constants, and who reads what."""

    def __init__(self, graph: GraphProto) -> None:
        from onnx import numpy_helper

        self.nodes = list(graph.node)
        self._tensors = {each.name: each for each in graph.initializer}
        # An input's initializer is a default: callers may give something else.
        self.defaults = {v.name for v in graph.input if self._tensors.pop(v.name, None) is not None}
        self._array = numpy_helper.to_array
        self._makers = {name: node for node in self.nodes for name in node.output}
        self._places = {name: at for at, node in enumerate(self.nodes) for name in node.output}
        self.readers: dict[str, list[int]] = {}
        self.uses = Counter(value.name for value in graph.output)
        for at, node in enumerate(self.nodes):
            for name in node.input:
                self.readers.setdefault(name, []).append(at)
            self.uses.update(reads(node))

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return a tensor's value if it is known and the same at every run."""
        if name in self._tensors:
            return self._array(self._tensors[name])
        node = self._makers.get(name)
        if node is None or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type == "Constant":
            return _constant(node.attribute[0], self._array)
        if node.op_type not in _PASSED:
            return None
        inner = self.constant(node.input[0])
        if inner is None or node.op_type == "Identity":
            return inner
        order = attributes(node).get("perm")
        return np.transpose(inner, order)

    def initializers(self) -> Iterable[str]:
        """Return the names of those that no caller can replace."""
        return self._tensors.keys()

    def maker(self, name: str) -> NodeProto | None:
        """Return the node that makes a tensor; None: the model's input or a constant."""
        return self._makers.get(name)

    def at(self, node: NodeProto) -> int:
        """Return the index of a node of this graph."""
        return self._places[node.output[0]]

    def is_constant(self, node: NodeProto) -> bool:
        """Whether a node only carries a constant, so that it goes when nobody reads it."""
        if node.op_type == "Constant":
            return True
        return node.op_type in _PASSED and self.constant(node.output[0]) is not None

    def only_reader(self, name: str) -> int | None:
        """Index of the one node that reads a tensor, if nobody else does."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and self.uses[name] == 1 else None


def reads(node: NodeProto) -> Iterator[str]:
    """Yield the tensors that a node reads, its subgraphs included."""
    yield from (name for name in node.input if name)
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from reads(inner)
        yield from (value.name for value in graph.output)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the bodies of If, Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def needed(nodes: Iterable[NodeProto], *outputs: str, numbers: bool = False) -> set[str]:
    """Return the tensors on which some depend, of nodes in their order.

    With ``numbers`` not those of which the shape alone counts.
    """
    wanted = set(outputs)
    for node in reversed(list(nodes)):
        if wanted.intersection(node.output) and not (numbers and node.op_type in _SHAPES):
            wanted.update(reads(node))
    return wanted


def depending(graph: Graph, given: str) -> set[str]:
    """Return the tensors whose numbers depend on those of one, itself among them."""
    numbers = {given}
    for node in graph.nodes:
        if node.op_type not in _SHAPES and numbers.intersection(reads(node)):
            numbers.update(node.output)
    return numbers


def exchanged(
    model: ModelProto, instead: Mapping[int, list[NodeProto]], tensors: Iterable[TensorProto] = ()
) -> ModelProto:
    """Put nodes in the places of others, by index, in place; return it with the shapes of all."""
    from onnx import shape_inference

    if not instead:
        return model
    nodes = [new for at, node in enumerate(model.graph.node) for new in instead.get(at, [node])]
    copies = [copy.deepcopy(node) for node in nodes]  # what is deleted from a graph is gone
    del model.graph.node[:]
    model.graph.node.extend(copies)
    model.graph.initializer.extend(tensors)
    return shape_inference.infer_shapes(model, data_prop=True)


def know_domain(model: ModelProto, domain: str) -> None:
    """Have a model import version 1 of a domain, once."""
    if all(each.domain != domain for each in model.opset_import):
        model.opset_import.add(domain=domain, version=1)


def sizes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes by name as far as they are known, 0 where an axis is not."""
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*model.graph.input, *model.graph.value_info)
    }


def free_name(name: str, taken: set[str]) -> str:
    """Return a name that nothing has yet, and take it."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name."""
    from onnx import helper

    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def drops(constant: Callable[[str], NDArray[Any] | None], node: NodeProto) -> bool:
    """Whether a Dropout may drop anything, in a graph whose constants are looked up so."""
    if len(node.input) < 3 or not node.input[2]:
        return False
    training = constant(node.input[2])
    return training is None or bool(training.any())


def candidate(node: NodeProto) -> bool:
    """Whether a node multiplies at all."""
    return node.domain in ("", "ai.onnx") and node.op_type in _CANDIDATES


def made_by_layers(graph: Graph, name: str) -> bool:
    """Whether a tensor depends on a node that multiplies; else it may stay in float."""
    makers = [graph.maker(each) for each in needed(graph.nodes, name)]
    return any(node is not None and candidate(node) for node in makers)


def unserved(node: NodeProto) -> str | None:
    """Return why a node that multiplies is no candidate; None: it is one, or does not multiply."""
    if node.op_type in _QUANTIZED:
        return "it is quantized already: give the float model"
    plain = node.domain in ("", "ai.onnx") and node.op_type in _OTHERS
    return "no kernel serves such a layer" if plain else None


def read_layer(graph: Graph, at: int) -> Layer:
    """Read the layer whose product is the node at this index.

    Raises
    ------
    Unserved
        If the kernels have no operator for it.
    """
    node = graph.nodes[at]
    if len(node.input) < 2:
        raise Unserved("it has no weights")
    layer = {"MatMul": _matmul, "Gemm": _gemm, "Conv": _conv}[node.op_type](graph, node)
    layer.nodes.append(at)
    _fold(graph, layer)
    if not np.isfinite(layer.weights).all():
        raise Unserved("its weights hold NaN or infinity")
    if layer.bias is not None and not np.isfinite(layer.bias).all():
        raise Unserved("its bias holds NaN or infinity")
    return layer


def _constant(attribute: AttributeProto, to_array: Any) -> NDArray[Any] | None:
    if attribute.name == "value":
        return np.asarray(to_array(attribute.t))
    if attribute.name in ("value_float", "value_floats"):
        value = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        return np.asarray(value, np.float32)
    return None


def _weights(graph: Graph, name: str, rank: int) -> Floats:
    weights = graph.constant(name)
    if name in graph.defaults:
        raise Unserved(f"its weights {name!r} are an input of the model, too")
    maker = graph.maker(name)
    if weights is None and maker is not None and maker.op_type == "DequantizeLinear":
        raise Unserved("its weights are quantized already: give the float model")
    if weights is None:
        raise Unserved("its weights are computed at run time")
    if weights.dtype != np.float32:
        raise Unserved(f"its weights are {weights.dtype}; float32 is served")
    if weights.ndim != rank:
        raise Unserved(f"its weights have {weights.ndim} axes; {rank} are served")
    if weights.size == 0:
        raise Unserved("its weights are empty")
    return weights


def _new(node: NodeProto, weights: Floats, bias: Floats | None = None, **conv: Any) -> Layer:
    name = node.name or node.output[0]
    weights = np.ascontiguousarray(weights)
    return Layer(name, node.op_type, node.input[0], node.output[0], weights, bias, conv=conv)


def _matmul(graph: Graph, node: NodeProto) -> Layer:
    if graph.constant(node.input[1]) is None and graph.constant(node.input[0]) is not None:
        raise Unserved("its constant is the left operand")
    return _new(node, _weights(graph, node.input[1], 2).T)


def _gemm(graph: Graph, node: NodeProto) -> Layer:
    given = attributes(node)
    if given.get("transA", 0):
        raise Unserved("transA is set: its input is read by columns")
    weights = _weights(graph, node.input[1], 2)
    weights = weights if given.get("transB", 0) else weights.T
    weights = weights * np.float32(given.get("alpha", 1.0))
    if len(node.input) < 3 or not node.input[2]:
        return _new(node, weights)
    constant = graph.constant(node.input[2])
    row = None if constant is None else _along(constant, len(weights), 1, 2)
    if row is None:
        raise Unserved("its C is not a constant row")
    return _new(node, weights, row * np.float32(given.get("beta", 1.0)))


def _conv(graph: Graph, node: NodeProto) -> Layer:
    given = attributes(node)
    if given.get("group", 1) != 1:
        raise Unserved(f"a grouped convolution, {given['group']} groups")
    known = graph.constant(node.input[1])
    if known is not None and known.ndim != 3:
        raise Unserved(f"a {known.ndim - 2}-D convolution; 1-D is served")
    weights = _weights(graph, node.input[1], 3)
    pads = _pads(given, weights.shape[2])
    bias = None
    if len(node.input) > 2 and node.input[2]:
        bias = graph.constant(node.input[2])
        if bias is None:
            raise Unserved("its bias is computed at run time")
    rows, channels, kernel = weights.shape
    taps = weights.transpose(0, 2, 1).reshape(rows, kernel * channels)
    return _new(
        node,
        taps,
        bias,
        channels=channels,
        kernel=kernel,
        stride=given.get("strides", [1])[0],
        dilation=given.get("dilations", [1])[0],
        pads=pads,
    )


def _pads(given: dict[str, Any], kernel: int) -> list[int]:
    how = given.get("auto_pad", b"NOTSET").decode()
    if how in ("NOTSET", "VALID"):
        pads = list(given.get("pads", [0, 0])) if how == "NOTSET" else [0, 0]
        if min(pads) < 0:
            raise Unserved(f"its pads are {pads}: negative ones cut the input")
        return pads
    if given.get("strides", [1])[0] != 1:
        raise Unserved(f"auto_pad is {how} with a stride: its pads depend on the length")
    both = given.get("dilations", [1])[0] * (kernel - 1)
    less, more = both // 2, both - both // 2
    return [less, more] if how == "SAME_UPPER" else [more, less]


def _fold(graph: Graph, layer: Layer) -> None:
    """Fold what follows: factors and terms of each output, batch norm in eval, then ReLU."""
    while (at := graph.only_reader(layer.output)) is not None:
        node = graph.nodes[at]
        if node.domain not in ("", "ai.onnx"):
            return
        relu = node.op_type == "Relu"
        if not relu:
            line = _line(graph, layer, node)
            if line is None:
                return
            factor, term = line
            if factor is not None:
                layer.weights = layer.weights * factor[:, None]
                layer.bias = None if layer.bias is None else layer.bias * factor
            if term is not None:
                layer.bias = term if layer.bias is None else layer.bias + term
        layer.relu = relu
        layer.output = node.output[0]
        layer.nodes.append(at)
        if relu:
            return


def _line(
    graph: Graph, layer: Layer, node: NodeProto
) -> tuple[Floats | None, Floats | None] | None:
    """Factor and term of a node that maps each output y to factor * y + term; None: it does not."""
    if node.op_type == "BatchNormalization":
        return _batch_norm(graph, layer, node)
    if node.op_type not in ("Add", "Sub", "Mul", "Div"):
        return None
    first = node.input[0] == layer.output
    if not first and node.op_type in ("Sub", "Div"):
        return None
    constant = graph.constant(node.input[1 if first else 0])
    axis, rank = (2, 3) if layer.conv else (1, 2 if layer.op == "Gemm" else 1)
    numbers = None if constant is None else _along(constant, len(layer.weights), axis, rank)
    if numbers is None:
        return None
    if node.op_type == "Add":
        return None, numbers
    if node.op_type == "Sub":
        return None, -numbers
    with np.errstate(divide="ignore"):
        factor = numbers if node.op_type == "Mul" else np.reciprocal(numbers)
    return (factor, None) if np.isfinite(factor).all() else None


def _batch_norm(graph: Graph, layer: Layer, node: NodeProto) -> tuple[Floats, Floats] | None:
    given = attributes(node)
    parts = [graph.constant(name) for name in node.input[1:]]
    if given.get("training_mode", 0) or (layer.op == "MatMul"):
        return None
    if any(part is None or part.dtype != np.float32 for part in parts):
        return None
    scale, shift, mean, variance = (np.asarray(part, np.float64) for part in parts)
    factor = scale / np.sqrt(variance + given.get("epsilon", 1e-5))
    if not np.isfinite(factor).all():
        return None
    return factor.astype(np.float32), (shift - mean * factor).astype(np.float32)


def _along(constant: NDArray[Any], rows: int, axis: int, rank: int) -> Floats | None:
    """A constant that is one number for each output (or one for all), as float32 (rows,).

    axis: 1, outputs are the last axis; 2, the last but one. rank: axes that the product surely has.
    """
    if constant.dtype != np.float32 or constant.ndim > rank:
        return None
    if constant.size == 1:
        return np.full(rows, constant.reshape(()), np.float32)
    at = constant.ndim - axis
    if at < 0 or constant.shape[at] != rows or constant.size != rows:
        return None
    return constant.reshape(rows).astype(np.float32)
