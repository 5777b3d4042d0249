"""What grids of ours have in common that carry messages themselves."""

from abc import abstractmethod
from copy import copy
from typing import Self

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from server.flower_private import SERVER_NODE_ID, Run, identify


class OwnGrid(Grid):
    """A grid that is closed at the end, and whose messages are made as ``Message(...)`` does."""

    _run: Run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Give up what it holds; a second call does nothing."""

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return copy(self._run)

    def set_run(self, run: Run) -> None:
        """Set the run that messages made from now on belong to."""
        self._run = run
        identify(run.run_id, SERVER_NODE_ID)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message to a node; ``Message(...)`` does the same."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)
