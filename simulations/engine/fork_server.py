"""A process that has imported what every worker needs, and forks them.

The imports take a second and tens of megabytes; forked workers share both. This is not Python's own
fork server, since that runs the parent's script again in each process, with all that it imports.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from simulations.engine.arena import Block

WORD = struct.Struct("<i")  # a worker's process id, then its exit code, negative for a signal
_REQUEST = struct.Struct("<QQ")  # where the greeting lies in the inbox
_GRACE = 5.0  # seconds it has to end, of which it may need one to begin
_FDS = 7  # inbox, outbox, link, life, standard error, working directory, report
# What takes long of the workers' imports. Not onnxruntime: its import starts a thread, which a fork
# would lack.
_PRELOADED = ("simulations.engine.worker", "schemas.plan", "client.adapters")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_BOOT = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from simulations.engine.fork_server import main
main(int(sys.argv[1]))
"""


def search_path() -> list[str]:
    """Where this process finds modules, for another that may start elsewhere."""
    return [entry or str(Path.cwd()) for entry in sys.path]


def environment() -> dict[str, str]:
    """What workers' environment is: ours, and one thread a library, else each takes all cores."""
    return dict.fromkeys(_THREADS, "1") | dict(os.environ)


class ForkServer:
    """The parent's handle. The process ends with the parent, however that ends."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._link, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [sys.executable, "-c", _BOOT, str(remote.fileno()), json.dumps(search_path())]
        with remote:
            self._process = subprocess.Popen(  # noqa: S603  our own interpreter, our own code
                words,
                stdin=subprocess.DEVNULL,
                stdout=2,
                env=environment(),
                pass_fds=[remote.fileno()],
                process_group=0,  # Ctrl-C is the parent's to handle
            )

    def alive(self) -> bool:
        """Whether it is there, and this process's: a fork of the parent needs its own."""
        return self._owner == os.getpid() and self._process.poll() is None

    def fork(self, greeting: Block, fds: Sequence[int]) -> None:
        """Have a worker made. Should the process just have died, the worker is never heard of."""
        here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            with contextlib.suppress(ConnectionError):
                message = [_REQUEST.pack(*greeting)]
                socket.send_fds(self._link, message, [*fds[:-1], 2, here, fds[-1]])
        finally:
            os.close(here)

    def close(self) -> None:
        """End the process; its workers go on."""
        self._link.close()
        if self._owner == os.getpid():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
            self._process.kill()
            self._process.wait()


_lock = threading.Lock()
_server: ForkServer | None = None


def fork_worker(greeting: Block, fds: Sequence[int]) -> None:
    """Have this process's fork server make a worker; start one where there is none.

    Parameters
    ----------
    greeting
        Where in the inbox the worker's first words lie, as `worker_process.hello` makes them.
    fds
        Inbox, outbox, link, life, and where to report; the caller may close its copies.
    """
    global _server  # noqa: PLW0603  one a process, as long as the process
    with _lock:
        if _server is None or not _server.alive():
            close()
            _server = ForkServer()
        _server.fork(greeting, fds)


@atexit.register
def close() -> None:
    """End this process's fork server, if it has one."""
    global _server  # noqa: PLW0603
    if _server is not None:
        _server.close()
        _server = None


def main(link: int) -> None:
    """Fork workers until the parent hangs up. In a worker: run it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in _PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # else a collection in a worker writes to, and so copies, what is shared
    with socket.socket(fileno=link) as parent:
        made = _Nursery(parent).run()
    if made is not None:
        _work(*made)


class _Nursery:
    """Forks, and reports on each worker's own pipe its process id and how it ended."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self._reports: dict[int, int] = {}
        self._ended, self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> tuple[Block, list[int]] | None:
        """Return what a worker is to know in a worker, and nothing once the parent is gone."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup)
        while True:
            ready, _, _ = select.select([self._parent.fileno(), self._ended], [], [])
            if self._ended in ready:
                self._reap()
            if self._parent.fileno() in ready:
                data, fds, _, _ = socket.recv_fds(self._parent, _REQUEST.size, _FDS)
                if not data:
                    return None
                if self._fork(fds):
                    return Block(*_REQUEST.unpack(data)), fds

    def _fork(self, fds: list[int]) -> bool:
        """Return whether this is the worker; only there do the descriptors stay open."""
        report = fds.pop()
        pid = os.fork()
        if not pid:
            self._leave(report)
            return True
        self._reports[pid] = report
        _tell(report, pid)
        for fd in fds:
            os.close(fd)
        return False

    def _leave(self, report: int) -> None:
        """In a worker: let go of what is the fork server's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setpgid(0, 0)
        for fd in (self._ended, self._wakeup, report, *self._reports.values()):
            os.close(fd)

    def _reap(self) -> None:
        os.read(self._ended, 4096)
        while self._reports:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            report = self._reports.pop(pid)
            _tell(report, os.waitstatus_to_exitcode(status))
            os.close(report)


def _tell(report: int, word: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody wants to know any more
        os.write(report, WORD.pack(word))


def _work(greeting: Block, fds: list[int]) -> None:
    """Be a worker, in the parent's place and surroundings as they are now."""
    from simulations.engine import worker

    inbox, outbox, link, life, errors, here = fds
    os.dup2(errors, 1)  # what a client prints must not mix with what the command prints
    os.dup2(errors, 2)
    os.fchdir(here)
    os.close(errors)
    os.close(here)
    hello = json.loads(os.pread(inbox, greeting.length, greeting.offset))
    sys.path[:] = hello["path"]
    os.environ.clear()
    os.environ.update(hello["environment"])
    worker.main(hello, inbox, outbox, link, life)
