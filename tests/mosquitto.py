"""A real Mosquitto for tests: its own folder, a free loopback port, and nothing left of it."""

import contextlib
import functools
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_FIRST = 10_000  # of the ports that tests take
_TRIES = 5
_PATIENCE = 30.0  # seconds to begin, and to end


def program() -> str | None:
    """Where mosquitto is; Debian keeps it out of a user's path."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A loopback port that nobody listens on, and that no other process of these tests is given.

    Another test would take it else before who asked here binds it; so would a connection that goes
    out, hence none of the ports of those.
    """
    for port in _own_ports():
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


@functools.cache
def _own_ports() -> Iterator[int]:
    """One after the other, from anywhere: another run of the tests may go on beside this one."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    count = len(_ports()) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = _ports()[worker * count :][:count]
    start = secrets.randbelow(count)
    return itertools.cycle([*own[start:], *own[:start]])


def _ports() -> range:
    """Below the ports of outgoing connections, or above them where they begin too low."""
    given = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    low, high = map(int, given.split())
    below, above = range(_FIRST, low), range(max(high + 1, _FIRST), 1 << 16)
    return max(below, above, key=len) or range(_FIRST, 1 << 16)


class Mosquitto:
    """One broker, on the same port in all its lives.

    Parameters
    ----------
    folder : Path
        For its configuration, log and database.
    extra : str
        Lines for the end of its configuration.
    """

    host = "127.0.0.1"

    def __init__(self, folder: Path, extra: str = "") -> None:
        self.folder, self.extra = folder, extra
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; the first time on a free port."""
        assert self._process is None, "it runs already"
        for _ in range(_TRIES if not self.port else 1):
            port = self.port or free_port()
            if self._start(port):
                self.port = port
                return
        raise RuntimeError(f"mosquitto did not start:\n{self.log}")

    def stop(self) -> None:
        """Ask it to end (it saves its database); it is gone then."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, as a power cut does: what it had not saved is lost."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    @property
    def log(self) -> str:
        """What it said."""
        file = self.folder / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def _start(self, port: int) -> bool:
        path = program()
        assert path is not None, "mosquitto is not installed"
        config = self.folder / "mosquitto.conf"
        config.write_text(self._config(port))
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([path, "-c", config], stdout=log, stderr=log)
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            if _listens(port):
                return True
            time.sleep(0.02)
        self._process.kill()
        self._process.wait()
        self._process = None
        return False

    def _config(self, port: int) -> str:
        user = "user root\n" if os.geteuid() == 0 else ""  # else it may not read the folder
        return (
            f"{user}listener {port} {self.host}\nallow_anonymous true\n"
            f"persistence true\npersistence_location {self.folder}/\n{self.extra}\n"
        )

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
        hung = process.poll() is None
        if hung:
            process.kill()
            process.wait()
        assert not hung, "mosquitto did not end when asked"
        assert not _listens(self.port), f"something still listens on port {self.port}"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def running(folder: Path, extra: str = "") -> Iterator[Mosquitto]:
    """A broker for the length of a block."""
    folder.mkdir(parents=True, exist_ok=True)
    broker = Mosquitto(folder, extra)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()
