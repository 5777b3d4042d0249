"""What functions make, in two parts of 8 bits: one for its range, one for what that rounds off.

Of a GELU's results nearly all are small and a few are large; with 8 bits for all of them they make
more than half of a sentence encoder's whole error. The layer that reads them runs on either part,
and its two results are summed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edge_kernels.integer.net import Add, Levels, Norm, Product, Step
from edge_kernels.integer.shapes import reads
from edge_kernels.quantize.floats import FloatNet, reading
from edge_kernels.quantize.functions import Function, Remainder
from edge_kernels.quantize.histogram import Range


def parted(net: FloatNet) -> FloatNet:
    """Return a transformer with two parts of each function's result that linear layers alone read.

    It computes the same; a network without norms is returned as it is.
    """
    if not any(isinstance(step, Norm) for step in net.steps):
        return net
    made, number, rests = FloatNet([net.shapes[0]]), {0: 0}, dict[int, int]()

    def append(step: Step, at: int, name: str = "") -> int:
        made.steps.append(step)
        made.shapes.append(net.shapes[at + 1])
        made.names.append(net.names[at] + name)
        return len(made.steps)

    for at, step in enumerate(net.steps):
        now = reading(step, number.__getitem__)
        number[at + 1] = append(now, at)
        if isinstance(step, Product) and step.x in rests:
            again = replace(step, x=rests[step.x], bias=np.zeros_like(step.bias))
            second = append(again, at, ", of the rest")
            number[at + 1] = append(Add(number[at + 1], second), at, ", summed")
        if isinstance(now, Function) and _for_layers(net, at + 1):
            rest = Remainder(now.x, now.values, now.source, now.operations, number[at + 1])
            rests[at + 1] = append(rest, at, ", the rest")
    made.output = number[net.output]
    return made


def _for_layers(net: FloatNet, value: int) -> bool:
    readers = [(at + 1, step) for at, step in enumerate(net.steps) if value in reads(step)]
    return value != net.output and all(
        isinstance(step, Product) and step.linear and not step.relu and made != net.output
        for made, step in readers
    )


def rest_range(net: FloatNet, value: int, levels: dict[int, Levels]) -> Range | None:
    """Return the range of a rest, or of a layer's result on one, which is 0 in float; else None.

    Parameters
    ----------
    net : FloatNet
    value : int
    levels : dict of int → Levels
        Of values before it, the whole's among them.
    """
    step = net.steps[value - 1] if value else None
    if isinstance(step, Remainder):
        most = levels[step.whole].scale / 2
        return -most, most
    before = net.steps[step.x - 1] if isinstance(step, Product) and step.x else None
    if not isinstance(before, Remainder) or not isinstance(step, Product):
        return None
    most = levels[before.whole].scale / 2 * float(np.abs(step.weight).sum((1, 2)).max())
    return -most, most
