"""Mosquitto for a measurement, and as much of a server as it takes to have a daemon learn."""

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from schemas import wire
from schemas.link import Message, PahoLink
from schemas.payload import Payload
from schemas.payload_object import pack

HOST: Final = "127.0.0.1"
_PATIENCE: Final = 10.0  # seconds to begin, and to end


@contextmanager
def broker(folder: Path) -> Iterator[int]:
    """Run Mosquitto on a free loopback port; it is gone afterwards.

    Raises
    ------
    RuntimeError
        Where it is not installed or does not start.
    """
    program = shutil.which("mosquitto") or shutil.which(
        "mosquitto", path="/usr/sbin:/usr/local/sbin"
    )
    if program is None:
        raise RuntimeError(
            "Eclipse Mosquitto is not on this machine: install it (Debian: apt-get install "
            "mosquitto)"
        )
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    user = "user root\n" if os.geteuid() == 0 else ""  # else it may not read the folder
    config = folder / "mosquitto.conf"
    config.write_text(f"{user}listener {port} {HOST}\nallow_anonymous true\n", encoding="utf-8")
    with (folder / "mosquitto.log").open("wb") as log:
        process = subprocess.Popen([program, "-c", config], stdout=log, stderr=log)  # noqa: S603
    try:
        _wait(process, port)
        yield port
    finally:
        ended(process, _PATIENCE)


def ended(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask a process to end, and see to it."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.kill()
    process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"mosquitto did not start on port {port} of {HOST}")


class Asker:
    """Sends tasks to one device; takes its word that they are done, and fetches nothing.

    Parameters
    ----------
    port : int
    device : str
    """

    def __init__(self, port: int, device: str) -> None:
        self.device = device
        self.online_at: float | None = None
        self._objects: dict[str, bytes] = {}
        self._ended: dict[str, wire.Result | wire.Failed] = {}
        self._change = threading.Condition()
        self._link = PahoLink(HOST, port, "flwr-footprint")
        self._link.on_message = self._on_message
        for kind in ("evt", "obj/req", "state"):
            self._link.subscribe(wire.topic(device, kind))

    def __enter__(self) -> "Asker":
        """Connect."""
        self._link.connect()
        if not self._link.wait_connected(_PATIENCE):
            raise RuntimeError("no connection to the broker that was started")
        return self

    def __exit__(self, *_: object) -> None:
        """Say goodbye."""
        self._link.close()

    def wait_online(self, seconds: float) -> float:
        """Wait for the device's state; the moment (monotonic) at which it came."""
        self._until(lambda: self.online_at is not None, seconds, "the daemon did not connect")
        assert self.online_at is not None
        return self.online_at

    def ask(self, action: str, payload: Payload, seconds: float) -> float:
        """Have a task done; the seconds that it took.

        Raises
        ------
        RuntimeError
            Where the device failed, or took longer than so many seconds.
        """
        body, others = pack(payload)
        references = tuple(self._put(other) for other in others.values())
        task = wire.Task(
            run="footprint", action=action, payload=self._put(body), objects=references
        )
        envelope = wire.envelope(task, ttl=seconds)
        began = time.monotonic()
        self._tell(envelope)
        self._until(lambda: envelope.id in self._ended, seconds, f"{action} came to no end")
        said = self._ended[envelope.id]
        took = time.monotonic() - began
        if said.kind == "failed":
            raise RuntimeError(f"{action}: the daemon said: {said.reason}")
        received = wire.Received(object=said.payload.sha256)
        self._tell(wire.envelope(received, ttl=60, re=envelope.id))
        return took

    def _put(self, data: bytes) -> wire.ObjectRef:
        reference = wire.ObjectRef(sha256=sha256(data).hexdigest(), bytes=len(data))
        self._objects[reference.sha256] = data
        return reference

    def _tell(self, envelope: wire.Envelope) -> None:
        self._link.publish(wire.topic(self.device, "cmd"), wire.encode(envelope))

    def _until(self, there: Any, seconds: float, otherwise: str) -> None:
        with self._change:
            if not self._change.wait_for(there, seconds):
                raise RuntimeError(f"{otherwise} within {seconds:g} s")

    def _on_message(self, message: Message) -> None:
        now = time.monotonic()
        if not message.payload:
            return
        envelope = wire.decode(message.payload)
        body = envelope.body
        with self._change:
            if isinstance(body, wire.State) and body.online:
                self.online_at = self.online_at or now
            elif isinstance(body, wire.Want):
                self._send(body)
            elif isinstance(body, wire.Result | wire.Failed) and envelope.re:
                self._ended[envelope.re] = body
            self._change.notify_all()

    def _send(self, want: wire.Want) -> None:
        data = self._objects[want.object.sha256]
        for number in want.numbers():
            part = data[number * wire.CHUNK : (number + 1) * wire.CHUNK]
            frame = wire.frame(want.object.sha256, number, part)
            self._link.publish(wire.topic(self.device, "obj/data"), frame, qos=0)
