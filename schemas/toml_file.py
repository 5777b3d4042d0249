"""Reading what a user wrote in TOML, with overrides from the command line."""

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from schemas.base import ConfigError
from schemas.text import decoded


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    ConfigError
        Where it cannot be read or is no TOML.
    """
    try:
        return parsed(path.read_bytes(), path)
    except FileNotFoundError as error:
        raise ConfigError(str(path), ["no such file"]) from error
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error}"]) from error


def parsed(data: bytes, where: Path) -> dict[str, Any]:
    """Read what a TOML file holds.

    Raises
    ------
    ConfigError
        Where it is no TOML.
    """
    try:
        return tomllib.loads(decoded(data, where))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(where), [f"not TOML: {error}"]) from error


def read_with(path: Path, overrides: Iterable[str]) -> dict[str, Any]:
    """Read a TOML file and override keys of it, each ``key.path=value``.

    Raises
    ------
    ConfigError
        Where it cannot be read or is no TOML, or with every override that is none.
    """
    table = read_toml(path)
    if problems := [problem for text in overrides if (problem := override(table, text))]:
        raise ConfigError("--set", problems)
    return table


def override(table: dict[str, Any], text: str) -> str | None:
    """Set a key in the table as ``key.path=value`` says; what is wrong with it, if anything is."""
    key, separator, value = text.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        return f"{text!r}: expected key.path=value"
    for part in parts[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            return f"{text!r}: {part} is a value, not a table"
        table = inner
    table[parts[-1]] = value_of(value.strip())
    return None


def value_of(text: str) -> Any:
    """A TOML value; what is none is a string."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def quoted(text: str) -> str:
    """A TOML basic string: JSON's, but that DEL is escaped, and no letter as surrogates."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def allowed_keys(model: type[BaseModel], prefix: str = "") -> dict[str, list[str]]:
    """Keys of a model's tables, by dotted path."""
    keys = {prefix: sorted(model.model_fields)}
    for name, field in model.model_fields.items():
        inner = field.annotation
        for kind in (inner, *get_args(inner)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys |= allowed_keys(kind, f"{prefix}.{name}".lstrip("."))
    return keys
