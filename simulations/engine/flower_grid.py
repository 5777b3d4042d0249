"""Flower's own grids, Ray's or a SuperLink's, with the node ids that ``LocalGrid`` gives."""

import time
from collections.abc import Iterable, Mapping
from typing import Self

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from simulations.report.files import RunError

POLL_SECONDS = 0.2


class FlowerGrid(Grid):
    """A grid of Flower's runtimes on which every person has the node id of the simulation.

    Flower draws node ids at random. Cohorts, embeddings and orders of summation follow from node
    ids, so that without this a run would give other numbers each time.

    Parameters
    ----------
    grid : Grid
        Flower's.
    nodes : Mapping[int, int]
        Flower's node ids by ours.
    windows : Mapping[int, str]
        By our node id, where the windows lie if the node's own configuration does not say so.
    timeout : float
        Seconds one client may take. Flower's runtimes do not tell when a client starts, so a call
        waits as long as all its clients may take one after the other.
    adapters : Mapping[int, str], optional
        By our node id, where a device that lives through days keeps its adapters.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Mapping[int, int],
        windows: Mapping[int, str],
        timeout: float,
        adapters: Mapping[int, str] | None = None,
    ) -> None:
        self._grid, self._nodes, self._windows = grid, dict(nodes), dict(windows)
        self._adapters = dict(adapters or {})
        self._timeout = timeout
        self._asked: dict[str, Message] = {}

    @classmethod
    def of(
        cls,
        grid: Grid,
        nodes: Mapping[int, Mapping[str, str | int]],
        timeout: float,
        wait: float = 60.0,
    ) -> Self:
        """Wait for one node a person, and ask each which one it is.

        Parameters
        ----------
        grid : Grid
            Flower's.
        nodes : Mapping[int, Mapping[str, str | int]]
            The simulation's nodes with ``partition-id`` and ``windows``.
        timeout : float
            See above.
        wait : float, default 60
            Seconds to wait for the nodes.

        Raises
        ------
        RunError
            Where nodes are missing, or no node has a person's number.
        """
        there = _wait_for(grid, len(nodes), wait)
        places = _places(grid, there, timeout)
        wanted = {node: int(config["partition-id"]) for node, config in nodes.items()}
        missing = sorted(set(wanted.values()) - set(places))
        if missing:
            raise RunError(
                f"no node answers to partition-id {', '.join(map(str, missing))}: start every "
                "SuperNode with --node-config 'partition-id=N', N = 0, 1, …, each once"
            )
        found = {node: places[number] for node, number in wanted.items()}
        windows = {n: str(c["windows"]) for n, c in nodes.items()}
        adapters = {n: str(c["adapters"]) for n, c in nodes.items() if "adapters" in c}
        return cls(grid, found, windows, timeout, adapters)

    def restore(self, states: Mapping[int, bytes]) -> None:
        """Have every device forget what it kept.

        Raises
        ------
        ValueError
            If states are given: they stay on the devices, a run there cannot be resumed.
        """
        if states:
            raise ValueError("on Flower's runtimes the devices' states cannot be put back")
        content = {n: ConfigRecord({"windows": folder}) for n, folder in self._windows.items()}
        for node, folder in self._adapters.items():
            content[node]["adapters"] = folder
        self.send_and_receive(
            Message(RecordDict({"begin": told}), dst_node_id=node, message_type="query.begin")
            for node, told in content.items()
        )  # who fails here is left out of its first round, with the reason

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
        """Make a message to a node; ``Message(...)`` does the same."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Ours, of those that are there."""
        there = set(self._grid.get_node_ids())
        return [ours for ours in sorted(self._nodes) if self._nodes[ours] in there]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages to our node ids."""
        requests = list(messages)
        ids = self._grid.push_messages([self._outward(request) for request in requests])
        sent = {i: request for i, request in zip(ids, requests, strict=True) if i}
        self._asked |= sent
        return list(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies that are there, each once, from our node ids."""
        waiting = [i for i in message_ids if i in self._asked]
        replies = self._grid.pull_messages(waiting) if waiting else ()
        return [
            _inward(self._asked.pop(reply.metadata.reply_to_message_id), reply) for reply in replies
        ]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send, wait, and return the replies in the order of the messages."""
        requests = list(messages)
        place = {request.metadata.dst_node_id: at for at, request in enumerate(requests)}
        ids = set(self.push_messages(requests))
        seconds = self._timeout * len(requests) if timeout is None else timeout
        replies: list[Message] = []
        end = time.monotonic() + seconds
        while ids & self._asked.keys() and time.monotonic() < end:
            replies += self.pull_messages(ids)
            if ids & self._asked.keys():
                time.sleep(POLL_SECONDS / 4)
        for late in ids & self._asked.keys():
            del self._asked[late]
        return sorted(replies, key=lambda reply: place[reply.metadata.src_node_id])

    def _outward(self, request: Message) -> Message:
        meta = request.metadata
        return Message(
            request.content,
            dst_node_id=self._nodes[meta.dst_node_id],
            message_type=meta.message_type,
            ttl=meta.ttl,
            group_id=meta.group_id,
        )


def _inward(request: Message, reply: Message) -> Message:
    body = reply.error if reply.has_error() else reply.content
    return Message(body, reply_to=request)


def _wait_for(grid: Grid, count: int, wait: float) -> list[int]:
    end = time.monotonic() + wait
    while len(there := list(grid.get_node_ids())) < count:
        if time.monotonic() > end:
            raise RunError(
                f"{count} persons, but {len(there)} nodes after {wait:g} s: give every person one, "
                f"e.g. flwr run . --federation-config 'num-supernodes={count}'"
            )
        time.sleep(POLL_SECONDS)
    return there


def _places(grid: Grid, nodes: list[int], timeout: float) -> dict[int, int]:
    """Flower's node ids by the number that each node answers."""
    requests = [
        Message(RecordDict(), dst_node_id=node, message_type="query.place") for node in nodes
    ]
    places: dict[int, int] = {}
    for reply in grid.send_and_receive(requests, timeout=timeout * len(nodes)):
        if reply.has_error():
            raise RunError(f"a node cannot run the app: {reply.error.reason}")
        number = reply.content.config_records["place"].get("partition-id")
        if isinstance(number, int):
            if number in places:
                raise RunError(f"two nodes have partition-id {number}; each person is one node")
            places[number] = reply.metadata.src_node_id
    return places
