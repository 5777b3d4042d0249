"""Processes of our own that run simulations beside this one.

A server's part of a run takes one core, so that several fill a machine where one does not.
``simulations.job`` is their end.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterable
from typing import Any, Final

from simulations.engine.fork_server import command

GRACE: Final = 20.0  # seconds in which an interrupted job ends its round and cleans up


def share_of(jobs: int) -> int:
    """Worker processes of each of so many runs at once: its share of the cores."""
    return max(1, len(os.sched_getaffinity(0)) // jobs)


class Job:
    """One of them. It ends where this process does, however that ends.

    Parameters
    ----------
    module : str
        Whose ``main`` it runs.
    request : dict
        What to do; JSON.
    """

    def __init__(self, module: str, request: dict[str, Any]) -> None:
        self.last: dict[str, Any] = {}
        self._rest = b""
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until it can answer
        try:
            self._process = subprocess.Popen(  # noqa: S603  our own interpreter, our own code
                [*command(module), json.dumps(request)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,  # Ctrl-C is this process's to handle
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        assert self._process.stdout is not None
        self.output = self._process.stdout

    def read(self) -> list[dict[str, Any]] | None:
        """What it told since; None where it will tell no more."""
        said = os.read(self.output.fileno(), 1 << 16)
        if not said:
            return None
        *lines, self._rest = (self._rest + said).split(b"\n")
        events = [json.loads(line) for line in lines]
        self.last = events[-1] if events else self.last
        return events

    def interrupt(self) -> None:
        """Have it end as Ctrl-C would; nothing where it has ended."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it at once; nothing where it has ended."""
        self._process.kill()

    def end(self) -> int:
        """Wait for it; it is killed where that takes too long."""
        with self._process:
            try:
                return self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                return self._process.wait()


def interrupt(jobs: Iterable[Job]) -> None:
    """Have jobs end, and wait for it."""
    jobs = list(jobs)
    for job in jobs:
        job.interrupt()
    for job in jobs:
        job.end()


def how_it_ended(code: int) -> str:
    """What an exit code says."""
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
