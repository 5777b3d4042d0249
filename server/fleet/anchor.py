"""Heads of the audit log, noted outside of the database: what cuts the log's end off is found.

A line each, ``NUMBER HASH``. Lines are added at the end, and ``thin`` takes old ones out; a copy of
the file on another machine is worth more than it is here.
"""

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Final

from sqlalchemy.orm import Session

from schemas.base import ConfigError
from server.fleet.lock import held
from server.fleet.registry import audit
from server.fleet.registry.audit import Head
from server.fleet.secret import write

_LINE: Final = re.compile(rb"(\d{1,18}) ([0-9a-f]{64})", re.ASCII)
_TAIL: Final = 4096  # bytes of the file's end, in which its last line is looked for
_LATEST: Final = 1000  # lines that stay whatever their age
_DAY: Final = 86_400.0


def note(path: Path, head: Head) -> None:
    """Note a head, where it is not the last that was noted.

    A line that a power cut left without its end is cut off first, and so is this one where the
    disk has no room for it: nothing is ever written behind the half of a line.

    Raises
    ------
    OSError
        The file is then as it was.
    """
    if not head.number:
        return
    line = f"{head.number} {head.hash}\n".encode()
    path.touch()
    with path.open("r+b", buffering=0) as file:
        end, last = _end(file)
        file.truncate(end)
        if last != line:
            _append(file, end, line)


def anchors(path: Path) -> dict[int, str]:
    """All heads that were noted; of two for one row the first, which no later one takes back.

    Raises
    ------
    ConfigError
        Where the file holds something else.
    """
    found = dict[int, str]()
    for number, digest in _noted(path):
        found.setdefault(number, digest)
    return found


def thin(path: Path, db: Session) -> None:
    """Leave one of the old lines a day, where all of them agree with the log.

    That takes nothing from what ``audit verify`` proves. A line's hash covers every row up to its
    own, so a newer line that agrees with the log says all that an older one does, if the older one
    agrees as well. So lines go only where the whole chain was just seen to run through each of
    them, and behind the newest lines, which stay. Where one line disagrees, all stay: it is
    evidence. One a day stays to tell, once something is wrong, until when it was right.
    """
    try:
        lines = _noted(path)
    except ConfigError:  # audit verify says it; here it must keep nobody from serving
        return
    noted = dict(lines)
    contradicted = len(noted) != len(set(lines))
    if len(lines) <= 2 * _LATEST or contradicted or any(audit.faults(db, noted)):
        return
    kept = set(lines[-_LATEST:]) | _one_a_day(db, lines[:-_LATEST])
    with held(path.parent):
        # What was noted since then was not checked, and stays.
        rest = [line for line in _noted(path) if line in kept or line not in set(lines)]
        text = "".join(f"{number} {digest}\n" for number, digest in rest)
        write(path, text.encode())


def _one_a_day(db: Session, lines: Iterable[tuple[int, str]]) -> set[tuple[int, str]]:
    of_number = dict(lines)
    days = {at // _DAY: number for number, at in sorted(audit.times(db, of_number).items())}
    return {(number, of_number[number]) for number in days.values()}


def _noted(path: Path) -> list[tuple[int, str]]:
    try:
        *lines, _ = path.read_bytes().split(b"\n")  # behind the last line's end: nothing, or a half
    except FileNotFoundError:
        return []
    found = [_LINE.fullmatch(line) for line in lines]
    if None in found:
        problem = f"line {found.index(None) + 1}: expected NUMBER HASH"
        raise ConfigError(str(path), [problem])
    return [(int(match[1]), match[2].decode()) for match in found if match is not None]


def _end(file: IO[bytes]) -> tuple[int, bytes]:
    """Where the last whole line ends, and the line."""
    size = file.seek(0, os.SEEK_END)
    for length in (min(size, _TAIL), size):
        start = file.seek(size - length)
        data = file.read(length)
        whole = data[: data.rfind(b"\n") + 1]
        if b"\n" in whole[:-1] or not start:
            break
    return start + len(whole), whole[whole.rfind(b"\n", 0, -1) + 1 :]


def _append(file: IO[bytes], end: int, line: bytes) -> None:
    try:
        file.seek(end)
        while line:
            line = line[file.write(line) :]
        os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(end)
        raise
