"""Which channels of a network may be scaled without changing what it computes.

A product's row may be divided by s > 0 where all that read it multiply their columns by s. What
lies between must keep a channel's factor: ReLU, pooling, reduction, concatenation, sums, reshapes
and transpositions do, and attention its values' (not its queries' and keys'); functions and
recurrent layers do not. A norm takes a factor in its own factors and terms, and its input keeps all
channels alike. A product of two values takes over the factors of one, and the other, its gate,
keeps 1. So every element of every value gets a class; elements that must share a factor are joined;
the classes of the network's input and output are held at 1. A free axis is 1 long here: its
elements share theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

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
    Reshape,
    Shape,
    Slice,
    Step,
    Transpose,
)
from edge_kernels.integer.recurrent import Recurrent
from edge_kernels.quantize.floats import FloatNet
from edge_kernels.quantize.functions import Function

Classes = NDArray[np.int64]
SMALLEST: Final = 1e-2
_LARGEST: Final = 1e2
_TINY: Final = 1e-8


@dataclass(frozen=True)
class Scaling:
    """Classes of channels that share a factor.

    Attributes
    ----------
    count : int
        Of classes; class 0 is held at 1.
    rows, columns : list of (rows,) and (channels,), or None
        Of each step: the class of each channel that it makes, and that it reads. None: the step
        has no constants; a norm has rows alone, and a constant one for each of its numbers.
    values : list of int64, of a value's shape
    """

    count: int
    rows: list[Classes | None]
    columns: list[Classes | None]
    values: list[Classes]


class _Union:
    """Sets of numbers, joined by arrays."""

    def __init__(self) -> None:
        self.parent: list[int] = [0]

    def new(self, count: int) -> Classes:
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def root(self, number: int) -> int:
        while self.parent[number] != number:
            self.parent[number] = self.parent[self.parent[number]]
            number = self.parent[number]
        return number

    def join(self, a: Classes, b: Classes | int) -> None:
        pairs = np.stack(np.broadcast_arrays(a, b), -1).reshape(-1, 2)
        for x, y in np.unique(pairs, axis=0).tolist():
            low, high = sorted((self.root(x), self.root(y)))
            self.parent[high] = low

    def along(self, x: Classes, axis: int) -> Classes:
        """Join what differs along an axis, and return it without the axis."""
        first: Classes = np.take(x, 0, axis)
        self.join(x, np.expand_dims(first, axis))
        return first


def classes(net: FloatNet) -> Scaling:
    """Return the classes of a network's channels."""
    union = _Union()
    made: list[Classes] = [np.zeros(_sizes(net.shapes[0]), np.int64)]
    rows: list[Classes | None] = []
    columns: list[Classes | None] = []
    for at, step in enumerate(net.steps):
        read, write, value = _through(union, step, made, _sizes(net.shapes[at + 1]))
        made.append(value)
        rows.append(write)
        columns.append(read)
    union.join(made[net.output], 0)
    roots = np.array([union.root(number) for number in range(len(union.parent))])
    kept, compact = np.unique(roots, return_inverse=True)

    def final(given: Classes | None) -> Classes | None:
        return None if given is None else compact[given]

    return Scaling(
        len(kept), [final(x) for x in rows], [final(x) for x in columns], [compact[x] for x in made]
    )


def _sizes(shape: Shape) -> Shape:
    return tuple(1 if size == FREE else size for size in shape)


_Through = tuple[Classes | None, Classes | None, Classes]


def _through(union: _Union, step: Step, made: list[Classes], shape: tuple[int, ...]) -> _Through:
    """Classes that a step reads, and makes, by channel; and of its value."""
    if isinstance(step, Product):
        x = made[step.x]
        axis = 0 if step.linear else 1
        read = x if x.ndim == 1 else union.along(x, axis)
        write = union.new(len(step.weight))
        spread = write if step.linear or len(shape) == 1 else write[:, None]
        return read, write, np.broadcast_to(spread, shape)
    if isinstance(step, Affine):
        x = made[step.x]
        read = x if x.ndim == 1 else union.along(x, 1)
        write = union.new(shape[0])
        spread = write if len(shape) == 1 else write[:, None]
        return read, write, np.broadcast_to(spread, shape)
    if isinstance(step, Norm):
        union.join(made[step.x], 0)
        write = union.new(shape[-1])
        return None, write, np.broadcast_to(write, shape)
    if isinstance(step, Constant):
        write = union.new(step.values.size).reshape(shape)
        return None, write, write
    return None, None, _kept(union, step, made, shape)


