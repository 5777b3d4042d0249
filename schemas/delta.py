"""How a device's change travels: int8 in blocks with a scale each, or float32.

An int8 change has a quarter of the bytes. What rounding loses stays on the device and is added to
the next change (error feedback, arXiv:1901.09847), so that nothing is lost over rounds.
"""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

BLOCK: Final = 256
Floats = NDArray[np.float32]


class DeltaError(ValueError):
    """A change that is not what the plan asked for."""


def encode(
    delta: Floats, residual: Floats | None, encoding: Literal["int8", "float32"]
) -> tuple[dict[str, NDArray[np.generic]], Floats | None]:
    """Encode a change.

    Parameters
    ----------
    delta : (length,)
        New weights minus the received ones.
    residual : (length,), optional
        What earlier encodings lost.
    encoding : {"int8", "float32"}

    Returns
    -------
    arrays : dict
        ``codes`` (length,) int8 and ``scales`` (blocks,) float32, or ``delta`` (length,).
    residual : (length,) or None
        To keep for the next change.
    """
    wanted = delta if residual is None else delta + residual
    if encoding == "float32":
        return {"delta": wanted}, None
    blocks = _blocks(wanted)
    scales = (np.abs(blocks).max(axis=1) / 127).astype(np.float32)
    divisor = np.where(scales > 0, scales, 1)[:, None]
    codes = np.rint(blocks / divisor).clip(-127, 127).astype(np.int8)  # a subnormal scale is coarse
    sent = (codes * scales[:, None]).reshape(-1)[: delta.size].astype(np.float32)
    return {"codes": codes.reshape(-1)[: delta.size], "scales": scales}, wanted - sent


def decode(arrays: dict[str, NDArray[np.generic]], length: int) -> Floats:
    """Decode a change of ``length`` entries, having checked names, types, shapes and values.

    Raises
    ------
    DeltaError
        Where it is not a change of that length, or not finite.
    """
    if set(arrays) == {"delta"}:
        _check("delta", arrays["delta"], np.float32, length)
        delta = arrays["delta"].astype(np.float32, copy=False)
    elif set(arrays) == {"codes", "scales"}:
        _check("codes", arrays["codes"], np.int8, length)
        _check("scales", arrays["scales"], np.float32, -(-length // BLOCK))
        blocks = _blocks(arrays["codes"].astype(np.float32))
        delta = (blocks * arrays["scales"].astype(np.float32)[:, None]).reshape(-1)[:length]
    else:
        raise DeltaError(f"arrays {sorted(arrays)}; expected delta, or codes and scales")
    if not np.isfinite(delta).all():
        raise DeltaError("the change holds NaN or infinity")
    return delta


def _blocks(vector: Floats) -> Floats:
    return np.pad(vector, (0, -vector.size % BLOCK)).reshape(-1, BLOCK)


def _check(name: str, array: NDArray[np.generic], dtype: type[np.generic], length: int) -> None:
    if array.dtype != dtype or array.shape != (length,):
        raise DeltaError(
            f"{name} is {array.dtype}{list(array.shape)}; expected {np.dtype(dtype)}[{length}]"
        )
