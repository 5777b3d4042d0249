"""A `FloatNet` in torch: for ranges, for a teacher, and with quantizers in it for learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edge_kernels.integer.net import (
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
    Relu,
    Rescale,
    Reshape,
    Slice,
    Step,
    Transpose,
)
from edge_kernels.integer.recurrent import Direction, Recurrent
from edge_kernels.quantize.floats import FloatNet
from edge_kernels.quantize.functions import Function, Remainder

Constants = tuple[Tensor, ...]
"""Of a Product: weight as `functional` wants it, bias; of an Affine or Norm: factor and term; of a
Constant its values; of a Recurrent its states' weights and biases, by direction."""


def constants(net: FloatNet, dtype: torch.dtype = torch.float32) -> list[Constants]:
    """Return every step's constants: weights (rows, channels, kernel), a linear layer's too."""
    return [
        tuple(torch.from_numpy(np.ascontiguousarray(each)).to(dtype) for each in _given(step))
        for step in net.steps
    ]


def _given(step: Step) -> Sequence[NDArray[Any]]:
    if isinstance(step, Product):
        return step.weight.transpose(0, 2, 1), step.bias
    if isinstance(step, Constant):
        return (step.values,)
    if isinstance(step, Recurrent):
        ways = step.directions
        weights, biases = [w.hidden_weight for w in ways], [w.hidden_bias for w in ways]
        return np.stack(weights), np.stack(biases)
    return (step.factor, step.term) if isinstance(step, Affine | Norm) else ()


def values(
    net: FloatNet,
    x: Tensor,
    given: Sequence[Constants],
    seen: Callable[[int, Tensor], Tensor] = lambda _, value: value,
) -> list[Tensor]:
    """Return every value of a batch.

    Parameters
    ----------
    net : FloatNet
    x : (windows, *shape)
    given
        As `constants` returns them, or learned ones in their place.
    seen : (value's number, value) → value
        Called on each as it is made; what it returns is what later steps read.
    """
    made = [seen(0, x)]
    for at, (step, own) in enumerate(zip(net.steps, given, strict=True)):
        made.append(seen(at + 1, _RUNS[type(step)](step, made, own)))
    return made


def run(net: FloatNet, x: NDArray[Any]) -> NDArray[np.float64]:
    """Return the output of a batch (windows, *shape), in float64."""
    with torch.no_grad():
        out = values(net, torch.from_numpy(x).double(), constants(net, torch.float64))
    result: NDArray[np.float64] = out[net.output].numpy()
    return result


def _product(step: Product, made: list[Tensor], own: Constants) -> Tensor:
    weight, bias = own
    x = made[step.x]
    if step.linear:
        out = functional.linear(x, weight[:, :, 0], bias)
    else:
        even = step.pad_begin == step.pad_end
        if not even:
            x = functional.pad(x, (step.pad_begin, step.pad_end))
        pad = step.pad_begin if even else 0
        out = functional.conv1d(x, weight, bias, step.stride, pad, step.dilation)
    return out.relu() if step.relu else out


def _add(step: Add, made: list[Tensor], _: Constants) -> Tensor:
    total = made[step.x] + made[step.y]
    return total.relu() if step.relu else total


def _multiply(step: Multiply, made: list[Tensor], _: Constants) -> Tensor:
    product = made[step.x] * made[step.y]
    return product.relu() if step.relu else product


def _constant(_: Constant, made: list[Tensor], own: Constants) -> Tensor:
    return own[0].expand(len(made[0]), *own[0].shape)


def _pool(step: Pool, made: list[Tensor], _: Constants) -> Tensor:
    pads, x = (step.pad_begin, step.pad_end), made[step.x]
    if not step.mean:
        held = functional.pad(x, pads, value=-torch.inf) if any(pads) else x
        return functional.max_pool1d(held, step.kernel, step.stride)
    mean = functional.avg_pool1d(functional.pad(x, pads), step.kernel, step.stride)
    if step.count_padding or not any(pads):
        return mean
    ones = functional.pad(torch.ones_like(x[:1, :1]), pads)
    return mean / functional.avg_pool1d(ones, step.kernel, step.stride)


