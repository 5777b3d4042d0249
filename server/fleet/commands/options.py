"""What the commands share: the fleet they are about, how they answer, and how they ask first."""

import getpass
import os
import select
import shlex
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from schemas.base import ConfigError
from schemas.fleet import FILE, FleetConfig, FleetFolder
from server.fleet.errors import NotConfirmedError
from server.fleet.reach import ELSEWHERE, local

if TYPE_CHECKING:
    from server.fleet.keeper import Keeper
    from server.fleet.registry import Registry

VARIABLE: Final = "FLWR_FLEET"
_SHOWN: Final = 10  # devices that a question names


class Format(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"


Formats = Annotated[Format, typer.Option("--format", help="For people, or for programs.")]
FleetOption = Annotated[
    Path | None,
    typer.Option(
        "--fleet",
        envvar=VARIABLE,
        metavar="FOLDER",
        help="The fleet's folder; left out: this folder, or ./fleet.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")]


class Fleet:
    """A fleet that a command works on.

    Attributes
    ----------
    folder : FleetFolder
    config : FleetConfig
    """

    def __init__(self, where: Path | None) -> None:
        self.folder = FleetFolder(where or _nearest())
        self.config: FleetConfig = self.folder.config()

    def registry(self) -> "Registry":
        """Open the registry; ``with`` closes it."""
        from server.fleet.registry import Registry

        return Registry(self.folder.database(self.config))

    @contextmanager
    def keeper(self) -> "Iterator[Keeper]":
        """Open the registry and the CA; what both must be kept true to."""
        from server.fleet import secret
        from server.fleet.authority import Authority
        from server.fleet.keeper import Keeper

        key = secret.load(self.folder, self.config)
        with self.registry() as registry:
            lifetimes = self.config.lifetimes
            authority = Authority(self.folder, lifetimes, key, registry.clock)
            yield Keeper(self.folder, self.config, registry, authority)


def actor() -> str:
    """Who runs the command, for the audit log."""
    try:
        return f"operator:{os.environ.get('SUDO_USER') or getpass.getuser()}"
    except (KeyError, OSError):
        return f"operator:{os.getuid()}"


def confirm(
    what: str, names: Iterable[str], *, yes: bool, dry_run: bool, of: str = "device"
) -> bool:
    """Say what will happen to whom, and ask; False where it is a dry run.

    Parameters
    ----------
    what : str
        A verb, as in "revoke"; it is followed by how many devices and their names.
    names : iterable of str
    yes, dry_run : bool
        The command's options.
    of : str
        What they are, one of them.

    Raises
    ------
    NotConfirmedError
        Where the answer was no, or nobody is there to ask.
    """
    listed = list(names)
    few = ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")
    line = f"{what}: {len(listed)} {of}{'s' * (len(listed) != 1)} ({few})"
    if dry_run:
        say(f"would {line}; nothing was changed")
        return False
    if yes:
        return True
    if not sys.stdin.isatty():
        raise NotConfirmedError(f"{line}: nobody to ask; say --yes to do it")
    if not typer.confirm(f"{line}. Go on?", err=True):
        raise NotConfirmedError("nothing was changed")
    return True


def check_ranges(command: str, *options: tuple[str, float | None, float, float]) -> None:
    """Refuse options out of their range, all at once; NaN is in none.

    Parameters
    ----------
    command : str
        For the message.
    options : (str, float or None, float, float)
        Each with its value, and the least and most that it may be; None is what was left out.

    Raises
    ------
    ConfigError
    """
    wrong = [
        f"{option}: {value} is not in the range {least} to {most}"
        for option, value, least, most in options
        if value is not None and not least <= value <= most
    ]
    if wrong:
        raise ConfigError(command, wrong)


def answer(value: Any, format_: Format, table: Callable[[], str]) -> bool:
    """Print a result: JSON for programs, else what ``table`` writes; whether it has a reader."""
    if format_ is Format.json:
        import json

        return write(json.dumps(value, indent=2))
    return write(table())


def columns(head: Iterable[str], rows: Iterable[Iterable[object]], none: str = "none") -> str:
    """Lines of columns, as wide as they need to be; ``none`` where there is no row."""
    cells = [[str(cell) for cell in row] for row in rows]
    if not cells:
        return none
    lines = [[word.upper() for word in head], *cells]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell + " " * (most - width(cell)) for cell, most in zip(row, widths, strict=True)
        ).rstrip()
        for row in lines
    )


def width(text: str) -> int:
    """Columns that a text takes on a terminal: a wide character takes two, a combining one none."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return len(text) + wide - sum(unicodedata.combining(each) > 0 for each in text)


def write(text: str) -> bool:
    """Print to standard output; whether somebody reads it.

    A reader that has seen enough, as ``head`` has, is no error: what follows goes nowhere.
    """
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def listened(seconds: float) -> bool:
    """Wait; False, and at once, where the reader of standard output ended."""
    try:
        output = sys.stdout.fileno()
    except OSError:  # no file: a test's, or a notebook's
        time.sleep(seconds)
        return True
    poll = select.poll()
    poll.register(output, 0)  # that nobody reads is told of unasked
    return not poll.poll(1000 * seconds)


def say(text: str) -> None:
    """Print to standard error: what is no result."""
    sys.stderr.write(f"{text}\n")


def next_of(folder: Path) -> str:
    """What to run where a fleet's folder is made."""
    where = f"--fleet {shlex.quote(str(folder))}"
    return f"next: flwr-fleet broker config {where}, and flwr-fleet serve {where}"


def say_local(config: FleetConfig) -> None:
    """Say where no device of another machine can follow what was printed."""
    if found := local(config):
        say(f"{found}; {ELSEWHERE}")


def _nearest() -> Path:
    here = Path.cwd()
    return here / "fleet" if not (here / FILE).exists() and (here / "fleet").is_dir() else here
