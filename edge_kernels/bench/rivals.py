"""What a user of ONNX Runtime could pick instead, at its best settings."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnxruntime

from edge_kernels.bench.graphs import dynamic_quantize_matmul, float_matmul, matmul_nbits
from schemas.bench import Bits

_LUT: Final = "mlas.use_lut_gemm"
_SLOW_ABOVE: Final = {2: 128}  # block size above which MatMulNBits leaves its fast path
_LARGEST: Final = 256


@dataclass(frozen=True)
class Rival:
    """An operator of ONNX Runtime.

    Attributes
    ----------
    name
        As the report says it.
    bits
        Of its weights; 32: float.
    lut
        Whether it is MatMulNBits with ``mlas.use_lut_gemm``.
    """

    name: str
    bits: int
    lut: bool = False

    def config(self) -> dict[str, str]:
        """Session configuration entries."""
        return {_LUT: "1"} if self.lut else {}

    @property
    def grouped(self) -> bool:
        """Whether its graph depends on the group of the weights' scales."""
        return self.name.startswith("MatMulNBits")

    def graph(self, k: int, n: int, group: int, random: np.random.Generator) -> bytes:
        """Return its model with random weights."""
        if self.bits == 32:
            return float_matmul(k, n, random)
        if not self.grouped:
            return dynamic_quantize_matmul(k, n, random)
        return matmul_nbits(k, n, self.bits, self.block(k, group), random)

    def block(self, k: int, group: int) -> int:
        """Inputs that share a scale, beside weights of ours in groups of `group`.

        The same, where ours have groups. Where ours have a scale a row: a row too at 4 and 8 bits
        (if K is a power of two, as it must be), else the largest block that is fast: 128 at 2 bits
        (256 takes 200 times as long), 256 with lookup tables.
        """
        if group:
            return group
        if self.lut or self.bits == 2:
            return _LARGEST if self.lut else _SLOW_ABOVE[2]
        return k if k >= 16 and k & (k - 1) == 0 else _LARGEST


FLOAT: Final = Rival("MatMul fp32", 32)
INT8: Final = Rival("DynamicQuantizeMatMul", 8)
RIVALS: Final = (
    FLOAT,
    INT8,
    Rival("MatMulNBits 2", 2),
    Rival("MatMulNBits 2 lut", 2, lut=True),
    Rival("MatMulNBits 4", 4),
    Rival("MatMulNBits 8", 8),
)
_WIDTHS: Final[dict[Bits, tuple[int, ...]]] = {
    1: (2,),
    "ternary": (2,),
    2: (2, 4),
    3: (4,),
    4: (4, 8),
}


def comparable(bits: Bits) -> frozenset[str]:
    """Return the names of the rivals of the same or the next higher bit width.

    ONNX Runtime has 2, 4 and 8 bits; the next higher is the next that exists:

    ======= ==================================================================
    bits    rivals
    ======= ==================================================================
    1       MatMulNBits 2, with and without lookup tables
    ternary the same: 1.58 bits, so that 2 is the next higher
    2       MatMulNBits 2, with and without lookup tables, and MatMulNBits 4
    3       MatMulNBits 4
    4       MatMulNBits 4 and 8, and DynamicQuantizeMatMul (8 bits)
    ======= ==================================================================

    MatMul fp32 is measured and is nobody's rival of that kind.
    """
    return frozenset(rival.name for rival in RIVALS if rival.bits in _WIDTHS[bits])


def best_of(bits: Bits, medians: Mapping[str, float]) -> str | None:
    """Name the fastest of the comparable rivals, or None where there are none."""
    present = comparable(bits) & medians.keys()
    return min(present, key=lambda name: medians[name]) if present else None


def absent(rival: Rival) -> str | None:
    """Say why this ONNX Runtime, on this CPU, has no such rival; None if it may have."""
    if not rival.lut:
        return None
    major, minor, *_ = (int(part) for part in onnxruntime.__version__.split(".")[:2])
    if (major, minor) < (1, 24):
        return f"onnxruntime {onnxruntime.__version__} has no {_LUT}; 1.24 has"
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"{_LUT} is for x86 only"
    return None
