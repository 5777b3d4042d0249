"""Constants that graphs share, such as a frozen backbone: each is sent once, an object of its own.

A graph as it travels declares such a constant by an initializer without values: its name, its shape
and two entries of ``external_data``. ``location`` is the object's SHA-256 (never a path: no file is
opened by it), ``axes`` the order in which the object holds the constant's axes, such as ``1,0``,
for graphs hold one matrix as it is and turned. The device puts the values back before anything else
reads the graph. The object is ``.npy`` of one axis, so that it tells its type and its size.
"""

import hashlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from schemas.npy import npy_bytes, read_npy

LEAST: Final = 1024
"""Bytes of a constant that is worth an object of its own."""
_TYPE: Final = np.dtype("<f4")


def constant_bytes(values: NDArray[Any]) -> tuple[str, bytes]:
    """Return a constant's SHA-256 and its object, the values as they lie."""
    data = npy_bytes(np.ascontiguousarray(values.reshape(-1), _TYPE))
    return hashlib.sha256(data).hexdigest(), data


def is_constant(data: bytes) -> bool:
    """Whether an object is a constant; no graph begins so."""
    return data.startswith(b"\x93NUMPY")


def read_constant(data: bytes) -> NDArray[np.float32]:
    """Read a constant's object, (numbers,); nothing above its own size is allocated.

    Raises
    ------
    ValueError
        Where it is no array, not all of one, or not float32 of one axis.
    """
    values = read_npy(data)
    if values.dtype != _TYPE or values.ndim != 1:
        raise ValueError(f"{values.dtype}{list(values.shape)}; expected float32 of one axis")
    return values
