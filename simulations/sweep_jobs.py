"""Several groups of a sweep's cells at once, each in a process of its own.

What a cell comes to does not depend on what runs beside it.
"""

import selectors
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from simulations.data.base import DataError
from simulations.exits import BAD_INPUT
from simulations.jobs import Job, how_it_ended, interrupt, share_of
from simulations.progress import Progress, clock
from simulations.report.files import RunError
from simulations.sweep_cells import LoadedSweep, Task, done


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
                    events = key.data.read()
                    if events is None:
                        running.unregister(key.fileobj)
                        yield key.data.result()
                    for event in events or ():
                        tally.hear(event)
        finally:
            interrupt(key.data for key in running.get_map().values())


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


class _Job(Job):
    """A process that runs one group."""

    def __init__(self, group: list[Task], loaded: LoadedSweep, folder: Path, jobs: int) -> None:
        self._group, self._folder = group, folder
        request = {
            "file": str(loaded.path),
            "folder": str(folder),
            "cells": [task.key for task in group],
            "workers": share_of(jobs),
        }
        super().__init__("simulations.sweep_job", request)

    def result(self) -> list[str]:
        """What is wrong with the cells without a result."""
        code = self.end()
        if "failed" in self.last:
            failed: list[str] = self.last["failed"]
            return failed
        if "error" in self.last:
            bad = self.last["code"] == BAD_INPUT
            raise (DataError if bad else RunError)(self.last["error"])
        left = [task for task in self._group if done(self._folder, task) is None]
        how = how_it_ended(code)
        return [f"{task.title}: the process that ran it {how}" for task in left]


def _by_turns(groups: Sequence[list[Task]]) -> list[list[Task]]:
    """A group of each seed, then another: groups of one seed train the same sources' model."""
    turns: Counter[int] = Counter()
    found = []
    for group in groups:
        seed = group[0].loaded.config.seed
        found.append((turns[seed], group))
        turns[seed] += 1
    return [group for _, group in sorted(found, key=lambda pair: pair[0])]
