"""The daemon's end of the process that learns."""

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

_log = logging.getLogger("flwr_edge.work")
_POLL: Final = 0.1  # seconds between looks at whether to go on
_CHUNK: Final = 65_536
_MEANT: Final = {9: ", as the kernel does where memory ran out"}  # we send it without asking why


class WorkError(RuntimeError):
    """The process ended, or took too long."""


class BusyError(WorkError):
    """Another task is being done; nothing is wrong with this one."""


class Stopped(Exception):  # noqa: N818 (no error: somebody wants the work to end)
    """The work was given up: cancelled, expired, or the daemon stops."""


class Work(Protocol):
    """Does what ``client.messages`` writes; ``WorkProcess`` is one."""

    @property
    def idle(self) -> float:
        """Seconds for which what it holds was not needed."""
        ...

    def ask(
        self, request: dict[str, Any], seconds: float, give_up: Callable[[], bool]
    ) -> dict[str, Any]:
        """Do one."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class WorkProcess:
    """A child that does one task at a time; started when needed, ended when idle.

    Parameters
    ----------
    settings : dict
        What ``client.worker`` reads.
    command : tuple[str, ...], optional
        Another program, for tests.
    """

    def __init__(self, settings: dict[str, Any], command: tuple[str, ...] = ()) -> None:
        self._command = command or (sys.executable, "-P", "-m", "client.worker")
        self._settings = settings
        self._child: subprocess.Popen[bytes] | None = None
        self._last_used = 0.0
        self._lock = threading.RLock()  # one task at a time

    @property
    def pid(self) -> int | None:
        """The child's process id, where there is one."""
        return self._child.pid if self._child else None

    @property
    def idle(self) -> float:
        """Seconds since it last worked; 0 where there is no child."""
        return time.monotonic() - self._last_used if self._child else 0.0

    def ask(
        self,
        request: dict[str, Any],
        seconds: float,
        give_up: Callable[[], bool],
        patience: float = -1,
    ) -> dict[str, Any]:
        """Have a task done.

        Parameters
        ----------
        request : dict
        seconds : float
            The task may take.
        give_up : callable() -> bool
            Looked at several times a second.
        patience : float
            Seconds to wait for another thread's task; for ever where it is negative.

        Raises
        ------
        Stopped
            ``give_up()`` said so; the child is gone.
        WorkError
            It ended by itself or took longer than so many seconds, and is gone too; or it is busy.
        """
        if not self._lock.acquire(timeout=patience):
            raise BusyError("busy with a task; ask again later")
        try:
            return self._asked(request, seconds, give_up)
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the child; what it was doing is lost."""
        with self._lock:
            self._close()

    def _asked(
        self, request: dict[str, Any], seconds: float, give_up: Callable[[], bool]
    ) -> dict[str, Any]:
        child = self._started()
        assert child.stdin is not None
        assert child.stdout is not None
        end = time.monotonic() + seconds
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            answer = b""
            while not answer.endswith(b"\n"):
                _check(seconds, end, give_up)
                if select.select([child.stdout], [], [], _POLL)[0]:
                    answer += self._part(child, child.stdout.fileno())
        except BrokenPipeError:
            raise WorkError(f"the process that learns {self._how_it_ended(child)}") from None
        except BaseException:
            self.close()
            raise
        self._last_used = time.monotonic()
        result: dict[str, Any] = json.loads(answer)
        return result

    def _close(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # bytes that nobody will read
                    pipe.close()

    def _part(self, child: subprocess.Popen[bytes], pipe: int) -> bytes:
        part = os.read(pipe, _CHUNK)
        if not part:
            raise WorkError(f"the process that learns {self._how_it_ended(child)}")
        return part

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is not None:
            self.close()
        if self._child is None:
            self._child = subprocess.Popen(  # noqa: S603 (our own module)
                [*self._command, json.dumps(self._settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,  # Ctrl-C is for the daemon, which ends it
            )
            _log.info("started the process that learns, pid %d", self._child.pid)
        return self._child

    def _how_it_ended(self, child: subprocess.Popen[bytes]) -> str:
        try:
            code = child.wait(1.0)
        except subprocess.TimeoutExpired:
            code = 0
        self.close()
        if code < 0:
            return f"was ended by signal {-code}{_MEANT.get(-code, '')}"
        return f"ended with code {code}; the daemon's log says why"


def _check(seconds: float, end: float, give_up: Callable[[], bool]) -> None:
    if give_up():
        raise Stopped
    if time.monotonic() > end:
        raise WorkError(f"took longer than {seconds:g} s; ended")
