"""Files that people name as outputs: whole or not at all, and nothing else is replaced by them."""

import contextlib
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

from schemas.incoming import sync_folder

# Opened anew, a file that one of them leads to would lose what it holds.
_STREAMS: Final = {"/dev/stdout": 1, "/dev/fd/1": 1, "/dev/stderr": 2, "/dev/fd/2": 2}


class NewFile:
    """What is written to ``file`` takes the place of ``path`` once it is kept.

    Whoever reads ``path``, at any moment and after any crash, finds the old file or the new one.
    A link stays, and what it leads to is replaced. A file that was there hands on its mode, and its
    owner where this user may give files away. What is no plain file, a pipe or ``/dev/stdout``, is
    written to as it is.

    As a context it gives ``file``; it keeps it at the end, and drops it after an exception.

    Parameters
    ----------
    path : Path
    private : bool
        Whether only its owner may read it, whatever was there.

    Attributes
    ----------
    file : BinaryIO

    Raises
    ------
    OSError
        Where it cannot be opened; it names ``path``.
    """

    def __init__(self, path: Path, *, private: bool = False) -> None:
        self._part: Path | None = None
        if str(path) in _STREAMS:
            self.file: BinaryIO = os.fdopen(os.dup(_STREAMS[str(path)]), "wb")
            return
        try:
            facts = path.stat()
        except FileNotFoundError:
            facts = None
        if facts is not None and not stat.S_ISREG(facts.st_mode):
            self.file = path.open("wb")
            return
        self._path = Path(os.path.realpath(path))
        part = self._path.with_name(f".{self._path.name}.{os.urandom(4).hex()}.part")
        mode = 0o600 if private or facts is not None else 0o666
        try:
            opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        self._part, self.file = part, os.fdopen(opened, "wb")
        if facts is not None and not private:
            _hand_on(facts, opened)

    @property
    def unseen(self) -> bool:
        """Whether nobody has seen any of it: what it leads to is no pipe and no stream."""
        return self._part is not None

    def sync(self) -> None:
        """Bring to the disk, or to whoever reads, what was written so far."""
        self.file.flush()
        if self._part is not None:
            os.fsync(self.file.fileno())

    def keep(self) -> None:
        """Put it into place; where that fails the old file stays."""
        try:
            self.sync()
            self.file.close()
            if self._part is not None:
                self._part.replace(self._path)
                sync_folder(self._path.parent)
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Throw it away; what was written to a pipe is gone there."""
        with contextlib.suppress(OSError):  # of a full disk, once more
            self.file.close()
        if self._part is not None:
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> BinaryIO:
        return self.file

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is None:
            self.keep()
        else:
            self.drop()


def _hand_on(facts: os.stat_result, file: int) -> None:
    with contextlib.suppress(OSError):
        os.fchown(file, facts.st_uid, facts.st_gid)
    with contextlib.suppress(OSError):  # it is private until then
        os.fchmod(file, stat.S_IMODE(facts.st_mode) & 0o777)
