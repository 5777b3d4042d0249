"""Top-k: the largest entries of a change, as int8, and the gaps between them.

Deep Gradient Compression's sparse updates (Lin et al., arXiv:1712.01887); what is not sent stays in
the residual. A byte of ``gaps`` below 255 passes over so many entries and stands at the next one,
which is sent; 255 passes over 255 entries and sends none. Positions so ascend whatever the bytes.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from schemas.delta_blocks import Arrays, DeltaError, Floats, check, dequantize, quantize

_ESCAPE: Final = 255


@dataclass(frozen=True)
class TopK:
    """The share of entries with the largest magnitudes; of equal ones the first.

    Arrays: ``gaps`` (entries and escapes,) uint8, ``codes`` (entries,) int8 and ``scales`` (blocks
    of entries,) float32. Zeros are not sent, so there may be fewer entries.
    """

    share: float
    names: ClassVar = frozenset({"gaps", "codes", "scales"})

    def encode(self, wanted: Floats) -> Arrays:
        """Code a finite change."""
        positions = _largest(wanted, self.entries(wanted.size))
        codes, scales = quantize(wanted[positions])
        return {"gaps": _gaps(positions), "codes": codes, "scales": scales}

    def decode(self, arrays: Arrays, length: int) -> Floats:
        """A change of ``length`` entries; DeltaError where it is none, or more than was asked."""
        gaps, count = arrays["gaps"], arrays["codes"].size
        if count > self.entries(length):
            most = self.entries(length)
            raise DeltaError(f"{count} entries of {length}; at most {most} asked", "size")
        if gaps.size > count + length // _ESCAPE:
            raise DeltaError(f"{gaps.size} gaps for {count} entries of {length}", "size")
        check("gaps", gaps, np.uint8, gaps.size)
        positions = _positions(gaps)
        values = dequantize(arrays, positions.size)
        if gaps.size and gaps[-1] == _ESCAPE:
            raise DeltaError("the gaps end with an escape that leads nowhere")
        if positions.size and positions[-1] >= length:
            raise DeltaError(f"an entry at {positions[-1]}; the change has {length}", "size")
        delta = np.zeros(length, np.float32)
        delta[positions] = values
        return delta

    def entries(self, length: int) -> int:
        """Most entries sent of so many: the share, rounded up."""
        return min(length, ceil(self.share * length))


def _largest(wanted: Floats, count: int) -> NDArray[np.intp]:
    """Positions, ascending, of the ``count`` largest magnitudes above 0."""
    sizes = np.abs(wanted)
    least = np.partition(sizes, -count)[-count]
    larger = np.flatnonzero(sizes > least)
    equal = np.flatnonzero(sizes == least)[: count - larger.size] if least > 0 else larger[:0]
    positions: NDArray[np.intp] = np.sort(np.concatenate([larger, equal]))
    return positions


def _gaps(positions: NDArray[np.intp]) -> NDArray[np.uint8]:
    escapes, rest = np.divmod(np.diff(positions, prepend=-1) - 1, _ESCAPE)
    places = np.cumsum(escapes + 1) - 1
    gaps = np.full(positions.size + escapes.sum(), _ESCAPE, np.uint8)
    gaps[places] = rest
    return gaps


def _positions(gaps: NDArray[Any]) -> NDArray[np.int64]:
    sent = gaps != _ESCAPE
    passed: NDArray[np.int64] = np.cumsum(gaps.astype(np.int64) + sent)
    positions: NDArray[np.int64] = passed[sent] - 1
    return positions
