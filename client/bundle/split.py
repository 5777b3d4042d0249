"""A model's graph and its weights apart: weights of two persons differ, their graphs seldom."""

from typing import Final

import numpy as np

from client.protobuf import Budget, Reading
from schemas.bundle import MAX_HOLES

Holes = tuple[tuple[int, int], ...]
_GRAPH, _INITIALIZER, _RAW = 7, 5, 9  # fields of ONNX's model, graph and tensor
_ANY: Final = dict.fromkeys(range(1, 1 << 10), "a field")
_FIELDS: Final = 4_000_000
_SMALLEST: Final = 64  # bytes; what is smaller stays in the graph


def split(model: bytes) -> tuple[bytes, bytes, Holes]:
    """Take the weights out of a model.

    Parameters
    ----------
    model : bytes
        ONNX, as ``client.graph_check`` lets pass.

    Returns
    -------
    graph : bytes
        The model without the bytes of its larger initializers; no model any more.
    weights : bytes
        Those, one after the other: little-endian, as ONNX's raw data are.
    holes : tuple[tuple[int, int], ...]
        Where they go: offset in ``graph``, length.
    """
    start = _address(memoryview(model))
    pieces: list[bytes] = []
    taken: list[memoryview] = []
    holes: list[tuple[int, int]] = []
    at = cut = 0
    for raw in _raw_data(model):
        if len(raw) < _SMALLEST or len(holes) == MAX_HOLES:
            continue
        offset = _address(raw) - start
        pieces.append(model[at:offset])
        taken.append(raw)
        holes.append((offset - cut, len(raw)))
        at, cut = offset + len(raw), cut + len(raw)
    pieces.append(model[at:])
    return b"".join(pieces), b"".join(taken), tuple(holes)


def join(graph: bytes, weights: bytes, holes: Holes) -> bytes:
    """Put them together again, to the byte; the manifest has checked that they fit."""
    pieces: list[memoryview] = []
    rest, values = memoryview(graph), memoryview(weights)
    at = 0
    for offset, length in holes:
        pieces += [rest[at:offset], values[:length]]
        at, values = offset, values[length:]
    return b"".join([*pieces, rest[at:]])


def _raw_data(model: bytes) -> list[memoryview]:
    budget = Budget(_FIELDS)
    graph = Reading(memoryview(model), "the model", _ANY, budget).message(_GRAPH)
    tensors = Reading(graph or memoryview(b""), "the graph", _ANY, budget).messages(_INITIALIZER)
    found = (Reading(tensor, "an initializer", _ANY, budget).message(_RAW) for tensor in tensors)
    return [raw for raw in found if raw is not None]


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)
