"""The worker processes as a group: started, watched, replaced, ended."""

import logging
import os
import selectors
from collections.abc import Iterator

from simulations.engine.arena import Arena
from simulations.engine.worker import FAILED
from simulations.engine.worker_process import WorkerProcess

_log = logging.getLogger(__name__)
_TICK = 1.0  # seconds after which a death that closed no socket is noticed
_STARTS = 3  # workers that may die in a row before they were ready


class WorkerError(RuntimeError):
    """Workers cannot be started: the client app does not import, or the machine ends them."""


class Pool:
    """A fixed number of workers that share one arena.

    Parameters
    ----------
    size
        How many.
    greeting
        What `worker_process.hello` returned.
    slots
        Replies that one worker may have unread.
    """

    def __init__(self, size: int, greeting: bytes, slots: int) -> None:
        self.arena = Arena("flwr-edge-requests")
        self.workers: list[WorkerProcess] = []
        self._greeting = greeting
        self._owner = os.getpid()
        self._slots = slots
        self._deaths = 0
        self._selector = selectors.DefaultSelector()
        try:
            for _ in range(size):
                self._start()
            while not all(worker.ready for worker in self.workers):
                self._await_start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        try:
            worker = WorkerProcess(self.arena.fd, self._greeting, self._slots)
        except OSError as error:
            raise WorkerError(f"no worker can be started: {error}") from error
        self.workers.append(worker)
        self._selector.register(worker.link, selectors.EVENT_READ, worker)

    def _await_start(self) -> None:
        for worker in self.speaking(_TICK):
            try:
                self.greet(worker)
            except EOFError:
                self.replace(worker, grace=1.0)

    def speaking(self, wait: float) -> Iterator[WorkerProcess]:
        """Yield the workers that have something to say, within so many seconds."""
        events = self._selector.select(min(max(wait, 0.0), _TICK))
        if events:
            return iter([key.data for key, _ in events])
        # A client's own child may hold the socket of a dead worker open.
        return iter([worker for worker in self.workers if not worker.running()])

    def greet(self, worker: WorkerProcess) -> None:
        """Take note of a worker's first word.

        Raises
        ------
        WorkerError
            If it says that the client app cannot be imported.
        """
        said = worker.listen()
        if said.startswith(FAILED):
            reason, _, trace = said[1:].decode(errors="replace").partition("\n")
            _log.debug("the client app does not load:\n%s", trace)
            raise WorkerError(f"a worker cannot load the client app: {reason}")
        if said:
            worker.ready = True
            self._deaths = 0

    def replace(self, worker: WorkerProcess, grace: float) -> str:
        """End a worker, start another in its place and say how the first ended.

        Raises
        ------
        WorkerError
            If workers keep dying before they are ready.
        """
        self._selector.unregister(worker.link)
        self.workers.remove(worker)
        how = worker.end(grace)
        self._deaths += not worker.ready
        if self._deaths >= _STARTS:
            raise WorkerError(f"{_STARTS} workers in a row died while they started: {how}")
        _log.warning("worker %d is replaced: it ended with %s", worker.pid, how)
        self._start()
        return how

    def close(self) -> None:
        """End all workers and give back the memory; in a fork of the owner, let go of them."""
        if self._owner == os.getpid():
            for worker in self.workers:
                worker.hang_up()
            for worker in self.workers:
                worker.end(grace=1.0)
        for worker in self.workers:
            worker.forget()
        self.workers.clear()
        self._selector.close()
        self.arena.close()
