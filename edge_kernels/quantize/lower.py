"""Rewrites a float ONNX graph so that the kernels run its products."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_kernels.layout import MAX_INPUTS, MAX_ROWS, Shape
from edge_kernels.quantize.graph import (
    Graph,
    Layer,
    Unserved,
    candidate,
    know_domain,
    read_layer,
    reads,
    subgraphs,
    unserved,
)
from edge_kernels.quantize.report import Line, Report
from edge_kernels.quantize.rounding import Rounded

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

DOMAIN = "flwr.edge"

Rounder = Callable[[str, NDArray[np.float32]], Rounded]
"""(name, float32 weights (N, K)) → what they become. The seam of a new quantizer."""


def lower(
    model: ModelProto,
    rounder: Rounder,
    size: Callable[[int, int], int],
    *,
    skip: tuple[str, ...] = (),
    gain: float = 2.0,
    fast: bool = False,
    fake: bool = False,
    report: Report | None = None,
) -> ModelProto:
    """Replace each product that the kernels serve, in place.

    Parameters
    ----------
    model : ModelProto
        As `edge_kernels.quantize.files.load` returns it. It is changed.
    rounder : Rounder
        Called once for each new operator.
    size : (N, K) → int
        Bytes of a blob, to decide before rounding.
    skip : names or patterns
        Nodes, or their outputs, that stay in float.
    gain : float
        Bytes in float over bytes packed that a layer must reach: tiles are filled up to 64 × 64,
        and a small layer's padding costs more than its bits save.
    fast : bool
        Ask for 7-bit tables.
    fake : bool
        Put the rounded weights back as float weights of ONNX's own operators.
    report : Report, optional
        Filled.

    Raises
    ------
    ValueError
        If a name in ``skip`` fits no layer.
    """
    graph = Graph(model.graph)
    found, lines = _find(graph, skip, gain, size)
    writer = _Writer(model, rounder, fast=fast, fake=fake)
    replaced: dict[int, list[NodeProto]] = {}
    for layers in _merged(found):
        replaced[layers[0].nodes[0]] = writer.nodes(layers)
    gone = {at for layer in found for at in layer.nodes}
    nodes: list[NodeProto] = []
    for at, node in enumerate(graph.nodes):
        nodes.extend(replaced.get(at, [] if at in gone else [node]))
    _put(model, graph, nodes, writer.tensors)
    if writer.used and not fake:
        know_domain(model, DOMAIN)
    if report is not None:
        lines.update({layer.nodes[0]: writer.lines[id(layer)] for layer in found})
        report.lines = [lines[at] for at in sorted(lines)] + list(_inside(graph))
    return model


def _find(
    graph: Graph, skip: tuple[str, ...], gain: float, size: Callable[[int, int], int]
) -> tuple[list[Layer], dict[int, Line]]:
    """Layers to replace, and lines about those that stay."""
    found: list[Layer] = []
    lines: dict[int, Line] = {}
    unused = set(skip)
    for at, node in enumerate(graph.nodes):
        why = unserved(node)
        if why is not None:
            held = _bytes(graph, node)
            name = node.name or node.output[0]
            lines[at] = Line(name, node.op_type, (), "float", why, 0.0, held, held)
        if not candidate(node):
            continue
        names = (node.name, *node.output)
        fits = {pattern for pattern in skip if any(fnmatchcase(name, pattern) for name in names)}
        unused -= fits
        try:
            found.append(_take(graph, at, gain, size, skipped=bool(fits)))
        except Unserved as reason:
            lines[at] = _left(graph, node, str(reason))
    if unused:
        raise ValueError(f"no layer is called {', '.join(sorted(unused))}, which was to be skipped")
    return found, lines


def _take(
    graph: Graph, at: int, gain: float, size: Callable[[int, int], int], *, skipped: bool
) -> Layer:
    if skipped:
        raise Unserved("skipped")
    layer = read_layer(graph, at)
    rows, inputs = layer.weights.shape
    if rows > MAX_ROWS or inputs > MAX_INPUTS:
        raise Unserved(f"too large: {MAX_ROWS} rows and {MAX_INPUTS} inputs are the most")
    packed = size(rows, inputs)
    if packed * gain > layer.weights.nbytes:
        raise Unserved(f"too small: {packed} bytes packed")
    return layer


def _left(graph: Graph, node: NodeProto, why: str) -> Line:
    weights = graph.constant(node.input[1]) if len(node.input) > 1 else None
    name = node.name or node.output[0]
    if weights is None or weights.ndim < 2:
        return Line(name, node.op_type, (), "float", why)
    shape = weights.shape if node.op_type == "Conv" else weights.shape[::-1]
    if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute):
        shape = weights.shape
    return Line(name, node.op_type, shape, "float", why, 0.0, weights.nbytes, weights.nbytes)


def _bytes(graph: Graph, node: NodeProto) -> int:
    """Bytes of a node's constant operands: its weights, and what comes with them."""
    known = (graph.constant(name) for name in node.input if name)
    return sum(each.nbytes for each in known if each is not None)


