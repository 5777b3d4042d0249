"""A payload as an object: one compressed safetensors file, and a blob for each bytes value.

``FEP1``, the length of the file as u32 (little-endian), and the file as a zlib stream. Arrays are
named ``record/name``; settings and metrics are JSON in the file's metadata, where a bytes value (a
graph) is ``{"object": sha256, "bytes": length}``: it travels by itself and is cached by its hash.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from schemas.payload import Payload, PayloadError, Values
from schemas.wire import MAX_OBJECT

MAGIC: Final = b"FEP1"
MAX_HEADER: Final = 1 << 22  # names, shapes, settings and metrics together
_HEAD: Final = struct.Struct("<4sI")
_LENGTH: Final = struct.Struct("<Q")
_DENSEST: Final = 1032  # bytes that one byte of a zlib stream can become
_LEVEL: Final = 6
_SCALARS: Final = (bool, int, float, str)


def pack(payload: Payload) -> tuple[bytes, dict[str, bytes]]:
    """Write a payload; the same payload is always the same bytes.

    Returns
    -------
    data : bytes
    objects : dict[str, bytes]
        Bytes values of the settings, by SHA-256.

    Raises
    ------
    PayloadError
        Where it holds what cannot travel, or is larger than an object may be.
    """
    objects: dict[str, bytes] = {}
    described = {
        "arrays": {record: list(arrays) for record, arrays in payload.arrays.items()},
        "config": _records(payload.config, lambda value: _written(value, objects)),
        "metrics": _records(payload.metrics, lambda value: _written(value, None)),
    }
    tensors = {
        f"{record}/{name}": np.asarray(array, order="C")
        for record, arrays in payload.arrays.items()
        for name, array in arrays.items()
    }
    if len(tensors) != sum(len(arrays) for arrays in payload.arrays.values()):
        raise PayloadError("two arrays would have one name; keep / out of record names")
    try:
        file = save(tensors, {"payload": json.dumps(described, separators=(",", ":"))})
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise PayloadError(f"arrays that cannot travel: {error!r}") from error
    (header,) = _LENGTH.unpack_from(file)
    if header > MAX_HEADER:
        raise PayloadError(f"{header} bytes of settings and names; at most {MAX_HEADER}")
    if len(file) > MAX_OBJECT:
        raise PayloadError(f"a payload of {len(file)} bytes; at most {MAX_OBJECT} are allowed")
    return _HEAD.pack(MAGIC, len(file)) + zlib.compress(file, _LEVEL), objects


def unpack(data: bytes, fetch: Callable[[str], bytes], limit: int = MAX_OBJECT) -> Payload:
    """Read a payload.

    Parameters
    ----------
    data : bytes
    fetch : callable(sha256) -> bytes
        Gives the objects that the payload names, such as ``ObjectStore.get``; its LookupError
        becomes a PayloadError.
    limit : int
        Bytes that it may have, not compressed; what declares more is refused unread.

    Raises
    ------
    PayloadError
        Where the bytes are none. Nothing above the declared length is inflated.
    """
    file = _inflated(data, limit)
    try:
        tensors = load(file)
        described = json.loads(_metadata(file)["payload"])
        arrays = {
            record: {name: tensors.pop(f"{record}/{name}") for name in names}
            for record, names in described["arrays"].items()
        }
        config = _records(described["config"], lambda value: _read(value, fetch))
        metrics = _records(described["metrics"], lambda value: _read(value, None))
    except PayloadError:
        raise
    except _WRONG as error:
        raise PayloadError(f"no payload: {type(error).__name__}: {str(error)[:200]}") from None
    if tensors:
        raise PayloadError(f"arrays of no record: {sorted(tensors)[:3]}")
    return Payload(arrays, config, metrics)


# What reading hostile bytes may raise: a SafetensorError is an Exception like any other.
_WRONG: Final = (
    SafetensorError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


def _inflated(data: bytes, limit: int) -> bytes:
    """The file, of the declared length to the byte."""
    if len(data) < _HEAD.size:
        raise PayloadError(f"a payload of {len(data)} bytes; its head alone has {_HEAD.size}")
    magic, length = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise PayloadError(f"a payload begins with {magic!r}; expected {MAGIC!r}")
    if not _LENGTH.size <= length <= min(limit, _DENSEST * len(data)):
        raise PayloadError(f"a payload of {len(data)} bytes declares {length}; limit {limit}")
    stream = zlib.decompressobj()
    try:
        file = stream.decompress(memoryview(data)[_HEAD.size :], length)
        rest = stream.decompress(stream.unconsumed_tail, 1)
    except zlib.error as error:
        raise PayloadError(f"a payload's zlib stream is broken: {error}") from None
    if len(file) != length or rest or not stream.eof or stream.unused_data:
        raise PayloadError(f"a payload's zlib stream does not hold the declared {length} bytes")
    if _LENGTH.unpack_from(file)[0] > MAX_HEADER:
        raise PayloadError(f"a payload's header is longer than {MAX_HEADER} bytes")
    return file


def _metadata(file: bytes) -> dict[str, str]:
    """Of a file that safetensors has read without complaint."""
    (length,) = _LENGTH.unpack_from(file)
    header = json.loads(file[_LENGTH.size : _LENGTH.size + length])
    metadata: dict[str, str] = header["__metadata__"]
    return metadata


def _records(records: dict[str, Values], turn: Callable[[Any], Any]) -> dict[str, Values]:
    return {
        str(record): {str(name): turn(value) for name, value in values.items()}
        for record, values in records.items()
    }


def _written(value: object, objects: dict[str, bytes] | None) -> object:
    """A value as JSON has it; bytes go to the objects, where these may."""
    if isinstance(value, list | tuple):
        return [_written(each, objects) for each in value]
    if isinstance(value, bytes) and objects is not None:
        sha = hashlib.sha256(value).hexdigest()
        objects[sha] = value
        return {"object": sha, "bytes": len(value)}
    if not isinstance(value, _SCALARS):
        raise PayloadError(f"a {type(value).__name__} cannot travel as a setting or metric")
    return value


def _read(value: object, fetch: Callable[[str], bytes] | None) -> object:
    if isinstance(value, list):
        return [_read(each, fetch) for each in value]
    if isinstance(value, dict) and fetch is not None and set(value) == {"object", "bytes"}:
        return _fetched(str(value["object"]), value["bytes"], fetch)
    if not isinstance(value, _SCALARS):
        raise PayloadError(f"a {type(value).__name__} as a setting or metric")
    return value


def _fetched(sha: str, length: object, fetch: Callable[[str], bytes]) -> bytes:
    blob = fetch(sha)
    if len(blob) != length or hashlib.sha256(blob).hexdigest() != sha:
        raise PayloadError(f"object {sha[:16]}… is not the {length} bytes that the payload names")
    return blob
