"""From a float network and levels to integers; round to nearest, and SmoothQuant before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_kernels.given import whole
from edge_kernels.integer.check import check
from edge_kernels.integer.net import IntNet, Levels, Product, Step, Table
from edge_kernels.integer.recurrent import Direction, Recurrent
from edge_kernels.integer.scales import table_of
from edge_kernels.quantize.calibrate import (
    accumulates,
    largest,
    levels_of,
    quantized_values,
    ranges,
    tied,
)
from edge_kernels.quantize.floats import FloatNet
from edge_kernels.quantize.functions import Function, Remainder
from edge_kernels.quantize.histogram import Method, Range
from edge_kernels.quantize.parts import rest_range
from edge_kernels.quantize.scaling import classes, scaled, smoothing
from edge_kernels.quantize.widths import wide

BITS: Final = (8, 4, 2)
_MOST_BIAS: Final = 1 << 30
_SMALL: Final = 0.25  # of all weights
_STATE_BITS: Final = 8
_LEAST_SCALE: Final = 1e-12
_LEAST_RATIO: Final = 2.0**-30  # of scales; a multiplier and a shift say no smaller one
Reals = NDArray[np.float64]


def check_bits(bits: int) -> None:
    """Refuse weight bits that no quantizer here serves.

    Raises
    ------
    ValueError
    """
    if bits not in BITS:
        raise ValueError(f"weights of {bits} bits; {', '.join(map(str, BITS))} are possible")


def layer_bits(net: FloatNet, bits: int, ends: int = 8) -> dict[int, int]:
    """Return the weight bits of each product: the first and the last have twice as many.

    They hold few of the weights, and what they lose nothing after or before them can make good. So
    has the last but one, where it holds at most a quarter of the weights. On the sources' windows
    of WISDM that calibration had not seen, four bits there in place of two took the logits' error
    from 17.6% to 14.8% for 2 kB; eight in place of four in all three from 9.7% to 6.0% for 6 kB.

    Parameters
    ----------
    net : FloatNet
    bits : int
    ends : int
        The most that these layers have.
    """
    sizes = {at: step.weight.size for at, step in enumerate(net.steps) if isinstance(step, Product)}
    products = list(sizes)
    finer = {products[0], products[-1]}
    if len(products) > 2 and sizes[products[-2]] <= _SMALL * sum(sizes.values()):
        finer.add(products[-2])
    double = max(bits, min(2 * bits, whole("ends", ends)))
    return {at: double if at in finer else bits for at in products}


def code_bounds(bits: int) -> tuple[int, int]:
    """Return the smallest and largest code: symmetric, but −2…1 for 2 bits."""
    top = (1 << (bits - 1)) - 1
    return (-2, 1) if bits == 2 else (-top, top)


def weight_scale(largest: Any, bits: int) -> Any:
    """Return the scale with which a row of such a largest magnitude is rounded.

    The 1.5 of 2 bits: between what its smallest and its largest code reach.
    """
    return largest / (1.5 if bits == 2 else code_bounds(bits)[1])


@dataclass(frozen=True)
class Choice:
    """What a quantizer has decided.

    Attributes
    ----------
    net : FloatNet
        With its scales between layers applied.
    levels : dict of int → Levels
        Of each of `quantized_values`.
    weight_scales : dict of int → (rows,)
        Of each step that is a product.
    bits : dict of int → int
        As `layer_bits` returns them.
    """

    net: FloatNet
    levels: dict[int, Levels]
    weight_scales: dict[int, Reals]
    bits: dict[int, int]


def integers(choice: Choice) -> IntNet:
    """Return the network in integers.

    Raises
    ------
    ValueError
        If it is none that `edge_kernels.integer.check` accepts: scales too far apart, sums that
        could overflow. The message names the step.
    """
    net, root = choice.net, tied(choice.net)
    levels: list[Levels | None] = [choice.levels.get(root[v]) for v in range(len(net.shapes))]
    if accumulates(net):
        levels[net.output] = None
    steps = [_in_integers(choice, at, levels) for at in range(len(net.steps))]
    made = IntNet(list(net.shapes), levels, steps, net.output)
    check(made)
    return made


def _in_integers(choice: Choice, at: int, levels: list[Levels | None]) -> Step:
    step = choice.net.steps[at]
    if isinstance(step, Function):
        x, y = levels[step.x], levels[at + 1]
        assert x is not None
        assert y is not None
        if isinstance(step, Remainder):
            whole = levels[step.whole]
            assert whole is not None
            return Table(step.x, table_of(lambda real: step.left(real, whole), x, y))
        return Table(step.x, table_of(step.reals, x, y))
    if isinstance(step, Recurrent):
        made = levels[at + 1]
        assert made is not None
        return replace(step, directions=tuple(_state(way, made) for way in step.directions))
    return _rounded(choice, at, step, levels) if isinstance(step, Product) else step


def _state(way: Direction, levels: Levels) -> Direction:
    """A direction in integers: 8 bits in any network, since a state's error stays in the state."""
    codes, scale = _state_codes(way)
    least = np.abs(way.hidden_bias) / (levels.scale * _MOST_BIAS)
    if (least > scale).any():
        scale = np.maximum(scale, least)
        codes = np.rint(way.hidden_weight / scale[:, None])
    bias = np.rint(way.hidden_bias / (levels.scale * scale)).astype(np.int32)
    return replace(way, hidden_weight=codes.astype(np.int8), hidden_bias=bias, hidden_scale=scale)


