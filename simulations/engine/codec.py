"""Flower records as bytes: a JSON header, then the payloads as they are.

A *frame* is ``<u32: length of the header> <header> <payload> <payload> …``. Arrays travel as the
bytes that Flower already made of them (``Array.data``) and are never decoded on the way. Nothing
is pickled: a state that comes from a checkpoint is data, whoever wrote it.
"""

import json
import struct
from collections.abc import Callable
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from server.flower_private import fill, make_array
from simulations.engine.arena import Block

Read = Callable[[int, int], bytes]
Find = Callable[[bytes], Block | None]

_LENGTH = struct.Struct("<I")
_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class _Writer:
    """Collects payloads while the header that refers to them is built."""

    def __init__(self, find: Find | None) -> None:
        self.payloads: list[bytes] = []
        self._find = find

    def add(self, data: bytes) -> int | Block:
        place = self._find(data) if self._find else None
        if place is not None:
            return place
        self.payloads.append(data)
        return len(data)

    def value(self, value: Any) -> Any:
        if isinstance(value, bytes):
            return {"bytes": self.add(value)}
        if isinstance(value, list) and value and isinstance(value[0], bytes):
            return [{"bytes": self.add(item)} for item in value]
        return value

    def record(self, record: Any) -> tuple[str, Any]:
        if isinstance(record, ArrayRecord):
            return "array", [
                (name, array.dtype, array.shape, array.stype, self.add(array.data))
                for name, array in record.items()
            ]
        if isinstance(record, ConfigRecord):
            return "config", {key: self.value(value) for key, value in record.items()}
        return "metric", dict(record.items())


def encode(
    records: RecordDict | None, head: dict[str, Any] | None = None, find: Find | None = None
) -> list[bytes]:
    """Turn records into the parts of a frame.

    Parameters
    ----------
    records
        What to encode; none for a frame that is only a head.
    head
        Plain values that travel with the records.
    find
        Asked for each payload whether it already lies in the arena; if so the frame refers to it.

    Returns
    -------
    list[bytes]
        The parts; joined they are the frame. The payloads among them are not copied.
    """
    writer = _Writer(find)
    if records is None:
        header: dict[str, Any] = {"head": head}
    else:
        rows = [(key, *writer.record(record)) for key, record in records.items()]
        header = {"head": head, "records": rows}
    text = _to_json(header).encode("ascii")
    return [_LENGTH.pack(len(text)) + text, *writer.payloads]


class _Reader:
    """Reads payloads in the order in which the writer put them."""

    def __init__(self, read: Read, position: int) -> None:
        self._read = read
        self._position = position

    def take(self, place: int | list[int]) -> bytes:
        if isinstance(place, int):
            offset, length = self._position, place
            self._position += length
        else:
            offset, length = place
        data = self._read(offset, length)
        if len(data) != length:
            raise ValueError(f"{length} bytes of a payload are announced, {len(data)} are there")
        return data

    def value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return self.take(value["bytes"])
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return [self.take(item["bytes"]) for item in value]
        return value

    def record(self, kind: str, body: Any) -> ArrayRecord | ConfigRecord | MetricRecord:
        if kind == "metric":
            return fill(MetricRecord(), body)
        if kind == "config":
            return fill(ConfigRecord(), {key: self.value(value) for key, value in body.items()})
        if kind != "array":
            raise ValueError(f"unknown kind of record {kind!r}")
        arrays = {
            name: make_array(dtype, tuple(shape), stype, self.take(place))
            for name, dtype, shape, stype, place in body
        }
        return fill(ArrayRecord(), arrays)


def decode(read: Read, start: int = 0, length: int = 0) -> tuple[RecordDict | None, Any]:
    """Read a frame back into records and head.

    Parameters
    ----------
    read
        Reads (offset, length) from where the frame lies.
    start
        Where it begins.
    length
        Bytes known to be there, if any: short frames are then read at once.

    Raises
    ------
    ValueError
        If it is no frame.
    """
    first = read(start, min(max(length, _LENGTH.size), 4096))
    try:
        size = _LENGTH.unpack_from(first)[0]
        end = _LENGTH.size + size
        text = first[_LENGTH.size : end] if end <= len(first) else read(start + 4, size)
        header = json.loads(text)
        reader = _Reader(read, start + end)
        if "records" not in header:
            return None, header["head"]
        records = {key: reader.record(kind, body) for key, kind, body in header["records"]}
        return fill(RecordDict(), records), header["head"]
    except (struct.error, LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not a frame of Flower records: {error}") from error


def state_parts(state: RecordDict) -> list[bytes]:
    """Encode a client's state; an empty one is no bytes at all."""
    return encode(state) if len(state) else []


def check_state(state: bytes) -> None:
    """Raise a ValueError unless the bytes are a client's state, down to each value's type."""
    if not state:
        return
    records, _ = decode(lambda offset, length: state[offset : offset + length])
    try:
        for record in (records or {}).values():
            if isinstance(record, ArrayRecord):
                for array in record.values():
                    Array(array.dtype, array.shape, array.stype, array.data)
            else:
                type(record)(dict(record.items()))  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(f"not a client's state: {error}") from error
