"""Calibration windows at the border: checked, and run through a model's prologue."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from onnxruntime import InferenceSession

from edge_kernels.quantize.evaluate import constants, values
from edge_kernels.quantize.floats import FloatNet, check_finite
from edge_kernels.quantize.reader import Split

if TYPE_CHECKING:
    from onnx import ValueInfoProto

_NUMBERS: Final = "fiub"  # kinds of dtype
_LOOKED_AT: Final = 64  # windows
_ALIKE: Final = 1e-6  # in shares of the largest output


def inputs(split: Split, windows: ArrayLike) -> NDArray[np.float32]:
    """Return what the network reads of windows: the prologue's result.

    Raises
    ------
    ValueError
        If windows are not of the input's shape, no numbers, none, or hold NaN or infinity.
    """
    (given,) = split.prologue.graph.input
    x = _windows(windows, given)
    if split.source == given.name:
        return x
    session = InferenceSession(
        split.prologue.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    batch = given.type.tensor_type.shape.dim[0].dim_value or len(x)
    made = [
        _part(session, split.source, given.name, x[at : at + batch], batch)
        for at in range(0, len(x), batch)
    ]
    return np.concatenate(made)


def checked_inputs(split: Split, windows: ArrayLike) -> NDArray[np.float32]:
    """As `inputs`, of windows that a quantizer is to find ranges in.

    It warns where the network answers all of them alike.

    Raises
    ------
    ValueError
        As `inputs`, or if all of the windows hold one and the same number.
    """
    x = inputs(split, windows)
    numbers = np.asarray(windows)
    if numbers.size > 1 and numbers.min() == numbers.max():
        raise ValueError(
            f"the calibration windows hold nothing but {numbers.flat[0]}: no ranges can be found "
            "in them; give 64 or more recorded windows"
        )
    _warn_of_one_answer(split.net, x)
    return x


def _windows(windows: ArrayLike, given: ValueInfoProto) -> NDArray[Any]:
    """Windows of the type and the shape that a model reads."""
    from onnx import helper

    x = np.asarray(windows)
    if x.dtype.kind not in _NUMBERS:
        raise ValueError(f"calibration windows of {x.dtype}; numbers are needed")
    tensor = given.type.tensor_type
    shape = [dim.dim_value for dim in tensor.shape.dim][1:]
    fits = x.ndim == len(shape) + 1 and all(
        wanted in (0, size) for wanted, size in zip(shape, x.shape[1:], strict=True)
    )
    if not fits:
        raise ValueError(
            f"calibration windows of shape {x.shape}; the model's input {given.name!r} is "
            f"(windows, {', '.join(str(size or 'any') for size in shape)})"
        )
    check_finite(x)
    return np.ascontiguousarray(x, helper.tensor_dtype_to_np_dtype(tensor.elem_type))


def _part(
    session: InferenceSession, source: str, name: str, x: NDArray[Any], batch: int
) -> NDArray[np.float32]:
    """Run one batch; a model of a fixed batch gets a short one filled up with its last window."""
    filled = np.concatenate([x, np.repeat(x[-1:], batch - len(x), 0)])
    made: NDArray[np.float32] = session.run([source], {name: filled})[0]
    return made[: len(made) // batch * len(x)]


def _warn_of_one_answer(net: FloatNet, x: NDArray[np.float32]) -> None:
    at = np.unique(np.linspace(0, len(x) - 1, _LOOKED_AT).astype(int))
    with torch.no_grad():
        made = values(net, torch.from_numpy(x[at].astype(np.float32)), constants(net))
    answers = made[net.output].numpy()
    if len(answers) > 1 and np.ptp(answers, axis=0).max() <= _ALIKE * np.abs(answers).max():
        warnings.warn(
            f"the network answers all of {len(answers)} calibration windows alike: they are too "
            "few or too much alike, and ranges found in them will cut others off",
            stacklevel=4,
        )
