"""The parent's handle of one worker process."""

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator
from io import FileIO
from typing import Any, NamedTuple

from simulations.engine import arena
from simulations.engine.fork_server import WORD, environment, fork_worker, search_path
from simulations.engine.worker import REPLY, REQUEST

_PATIENCE = 5.0  # seconds after which a fork server that says nothing of a killed worker is stuck


def hello(app: str, run_config: dict[str, Any]) -> bytes:
    """Return what a worker must know before its first message."""
    around = {"path": search_path(), "environment": environment()}
    return json.dumps({"app": app, "run_config": run_config, **around}).encode()


class Reply(NamedTuple):
    """A worker's word on one task, and where in its memory the rest lies."""

    task: int
    slot: int
    place: int
    length: int
    state_length: int
    seconds: float


class WorkerProcess:
    """A process that the fork server made, its socket and the memory it writes replies into.

    Attributes
    ----------
    pid
        Its process id.
    queue
        Slots and ids of the tasks it was handed and has not answered; it is on the first.
    since
        When it can have begun with the first, as far as the parent has seen.
    """

    def __init__(self, inbox: int, greeting: bytes, slots: int) -> None:
        self.queue: deque[tuple[int, int]] = deque()
        self.since = 0.0
        self.ready = False
        self.slots = list(range(slots))
        self._outbox = FileIO(os.memfd_create("flwr-edge-replies"), "r+b")
        arena.write(self._outbox.fileno(), [greeting], 0)  # until its first reply takes the place
        self.link, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.settimeout(0)
        # The worker dies when the pipe's write end closes, that is, with us. Each has its own pipe:
        # whom the kernel signals is a property of the open pipe, not of the process.
        life, lifeline = os.pipe()
        self._lifeline = FileIO(lifeline, "wb")
        self._code: int | None = None
        self._ended = False
        with remote, FileIO(life):
            fds = (inbox, self._outbox.fileno(), remote.fileno(), life)
            self.pid, self._report = fork_worker(fds)

    def send(self, task: int, block: arena.Block, state_length: int) -> bool:
        """Hand the worker a task; False if it is no longer there."""
        slot = self.slots.pop()
        request = REQUEST.pack(task, slot, block.offset, block.length - state_length, state_length)
        try:
            self.link.send(request)
        except OSError:
            self.slots.append(slot)
            return False
        if not self.queue:
            self.since = time.monotonic()
        self.queue.append((task, slot))
        return True

    def listen(self) -> bytes:
        """Return the last of what the worker said, nothing if it has not spoken.

        Raises
        ------
        EOFError
            If it is gone.
        """
        said = b""
        try:
            while data := self.link.recv(1 << 14):
                said = data
        except BlockingIOError:
            if said or self.running():
                return said
        except ConnectionError:
            pass
        if said:  # its last words; the next call finds it gone
            return said
        raise EOFError

    def replies(self) -> Iterator[Reply]:
        """Take the finished tasks off the queue."""
        while self.queue:
            task, slot = self.queue[0]
            place = slot * arena.STRIDE
            data = self.read(place, REPLY.size)
            if len(data) < REPLY.size or data[:8] != task.to_bytes(8, "little"):
                return
            self.queue.popleft()
            self.since = time.monotonic()
            _, length, state_length, seconds = REPLY.unpack(data)
            yield Reply(task, slot, place + REPLY.size, length, state_length, seconds)

    def read(self, offset: int, length: int) -> bytes:
        """Read from the memory that the worker writes its replies into."""
        return arena.read(self._outbox.fileno(), offset, length)

    def running(self) -> bool:
        """Return whether the process is still there."""
        return not self._has_ended(0.0)

    def hang_up(self) -> None:
        """Let an idle worker end by itself, and a busy one at once."""
        if (self.queue or not self.ready) and self.running():
            self._kill()
        self.link.close()

    def end(self, grace: float) -> str:
        """Wait for the process to end, by force after the grace, and say how it ended."""
        self.link.close()
        if not self._has_ended(grace):
            self._kill()
            self._has_ended(_PATIENCE)
        self.forget()
        if self._code is None:
            return "its fork server"
        return f"signal {-self._code}" if self._code < 0 else f"exit code {self._code}"

    def forget(self) -> None:
        """Let go of the worker, which may be another process's."""
        self.link.close()
        for file in (self._outbox, self._lifeline, self._report):
            file.close()

    def _has_ended(self, seconds: float) -> bool:
        """Wait so long for the process to end; without a fork server it has to."""
        if not self._ended and _readable(self._report.fileno(), seconds):
            self._ended = True
            if word := self._report.read(WORD.size):
                (self._code,) = WORD.unpack(word)
            else:
                self._kill()
        return self._ended

    def _kill(self) -> None:
        self._lifeline.close()  # ends it even while it is only being made
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _readable(fd: int, seconds: float) -> bool:
    poll = select.poll()  # unlike select.select it takes any descriptor
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
