"""Ranges of a network's values over windows, or from devices' histograms of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from edge_kernels.integer.net import (
    FREE,
    Concat,
    Levels,
    Pool,
    Product,
    Reduce,
    Relu,
    Reshape,
    Slice,
    Transpose,
)
from edge_kernels.integer.shapes import reads
from edge_kernels.quantize.evaluate import constants, values
from edge_kernels.quantize.floats import FloatNet
from edge_kernels.quantize.histogram import Histogram, Method, Range, count, merge, range_of

BINS: Final = 2048  # of a server's own histograms; devices send far fewer
_NARROWEST: Final = 1e-6
_LEAVES_LEVELS = (Relu, Reshape, Transpose, Concat, Slice)


def tied(net: FloatNet) -> list[int]:
    """Return, of each value, the first value that must have the same levels.

    A step such as a ReLU or the largest of a pool leaves levels as they are; a concatenation reads
    values of equal ones.
    """
    root = list(range(len(net.shapes)))
    for at, step in enumerate(net.steps):
        largest = isinstance(step, Pool | Reduce) and not step.mean
        if not (isinstance(step, _LEAVES_LEVELS) or largest):
            continue
        roots = {root[x] for x in reads(step)} | {root[at + 1]}
        root = [min(roots) if each in roots else each for each in root]
    return root


def accumulates(net: FloatNet) -> bool:
    """Whether the output is a product's accumulators, which have no levels."""
    step = net.steps[net.output - 1]
    others = any(net.output in reads(each) for each in net.steps)
    return net.output > 0 and isinstance(step, Product) and not others


def quantized_values(net: FloatNet) -> list[int]:
    """Return one value of each group of equal levels: what ranges are wanted of."""
    ends = {net.output} if accumulates(net) else set()
    return sorted(set(tied(net)) - ends)


def histograms(
    net: FloatNet, x: NDArray[Any], bounds: Sequence[Range], bins: int = BINS
) -> list[Histogram]:
    """Count the elements of each of `quantized_values`.

    Parameters
    ----------
    net : FloatNet
    x : (windows, *shape)
    bounds : sequence of (low, high)
        The server's, the same for all devices.
    bins : int

    Raises
    ------
    ValueError
        If windows are not the network's, or there are not as many bounds as values.
    """
    net.check_windows(x)
    wanted, root = quantized_values(net), tied(net)
    if len(bounds) != len(wanted):
        raise ValueError(f"{len(bounds)} bounds for {len(wanted)} values that have levels")
    parts: dict[int, list[Histogram]] = {value: [] for value in wanted}
    for value, seen in enumerate(_values(net, x)):
        if root[value] in parts:
            low, high = bounds[wanted.index(root[value])]
            parts[root[value]].append(count(seen, low, high, bins))
    return [merge(parts[value]) for value in wanted]


def bounds(net: FloatNet, x: NDArray[Any], widen: float = 1.0) -> list[Range]:
    """Return smallest and largest of each of `quantized_values`, times ``widen``, around 0.

    The mean over a free axis has the range of what is averaged: of few numbers it may be as large.

    Raises
    ------
    ValueError
        If windows are not the network's.
    """
    net.check_windows(x)
    wanted, root = quantized_values(net), tied(net)
    found = dict.fromkeys(wanted, (0.0, _NARROWEST))
    made = _values(net, x)
    for value, seen in enumerate(made):
        if root[value] in found:
            seen = made[_averaged(net, value)]  # noqa: PLW2901
            low, high = found[root[value]]
            found[root[value]] = min(low, float(seen.min())), max(high, float(seen.max()))
    return [(low * widen, high * widen) for low, high in found.values()]


def _averaged(net: FloatNet, value: int) -> int:
    """The value of which another is the mean over a free axis; else that one itself."""
    step = net.steps[value - 1] if value else None
    free = isinstance(step, Reduce) and step.mean and net.shapes[step.x][step.axis] == FREE
    return step.x if isinstance(step, Reduce) and free else value


def ranges(net: FloatNet, x: NDArray[Any], method: Method = "minmax") -> list[Range]:
    """Return the range of each of `quantized_values` over windows; errors as `bounds`'s."""
    whole = bounds(net, x)
    if method == "minmax":
        return whole
    return [range_of(each, method) for each in histograms(net, x, whole)]


def federated(devices: Sequence[Sequence[Histogram]], method: Method = "minmax") -> list[Range]:
    """Return ranges from what devices sent, each a histogram of each of `quantized_values`.

    Raises
    ------
    ValueError
        If devices sent different numbers of histograms, or other bins.
    """
    counts = {len(each) for each in devices}
    if len(counts) != 1:
        raise ValueError(f"devices sent {sorted(counts)} histograms; all must send as many")
    return [range_of(merge(same), method) for same in zip(*devices, strict=True)]


def levels_of(given: Range, bits: int = 8) -> Levels:
    """Return asymmetric levels that cover a range and 0, which is one of them."""
    low, high = min(given[0], 0.0), max(given[1], 0.0)
    top = (1 << bits) - 1
    scale = float(np.float32(max(high - low, _NARROWEST) / top))
    return Levels(scale, min(max(round(-low / scale), 0), top), bits)


def _values(net: FloatNet, x: NDArray[Any]) -> list[NDArray[Any]]:
    with torch.no_grad():
        made = values(net, torch.from_numpy(np.ascontiguousarray(x, np.float32)), constants(net))
    return [each.numpy() for each in made]


def largest(net: FloatNet, x: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the largest magnitude of every element of every value over windows.

    Along a free axis it is the largest of all, with that axis 1 long.
    """
    return [
        np.abs(each).max((0, 1))[None] if shape[0] == FREE else np.abs(each).max(0)
        for shape, each in zip(net.shapes, _values(net, x), strict=True)
    ]
