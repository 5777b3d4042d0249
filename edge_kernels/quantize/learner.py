"""A network with quantizers in it, differentiable straight-through: what MobileQuant learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_kernels.integer.net import (
    Add,
    Affine,
    Attention,
    Constant,
    Levels,
    Multiply,
    Norm,
    Pool,
    Product,
    Reduce,
    Rescale,
    Step,
)
from edge_kernels.integer.recurrent import Recurrent
from edge_kernels.quantize.calibrate import quantized_values, tied
from edge_kernels.quantize.evaluate import Constants, constants, values
from edge_kernels.quantize.floats import FloatNet
from edge_kernels.quantize.functions import Function
from edge_kernels.quantize.histogram import Range
from edge_kernels.quantize.integer_rounding import (
    Choice,
    code_bounds,
    largest_weights,
    layer_bits,
    nearest,
    states_rounded,
    weight_scale,
)
from edge_kernels.quantize.scaling import SMALLEST, Scaling, classes, scaled

_START_CLIP: Final = 4.0  # σ(4) = .98: at the start hardly anything is cut
_TINY: Final = 1e-12
_ROUNDS: Final = (
    *(Product, Add, Affine, Norm, Attention, Function, Rescale),
    *(Multiply, Constant, Recurrent),
)


class Learner(nn.Module):
    """Parameters of the quantizers of a network, and that network rounded by them.

    ``scales`` between layers, one a class; ``clips`` u a row, of which σ(u) is the share of the
    largest weight that codes reach; ``widths`` and ``zeros`` of activations' levels; and what is
    added to weights (in units of each row's largest) and to biases.

    Parameters
    ----------
    net : FloatNet
    start : sequence of (low, high)
        Of `quantized_values`.
    bits, ends : int
        Of weights; see `layer_bits`.
    """

    def __init__(self, net: FloatNet, start: Sequence[Range], bits: int, ends: int = 8) -> None:
        super().__init__()
        self.net, self._bits = net, layer_bits(net, bits, ends)
        self.scaling: Scaling = classes(net)
        self._given = constants(states_rounded(net))
        self._wanted = quantized_values(net)
        self._place = [
            self._wanted.index(root) if root in self._wanted else -1 for root in tied(net)
        ]
        levels = nearest(net, start, bits, ends).levels
        self._first = torch.tensor([levels[v].scale for v in self._wanted])
        self.widths = nn.Parameter(torch.ones(len(self._wanted)))
        self._tops = [levels[v].top for v in self._wanted]
        self._bits_of = {v: levels[v].bits for v in self._wanted}
        self.zeros = nn.Parameter(torch.tensor([float(levels[v].zero) for v in self._wanted]))
        self.scales = nn.Parameter(torch.ones(self.scaling.count - 1))
        largest = largest_weights(net)
        self._order = {at: i for i, at in enumerate(largest)}
        self._units = [
            torch.from_numpy(np.maximum(most, _TINY)).float()[:, None, None]
            for most in largest.values()
        ]
        self.clips = nn.ParameterList(torch.full((len(m),), _START_CLIP) for m in largest.values())
        self.weights = nn.ParameterList(torch.zeros_like(self._given[at][0]) for at in largest)
        self.biases = nn.ParameterList(torch.zeros_like(self._given[at][1]) for at in largest)
        for at, added in zip(largest, self.weights, strict=True):
            # Zeros stand between groups, and where a layer does not read; they stay.
            added.register_hook((self._given[at][0] != 0).to(added.dtype).mul)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return every value as the integers would give it, made float."""
        return self.values(x, cut=False)

    def values(self, x: Tensor, *, cut: bool, levelled: bool = True) -> list[Tensor]:
        """Return every value.

        Parameters
        ----------
        x : (windows, *shape)
        cut : bool
            No gradient passes from a step to those before it.
        levelled : bool
            Round activations too, not weights alone.
        """
        factors = self.factors()
        given = [self._rounded(at, factors) for at in range(len(self.net.steps))]
        kept: list[Tensor] = []

        def seen(value: int, made: Tensor) -> Tensor:
            kept.append(self._levelled(value, made) if levelled else made)
            return kept[-1].detach() if cut else kept[-1]

        values(self.net, x, given, seen)
        return kept

    def factors(self) -> Tensor:
        """Return the factor of each class of channels; that of class 0 is 1."""
        return torch.cat([torch.ones(1), self.scales.clamp(min=SMALLEST)])

    @torch.no_grad()
    def choice(self) -> Choice:
        """Return what was learned."""
        steps = list(self.net.steps)
        for at in self._order:
            steps[at] = self._moved(at)
        factors = self.factors().double().numpy()
        net = scaled(replace(self.net, steps=steps), self.scaling, factors)
        widths = (self._first * self.widths.clamp(min=SMALLEST)).tolist()
        zeros = self.zeros.round().clamp(min=0).int().tolist()
        levels = {
            value: Levels(width, min(zero, top), self._bits_of[value])
            for value, width, zero, top in zip(self._wanted, widths, zeros, self._tops, strict=True)
        }
        shares = [torch.sigmoid(each).double().numpy() for each in self.clips]
        rows = {
            at: weight_scale(most, self._bits[at]) * shares[self._order[at]]
            for at, most in largest_weights(net).items()
        }
        return Choice(net, levels, rows, self._bits)

    def _moved(self, at: int) -> Step:
        """A product with what was learned added to its weights and biases."""
        step, i = self.net.steps[at], self._order[at]
        assert isinstance(step, Product)

        def plus(exact: NDArray[Any], added: Tensor) -> NDArray[np.float64]:
            total: NDArray[np.float64] = exact + added.double().numpy()
            return total

        weight = plus(step.weight, (self.weights[i] * self._units[i]).transpose(1, 2))
        return replace(step, weight=weight, bias=plus(step.bias, self.biases[i]))

    def _rounded(self, at: int, factors: Tensor) -> Constants:
        """A step's constants: scaled, and where they are a product's weights, rounded."""
        rows, columns = self.scaling.rows[at], self.scaling.columns[at]
        if rows is not None and columns is None:  # a norm, or a constant
            down = factors[torch.from_numpy(rows)]
            return tuple(each / down for each in self._given[at])
        if rows is None or columns is None:
            return self._given[at]
        first, second = self._given[at]
        down, up = factors[torch.from_numpy(rows)], factors[torch.from_numpy(columns)]
        if at not in self._order:  # an Affine
            return first / down * up, second / down
        i = self._order[at]
        weight = (first + self.weights[i] * self._units[i]) / down[:, None, None] * up[:, None]
        most = weight.detach().abs().amax((1, 2)).clamp(min=_TINY)
        scale = weight_scale(most, self._bits[at]) * torch.sigmoid(self.clips[i])
        low, high = code_bounds(self._bits[at])
        rounded = rounding(weight, scale[:, None, None], torch.zeros(()), low, high)
        bias = (second + self.biases[i]) / down
        step = self.net.steps[at]
        assert isinstance(step, Product)
        unit = (self._width(self._place[step.x]) * scale).detach()
        return rounded, bias + (torch.round(bias / unit) * unit - bias).detach()

    def _width(self, place: int) -> Tensor:
        return self._first[place] * self.widths[place].clamp(min=SMALLEST)

    def _levelled(self, value: int, x: Tensor) -> Tensor:
        place = self._place[value]
        if place < 0 or not _requantizes(self.net, value):
            return x
        return rounding(x, self._width(place), self.zeros[place], 0, self._tops[place])


def _requantizes(net: FloatNet, value: int) -> bool:
    """Whether a value is rounded anew; what a largest or a reshape gives is on levels already."""
    if value == 0:
        return True
    step = net.steps[value - 1]
    mean = isinstance(step, Pool | Reduce) and step.mean
    return mean or isinstance(step, _ROUNDS)


def rounding(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    """Return (q − z) · scale, with z = round(zero), q = clamp(round(x / scale) + z, low, high).

    Gradients pass straight through the roundings, to x, to the scale and to the zero.

    Parameters
    ----------
    x : Tensor
    scale : Tensor
        One number, or of x's rank with axes of 1.
    zero : Tensor
        One number.
    low, high : int
    """
    out: Tensor = _Rounding.apply(x, scale, zero, low, high)  # type: ignore[no-untyped-call]
    return out


class _Rounding(torch.autograd.Function):
    """One pass forward and one back: autograd's own would be eight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        zero = zero.round().clamp(low, high)
        exact = x / scale
        q = exact.round().clamp_(low - zero, high - zero)
        ctx.save_for_backward(exact, q, scale)
        return q * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        exact, q, scale = ctx.saved_tensors
        (gradient,) = gradients
        passed = gradient * ((exact - q).abs() <= 0.5)
        by_scale = _summed(gradient * q - passed * exact, scale.shape)
        by_zero = None
        if ctx.needs_input_grad[2]:
            by_zero = ((passed - gradient).sum() * scale).reshape(())
        return passed, by_scale, by_zero, None, None


def _summed(x: Tensor, shape: torch.Size) -> Tensor:
    axes = [at for at in range(x.ndim) if len(shape) == 0 or shape[at] == 1]
    return x.sum(axes).reshape(shape)
