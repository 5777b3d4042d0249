"""As much of protobuf's wire format as a graph's check needs: bounded, strict, one level at a time.

Stricter than protobuf itself, so that no two readers can read one file differently: an unknown
field, a field of another wire type and a single field that comes twice are refused.
"""

import struct
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Final

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_UNPACKED: Final = {0: _VARINT, 4: _FOUR, 8: _EIGHT}  # wire type by size
_LARGEST: Final = 1 << 64
_MOST_TAG: Final = 1 << 32
_TERMINATORS: Final = bytes(range(128))  # a varint's last byte


class ProtobufError(ValueError):
    """Bytes that are not the message that they should be."""


class Budget:
    """Fields that may still be read of one file: bounds the time, whatever the bytes are."""

    def __init__(self, fields: int) -> None:
        self.fields = self.left = fields

    def spend(self) -> None:
        """Count one."""
        self.left -= 1
        if self.left < 0:
            raise ProtobufError(f"more than {self.fields} fields; at most so many are read")


class Reading:
    """One message's fields by number; what is inside of them is read when asked for.

    Parameters
    ----------
    data : memoryview
    what : str
        For errors.
    known : dict[int, str]
        Names of the fields that the message may have, by number.
    budget : Budget
    """

    def __init__(self, data: memoryview, what: str, known: dict[int, str], budget: Budget) -> None:
        self.what, self.known, self.budget = what, known, budget
        self._found: dict[int, list[tuple[int, int | memoryview]]] = {}
        for number, kind, value in _fields(data, what, budget):
            if number not in known:
                raise ProtobufError(f"{what}: field {number} is unknown")
            self._found.setdefault(number, []).append((kind, value))

    def has(self, number: int) -> bool:
        """Whether the field is there."""
        return number in self._found

    def only(self, numbers: Set[int]) -> bool:
        """Whether no other fields are there."""
        return self._found.keys() <= numbers

    def named(self, name: str) -> list[int]:
        """Numbers of the fields of a name that are there."""
        return [number for number in self._found if self.known[number] == name]

    def messages(self, number: int) -> list[memoryview]:
        """Bytes of a repeated field: messages, strings or bytes."""
        values = []
        for kind, value in self._found.get(number, ()):
            if kind != _BYTES or not isinstance(value, memoryview):
                raise self._wrong(number, "bytes")
            values.append(value)
        return values

    def message(self, number: int) -> memoryview | None:
        """Bytes of a single field."""
        self._once(number)
        return next(iter(self.messages(number)), None)

    def texts(self, number: int) -> list[str]:
        """Return a repeated string."""
        try:
            return [str(value, "utf-8") for value in self.messages(number)]
        except UnicodeDecodeError:
            raise self._wrong(number, "UTF-8") from None

    def text(self, number: int) -> str:
        """Return a single string; empty where it is left out."""
        self._once(number)
        return "".join(self.texts(number))

    def integer(self, number: int) -> int:
        """Return a single int64; 0 where it is left out."""
        self._once(number)
        return next(iter(self.integers(number, 1)), 0)

    def integers(self, number: int, most: int) -> list[int]:
        """Return a repeated int64, packed or not; refuse more than so many."""
        values: list[int] = []
        for kind, value in self._found.get(number, ()):
            if kind == _VARINT and isinstance(value, int):
                values.append(value)
            elif kind == _BYTES and isinstance(value, memoryview):
                values += _packed(value, most + 1, self.what)
            else:
                raise self._wrong(number, "integers")
            if len(values) > most:
                raise ProtobufError(f"{self.what}: more than {most} {self.known[number]}")
        return [value - _LARGEST if value >> 63 else value for value in values]

    def entries(self, number: int, size: int) -> int:
        """How many values a repeated field has, of ``size`` bytes each; 0: varints."""
        count = 0
        for kind, value in self._found.get(number, ()):
            if kind == _UNPACKED[size]:
                count += 1
            elif not isinstance(value, memoryview) or kind != _BYTES:
                raise self._wrong(number, "numbers")
            elif size:
                count += len(value) // size
                if len(value) % size:
                    raise self._wrong(number, f"numbers of {size} bytes")
            else:
                count += len(value) - len(bytes(value).translate(None, _TERMINATORS))
                if len(value) and value[-1] > _TERMINATORS[-1]:
                    raise self._wrong(number, "whole numbers")
        return count

    def _once(self, number: int) -> None:
        if len(self._found.get(number, ())) > 1:
            raise ProtobufError(f"{self.what}: {self.known[number]} comes more than once")

    def _wrong(self, number: int, expected: str) -> ProtobufError:
        return ProtobufError(f"{self.what}: {self.known[number]} is not {expected}")


def _fields(
    data: memoryview, what: str, budget: Budget
) -> Iterator[tuple[int, int, int | memoryview]]:
    at, end = 0, len(data)
    while at < end:
        budget.spend()
        tag, at = _varint(data, at, what)
        number, kind = tag >> 3, tag & 7
        if not number or tag >= _MOST_TAG:
            raise ProtobufError(f"{what}: no field has the number {number}")
        if kind == _VARINT:
            value, at = _varint(data, at, what)
            yield number, kind, value
            continue
        if kind == _BYTES:
            length, at = _varint(data, at, what)
        elif kind in (_EIGHT, _FOUR):
            length = 8 if kind == _EIGHT else 4
        else:
            raise ProtobufError(f"{what}: field {number} has wire type {kind}; 0, 1, 2, 5 are read")
        if length > end - at:
            raise ProtobufError(f"{what}: field {number} has {length} bytes; {end - at} are left")
        yield number, kind, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int, what: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ProtobufError(f"{what}: it ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >= _LARGEST:
                break
            return value, at
    raise ProtobufError(f"{what}: a number of more than 64 bits")


def _packed(data: memoryview, most: int, what: str) -> list[int]:
    values: list[int] = []
    at = 0
    while at < len(data) and len(values) < most:
        value, at = _varint(data, at, what)
        values.append(value)
    return values


def rewritten(
    data: memoryview, what: str, budget: Budget, number: int, change: Callable[[memoryview], bytes]
) -> bytes:
    """Write a message anew with the bytes of one field changed; all else stays, in its order."""
    parts: list[bytes | memoryview] = []
    for field, kind, value in _fields(data, what, budget):
        parts.append(_coded(field << 3 | kind))
        if isinstance(value, int):
            parts.append(_coded(value))
            continue
        new = change(value) if field == number and kind == _BYTES else value
        if kind == _BYTES:
            parts.append(_coded(len(new)))
        parts.append(new)
    return b"".join(parts)


def float_tensor(name: str, dims: Sequence[int], values: bytes) -> bytes:
    """Write a tensor of float32, as ONNX's exporters do; ``values``: its raw data."""
    text = name.encode()
    sizes = b"".join(b"\x08" + _coded(size) for size in dims)
    head = sizes + b"\x10\x01\x42" + _coded(len(text)) + text + b"\x4a" + _coded(len(values))
    return head + values


def _coded(value: int) -> bytes:
    coded = bytearray()
    while value > _TERMINATORS[-1]:
        coded.append(value & 127 | 128)
        value >>= 7
    coded.append(value)
    return bytes(coded)


def little_endian(data: memoryview) -> list[int]:
    """Read int64 values as raw tensor data has them."""
    return [value for (value,) in struct.iter_unpack("<q", data)]
