"""Packed weights to measure with, and what a float product with them would give."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_kernels.bench.graphs import lut_matmul
from edge_kernels.layout import Shape, pack, round_scales
from schemas.bench import Bits

Floats = NDArray[np.float32]
_HEADER: Final = 64
_ROWS: Final = 1024  # dequantized at a time


@dataclass(frozen=True)
class Weights:
    """Random codes of one bit width and random scales.

    Attributes
    ----------
    codes : uint8 (N, K)
    scales : float32 (N, groups)
    bits
        What to call them.
    shape
        What the blob's header says.
    """

    codes: NDArray[np.uint8]
    scales: Floats
    bits: Bits
    shape: Shape

    @classmethod
    def random(
        cls, n: int, k: int, bits: Bits, group: int, random: np.random.Generator
    ) -> "Weights":
        """Draw codes uniformly, and scales that keep outputs near 1."""
        width = 2 if bits == "ternary" else bits
        shape = Shape(n, k, width, group, "ternary" if bits == "ternary" else "symmetric")
        codes = random.integers(0, shape.levels, (n, k), dtype=np.uint8)
        scales = random.uniform(0.5, 1.5, (n, shape.groups)) / np.sqrt(k) / 2 ** (width - 1)
        return cls(codes, scales.astype(np.float32), bits, shape)

    @cached_property
    def blob(self) -> NDArray[np.uint8]:
        """Packed."""
        shape = self.shape
        return pack(
            self.codes, self.scales, bits=shape.bits, group=shape.group, values=shape.values
        )

    @property
    def streamed(self) -> int:
        """Bytes of codes and scales that a product has to read."""
        return self.shape.size - _HEADER

    def graph(self, *, fast: bool) -> bytes:
        """Return a model of one LutMatMul."""
        return lut_matmul(self.blob, self.shape, fast=fast)

    def float_product(self, x: Floats) -> Floats:
        """Multiply in float with the dequantized weights: (m, K) → (m, N)."""
        return np.concatenate([x @ rows.T for rows in self._dequantized()], axis=1)

    def _dequantized(self) -> Iterator[Floats]:
        shape = self.shape
        scales, _ = round_scales(self.scales, shape.group)
        for first in range(0, shape.rows, _ROWS):
            codes = self.codes[first : first + _ROWS].astype(np.float32)
            values = 2 * codes - 1 if shape.bits == 1 else codes - shape.zero
            wide = np.repeat(scales[first : first + _ROWS], shape.group or shape.inputs, axis=1)
            yield values * wide[:, : shape.inputs]


def relative_rms(y: Floats, exact: Floats) -> float:
    """Root mean square of y - exact over that of exact."""
    difference = y.astype(np.float64) - exact
    return float(np.sqrt(np.mean(difference**2) / np.mean(exact.astype(np.float64) ** 2)))