def _state_codes(way: Direction) -> tuple[Reals, Reals]:
    largest = np.abs(way.hidden_weight).max(1)
    scale: Reals = np.maximum(weight_scale(largest, _STATE_BITS), _LEAST_SCALE)
    codes: Reals = np.rint(way.hidden_weight / scale[:, None])
    return codes, scale


def states_rounded(net: FloatNet) -> FloatNet:
    """Return the network in float with the weights of states that their codes stand for."""

    def rounded(way: Direction) -> Direction:
        codes, scale = _state_codes(way)
        return replace(way, hidden_weight=codes * scale[:, None])

    steps = [
        replace(step, directions=tuple(rounded(way) for way in step.directions))
        if isinstance(step, Recurrent)
        else step
        for step in net.steps
    ]
    return replace(net, steps=steps)


def _rounded(choice: Choice, at: int, step: Product, levels: list[Levels | None]) -> Step:
    source, made = levels[step.x], levels[at + 1]
    assert source is not None
    least = np.abs(step.bias) / (source.scale * _MOST_BIAS)
    if made is not None:
        least = np.maximum(least, _LEAST_RATIO * made.scale / source.scale)
    scale = np.maximum(choice.weight_scales[at], np.maximum(least, _LEAST_SCALE))
    bits = choice.bits[at]
    codes = _codes(step, scale, bits).astype(np.int8)
    bias = np.rint(step.bias / (source.scale * scale)).astype(np.int32)
    return replace(step, weight=codes, bias=bias, weight_scale=scale, weight_bits=bits)


def _codes(step: Product, scale: Reals, bits: int) -> Reals:
    codes: Reals = np.clip(np.rint(step.weight / scale[:, None, None]), *code_bounds(bits))
    return codes


def dequantized(choice: Choice) -> FloatNet:
    """Return the network in float with the weights that the codes stand for."""
    steps = list(choice.net.steps)
    for at, rows in choice.weight_scales.items():
        step = steps[at]
        assert isinstance(step, Product)
        scale = np.maximum(rows, _LEAST_SCALE)
        codes = _codes(step, scale, choice.bits[at])
        steps[at] = replace(step, weight=codes * scale[:, None, None])
    return replace(choice.net, steps=steps)


def largest_weights(net: FloatNet) -> dict[int, Reals]:
    """Return each product's largest magnitude of each row."""
    return {
        at: np.abs(step.weight).reshape(len(step.weight), -1).max(1)
        for at, step in enumerate(net.steps)
        if isinstance(step, Product)
    }


