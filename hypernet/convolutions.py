"""1-D convolutions and their gradients as matrix products over the steps of all windows.

ONNX Runtime has no fast kernel for a weight's gradient (a convolution with dilation and as many
channels as windows) nor for a transposed convolution. One matrix product over all windows runs
near the processor's peak, and the product's left side serves the forward pass and the weight's
gradient alike. Rows are steps and columns channels; the runtime moves the transposes at a
convolution's two ends past what lies between two convolutions, where they cancel.
"""

from collections.abc import Iterable
from math import gcd
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,  # noqa: FBT001 — the operator's own signature
    _output_padding: list[int],
    groups: int,
) -> Any:
    """Compute a plain 1-D convolution; any other stays the operator that it is."""
    if not _plain(x, groups, transposed=transposed):
        return NotImplemented
    patches = _patches(x, weight.shape[2], stride[0], padding[0], dilation[0])
    matrix = _matrix(weight).t()
    out = patches @ matrix if bias is None else torch.addmm(bias, patches, matrix)
    return out.reshape(x.shape[0], -1, weight.shape[0]).transpose(1, 2)


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    _bias_sizes: list[int] | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,  # noqa: FBT001 — the operator's own signature
    _output_padding: list[int],
    groups: int,
    mask: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of a plain 1-D convolution, those that the mask asks for.

    Raises
    ------
    NotImplementedError
        For transposed, grouped or not 1-D convolutions.
    """
    if not _plain(x, groups, transposed=transposed):
        raise NotImplementedError("only plain 1-D convolutions can be trained on a device")
    outputs, inputs, kernel = weight.shape
    grad_x = grad_weight = grad_bias = None
    if mask[0]:
        grad_x = _input_gradient(grad, weight, x.shape[2], stride[0], padding[0], dilation[0])
    rows = grad.transpose(1, 2).reshape(-1, outputs)
    if mask[1]:
        patches = _patches(x, kernel, stride[0], padding[0], dilation[0])
        grad_weight = (rows.t() @ patches).reshape(outputs, kernel, inputs).transpose(1, 2)
    if mask[2]:
        grad_bias = rows.sum(0)
    return grad_x, grad_weight, grad_bias


def _plain(x: Tensor, groups: int, *, transposed: bool) -> bool:
    return x.ndim == 3 and groups == 1 and not transposed


def _input_gradient(
    grad: Tensor, weight: Tensor, time: int, stride: int, padding: int, dilation: int
) -> Tensor:
    """Gradient of the input, (windows, channels, time).

    Step t of the input is reached only by taps with t + padding − tap · dilation a multiple of
    the stride: the same taps for every ``stride``-th step. So each of these phases is a product
    of its own, without the zeros that a transposed convolution puts between steps.
    """
    outputs, inputs, kernel = weight.shape
    steps = -(-time // stride)
    before = max(0, -((padding - dilation * (kernel - 1)) // stride))
    after = max(0, (padding + stride - 1) // stride + steps - grad.shape[2])
    padded = _rows(grad, before, after)
    taps = _matrix(weight).reshape(outputs, kernel, inputs).transpose(0, 1)
    phases = []
    for phase in range(padding, padding + stride):
        used = [tap for tap in range(kernel) if (phase - tap * dilation) % stride == 0]
        if used:
            starts = [before + (phase - tap * dilation) // stride for tap in used]
            matrix = taps[used[0] :: stride // gcd(stride, dilation)].reshape(-1, inputs)
            phases.append(_columns(padded, starts, steps) @ matrix)
        else:
            phases.append(grad.new_zeros(grad.shape[0] * steps, inputs))
    whole = torch.cat(phases, 1).reshape(-1, steps * stride, inputs)
    return whole[:, :time].transpose(1, 2)


def _patches(x: Tensor, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """Return what each output step sees: (windows · steps, kernel · channels)."""
    padded = _rows(x, padding, padding)
    reach = dilation * (kernel - 1)
    steps = (padded.shape[1] - reach - 1) // stride + 1
    return _columns(padded, range(0, reach + 1, dilation), steps, stride)


def _matrix(weight: Tensor) -> Tensor:
    """(outputs, inputs, kernel) → (outputs, kernel · inputs), in the order of the patches."""
    return weight.transpose(1, 2).reshape(weight.shape[0], -1)


def _rows(x: Tensor, before: int, after: int) -> Tensor:
    """(windows, channels, time) → (windows, time, channels), with steps of zeros around it."""
    return pad(x.transpose(1, 2), (0, 0, before, after))


def _columns(rows: Tensor, starts: Iterable[int], steps: int, stride: int = 1) -> Tensor:
    """From each start as many steps, side by side: (windows · steps, starts · channels).

    One gather, since cuts that are joined copy everything twice. The starts have one distance.
    """
    first, *others = starts
    apart = others[0] - first if others else 1
    taps = torch.arange(0, (1 + len(others)) * apart, apart)
    at = torch.arange(first, first + steps * stride, stride)[:, None] + taps
    return rows.index_select(1, at.flatten()).reshape(-1, len(taps) * rows.shape[2])
