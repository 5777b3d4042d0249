"""Weights to codes and scales, group by group; numpy only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_kernels.layout import Packed, Shape, pack, round_scales
from edge_kernels.oracle import dequantize

Floats = NDArray[np.float32]
_CHUNK = 1 << 18  # weights searched at once: a candidate's arrays stay in cache
# The least that the extremes are drawn in, by bits: long rows have far ones.
_SYMMETRIC_FROM = {2: 0.35, 3: 0.5, 4: 0.6}
_AFFINE_FROM = {1: 1.0, 2: 0.35, 3: 0.5, 4: 0.6}
_FINEST = 2.0**-11  # a zero point's scale, over the largest |weight|: so fp16 holds the zero point


@dataclass(frozen=True)
class Rounded:
    """Low-bit weights, ready to be packed.

    Attributes
    ----------
    shape : Shape
    codes : uint8 (N, K)
    scales : float32 (N, groups)
        Already rounded as the blob will hold them.
    zeros : float32 (N, groups) or None
        Likewise.
    """

    shape: Shape
    codes: NDArray[np.uint8]
    scales: Floats
    zeros: Floats | None = None

    def pack(self) -> NDArray[np.uint8]:
        """Return the blob."""
        shape = self.shape
        return pack(
            self.codes,
            self.scales,
            bits=shape.bits,
            group=shape.group,
            values=shape.values,
            zeros=self.zeros,
        )

    def packed(self) -> Packed:
        """Return what `edge_kernels.layout.unpack` will read from the blob."""
        shape = self.shape
        multiplier = round_scales(self.scales, shape.group)[1]
        return Packed(
            self.codes, self.scales, self.zeros, shape.bits, shape.group, shape.values, multiplier
        )

    def dequantize(self) -> Floats:
        """Return the weights that the codes stand for, float32 (N, K)."""
        packed = self.packed()
        weights = np.empty(self.codes.shape, np.float32)
        for rows in _chunks(*self.codes.shape):
            zeros = None if self.zeros is None else self.zeros[rows]
            part = replace(packed, codes=self.codes[rows], scales=self.scales[rows], zeros=zeros)
            weights[rows] = dequantize(part)
        return weights


def round_to_nearest(weights: Floats, shape: Shape) -> Rounded:
    """Choose scales by least squared error in each group, then the nearest codes.

    1 bit takes the mean of |w|, ternary the best of all thresholds: both are the optimum. Other
    widths search: a scale from the extreme weight, shrunk in steps and of either sign (the codes
    reach one further down than up, and a negative scale turns that round), each refined to the
    least squares of its own codes. Codes are chosen against the scales as they will be stored.

    Parameters
    ----------
    weights : float32 (N, K)
        Finite.
    shape : Shape
        Of these weights.
    """
    span = shape.group or shape.inputs
    short = shape.groups * span - shape.inputs
    padded = np.pad(weights, [(0, 0), (0, short)]) if short else weights
    padded = padded.reshape(shape.rows, shape.groups, span)
    counts = np.full(shape.groups, span)
    counts[-1] -= short
    scales = np.empty((shape.rows, shape.groups), np.float32)
    zeros = np.zeros_like(scales)
    chunks = _chunks(shape.rows, shape.groups * span)
    for chunk in chunks:
        scales[chunk], zeros[chunk] = _search(padded[chunk], counts, shape)
    scales = round_scales(scales, shape.group)[0]
    if shape.values != "zero_points":
        zeros[:] = shape.zero
    elif shape.group:
        zeros = zeros.astype(np.float16).astype(np.float32)
    codes = np.empty(padded.shape, np.uint8)
    for chunk in chunks:
        codes[chunk] = _nearest(padded[chunk], scales[chunk], zeros[chunk], shape)
    codes = np.ascontiguousarray(codes.reshape(shape.rows, -1)[:, : shape.inputs])
    return Rounded(shape, codes, scales, zeros if shape.values == "zero_points" else None)


def _chunks(rows: int, width: int) -> list[slice]:
    step = max(1, _CHUNK // width)
    return [slice(first, first + step) for first in range(0, rows, step)]


def _search(weights: Floats, counts: NDArray[np.intp], shape: Shape) -> tuple[Floats, Floats]:
    """Scales and zero points of (rows, groups, span) weights, before they are rounded.

    They are searched for in each row's own power of two, which changes no bit of them: so that
    squares of weights as large as 1e20, or as small, stay float32.
    """
    exponents = np.frexp(np.abs(weights).max(axis=(1, 2)))[1][:, None]
    weights = np.ldexp(weights, -exponents[..., None])
    zeros: Floats | None = None
    if shape.values == "zero_points":
        scales, zeros = _affine(weights, counts, shape.bits)
    elif shape.values == "ternary":
        scales = _ternary(weights)
    elif shape.bits == 1:
        scales = np.abs(weights).sum(axis=2) / counts
    else:
        scales = _symmetric(weights, shape.bits)
    scales = np.ldexp(scales.astype(np.float32), exponents)
    return scales, np.zeros_like(scales) if zeros is None else zeros


def _nearest(weights: Floats, scales: Floats, zeros: Floats, shape: Shape) -> Floats:
    """Codes, still as floats."""
    if shape.bits == 1 and shape.values == "symmetric":
        return np.asarray(weights >= 0, np.float32)
    codes: Floats = np.rint(weights * _inverse(scales)[..., None] + zeros[..., None])
    return np.clip(codes, 0, shape.levels - 1, out=codes)


def _inverse(scales: Floats) -> Floats:
    with np.errstate(over="ignore"):
        inverse = np.divide(1, scales, where=scales != 0, out=np.zeros_like(scales))
    return np.nan_to_num(inverse, posinf=0, neginf=0)


def _ternary(weights: Floats) -> Floats:
    """With k weights kept the best scale is their mean |w|, and saves (sum of them)² / k."""
    largest_first = -np.sort(-np.abs(weights), axis=2)
    sums = np.cumsum(largest_first, axis=2, dtype=np.float64)
    kept = np.arange(1, weights.shape[2] + 1)
    best = np.argmax(sums**2 / kept, axis=2)[..., None]
    means: Floats = (np.take_along_axis(sums, best, 2) / (best + 1))[..., 0].astype(np.float32)
    return means


def _shrinks(least: float) -> Floats:
    """Candidates; 1 is among them, so that weights which are already on a grid stay on it."""
    return np.append(np.linspace(least, 1, 11), 1.1).astype(np.float32)


def _symmetric(weights: Floats, bits: int) -> Floats:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    top = np.take_along_axis(weights, np.argmax(np.abs(weights), axis=2)[..., None], 2)[..., 0]
    best = np.zeros_like(top)
    least = np.full_like(top, -1)
    for shrink in _shrinks(_SYMMETRIC_FROM[bits]):
        for end in (low, high):
            codes = weights * _inverse(top / end * shrink)[..., None]
            np.clip(np.rint(codes, out=codes), low, high, out=codes)
            product = np.einsum("rgs,rgs->rg", weights, codes)
            square = np.einsum("rgs,rgs->rg", codes, codes)
            scale = np.divide(product, square, where=square > 0, out=np.zeros_like(top))
            gain = product * scale  # by how much the squared error falls short of the weights' own
            better = gain > least
            best[better], least[better] = scale[better], gain[better]
    return best


def _affine(weights: Floats, counts: NDArray[np.intp], bits: int) -> tuple[Floats, Floats]:
    """Minimum to maximum, drawn in by steps; refined by linear regression on the codes."""
    top = (1 << bits) - 1
    inside = (np.arange(weights.shape[2]) < counts[:, None])[None]
    low = np.where(inside, weights, np.inf).min(axis=2)
    high = np.where(inside, weights, -np.inf).max(axis=2)
    finest = np.maximum(np.abs(low), np.abs(high)) * np.float32(_FINEST)
    best = (np.zeros_like(low), np.zeros_like(low))
    least = np.full_like(low, np.inf)
    mean = np.where(inside, weights, 0).sum(axis=2) / counts
    centre = mean if bits == 1 else (high + low) / 2  # 1 bit: the codes part at the mean
    centred = np.where(inside, weights - mean[..., None], 0)
    for shrink in _shrinks(_AFFINE_FROM[bits]):
        step = np.maximum((high - low) * shrink / top, finest)
        offset = centre - step * np.float32(top / 2)
        codes = np.rint((weights - offset[..., None]) * _inverse(step)[..., None])
        codes = np.where(inside, np.clip(codes, 0, top), 0)
        middle = codes.sum(axis=2) / counts
        spread = np.where(inside, codes - middle[..., None], 0)
        square = np.einsum("rgs,rgs->rg", spread, spread)
        slope = np.einsum("rgs,rgs->rg", centred, spread)
        slope = np.divide(slope, square, where=square > 0, out=np.zeros_like(low))
        step = np.maximum(slope, finest).astype(np.float32)
        error = np.square(centred - step[..., None] * spread).sum(axis=2)
        zero = middle - mean * _inverse(step)
        better = error < least
        least[better] = error[better]
        best[0][better], best[1][better] = step[better], zero[better]
    return best