def _inside(graph: Graph) -> Iterator[Line]:
    """Products in the bodies of If, Loop and Scan: they stay."""
    bodies = [body for node in graph.nodes for body in subgraphs(node)]
    while bodies:
        for node in bodies.pop().node:
            bodies.extend(subgraphs(node))
            if candidate(node):
                name = node.name or node.output[0]
                yield Line(
                    name, node.op_type, (), "float", "inside the body of an If, Loop or Scan"
                )


def _merged(found: list[Layer]) -> list[list[Layer]]:
    """Products of the same input, with or without ReLU alike, become one with splits."""
    together: dict[Any, list[Layer]] = {}
    for layer in found:
        key = id(layer) if layer.conv else (layer.source, layer.weights.shape[1], layer.relu)
        together.setdefault(key, []).append(layer)
    return list(together.values())


class _Writer:
    """Makes the new nodes and their tensors."""

    def __init__(self, model: ModelProto, rounder: Rounder, *, fast: bool, fake: bool) -> None:
        self.tensors: list[TensorProto] = []
        self.lines: dict[int, Line] = {}
        self.used = False
        self._rounder, self._fast, self._fake = rounder, fast, fake
        graph = model.graph
        self._taken = {name for node in graph.node for name in (*node.output, *node.input)}
        self._taken |= {each.name for each in (*graph.initializer, *graph.input, *graph.output)}
        self._known: dict[bytes, str] = {}
        # A product without a name is called as its output, which may be another node's name.
        names = [node.name for node in graph.node]
        self._unnamed = {at for at, name in enumerate(names) if not name}
        self._called = set(names)

    def nodes(self, layers: list[Layer]) -> list[NodeProto]:
        """Return what replaces layers of one input."""
        weights = np.concatenate([layer.weights for layer in layers])
        rounded = self._rounder(layers[0].name, weights)
        exact = rounded.dequantize()
        splits = np.cumsum([len(layer.weights) for layer in layers])[:-1]
        for layer, part in zip(layers, np.split(exact, splits), strict=True):
            self.lines[id(layer)] = _line(layer, part, rounded.shape)
        self.used = True
        if not self._fake:
            return [self._kernel(layers, rounded)]
        parts = zip(layers, np.split(exact, splits), strict=True)
        return [node for layer, part in parts for node in self._float(layer, part)]

    def _kernel(self, layers: list[Layer], rounded: Rounded) -> NodeProto:
        from onnx import helper

        first, shape = layers[0], rounded.shape
        inputs = [first.source, self._tensor(f"{first.name}.lut", rounded.pack())]
        if any(layer.bias is not None for layer in layers):
            bias = np.concatenate([_bias(layer) for layer in layers])
            inputs.append(self._tensor(f"{first.name}.bias", bias))
        given: dict[str, Any] = {
            "bits": shape.bits,
            "group": shape.group,
            "values": shape.values,
            "n": shape.rows,
            "relu": int(first.relu),
        }
        if first.conv:
            return helper.make_node(
                "LutConv1d",
                inputs,
                [first.output],
                name=self._node_name(first),
                domain=DOMAIN,
                **given,
                **first.conv,
            )
        if len(layers) > 1:
            given["splits"] = [len(layer.weights) for layer in layers]
        return helper.make_node(
            "LutMatMul",
            inputs,
            [layer.output for layer in layers],
            name=self._node_name(first),
            domain=DOMAIN,
            k=shape.inputs,
            fast=int(self._fast),
            **given,
        )

    def _float(self, layer: Layer, weights: NDArray[np.float32]) -> Iterator[NodeProto]:
        from onnx import helper

        steps = ["product"] + ["bias"] * (layer.bias is not None) + ["relu"] * layer.relu
        names = [self._name(f"{layer.output}.{step}") for step in steps[:-1]] + [layer.output]
        if layer.conv:
            yield self._float_conv(layer, weights, names[0])
        else:
            tensor = self._tensor(f"{layer.name}.weights", np.ascontiguousarray(weights.T))
            called = self._node_name(layer)
            yield helper.make_node("MatMul", [layer.source, tensor], names[:1], name=called)
        if layer.bias is not None:
            column = layer.bias[:, None] if layer.conv else layer.bias
            bias = self._tensor(f"{layer.name}.bias", column)
            yield helper.make_node("Add", [names[0], bias], [names[1]])
        if layer.relu:
            yield helper.make_node("Relu", [names[-2]], [names[-1]])

    def _float_conv(self, layer: Layer, weights: NDArray[np.float32], output: str) -> NodeProto:
        from onnx import helper

        conv = layer.conv
        taps = weights.reshape(len(weights), conv["kernel"], conv["channels"]).transpose(0, 2, 1)
        tensor = self._tensor(f"{layer.name}.weights", np.ascontiguousarray(taps))
        return helper.make_node(
            "Conv",
            [layer.source, tensor],
            [output],
            name=self._node_name(layer),
            strides=[conv["stride"]],
            dilations=[conv["dilation"]],
            pads=conv["pads"],
        )

    def _node_name(self, layer: Layer) -> str:
        """A name that no other node has; ONNX Runtime refuses models where one does."""
        clashes = layer.nodes[0] in self._unnamed and layer.name in self._called
        return "" if clashes else layer.name

    def _tensor(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant; the same bytes are added once (tied weights)."""
        from onnx import numpy_helper

        key = hashlib.sha256(repr((value.dtype, value.shape)).encode() + value.tobytes()).digest()
        if key not in self._known:
            self._known[key] = self._name(name)
            self.tensors.append(numpy_helper.from_array(value, self._known[key]))
        return self._known[key]

    def _name(self, name: str) -> str:
        free, at = name, 1
        while free in self._taken:
            at += 1
            free = f"{name}_{at}"
        self._taken.add(free)
        return free


def _bias(layer: Layer) -> NDArray[np.float32]:
    return np.zeros(len(layer.weights), np.float32) if layer.bias is None else layer.bias


def _line(layer: Layer, exact: NDArray[np.float32], shape: Shape) -> Line:
    rows, inputs = layer.weights.shape
    unit = float(np.abs(layer.weights).max()) or 1.0  # squares of float32 have their ends
    norm = float(np.linalg.norm(layer.weights / unit))
    error = float(np.linalg.norm((layer.weights - exact) / unit)) / norm if norm else 0.0
    op = "LutConv1d" if layer.conv else "LutMatMul"
    after = round(shape.size * rows / shape.rows)
    return Line(layer.name, layer.op, (rows, inputs), op, "", error, layer.weights.nbytes, after)


def _put(
    model: ModelProto, graph: Graph, nodes: list[NodeProto], tensors: list[TensorProto]
) -> None:
    """Set the graph's nodes, and drop the constants and shapes that nobody reads any more."""
    body = model.graph
    carriers = {id(node) for node in graph.nodes if graph.is_constant(node)}
    while True:
        needed = Counter([*(value.name for value in body.output), *graph.defaults])
        for node in nodes:
            needed.update(reads(node))
        kept = [n for n in nodes if id(n) not in carriers or any(needed[o] for o in n.output)]
        if len(kept) == len(nodes):
            break
        nodes = kept
    made = {name for node in nodes for name in node.output}
    for held, wanted in ((body.initializer, needed), (body.value_info, made)):
        for at in reversed(range(len(held))):
            if held[at].name not in wanted:
                del held[at]
    body.initializer.extend(tensors)
    copies = copy.deepcopy(nodes)
    del body.node[:]
    body.node.extend(copies)
