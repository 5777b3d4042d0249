"""The CSV of devices that are known beforehand: read, and all that is wrong in it, by line."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from schemas.base import ConfigError
from schemas.text import decoded
from server.fleet.claims import check_names
from server.fleet.devices import Expected
from server.fleet.errors import Refusal

_COLUMNS: Final = ("device", "tags", "key")
_EXPORTED: Final = ("state", "certificate_until")  # device export writes them too: not looked at
_DIGEST: Final = re.compile("[0-9a-f]{64}")
_MOST: Final = 20  # problems that are said


def read(file: Path) -> list[Expected]:
    """Devices, in the file's order.

    Raises
    ------
    ConfigError
        Where the file is not there, or with the lines that are wrong, and what is.
    """
    table = csv.DictReader(io.StringIO(_text(file), newline=None), strict=True)
    lines, found, wrong = dict[str, int](), list[Expected](), list[str]()
    try:
        _check_head(file, list(table.fieldnames or []))
        for row in table:
            cells = {key: (row.get(key) or "").strip() for key in _COLUMNS}
            problems = [*_problems(row, cells), *_again(cells["device"], lines)]
            wrong += [f"line {table.line_num}: {problem}" for problem in problems]
            lines.setdefault(cells["device"], table.line_num)
            found.append(
                Expected(cells["device"], tuple(cells["tags"].split()), cells["key"] or None)
            )
    except csv.Error as error:
        wrong.append(f"line {table.line_num + 1}: {error}")  # where its row begins
    if not found and not wrong:
        wrong.append("names no device")
    if wrong:
        more = [f"and {len(wrong) - _MOST} more"] if len(wrong) > _MOST else []
        raise ConfigError(str(file), [*wrong[:_MOST], *more])
    return found


def _text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(str(file), [error.strerror or str(error)]) from None
    return decoded(data, file)


def _check_head(file: Path, head: list[str]) -> None:
    wanted = f"expected the columns {', '.join(_COLUMNS)}, of which device must be there"
    others = [name for name in head if name not in (*_COLUMNS, *_EXPORTED)]
    if others:
        raise ConfigError(str(file), [f"line 1: {others[0][:80]!r}; {wanted}"])
    if twice := [name for name in head if head.count(name) > 1]:
        raise ConfigError(str(file), [f"line 1: the column {twice[0]} is there twice"])
    if "device" not in head:
        raise ConfigError(str(file), [f"line 1: {wanted}"])


def _problems(row: dict[str, str], cells: dict[str, str]) -> Iterator[str]:
    if None in row:  # where csv puts what is left over
        yield "more cells than line 1 has columns; tags are separated by blanks"
    for what, words in (("name", [cells["device"]]), ("tag", cells["tags"].split())):
        try:
            check_names(words, what)
        except Refusal as error:
            yield str(error)
    if cells["key"] and not _DIGEST.fullmatch(cells["key"]):
        yield f"key {cells['key'][:80]!r}: expected 64 of 0-9 and a-f"


def _again(device: str, lines: dict[str, int]) -> Iterator[str]:
    if device in lines:
        yield f"name {device[:80]!r}: it is in line {lines[device]} too"
