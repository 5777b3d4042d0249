"""What ``serve`` notes of its own connection to the broker, in the fleet's folder, for commands.

That a broker answers says nothing of whether ``serve`` is connected to it: its certificate may be
refused, or another client may have its name.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from schemas.base import Strict

_BEAT: Final = 10.0  # seconds between notes of which nothing is new
_RECENT: Final = 600.0  # seconds in which lost connections count
_LONGEST: Final = 4096  # bytes of a note


class Hearing(Strict):
    """How it stood when it was noted last.

    Attributes
    ----------
    server : str or None
        Who serves, as ``alone.serving`` says it.
    connected : bool
    since, noted : float
        Unix time of the last change, and of the note.
    why : str
        Why there is no connection, where that is known.
    lost : int
        How often a connection was lost in the last ten minutes.
    """

    server: str | None
    connected: bool
    since: float
    noted: float
    why: str = ""
    lost: int = 0

    @property
    def until(self) -> float:
        """When it was connected last, as far as it is known."""
        return self.noted if self.connected else self.since


def read(path: Path) -> Hearing | None:
    """The note that lies there; None where there is none, or it is no good."""
    try:
        with path.open("rb") as file:
            return Hearing.model_validate_json(file.read(_LONGEST))
    except (OSError, ValidationError):
        return None


class Noter:
    """Keeps a note true, from looks at the link and from what it says.

    Parameters
    ----------
    path : Path
    server : callable() -> str or None
        Who serves now.
    clock : callable() -> float
        Unix time.
    """

    def __init__(
        self, path: Path, server: Callable[[], str | None], clock: Callable[[], float] = time.time
    ) -> None:
        self._path, self._server, self._clock = path, server, clock
        self._why, self._lost = "it has only begun to connect", deque[float]()
        self._last: Hearing | None = None

    def failed(self, reason: str) -> None:
        """Note why there is no connection."""
        self._why = reason[:500]

    def lost(self, reason: str) -> None:
        """Note that one ended."""
        self.failed(reason)
        self._lost.append(self._clock())

    def look(self, *, connected: bool) -> None:
        """Note how it stands now, if that is new or the note is old.

        Raises
        ------
        OSError
        """
        now, last = self._clock(), self._last
        while self._lost and self._lost[0] < now - _RECENT:
            self._lost.popleft()
        why, count = "" if connected else self._why, len(self._lost)
        same = last is not None and (last.connected, last.why, last.lost) == (connected, why, count)
        if last is not None and same and 0 <= now - last.noted < _BEAT:
            return
        since = last.since if last is not None and last.connected == connected else now
        server = last.server if last is not None else self._server()
        note = Hearing(
            server=server, connected=connected, since=since, noted=now, why=why, lost=count
        )
        self._write(note)
        self._last = note

    def end(self) -> None:
        """Note that nobody listens from now on."""
        self.failed("it was stopped")
        with contextlib.suppress(OSError):  # it is told apart by who serves
            self.look(connected=False)

    def _write(self, note: Hearing) -> None:
        """Replace the note; whether it outlives a power cut does not matter."""
        part = self._path.with_name(f"{self._path.name}.part")
        part.write_text(note.model_dump_json(), encoding="utf-8")
        part.replace(self._path)
