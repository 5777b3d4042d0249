"""Reading an ``.npz`` file that someone else wrote: nothing is allocated before it is measured."""

import lzma
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from simulations.data.base import DataError

MAX_BYTES = 8 * 2**30
"""Bytes that the arrays of one file may take in memory."""

UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # an encrypted member, an unknown compression
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What reading a broken zip file may raise."""


def read_arrays(
    path: Path, keys: Sequence[str], max_bytes: int = MAX_BYTES
) -> dict[str, NDArray[Any]]:
    """Read those of ``keys`` that a file has; pickled objects are never loaded.

    Parameters
    ----------
    path : Path
        An ``.npz`` file.
    keys : Sequence[str]
        Keys to read; the others are not touched.
    max_bytes : int
        Refuse arrays that take more than this together.

    Raises
    ------
    DataError
        Where the file is missing or no zip archive, where a key is truncated, holds pickled
        objects or is not as long as its header says, and where all are too large.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; data.path must name an .npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            present = [key for key in keys if f"{key}.npy" in members]
            _check_sizes(path, archive, present, max_bytes)
            return {key: _read(path, archive, key) for key in present}
    except DataError:
        raise
    except UNREADABLE as error:
        raise DataError(
            f"{path}: not a readable .npz file: {error}; numpy.savez writes one"
        ) from error


def _check_sizes(path: Path, archive: zipfile.ZipFile, keys: Sequence[str], max_bytes: int) -> None:
    """Compare the headers' sizes with the members' and with the limit."""
    total = sum(_measure(path, archive, key) for key in keys)
    if total > max_bytes:
        raise DataError(
            f"{path}: its arrays take {total:,} bytes; at most {max_bytes:,} are read "
            "(float16 halves X)"
        )


def _measure(path: Path, archive: zipfile.ZipFile, key: str) -> int:
    """Return the bytes that an array takes, from its header alone."""
    info = archive.getinfo(f"{key}.npy")
    try:
        with archive.open(info) as file:
            shape, dtype = _header(file)
            body = info.file_size - file.tell()
    except UNREADABLE as error:
        raise DataError(f"{path}: {key}: not a readable array: {error}") from error
    if dtype.hasobject:
        raise DataError(
            f"{path}: {key}: holds pickled Python objects, which are never loaded; "
            "save a plain numeric array (or one of strings, dtype 'U')"
        )
    size = dtype.itemsize * math.prod(shape)
    if min(shape, default=0) < 0 or size != body:
        raise DataError(
            f"{path}: {key}: its header says {shape} of {dtype}, which is {size:,} bytes, "
            f"but {body:,} are there; the file is damaged"
        )
    return size


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of the array whose ``.npy`` file starts here."""
    version = npy.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = npy.read_array_header_2_0(file)
    else:
        raise ValueError(f"version {version} of the .npy format; 1.0 and 2.0 are read")
    return shape, dtype


def _read(path: Path, archive: zipfile.ZipFile, key: str) -> NDArray[Any]:
    """Read one array whole, which also checks its CRC."""
    try:
        with archive.open(f"{key}.npy") as file:
            array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
            file.read(1)  # the CRC is compared at the end of the member
    except UNREADABLE as error:
        raise DataError(f"{path}: {key}: truncated or damaged: {error}") from error
    return array
