"""Operators of a backward pass that the ONNX exporter lacks, from ones that it has."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, conv_transpose1d

aten = torch.ops.aten


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
    """Gradients of a plain 1-D convolution.

    The input's gradient is the transposed convolution of the output's. The weight's is a
    convolution of the transposed input with the transposed output gradient, stride and dilation
    exchanged, cut to the kernel's length.

    Raises
    ------
    NotImplementedError
        For transposed, grouped or not 1-D convolutions.
    """
    if transposed or groups != 1 or x.ndim != 3:
        raise NotImplementedError("only plain 1-D convolutions can be trained on a device")
    grad_x = grad_weight = grad_bias = None
    if mask[0]:
        kernel = weight.shape[2]
        covered = (grad.shape[2] - 1) * stride[0] + dilation[0] * (kernel - 1) + 1
        missing = x.shape[2] + 2 * padding[0] - covered
        grad_x = conv_transpose1d(
            grad, weight, None, stride[0], padding[0], int(missing), dilation=dilation[0]
        )
    if mask[1]:
        full = conv1d(
            x.transpose(0, 1), grad.transpose(0, 1), None, dilation[0], padding[0], stride[0]
        )
        grad_weight = full.transpose(0, 1)[..., : weight.shape[2]]
    if mask[2]:
        grad_bias = grad.sum((0, 2))
    return grad_x, grad_weight, grad_bias


TABLE: dict[Any, Callable[..., Any]] = {aten.convolution_backward.default: convolution_backward}
