"""Puts shared constants back into a graph, which is then whole, to the byte as it was exported."""

from collections.abc import Callable

import numpy as np

from client.graph_constants import SharedConstant, shared_constant
from client.onnx_fields import TENSOR
from client.protobuf import Budget, Reading, float_tensor, rewritten
from schemas.constants import read_constant

_GRAPH, _INITIALIZER, _EXTERNAL_DATA = 7, 5, 13


def assembled(graph: bytes, fields: int, read: Callable[[str], bytes]) -> bytes:
    """Put the values of shared constants into a graph.

    Parameters
    ----------
    graph : bytes
        That has passed ``check``: the sizes that it declares are allowed.
    fields : int
        Of protobuf, that are read at most.
    read : callable(sha256) -> bytes
        Gives a constant's object, its hash checked.

    Raises
    ------
    ValueError
        Where an object is no constant, or of another size or type than the graph declares.
    """
    budget = Budget(fields)

    def initializer(data: memoryview) -> bytes:
        tensor = Reading(data, "an initializer", TENSOR, budget)
        if not tensor.has(_EXTERNAL_DATA):
            return bytes(data)
        constant = shared_constant(tensor, "an initializer")
        values = _values(constant, read(constant.sha256))
        return float_tensor(constant.name, constant.dims, values)

    def body(data: memoryview) -> bytes:
        return rewritten(data, "the graph", budget, _INITIALIZER, initializer)

    return rewritten(memoryview(graph), "the model", budget, _GRAPH, body)


def _values(constant: SharedConstant, data: bytes) -> bytes:
    """A constant's raw data, its axes in the graph's order."""
    what = f"initializer {constant.name}: constant {constant.sha256[:12]}"
    try:
        values = read_constant(data)
    except ValueError as error:
        raise ValueError(f"{what} is {error}") from None
    if values.nbytes != constant.bytes:
        raise ValueError(f"{what} has {values.size} numbers; its shape is {list(constant.dims)}")
    held = values.reshape([constant.dims[axis] for axis in constant.axes])
    return held.transpose(np.argsort(constant.axes)).tobytes()
