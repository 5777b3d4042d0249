"""The parent's handle of one worker process."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from simulations.engine import arena
from simulations.engine.worker import REPLY, REQUEST

_BOOT = """
import json, os, sys
inbox, outbox, link, life, offset, length = map(int, sys.argv[1:])
hello = json.loads(os.pread(inbox, length, offset))
sys.path[:] = hello["path"]
from simulations.engine.worker import main
main(hello, inbox, outbox, link, life)
"""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def hello(app: str, run_config: dict[str, Any]) -> bytes:
    """Return what a worker must know before its first message."""
    path = [entry or str(Path.cwd()) for entry in sys.path]
    return json.dumps({"app": app, "run_config": run_config, "path": path}).encode()


class Reply(NamedTuple):
    """A worker's word on one task, and where in its memory the rest lies."""

    task: int
    slot: int
    place: int
    length: int
    state_length: int
    seconds: float


class WorkerProcess:
    """A fresh interpreter, its socket and the memory it writes replies into.

    Attributes
    ----------
    queue
        Slots and ids of the tasks it was handed and has not answered; it is on the first.
    since
        When it can have begun with the first, as far as the parent has seen.
    """

    def __init__(self, inbox: int, greeting: arena.Block, slots: int) -> None:
        self.queue: deque[tuple[int, int]] = deque()
        self.since = 0.0
        self.ready = False
        self.slots = list(range(slots))
        self._outbox = os.fdopen(os.memfd_create("flwr-edge-replies"), "r+b", buffering=0)
        self.link, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.settimeout(0)
        # The worker dies when the pipe's write end closes, that is, with us. Each has its own pipe:
        # whom the kernel signals is a property of the open pipe, not of the process.
        life, lifeline = os.pipe()
        self._lifeline = os.fdopen(lifeline, "wb", buffering=0)
        fds = (inbox, self._outbox.fileno(), remote.fileno(), life)
        with remote, os.fdopen(life, "rb", buffering=0):
            self._process = subprocess.Popen(  # noqa: S603  our own interpreter, our own code
                [sys.executable, "-c", _BOOT, *map(str, fds + greeting)],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a client prints must not mix with what the command prints
                env=dict.fromkeys(_THREADS, "1") | os.environ,  # else every worker takes all cores
                pass_fds=fds,
                process_group=0,  # Ctrl-C is the parent's to handle
            )

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

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
        return self._process.poll() is None

    def hang_up(self) -> None:
        """Let an idle worker end by itself, and a busy one at once."""
        if self.queue or not self.ready:
            self._process.kill()
        self.link.close()

    def end(self, grace: float) -> str:
        """Wait for the process to end, by force after the grace, and say how it ended."""
        self.link.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self._process.kill()
        code = self._process.wait()
        self._outbox.close()
        self._lifeline.close()
        return f"signal {-code}" if code < 0 else f"exit code {code}"
