"""A grid that shows some of its nodes: a strategy samples from clients, never from the unseen."""

from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from server.border import payload


class GridView(Grid):
    """Another grid, narrowed to some nodes.

    Parameters
    ----------
    grid : Grid
    nodes : Iterable[int]
    """

    def __init__(self, grid: Grid, nodes: Iterable[int]) -> None:
        self._grid = grid
        self._nodes = frozenset(nodes)

    def set_run(self, run: object) -> None:
        """Pass on."""
        self._grid.set_run(run)  # type: ignore[arg-type]

    @property
    def run(self) -> object:  # type: ignore[override]
        """Pass on."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Pass on."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Those of the view that are there."""
        return sorted(node for node in self._grid.get_node_ids() if node in self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Pass on."""
        return self._grid.send_and_receive(messages, timeout=timeout)


class CountedView(GridView):
    """A view that counts the bytes of what is asked through it, and of what comes back.

    Attributes
    ----------
    down, up : int
    """

    down = up = 0

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Pass on."""
        asked = list(messages)
        replies = list(super().send_and_receive(asked, timeout=timeout))
        self.down += sum(payload(one.content) for one in asked)
        self.up += sum(payload(one.content) for one in replies if not one.has_error())
        return replies
