"""Takes large constants out of exported graphs: those of one frozen backbone share them."""

import math
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from schemas.constants import LEAST, constant_bytes


def apart(graph: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Return a graph as it travels, and its large constants by SHA-256; see ``schemas.constants``.

    Put back, they make the same graph to the byte.
    """
    if len(graph) < LEAST:
        return graph, {}
    model = onnx.load_from_string(graph)
    constants: dict[str, bytes] = {}
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.raw_data) < LEAST:
            continue
        values = numpy_helper.to_array(tensor)
        axes = _axes(values)
        sha256, data = constant_bytes(values.transpose(axes))
        constants[sha256] = data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", sha256), ("axes", ",".join(map(str, axes)))):
            tensor.external_data.add(key=key, value=value)
    if not constants:
        return graph, {}
    return bytes(model.SerializeToString(deterministic=True)), constants


def _axes(values: NDArray[Any]) -> tuple[int, ...]:
    """The order of axes in which a constant is sent, one for all forms in which graphs hold it.

    A matrix is sent tall, whether a graph holds it so or turned; of a square one, that form is sent
    whose bytes are less. A convolution's weight (outputs, inputs, kernel) is taken for the matrix
    (kernel · inputs, outputs) that other graphs hold in its place.
    """
    inner = tuple(range(values.ndim))
    if values.ndim < 2:
        return inner
    tall, wide = inner, inner[::-1]
    rows = values.shape[0]
    if values.ndim > 2:
        tall, wide = inner[::-1], (0, *inner[:0:-1])
        rows = math.prod(values.shape[1:])
    columns = values.size // rows
    if rows != columns:
        return tall if rows > columns else wide
    return min(tall, wide, key=lambda axes: values.transpose(axes).tobytes())
