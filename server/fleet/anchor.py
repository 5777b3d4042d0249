"""Heads of the audit log, noted outside of the database: what cuts the log's end off is found.

A line each, ``NUMBER HASH``. The file is only appended to; a copy of it on another machine is worth
more than it is here.
"""

import os
from pathlib import Path

from schemas.base import ConfigError
from server.fleet.registry.audit import Head


def note(path: Path, head: Head) -> None:
    """Note a head, where it is not the last that was noted."""
    line = f"{head.number} {head.hash}\n".encode()
    with path.open("ab") as file:
        if head.number and not path.read_bytes().endswith(line):
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def anchors(path: Path) -> dict[int, str]:
    """All heads that were noted.

    Raises
    ------
    ConfigError
        Where the file holds something else.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        lines = ["?"]
    try:
        return {int(number): digest for number, digest in map(str.split, lines)}
    except ValueError:
        raise ConfigError(str(path), ["expected lines of NUMBER HASH"]) from None
