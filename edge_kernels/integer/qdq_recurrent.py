"""Recurrent layers in plain ONNX: LSTM and GRU nodes in float, their weights dequantized.

A node has the layer before it within it, so that this layer's sums are not rounded; neither are the
states between positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edge_kernels.integer.net import IntNet, Product
from edge_kernels.integer.recurrent import Recurrent
from edge_kernels.integer.shapes import reads

if TYPE_CHECKING:
    from edge_kernels.integer.qdq import Writer


def within(net: IntNet) -> set[int]:
    """Return the values that recurrent nodes hold within them: what they alone read."""
    found = {step.x for step in net.steps if isinstance(step, Recurrent)}
    others = {x for step in net.steps if not isinstance(step, Recurrent) for x in reads(step)}
    return found - others - {net.output}


def recurrent(writer: Writer, at: int, step: Recurrent) -> str:
    """Append a layer; return its output's name.

    Raises
    ------
    ValueError
        Where a linear layer does not make its sums.
    """
    net, ways, rows = writer.net, len(step.directions), step.gates * step.width
    layer = net.steps[step.x - 1] if step.x else None
    if not isinstance(layer, Product) or not layer.linear or layer.relu:
        raise ValueError(
            f"step {at}: a recurrent layer whose sums no linear layer makes; to_edge serves it"
        )
    own = writer.rows(f"step{at}.weight", layer.weight[:, 0], layer.weight_scale)
    shape = writer.constant(f"step{at}.weight_shape", np.array([ways, rows, -1], np.int64))
    weight = writer.make("Reshape", [own, shape])
    states = [
        writer.make("Unsqueeze", [_state(writer, f"step{at}.way{number}", way), _first(writer, at)])
        for number, way in enumerate(step.directions)
    ]
    state = writer.make("Concat", states, axis=0) if ways > 1 else states[0]
    biases = layer.bias * (net.known(layer.x).scale * layer.weight_scale)
    unit = net.known(at + 1).scale
    held = [way.hidden_bias * (unit * way.hidden_scale) for way in step.directions]
    both = np.concatenate([biases.reshape(ways, rows), np.stack(held)], 1).astype(np.float32)
    bias = writer.constant(f"step{at}.bias", both)
    x = writer.make("Transpose", [writer.read(layer.x)], perm=[1, 0, 2])
    made = writer.make("GRU" if step.gru else "LSTM", [x, weight, state, bias], **_given(step))
    first = writer.make("Transpose", [made], perm=[2, 0, 1, 3])
    whole = np.array([0, 0, ways * step.width], np.int64)
    return writer.make("Reshape", [first, writer.constant(f"step{at}.shape", whole)])


def _state(writer: Writer, name: str, way: Any) -> str:
    return writer.rows(f"{name}.weight", way.hidden_weight, way.hidden_scale)


def _first(writer: Writer, at: int) -> str:
    return writer.constant(f"step{at}.axis{len(writer.nodes)}", np.array([0], np.int64))


def _given(step: Recurrent) -> dict[str, Any]:
    names = {(False,): "forward", (True,): "reverse", (False, True): "bidirectional"}
    given: dict[str, Any] = {"hidden_size": step.width}
    given["direction"] = names[tuple(way.reverse for way in step.directions)]
    return {**given, "linear_before_reset": 1} if step.gru else given
