"""What a network in integers must satisfy; each refusal names the step and the cause."""

from __future__ import annotations

from collections.abc import Callable
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
    Slice,
    Step,
    Table,
    Transpose,
)
from edge_kernels.integer.recurrent import Recurrent
from edge_kernels.integer.scales import (
    add_scales,
    affine_scales,
    attention_scales,
    mean_scale,
    multiply_scales,
    norm_scales,
    product_scales,
    rescale_scales,
)
from edge_kernels.integer.shapes import SHAPES, need, pool_counts, reads, shape_of

# Of a sum: int32, and times a multiplier below 2^31, with half a unit, below 2^63.
_MOST_SUM: Final = (1 << 31) - 1
_MOST_TERM: Final = 1 << 61
_MOST_LENGTH: Final = (1 << 16) - 1  # of a free axis, and of what attention sees
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


def _refuse(where: str, look: Callable[[], None]) -> None:
    try:
        look()
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _input(net: IntNet) -> None:
    shape = net.shapes[0]
    sizes = shape[1:] if len(shape) == 2 and shape[0] == FREE else shape
    need(len(shape) in (1, 2) and min(sizes) > 0, f"its shape {shape} is not (C, L) or (N,)")
    longest = net.longest
    need(1 <= longest <= _MOST_LENGTH, f"a longest of {longest}; 1…{_MOST_LENGTH} are possible")
    _levels(net.known(0))


def _levels(levels: Levels) -> None:
    need(levels.bits in (8, 16), f"{levels.bits} bits; 8 or 16 are possible")
    need(0 <= levels.zero <= levels.top, f"its zero {levels.zero} is not in 0…{levels.top}")
    need(np.isfinite(levels.scale) and levels.scale > 0, f"its scale {levels.scale} is not > 0")


def _step(net: IntNet, at: int, step: Step) -> None:
    need(type(step) in SHAPES, "no such step")
    for x in reads(step):
        need(0 <= x <= at, f"it reads value {x}; values 0 to {at} exist by then")
        need(net.levels[x] is not None, f"it reads value {x}, which is accumulators")
    shape = shape_of(step, net.shapes)
    need(tuple(net.shapes[at + 1]) == shape, f"it makes {shape}, not {net.shapes[at + 1]}")
    levels = net.levels[at + 1]
    if levels is None:
        need(isinstance(step, Product), "only a product gives accumulators")
        need(net.output == at + 1, "accumulators are not the network's output")
    else:
        _levels(levels)
    _CHECKS[type(step)](net, at, step)


def _same_levels(net: IntNet, at: int, step: Step) -> None:
    for x in reads(step):
        need(
            net.levels[x] == net.levels[at + 1],
            f"it leaves levels as they are, but {net.levels[x]} become {net.levels[at + 1]}",
        )


def _product(net: IntNet, at: int, step: Product) -> None:
    rows = step.weight.shape[0]
    need(step.weight.dtype == np.int8, f"weights are {step.weight.dtype}, not int8")
    need(2 <= step.weight_bits <= 8, f"weights of {step.weight_bits} bits; 2 to 8 are possible")
    top = 1 << (step.weight_bits - 1)
    inside = (step.weight >= -top) & (step.weight < top)
    need(inside.all(), f"weights beyond {-top}…{top - 1}")
    need(step.bias.dtype == np.int32, f"biases are {step.bias.dtype}, not int32")
    need(step.bias.shape == (rows,), f"biases of shape {step.bias.shape}, not ({rows},)")
    need(step.weight_scale.shape == (rows,), f"{step.weight_scale.shape} scales, not ({rows},)")
    low, high = acc_range(net, step)
    most = max(-low, high)
    need(most <= _MOST_SUM, f"its sums may reach {most}, beyond {_MOST_SUM}")
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
    need(most <= _MOST_SUM, f"its sums may reach {most}, beyond {_MOST_SUM}")
    _, shift = mean_scale(net, at, step, count)
    need(shift <= 62, f"a mean of {count} does not fit a shift of 1 to 62 bits")


def _affine(net: IntNet, at: int, step: Affine) -> None:
    _, terms, _ = affine_scales(net, at, step)
    most = max(abs(term) for term in terms)
    need(most <= _MOST_TERM, f"a term of {most} units, beyond 2^61: factors are too small beside")


def _multiply(net: IntNet, at: int, step: Multiply) -> None:
    multiply_scales(net, at, step)


def _constant(net: IntNet, at: int, step: Constant) -> None:
    del net, at
    need(np.isfinite(step.values).all(), "a value is not finite")


def _rescale(net: IntNet, at: int, step: Rescale) -> None:
    rescale_scales(net, at, step)


def _table(net: IntNet, at: int, step: Table) -> None:
    _eight_bits(net, step.x)
    kind = np.uint8 if net.known(at + 1).bits == 8 else np.uint16
    given = step.values
    fits = given.shape == (256,) and given.dtype == kind
    need(fits, f"values are {given.dtype} {given.shape}, not {kind.__name__} (256,)")


def _norm(net: IntNet, at: int, step: Norm) -> None:
    epsilon = step.epsilon
    need(np.isfinite(epsilon) and epsilon >= 0, f"an epsilon of {epsilon}; 0 or more is possible")
    _, terms, _, units = norm_scales(net, at, step)
    most = max(abs(term) for term in terms)
    need(most <= _MOST_TERM, f"a term of {most} units, beyond 2^61: factors are too small beside")
    need(units <= _MOST_TERM, f"an epsilon of {units} units, beyond 2^61")


def _attention(net: IntNet, at: int, step: Attention) -> None:
    for x in reads(step):
        _eight_bits(net, x)
    scale = step.scale
    need(np.isfinite(scale) and scale > 0, f"its scale {scale} is not > 0")
    seen = net.shapes[step.k][0]
    seen = net.longest if seen == FREE else seen
    need(seen <= _MOST_LENGTH, f"it sees {seen} positions; {_MOST_LENGTH} are possible")
    shift = attention_scales(net, at, step)[3]
    need(shift <= _MOST_VALUE_SHIFT, "its values' scale is below 2^−9 of the result's")


def _eight_bits(net: IntNet, x: int) -> None:
    bits = net.known(x).bits
    need(bits == 8, f"it reads value {x} of {bits} bits; 8 are needed")


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
    Recurrent: cells.check,
}
