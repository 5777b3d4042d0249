"""Writes the daemon's configuration: what enrolment knows is set, the rest stays as it was."""

import json
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from client.config import STATE, DaemonConfig
from client.files import Owner, owner_near, read_plain, write_file
from schemas.base import ConfigError
from schemas.incoming import sync_folder

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_HEAD: Final = "# The daemon's: flwr-edge run --config FILE. Written by flwr-edge enroll.\n"


def updated(path: Path, changes: dict[str, Any], defaults: dict[str, Any]) -> str | None:
    """Set keys of a file, and check it whole.

    A file that is there keeps its mode and owner; a new one is not for everybody to read (it may
    come to hold a sensor's password) and belongs to whom the state does. A link stays one.

    Parameters
    ----------
    path : Path
        Where there is none, it begins with ``defaults``.
    changes : dict
        Tables and keys; a table replaces what was there under its keys only.
    defaults : dict

    Returns
    -------
    str or None
        Where the file before was kept: a comment in it would be lost.

    Raises
    ------
    ConfigError
        Where the file is none, or would not be good; it is then as it was.
    """
    before = _read(path)
    table = _merged(before if before is not None else defaults, changes)
    base, file = path.absolute().parent, path.resolve()
    mode, owner = _kept(path, base / str(table.get("state", STATE)))
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.new")
    write_file(new, (_HEAD + "\n".join(_lines(table)) + "\n").encode(), mode, owner)
    try:
        DaemonConfig.load(new, base)
    except ConfigError as error:
        new.unlink()
        raise ConfigError(str(path), error.problems) from None
    kept = None
    if before is not None and before != table:
        kept = file.with_name(f"{file.name}.before")
        write_file(kept, file.read_bytes(), mode, owner)
    new.replace(file)
    sync_folder(file.parent)
    return None if kept is None else str(kept)


def _kept(path: Path, state: Path) -> tuple[int, Owner | None]:
    try:
        facts = path.stat()
    except FileNotFoundError:
        return 0o640, owner_near(state)
    return stat.S_IMODE(facts.st_mode), (facts.st_uid, facts.st_gid)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return tomllib.loads(read_plain(path).decode())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(str(path), [error.strerror or str(error)]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [str(error)]) from None


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        below = merged.get(key)
        both = isinstance(value, dict) and isinstance(below, dict)
        merged[key] = _merged(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _lines(table: dict[str, Any], path: str = "") -> Iterator[str]:
    """A table's own keys, then the tables in it."""
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    own = [f"{_key(key)} = {_value(value)}" for key, value in table.items() if key not in tables]
    if path and (own or not tables):
        yield f"\n[{path}]"
    yield from own
    for key, value in tables.items():
        yield from _lines(value, f"{path}.{_key(key)}" if path else _key(key))


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    """A basic string; TOML, unlike JSON, wants DEL escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        pairs = (f"{_key(key)} = {_value(one)}" for key, one in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return json.dumps(value)
    return str(value)
