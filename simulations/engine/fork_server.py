"""A process that has imported what every worker needs, and forks them.

The imports take a second and tens of megabytes; forked workers share both. This is not Python's own
fork server, since that runs the parent's script again in each process, with all that it imports.
"""

import atexit
import contextlib
import errno
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
from io import FileIO
from pathlib import Path

# A worker's process id, or what kept it from being made as a negative errno; later its exit code,
# negative for a signal.
WORD = struct.Struct("<i")
_REQUEST = b"w"
_GRACE = 5.0  # seconds it has to end, of which it may need one to begin
_TRIES = 2  # fork servers that may end before they make a worker
_FDS = 7  # report, inbox, outbox, link, life, standard error, working directory
# What takes long of the workers' imports. Not onnxruntime: its import starts a thread, which a fork
# would lack.
_PRELOADED = ("simulations.engine.worker", "schemas.plan", "client.adapters")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# What is imported stays: to look for garbage in it takes a fifth of a process's start.
_BOOT = """
import gc, json, sys
gc.disable()
sys.path[:] = json.loads(sys.argv[1])
from {module} import main
gc.freeze()
gc.enable()
main()
"""


def search_path() -> list[str]:
    """Where this process finds modules, for another that may start elsewhere."""
    try:
        here = str(Path.cwd())
    except FileNotFoundError:  # the folder is gone, and with it all that was in it
        here = ""
    return [entry or here for entry in sys.path if isinstance(entry, str)]


def command(module: str) -> list[str]:
    """What runs the ``main`` of a module in a process that finds modules as this one does."""
    return [sys.executable, "-c", _BOOT.format(module=module), json.dumps(search_path())]


def environment() -> dict[str, str]:
    """What workers' environment is: ours, and one thread a library, else each takes all cores."""
    return dict.fromkeys(_THREADS, "1") | dict(os.environ)


def _errors() -> FileIO:
    """Where errors go now: nowhere, if 2 is closed or a file that was opened since has taken it."""
    with contextlib.suppress(OSError):
        if os.get_inheritable(2):  # which no file is that Python opens
            return FileIO(os.dup(2), "wb")
    return FileIO(os.devnull, "wb")


class ForkServer:
    """The parent's handle. The process ends with the parent, however that ends."""

    def __init__(self) -> None:
        self._link, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with remote, _errors() as errors:
            self._process = subprocess.Popen(  # noqa: S603  our own interpreter, our own code
                command("simulations.engine.fork_server"),
                stdin=remote.fileno(),  # whatever its number here, there it is 0
                stdout=errors,
                stderr=errors,
                env=environment(),
                process_group=0,  # Ctrl-C is the parent's to handle
            )

    def fork(self, fds: Sequence[int]) -> tuple[int, FileIO] | None:
        """Have a worker made, as `fork_worker` does; None if the process is no longer there."""
        with contextlib.ExitStack() as stack:
            here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, here)
            fate, told = os.pipe()
            report = FileIO(fate)
            stack.enter_context(FileIO(told, "wb"))
            errors = stack.enter_context(_errors())
            with contextlib.suppress(ConnectionError):
                out = [told, *fds, errors.fileno(), here]
                socket.send_fds(self._link, [_REQUEST], out)
        word = report.read(WORD.size)
        pid = WORD.unpack(word)[0] if word else 0
        if pid > 0:
            return pid, report
        report.close()
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return None

    def close(self) -> None:
        """End the process; its workers go on."""
        self._link.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        self._process.kill()
        self._process.wait()

    def disown(self) -> None:
        """In a fork of the parent: leave the process to the parent."""
        self._link.close()
        self._process.returncode = 0  # it is no child of ours, to be waited for


_lock = threading.Lock()
_server: ForkServer | None = None


