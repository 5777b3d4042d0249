"""Arrays of ``.npy`` files, read in order and without NumPy; nothing is ever unpickled."""

import ast
import math
import struct
from array import array
from typing import Any, BinaryIO, Final

_MAGIC: Final = b"\x93NUMPY"
_LONGEST_HEADER: Final = 4096
_NAMES: Final = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
_CODES: Final = dict(zip(_NAMES, "efdbhiqBHIQ", strict=True))


class NpyError(ValueError):
    """No ``.npy`` file, one cut short, or of a kind that is not read here."""


class NpyFile:
    """An array in C order, read front to back.

    Parameters
    ----------
    file : BinaryIO

    Attributes
    ----------
    shape : tuple[int, ...]
    whole : bool
        Its numbers are whole.
    bytes : int
        Of all its values.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        header = _header(file)
        shape, descr = header["shape"], header["descr"]
        sizes_right = isinstance(shape, tuple) and all(
            type(size) is int and 0 <= size < 1 << 40 for size in shape
        )
        if not sizes_right:
            raise NpyError(f"has the shape {shape!r}")
        self.shape: tuple[int, ...] = shape
        if header["fortran_order"] and len(self.shape) > 1:
            raise NpyError("is in Fortran order; expected C order (np.ascontiguousarray)")
        known = isinstance(descr, str) and descr[:1] in "<>|=" and descr[1:] in _CODES
        if not known:
            raise NpyError(f"holds {descr!r}; expected real or whole numbers")
        self._order, self._code = descr[0].replace("|", "="), _CODES[descr[1:]]
        self.whole = descr[1] != "f"
        self._left = math.prod(self.shape)
        self.bytes = self._left * struct.calcsize(f"{self._order}{self._code}")

    def read(self, count: int) -> tuple[float, ...]:
        """The next so many values.

        Raises
        ------
        NpyError
            Where the file has fewer.
        """
        form = f"{self._order}{count}{self._code}"
        data = self._file.read(struct.calcsize(form)) if count <= self._left else b""
        if len(data) != struct.calcsize(form):
            raise NpyError(f"is cut short: its header says {self.shape}")
        self._left -= count
        return struct.unpack(form, data)

    def floats(self, count: int) -> "array[float]":
        """The next so many values as float32; what is too large for it is infinite."""
        return array("f", self.read(count))


def _header(file: BinaryIO) -> dict[str, Any]:
    start = file.read(10)
    if len(start) < 10 or start[:6] != _MAGIC or start[6] not in (1, 2, 3):
        raise NpyError("is no .npy file")
    length = int.from_bytes(start[8:10], "little")
    if start[6] > 1:
        length += int.from_bytes(file.read(2), "little") << 16
    if length > _LONGEST_HEADER:
        raise NpyError(f"has a header of {length} bytes; at most {_LONGEST_HEADER} are read")
    try:
        header = ast.literal_eval(file.read(length).decode("latin1").strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        header = None
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise NpyError("has no header that can be read")
    return header
