"""The file of claims that ``device import`` writes: those that were made, and no others."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import SQLAlchemyError

from schemas.address import host_port
from schemas.base import ConfigError
from schemas.new_file import NewFile
from server.fleet import claims
from server.fleet.commands.options import say, say_local

if TYPE_CHECKING:
    from schemas.enrolment import ClaimText
    from server.fleet.keeper import Keeper

_HEAD: Final = b"device,claim,url\n"


class ClaimsFile:
    """Claims, a line each, written in parts.

    The file is opened before anything is changed, and a part is written within the transaction that
    makes its claims: where it cannot be, no claim is made that nobody knows.

    Parameters
    ----------
    out : Path
        A file, or a pipe.
    keeper : Keeper

    Raises
    ------
    ConfigError
        Where ``out`` is a folder.
    OSError
        Where it cannot be opened.
    """

    def __init__(self, out: Path, keeper: "Keeper") -> None:
        if out.is_dir():
            raise ConfigError(str(out), ["is a folder; name a file"])
        self._out, self._keeper = out, keeper
        self._parts: list[bytes] = []  # that were written
        self._last = ""  # a claim of the last of them
        self._whole = True  # the file holds them and nothing else
        self._open()

    def _open(self) -> None:
        self._file = NewFile(self._out, private=True)
        self._file.file.write(_HEAD)

    def write(self, names: list[str], made: "list[ClaimText]") -> None:
        """Write a part to the disk, or to whoever reads."""
        from schemas.enrolment import enrol_url

        place = self._keeper.config.server
        server = host_port(place.host, place.port)
        pairs = zip(names, made, strict=True)
        lines = (f"{name},{claim},{enrol_url(server, claim)}\n" for name, claim in pairs)
        part = "".join(lines).encode()
        self._whole = False
        self._file.file.write(part)
        self._file.sync()
        self._whole = True
        self._parts.append(part)
        self._last = made[-1].id

    def keep(self) -> None:
        """Put it into place, without claims that were not made; a pipe has got them."""
        if self._parts and not self._made():
            self._parts.pop()
            self._whole = False
        if not self._whole and self._file.unseen:
            # What was left over of a full disk stands in its buffer: begin anew, in its room.
            self._file.drop()
            self._open()
            self._file.file.writelines(self._parts)
        self._file.keep()
        say(f"wrote {self._out}: whoever reads it can enroll these names")
        say_local(self._keeper.config)

    def drop(self) -> None:
        """Throw it away."""
        self._file.drop()

    def _made(self) -> bool:
        """Whether the last part's claims are there; where the database is away, they may be."""
        try:
            with self._keeper.registry.read() as db:
                return claims.exists(db, self._last)
        except (SQLAlchemyError, OSError):
            return True


@contextmanager
def claims_file(
    out: Path | None, keeper: "Keeper", done: Sequence[object]
) -> "Iterator[ClaimsFile | None]":
    """Give the file, if one is wanted; it stays where something is ``done``: was committed."""
    if out is None:
        yield None
        return
    file = ClaimsFile(out, keeper)
    try:
        yield file
    finally:
        if done:
            file.keep()
        else:
            file.drop()
