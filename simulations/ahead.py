"""Other processes that run a run's strategies meanwhile, from the last one on.

The run itself goes from the first to the last and finds theirs finished. A strategy belongs to who
holds its lock; the lock of a process that ends is free, so that the run takes up what it left.
"""

import fcntl
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from simulations.jobs import GRACE, Job, how_it_ended, share_of
from simulations.progress import Progress

_PLACE = ".jobs"


class Ahead:
    """Processes beside a run; with one job there is none.

    Parameters
    ----------
    folder : Path
        The run's.
    names : Sequence[str]
        Strategies that have no result yet.
    jobs : int
        Strategies to run at once, this process's among them.
    progress : Progress
    """

    def __init__(self, folder: Path, names: Sequence[str], jobs: int, progress: Progress) -> None:
        self._folder, self._progress = folder, progress
        self.jobs = max(1, min(jobs, len(names)))
        self._running: list[_Beside] = []

    def __enter__(self) -> Self:
        self._remove()  # what a killed run left
        if self.jobs > 1:
            place_of(self._folder).mkdir()
        try:
            for number in range(1, self.jobs):
                self._running.append(_Beside(self._folder, number, self.jobs, self._progress))
        except BaseException:
            self._end(early=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end(early=kind is not None)

    @contextmanager
    def claim(self, name: str) -> Iterator[None]:
        """Have a strategy for this process alone, when who runs it is through."""
        if self.jobs == 1:
            yield
            return
        with claimed(self._folder, name) as free:
            if free:
                yield
                return
        self._progress.note(f"{name}: another process is at it")
        with claimed(self._folder, name, wait=True):
            yield

    def _end(self, *, early: bool) -> None:
        if early:  # else they have nothing left to do
            for beside in self._running:
                beside.interrupt()
        for beside in self._running:
            beside.end(GRACE if early else 0)
        self._remove()

    def _remove(self) -> None:
        shutil.rmtree(place_of(self._folder), ignore_errors=True)


class _Beside:
    """One process, and the thread that hears it."""

    def __init__(self, folder: Path, number: int, jobs: int, progress: Progress) -> None:
        self._progress, self._wanted = progress, True
        request = {"folder": str(folder), "number": number, "workers": share_of(jobs)}
        self._job = Job("simulations.run_job", request)
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def interrupt(self) -> None:
        self._wanted = False
        self._job.interrupt()

    def end(self, patience: float) -> None:
        """Kill it after so many seconds; what it wrote until then is whole."""
        self._wanted = False
        self._thread.join(patience)
        self._job.kill()
        self._thread.join()

    def _hear(self) -> None:
        while (events := self._job.read()) is not None:
            for event in events:
                if self._wanted and "note" in event:
                    self._progress.note(event["note"])
        code = self._job.end()
        if self._wanted and code:
            why = self._job.last.get("error") or f"it {how_it_ended(code)}"
            self._progress.note(f"a process beside this one gave up, this one goes on: {why}")


@contextmanager
def claimed(folder: Path, name: str, *, wait: bool = False) -> Iterator[bool]:
    """Hold a strategy's lock, if it is free or when it is; yields whether it is held."""
    with (place_of(folder) / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def place_of(folder: Path) -> Path:
    """Where the processes of a run keep what is gone when it is over."""
    return folder / _PLACE
