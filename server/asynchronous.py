"""Rounds without cohorts: who is done is asked again, and a full buffer is a step.

An update is learned from with the weights it was made for, and weighs less the older these are
(FedBuff, arXiv:2106.06639).
"""

import time
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType
from numpy.typing import NDArray

from schemas.simulation import Asynchronous
from server.border import Admitted, admit, weights_of, weights_record
from server.carriers import Withdrawing
from server.checkpoint import Checkpoint
from server.rounds import Rounds, RoundsError, record_of
from server.strategies.base import EdgeStrategy, request, sample
from server.strategies.buffered import Buffered, Returned, unbuffered

_LOOK_SECONDS: Final = 60.0  # between two looks at who is there


@dataclass
class Flight:
    """A device at work.

    Attributes
    ----------
    version : int
        The server's steps when it was asked.
    asked_at : float
        By the grid's clock.
    """

    request: Message
    version: int
    asked_at: float
    message_id: str = ""


class AsynchronousRounds(Rounds):
    """Runs one strategy that is ``Buffered``; a round is a step of the server.

    Parameters
    ----------
    See ``Rounds``.

    Raises
    ------
    TypeError
        If the strategy cannot learn from updates one by one.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        if why := unbuffered(type(self.strategy)):
            raise TypeError(f"{type(self.strategy).__name__} cannot run asynchronously: {why}")
        self.buffered = cast(Buffered, self.strategy)
        self.rules = self.config.asynchronous or Asynchronous()
        self.flights: dict[int, Flight] = {}
        self.number = 0  # of the last requests: what a device is told as its round
        self.version = 0
        self.buffer: list[Returned] = []
        self.parts: list[Admitted] = []

    def train(self, arrays: ArrayRecord, done: int) -> ArrayRecord:
        """Run the steps after ``done``; the arrays that they come to."""
        self.arrays, self.version = arrays, done
        self._begin_step()
        while self.version < self.rounds:
            if not self._take():
                self._check_patience()
                self._wait()
        return self.arrays

    def _take(self) -> bool:
        """Take the replies that are there and ask for more; whether there were any."""
        took = False
        while replies := self._pull():
            took = True
            for reply in replies:
                self._land(reply.metadata.src_node_id, [reply])
                if len(self.buffer) >= self.rules.buffer:
                    self._step()
                if self.version >= self.rounds:
                    return True
        self._give_up_the_late()
        self._ask_more()
        return took

    def _pull(self) -> list[Message]:
        ids = [flight.message_id for flight in self.flights.values()]
        return list(self.grid.pull_messages(ids)) if ids else []

    def _land(self, node: int, replies: list[Message]) -> None:
        """A device's work is over: into the buffer with what it sent, if that is good."""
        flight = self.flights.pop(node, None)
        if flight is None:
            return
        limits, seconds = self.config.upload, self.rules.deadline_seconds
        admitted = admit([flight.request], replies, limits.max_norm, seconds, limits.max_examples)
        self._count(admitted, self.version + 1)
        self.parts.append(admitted)
        for update in admitted.updates:
            weight = (1 + self.version - flight.version) ** -self.rules.staleness_power
            self.buffer.append(Returned(flight.request, update, flight.version, weight))
            self._last_update = self.clock.now()

    def _step(self) -> None:
        staleness = [self.version - one.version for one in self.buffer]
        self.version += 1
        made = self.buffered.absorb(self.version, self.arrays, self.buffer)
        self.arrays = self._learned(made, self.arrays)
        score = self._point(self.version, self.arrays)
        seconds = time.perf_counter() - self._began
        record = record_of(self.version, len(self.parts), self.parts, seconds, score)
        record.staleness = staleness
        self._tell(record)
        self.buffered.forget({flight.version for flight in self.flights.values()})
        self._begin_step()
        self._end(self.version, self.arrays)

    def _begin_step(self) -> None:
        self.buffer, self.parts = [], []
        self._began, self._last_update = time.perf_counter(), self.clock.now()

    def _give_up_the_late(self) -> None:
        now = self.clock.now()
        for node, flight in list(self.flights.items()):
            if now >= flight.asked_at + self.rules.deadline_seconds:
                if isinstance(self.grid, Withdrawing):
                    self.grid.withdraw([flight.message_id])
                self._land(node, [])

    def _ask_more(self) -> None:
        """Ask idle devices, drawn at random, up to the concurrency."""
        wanted = self.rules.concurrency or self.strategy.federation.cohort
        idle = [node for node in self.clients.get_node_ids() if node not in self.flights]
        free = min(wanted - len(self.flights), len(idle))
        if free <= 0:
            return
        self._equip(self.clients)
        self.number += 1
        nodes = sample(idle, free, self.config.seed, self.number)
        requests = self.buffered.ask(
            nodes, self.arrays, self.train_config, self.number, self.version
        )
        now = self.clock.now()
        self._push([Flight(request, self.version, now) for request in requests])

    def _push(self, flights: list[Flight]) -> None:
        ids = self.grid.push_messages([flight.request for flight in flights])
        for flight, message_id in zip(flights, ids, strict=True):
            flight.message_id = message_id
            self.flights[flight.request.metadata.dst_node_id] = flight

    def _wait(self) -> None:
        ends = [f.asked_at + self.rules.deadline_seconds for f in self.flights.values()]
        self.clock.wait(min([*ends, self.clock.now() + _LOOK_SECONDS]))

    def _check_patience(self) -> None:
        """End the run where no update has come for too long."""
        rules = self.rules
        if self.clock.now() - self._last_update > rules.give_up_after * rules.deadline_seconds:
            raise RoundsError(
                f"{self.outcome.strategy}: no good update for {rules.give_up_after} times "
                f"{rules.deadline_seconds:g} s (asynchronous.give_up_after, deadline_seconds); "
                "change these, or see why devices do not answer"
            )

    def _course(self) -> dict[str, Any]:
        flights = {
            str(node): {
                "version": flight.version,
                "asked_at": flight.asked_at,
                "config": dict(flight.request.content.config_records["config"]),
            }
            for node, flight in self.flights.items()
        }
        loop = {"number": self.number, "now": self.clock.now(), "flights": flights}
        return super()._course() | {"loop": loop}

    def _flights(self) -> dict[int, NDArray[np.float32]]:
        return {node: weights_of(flight.request) for node, flight in self.flights.items()}

    def _go_on(self, checkpoint: Checkpoint) -> None:
        """Send what was under way once more: the same requests, for the same steps."""
        super()._go_on(checkpoint)
        loop = checkpoint.course["loop"]
        self.number = int(loop["number"])
        shift = self.clock.now() - loop["now"]  # 0 on a rehearsal's clock, which goes on
        self._push(
            [
                Flight(
                    _again(int(node), checkpoint.flights[int(node)], told["config"]),
                    int(told["version"]),
                    told["asked_at"] + shift,
                )
                for node, told in loop["flights"].items()
            ]
        )


def _again(node: int, weights: NDArray[np.float32], config: dict[str, Any]) -> Message:
    number = int(config["server-round"])
    return request(node, MessageType.TRAIN, weights_record(weights), config, number)


def rounds_class(strategy: EdgeStrategy) -> type[Rounds]:
    """How the configuration has this strategy run; who has no rounds has nothing to buffer."""
    asynchronous = strategy.federation.config.asynchronous is not None
    return AsynchronousRounds if asynchronous and strategy.rounds != 0 else Rounds


__all__ = ["AsynchronousRounds", "rounds_class"]
