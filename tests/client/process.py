"""A real daemon in a process of its own."""

import contextlib
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

from schemas.payload import Payload
from tests.client import handmade

DEVICE, NUMBER = "pi-1", 3


def install(hub) -> dict[str, str]:
    """Install the graphs written by hand; their digests."""
    made = {name: getattr(handmade, name)() for name in ("step", "statistics", "forward")}
    digests = {name: sha256(data).hexdigest() for name, data in made.items()}
    config = {digest: made[name] for name, digest in digests.items()}
    hub.answered(hub.task("query.install", Payload(config={"graphs": config})))
    return digests


class Process:
    """``flwr-edge run``, as a person starts it."""

    def __init__(self, folder, port) -> None:
        self.folder = folder
        self.config = folder / "pi.toml"
        self.config.write_text(
            f'device = "{DEVICE}"\nnumber = {NUMBER}\nstate = "state"\n'
            f'[broker]\nhost = "127.0.0.1"\nport = {port}\n[windows]\nfolder = "windows"\n'
        )
        self.child = None
        self.log = (folder / "log").open("ab")

    def start(self) -> None:
        command = [sys.executable, "-m", "client.cli", "run", "--config", str(self.config)]
        command += ["--socket", str(self.folder / "s")]
        self.child = subprocess.Popen(command, stderr=self.log)

    def end(self, how=signal.SIGKILL) -> float:
        began = time.monotonic()
        self.child.send_signal(how)
        self.child.wait(10)
        return time.monotonic() - began

    def said(self) -> str:
        return (self.folder / "log").read_text()

    def learning(self) -> bool:
        """Whether a process that learns for it is there."""
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                lines.append(path.read_bytes().decode(errors="replace"))
        return any("client.worker" in line and str(self.folder) in line for line in lines)