def _reduce(step: Reduce, made: list[Tensor], _: Constants) -> Tensor:
    x, axis = made[step.x], step.axis + 1
    keep = step.keep or x.ndim == 2  # (N,) stays one number
    return x.mean(axis, keepdim=keep) if step.mean else x.amax(axis, keepdim=keep)


def _affine(step: Affine, made: list[Tensor], own: Constants) -> Tensor:
    x = made[step.x]
    factor, term = (each[:, None] if x.ndim == 3 else each for each in own)
    out = x * factor + term
    return out.relu() if step.relu else out


def _norm(step: Norm, made: list[Tensor], own: Constants) -> Tensor:
    factor, term = own
    x = made[step.x]
    if step.rms:
        scaled = x * (x.square().mean(-1, keepdim=True) + step.epsilon).rsqrt()
        return scaled * factor + term
    return functional.layer_norm(x, x.shape[-1:], factor, term, step.epsilon)


def _attention(step: Attention, made: list[Tensor], _: Constants) -> Tensor:
    def split(value: int) -> Tensor:
        x = made[value]
        return x.reshape(*x.shape[:2], step.heads, -1).transpose(1, 2)

    mixed = functional.scaled_dot_product_attention(
        split(step.x), split(step.k), split(step.v), scale=step.scale
    )
    return mixed.transpose(1, 2).flatten(2)


def _recurrent(step: Recurrent, made: list[Tensor], own: Constants) -> Tensor:
    sums = made[step.x].chunk(len(step.directions), -1)
    ways = zip(step.directions, sums, *own, strict=True)
    return torch.cat([_way(step, way, *rest) for way, *rest in ways], -1)


def _way(step: Recurrent, way: Direction, sums: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Every state of one direction, of sums (batch, L, gates · H): (batch, L, H)."""
    columns = sums.unbind(1)
    state = cell = sums.new_zeros(len(sums), weight.shape[1])
    states: list[Tensor] = []
    for own in reversed(columns) if way.reverse else columns:
        hidden = functional.linear(state, weight, bias)
        if step.gru:
            (z, r, n), (of_z, of_r, of_n) = own.chunk(3, -1), hidden.chunk(3, -1)
            fresh = torch.tanh(n + torch.sigmoid(r + of_r) * of_n)
            state = torch.lerp(fresh, state, torch.sigmoid(z + of_z))
        else:
            i, o, f, c = (own + hidden).chunk(4, -1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(c)
            state = torch.sigmoid(o) * torch.tanh(cell)
        states.append(state)
    return torch.stack(states[::-1] if way.reverse else states, 1)


_RUNS: Final[dict[type, Callable[[Any, list[Tensor], Constants], Tensor]]] = {
    Product: _product,
    Add: _add,
    Pool: _pool,
    Reduce: _reduce,
    Affine: _affine,
    Relu: lambda step, made, _: made[step.x].relu(),
    Concat: lambda step, made, _: torch.cat([made[x] for x in step.xs], step.axis + 1),
    Reshape: lambda step, made, _: made[step.x].reshape(-1, *step.shape),
    Transpose: lambda step, made, _: made[step.x].transpose(1, 2),
    Rescale: lambda step, made, _: made[step.x],
    Function: lambda step, made, _: step.of(made[step.x]),
    Remainder: lambda step, made, _: step.of(made[step.x]) - made[step.whole],
    Norm: _norm,
    Attention: _attention,
    Multiply: _multiply,
    Slice: lambda step, made, _: made[step.x].narrow(step.axis + 1, step.start, step.count),
    Constant: _constant,
    Recurrent: _recurrent,
}
