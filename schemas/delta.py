"""How a device's change travels: float32, int8 in blocks with a scale each, or top-k.

An int8 change has a quarter of the bytes, a sparse one a few hundredths. What coding loses stays on
the device and is added to the next change (error feedback, arXiv:1901.09847), so that nothing is
lost over rounds. A new coding is one class, and a line in ``_CODINGS``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

import numpy as np

from schemas.delta_blocks import (
    BLOCK,
    Arrays,
    DeltaError,
    Floats,
    check,
    dequantize,
    finite,
    quantize,
)
from schemas.delta_topk import TopK
from schemas.plan import TOPK, Encoding

__all__ = ["BLOCK", "Arrays", "Coding", "DeltaError", "Floats", "decode", "encode"]


class Coding(Protocol):
    """A way to write a vector as a few arrays.

    Attributes
    ----------
    names : frozenset[str]
        Of its arrays.
    """

    names: ClassVar[frozenset[str]]

    def encode(self, wanted: Floats) -> Arrays:
        """Arrays of a finite vector (length,)."""

    def decode(self, arrays: Arrays, length: int) -> Floats:
        """The vector of arrays that have the right names; DeltaError where they are wrong."""


@dataclass(frozen=True)
class Float32:
    """``delta`` (length,) float32: exact."""

    names: ClassVar = frozenset({"delta"})

    def encode(self, wanted: Floats) -> Arrays:
        """The vector itself."""
        return {"delta": wanted}

    def decode(self, arrays: Arrays, length: int) -> Floats:
        """The vector itself, checked."""
        check("delta", arrays["delta"], np.float32, length)
        return finite(arrays["delta"].astype(np.float32, copy=False))


@dataclass(frozen=True)
class Int8:
    """``codes`` (length,) int8 and ``scales`` (blocks,) float32."""

    names: ClassVar = frozenset({"codes", "scales"})

    def encode(self, wanted: Floats) -> Arrays:
        """Round every block to 255 steps."""
        codes, scales = quantize(wanted)
        return {"codes": codes, "scales": scales}

    def decode(self, arrays: Arrays, length: int) -> Floats:
        """Codes times their block's scale."""
        return dequantize(arrays, length)


_CODINGS: Final[dict[Encoding, Callable[[float], Coding]]] = {
    "float32": lambda _: Float32(),
    "int8": lambda _: Int8(),
    "topk": TopK,
}


def encode(
    delta: Floats, residual: Floats | None, encoding: Encoding, topk: float = TOPK
) -> tuple[Arrays, Floats | None]:
    """Encode a change.

    Parameters
    ----------
    delta : (length,)
        New weights minus the received ones.
    residual : (length,), optional
        What earlier encodings lost.
    encoding : {"float32", "int8", "topk"}
    topk : float
        Share of the entries that top-k sends.

    Returns
    -------
    arrays : dict
        As the coding has them.
    residual : (length,) or None
        To keep for the next change; None after float32, which loses nothing.

    Raises
    ------
    DeltaError
        Where the change is not finite, or too large for float32: it would be refused.
    """
    wanted = finite(delta if residual is None else delta + residual)
    coding = _CODINGS[encoding](topk)
    arrays = coding.encode(wanted)
    if isinstance(coding, Float32):
        return arrays, None
    return arrays, wanted - coding.decode(arrays, wanted.size)


def decode(arrays: Arrays, length: int, encoding: Encoding, topk: float = TOPK) -> Floats:
    """Decode a change of ``length`` entries, having checked names, types, shapes and values.

    Raises
    ------
    DeltaError
        Where it is not a change of that length and encoding, or not finite.
    """
    coding = _CODINGS[encoding](topk)
    if set(arrays) != coding.names:
        raise DeltaError(f"arrays {sorted(arrays)}; {encoding} has {sorted(coding.names)}")
    return coding.decode(arrays, length)
