"""Round to nearest: a low-bit model with no data and no training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_kernels.given import whole
from edge_kernels.layout import Shape, Values
from edge_kernels.quantize.constants import fold_sparingly
from edge_kernels.quantize.convolutions import padded
from edge_kernels.quantize.files import load
from edge_kernels.quantize.implied import unsaid
from edge_kernels.quantize.lower import lower
from edge_kernels.quantize.report import Report
from edge_kernels.quantize.rounding import Rounded, round_to_nearest
from edge_kernels.quantize.shapes import settled

if TYPE_CHECKING:
    from onnx import ModelProto

    from edge_kernels.given import Model


def rtn(
    model: Model,
    *,
    bits: int,
    group: int = 64,
    ternary: bool = False,
    symmetric: bool = True,
    skip: Sequence[str] = (),
    gain: float = 2.0,
    fast: bool = False,
    fake: bool = False,
    report: Report | None = None,
) -> ModelProto:
    """Turn a float ONNX model into one whose products run on low-bit weights.

    MatMul and Gemm with constant weights become LutMatMul, 1-D Conv becomes LutConv1d; a factor, a
    term or a batch norm of each output and a ReLU that follow are folded in; products of the same
    input become one operator. What cannot be served stays as it is, and the report says why; but
    a Reshape to (batch, sizes) gets a constant shape, so that `edge_kernels.sequential.fuse` may
    take it along, constants that nodes compute of others are computed ahead, and what operators
    assume anyhow (an initial state of zeros) is left out.

    Parameters
    ----------
    model : ModelProto, bytes or path
        Opset 13 or newer; not changed. External data is read from a path.
    bits : int
        1, 2, 3 or 4.
    group : int
        Inputs that share a scale: 32, 64, 128; 0 for a whole row.
    ternary : bool
        Weights −s, 0, s; takes 2 bits.
    symmetric : bool
        False: a zero point beside each scale.
    skip : names or patterns (``*``, ``?``)
        Nodes, or their outputs, that stay in float.
    gain : float
        A layer is served if its weights shrink at least this many times; 0: every one is. Blobs
        are filled up to tiles of 64 × 64, so a small layer may not shrink at all.
    fast : bool
        Ask LutMatMul for 7-bit tables: faster on some CPUs, relative error up to 2e-2.
    fake : bool
        Keep ONNX's own operators, with the rounded weights as float32: what the weights' rounding
        alone costs, on any runtime.
    report : Report, optional
        Filled with a line for each product.

    Returns
    -------
    ModelProto
        Run it with `edge_kernels.session(rtn(...).SerializeToString())`.

    Raises
    ------
    ImportError
        If onnx is not installed.
    ValueError
        If the model, an option, or a name in ``skip`` is wrong; it says which.
    """
    bits, group = whole("bits", bits), whole("group", group)
    values = _values(bits, ternary=ternary, symmetric=symmetric)
    Shape(1, 1, bits, group, values)  # checks them before the model is read
    if isinstance(skip, str):
        raise ValueError(f"skip is {skip!r}; it must be a list of names")  # noqa: TRY004
    if not gain >= 0:
        raise ValueError(f"gain is {gain}; 0 or more is needed")

    def rounder(_: str, weights: NDArray[np.float32]) -> Rounded:
        rows, inputs = weights.shape
        return round_to_nearest(weights, Shape(rows, inputs, bits, group, values))

    report = Report() if report is None else report
    low = lower(
        unsaid(settled(padded(fold_sparingly(load(model))))),
        rounder,
        lambda rows, inputs: Shape(rows, inputs, bits, group, values).size,
        skip=tuple(skip),
        gain=gain,
        fast=fast,
        fake=fake,
        report=report,
    )
    return low if report.served else load(model)  # as it was


def _values(bits: int, *, ternary: bool, symmetric: bool) -> Values:
    if ternary and not symmetric:
        raise ValueError("ternary weights are symmetric; they take no zero points")
    if ternary and bits != 2:
        raise ValueError(f"ternary weights take 2 bits, not {bits}")
    if ternary:
        return "ternary"
    return "symmetric" if symmetric else "zero_points"