def _kept(union: _Union, step: Step, made: list[Classes], shape: tuple[int, ...]) -> Classes:
    if isinstance(step, Add):
        union.join(made[step.x], made[step.y])
        return made[step.x]
    if isinstance(step, Multiply):
        return np.broadcast_to(_gated(union, made[step.x], made[step.y]), shape)
    if isinstance(step, Attention):
        union.join(made[step.x], 0)
        union.join(made[step.k], 0)
        return np.broadcast_to(union.along(made[step.v], 0), shape)
    if isinstance(step, Function | Recurrent):
        union.join(made[step.x], 0)
        return np.zeros(shape, np.int64)
    return _moved(union, step, made, shape)


def _gated(union: _Union, x: Classes, y: Classes) -> Classes:
    """Hold one of two values that are multiplied, one that is held already; return the other."""
    held = all(union.root(each) == 0 for each in np.unique(x).tolist())
    kept, gate = (y, x) if held else (x, y)
    union.join(gate, 0)
    return kept


def _moved(union: _Union, step: Step, made: list[Classes], shape: tuple[int, ...]) -> Classes:
    if isinstance(step, Slice):
        return np.take(made[step.x], np.arange(step.start, step.start + step.count), step.axis)
    if isinstance(step, Pool):
        return np.broadcast_to(union.along(made[step.x], 1)[:, None], shape)
    if isinstance(step, Reduce):
        return union.along(made[step.x], step.axis).reshape(shape)
    if isinstance(step, Concat):
        return np.concatenate([made[x] for x in step.xs], step.axis)
    if isinstance(step, Reshape):
        return made[step.x].reshape(shape)
    assert not isinstance(step, Constant)
    return made[step.x].T if isinstance(step, Transpose) else made[step.x]


def scaled(net: FloatNet, scaling: Scaling, factors: NDArray[Any]) -> FloatNet:
    """Return the network with each class's rows divided, and columns multiplied, by its factor.

    Parameters
    ----------
    net : FloatNet
        Not changed.
    scaling : Scaling
    factors : (count,)
        Positive; that of class 0 is 1.
    """
    if factors.shape != (scaling.count,) or factors[0] != 1 or not (factors > 0).all():
        raise ValueError(f"factors must be {scaling.count} positive numbers, the first of them 1")
    steps: list[Step] = []
    for step, rows, columns in zip(net.steps, scaling.rows, scaling.columns, strict=True):
        if isinstance(step, Norm) and rows is not None:
            down = factors[rows]
            steps.append(replace(step, factor=step.factor / down, term=step.term / down))
            continue
        if isinstance(step, Constant) and rows is not None:
            steps.append(replace(step, values=step.values / factors[rows]))
            continue
        if rows is None or columns is None:
            steps.append(step)
            continue
        down, up = factors[rows], factors[columns]
        if isinstance(step, Product):
            weight = step.weight / down[:, None, None] * up
            steps.append(replace(step, weight=weight, bias=step.bias / down))
        elif isinstance(step, Affine):
            steps.append(replace(step, factor=step.factor / down * up, term=step.term / down))
    return replace(net, steps=steps)


def smoothing(
    net: FloatNet, scaling: Scaling, largest: list[NDArray[Any]], alpha: float = 0.5
) -> NDArray[np.float64]:
    """Return SmoothQuant's factors (arXiv:2211.10438): max|X|^α / max|W|^(1−α), by class.

    Parameters
    ----------
    net, scaling
    largest : list of arrays of values' shapes
        The largest magnitude of each element over the calibration windows.
    alpha : float
        0: weights are left, and activations take the burden; 1: the other way.
    """
    seen, weights = np.zeros(scaling.count), np.zeros(scaling.count)
    for where, value in zip(scaling.values, largest, strict=True):
        np.maximum.at(seen, where, value)
    for step, columns in zip(net.steps, scaling.columns, strict=True):
        if isinstance(step, Product) and columns is not None:
            np.maximum.at(weights, columns, np.abs(step.weight).max((0, 1)))
    known = (seen > _TINY) & (weights > _TINY)  # a channel that is always 0 keeps its factor
    factors = np.ones(scaling.count)
    factors[known] = seen[known] ** alpha / weights[known] ** (1 - alpha)
    if known[1:].any():
        factors /= np.exp(np.log(factors[1:][known[1:]]).mean())
    factors = np.clip(np.where(known, factors, 1.0), SMALLEST, _LARGEST)
    factors[0] = 1.0
    return factors
