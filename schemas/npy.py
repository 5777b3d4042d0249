"""Arrays as the ``.npy`` bytes that Flower's ``Array`` holds, and back.

The same bytes as ``np.save`` writes and the same array as ``np.load`` reads, in less time: a
fleet's messages hold thousands of vectors of the same few shapes, and the header, which NumPy
formats and parses afresh each time, depends on type and shape alone. What a device may send is
compared with what its header announces before anything is allocated.
"""

import functools
import io
import math
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_MAGIC: Final = b"\x93NUMPY\x01\x00"  # version 1.0: later ones are for structures and long headers
_HEAD: Final = len(_MAGIC) + 2  # and the header's length, a u16
_PLAIN: Final = "?biufc"
_STYPE: Final = "numpy.ndarray"


class Coded(Protocol):
    """What is read of Flower's ``Array``."""

    stype: str
    data: bytes


def array_fields(array: NDArray[Any]) -> tuple[str, tuple[int, ...], str, bytes]:
    """What Flower's ``Array`` is made of: dtype, shape, stype and data; see ``npy_bytes``."""
    return str(array.dtype), array.shape, _STYPE, npy_bytes(array)


def array_values(coded: Coded) -> NDArray[Any]:
    """Read Flower's ``Array``; see ``read_npy``.

    Raises
    ------
    ValueError
        Also where it is coded in another way.
    """
    if coded.stype != _STYPE:
        raise ValueError(f"an array coded as {coded.stype[:40]!r}; expected {_STYPE!r}")
    return read_npy(coded.data)


def npy_bytes(array: NDArray[Any]) -> bytes:
    """Write an array.

    Raises
    ------
    ValueError
        Where it holds Python objects: nothing is pickled.
    """
    if array.dtype.kind in _PLAIN and array.flags.c_contiguous:
        return b"".join((_header(array.dtype.str, array.shape), array.data))
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def read_npy(data: bytes) -> NDArray[Any]:
    """Read an array, which is the caller's own.

    Raises
    ------
    ValueError
        If the bytes are no array, not all of one, or hold Python objects.
    """
    if not data.startswith(_MAGIC):
        raise ValueError(f"an array begins with {data[:8]!r}; expected {_MAGIC!r}")
    start = _HEAD + int.from_bytes(data[len(_MAGIC) : _HEAD], "little")
    shape, order, dtype = _described(data[:start])
    announced = start + math.prod(shape) * dtype.itemsize
    if len(data) != announced:
        raise ValueError(f"an array of {len(data)} bytes; its header announces {announced}")
    values: NDArray[Any] = np.ndarray(shape, dtype, data, start, order=order)
    return values.copy(order="K")


@functools.lru_cache(maxsize=256)
def _header(descr: str, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    described = {"descr": descr, "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


@functools.lru_cache(maxsize=256)
def _described(head: bytes) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
    """Shape, order and type; NumPy refuses headers of more than 10,000 bytes."""
    try:
        shape, fortran, dtype = npy.read_array_header_1_0(io.BytesIO(head[len(_MAGIC) :]))
    except Exception as error:  # noqa: BLE001  NumPy parses Python: TokenError, RecursionError, …
        raise ValueError(f"an array's header: {' '.join(str(error).split())[:200]}") from None
    if dtype.hasobject:
        raise ValueError("an array of Python objects, which are never unpickled")
    if any(size < 0 for size in shape):
        raise ValueError(f"an array of shape {shape}")
    return shape, "F" if fortran else "C", dtype
