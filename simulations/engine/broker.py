"""A broker of this machine's own, on loopback, for demonstrations and rehearsals."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simulations.report.files import RunError

HOST = "127.0.0.1"
_PATIENCE = 10.0  # seconds to begin, and to end
_HOW = "install it (Debian: apt-get install mosquitto)"


def mosquitto() -> str:
    """Where Eclipse Mosquitto is; Debian keeps it out of a user's path.

    Raises
    ------
    RunError
        Where it is not installed.
    """
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise RunError(f"Eclipse Mosquitto is not on this machine: {_HOW}")
    return found


@contextmanager
def local_broker(folder: Path) -> Iterator[int]:
    """Run Mosquitto on a free loopback port, without access control; it is gone afterwards.

    Parameters
    ----------
    folder : Path
        For its configuration and its log.

    Raises
    ------
    RunError
        Where it is not installed or does not start.
    """
    program, port = mosquitto(), _free_port()
    folder.mkdir(parents=True, exist_ok=True)
    user = "user root\n" if os.geteuid() == 0 else ""  # else it may not read the folder
    config = folder / "mosquitto.conf"
    listener = f"listener {port} {HOST}\nallow_anonymous true\nset_tcp_nodelay true\n"
    config.write_text(user + listener)
    with (folder / "mosquitto.log").open("wb") as log:
        process = subprocess.Popen([program, "-c", config], stdout=log, stderr=log)  # noqa: S603
    try:
        _wait(process, port, folder / "mosquitto.log")
        yield port
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.02)
    said = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise RunError(f"mosquitto did not start: {' '.join(said) or 'it said nothing'}; {_HOW}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
