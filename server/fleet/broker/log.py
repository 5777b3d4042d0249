"""What the broker refused, from its log into the audit log: ``flwr_edge.fleet_tick``.

Mosquitto names a client only once its certificate was good: who fails the handshake is "?". A
publish that the access list denies it logs on "debug" alone, with every topic of every message:
``broker.audit_denied`` may forbid that. A subscription to another's topics it grants, and delivers
nothing of them: it is known by its topic.

Topics are a client's own words: every pattern is anchored, so that none of them reads as a line.
"""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from schemas.fleet import FleetConfig, FleetFolder
from schemas.wire import PREFIX
from server.fleet.broker.access import READS
from server.fleet.broker.control import Control
from server.fleet.broker.settings import LOG
from server.fleet.registry import Registry
from server.fleet.secret import write

_UNKNOWN: Final = "?"
_WHO: Final = "[a-z0-9-]+"
_AT: Final = r"^\S+: "  # when
_TLS: Final = r"(OpenSSL Error|Client connection from \S+ failed)"  # as soon as it came, or later
_SUBSCRIBED: Final = "foreign-subscription"
_SAYS: Final = (
    ("oversized", rf"Client (?P<who>{_WHO}) disconnected due to oversize packet"),
    ("protocol", rf"Client (?P<who>{_WHO}) disconnected: (Protocol|Malformed)"),
    ("no-certificate", rf"{_TLS}.*peer did not return a certificate"),
    ("certificate", rf"{_TLS}.*(certificate verify failed|certificate (revoked|expired))"),
    ("denied", rf"Denied PUBLISH from (?P<who>{_WHO}) \([^']*, '(?P<topic>.*)', \.\.\. "),
    (_SUBSCRIBED, rf"(?P<who>{_WHO}) [0-2] (?P<topic>.*)$"),
)
_PATTERNS: Final = tuple((reason, re.compile(_AT + text)) for reason, text in _SAYS)
_PLACE: Final = ".log"  # how far the log was read
_AT_ONCE: Final = 8 << 20  # bytes read in one tick
_LARGEST: Final = 16 << 20  # bytes of the log; the one before it is kept
_QUIET: Final = 3600.0  # seconds in which a kind of refusal is audited once a client, with a count
_MINUTE: Final = 60.0  # the same for what has a row for each topic
_ROWS: Final = 50  # in one tick
_TOPIC: Final = 100  # characters of a topic
_TOPICS: Final = 5  # of a client and a reason, at a time; those after them are one
_OTHERS: Final = "(other topics)"

Kind = tuple[str, str, str]  # whom, why, and on which topic
_noted: dict[Path, dict[Kind, float]] = {}
_left: dict[Path, Counter[Kind]] = {}


def tick(folder: FleetFolder, config: FleetConfig) -> None:
    """Audit what the broker refused since the last time; begin another log where it is long."""
    file = folder.broker / LOG
    if not file.exists():
        return
    counts = _left.setdefault(folder.root, Counter())
    servers = (config.broker.server, config.broker.federation)
    _add(counts, refusals(_fresh(folder, file), servers))
    if due := _due(folder, counts):
        with Registry(folder.database(config)) as registry, registry.write("broker") as tx:
            for kind in due:
                who, reason, topic = kind
                on = {"topic": topic} if topic else {}
                tx.audit("broker.refused", who, reason=reason, count=counts.pop(kind), **on)
    if file.stat().st_size > _LARGEST:
        file.replace(file.with_suffix(".log.1"))
        Control(folder, config).signal()


def refusals(lines: Iterable[str], servers: Collection[str] = ()) -> Counter[Kind]:
    """Who was refused, and why, how often; ``servers`` may subscribe to what they like."""
    found = Counter[Kind]()
    for line in lines:
        for reason, pattern in _PATTERNS:
            if match := pattern.match(line):
                said = match.groupdict()
                who, topic = said.get("who", _UNKNOWN), said.get("topic", "")
                if reason != _SUBSCRIBED or not (who in servers or _own(who, topic)):
                    found[who, reason, topic[:_TOPIC]] += 1
                break
    return found


def _own(who: str, topic: str) -> bool:
    """Whether a device may read a topic."""
    return topic in {f"{PREFIX}/{who}/{kind}" for kind in READS}


def _add(counts: Counter[Kind], found: Counter[Kind]) -> None:
    """Count; a client that tries one topic after another fills neither memory nor the audit."""
    topics = Counter((who, reason) for who, reason, topic in counts if topic)
    for (who, reason, topic), count in found.items():
        if topic and (who, reason, topic) not in counts:
            topics[who, reason] += 1
            topic = topic if topics[who, reason] <= _TOPICS else _OTHERS  # noqa: PLW2901
        counts[who, reason, topic] += count


def _due(folder: FleetFolder, counts: Counter[Kind]) -> list[Kind]:
    now, noted = time.monotonic(), _noted.setdefault(folder.root, {})
    for kind in [kind for kind, at in noted.items() if at + _quiet(kind) <= now]:
        del noted[kind]
    due = [kind for kind in counts if kind not in noted][:_ROWS]
    noted.update(dict.fromkeys(due, now))
    return due


def _quiet(kind: Kind) -> float:
    return _MINUTE if kind[2] else _QUIET


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
