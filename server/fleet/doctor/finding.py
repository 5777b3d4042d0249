"""What a check finds, and the deployment that it looks at."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from sqlalchemy.orm import Session

from schemas.fleet import FleetConfig, FleetFolder
from server.fleet import secret
from server.fleet.authority import Authority
from server.fleet.registry import Registry

State = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        What was looked at; a name may come more than once.
    state : {"ok", "warning", "fault"}
        A warning is what will be a fault, or is one only where it was not meant so.
    seen, advice : str
        What was there, and what to do about it; no advice where all is well.
    """

    name: str
    state: State
    seen: str
    advice: str = ""


@dataclass(frozen=True)
class Deployment:
    """A fleet, as a check looks at it; nothing of it is changed.

    Attributes
    ----------
    folder : FleetFolder
    config : FleetConfig
    now : float
        Unix time.
    """

    folder: FleetFolder
    config: FleetConfig
    now: float = field(default_factory=time.time)

    @cached_property
    def secret(self) -> bytes:
        """What the private keys are encrypted with; a passphrase is asked for once."""
        return secret.load(self.folder, self.config)

    @property
    def locked(self) -> bool:
        """Whether the keys need a passphrase, and nobody is there to ask."""
        asked = self.config.secrets.kind == "passphrase" and secret.VARIABLE not in os.environ
        return asked and not sys.stdin.isatty()

    @property
    def authority(self) -> Authority:
        """The CAs, without their keys."""
        return Authority(self.folder, self.config.lifetimes, b"", lambda: self.now)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """The registry, where there is one: opening it must not make it."""
        where = self.folder.database(self.config)
        if isinstance(where, Path) and not where.is_file():
            raise FileNotFoundError(2, "no such file", str(where))
        with Registry(where) as registry, registry.read() as db:
            yield db


Check = Callable[[Deployment], Iterator[Finding]]


def ok(name: str, seen: str) -> Finding:
    """All is well."""
    return Finding(name, "ok", seen)


def warning(name: str, seen: str, advice: str) -> Finding:
    """It works today, or is perhaps not meant to."""
    return Finding(name, "warning", seen, advice)


def sealed(name: str, error: Exception) -> Finding:
    """A key that cannot be looked at, since what it is encrypted with cannot be had."""
    advice = "do what this says; where that file is lost, bring it back from a backup"
    return fault(name, f"not checked: {error}", f"{advice}: flwr-fleet restore")


def locked(name: str) -> Finding:
    """A key that cannot be looked at for want of the passphrase."""
    advice = f"set {secret.VARIABLE}, or run it on a terminal"
    return warning(name, "not checked: nobody to ask for the passphrase", advice)


def fault(name: str, seen: str, advice: str) -> Finding:
    """It does not work, or is not safe."""
    return Finding(name, "fault", seen, advice)
