"""Attention of torch's own module, written as attention of plain layers.

``torch.nn.MultiheadAttention`` makes queries, keys and values by one packed layer, over tensors
(time, batch, width) that are turned before and after. What each element of them comes from is
followed here through all views; then the layers are taken apart, and read and make tensors
(batch, time, width).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_kernels.quantize.attention_forms import attention, scored
from edge_kernels.quantize.chains import PARTS, SCALES, Chain, back, replayed
from edge_kernels.quantize.graph import (
    Graph,
    Unserved,
    attributes,
    exchanged,
    needed,
)
from edge_kernels.quantize.observed import Array, Observed, observe
from edge_kernels.quantize.plain_attention import End, Linear, Operand, written
from edge_kernels.quantize.shapes import drop

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Floats = NDArray[np.float32]
_SHAPED: Final = ("Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Flatten")
_VIEWS: Final = (*_SHAPED, "Transpose")


def unpacked(model: ModelProto) -> ModelProto:
    """Take packed layers of attention apart, in place.

    What is no such attention stays as it is; so does one that is served already.

    Parameters
    ----------
    model : ModelProto
        With inferred shapes and folded constants.

    Returns
    -------
    The model, with the shapes of what is new.
    """
    count = sum(map(_softmax, model.graph.node)) if len(model.graph.input) == 1 else 0
    for _ in range(2 * count):
        changed = _one(model)
        if changed is None:
            break
        model = changed
    return model


def _one(model: ModelProto) -> ModelProto | None:
    """Serve the first attention that can be."""
    graph = Graph(model.graph)
    try:
        observed = observe(model)
    except ValueError:  # whoever needs it says so
        return None
    for at in (n for n, node in enumerate(graph.nodes) if _softmax(node)):
        try:
            attention(graph, observed, at)
        except Unserved:
            try:
                turned = _turned_keys(model, graph, observed, at)
                return turned or _serve(model, graph, observed, at)
            except Unserved:
                continue
    return None


def _turned_keys(model: ModelProto, graph: Graph, observed: Observed, at: int) -> ModelProto | None:
    """Have keys (batch, width, time) that a layer makes turned twice: by positions in between."""
    from onnx import helper

    k = scored(graph, observed, at).k
    node, reader = graph.maker(k), graph.only_reader(k)
    if node is None or reader is None or node.op_type in _VIEWS or len(observed.concrete(k)) != 3:
        return None
    names = f"{k}.positions", f"{k}.columns"
    turns = [
        helper.make_node("Transpose", [x], [y], name=f"{y}.Transpose", perm=[0, 2, 1])
        for x, y in ((k, names[0]), names)
    ]
    score = graph.nodes[reader]
    score.input[1] = names[1]
    return exchanged(model, {reader: [*turns, score]})


def _softmax(node: NodeProto) -> bool:
    return node.op_type == "Softmax" and node.domain in ("", "ai.onnx")


def _serve(model: ModelProto, graph: Graph, observed: Observed, at: int) -> ModelProto:
    parts = scored(graph, observed, at)
    operands = [
        _operand(graph, observed, name, swap=swap)
        for name, swap in ((parts.q, False), (parts.k, True), (parts.v, False))
    ]
    heads = operands[0].heads
    scale = parts.factor * operands[0].factor * operands[1].factor
    if any(each.heads != heads for each in operands) or not scale > 0 or operands[2].factor != 1:
        raise Unserved("queries, keys and values have other heads, or a scale that is not > 0")
    end = _end(graph, observed, parts.mixed, heads)
    before = needed(graph.nodes, *(value.name for value in model.graph.output))
    nodes, tensors = written(operands, scale, end)
    place = max(n for n, node in enumerate(graph.nodes) if end.output in node.output)
    made = exchanged(model, {place: nodes}, tensors)
    drop(made, before)
    return made


def _operand(graph: Graph, observed: Observed, name: str, *, swap: bool) -> Operand:
    """Follow a product's operand (…, time, width of a head) back to a layer, and its source."""
    chain = back(graph, name, (*_VIEWS, *PARTS, *SCALES))
    layer = _layer(graph, chain.source)
    source, turned, rows = _positions(graph, observed, layer.source)
    batch = observed.batch(0)
    places = replayed(graph, observed, chain.nodes, _numbered(observed, chain.source))
    if places.ndim < 2:
        raise Unserved(f"{name!r} has one axis")
    places = places.swapaxes(-1, -2) if swap else places
    places = places.reshape(-1, *places.shape[-2:])
    width, heads = layer.weight.shape[1], len(places) // batch
    column, own = places % width, (places % width)[:heads, 0]
    if len(places) % batch or not (column == np.tile(own, (batch, 1))[:, None]).all():
        raise Unserved(f"the heads of {name!r} differ by position")
    length = len(rows) // batch
    at = np.arange(batch * length).reshape(batch, length)
    at = at.reshape(length, batch).T if turned else at  # rows by sample and position
    wanted = np.repeat(at, heads, 0)[:, :, None]
    row = rows[places // width]
    if row.shape[:2] != wanted.shape[:2] or not (row == wanted).all():
        raise Unserved(f"{name!r} does not hold the positions of {source!r} in their order")
    picked = own.reshape(-1)
    weight, bias = layer.weight[:, picked], layer.bias[picked]
    return Operand(source, turned, weight, bias, heads, chain.factor)


def _numbered(observed: Observed, name: str) -> Array:
    shape = observed.concrete(name)
    return np.arange(np.prod(shape)).reshape(shape)


def _positions(graph: Graph, observed: Observed, name: str) -> tuple[str, bool, Array]:
    """The first tensor (batch, time, width), or that turned, of which a layer's input is a view.

    And of each row that the layer reads, the row of that tensor which it is.
    """
    views, batch = back(graph, name, _VIEWS), observed.batch(0)
    for first in range(len(views.nodes) + 1):
        source = views.nodes[first - 1][1] if first else views.source
        order = observed.concrete(source)
        rows = _rows(graph, observed, Chain(source, views.nodes[first:]))
        if rows is not None and len(order) == 3 and batch in order[:2]:
            return source, order[0] != batch, rows
    raise Unserved(f"{name!r} is no view of whole positions (batch, time, width)")


def _rows(graph: Graph, observed: Observed, views: Chain) -> Array | None:
    width = observed.concrete(views.source)[-1]
    places = replayed(graph, observed, views.nodes, _numbered(observed, views.source))
    flat = places.reshape(-1, places.shape[-1])
    whole = flat.shape[1] == width and (flat % width == np.arange(width)).all()
    return flat[:, 0] // width if whole else None


def _layer(graph: Graph, name: str) -> Linear:
    """The layer of constant weights that makes a tensor."""
    node, bias = graph.maker(name), None
    if node is not None and node.op_type == "Add":
        known = [graph.constant(each) for each in node.input]
        at = 0 if known[0] is not None else 1
        bias, node = known[at], graph.maker(node.input[1 - at])
        if bias is None or bias.ndim != 1:
            raise Unserved(f"what makes {name!r} is not a layer of constant weights")
    if node is None or node.op_type not in ("MatMul", "Gemm"):
        raise Unserved(f"what makes {name!r} is not a layer of constant weights")
    return _of(graph, node, name, bias)


def _of(graph: Graph, node: NodeProto, output: str, bias: NDArray[Any] | None) -> Linear:
    weight, given = graph.constant(node.input[1]), attributes(node)
    if weight is None or weight.ndim != 2 or weight.dtype != np.float32 or given.get("transA", 0):
        raise Unserved(f"the weights of {output!r} are not known")
    if given.get("transB", 0):
        weight = weight.T
    if node.op_type == "Gemm":
        weight = weight * np.float32(given.get("alpha", 1.0))
        if len(node.input) > 2 and node.input[2]:
            known = graph.constant(node.input[2])
            if known is None or known.ndim != 1 or bias is not None:
                raise Unserved(f"the bias of {output!r} is not known")
            bias = known * np.float32(given.get("beta", 1.0))
    held = np.zeros(weight.shape[1]) if bias is None else np.broadcast_to(bias, weight.shape[1:])
    return Linear(node.input[0], output, weight, held.astype(np.float32))


def _end(graph: Graph, observed: Observed, mixed: str, heads: int) -> End:
    """Follow the product's result up to the tensor (batch, time, width), or that turned."""
    shape, batch = observed.concrete(mixed), observed.batch(0)
    x: Array = _numbered(observed, mixed)
    if x.ndim < 2 or x.size != batch * heads * shape[-2] * shape[-1]:
        raise Unserved(f"{mixed!r} of shape {shape} holds other heads")
    sides: Array = x.reshape(batch, heads, shape[-2], shape[-1]).transpose(0, 2, 1, 3)
    sides = sides.reshape(-1, heads * shape[-1])  # a row for each sample and position
    found, name, layer = None, mixed, None
    if heads == 1 and x.ndim == 3:
        found = End(name, turned=False, layer=None)
    while (node := _reader(graph, name)) is not None:
        if node.op_type in _VIEWS and node.domain in ("", "ai.onnx"):
            name = node.output[0]
            x = replayed(graph, observed, [(graph.at(node), name)], x)
        elif layer is None and (rows := _side_by_side(x, sides)) is not None:
            layer = _after(graph, node, name)
            if layer is None:
                break
            name = layer.output
            width = layer.weight.shape[1]
            x = np.repeat(rows[:, None], width, 1).reshape(observed.concrete(name))
            sides = np.repeat(np.arange(len(rows))[:, None], width, 1)
        else:
            break
        rows = _side_by_side(x, sides)
        turned = None if rows is None else _order(x.shape, rows, batch)
        if turned is not None:
            found = End(name, turned, layer)
            if not turned:
                break
    if found is None:
        raise Unserved("its heads are not put side by side again, position by position")
    return found


def _side_by_side(x: Array, sides: Array) -> Array | None:
    """Of each row, which of the sides it is; None: it is none."""
    flat = x.reshape(-1, x.shape[-1])
    if flat.shape != sides.shape:
        return None
    number = np.full(int(max(flat.max(), sides.max())) + 1, -1)
    number[sides[:, 0]] = np.arange(len(sides))
    rows = number[flat[:, 0]]
    whole = (rows >= 0).all() and (sides[rows] == flat).all()
    return rows if whole else None


def _order(shape: tuple[int, ...], rows: Array, batch: int) -> bool | None:
    """False: rows are by sample, then position; True: the other way; None: neither."""
    plain = np.arange(len(rows)).reshape(batch, -1)
    if len(shape) != 3:
        return None
    if shape[0] == batch and (rows == plain.ravel()).all():
        return False
    return True if shape[1] == batch and (rows == plain.T.ravel()).all() else None


def _reader(graph: Graph, name: str) -> NodeProto | None:
    """The one node that reads a tensor's numbers; others may ask for its shape."""
    readers = [graph.nodes[at] for at in graph.readers.get(name, [])]
    if graph.uses[name] > len(readers):
        return None
    found = [node for node in readers if node.op_type != "Shape"]
    return found[0] if len(found) == 1 else None


def _after(graph: Graph, node: NodeProto, name: str) -> Linear | None:
    """The layer that reads a tensor, with the bias that is added to it; None: it is none."""
    if node.op_type not in ("MatMul", "Gemm") or node.input[0] != name:
        return None
    try:
        layer = _of(graph, node, node.output[0], None)
        after = _reader(graph, layer.output)
        biased = after is not None and after.op_type == "Add"
        return _layer(graph, after.output[0]) if after is not None and biased else layer
    except Unserved:
        return None
