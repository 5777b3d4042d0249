"""A real PostgreSQL for tests: one server a session, on a free loopback port, gone at its end."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import create_engine, text

from tests.mosquitto import free_port

_PATIENCE = 60.0


def programs() -> Path | None:
    """The folder of its programs; Debian keeps them out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    here = shutil.which("initdb")
    return found[-1].parent if found else Path(here).parent if here else None


class Postgres:
    """A server; it refuses to run as root, so it runs as another user where the tests do."""

    def __init__(self, folder: Path, bin_: Path) -> None:
        self._folder, self._bin, self._count = folder, bin_, 0
        self._user = _other_user()
        self.port = free_port()
        if self._user is not None:
            shutil.chown(folder, self._user)
        self._run("initdb", "-A", "trust", "-U", "tests", "-E", "UTF8", "--locale=C", "--no-sync")
        self.start()

    def start(self) -> None:
        """Start it; again, where it was stopped."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "shared_buffers": "16MB",
            "max_connections": 60,
        }
        words = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._folder / "data", *words],
                stdout=log,
                stderr=log,
                user=self._user,
                cwd="/",
            )
        self._wait()

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://tests@127.0.0.1:{self.port}/{name}"

    def new(self, template: str = "template1", name: str = "") -> str:
        """Make a database; its URL."""
        self._count += 1
        name = name or f"test{self._count}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def sql(self, line: str) -> None:
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(line))
        engine.dispose()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)  # "fast": it throws its clients out
        self._process.wait(_PATIENCE)

    def _run(self, program: str, *words: str) -> None:
        command = [self._bin / program, "-D", self._folder / "data", *words]
        done = subprocess.run(command, check=False, capture_output=True, user=self._user, cwd="/")
        assert not done.returncode, done.stderr.decode()

    def _wait(self) -> None:
        end = time.monotonic() + _PATIENCE
        while self._process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(Exception):
                return self.sql("SELECT 1")
            time.sleep(0.1)
        raise AssertionError((self._folder / "log").read_text(errors="replace"))


def _other_user() -> str | None:
    if os.geteuid():
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


@contextlib.contextmanager
def running(bin_: Path) -> Iterator[Postgres]:
    """A server for the length of a block."""
    with tempfile.TemporaryDirectory(prefix="flwr-pg-", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder), bin_)
        try:
            yield server
        finally:
            server.stop()
