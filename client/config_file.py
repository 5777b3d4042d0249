"""Writes the daemon's configuration: what enrolment knows is set, the rest stays as it was."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from client.config import DaemonConfig
from schemas.base import ConfigError

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_HEAD: Final = "# The daemon's: flwr-edge run --config FILE. Written by flwr-edge enroll.\n"


def updated(path: Path, changes: dict[str, Any], defaults: dict[str, Any]) -> str | None:
    """Set keys of a file, and check it whole.

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
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(_HEAD + "\n".join(_lines(table)) + "\n", encoding="utf-8")
    try:
        DaemonConfig.load(part)
    except ConfigError as error:
        part.unlink()
        raise ConfigError(str(path), error.problems) from None
    kept = None
    if before is not None and before != table:
        kept = path.with_name(f"{path.name}.before")
        kept.write_bytes(path.read_bytes())
    part.replace(path)
    return None if kept is None else str(kept)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
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
