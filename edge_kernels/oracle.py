"""What the kernels compute, the slow obvious way: exact integers, scales in float64."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_kernels.layout import TILE, Blob, Packed, unpack

T = TypeVar("T", bound=np.generic)


def quantize_activations(x: ArrayLike) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize activations to int8, 64 at a time.

    The arithmetic is the kernels' own float32, so that q is theirs to the bit.

    Parameters
    ----------
    x : (..., K)
        Finite.

    Returns
    -------
    q : int8 (..., K)
    scale : float32 (..., ceil(K / 64))
        Largest |x| of the 64 / 127; 0 where it is below 2^-100.

    Raises
    ------
    ValueError
        If x holds NaN or infinity.
    """
    x = np.asarray(x, np.float32)
    if not np.isfinite(x).all():
        raise ValueError("activations hold NaN or infinity; only finite ones can be quantized")
    tiles = _tiled(x, TILE)
    largest = np.abs(tiles).max(axis=-1)
    largest[largest < 2.0**-100] = 0
    inverse = np.divide(np.float32(127), largest, where=largest > 0, out=np.zeros_like(largest))
    q = np.rint(tiles * inverse[..., None]).astype(np.int8)
    flat = q.reshape(*x.shape[:-1], tiles.shape[-2] * TILE)
    return flat[..., : x.shape[-1]], largest / np.float32(127)


def dequantize(weights: Blob | Packed) -> NDArray[np.float64]:
    """Return the weights that a blob stands for, float64 (N, K).

    Raises
    ------
    ValueError
        As `edge_kernels.layout.unpack`.
    """
    packed = _packed(weights)
    inputs = packed.codes.shape[1]
    span = packed.group or inputs
    scales = np.repeat(packed.scales.astype(np.float64), span, axis=1)[:, :inputs]
    if packed.zeros is None:
        return _integers(packed) * scales
    zeros = np.repeat(packed.zeros.astype(np.float64), span, axis=1)[:, :inputs]
    return (_integers(packed) - zeros) * scales


def float_product(
    x: ArrayLike, weights: Blob | Packed, bias: ArrayLike | None = None, *, relu: bool = False
) -> NDArray[np.float64]:
    """Multiply by the dequantized weights with no rounding of the activations.

    Parameters
    ----------
    x : (..., K)
    weights : blob or Packed, (N, K)
    bias : (N,), optional
    relu : bool

    Returns
    -------
    float64 (..., N)
    """
    y: NDArray[np.float64] = np.asarray(x, np.float64) @ dequantize(weights).T
    return _finish(y, bias, relu=relu)


def product(
    x: ArrayLike, weights: Blob | Packed, bias: ArrayLike | None = None, *, relu: bool = False
) -> NDArray[np.float64]:
    """Multiply as the kernels do: exact integer sums of int8 activations, scaled in float64.

    A row of x that holds NaN or infinity is multiplied in float instead, as the kernels do.

    Parameters
    ----------
    x : (..., K)
    weights : blob or Packed, (N, K)
    bias : (N,), optional
    relu : bool

    Returns
    -------
    float64 (..., N)
    """
    packed = _packed(weights)
    x = np.asarray(x, np.float32)
    rows = x.reshape(-1, x.shape[-1])
    y = np.empty((len(rows), len(packed.codes)))
    finite = np.isfinite(rows).all(axis=1)
    with np.errstate(invalid="ignore"):
        y[~finite] = float_product(rows[~finite], packed)
    q, scale = quantize_activations(rows[finite])
    y[finite] = scaled_sums(q, scale, packed)
    return _finish(y.reshape(*x.shape[:-1], len(packed.codes)), bias, relu=relu)


