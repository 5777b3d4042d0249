"""Who runs what: hands clients to workers, takes replies, and survives what goes wrong."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import Error, Message, RecordDict

from server.flower_private import (
    CLIENT_CRASHED,
    CLIENT_RAISED,
    assign_id,
    metadata_fields,
    rebuild,
)
from simulations.engine import codec
from simulations.engine.arena import Block
from simulations.engine.pool import Pool
from simulations.engine.tasks import Task, TaskQueue
from simulations.engine.worker_process import Reply, WorkerProcess

DEPTH = 16  # tasks a worker may hold, so that neither side need be awake for each of the other's
_AHEAD = 0.005  # seconds of work it may hold; with more, one worker is busy while others are done

_log = logging.getLogger(__name__)


class Dispatcher:
    """Runs messages on a pool; makes progress while `pump` is called.

    Messages wait here and not at a worker: each is handed a few milliseconds of work, or two
    clients as long as there are plenty, so that none starves and all finish together.

    Attributes
    ----------
    states
        Each node's client state, where it is not empty.
    done
        Replies by the id of the message they answer, until somebody takes them.
    """

    def __init__(self, pool: Pool, nodes: Mapping[int, dict[str, Any]], timeout: float) -> None:
        self.states: dict[int, bytes] = {}
        self.done: dict[str, Message] = {}
        self.queue = TaskQueue(pool.arena)
        self._pool = pool
        self._nodes = nodes
        self._timeout = timeout
        self._running: dict[int, Task] = {}
        self._seconds = _AHEAD  # what a client takes, a moving average; first, one at a time

    def withdraw(self, message_ids: set[str]) -> None:
        """Give messages up: those that no worker has are not run, and no reply is kept."""
        self.queue.withdraw(message_ids)
        for task in self._running.values():
            task.wanted = task.wanted and task.message_id not in message_ids
        for message_id in message_ids & self.done.keys():
            del self.done[message_id]

    def pump(self, wait: float) -> None:
        """Hand out work and take replies, waiting at most so many seconds for one."""
        self._feed(self._pool.workers)
        speaking = list(self._pool.speaking(self._until_deadline(wait)))
        for worker in speaking:
            self._hear(worker)
        if not speaking:  # a worker says nothing while a long client follows short ones
            for worker in self._pool.workers:
                self._collect(worker)
        for worker in list(self._pool.workers):
            if self._overdue(worker):
                self._collect(worker)
                if self._overdue(worker):
                    self._lose(worker, f"timed out after {self._timeout:g} s", grace=0.0)

    def _overdue(self, worker: WorkerProcess) -> bool:
        return bool(worker.queue) and time.monotonic() - worker.since > self._timeout

    def _hear(self, worker: WorkerProcess) -> None:
        try:
            if worker.ready:
                worker.listen()
                self._collect(worker)
            else:
                self._pool.greet(worker)
        except EOFError:
            self._collect(worker)
            self._lose(worker, "worker died with", grace=1.0)

    def _until_deadline(self, wait: float) -> float:
        since = [worker.since for worker in self._pool.workers if worker.queue]
        if not since:
            return wait
        return min(wait, min(since) + self._timeout - time.monotonic())

    def _feed(self, workers: Sequence[WorkerProcess]) -> None:
        """Fill the workers' queues, in turns so that all begin at once."""
        plenty = len(self.queue.ready) > 2 * len(self._pool.workers)
        depth = min(DEPTH, max(1 + plenty, int(_AHEAD / self._seconds)))
        hungry = [w for w in workers if w.ready and len(w.queue) <= depth // 2]
        while hungry and self.queue.ready:
            hungry = [w for w in hungry if self._hand_out(w) and len(w.queue) < depth]

    def _hand_out(self, worker: WorkerProcess) -> bool:
        ready = self.queue.ready
        if not ready:
            return False
        task = ready[0]
        state = self.states.get(task.node, b"")
        if task.block is None:
            task.block = self._write(task, state)
        if not worker.send(task.number, task.block, len(state)):
            return False  # it has just died; its socket will say so
        self._running[task.number] = ready.popleft()
        return True

    def _write(self, task: Task, state: bytes) -> Block:
        head = {"metadata": metadata_fields(task.message), "node_config": self._nodes[task.node]}
        parts = codec.encode(task.message.content, head, self.queue.shared.find)
        return self._pool.arena.put([*parts, state])

    def _collect(self, worker: WorkerProcess) -> None:
        replies = list(worker.replies())
        self._feed([worker])  # so that it does not wait while we read
        for reply in replies:
            self._take(worker, reply)
            worker.slots.append(reply.slot)

    def _take(self, worker: WorkerProcess, reply: Reply) -> None:
        task = self._running.pop(reply.task)
        content, head = codec.decode(worker.read, reply.place, reply.length)
        if reply.state_length > 0:
            self.states[task.node] = worker.read(reply.place + reply.length, reply.state_length)
        elif reply.state_length == 0:
            self.states.pop(task.node, None)
        self._seconds += 0.2 * (reply.seconds - self._seconds)
        self._finish(task, _to_message(task, content, head))

    def _finish(self, task: Task, reply: Message) -> None:
        self.queue.finish(task)
        if task.wanted:
            assign_id(reply, f"{task.message_id}-reply")
            self.done[task.message_id] = reply

    def _lose(self, worker: WorkerProcess, why: str, grace: float) -> None:
        """Replace a worker; the client it was on gets an error, the others run elsewhere."""
        tasks = [self._running.pop(number) for number, _ in worker.queue]
        self.queue.put_back(task for task in tasks[1:] if task.wanted)
        for task in tasks[1:]:
            if not task.wanted:
                self.queue.finish(task)
        how = self._pool.replace(worker, grace)
        reason = f"{why} {how}" if grace else why
        if tasks:
            _log.warning("client %d: %s", tasks[0].node, reason)
            error = Error(CLIENT_CRASHED, reason)
            self._finish(tasks[0], Message(error, reply_to=tasks[0].message))


def _to_message(task: Task, content: RecordDict | None, head: dict[str, Any]) -> Message:
    if content is not None:
        return rebuild(head["metadata"], content)
    if "error" in head:
        return rebuild(head["metadata"], Error(*head["error"]))
    _log.debug("client %d: %s", task.node, head["trace"])
    return Message(Error(CLIENT_RAISED, head["failed"]), reply_to=task.message)
