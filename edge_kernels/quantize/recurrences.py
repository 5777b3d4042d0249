"""LSTM and GRU nodes: what they make of their input as a layer of its own, batch first.

That layer is MatMul and Add. What is left is a node of the same kind whose weights pick the layer's
rows, between two Transposes: ONNX Runtime knows such nodes time first only. So the graph stays one
that runs, and `recurrence` reads the rest as one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_kernels.integer.recurrent import Direction, Recurrent
from edge_kernels.quantize.graph import Graph, Unserved, attributes
from edge_kernels.quantize.observed import Form, Observed

if TYPE_CHECKING:
    from onnx import NodeProto

    from edge_kernels.quantize.time_first import Turner

Floats = NDArray[np.float32]
KINDS: Final = ("LSTM", "GRU")
_TURNED: Final = [1, 0, 2]
_BATCH_FIRST: Final = [2, 0, 1, 3]  # of (time, directions, batch, numbers)
_END: Final = (1 << 63) - 1
_ACTIVATIONS: Final = {"LSTM": [b"Sigmoid", b"Tanh", b"Tanh"], "GRU": [b"Sigmoid", b"Tanh"]}
_WAYS: Final = {b"forward": (False,), b"reverse": (True,), b"bidirectional": (False, True)}
# What leaves a tensor of zeros one.
_MOVES: Final = (
    *("Slice", "Expand", "Reshape", "Transpose", "Identity", "Cast", "Squeeze", "Unsqueeze"),
    *("Gather", "Tile"),
)


@dataclass(frozen=True)
class Parts:
    """A node's constants.

    Attributes
    ----------
    weight : (D, G · H, K) float32
    hidden_weight : (D, G · H, H) float32
    bias : (D, G · H) float32
        Of what is read, and of the state where its bias is added to the same sum.
    hidden_bias : (D, G · H) float32
        What is left of the state's: of a GRU's last gate.
    ways : tuple of bool
        Whether each direction is reverse.
    """

    weight: Floats
    hidden_weight: Floats
    bias: Floats
    hidden_bias: Floats
    ways: tuple[bool, ...]


def parts(graph: Graph, node: NodeProto) -> Parts:
    """Return a node's constants.

    Raises
    ------
    Unserved
        Naming what no network in integers has.
    """
    given = attributes(node)
    _check_kind(node, given)
    for at, what in ((5, "initial state"), (6, "initial cell state")):
        if len(node.input) > at and node.input[at] and not _nothing(graph, node.input[at]):
            raise Unserved(f"its {what} {node.input[at]!r} is not 0")
    if any(graph.uses[name] for name in node.output[2:] if name):
        raise Unserved("its last cell state is read; its states alone are served")
    weight, hidden = (_constant(graph, node, at) for at in (1, 2))
    both = np.zeros((len(weight), 2 * weight.shape[1]), np.float32)
    if len(node.input) > 3 and node.input[3]:
        both = _constant(graph, node, 3)
    own, state = np.split(both, 2, axis=1)
    apart = weight.shape[1] - (hidden.shape[2] if node.op_type == "GRU" else 0)
    bias, left = own.copy(), state.copy()
    bias[:, :apart] += state[:, :apart]
    left[:, :apart] = 0
    return Parts(weight, hidden, bias, left, _WAYS[given.get("direction", b"forward")])


def _check_kind(node: NodeProto, given: dict[str, Any]) -> None:
    if node.domain not in ("", "ai.onnx"):
        raise Unserved(f"it is of the domain {node.domain!r}")
    if given.get("layout", 0):
        raise Unserved("its layout is 1, which ONNX Runtime does not run")
    wanted = _ACTIVATIONS[node.op_type]
    functions = given.get("activations", wanted)
    if any(each != wanted[at % len(wanted)] for at, each in enumerate(functions)):
        raise Unserved(f"its activations are {functions}; those by default are served")
    for name in ("clip", "input_forget"):
        if given.get(name):
            raise Unserved(f"it has {name} = {given[name]}, which is not served")
    if node.op_type == "GRU" and not given.get("linear_before_reset", 0):
        raise Unserved(
            "it resets the state before it is multiplied; linear_before_reset = 1 is served, "
            "torch's GRU and Keras's of reset_after=True"
        )
    for at, what in ((4, "lengths of sequences"), (7, "peepholes")):
        if len(node.input) > at and node.input[at]:
            raise Unserved(f"it has {what}, which are not served")


def _constant(graph: Graph, node: NodeProto, at: int) -> Floats:
    known = graph.constant(node.input[at])
    if known is None or node.input[at] in graph.defaults:
        raise Unserved(f"its weights {node.input[at]!r} are no constants")
    if known.dtype != np.float32 or not np.isfinite(known).all():
        raise Unserved(f"its weights {node.input[at]!r} are not all finite float32 numbers")
    return known


def _nothing(graph: Graph, name: str) -> bool:
    """Whether a tensor surely holds zeros alone, whatever its shape."""
    known = graph.constant(name)
    if known is not None:
        return not known.any()
    node = graph.maker(name)
    if node is None or node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "ConstantOfShape":
        value = attributes(node).get("value")
        return value is None or (not any(value.raw_data) and not any(value.float_data))
    if node.op_type == "Concat":
        return all(_nothing(graph, each) for each in node.input)
    return node.op_type in _MOVES and _nothing(graph, node.input[0])


def turned(turner: Turner, node: NodeProto) -> bool:
    """Write a node that reads (time, batch, K), of which the turner has (batch, time, K)."""
    x = turner.twins.get(node.input[0])
    try:
        found = parts(turner.graph, node)
    except Unserved:
        return False  # who needs it in integers says why
    if x is None:
        return False
    count, rows, _ = found.weight.shape
    width = found.hidden_weight.shape[2]
    name = f"{node.name or node.output[0] or node.output[1]}.layer"
    held = turner.constant(found.weight.reshape(count * rows, -1).T, f"{name}.weight")
    turner.add("MatMul", [x, held], f"{name}.product")
    held = turner.constant(found.bias.reshape(-1), f"{name}.bias")
    turner.add("Add", [f"{name}.product", held], f"{name}.sums")
    turner.add("Transpose", [f"{name}.sums"], f"{name}.turned", perm=_TURNED)
    states = (node.output[0] if node.output else "") or f"{name}.states"
    read = [
        f"{name}.turned",
        turner.constant(_picking(count, rows), f"{name}.rows"),
        turner.constant(found.hidden_weight, f"{name}.hidden_weight"),
        turner.constant(
            np.concatenate([np.zeros_like(found.bias), found.hidden_bias], 1), f"{name}.hidden_bias"
        ),
    ]
    turner.add(node.op_type, read, states, **attributes(node))
    turner.add("Transpose", [states], f"{name}.first", perm=_BATCH_FIRST)
    shape = turner.constant(np.array([0, 0, count * width], np.int64), f"{name}.shape")
    turner.add("Reshape", [f"{name}.first", shape], f"{name}.result")
    turner.states[states] = (f"{name}.result", count * width)
    if len(node.output) > 1 and turner.graph.uses[node.output[1]]:
        _last(turner, node.output[1], f"{name}.result", found.ways, width)
    return True


def _picking(count: int, rows: int) -> Floats:
    """Weights (D, G · H, D · G · H) by which each direction reads its own rows."""
    return np.eye(count * rows, dtype=np.float32).reshape(count, rows, count * rows)


def _last(turner: Turner, output: str, source: str, ways: tuple[bool, ...], width: int) -> None:
    """Write what each direction made at its end: (batch, D, H), the twin of (D, batch, H)."""
    ends = []
    for number, reverse in enumerate(ways):
        name = f"{output}.way{number}"
        own = source
        if len(ways) > 1:
            own = _slice(turner, source, (number * width, (number + 1) * width, 2), name)
        ends.append(_slice(turner, own, (0, 1, 1) if reverse else (-1, _END, 1), f"{name}.end"))
    twin = turner.twin(output)
    if len(ends) == 1:
        turner.add("Identity", ends, twin)
    else:
        turner.add("Concat", ends, twin, axis=1)


def _slice(turner: Turner, source: str, bounds: tuple[int, int, int], output: str) -> str:
    held = [
        turner.constant(np.array([each], np.int64), f"{output}.{what}")
        for what, each in zip(("start", "stop", "axis"), bounds, strict=True)
    ]
    turner.add("Slice", [source, *held], output)
    return output


def viewed(turner: Turner, node: NodeProto) -> bool:
    """Note that a node makes (time, batch, D · H) of states (time, D, batch, H), or is on its way.

    Torch's exporters write a Squeeze, or a Transpose and a Reshape.
    """
    result, width = turner.states[node.input[0]]
    if node.op_type == "Transpose" and attributes(node).get("perm") == [0, 2, 1, 3]:
        turner.states[node.output[0]] = (result, width)
        turner.nodes.append(node)  # for whoever else reads it
        return True
    if node.op_type == "Squeeze":
        fits = turner.axes(node, 1, rank=4) == [1]
    else:
        fits = node.op_type == "Reshape" and _joins(turner, node, width)
    if fits:
        turner.twins[node.output[0]] = result
    return fits


def _joins(turner: Turner, node: NodeProto, width: int) -> bool:
    """Whether a Reshape leaves time and batch as they are: it may but join directions' numbers."""
    if turner.observed is None:
        return False
    return all(
        len(seen.get(node.input[0], ())) == 4
        and seen.get(node.output[0]) == (*seen[node.input[0]][:2], width)
        for seen in turner.observed.shapes
    )


