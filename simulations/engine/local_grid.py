"""Flower's Grid over long-lived worker processes on this machine."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Message

from server.flower_private import assign_id, empty_run
from server.own_grid import OwnGrid
from simulations.engine.codec import check_state
from simulations.engine.dispatcher import DEPTH, Dispatcher
from simulations.engine.pool import Pool
from simulations.engine.worker_process import hello


class LocalGrid(OwnGrid):
    """Runs a Flower client app for many nodes on a few worker processes.

    What a strategy gets does not depend on the number of workers: replies come in the order of
    the messages, and a node's state goes with its message, so that any worker can run any node.

    Parameters
    ----------
    app
        Where the client app is, as ``module:attribute``.
    nodes
        Each node's ``node_config``, by node id.
    workers
        Number of processes.
    timeout
        Seconds one client may take; then its worker is killed and the reply is an error.
    run_config
        The ``run_config`` that every client sees.

    Raises
    ------
    WorkerError
        If the workers cannot load the client app.
    """

    def __init__(
        self,
        app: str,
        nodes: Mapping[int, Mapping[str, str | int]],
        workers: int,
        timeout: float = 600.0,
        run_config: Mapping[str, bool | float | int | str] | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers = {workers}: at least 1 is needed")
        if not timeout > 0:
            raise ValueError(f"timeout = {timeout}: more than 0 seconds are needed")
        self._nodes: dict[int, dict[str, Any]] = {node: dict(nodes[node]) for node in sorted(nodes)}
        self._sent = 0
        self._closed = False
        self.set_run(empty_run(1))
        # Twice as many slots as tasks: more are handed out before the replies are read.
        self._pool = Pool(
            min(workers, max(1, len(nodes))), hello(app, dict(run_config or {})), 2 * DEPTH
        )
        self._dispatcher = Dispatcher(self._pool, self._nodes, timeout)

    def close(self) -> None:
        """End the workers and free their memory; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._pool.close()

    @property
    def worker_pids(self) -> list[int]:
        """The workers' process ids, to measure them by."""
        return [worker.pid for worker in self._pool.workers]

    def get_node_ids(self) -> list[int]:
        """Return all node ids, ascending."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Start messages; their replies are there for `pull_messages` when they are done.

        Workers are handed more work while this grid is called, and only then.

        Raises
        ------
        ValueError
            If a message is for an unknown node, is no message to a client or was sent before; then
            none is started.
        """
        self._check_open()
        batch = list(messages)
        for message in batch:
            self._check(message)
        if len({id(message) for message in batch}) < len(batch):
            raise ValueError("one message object is to be sent twice; every node needs its own")
        for message in batch:
            self._sent += 1
            assign_id(message, f"{message.metadata.run_id}-{self._sent}")
            self._dispatcher.queue.add(message)
        self._dispatcher.pump(0.0)
        return [message.metadata.message_id for message in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there, in the order of the ids, each of them once."""
        self._check_open()
        self._dispatcher.pump(0.0)
        done = self._dispatcher.done
        return [done.pop(message_id) for message_id in message_ids if message_id in done]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Run messages and return the replies in the order of the messages.

        Parameters
        ----------
        messages
            Messages to nodes; each its own object.
        timeout
            Seconds after which to return what is there. Messages that no worker has by then are
            withdrawn; the others end, keep their nodes' states, and their replies are dropped.
        """
        ids = self.push_messages(messages)
        end = float("inf") if timeout is None else time.monotonic() + timeout
        done = self._dispatcher.done
        left = set(ids)
        while left := left - done.keys():
            if (wait := end - time.monotonic()) <= 0:
                break
            self._dispatcher.pump(wait)
        replies = [done.pop(message_id) for message_id in ids if message_id in done]
        if left:
            self._dispatcher.withdraw(left)
        return replies

    def work(self, seconds: float) -> None:
        """Work on what was pushed until a reply comes, or for so many seconds."""
        self._check_open()
        self._dispatcher.pump(seconds)

    def settle(self) -> None:
        """Work until no client runs; nobody gets the replies."""
        self._check_open()
        while self._dispatcher.queue.busy():
            self._dispatcher.pump(1.0)
        self._dispatcher.done.clear()

    def states(self) -> dict[int, bytes]:
        """Return the clients' states (Flower's ``Context.state``), where not empty, to keep."""
        return dict(self._dispatcher.states)

    def restore(self, states: Mapping[int, bytes]) -> None:
        """Replace all clients' states by ones that `states` returned.

        Raises
        ------
        ValueError
            If a node is unknown or a state damaged; then nothing is replaced.
        RuntimeError
            If clients are running.
        """
        if self._dispatcher.queue.busy():
            raise RuntimeError("clients are running; their states cannot be replaced now")
        for node, state in states.items():
            if node not in self._nodes:
                raise ValueError(f"state of node {node}: there is no such node")
            try:
                check_state(state)
            except ValueError as error:
                raise ValueError(f"state of node {node}: {error}") from error
        self._dispatcher.states = {node: bytes(state) for node, state in states.items() if state}

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the grid is closed")

    def _check(self, message: Message) -> None:
        node = message.metadata.dst_node_id
        if node not in self._nodes:
            raise ValueError(f"message to node {node}: there is no such node")
        if not message.has_content() or message.metadata.reply_to_message_id:
            raise ValueError(f"message to node {node}: it is a reply or an error, not a request")
        if message.metadata.message_id:
            raise ValueError(f"message to node {node}: it was sent before; make a new one")
