"""What a network in integers must satisfy; each refusal names the step and the cause."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Final

import numpy as np

from edge_kernels.integer.net import (
    FREE,
    Add,
    Affine,
    Attention,
    Concat,
    Constant,
    IntNet,
    Levels,
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
    add_scales,
    affine_scales,
    attention_scales,
    mean_scale,
    multiply_scales,
    norm_scales,
    pool_counts,
    positions,
    product_scales,
    rescale_scales,
)

# Of a sum: int32, and times a multiplier below 2^31, with half a unit, below 2^63.
_MOST_SUM: Final = (1 << 31) - 1
_MOST_TERM: Final = 1 << 61
_MOST_LENGTH: Final = (1 << 16) - 1  # of a free axis, and of what attention sees
_MOST_NORMED: Final = 1 << 14
_MOST_HEAD: Final = 1 << 13
_MOST_VALUE_SHIFT: Final = 40  # of attention: with a sum's 22 bits more


def check(net: IntNet) -> None:
    """Refuse a network that is not consistent.

    Raises
    ------
    ValueError
        Naming the step, by its number and kind, and the cause: a value of the future, a shape or
        levels that do not follow, a number outside its range, sums that 64 bits may not hold.
    """
    count = len(net.steps) + 1
    if len(net.shapes) != count or len(net.levels) != count:
        raise ValueError(
            f"the network has {len(net.steps)} steps, {len(net.shapes)} shapes and "
            f"{len(net.levels)} levels; {count} of each value are needed"
        )
    if not 0 <= net.output < count:
        raise ValueError(f"the output is value {net.output}; there are values 0 to {count - 1}")
    _refuse("value 0, the input", lambda: _input(net))
    for at, step in enumerate(net.steps):
        _refuse(f"step {at} ({type(step).__name__})", lambda at=at, step=step: _step(net, at, step))  # type: ignore[misc]


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
    return _SHAPES[type(step)](step, [shapes[each] for each in reads(step)])


def _refuse(where: str, look: Callable[[], None]) -> None:
    try:
        look()
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _need(condition: object, wrong: str) -> None:
    if not condition:
        raise ValueError(wrong)


def _input(net: IntNet) -> None:
    shape = net.shapes[0]
    sizes = shape[1:] if len(shape) == 2 and shape[0] == FREE else shape
    _need(len(shape) in (1, 2) and min(sizes) > 0, f"its shape {shape} is not (C, L) or (N,)")
    longest = net.longest
    _need(1 <= longest <= _MOST_LENGTH, f"a longest of {longest}; 1…{_MOST_LENGTH} are possible")
    _levels(net.known(0))


def _levels(levels: Levels) -> None:
    _need(levels.bits in (8, 16), f"{levels.bits} bits; 8 or 16 are possible")
    _need(0 <= levels.zero <= levels.top, f"its zero {levels.zero} is not in 0…{levels.top}")
    _need(np.isfinite(levels.scale) and levels.scale > 0, f"its scale {levels.scale} is not > 0")


def _step(net: IntNet, at: int, step: Step) -> None:
    _need(type(step) in _SHAPES, "no such step")
    for x in reads(step):
        _need(0 <= x <= at, f"it reads value {x}; values 0 to {at} exist by then")
        _need(net.levels[x] is not None, f"it reads value {x}, which is accumulators")
    shape = shape_of(step, net.shapes)
    _need(tuple(net.shapes[at + 1]) == shape, f"it makes {shape}, not {net.shapes[at + 1]}")
    levels = net.levels[at + 1]
    if levels is None:
        _need(isinstance(step, Product), "only a product gives accumulators")
        _need(net.output == at + 1, "accumulators are not the network's output")
    else:
        _levels(levels)
    _CHECKS[type(step)](net, at, step)


def _same_levels(net: IntNet, at: int, step: Step) -> None:
    for x in reads(step):
        _need(
            net.levels[x] == net.levels[at + 1],
            f"it leaves levels as they are, but {net.levels[x]} become {net.levels[at + 1]}",
        )


def _product(net: IntNet, at: int, step: Product) -> None:
    rows = step.weight.shape[0]
    _need(step.weight.dtype == np.int8, f"weights are {step.weight.dtype}, not int8")
    _need(2 <= step.weight_bits <= 8, f"weights of {step.weight_bits} bits; 2 to 8 are possible")
    top = 1 << (step.weight_bits - 1)
    inside = (step.weight >= -top) & (step.weight < top)
    _need(inside.all(), f"weights beyond {-top}…{top - 1}")
    _need(step.bias.dtype == np.int32, f"biases are {step.bias.dtype}, not int32")
    _need(step.bias.shape == (rows,), f"biases of shape {step.bias.shape}, not ({rows},)")
    _need(step.weight_scale.shape == (rows,), f"{step.weight_scale.shape} scales, not ({rows},)")
    low, high = acc_range(net, step)
    most = max(-low, high)
    _need(most <= _MOST_SUM, f"its sums may reach {most}, beyond {_MOST_SUM}")
    if net.levels[at + 1] is not None:
        product_scales(net, at, step)


def acc_range(net: IntNet, step: Product) -> tuple[int, int]:
    """Return the smallest and the largest accumulator that any input could give."""
    x = net.known(step.x)
    weight = step.weight.astype(np.int64).reshape(len(step.weight), -1)
    up, down = np.maximum(weight, 0).sum(1), np.maximum(-weight, 0).sum(1)
    bias = step.bias.astype(np.int64)
    high = up * (x.top - x.zero) + down * x.zero + bias
    low = -(up * x.zero + down * (x.top - x.zero)) + bias
    return min(int(low.min()), 0), max(int(high.max()), 0)


def _add(net: IntNet, at: int, step: Add) -> None:
    add_scales(net, at, step)


def _pool(net: IntNet, at: int, step: Pool) -> None:
    if not step.mean:
        return _same_levels(net, at, step)
    _mean(net, at, step, step.kernel)
    for count in set(pool_counts(step, net.shapes[step.x][1])):
        mean_scale(net, at, step, count)
    return None


def _reduce(net: IntNet, at: int, step: Reduce) -> None:
    if not step.mean:
        return _same_levels(net, at, step)
    count = net.shapes[step.x][step.axis]
    for each in (1, net.longest) if count == FREE else (count,):
        _mean(net, at, step, each)
    return None


def _mean(net: IntNet, at: int, step: Pool | Reduce, count: int) -> None:
    most = count * net.known(step.x).top
    _need(most <= _MOST_SUM, f"its sums may reach {most}, beyond {_MOST_SUM}")
    _, shift = mean_scale(net, at, step, count)
    _need(shift <= 62, f"a mean of {count} does not fit a shift of 1 to 62 bits")


def _affine(net: IntNet, at: int, step: Affine) -> None:
    _, terms, _ = affine_scales(net, at, step)
    most = max(abs(term) for term in terms)
    _need(most <= _MOST_TERM, f"a term of {most} units, beyond 2^61: factors are too small beside")


def _multiply(net: IntNet, at: int, step: Multiply) -> None:
    multiply_scales(net, at, step)


def _constant(net: IntNet, at: int, step: Constant) -> None:
    del net, at
    _need(np.isfinite(step.values).all(), "a value is not finite")


def _rescale(net: IntNet, at: int, step: Rescale) -> None:
    rescale_scales(net, at, step)


def _table(net: IntNet, at: int, step: Table) -> None:
    _eight_bits(net, step.x)
    kind = np.uint8 if net.known(at + 1).bits == 8 else np.uint16
    given = step.values
    fits = given.shape == (256,) and given.dtype == kind
    _need(fits, f"values are {given.dtype} {given.shape}, not {kind.__name__} (256,)")


def _norm(net: IntNet, at: int, step: Norm) -> None:
    epsilon = step.epsilon
    _need(np.isfinite(epsilon) and epsilon >= 0, f"an epsilon of {epsilon}; 0 or more is possible")
    _, terms, _, units = norm_scales(net, at, step)
    most = max(abs(term) for term in terms)
    _need(most <= _MOST_TERM, f"a term of {most} units, beyond 2^61: factors are too small beside")
    _need(units <= _MOST_TERM, f"an epsilon of {units} units, beyond 2^61")


def _attention(net: IntNet, at: int, step: Attention) -> None:
    for x in reads(step):
        _eight_bits(net, x)
    scale = step.scale
    _need(np.isfinite(scale) and scale > 0, f"its scale {scale} is not > 0")
    seen = net.shapes[step.k][0]
    seen = net.longest if seen == FREE else seen
    _need(seen <= _MOST_LENGTH, f"it sees {seen} positions; {_MOST_LENGTH} are possible")
    shift = attention_scales(net, at, step)[3]
    _need(shift <= _MOST_VALUE_SHIFT, "its values' scale is below 2^−9 of the result's")


def _eight_bits(net: IntNet, x: int) -> None:
    bits = net.known(x).bits
    _need(bits == 8, f"it reads value {x} of {bits} bits; 8 are needed")


_CHECKS: Final[dict[type, Callable[[IntNet, int, Any], None]]] = {
    Product: _product,
    Add: _add,
    Pool: _pool,
    Reduce: _reduce,
    Affine: _affine,
    Relu: _same_levels,
    Concat: _same_levels,
    Reshape: _same_levels,
    Transpose: _same_levels,
    Rescale: _rescale,
    Table: _table,
    Norm: _norm,
    Attention: _attention,
    Multiply: _multiply,
    Slice: _same_levels,
    Constant: _constant,
}


def _window(step: Product | Pool, kernel: int, span: int, length: int) -> int:
    dilation = 1 if isinstance(step, Pool) else step.dilation
    _need(min(kernel, step.stride, dilation) >= 1, "kernel, stride and dilation must be 1 at least")
    pads = (step.pad_begin, step.pad_end)
    _need(min(pads) >= 0 and max(pads) < span, f"pads {pads} outside 0…{span - 1}")
    count = positions(step, length)
    _need(count > 0, f"a length of {length} is shorter than its kernel")
    return count


def _two(shape: Shape) -> Shape:
    _need(len(shape) == 2, f"it reads a value of shape {shape}; (C, L) is needed")
    return shape


def _given(shape: Shape, what: str) -> Shape:
    _need(FREE not in shape, f"{what} a value with a free axis, {shape}")
    return shape


def _product_shape(step: Product, xs: list[Shape]) -> Shape:
    (x,) = xs
    _need(
        step.weight.ndim == 3 and min(step.weight.shape) > 0,
        f"weights of shape {step.weight.shape}",
    )
    rows, kernel, channels = step.weight.shape
    if step.linear:
        plain = (step.stride, step.dilation, step.pad_begin, step.pad_end) == (1, 1, 0, 0)
        _need(kernel == 1 and plain, "a linear layer has kernel 1, stride 1 and no pads")
        _need(x[-1] == channels, f"weights read {channels} numbers, the value's last axis {x[-1]}")
        return (*x[:-1], rows)
    _need(
        _two(_given(x, "it convolves"))[0] == channels,
        f"weights read {channels} channels of {x[0]}",
    )
    span = (kernel - 1) * step.dilation + 1
    return (rows, _window(step, kernel, span, x[1]))


def _add_shape(step: Add, xs: list[Shape]) -> Shape:
    del step
    _need(xs[0] == xs[1], f"it adds shapes {xs[0]} and {xs[1]}")
    return xs[0]


def _multiply_shape(step: Multiply, xs: list[Shape]) -> Shape:
    del step
    fits = len(xs[0]) == len(xs[1]) and all(a == b or 1 in (a, b) for a, b in zip(*xs, strict=True))
    _need(fits, f"it multiplies shapes {xs[0]} and {xs[1]}; equal axes, or such of 1, are served")
    return tuple(b if a == 1 else a for a, b in zip(*xs, strict=True))


def _slice_shape(step: Slice, xs: list[Shape]) -> Shape:
    (x,) = xs
    _need(0 <= step.axis < len(x), f"axis {step.axis} of a value of shape {x}")
    size, end = x[step.axis], step.start + step.count
    size = 1 if size == FREE else size  # at its shortest
    inside = step.start >= 0 and step.count >= 1 and end <= size
    _need(inside, f"it takes {step.start} to {end} of an axis of {x[step.axis]}, a free one of 1")
    return (*x[: step.axis], step.count, *x[step.axis + 1 :])


def _constant_shape(step: Constant, xs: list[Shape]) -> Shape:
    del xs
    shape = step.values.shape
    _need(len(shape) in (1, 2) and min(shape) > 0, f"its shape {shape} is not (C, L) or (N,)")
    return shape


def _pool_shape(step: Pool, xs: list[Shape]) -> Shape:
    channels, length = _two(xs[0])
    return (channels, _window(step, step.kernel, step.kernel, length))


def _reduce_shape(step: Reduce, xs: list[Shape]) -> Shape:
    (x,) = xs
    _need(0 <= step.axis < len(x), f"axis {step.axis} of a value of shape {x}")
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
        _need(given.shape == (count,), f"{given.shape} factors or terms, not ({count},)")
        _need(np.isfinite(given).all(), "a factor or term is not finite")


def _norm_shape(step: Norm, xs: list[Shape]) -> Shape:
    (x,) = xs
    _need(x[-1] <= _MOST_NORMED, f"it norms {x[-1]} numbers; {_MOST_NORMED} are possible")
    _factors(step, x[-1])
    return x


def _attention_shape(step: Attention, xs: list[Shape]) -> Shape:
    q, k, v = (_two(x) for x in xs)
    _need(q[1] == k[1] and k[0] == v[0], f"queries {q}, keys {k} and values {v} do not fit")
    whole = step.heads >= 1 and q[1] % step.heads == v[1] % step.heads == 0
    _need(whole, f"{step.heads} heads of {q[1]} and {v[1]} numbers")
    each = q[1] // step.heads
    _need(each <= _MOST_HEAD, f"heads of {each} numbers; {_MOST_HEAD} are possible")
    return (q[0], v[1])


def _concat_shape(step: Concat, xs: list[Shape]) -> Shape:
    _need(xs, "it joins nothing")
    _need(0 <= step.axis < len(xs[0]), f"axis {step.axis} of a value of shape {xs[0]}")

    def rest(shape: Shape) -> Shape:
        return shape[: step.axis] + shape[step.axis + 1 :]

    fits = all(len(x) == len(xs[0]) and rest(x) == rest(xs[0]) for x in xs)
    _need(fits, f"it joins shapes {xs} along axis {step.axis}")
    if step.axis == 0:
        _given(xs[0], "it lengthens")
    total = sum(x[step.axis] for x in xs)
    return (*xs[0][: step.axis], total, *xs[0][step.axis + 1 :])


def _reshape_shape(step: Reshape, xs: list[Shape]) -> Shape:
    _need(len(step.shape) in (1, 2) and min(step.shape) > 0, f"a shape {step.shape}")
    _need(
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


_SHAPES: Final[dict[type, Callable[[Any, list[Shape]], Shape]]] = {
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
}
