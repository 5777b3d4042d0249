"""A network in float, in the steps of `edge_kernels.integer.net`: what a quantizer starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_kernels.integer import shapes as integer_shapes
from edge_kernels.integer.net import (
    FREE,
    Add,
    Affine,
    Attention,
    Concat,
    Constant,
    Multiply,
    Product,
    Reduce,
    Relu,
    Shape,
    Slice,
    Step,
    Transpose,
)
from edge_kernels.integer.shapes import reads
from edge_kernels.quantize.functions import Function, Remainder

Floats = NDArray[np.float64]
_TAKES_RELU = (Product, Add, Affine, Multiply)


@dataclass
class FloatNet:
    """The network.

    Attributes
    ----------
    shapes : list of tuple
        Of each value, without the batch; value 0 is the input and step i makes value i + 1.
    steps : list of Step
        As in an `IntNet`, but a `Product` has float64 weights and biases, and its ``weight_scale``
        means nothing; and a `Table` is a `Function`.
    names : list of str
        Of each step's ONNX node, for messages.
    output : int
    """

    shapes: list[Shape]
    steps: list[Step] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    output: int = 0

    def check_windows(self, x: NDArray[Any]) -> None:
        """Refuse calibration windows that are not this network's input.

        Raises
        ------
        ValueError
            If there are none, their shape is another, or they hold NaN or infinity.
        """
        shape = self.shapes[0]
        fits = x.ndim == len(shape) + 1 and all(
            wanted in (FREE, size) for wanted, size in zip(shape, x.shape[1:], strict=True)
        )
        if not fits:
            raise ValueError(
                f"calibration windows of shape {x.shape}; the network reads (windows, "
                f"{', '.join('any' if size == FREE else str(size) for size in shape)})"
            )
        check_finite(x)


def check_finite(x: NDArray[Any]) -> None:
    """Refuse no windows at all, and windows with NaN or infinity, naming the first.

    Raises
    ------
    ValueError
    """
    if len(x) == 0:
        raise ValueError("no calibration windows; 64 or more give usable ranges")
    finite = np.isfinite(x).reshape(len(x), -1).all(1)
    if not finite.all():
        raise ValueError(
            f"calibration window {int(np.argmin(finite))} holds NaN or infinity; drop such windows"
        )


def shape_of(step: Step, shapes: list[Shape]) -> Shape:
    """As `integer.shapes.shape_of`, of a network in float."""
    return shapes[step.x] if isinstance(step, Function) else integer_shapes.shape_of(step, shapes)


def simplified(net: FloatNet) -> FloatNet:
    """Fold factors, terms and ReLU into the step before, and drop what nobody reads.

    An `Affine` is folded into the `Product` before it where nothing else reads that product; then
    a `Relu` into the step before. A transposition of which only reductions are read becomes
    reductions over the other axis. A part of what a `Product` makes becomes a product of those
    rows, with levels of its own.
    """
    for fold in (_affine, _relu, _sliced, _transposed):
        at = 0
        while at < len(net.steps):
            at = at if fold(net, at) else at + 1
    return _renumbered(net)


def _affine(net: FloatNet, at: int) -> bool:
    step = net.steps[at]
    before = _sole_maker(net, at)
    if not isinstance(step, Affine) or not isinstance(before, Product) or before.relu:
        return False
    if before.linear and len(net.shapes[at + 1]) == 2:
        return False  # channels are the other axis
    weight = before.weight * step.factor[:, None, None]
    bias = before.bias * step.factor + step.term
    return _merge(net, at, replace(before, weight=weight, bias=bias, relu=step.relu))


def _relu(net: FloatNet, at: int) -> bool:
    before = _sole_maker(net, at)
    if not isinstance(net.steps[at], Relu) or not isinstance(before, _TAKES_RELU):
        return False
    return _merge(net, at, replace(before, relu=True))


def _sliced(net: FloatNet, at: int) -> bool:
    step = net.steps[at]
    before = net.steps[step.x - 1] if isinstance(step, Slice) and step.x else None
    if not isinstance(step, Slice) or not isinstance(before, Product):
        return False
    readers = [each for each in net.steps if step.x in reads(each)]
    of_rows = step.axis == (len(net.shapes[step.x]) - 1 if before.linear else 0)
    if not of_rows or net.output == step.x or not all(isinstance(e, Slice) for e in readers):
        return False
    own = slice(step.start, step.start + step.count)
    rows = {name: getattr(before, name)[own] for name in ("weight", "bias", "weight_scale")}
    net.steps[at] = replace(before, **rows)
    return False  # what was made whole is read by fewer now; `_renumbered` drops it in the end


def _transposed(net: FloatNet, at: int) -> bool:
    step = net.steps[at]
    readers = [each for each in net.steps if at + 1 in reads(each)]
    rest = [each for each in readers if not isinstance(each, Reduce) or each.keep]
    if not isinstance(step, Transpose) or not readers or rest or net.output == at + 1:
        return False
    for i, each in enumerate(net.steps):
        if isinstance(each, Reduce) and each.x == at + 1:
            net.steps[i] = replace(each, x=step.x, axis=1 - each.axis)
    return False  # nobody reads it now; `_renumbered` drops it


def _sole_maker(net: FloatNet, at: int) -> Step | None:
    """The step that made what step ``at`` reads, where that is all who reads it."""
    x = next(iter(reads(net.steps[at])), 0)
    readers = sum(reads(each).count(x) for each in net.steps)
    return net.steps[x - 1] if x > 0 and readers == 1 and net.output != x else None


def _merge(net: FloatNet, at: int, merged: Step) -> bool:
    """Put the merged step where the one before stood; the later one's value becomes its."""
    x = reads(net.steps[at])[0]
    net.steps[x - 1] = merged
    net.shapes[x] = net.shapes[at + 1]
    del net.steps[at], net.shapes[at + 1], net.names[at]

    def moved(value: int) -> int:
        return x if value == at + 1 else value - (value > at + 1)

    net.steps[:] = [reading(step, moved) for step in net.steps]
    net.output = moved(net.output)
    return True


def reading(step: Step, number: Callable[[int], int]) -> Step:
    """Return a step that reads other values."""
    if isinstance(step, Concat):
        return replace(step, xs=tuple(number(x) for x in step.xs))
    if isinstance(step, Constant):
        return step
    if isinstance(step, Add | Multiply):
        return replace(step, x=number(step.x), y=number(step.y))
    if isinstance(step, Attention):
        return replace(step, x=number(step.x), k=number(step.k), v=number(step.v))
    if isinstance(step, Remainder):
        return replace(step, x=number(step.x), whole=number(step.whole))
    return replace(step, x=number(step.x))


def _renumbered(net: FloatNet) -> FloatNet:
    """Keep the steps that the output needs."""
    needed = {net.output}
    for at in reversed(range(len(net.steps))):
        if at + 1 in needed:
            needed.update(reads(net.steps[at]))
    kept = FloatNet([net.shapes[0]])
    number = {0: 0}
    for at, step in enumerate(net.steps):
        if at + 1 not in needed:
            continue
        step = reading(step, number.__getitem__)  # noqa: PLW2901
        kept.shapes.append(shape_of(step, kept.shapes))
        kept.steps.append(step)
        kept.names.append(net.names[at])
        number[at + 1] = len(kept.steps)
    kept.output = number[net.output]
    return kept
