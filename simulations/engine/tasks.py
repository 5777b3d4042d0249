"""Messages that wait for a worker, in order, one at a time a node."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from flwr.app import Message

from simulations.engine.arena import Arena, Block
from simulations.engine.payloads import SharedPayloads, payloads


@dataclass(slots=True, eq=False)
class Task:
    """A message under way.

    Attributes
    ----------
    held
        Its payloads that other messages may share.
    block
        Where it lies in the arena, once it was written.
    wanted
        Whether somebody waits for the reply.
    """

    number: int
    node: int
    message_id: str
    message: Message
    held: list[bytes]
    block: Block | None = None
    wanted: bool = True


class TaskQueue:
    """Tasks in the order of their messages.

    A node's tasks wait for one another, since each starts from the state that the one before left.
    """

    def __init__(self, arena: Arena) -> None:
        self.shared = SharedPayloads(arena)
        self.ready: deque[Task] = deque()
        self._arena = arena
        self._behind: dict[int, deque[Task]] = {}
        self._count = 0

    def busy(self) -> bool:
        """Return whether any task is unfinished."""
        return bool(self._behind)

    def add(self, message: Message) -> None:
        """Queue a message."""
        self._count += 1
        to = message.metadata
        held = payloads(message.content)
        task = Task(self._count, to.dst_node_id, to.message_id, message, held)
        self.shared.retain(task.held)
        if task.node in self._behind:
            self._behind[task.node].append(task)
        else:
            self._behind[task.node] = deque()
            self.ready.append(task)

    def put_back(self, tasks: Iterable[Task]) -> None:
        """Have tasks that a worker did not come to run next, elsewhere."""
        self.ready.extendleft(reversed(list(tasks)))

    def finish(self, task: Task) -> None:
        """Release what a task held and let the node's next one go."""
        if task.block is not None:
            self._arena.free(task.block)
        self.shared.release(task.held)
        behind = self._behind[task.node]
        if behind:
            self.ready.appendleft(behind.popleft())
        else:
            del self._behind[task.node]

    def withdraw(self, message_ids: set[str]) -> None:
        """Forget tasks that no worker has."""
        for queue in self._behind.values():
            for task in [task for task in queue if task.message_id in message_ids]:
                queue.remove(task)
                self.shared.release(task.held)
        given_up = [task for task in self.ready if task.message_id in message_ids]
        for task in given_up:
            self.ready.remove(task)
            self.finish(task)
