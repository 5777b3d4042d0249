"""Operators of a training step that the ONNX exporter lacks, or that ONNX Runtime runs slowly."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from hypernet.convolutions import convolution, convolution_backward

aten = torch.ops.aten
Table = Mapping[Any, Callable[..., Any]]


def threshold_backward(grad: Tensor, x: Tensor, threshold: float) -> Tensor:
    """Gradient of a ReLU as a product: the runtime's selection takes some five times as long."""
    return grad * (x > threshold).to(grad.dtype)


def power(x: Tensor, exponent: float) -> Any:
    """Squares, and what is left of a square's derivative, without the runtime's slow ``Pow``."""
    if exponent == 1:
        return x.clone()
    return x * x if exponent == 2 else NotImplemented


def reversed_minus(x: Tensor, other: float, alpha: float = 1) -> Tensor:
    """Other − α x, of which the exporter knows no form."""
    return -alpha * x + other


def slice_backward(
    grad: Tensor, sizes: list[int], dim: int, start: int, end: int, step: int
) -> Any:
    """Gradient of a cut: zeros around it."""
    if step != 1:
        return NotImplemented
    length = sizes[dim]
    first, last = (min(at + length if at < 0 else at, length) for at in (start, end))
    after = [0, 0] * (grad.ndim - 1 - dim % grad.ndim)
    return pad(grad, [*after, max(first, 0), length - last])


def _by_rows(operator: Any) -> Callable[..., Any]:
    """Each step of windows and one vector, window by window: the runtime is slow at short rows."""

    def applied(x: Any, vector: Any, **given: Any) -> Any:
        tensors = isinstance(x, Tensor) and isinstance(vector, Tensor)
        if given or not tensors or (x.ndim, vector.ndim) != (3, 1) or len(vector) != x.shape[2]:
            return NotImplemented
        return operator(x.flatten(1), vector.repeat(x.shape[1])).reshape(x.shape)

    return applied


minus_by_rows, over_by_rows = _by_rows(aten.sub.Tensor), _by_rows(aten.div.Tensor)


def split(x: Tensor, sizes: list[int], dim: int = 0) -> list[Tensor]:
    """Cuts, which the runtime makes in one go; a split would be a list that it copies from."""
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    return [x.narrow(dim, start, size) for start, size in zip(starts, sizes, strict=True)]


def eye(size: int, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """Ones where the row's number is the column's."""
    numbers = torch.arange(size)
    return (numbers[:, None] == numbers).to(dtype or torch.get_default_dtype())


TABLE: Table = {
    aten.convolution.default: convolution,
    aten.convolution_backward.default: convolution_backward,
    aten.threshold_backward.default: threshold_backward,
    aten.pow.Tensor_Scalar: power,
    aten.rsub.Scalar: reversed_minus,
    aten.slice_backward.default: slice_backward,
    aten.split_with_sizes.default: split,
    aten.sub.Tensor: minus_by_rows,
    aten.div.Tensor: over_by_rows,
    aten.eye.default: eye,
}

INFERENCE: Table = {key: TABLE[key] for key in (aten.pow.Tensor_Scalar, aten.rsub.Scalar)}
"""For graphs that never learn: convolutions stay, for quantizers to find."""
