"""What the broker refused, from its log into the audit log: ``flwr_edge.fleet_tick``.

Mosquitto names a client only once its certificate was good: who fails the handshake is "?". What
the access list denies it tells the client, and logs on "debug" alone, with every topic of every
message: that is not audited.
"""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from schemas.fleet import FleetConfig, FleetFolder
from server.fleet.broker.control import Control
from server.fleet.broker.settings import LOG
from server.fleet.registry import Registry
from server.fleet.secret import write

_UNKNOWN: Final = "?"
_SAYS: Final = (
    ("oversized", re.compile(r"Client (?P<who>\S+) disconnected due to oversize packet")),
    ("protocol", re.compile(r"Client (?P<who>[^<\s]\S*) disconnected: (Protocol|Malformed)")),
    ("no-certificate", re.compile(r"peer did not return a certificate")),
    ("certificate", re.compile(r"certificate verify failed|certificate (revoked|expired)")),
)
_PLACE: Final = ".log"  # how far the log was read
_AT_ONCE: Final = 8 << 20  # bytes read in one tick
_LARGEST: Final = 16 << 20  # bytes of the log; the one before it is kept
_QUIET: Final = 3600.0  # seconds in which a kind of refusal is audited once a client, with a count
_ROWS: Final = 50  # in one tick

Kind = tuple[str, str]  # whom, and why
_noted: dict[Path, dict[Kind, float]] = {}
_left: dict[Path, Counter[Kind]] = {}


def tick(folder: FleetFolder, config: FleetConfig) -> None:
    """Audit what the broker refused since the last time; begin another log where it is long."""
    file = folder.broker / LOG
    if not file.exists():
        return
    counts = _left.setdefault(folder.root, Counter())
    counts.update(refusals(_fresh(folder, file)))
    if due := _due(folder, counts):
        with Registry(folder.database(config)) as registry, registry.write("broker") as tx:
            for who, reason in due:
                tx.audit("broker.refused", who, reason=reason, count=counts.pop((who, reason)))
    if file.stat().st_size > _LARGEST:
        file.replace(file.with_suffix(".log.1"))
        Control(folder, config).signal()


def refusals(lines: Iterable[str]) -> Counter[Kind]:
    """Who was refused, and why, how often."""
    found = Counter[Kind]()
    for line in lines:
        for reason, pattern in _SAYS:
            if match := pattern.search(line):
                found[match.groupdict().get("who", _UNKNOWN), reason] += 1
                break
    return found


def _due(folder: FleetFolder, counts: Counter[Kind]) -> list[Kind]:
    now, noted = time.monotonic(), _noted.setdefault(folder.root, {})
    due = [kind for kind in counts if noted.get(kind, -_QUIET) + _QUIET <= now][:_ROWS]
    noted.update(dict.fromkeys(due, now))
    return due


def _fresh(folder: FleetFolder, file: Path) -> list[str]:
    """Whole lines that were not read yet, of this log; a long one is read by and by."""
    place = folder.broker / _PLACE
    with file.open("rb") as log:
        status = os.fstat(log.fileno())
        inode, offset = _read(place)
        if inode != status.st_ino or offset > status.st_size:
            offset = 0
        log.seek(offset)
        data = log.read(_AT_ONCE)
    data = data[: data.rfind(b"\n") + 1]
    if data or inode != status.st_ino:
        write(place, json.dumps([status.st_ino, offset + len(data)]).encode(), 0o640)
    return data.decode(errors="replace").splitlines()


def _read(place: Path) -> tuple[int, int]:
    try:
        inode, offset = json.loads(place.read_bytes())
        return int(inode), int(offset)
    except (OSError, ValueError, TypeError):
        return 0, 0
