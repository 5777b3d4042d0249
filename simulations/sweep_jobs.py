"""Several groups of a sweep's cells at once, each in a process of its own.

A server's part of a run takes one core, so that several runs fill a machine where one does not.
What a cell comes to does not depend on what runs beside it.
"""

import json
import os
import selectors
import signal
import subprocess
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from simulations.data.base import DataError
from simulations.engine.fork_server import command
from simulations.exits import BAD_INPUT
from simulations.progress import Progress, clock
from simulations.report.files import RunError
from simulations.sweep_cells import LoadedSweep, Task, done

_GRACE: Final = 20.0  # seconds in which an interrupted job ends its round and cleans up


def run_jobs(
    groups: Sequence[list[Task]],
    loaded: LoadedSweep,
    folder: Path,
    jobs: int,
    progress: Progress,
) -> Iterator[list[str]]:
    """Run groups, so many at once; after each, say what is wrong with its cells without a result.

    Where the iteration ends early, jobs under way are interrupted.

    Raises
    ------
    RunError, DataError
        What would end a sweep that runs its groups one after the other.
    """
    jobs = min(jobs, len(groups))
    waiting, tally = deque(_by_turns(groups)), _Tally(sum(map(len, groups)), progress)
    with selectors.DefaultSelector() as running:
        try:
            while waiting or running.get_map():
                while waiting and len(running.get_map()) < jobs:
                    job = _Job(waiting.popleft(), loaded, folder, jobs)
                    running.register(job.output, selectors.EVENT_READ, job)
                for key, _ in running.select():
                    if not key.data.read(tally):
                        running.unregister(key.fileobj)
                        yield key.data.result()
        finally:
            _interrupt([key.data for key in running.get_map().values()])


class _Tally:
    """Tells how far the sweep is."""

    def __init__(self, cells: int, progress: Progress) -> None:
        self._cells, self._done, self._progress = cells, 0, progress
        self._began = time.monotonic()

    def hear(self, event: dict[str, Any]) -> None:
        if "note" in event:
            self._progress.note(event["note"])
        elif "done" in event:
            self._done += 1
            left = (time.monotonic() - self._began) / self._done * (self._cells - self._done)
            far = f"{self._done} of {self._cells} cells done, {clock(left)} left"
            self._progress.note(f"{event['done']}: done; {far}")


class _Job:
    """A process that runs one group."""

    def __init__(self, group: list[Task], loaded: LoadedSweep, folder: Path, jobs: int) -> None:
        self._group, self._folder, self._rest = group, folder, b""
        self._last: dict[str, Any] = {}
        request = {
            "file": str(loaded.path),
            "folder": str(folder),
            "cells": [task.key for task in group],
            "workers": max(1, len(os.sched_getaffinity(0)) // jobs),
        }
        self._process = subprocess.Popen(  # noqa: S603  our own interpreter, our own code
            [*command("simulations.sweep_job"), json.dumps(request)],
            stdin=subprocess.PIPE,  # it ends where this does
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C is this process's to handle
        )
        assert self._process.stdout is not None
        self.output = self._process.stdout

    def read(self, tally: _Tally) -> bool:
        """Read what it said; False where it will say no more."""
        said = os.read(self.output.fileno(), 1 << 16)
        *lines, self._rest = (self._rest + said).split(b"\n")
        for line in lines:
            self._last = json.loads(line)
            tally.hear(self._last)
        return bool(said)

    def result(self) -> list[str]:
        """What is wrong with the cells without a result."""
        code = self.end()
        if "failed" in self._last:
            failed: list[str] = self._last["failed"]
            return failed
        if "error" in self._last:
            bad = self._last["code"] == BAD_INPUT
            raise (DataError if bad else RunError)(self._last["error"])
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        left = [task for task in self._group if done(self._folder, task) is None]
        return [f"{task.title}: the process that ran it {how}" for task in left]

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Wait for it; it is killed where that takes too long."""
        with self._process:
            try:
                return self._process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                return self._process.wait()


def _interrupt(jobs: list[_Job]) -> None:
    for job in jobs:
        job.interrupt()
    for job in jobs:
        job.end()


def _by_turns(groups: Sequence[list[Task]]) -> list[list[Task]]:
    """A group of each seed, then another: groups of one seed train the same sources' model."""
    turns: Counter[int] = Counter()
    found = []
    for group in groups:
        seed = group[0].loaded.config.seed
        found.append((turns[seed], group))
        turns[seed] += 1
    return [group for _, group in sorted(found, key=lambda pair: pair[0])]
