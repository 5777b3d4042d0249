"""``flwr-fleet serve`` as a process."""

import os
import subprocess
import sys
from typing import Any, Final

from schemas.fleet import FleetFolder

_MAIN: Final = """
import atexit
atexit.register(print, 'at exit')
from server.cli import main
main()
"""


class Process:
    """One that listens, and what it said."""

    def __init__(self, folder: FleetFolder) -> None:
        self.said: list[str] = []
        words = [sys.executable, "-c", _MAIN, "serve", "--port", "0", "--fleet", str(folder.root)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(words, env=environment, text=True, **pipes)

    def listening(self) -> "Process":
        for line in self.process.stdout:
            self.said.append(line)
            if "Uvicorn running" in line:
                return self
        raise AssertionError("".join(self.said))

    def ended(self) -> tuple[int, str]:
        """The exit code, and what was said."""
        rest, _ = self.process.communicate(timeout=60)
        return self.process.returncode, "".join(self.said) + rest