def fork_worker(fds: Sequence[int]) -> tuple[int, FileIO]:
    """Have this process's fork server make a worker; start one where there is none.

    Parameters
    ----------
    fds
        Inbox, outbox, link and life; the caller may close its copies. In the outbox lie the
        worker's first words, as `worker_process.hello` makes them.

    Returns
    -------
    tuple[int, FileIO]
        The worker's process id, and where its exit code will be. It ends without where the fork
        server ends first.

    Raises
    ------
    OSError
        If no process can be made.
    """
    global _server  # noqa: PLW0603  one a process, as long as the process
    with _lock:
        for _ in range(_TRIES):
            if _server is None:
                _server = ForkServer()
            if made := _server.fork(fds):
                return made
            close()
    raise ChildProcessError(f"their fork server ended {_TRIES} times before it made one")


@atexit.register
def close() -> None:
    """End this process's fork server, if it has one."""
    global _server  # noqa: PLW0603
    if _server is not None:
        _server.close()
        _server = None


def _begin_anew() -> None:
    """In a fork of this process, which needs a server of its own."""
    global _lock, _server  # noqa: PLW0603
    _lock = threading.Lock()  # another thread may have held it, and is not here
    if _server is not None:
        _server.disown()
        _server = None


os.register_at_fork(after_in_child=_begin_anew)


def main() -> None:
    """Fork workers until the parent, at standard input, hangs up. In a worker: run it."""
    link = os.dup(0)
    with FileIO(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the parent may have blocked SIGCHLD
    gc.disable()
    for module in _PRELOADED:
        importlib.import_module(module)
    gc.enable()
    gc.collect()
    gc.freeze()  # else a collection in a worker writes to, and so copies, what is shared
    with socket.socket(fileno=link) as parent:
        made = _Nursery(parent).run()
    if made is not None:
        _work(made)


class _Nursery:
    """Forks, and reports on each worker's own pipe its process id and how it ended."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self._reports: dict[int, int] = {}
        self._ended, self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> list[int] | None:
        """Return a worker's descriptors in a worker, and nothing once the parent is gone."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup)
        while True:
            ready, _, _ = select.select([self._parent.fileno(), self._ended], [], [])
            if self._ended in ready:
                self._reap()
            if self._parent.fileno() in ready:
                data, fds, _, _ = socket.recv_fds(self._parent, len(_REQUEST), _FDS)
                if not data:
                    return None
                for fd in fds:  # recv_fds heeds no flags
                    os.set_inheritable(fd, False)
                if self._fork(fds):
                    return fds[1:]

    def _fork(self, fds: list[int]) -> bool:
        """Return whether this is the worker; only there do the descriptors stay open."""
        # The kernel gives as many descriptors as there is room for.
        pid = _fork() if len(fds) == _FDS else -errno.EMFILE
        report, *others = fds
        if not pid:
            self._leave(report)
            return True
        _tell(report, pid)
        if pid > 0:
            self._reports[pid] = report
        for fd in others if pid > 0 else fds:
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


def _fork() -> int:
    """Fork; where that fails, return the errno, negative."""
    try:
        return os.fork()
    except OSError as error:
        return -(error.errno or errno.EAGAIN)


def _tell(report: int, word: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody wants to know any more
        os.write(report, WORD.pack(word))


def _work(fds: list[int]) -> None:
    """Be a worker, in the parent's place and surroundings as they are now."""
    from simulations.engine import arena, worker

    inbox, outbox, link, life, errors, here = fds
    os.dup2(errors, 1)  # what a client prints must not mix with what the command prints
    os.dup2(errors, 2)
    os.fchdir(here)
    os.close(errors)
    os.close(here)
    hello = json.loads(arena.read(outbox, 0, os.fstat(outbox).st_size))
    sys.path[:] = hello["path"]
    os.environ.clear()
    os.environ.update(hello["environment"])
    if numbers := sys.modules.get("numpy.random"):  # numpy 1 imports it; its state is of the fork
        numbers.seed()
    worker.main(hello, inbox, outbox, link, life)
