"""Shared memory without a name: nothing is left on the machine however a process ends.

An anonymous memory file (``memfd``) lives as long as somebody holds it open, so a ``kill -9``
cannot leak it. It is read and written with ``pread`` and ``pwrite``: one copy each way, straight
from and into the ``bytes`` that Flower's arrays hold, with no mapping to grow or to fault in.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

STRIDE = 1 << 34  # address space a slot has; the file is sparse, so what is unused costs nothing
_KEEP = 1 << 28  # bytes an idle arena may hold on to
_IOV_MAX = 512


class Block(NamedTuple):
    """A piece of an arena that is in use."""

    offset: int
    length: int


def write(fd: int, parts: Sequence[bytes], offset: int) -> int:
    """Write parts one after the other and return how many bytes they are."""
    total = sum(map(len, parts))
    if total > STRIDE:
        raise ValueError(f"a message of {total} bytes is more than the {STRIDE} that one may have")
    if len(parts) <= _IOV_MAX and os.pwritev(fd, parts, offset) == total:
        return total
    for part in parts:  # too many parts, or more than the kernel takes in one call
        view = memoryview(part)
        while view:
            count = os.pwrite(fd, view, offset)
            view, offset = view[count:], offset + count
    return total


def read(fd: int, offset: int, length: int) -> bytes:
    """Read length bytes; fewer only where the file ends."""
    data = os.pread(fd, length, offset)
    while 0 < len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


class Arena:
    """A memory file cut into slots that are used again, by size, while their pages are warm."""

    def __init__(self, name: str) -> None:
        self._file = os.fdopen(os.memfd_create(name), "r+b", buffering=0)
        self.fd = self._file.fileno()
        self._free: defaultdict[int, list[int]] = defaultdict(list)
        self._slots = 0
        self._used = 0
        self._held = 0

    def put(self, parts: Sequence[bytes]) -> Block:
        """Copy parts in and return where they lie."""
        length = sum(map(len, parts))
        free = self._free[length.bit_length()]
        if free:
            slot = free.pop()
        else:
            slot, self._slots = self._slots, self._slots + 1
            self._held += 1 << length.bit_length()
        self._used += 1
        write(self.fd, parts, slot * STRIDE)
        return Block(slot * STRIDE, length)

    def free(self, block: Block) -> None:
        """Give a block's place to others."""
        self._free[block.length.bit_length()].append(block.offset // STRIDE)
        self._used -= 1
        if not self._used and self._held > _KEEP:
            os.ftruncate(self.fd, 0)
            self._free.clear()
            self._slots = self._held = 0

    def close(self) -> None:
        """Let go of the memory; it is gone when the last process that has it open ends."""
        self._file.close()
