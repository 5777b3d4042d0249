"""The shapes of a network's values, and what each of its steps reads."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Final

import numpy as np

from edge_kernels.integer import cells
from edge_kernels.integer.net import (
    FREE,
    Add,
    Affine,
    Attention,
    Concat,
    Constant,
    Multiply,
    Norm,
    Pool,
    Product,
    Reduce,
    Relu,
    Rescale,
    Reshape,
    Shape,
    Slice,
    Step,
    Table,
    Transpose,
)
from edge_kernels.integer.recurrent import Recurrent

_MOST_NORMED: Final = 1 << 14
_MOST_HEAD: Final = 1 << 13


def need(condition: object, wrong: str) -> None:
    """Refuse what does not satisfy a condition, by ValueError."""
    if not condition:
        raise ValueError(wrong)


def reads(step: Step) -> tuple[int, ...]:
    """Return the values that a step reads."""
    if isinstance(step, Concat):
        return step.xs
    if isinstance(step, Attention):
        return (step.x, step.k, step.v)
    if isinstance(step, Constant):
        return ()
    return (step.x, step.y) if isinstance(step, Add | Multiply) else (step.x,)


def shape_of(step: Step, shapes: list[Shape]) -> Shape:
    """Return the shape of a step's value from those before it.

    Raises
    ------
    ValueError
        Where the step cannot read such shapes.
    """
    return SHAPES[type(step)](step, [shapes[each] for each in reads(step)])


def _window(step: Product | Pool, kernel: int, span: int, length: int) -> int:
    dilation = 1 if isinstance(step, Pool) else step.dilation
    need(min(kernel, step.stride, dilation) >= 1, "kernel, stride and dilation must be 1 at least")
    pads = (step.pad_begin, step.pad_end)
    need(min(pads) >= 0 and max(pads) < span, f"pads {pads} outside 0…{span - 1}")
    count = positions(step, length)
    need(count > 0, f"a length of {length} is shorter than its kernel")
    return count


def _two(shape: Shape) -> Shape:
    need(len(shape) == 2, f"it reads a value of shape {shape}; (C, L) is needed")
    return shape


def _given(shape: Shape, what: str) -> Shape:
    need(FREE not in shape, f"{what} a value with a free axis, {shape}")
    return shape


def _product_shape(step: Product, xs: list[Shape]) -> Shape:
    (x,) = xs
    need(
        step.weight.ndim == 3 and min(step.weight.shape) > 0,
        f"weights of shape {step.weight.shape}",
    )
    rows, kernel, channels = step.weight.shape
    if step.linear:
        plain = (step.stride, step.dilation, step.pad_begin, step.pad_end) == (1, 1, 0, 0)
        need(kernel == 1 and plain, "a linear layer has kernel 1, stride 1 and no pads")
        need(x[-1] == channels, f"weights read {channels} numbers, the value's last axis {x[-1]}")
        return (*x[:-1], rows)
    need(
        _two(_given(x, "it convolves"))[0] == channels,
        f"weights read {channels} channels of {x[0]}",
    )
    span = (kernel - 1) * step.dilation + 1
    return (rows, _window(step, kernel, span, x[1]))


def _add_shape(step: Add, xs: list[Shape]) -> Shape:
    del step
    need(xs[0] == xs[1], f"it adds shapes {xs[0]} and {xs[1]}")
    return xs[0]


def _multiply_shape(step: Multiply, xs: list[Shape]) -> Shape:
    del step
    fits = len(xs[0]) == len(xs[1]) and all(a == b or 1 in (a, b) for a, b in zip(*xs, strict=True))
    need(fits, f"it multiplies shapes {xs[0]} and {xs[1]}; equal axes, or such of 1, are served")
    return tuple(b if a == 1 else a for a, b in zip(*xs, strict=True))


def _slice_shape(step: Slice, xs: list[Shape]) -> Shape:
    (x,) = xs
    need(0 <= step.axis < len(x), f"axis {step.axis} of a value of shape {x}")
    size, end = x[step.axis], step.start + step.count
    size = 1 if size == FREE else size  # at its shortest
    inside = step.start >= 0 and step.count >= 1 and end <= size
    need(inside, f"it takes {step.start} to {end} of an axis of {x[step.axis]}, a free one of 1")
    return (*x[: step.axis], step.count, *x[step.axis + 1 :])


def _constant_shape(step: Constant, xs: list[Shape]) -> Shape:
    del xs
    shape = step.values.shape
    need(len(shape) in (1, 2) and min(shape) > 0, f"its shape {shape} is not (C, L) or (N,)")
    return shape


def _pool_shape(step: Pool, xs: list[Shape]) -> Shape:
    channels, length = _two(xs[0])
    return (channels, _window(step, step.kernel, step.kernel, length))


def _reduce_shape(step: Reduce, xs: list[Shape]) -> Shape:
    (x,) = xs
    need(0 <= step.axis < len(x), f"axis {step.axis} of a value of shape {x}")
    if len(x) == 1:
        return (1,)
    left = x[1 - step.axis]
    if not step.keep:
        return _given((left,), "it makes")
    return (1, left) if step.axis == 0 else (left, 1)


def _affine_shape(step: Affine, xs: list[Shape]) -> Shape:
    (x,) = xs
    _factors(step, _given(x, "it scales channels of")[0])
    return x


def _factors(step: Affine | Norm, count: int) -> None:
    for given in (step.factor, step.term):
        need(given.shape == (count,), f"{given.shape} factors or terms, not ({count},)")
        need(np.isfinite(given).all(), "a factor or term is not finite")


def _norm_shape(step: Norm, xs: list[Shape]) -> Shape:
    (x,) = xs
    need(x[-1] <= _MOST_NORMED, f"it norms {x[-1]} numbers; {_MOST_NORMED} are possible")
    _factors(step, x[-1])
    return x


def _attention_shape(step: Attention, xs: list[Shape]) -> Shape:
    q, k, v = (_two(x) for x in xs)
    need(q[1] == k[1] and k[0] == v[0], f"queries {q}, keys {k} and values {v} do not fit")
    whole = step.heads >= 1 and q[1] % step.heads == v[1] % step.heads == 0
    need(whole, f"{step.heads} heads of {q[1]} and {v[1]} numbers")
    each = q[1] // step.heads
    need(each <= _MOST_HEAD, f"heads of {each} numbers; {_MOST_HEAD} are possible")
    return (q[0], v[1])


def _concat_shape(step: Concat, xs: list[Shape]) -> Shape:
    need(xs, "it joins nothing")
    need(0 <= step.axis < len(xs[0]), f"axis {step.axis} of a value of shape {xs[0]}")

    def rest(shape: Shape) -> Shape:
        return shape[: step.axis] + shape[step.axis + 1 :]

    fits = all(len(x) == len(xs[0]) and rest(x) == rest(xs[0]) for x in xs)
    need(fits, f"it joins shapes {xs} along axis {step.axis}")
    if step.axis == 0:
        _given(xs[0], "it lengthens")
    total = sum(x[step.axis] for x in xs)
    return (*xs[0][: step.axis], total, *xs[0][step.axis + 1 :])


def _reshape_shape(step: Reshape, xs: list[Shape]) -> Shape:
    need(len(step.shape) in (1, 2) and min(step.shape) > 0, f"a shape {step.shape}")
    need(
        prod(step.shape) == prod(_given(xs[0], "it reshapes")),
        f"{xs[0]} has not as many elements as {step.shape}",
    )
    return tuple(step.shape)


def _same_shape(step: Relu | Rescale | Table, xs: list[Shape]) -> Shape:
    del step
    return xs[0]


def _transpose_shape(step: Transpose, xs: list[Shape]) -> Shape:
    del step
    channels, length = _two(_given(xs[0], "it transposes"))
    return (length, channels)


SHAPES: Final[dict[type, Callable[[Any, list[Shape]], Shape]]] = {
    Product: _product_shape,
    Add: _add_shape,
    Pool: _pool_shape,
    Reduce: _reduce_shape,
    Affine: _affine_shape,
    Relu: _same_shape,
    Concat: _concat_shape,
    Reshape: _reshape_shape,
    Transpose: _transpose_shape,
    Rescale: _same_shape,
    Table: _same_shape,
    Norm: _norm_shape,
    Attention: _attention_shape,
    Multiply: _multiply_shape,
    Slice: _slice_shape,
    Constant: _constant_shape,
    Recurrent: cells.shape,
}


def positions(step: Product | Pool, length: int) -> int:
    """Return the positions of a window's output over so long an axis; none: 0."""
    kernel = step.kernel if isinstance(step, Pool) else step.weight.shape[1]
    dilation = 1 if isinstance(step, Pool) else step.dilation
    room = length + step.pad_begin + step.pad_end - (kernel - 1) * dilation - 1
    return 0 if room < 0 else room // step.stride + 1


def pool_counts(step: Pool, length: int) -> list[int]:
    """Return what a mean divides by at each position."""
    starts = [i * step.stride - step.pad_begin for i in range(positions(step, length))]
    if step.count_padding:
        return [step.kernel] * len(starts)
    return [min(start + step.kernel, length) - max(start, 0) for start in starts]
