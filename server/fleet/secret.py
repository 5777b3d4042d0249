"""What the fleet's private keys are encrypted with: a key file, or a passphrase."""

import functools
import getpass
import os
import secrets
import sys
from pathlib import Path
from typing import Final

from schemas.base import ConfigError
from schemas.fleet import FleetConfig, FleetFolder

VARIABLE: Final = "FLWR_FLEET_PASSPHRASE"
_ASKED: Final = "passphrase of the fleet's keys: "
_LEAST: Final = 8  # characters of a passphrase


def load(folder: FleetFolder, config: FleetConfig) -> bytes:
    """Read the key file, or the passphrase from the environment or the terminal.

    Raises
    ------
    ConfigError
        Where there is none, or the file is empty, or others may read it.
    """
    if config.secrets.kind == "passphrase":
        return _passphrase(confirm=False)
    path = folder.secret(config)
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = f"the fleet's key file cannot be read: {error}"
        raise ConfigError(str(path), [problem]) from None
    if mode & 0o077:
        raise ConfigError(str(path), [f"mode {mode:o} lets others read it; chmod 600 it"])
    if not text:
        problem = "is empty; bring it back from a backup, or remove it where there is no key yet"
        raise ConfigError(str(path), [problem])
    return text.encode()


def make(folder: FleetFolder, config: FleetConfig) -> bytes:
    """Make the key file, or ask for a new passphrase."""
    if config.secrets.kind == "passphrase":
        return _passphrase(confirm=True)
    text = secrets.token_urlsafe(32)
    write_private(folder.secret(config), f"{text}\n".encode())
    return text.encode()


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    write(path, data, 0o600)


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file whole or not at all: beside its place first, then renamed."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _passphrase(*, confirm: bool) -> bytes:
    text = os.environ.get(VARIABLE)
    if text is None:
        if not sys.stdin.isatty():
            raise ConfigError("passphrase", [f"nobody to ask for it; set {VARIABLE}"])
        text = _new() if confirm else _typed()
    if len(text) < _LEAST:
        raise ConfigError("passphrase", [f"expected {_LEAST} characters or more"])
    return text.encode()


def _new() -> str:
    text = getpass.getpass(_ASKED)
    if getpass.getpass("again: ") != text:
        raise ConfigError("passphrase", ["the two are not the same"])
    return text


@functools.cache  # serve needs it for its CA and for what it signs, and asks once
def _typed() -> str:
    return getpass.getpass(_ASKED)
