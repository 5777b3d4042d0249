"""The file of a ring of windows: a page of header, labels, checksums, then the windows."""

import math
import os
import struct
import zlib
from pathlib import Path
from typing import Final, NamedTuple

PAGE: Final = 4096
SLOT_EXTRA: Final = 12  # bytes of a slot beside its window: label and checksum
CODES: Final = {2: "e", 4: "f"}  # of struct, by bytes of a value
_MAGIC: Final = b"FLWRING1"
_HEAD: Final = struct.Struct("<8sIIIQQ")  # magic, time, channels, item size, capacity, dropped
_COUNT: Final = struct.Struct("<Qd")  # windows, Unix time of the last: 0 in files of before
_LABEL: Final = struct.Struct("<q")
_CHECK: Final = struct.Struct("<I")
_COUNT_AT: Final = 64


class RingError(ValueError):
    """A ring that is no ring, holds windows of another shape, or has no room for any."""


class SpoiltRing(RingError):  # noqa: N818 - a state, like httpx's Timeout
    """A file that is no ring, or not all of one."""


class Layout(NamedTuple):
    """Where things lie in a file: a page of header, labels, checksums, then windows."""

    time: int
    channels: int
    item: int
    capacity: int
    dropped: int = 0  # windows of earlier files that were let go

    def __str__(self) -> str:
        return f"{self.time} x {self.channels} float{8 * self.item}"

    @property
    def window(self) -> int:
        """Bytes of a window."""
        return self.time * self.channels * self.item

    @property
    def checks(self) -> int:
        """Offset of the checksums."""
        return PAGE + self.capacity * _LABEL.size

    @property
    def windows(self) -> int:
        """Offset of the windows, on a page's border."""
        return -(-(self.checks + self.capacity * _CHECK.size) // PAGE) * PAGE

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.windows + self.capacity * self.window


def fitted(time: int, channels: int, item: int, limit: int) -> Layout:
    """The layout of a ring that never takes more than so many bytes, its moving included.

    Raises
    ------
    RingError
        Where there is no room for two windows.
    """
    slot = time * channels * item + SLOT_EXTRA
    capacity = (limit - 4 * PAGE) * 2 // (3 * slot)
    if capacity < 2:
        raise RingError(
            f"{limit} bytes have no room for windows of {slot} bytes; raise limit_bytes"
        )
    return Layout(time, channels, item, capacity)


def read_head(file: int, path: Path) -> tuple[Layout, int]:
    """A file's layout, and how many of its slots count.

    Raises
    ------
    SpoiltRing
        Where it is no ring, or not as long as it says.
    """
    head = os.pread(file, PAGE, 0)
    if len(head) < PAGE or not head.startswith(_MAGIC):
        raise SpoiltRing(f"{path}: is no ring of windows; move it away to start afresh")
    at = Layout(*_HEAD.unpack_from(head)[1:])
    if at.item not in CODES or os.fstat(file).st_size != at.size:
        raise SpoiltRing(
            f"{path}: its size is not what its header says; move it away to start afresh"
        )
    return at, min(_COUNT.unpack_from(head, _COUNT_AT)[0], at.capacity)


def write_head(file: int, at: Layout) -> None:
    """Begin a file of no slots."""
    os.ftruncate(file, at.size)
    _put(file, _HEAD.pack(_MAGIC, *at), 0)


def write_count(file: int, count: int, last_at: float) -> None:
    """Say how many slots count, and when the last came: what makes an added one real."""
    _put(file, _COUNT.pack(count, last_at), _COUNT_AT)


def read_last_at(file: int) -> float:
    """When a file's last window came, Unix time; 0 where that is not known."""
    at: float = _COUNT.unpack(os.pread(file, _COUNT.size, _COUNT_AT))[1]
    return at if math.isfinite(at) else 0.0


def read_slot(file: int, at: Layout, slot: int) -> tuple[int, bytes]:
    """A slot's label and window."""
    label, window = _slot(file, at, slot)
    return _LABEL.unpack(label)[0], window


def write_slot(file: int, at: Layout, slot: int, label: int, window: bytes) -> None:
    """Fill a slot."""
    packed = _LABEL.pack(label)
    _put(file, window, at.windows + slot * at.window)
    _put(file, packed, PAGE + slot * _LABEL.size)
    _put(file, _check(packed, window), at.checks + slot * _CHECK.size)


def is_whole(file: int, at: Layout, slot: int) -> bool:
    """Whether all of a slot reached the disk."""
    check = os.pread(file, _CHECK.size, at.checks + slot * _CHECK.size)
    return check == _check(*_slot(file, at, slot))


def _slot(file: int, at: Layout, slot: int) -> tuple[bytes, bytes]:
    label = os.pread(file, _LABEL.size, PAGE + slot * _LABEL.size)
    return label, os.pread(file, at.window, at.windows + slot * at.window)


def _check(label: bytes, window: bytes) -> bytes:
    return _CHECK.pack(zlib.crc32(window, zlib.crc32(label, 1)))  # zeros do not check as 0


def _put(file: int, data: bytes, offset: int) -> None:
    while data:  # a disk that fills up takes a part first, and raises then
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
