"""Operators that the exporter writes with a dozen ONNX nodes where one serves.

A step of a small encoder has half of the nodes: it is smaller to send, and quicker to check and to
open on a device.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnx import ModelProto, TensorProto, numpy_helper

from hypernet.lengths import length

aten = torch.ops.aten
_END = (1 << 63) - 1  # of an axis, in ONNX


@functools.cache
def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For ``torch.onnx.export``: functions of the exporter's values by operator."""
    from onnxscript.onnx_opset import opset18 as op  # seconds, for nothing where graphs are kept

    def numbers(values: Sequence[Any]) -> Any:
        """A vector of numbers; those that only the device knows are joined in."""
        if all(isinstance(value, int) for value in values):
            return op.Constant(value_ints=list(values))
        one: Any = op.Constant(value_ints=[-1])
        parts: list[Any] = [
            op.Constant(value_ints=[value]) if isinstance(value, int) else op.Reshape(value, one)
            for value in values
        ]
        return op.Concat(*parts, axis=0)

    def sliced(x: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = None) -> Any:
        bounds = (start or 0, _END if end is None else end, dim, step or 1)
        return op.Slice(x, *(numbers([bound]) for bound in bounds))

    def view(x: Any, size: Sequence[Any]) -> Any:
        """One length that only the device knows follows from the others."""
        free = [at for at, each in enumerate(size) if not isinstance(each, int)]
        if len(free) == 1 and -1 not in size:
            size = [-1 if at in free else each for at, each in enumerate(size)]
        return op.Reshape(x, numbers(size), allowzero=True)

    return {
        aten.slice.Tensor: sliced,
        aten.view.default: view,
        aten._unsafe_view.default: view,
    }


def leave_out_what_is_there_twice(model: Any) -> None:
    """Keep one of nodes that compute the same: the backward pass cuts what the forward pass cut."""
    from onnx_ir.passes import Sequential, common

    Sequential(common.IdentityEliminationPass(), common.CommonSubexpressionEliminationPass())(model)


def name_windows(model: ModelProto) -> None:
    """Give the axis whose length a trace made up a name; see ``hypernet/lengths.py``.

    Raises
    ------
    RuntimeError
        Where the exporter wrote that length as a constant.
    """
    for value in (*model.graph.input, *model.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            times, left = length(axis.dim_value)
            if (times, left) == (1, 0):
                axis.dim_param = "windows"
            elif times:
                axis.Clear()
    for node in model.graph.node:
        for attribute in node.attribute:
            for number in (*attribute.ints, attribute.i, *_integers(attribute.t)):
                if length(number)[0]:
                    raise RuntimeError(f"{node.name}: the number of windows became a constant")


def _integers(tensor: TensorProto) -> list[int]:
    whole = tensor.data_type in (TensorProto.INT64, TensorProto.INT32)
    return numpy_helper.to_array(tensor).ravel().tolist() if whole else []
