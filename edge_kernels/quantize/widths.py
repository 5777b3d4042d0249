"""Which values of a network have 16 bits: what norms and recurrent layers read, and streams."""

from __future__ import annotations

from dataclasses import replace

from edge_kernels.integer.net import (
    Add,
    Concat,
    Constant,
    Multiply,
    Norm,
    Product,
    Reduce,
    Rescale,
    Step,
    Transpose,
)
from edge_kernels.integer.recurrent import Recurrent
from edge_kernels.integer.shapes import reads
from edge_kernels.quantize.calibrate import tied
from edge_kernels.quantize.floats import FloatNet, reading

_MOVES = (Concat, Transpose)


def wide(net: FloatNet) -> set[int]:
    """Return the values of 16 bits: residual streams, from which norms are taken.

    They are what a norm or a recurrent layer reads, the terms of sums that are such, norms' results
    that are summed or averaged, and the network's output where it is such an average; but none that
    a step reads which takes 8 bits (see `widened`). Values whose levels must be equal, as those of
    tokens that are joined, all have them or none. A network without either has none.
    """
    found, root = _streams(net), tied(net)
    groups = {root[value] for value in found}
    for group in sorted(groups):
        alike = {value for value in range(len(root)) if root[value] == group}
        readers = [
            s for at, s in enumerate(net.steps) if alike & {*reads(s)} and at + 1 not in alike
        ]
        if not alike <= found or not all(map(_takes, readers)):
            found -= alike
    return found


def _streams(net: FloatNet) -> set[int]:
    found = {step.x for step in net.steps if isinstance(step, Norm | Recurrent)}
    norms = {at + 1 for at, step in enumerate(net.steps) if isinstance(step, Norm)}
    moved: set[int] = set()  # to a stream as they are
    for at in reversed(range(len(net.steps))):
        step = net.steps[at]
        if isinstance(step, Add) and at + 1 in found:
            found.update(reads(step))
            moved.update(reads(step))
        if isinstance(step, _MOVES) and at + 1 in moved:
            found.update(reads(step))
            moved.update(reads(step))
        if isinstance(step, Reduce) and step.mean and step.x in norms | found:
            found |= {step.x} | ({at + 1} & {net.output})
    makes = (Product, Add, Norm, Reduce, Multiply, Constant)
    return {
        v
        for v in found
        if v == 0
        or isinstance(net.steps[v - 1], makes)
        or (v in moved and isinstance(net.steps[v - 1], _MOVES))
    }


def _takes(step: Step) -> bool:
    takes = isinstance(step, Add | Norm | Rescale | Multiply | Recurrent)
    return takes or (isinstance(step, Reduce) and step.mean)


def widened(net: FloatNet) -> FloatNet:
    """Give steps that read 8 bits a value of their own where others read 16; nothing else changes.

    A norm is taken twice, so that the second's factors may differ; any other value is rescaled.
    """
    made = FloatNet([net.shapes[0]], output=0)
    streams = _streams(net)
    narrow: dict[int, int] = {}
    number: dict[int, int] = {0: 0}
    for at in range(len(net.steps) + 1):
        if at > 0:
            own = [number, {v: narrow.get(v, n) for v, n in number.items()}]
            step = net.steps[at - 1]
            step = reading(step, own[0 if _takes(step) else 1].__getitem__)
            number[at] = _append(made, step, net.shapes[at], net.names[at - 1])
        readers = [step for step in net.steps if at in reads(step)]
        mixed = any(_takes(s) for s in readers) and not all(_takes(s) for s in readers)
        if mixed and at in streams:
            norm = made.steps[number[at] - 1] if at else None
            step = replace(norm) if isinstance(norm, Norm) else Rescale(number[at])
            name = net.names[at - 1] if at else "input"
            narrow[at] = _append(made, step, net.shapes[at], f"{name}, in 8 bits")
    made.output = number[net.output]
    return made


def _append(net: FloatNet, step: Step, shape: tuple[int, ...], name: str) -> int:
    net.steps.append(step)
    net.shapes.append(shape)
    net.names.append(name)
    return len(net.steps)
