"""Operators that the exporter writes with a dozen ONNX nodes where one serves.

A step of a small encoder has half of the nodes: it is smaller to send, and quicker to check and to
open on a device.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

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
        parts = [
            op.Constant(value_ints=[value])
            if isinstance(value, int)
            else op.Reshape(value, op.Constant(value_ints=[-1]))
            for value in values
        ]
        return op.Concat(*parts, axis=0)

    def sliced(
        x: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = None
    ) -> Any:
        bounds = (start or 0, _END if end is None else end, dim, step or 1)
        return op.Slice(x, *(numbers([bound]) for bound in bounds))

    def view(x: Any, size: Sequence[Any]) -> Any:
        """One length that only the device knows follows from the others."""
        free = [at for at, length in enumerate(size) if not isinstance(length, int)]
        if len(free) == 1 and -1 not in size:
            size = [-1 if at in free else length for at, length in enumerate(size)]
        return op.Reshape(x, numbers(size), allowzero=True)

    return {
        aten.slice.Tensor: sliced,
        aten.view.default: view,
        aten._unsafe_view.default: view,  # noqa: SLF001 - the operator's name
    }


def leave_out_what_is_there_twice(model: Any) -> None:
    """Keep one of nodes that compute the same: the backward pass cuts what the forward pass cut."""
    from onnx_ir.passes import Sequential, common

    Sequential(
        common.IdentityEliminationPass(), common.CommonSubexpressionEliminationPass()
    )(model)
