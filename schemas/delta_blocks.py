"""What codings share: checked arrays, and int8 in blocks of 256 with a scale each."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BLOCK: Final = 256
Floats = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]


class DeltaError(ValueError):
    """A change that is not what the plan asked for.

    Parameters
    ----------
    text : str
    reason : {"schema", "size", "finite", "range", "norm", "replayed"}
        One word, to count by.
    """

    def __init__(self, text: str, reason: str = "schema") -> None:
        super().__init__(text)
        self.reason = reason


def quantize(values: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Codes (length,) and scales (blocks,) of a vector."""
    blocks = _blocks(values)
    scales = (np.abs(blocks).max(axis=1) / 127).astype(np.float32)
    divisor = np.where(scales > 0, scales, 1)[:, None]
    codes = np.rint(blocks / divisor).clip(-127, 127).astype(np.int8)  # a subnormal scale is coarse
    return codes.reshape(-1)[: values.size], scales


def dequantize(arrays: Arrays, length: int) -> Floats:
    """The vector that ``codes`` and ``scales`` stand for, having checked them.

    Raises
    ------
    DeltaError
        Where types, shapes or values are others; before anything of their size is made.
    """
    codes, scales = arrays["codes"], arrays["scales"]
    check("codes", codes, np.int8, length)
    check("scales", scales, np.float32, -(-length // BLOCK))
    blocks = _blocks(codes.astype(np.float32))
    values: Floats = (blocks * scales.astype(np.float32)[:, None]).reshape(-1)[:length]
    return finite(values)


def finite(values: Floats) -> Floats:
    """The values, all of them finite.

    Raises
    ------
    DeltaError
        Where one is not.
    """
    if not np.isfinite(values).all():
        raise DeltaError("the change holds NaN or infinity", "finite")
    return values


def check(name: str, array: NDArray[Any], dtype: type[np.generic], length: int) -> None:
    """Refuse another type or shape.

    Raises
    ------
    DeltaError
    """
    if array.dtype != dtype or array.shape != (length,):
        raise DeltaError(
            f"{name} is {array.dtype}{list(array.shape)}; expected {np.dtype(dtype)}[{length}]",
            "schema" if array.dtype != dtype else "size",
        )


def _blocks(vector: Floats) -> Floats:
    return np.pad(vector, (0, -vector.size % BLOCK)).reshape(-1, BLOCK)
