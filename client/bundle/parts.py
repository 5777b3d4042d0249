"""How a part lies in the file: whole, or as what it differs by from the base's part."""

import hashlib
import zlib
from typing import Final, Literal

import numpy as np

from schemas.bundle import BundleError, Part, PartName

Coding = Literal["raw", "zlib", "sub", "xor"]
_STRATEGIES: Final = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY)
_LARGE: Final = 8 << 20  # bytes from which the best compression takes too long


def encode(name: PartName, data: bytes, base: bytes | None) -> tuple[Part, bytes]:
    """Code a part in the way that takes fewest bytes; at a draw, the first of raw, zlib, sub, xor.

    Parameters
    ----------
    name : "graph", "weights" or "reference"
    data : bytes
    base : bytes or None
        The base's part of the same name; of any length.
    """
    ways: dict[Coding, bytes] = {"raw": data, "zlib": _deflated(data)}
    if base is not None and data:
        ways["sub"] = _deflated(_sub(data, base))
        ways["xor"] = _deflated(_xor(data, base))
    coding = min(ways, key=lambda way: len(ways[way]))
    stored = ways[coding]
    part = Part(
        name=name,
        coding=coding,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        stored=len(stored),
        stored_sha256=hashlib.sha256(stored).hexdigest(),
    )
    return part, stored


def decode(part: Part, stored: bytes, base: bytes | None) -> bytes:
    """Restore a part.

    Raises
    ------
    BundleError
        Where it is not what the manifest says. Nothing above the declared length is inflated.
    """
    if hashlib.sha256(stored).hexdigest() != part.stored_sha256:
        raise BundleError(f"part {part.name}: its bytes were altered (SHA-256 differs)")
    data = stored if part.coding == "raw" else _inflated(part, stored)
    if part.coding in ("sub", "xor"):
        if base is None:
            raise BundleError(f"part {part.name}: differs from a part that the base does not have")
        data = _add(data, base) if part.coding == "sub" else _xor(data, base)
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise BundleError(f"part {part.name}: what it restores is not what the manifest says")
    return data


def _deflated(data: bytes) -> bytes:
    """The smallest of a few; any zlib reads each."""
    if len(data) > _LARGE:
        return zlib.compress(data, 6)
    made = []
    for strategy in _STRATEGIES:
        stream = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, strategy)
        made.append(stream.compress(data) + stream.flush())
    return min(made, key=len)


def _inflated(part: Part, stored: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(stored, part.bytes) if part.bytes else b""
        rest = stream.decompress(stream.unconsumed_tail if part.bytes else stored, 1)
    except zlib.error as error:
        raise BundleError(f"part {part.name}: its zlib stream is broken: {error}") from None
    if len(data) != part.bytes or rest or not stream.eof or stream.unused_data:
        raise BundleError(f"part {part.name}: its zlib stream does not hold {part.bytes} bytes")
    return data


def _sub(data: bytes, base: bytes) -> bytes:
    return (np.frombuffer(data, np.uint8) - _fitted(base, len(data))).tobytes()


def _add(data: bytes, base: bytes) -> bytes:
    return (np.frombuffer(data, np.uint8) + _fitted(base, len(data))).tobytes()


def _xor(data: bytes, base: bytes) -> bytes:
    return (np.frombuffer(data, np.uint8) ^ _fitted(base, len(data))).tobytes()


def _fitted(base: bytes, length: int) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    """The base's bytes in this length: cut off, or zeros after them."""
    fitted = np.zeros(length, np.uint8)
    common = min(length, len(base))
    fitted[:common] = np.frombuffer(base, np.uint8, common)
    return fitted
