"""A broker of this machine's own, on loopback, for demonstrations and rehearsals."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from simulations.report.files import RunError

HOST = "127.0.0.1"
_PATIENCE = 10.0  # seconds to begin, and to end
_HOW = "install Eclipse Mosquitto (Debian: apt-get install mosquitto), or pip install iotcore"
_EMBEDDED = """\
id = 0
[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5"
listen = "{host}:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 100
dynamic_filters = true
"""


def mosquitto() -> str | None:
    """Where Eclipse Mosquitto is, if anywhere; Debian keeps it out of a user's path."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def local_broker(folder: Path) -> Iterator[int]:
    """Run a broker on a free loopback port, without access control; it is gone afterwards.

    Mosquitto where it is installed, else the one that the package ``iotcore`` carries.

    Parameters
    ----------
    folder : Path
        For its configuration and its log.

    Raises
    ------
    RunError
        Where there is none or it does not start.
    """
    port = _free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = _command(folder, port)
    with (folder / "broker.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)  # noqa: S603
    try:
        _wait(process, port, folder / "broker.log")
        yield port
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
        process.kill()
        process.communicate()


def _command(folder: Path, port: int) -> list[str]:
    program, config = mosquitto(), folder / "broker.conf"
    if program is not None:
        user = "user root\n" if os.geteuid() == 0 else ""  # else it may not read the folder
        listener = f"listener {port} {HOST}\nallow_anonymous true\nset_tcp_nodelay true\n"
        config.write_text(user + listener)
        return [program, "-c", str(config)]
    if find_spec("iotcore") is None:
        raise RunError(f"there is no MQTT broker on this machine: {_HOW}")
    config = config.with_suffix(".toml")
    config.write_text(_EMBEDDED.format(host=HOST, port=port))
    start = "import sys, iotcore; iotcore.IotCoreBroker(config_path=sys.argv[1]).run_forever()"
    return [sys.executable, "-P", "-c", start, str(config)]


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.02)
    said = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise RunError(f"the broker did not start: {' '.join(said) or 'it said nothing'}; {_HOW}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
