"""MobileQuant (arXiv:2408.13933): scales, clipping and ranges learned together, end to end."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_kernels.integer.net import IntNet, Product
from edge_kernels.quantize.calibrate import ranges
from edge_kernels.quantize.evaluate import constants, values
from edge_kernels.quantize.floats import FloatNet
from edge_kernels.quantize.histogram import Method, Range
from edge_kernels.quantize.integer_rounding import (
    Choice,
    carried,
    check_bits,
    dequantized,
    integers,
    levels_in,
    smoothed,
)
from edge_kernels.quantize.learner import Learner
from edge_kernels.quantize.losses import divergence, error

_COOLED: Final = 0.1  # of a rate, at the end of its cosine
_ZERO_RATE: Final = 100.0  # times the ranges' rate: a zero counts in steps, a width in shares
_STARTED: Final = 0.3  # of the rates, where another network's start is taken over
_SOFT: Final = 0.1  # of the divergence, beside errors
_LOW: Final = 2  # bits at which weights' rounding is nearly all of the error
# What is added to weights may move so fast, by bits: the coarser the codes, the farther they are.
_WEIGHT_RATES: Final = {8: 1e-4, 4: 1e-3, 2: 3e-3}


@dataclass(frozen=True)
class MobileQuant:
    """Learns, against the float network's output, what rounds it with the least error.

    One AdamW for all: positive scales between layers (from SmoothQuant's or 1), the share σ(u) of
    each row's largest weight that its codes reach, and scale and offset of each activation's
    levels, rounded straight-through. Over the calibration windows the result is never worse than
    the start. The weights are not learned; the biases, which are int32 in any case,
    are, which the paper does not.

    The rates are higher than the paper's, and the steps few: a personal model has a second or two.

    Attributes
    ----------
    bits : {8, 4, 2}
        Of weights; see `integer_rounding.layer_bits`.
    seed : int
        Of the order of windows.
    steps, batch : int
        Of the optimizer, and windows a step.
    windows : int
        At most so many calibration windows are learned from, evenly chosen.
    scale_rate, clip_rate, range_rate, bias_rate : float
        Learning rates at the start; they fall to a tenth along a cosine.
    method : {"minmax", "percentile", "mse"}
        How activations' ranges start.
    ranges : sequence of (low, high), optional
        As `RoundToNearest`'s: where the ranges start.
    ends : int
        As `RoundToNearest`'s.
    """

    bits: int = 8
    seed: int = 0
    steps: int = 128
    batch: int = 32
    windows: int = 512
    scale_rate: float = 1e-2
    clip_rate: float = 1e-1
    range_rate: float = 3e-3
    bias_rate: float = 3e-3
    method: Method = "minmax"
    ranges: Sequence[Range] | None = None
    ends: int = 8

    def quantize(self, net: FloatNet, calibration: NDArray[np.float32]) -> IntNet:
        """Return the network in integers; ``calibration`` is what it reads (windows, *shape).

        Raises
        ------
        ValueError
            If bits or steps are others, windows or ranges are not the network's, or the loss is
            not finite.
        """
        learner, x = self._learned(net, calibration)
        return integers(self._choice(learner, net, x))

    def _learned(
        self, net: FloatNet, calibration: NDArray[np.float32], *, smooth: bool = True
    ) -> tuple[Learner, NDArray[np.float32]]:
        """Return what was learned, and the windows that it was learned from."""
        check_bits(self.bits)
        if min(self.batch, self.windows) < 1 or self.steps < 0:
            raise ValueError(
                f"{self.steps} steps of {self.batch} of {self.windows} windows; steps of one or "
                "more windows are needed"
            )
        net.check_windows(calibration)
        at = np.unique(np.linspace(0, len(calibration) - 1, self.windows).astype(int))
        x = np.ascontiguousarray(calibration[at], np.float32)
        with torch.enable_grad(), _one_thread():
            return self._best(net, x, smooth=smooth), x

    def _choice(self, learner: Learner, net: FloatNet, x: NDArray[np.float32]) -> Choice:
        del net, x
        return learner.choice()

    def _values(self, learner: Learner, x: Tensor) -> list[Tensor]:
        """All values of windows, as they are learned from."""
        return learner(x)  # type: ignore[no-any-return]

    def _best(self, net: FloatNet, x: NDArray[np.float32], *, smooth: bool) -> Learner:
        """Learn from the better start, and keep what was learned where it is better still."""
        windows = torch.from_numpy(x)
        with torch.no_grad():
            right = values(net, windows, constants(net))[net.output]

        @torch.no_grad()
        def lost(learner: Learner) -> float:
            return float(error(self._values(learner, windows)[net.output], right))

        learner = min(self._starts(net, x, smooth=smooth), key=lost)
        before, start = lost(learner), copy.deepcopy(learner.state_dict())
        self._learn(learner, windows)
        if lost(learner) > before:
            learner.load_state_dict(start)
        return learner

    def _starts(self, net: FloatNet, x: NDArray[np.float32], *, smooth: bool) -> Iterator[Learner]:
        """Where to start: as it is and, if ``smooth``, with SmoothQuant's scales."""
        if smooth:
            scaled = smoothed(net, x)
            found = ranges(scaled, x, self.method)
            if self.ranges is not None:
                found = carried(self.ranges, ranges(net, x), found)
            yield Learner(scaled, found, self.bits, self.ends)
        seen = ranges(net, x, self.method) if self.ranges is None else self.ranges
        yield Learner(net, seen, self.bits, self.ends)

    def rates(self, learner: Learner) -> list[dict[str, Any]]:
        """Return what is learned, and how fast."""
        return [
            {"params": [learner.scales], "lr": self.scale_rate},
            {"params": list(learner.clips), "lr": self.clip_rate},
            {"params": [learner.widths], "lr": self.range_rate},
            {"params": [learner.zeros], "lr": self.range_rate * _ZERO_RATE},
            {"params": list(learner.biases), "lr": self.bias_rate},
        ]

    def loss(self, learner: Learner, x: Tensor, right: list[Tensor], at: Tensor) -> Tensor:
        """Return the squared error against the float network's values, in shares of their size.

        Parameters
        ----------
        learner : Learner
        x : (windows, *shape)
        right : list of Tensor
            The float network's values of all windows.
        at : (windows,) int64
            Which of them these are.
        """
        end = learner.net.output
        return error(self._values(learner, x)[end], right[end][at])

    def _learn(self, learner: Learner, x: Tensor) -> None:
        with torch.no_grad():
            right = values(learner.net, x, constants(learner.net))
        groups = self.rates(learner)
        learner.requires_grad_(False)
        for group in groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0, foreach=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._cosine)
        random = torch.Generator().manual_seed(self.seed)
        for step in range(self.steps):
            at = torch.randint(len(x), (min(self.batch, len(x)),), generator=random)
            loss = self.loss(learner, x[at], right, at)
            if not torch.isfinite(loss):
                raise ValueError(
                    f"step {step}: the loss is {loss.item()}; smaller learning rates may help"
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()

    def _cosine(self, step: int) -> float:
        fall = 0.5 * (1 + math.cos(math.pi * min(step / max(self.steps, 1), 1.0)))
        return _COOLED + (1 - _COOLED) * fall


@dataclass(frozen=True)
class BlockWise(MobileQuant):
    """The same, each step by itself: an ablation.

    Every step reads the rounded values before it, and its error is that of its own value against
    the float network's; no gradient passes to the steps before.
    """

    def loss(self, learner: Learner, x: Tensor, right: list[Tensor], at: Tensor) -> Tensor:
        """Return the sum of the steps' errors."""
        factors, classes = learner.factors(), learner.scaling.values[1:]
        made = learner.values(x, cut=True)
        errors = [
            error(value * factors[torch.from_numpy(which)], exact[at])
            for value, which, exact in zip(made[1:], classes, right[1:], strict=True)
        ]
        return torch.stack(errors).sum()


State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Distilled(MobileQuant):
    """MobileQuant that learns the weights too: for 4 and 2 bits, where rounding costs most.

    At 2 bits it learns from twice the windows a step, of four times as many, and a quarter more
    steps. Activations are not rounded meanwhile, which costs less time and shows the weights' error
    alone; their ranges are then those of the network with its codes. Its loss is the error of the
    output and of what the last layer reads, and the divergence of the odds.

    Attributes
    ----------
    weight_rate : float, optional
        In shares of each row's largest weight; by default it depends on the bits.
    start : State, optional
        What `shared` returned of a network of the same layers that is close to this one.
    """

    clip_rate: float = 3e-2
    scale_rate: float = 3e-3
    weight_rate: float | None = None
    start: State | None = field(default=None, compare=False, repr=False)

    def quantize(self, net: FloatNet, calibration: NDArray[np.float32]) -> IntNet:
        """As `MobileQuant.quantize`; ValueError also where the start is of other layers."""
        longer = self._scaled(5 / 4, 4) if self.bits == _LOW else self
        return MobileQuant.quantize(longer, net, calibration)

    def shared(self, net: FloatNet, calibration: NDArray[np.float32]) -> State:
        """Learn long from the network that persons share; theirs need little from there on.

        Raises
        ------
        ValueError
            As `quantize`.
        """
        # Not from SmoothQuant's scales: what is learned there does not fit the layers as they are.
        learner, _ = self._scaled(16, 32)._learned(net, calibration, smooth=False)
        levels = ("widths", "zeros")  # of this network's own ranges
        return {name: each for name, each in learner.state_dict().items() if name not in levels}

    def _scaled(self, steps: float, windows: int) -> Distilled:
        return replace(
            self,
            steps=int(self.steps * steps),
            batch=2 * self.batch,
            windows=windows * self.windows,
        )

    def rates(self, learner: Learner) -> list[dict[str, Any]]:
        """Return what is learned, and how fast."""
        rate = _WEIGHT_RATES[self.bits] if self.weight_rate is None else self.weight_rate
        groups = [*super().rates(learner), {"params": list(learner.weights), "lr": rate}]
        share = 1.0 if self.start is None else _STARTED
        return [{**group, "lr": group["lr"] * share} for group in groups]

    def loss(self, learner: Learner, x: Tensor, right: list[Tensor], at: Tensor) -> Tensor:
        """Return, at 2 bits, the error of two values and the odds' divergence; else as it was."""
        if self.bits != _LOW:
            return super().loss(learner, x, right, at)
        made, net = self._values(learner, x), learner.net
        end, last = net.output, net.steps[net.output - 1]
        total = error(made[end], right[end][at]) + _SOFT * divergence(made[end], right[end][at])
        if isinstance(last, Product) and last.x:
            factors = learner.factors()[torch.from_numpy(learner.scaling.values[last.x])]
            total = total + error(made[last.x] * factors, right[last.x][at])
        return total

    def _starts(self, net: FloatNet, x: NDArray[np.float32], *, smooth: bool) -> Iterator[Learner]:
        if self.start is None:
            yield from super()._starts(net, x, smooth=smooth)
            return
        (learner,) = super()._starts(net, x, smooth=False)
        try:
            learner.load_state_dict({**learner.state_dict(), **self.start})
        except RuntimeError as wrong:
            raise ValueError(f"the start is that of other layers: {wrong}") from wrong
        yield learner

    def _values(self, learner: Learner, x: Tensor) -> list[Tensor]:
        return learner.values(x, cut=False, levelled=self.bits != _LOW)

    def _choice(self, learner: Learner, net: FloatNet, x: NDArray[np.float32]) -> Choice:
        choice = learner.choice()
        if self.bits != _LOW:
            return choice
        coded = dequantized(choice)
        found = ranges(coded, x, self.method)
        if self.ranges is not None:
            found = carried(self.ranges, ranges(net, x), found)
        return replace(choice, levels=levels_in(coded, found))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order on any machine; and such small networks gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