def recurrence(graph: Graph, observed: Observed, at: int) -> Form:
    """Return the form of a node that `turned` wrote, with the views around it.

    Raises
    ------
    Unserved
        Where it is another one: why.
    """
    del observed
    node = graph.nodes[at]
    found = parts(graph, node)
    before = graph.maker(node.input[0])
    views = _views(graph, node.output[0])
    count, rows, read = found.weight.shape
    ours = read == count * rows and np.array_equal(found.weight, _picking(count, rows))
    if not ours or before is None or before.op_type != "Transpose" or len(views) != 2:
        raise Unserved(
            "what it reads is not seen to be (time, batch, numbers) of samples that come first, or "
            "what it makes is read in another order: export the module with batch_first=True"
        )
    directions = tuple(
        Direction(weight.astype(np.float64), bias.astype(np.float64), np.ones(rows), reverse)
        for weight, bias, reverse in zip(
            found.hidden_weight, found.hidden_bias, found.ways, strict=True
        )
    )
    nodes = frozenset({graph.at(before), at, *views})
    output = graph.nodes[views[-1]].output[0]
    step = Recurrent(0, node.op_type == "GRU", directions)
    return Form(output, (before.input[0],), nodes, step)


def _views(graph: Graph, name: str) -> list[int]:
    """The Transpose and the Reshape that alone read states."""
    found: list[int] = []
    for op in ("Transpose", "Reshape"):
        reader = graph.only_reader(name)
        if reader is None or graph.nodes[reader].op_type != op:
            break
        found.append(reader)
        name = graph.nodes[reader].output[0]
    return found
