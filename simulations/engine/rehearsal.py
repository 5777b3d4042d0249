"""A fleet on this machine: devices that are slow, drop out and go away, on a simulated clock.

Nobody sleeps. Clients run on ``LocalGrid`` as soon as they are asked; their replies are held back
until the clock comes to the moment at which a real device would have answered.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from schemas.base import ConfigError
from schemas.simulation import Rehearsal, Simulation
from server.flower_private import CLIENT_CRASHED
from server.view import GridView
from simulations.engine.fate import Fates
from simulations.engine.local_grid import LocalGrid

# A device that is gone is found out by its last will, never at once.
NOTICED_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Flight:
    """A task under way.

    Attributes
    ----------
    arrival : float
        When its reply comes.
    before : bytes or None
        What the device kept when it was asked.
    dropped : bool
        Whether an error comes in the place of a reply.
    """

    message: Message
    task: int
    arrival: float
    before: bytes | None
    dropped: bool

    @property
    def node(self) -> int:
        """Whose."""
        return int(self.message.metadata.dst_node_id)


class RehearsalGrid(Grid):
    """``LocalGrid`` with delays, dropouts and offline spells, and a clock of its own.

    What comes out depends on the seed alone: not on workers, nor on how fast this machine is.

    Parameters
    ----------
    inner : LocalGrid
    rules : Rehearsal
    seed : int

    Attributes
    ----------
    examination : Grid
        The same devices for evaluation: all there, prompt, and as they are at this moment.
    """

    def __init__(self, inner: LocalGrid, rules: Rehearsal, seed: int) -> None:
        self.inner, self.fates = inner, Fates(rules, seed)
        self.examination = Examination(self)
        self._now = 0.0
        self._serial = 0
        self._flying: dict[str, Flight] = {}
        self._held: dict[str, Message] = {}
        self._due: dict[tuple[int, int], float] = {}

    def now(self) -> float:
        """Simulated seconds since the run began."""
        return self._now

    def wait(self, until: float) -> None:
        """Let time pass until the next reply comes, or until then."""
        arrivals = [flight.arrival for flight in self._flying.values()]
        self._now = max(self._now, min([until, *arrivals]))

    def get_node_ids(self) -> list[int]:
        """Who is in reach now."""
        nodes = self.inner.get_node_ids()
        return [node for node in nodes if self.fates.reachable(node, self._now) <= self._now]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Ask devices; who will drop out is not run."""
        states = self.inner.states()
        return [self._push(message, states) for message in messages]

    def _push(self, message: Message, states: Mapping[int, bytes]) -> str:
        node, task = message.metadata.dst_node_id, _task_of(message)
        fate = self.fates.of(node, task)
        seconds = max(fate.seconds, NOTICED_SECONDS) if fate.dropped else fate.seconds
        arrival = self._due.pop((node, task), None)
        if arrival is None:
            arrival = self.fates.reachable(node, self._now + seconds)
        self._serial += 1
        key = f"dropped-{self._serial}"
        if not fate.dropped:
            (key,) = self.inner.push_messages([message])
        self._flying[key] = Flight(message, task, arrival, states.get(node), fate.dropped)
        return key

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the first reply that has come, if any, as often as asked.

        One at a time: whoever saves the run between two of them finds the next one under way.
        """
        return [self._reply(key) for key in self._come(message_ids)[:1]]

    def _come(self, message_ids: Iterable[str]) -> list[str]:
        """Of these, whose reply has come: first come first, then first asked."""
        wanted = set(message_ids)
        flights = ((key, flight) for key, flight in self._flying.items() if key in wanted)
        due = [(flight.arrival, key) for key, flight in flights if flight.arrival <= self._now]
        return [key for _, key in sorted(due, key=lambda pair: pair[0])]

    def _reply(self, key: str) -> Message:
        self._run([key])
        flight = self._flying.pop(key)
        if flight.dropped:
            return Message(Error(CLIENT_CRASHED, "dropped out"), reply_to=flight.message)
        return self._held.pop(key)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Ask, let time pass until all have answered or the timeout, give up the late."""
        keys = self.push_messages(messages)
        last = max((self._flying[key].arrival for key in keys), default=self._now)
        self._now = last if timeout is None else max(self._now, min(last, self._now + timeout))
        replies = [self._reply(key) for key in self._come(keys)]
        self.withdraw(keys)
        return replies

    def withdraw(self, message_ids: Iterable[str]) -> None:
        """Give up tasks: the devices have worked, and nobody gets what they came to."""
        keys = [key for key in message_ids if key in self._flying]
        self._run(keys)
        for key in keys:
            del self._flying[key]
            self._held.pop(key, None)

    def _run(self, keys: Iterable[str]) -> None:
        """Work until those tasks are done."""
        wanted = [key for key in keys if not self._flying[key].dropped]
        while missing := [key for key in wanted if key not in self._held]:
            for reply in self.inner.pull_messages(missing):
                self._held[reply.metadata.reply_to_message_id] = reply
            if any(key not in self._held for key in missing):
                self.inner.work(1.0)

    def states(self) -> dict[int, bytes]:
        """What each device keeps; who is at work, what it kept when it was asked."""
        self._run(self._flying)
        states = self.inner.states()
        for flight in self._flying.values():
            states.pop(flight.node, None)
            if flight.before is not None:
                states[flight.node] = flight.before
        return states

    def restore(self, states: Mapping[int, bytes]) -> None:
        """Replace what the devices keep; nothing is under way, and time begins."""
        self._flying.clear()
        self._held.clear()
        self._due.clear()
        self._now = 0.0
        self.inner.settle()
        self.inner.restore(states)

    def course(self) -> dict[str, Any]:
        """The clock, and when what is under way will come."""
        due = [[flight.node, flight.task, flight.arrival] for flight in self._flying.values()]
        return {"now": self._now, "due": due}

    def go_on(self, course: Mapping[str, Any]) -> None:
        """Go on from ``course``; what was under way is to be pushed again."""
        self._now = float(course["now"])
        self._due = {(int(node), int(task)): float(at) for node, task, at in course["due"]}

    @contextmanager
    def at_rest(self) -> Iterator[LocalGrid]:
        """The devices as they are at this moment: nothing of what is under way is done."""
        states, done = self.states(), self.inner.states()
        flying = {flight.node for flight in self._flying.values()}
        if not flying:
            yield self.inner
            return
        self.inner.restore(states)
        try:
            yield self.inner
        finally:
            rest = {n: s for n, s in self.inner.states().items() if n not in flying}
            self.inner.restore(rest | {n: s for n, s in done.items() if n in flying})

    def set_run(self, run: Any) -> None:
        """Pass on."""
        self.inner.set_run(run)

    @property
    def run(self) -> Any:
        """Pass on."""
        return self.inner.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Pass on."""
        return self.inner.create_message(content, message_type, dst_node_id, group_id, ttl)


class Examination(GridView):
    """All devices of a rehearsal, at once and with no time passing."""

    def __init__(self, rehearsal: RehearsalGrid) -> None:
        super().__init__(rehearsal.inner, rehearsal.inner.get_node_ids())
        self._rehearsal = rehearsal

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Ask as ``LocalGrid`` does."""
        with self._rehearsal.at_rest() as inner:
            return inner.send_and_receive(messages)


def rehearse(grid: Grid, config: Simulation) -> Grid:
    """The grid that a run's training takes place on.

    On this machine's workers, deadlines and asynchronous steps go by a simulated clock, so that
    their results can be repeated; without a table ``[rehearsal]`` no device takes any time.

    Raises
    ------
    ConfigError
        If a rehearsal is asked for on another engine.
    """
    modes = (config.rehearsal, config.synchronous, config.asynchronous)
    if isinstance(grid, LocalGrid):
        if all(mode is None for mode in modes):
            return grid
        rules = config.rehearsal or Rehearsal(delay_seconds=0)
        return RehearsalGrid(grid, rules, config.seed)
    if config.rehearsal is not None:
        raise ConfigError(
            config.name,
            ["rehearsal: only flwr-sim's own workers can rehearse a fleet; leave the table out"],
        )
    return grid


def _task_of(message: Message) -> int:
    told = message.content.config_records.get("config", ConfigRecord()).get("server-round", 0)
    return int(told)  # type: ignore[arg-type]