def scaled_sums(
    q: NDArray[np.int8], scale: NDArray[np.float32], packed: Packed
) -> NDArray[np.float64]:
    """Exact integer sums of each run of inputs with one scale, then the scales.

    Parameters
    ----------
    q : int8 (M, K)
    scale : float32 (M, ceil(K / 64))

    Returns
    -------
    float64 (M, N)
    """
    span = 32 if packed.group == 32 else TILE
    # float64 holds these sums exactly (|sum| < 2^53), and its product is the fast one.
    activations = _tiled(q.astype(np.float64), span)
    sums = np.einsum("mtk,ntk->mtn", activations, _tiled(_integers(packed), span), optimize=True)
    runs = sums.shape[1]
    if packed.zeros is not None:
        zeros = _by_run(packed.zeros, packed.group, span, runs)
        sums -= activations.sum(axis=2)[..., None] * zeros.T
    scales = _by_run(packed.scales, packed.group, span, runs)
    by_run = np.repeat(scale.astype(np.float64), TILE // span, axis=1)[:, :runs]
    y: NDArray[np.float64] = np.einsum("mtn,mt,nt->mn", sums, by_run, scales, optimize=True)
    return y


def conv1d(
    x: ArrayLike,
    weights: Blob | Packed,
    bias: ArrayLike | None = None,
    *,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    pads: tuple[int, int] = (0, 0),
    relu: bool = False,
) -> NDArray[np.float64]:
    """Convolve as the kernels do: one activation scale a sample, exact integer sums.

    Parameters
    ----------
    x : (B, C, L)
    weights : blob or Packed, (N, kernel * C)
        Tap by tap: input k is tap * C + channel.
    pads : (begin, end)

    Returns
    -------
    float64 (B, N, L_out)
    """
    packed = _packed(weights)
    x = np.asarray(x, np.float32)
    fields = _fields(x, kernel, stride, dilation, pads)
    largest = np.abs(x).max(axis=(1, 2), initial=0)
    largest[largest < 2.0**-100] = 0
    y = np.empty((len(x), fields.shape[1], len(packed.codes)))
    for sample, top in enumerate(largest):
        if not np.isfinite(top):
            with np.errstate(invalid="ignore"):
                y[sample] = float_product(fields[sample], packed)
            continue
        inverse = np.float32(127) / top if top else np.float32(0)
        q = np.rint(fields[sample] * inverse).astype(np.int8)
        tiles = -(-q.shape[1] // TILE)
        scale = np.full((len(q), tiles), top / np.float32(127), np.float32)
        y[sample] = scaled_sums(q, scale, packed)
    return _finish(y, bias, relu=relu).transpose(0, 2, 1)


def _packed(weights: Blob | Packed) -> Packed:
    return weights if isinstance(weights, Packed) else unpack(weights)


def _integers(packed: Packed) -> NDArray[np.float64]:
    """Each code's integer: what it stands for, before scale and stored zero point."""
    codes = packed.codes.astype(np.float64)
    if packed.bits == 1 and packed.values == "symmetric":
        return 2 * codes - 1
    return codes - packed.shape.zero


def _tiled(x: NDArray[T], span: int) -> NDArray[T]:
    """(..., K) -> (..., runs, span), filled up with zeros."""
    short = -x.shape[-1] % span
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, short)])
    return padded.reshape(*x.shape[:-1], padded.shape[-1] // span, span)


def _by_run(numbers: NDArray[np.float32], group: int, span: int, runs: int) -> NDArray[np.float64]:
    """(N, groups) -> (N, runs of `span` inputs)."""
    times = group // span if group else runs
    return np.repeat(numbers.astype(np.float64), times, axis=1)[:, :runs]


def _fields(
    x: NDArray[np.float32], kernel: int, stride: int, dilation: int, pads: tuple[int, int]
) -> NDArray[np.float32]:
    """Receptive fields, (B, L_out, kernel * C)."""
    padded = np.pad(x, [(0, 0), (0, 0), pads])
    reach = dilation * (kernel - 1) + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=2)
    taps = windows[:, :, ::stride, ::dilation]  # (B, C, L_out, kernel)
    return taps.transpose(0, 2, 3, 1).reshape(len(x), taps.shape[2], kernel * x.shape[1])


def _finish(y: NDArray[np.float64], bias: ArrayLike | None, *, relu: bool) -> NDArray[np.float64]:
    if bias is not None:
        y = y + np.asarray(bias, np.float64)
    return np.where(y < 0, 0.0, y) if relu else y