@dataclass(frozen=True)
class RoundToNearest:
    """The plainest quantizer: ranges as seen, weights to the nearest.

    Attributes
    ----------
    bits : {8, 4, 2}
        Of weights; see `layer_bits`.
    seed : int
        Not used; nothing is random.
    method : {"minmax", "percentile", "mse"}
        How activations' ranges are chosen.
    ranges : sequence of (low, high), optional
        Instead of the windows' own: of `calibrate.quantized_values`, as `calibrate.federated`
        returns them.
    ends : int
        See `layer_bits`; 4 for lookup kernels, which have no more.
    """

    bits: int = 8
    seed: int = 0
    method: Method = "minmax"
    ranges: Sequence[Range] | None = None
    ends: int = 8

    def quantize(self, net: FloatNet, calibration: NDArray[np.float32]) -> IntNet:
        """Return the network in integers; ``calibration`` is what it reads (windows, *shape).

        Raises
        ------
        ValueError
            If bits are others, or windows or ranges are not the network's.
        """
        check_bits(self.bits)
        net.check_windows(calibration)
        found = ranges(net, calibration, self.method) if self.ranges is None else self.ranges
        return integers(nearest(net, found, self.bits, self.ends))


@dataclass(frozen=True)
class SmoothQuant(RoundToNearest):
    """Scales between layers first, so that activations' channels are alike (arXiv:2211.10438).

    Attributes
    ----------
    alpha : float
        The activations' share of the burden that weights take over.
    """

    alpha: float = 0.5

    def quantize(self, net: FloatNet, calibration: NDArray[np.float32]) -> IntNet:
        """As `RoundToNearest.quantize`."""
        check_bits(self.bits)
        net.check_windows(calibration)
        smooth = smoothed(net, calibration, self.alpha)
        found = ranges(smooth, calibration, self.method)
        if self.ranges is not None:
            found = carried(self.ranges, ranges(net, calibration), found)
        return integers(nearest(smooth, found, self.bits, self.ends))


def smoothed(net: FloatNet, calibration: NDArray[np.float32], alpha: float = 0.5) -> FloatNet:
    """Return the network with SmoothQuant's scales applied; it computes the same."""
    scaling = classes(net)
    return scaled(net, scaling, smoothing(net, scaling, largest(net, calibration), alpha))


def carried(given: Sequence[Range], before: Sequence[Range], after: Sequence[Range]) -> list[Range]:
    """Ranges of a scaled network where those given are of the network before scaling.

    The devices' ranges count in proportion to what the calibration windows have before scaling.
    """

    def ratio(wanted: float, seen: float) -> float:
        return wanted / seen if abs(seen) > 1e-6 else 1.0

    _check_count(given, len(before))
    return [
        (a[0] * ratio(g[0], b[0]), a[1] * ratio(g[1], b[1]))
        for g, b, a in zip(given, before, after, strict=True)
    ]


def nearest(net: FloatNet, found: Sequence[Range], bits: int, ends: int = 8) -> Choice:
    """Return the choice of rounding to nearest within given ranges.

    Raises
    ------
    ValueError
        If there are not as many ranges as values that have levels.
    """
    levels = levels_in(net, found)
    each_bits = layer_bits(net, bits, ends)
    rows = {at: weight_scale(most, each_bits[at]) for at, most in largest_weights(net).items()}
    return Choice(net, levels, rows, each_bits)


def levels_in(net: FloatNet, found: Sequence[Range]) -> dict[int, Levels]:
    """Return the levels of each of `quantized_values` that cover given ranges.

    Raises
    ------
    ValueError
        If there are not as many ranges as values that have levels.
    """
    wanted = quantized_values(net)
    _check_count(found, len(wanted))
    broad = wide(net)
    levels: dict[int, Levels] = {}
    for value, each in zip(wanted, found, strict=True):
        own = rest_range(net, value, levels) or each
        levels[value] = levels_of(own, 16 if value in broad else 8)
    return levels


def _check_count(found: Sequence[Range], count: int) -> None:
    if len(found) != count:
        raise ValueError(f"{len(found)} ranges for {count} values that have levels")
