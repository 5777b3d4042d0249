"""The rounds of one strategy: with checkpoints, evaluation by person, and faults left out.

Flower's own ``Strategy.start`` cannot resume and tells nothing by device; this loop calls the
same four methods of any Flower strategy.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from server.border import (
    WRONG,
    Admitted,
    admit,
    confusion_of,
    payload,
    seconds_of,
    variances_of,
)
from server.carriers import Devices, Rehearsing, Resettable, Resumable
from server.checkpoint import Checkpoint, CheckpointError, savable
from server.clock import Clock, clock_of
from server.install import InstallError, install
from server.learned import learned
from server.outcome import Outcome, RoundRecord, outcome_of, progress_of
from server.strategies.base import EdgeStrategy, own_arrays
from server.view import CountedView, GridView

Confusions = dict[str, NDArray[np.int64]]


class RoundsError(RuntimeError):
    """A strategy cannot go on; one line says which limit was reached, or what it returned."""


@dataclass
class Watch:
    """Who is told of a run's course.

    Attributes
    ----------
    on_round : callable(RoundRecord)
    save : callable(Checkpoint)
    score : callable(confusion (classes, classes)) -> float
        For the learning curve.
    tell : callable(str)
        Takes a line: a person's first fault.
    people : callable(round, scores by name)
        Told of each evaluation.
    """

    on_round: Callable[[RoundRecord], None]
    save: Callable[[Checkpoint], None]
    score: Callable[[NDArray[np.int64]], float]
    tell: Callable[[str], None]
    people: Callable[[int, Mapping[str, float]], None] = lambda _round, _scores: None


class Rounds:
    """Runs one strategy.

    Parameters
    ----------
    name : str
        The strategy's.
    strategy : EdgeStrategy
    grid : Grid
        What it can do besides carrying messages, ``server.carriers`` says.
    persons, unseen : dict[int, str]
        Names by node: who takes part, and who only meets the result.
    rounds : int
    watch : Watch
    identity : str
        Of the run, for its checkpoints.

    Attributes
    ----------
    least_key, deadline_key : str
        What the user's file calls the limits of a round that is waited for.
    """

    least_key, deadline_key = "synchronous.min_replies", "synchronous.deadline_seconds"

    def __init__(
        self,
        name: str,
        strategy: EdgeStrategy,
        grid: Grid,
        persons: Mapping[int, str],
        unseen: Mapping[int, str],
        rounds: int,
        watch: Watch,
        identity: str,
    ) -> None:
        self.strategy, self.grid, self.watch = strategy, grid, watch
        self.persons, self.unseen, self.rounds = persons, unseen, rounds
        self.identity = identity
        self.config = strategy.federation.config
        self.clients = GridView(grid, persons)
        self.clock: Clock = clock_of(grid)
        self.exam: Grid = grid.examination if isinstance(grid, Rehearsing) else grid
        self.outcome = Outcome(name)
        self.train_config = strategy.train_config()
        self.evaluate_config = strategy.evaluate_config()
        self._started = 0.0
        self._equipped: set[int] = set()  # who was brought the graphs, as far as is known

    def run(self, resume: Checkpoint | None = None) -> Outcome:
        """Run all rounds, or those that a checkpoint lacks, and evaluate everyone.

        Raises
        ------
        RoundsError
            Where devices answer too seldom, by the limits of the simulation file, and where the
            strategy returns weights that no device could take.
        """
        arrays, done = self._learned(self.strategy.initial()), 0
        self._forget()
        if resume is not None:
            arrays, done = self._restore(resume), resume.round
        self._started = time.perf_counter() - self.outcome.wall_seconds
        graphs = self.strategy.federation.graphs.graphs
        self._equipped = set(self.exam.get_node_ids())
        install(self.exam, graphs, self.config.cohort.timeout_seconds)
        self.outcome.bytes_graphs = sum(map(len, graphs.values()))
        self._finish(self.train(arrays, done))
        self.outcome.wall_seconds = time.perf_counter() - self._started
        return self.outcome

    def train(self, arrays: ArrayRecord, done: int) -> ArrayRecord:
        """Run the rounds after ``done``; the arrays that they come to."""
        for number in range(done + 1, self.rounds + 1):
            arrays = self._round(number, arrays)
            self._end(number, arrays)
            self._check_patience()
        return arrays

    def _round(self, number: int, arrays: ArrayRecord) -> ArrayRecord:
        began = time.perf_counter()
        # Flower's strategies sample with the global generator: seed it, so that a resumed run
        # draws the cohorts that an unbroken one would have drawn.
        random.seed(f"{self.config.seed} {number}")
        requests = self._requests(number, arrays)
        admitted = self._ask(requests)
        applied = self._suffices(number, requests, admitted)
        if applied:
            aggregated, _ = self.strategy.aggregate_train(number, admitted.updates)
            arrays = arrays if aggregated is None else self._learned(aggregated, arrays)
        score = self._point(number, arrays)
        record = record_of(number, len(requests), [admitted], time.perf_counter() - began, score)
        record.applied = applied and bool(admitted.updates)
        self._count(admitted, number)
        self._tell(record)
        return arrays

    def _learned(self, made: ArrayRecord, before: ArrayRecord | None = None) -> ArrayRecord:
        """What the strategy returned, as devices take it."""
        try:
            if before is None:
                return learned(made)
            vector = before["weights"].numpy()
            return learned(made, vector, variances_of(self.train_config, len(vector)))
        except ValueError as error:
            raise RoundsError(f"strategy {self.outcome.strategy!r} returned {error}") from error

    def _requests(self, number: int, arrays: ArrayRecord) -> list[Message]:
        """A cohort's; none where nobody is there, after a while."""
        if self.persons and not list(self.clients.get_node_ids()):
            end = self.clock.now() + self._patience
            while self.clock.now() < end:
                self.clock.wait(end)
            return []
        self._equip(self.clients)
        config = ConfigRecord(dict(self.train_config))
        return _own(self.strategy.configure_train(number, arrays, config, self.clients))

    def _equip(self, view: Grid) -> None:
        """Bring the graphs to devices that came since, or that failed and may lack them."""
        fresh = set(view.get_node_ids()) - self._equipped
        if fresh:
            self._equipped |= fresh
            with suppress(InstallError):  # they are left out of the round, with the reason
                graphs = self.strategy.federation.graphs.graphs
                install(self.exam, graphs, self._patience, fresh)

    def _ask(self, requests: list[Message]) -> Admitted:
        replies = self.grid.send_and_receive(requests, timeout=self._deadline) if requests else []
        limits = self.config.upload
        return admit(requests, replies, limits.max_norm, self._patience, limits.max_examples)

    @property
    def _deadline(self) -> float | None:
        """Seconds that a call waits; None: the grid's own limit a device serves."""
        rules = self.config.synchronous or self.config.asynchronous
        return rules.deadline_seconds if rules is not None else None

    @property
    def _patience(self) -> float:
        return self._deadline or self.config.cohort.timeout_seconds

    def _suffices(self, number: int, requests: list[Message], admitted: Admitted) -> bool:
        """Whether a round may be learned from; says so where it may not."""
        rules, came = self.config.synchronous, len(admitted.updates)
        if rules is None or came >= rules.min_replies:
            return True
        self.watch.tell(
            f"{self.outcome.strategy}: round {number} not applied: {came} good replies of "
            f"{len(requests)} asked, {rules.min_replies} needed"
        )
        return False

    def _check_patience(self) -> None:
        """End the run where too many rounds in a row came to nothing."""
        rules, records = self.config.synchronous, self.outcome.rounds
        if rules is None or len(records) < rules.give_up_after:
            return
        if not any(record.applied for record in records[-rules.give_up_after :]):
            raise RoundsError(
                f"{self.outcome.strategy}: the last {rules.give_up_after} rounds had fewer than "
                f"{rules.min_replies} good replies each ({self.least_key}) within "
                f"{rules.deadline_seconds:g} s ({self.deadline_key}); change these, or see why "
                "devices do not answer"
            )

    def _point(self, number: int, arrays: ArrayRecord) -> float | None:
        """The learning curve's, every so often; the last one is the run's result."""
        if number % self.config.evaluate_every or number >= self.rounds:
            return None
        return self._mean(number, self._evaluate(number, arrays, self.persons))

    def _count(self, admitted: Admitted, number: int) -> None:
        """Add replies to the totals, and name who is left out of a round."""
        outcome = self.outcome
        outcome.client_updates += len(admitted.updates)
        outcome.device_seconds += sum(_metric(u, "seconds") for u in admitted.updates)
        outcome.bytes_down += admitted.bytes_down
        outcome.bytes_up += admitted.bytes_up
        for node, reason in admitted.failures.items():
            self._fault(node, f"round {number}: {reason}")
            kind = outcome.late if node in admitted.late else outcome.dropped
            if node not in admitted.late:
                self._equipped.discard(node)
            kind[self._name(node)] = kind.get(self._name(node), 0) + 1

    def _tell(self, record: RoundRecord) -> None:
        self.outcome.rounds.append(record)
        self.watch.on_round(record)

    def _end(self, number: int, arrays: ArrayRecord) -> None:
        self.outcome.wall_seconds = time.perf_counter() - self._started
        if isinstance(self.grid, Clock):
            self.outcome.simulated_seconds = self.grid.now()
        self._checkpoint(number, arrays)

    def _finish(self, arrays: ArrayRecord) -> None:
        """Evaluate all clients, take the unseen in and evaluate them."""
        last = self.rounds
        down = 0 if self.outcome.client_updates else None
        self.outcome.confusion = self._evaluate(last, arrays, self.persons, down)
        if self.unseen:
            view = CountedView(self.exam, self.unseen)
            if self.strategy.stream is None:
                self.strategy.join(sorted(self.unseen), view)
            self._asked(view, counted=down is None)
            self.outcome.unseen = self._evaluate(last, arrays, self.unseen, down)
        score = self._mean(self.rounds, self.outcome.confusion)
        if self.outcome.rounds:
            self.outcome.rounds[-1].macro_f1 = score
            self.watch.on_round(self.outcome.rounds[-1])
        else:
            self._tell(RoundRecord(0, 0, float("nan"), 0, 0, 0, 0.0, score))

    def _evaluate(
        self,
        number: int,
        arrays: ArrayRecord,
        persons: Mapping[int, str],
        bytes_down: int | None = 0,
    ) -> Confusions:
        """Counts by person; who fails is left out and named.

        Where nobody trains, evaluation is the one participation: its download is counted
        (``bytes_down`` None), and what the strategy asks for it. Devices that live through days do
        so one day after the other.
        """
        stream, confusions = self.strategy.stream, Confusions()
        turns = [sorted(persons)] if stream is None else stream.turns(persons)
        for nodes in turns:
            there = {node: persons[node] for node in nodes}
            confusions |= self._evaluated(number, arrays, there, bytes_down)
            self._note(there, counted=bytes_down is None)
        return confusions

    def _note(self, persons: Mapping[int, str], *, counted: bool) -> None:
        """Write down what devices that live through days said."""
        stream = self.strategy.stream
        if stream is None:
            return
        for node, name in persons.items():
            if (one := stream.exchanges.get(node)) is None:
                continue
            self.outcome.exchanges[name] = one
            if one.reason:
                self._fault(node, f"asking whether it has drifted: {one.reason}")
            if counted:
                self.outcome.bytes_down += one.bytes_down
                self.outcome.bytes_up += one.bytes_up

    def _evaluated(
        self,
        number: int,
        arrays: ArrayRecord,
        persons: Mapping[int, str],
        bytes_down: int | None,
    ) -> Confusions:
        view = CountedView(self.exam, persons)
        if persons and not list(view.get_node_ids()):
            return {}  # Flower's strategies would wait for somebody to come
        self._equip(view)
        config = ConfigRecord(dict(self.evaluate_config))
        stream = self.strategy.stream
        if stream is None:
            requests = _own(self.strategy.configure_evaluate(number, arrays, config, view))
        else:
            requests = stream.requests(list(view.get_node_ids()), view, number)
        replies = list(self.exam.send_and_receive(requests, timeout=self._deadline))
        answered = {reply.metadata.src_node_id: reply for reply in replies}
        confusions: Confusions = {}
        for request in requests:
            node = request.metadata.dst_node_id
            reason = self._take_counts(answered.get(node), node, confusions)
            if reason:
                self._fault(node, f"evaluation after round {number}: {reason}")
        if bytes_down is None and stream is None:
            self.outcome.bytes_down += sum(payload(request.content) for request in requests)
            self._asked(view, counted=True)
        return confusions

    def _asked(self, view: CountedView, *, counted: bool) -> None:
        """Add what a strategy asked by itself, such as conditions, and the answers."""
        self.outcome.bytes_down += counted * view.down
        self.outcome.bytes_up += counted * view.up

    def _take_counts(self, reply: Message | None, node: int, into: Confusions) -> str | None:
        if reply is None:
            return "no reply"
        if reply.has_error():
            return reply.error.reason or f"error {reply.error.code}"
        try:
            into[self._name(node)] = confusion_of(reply, self.strategy.federation.classes)
            self._time(reply, node)
        except WRONG as error:
            return f"refused: {error}"
        return None

    def _time(self, reply: Message, node: int) -> None:
        """Add what a client spent on its own model; the unseen have no labels to spend it on."""
        seconds = seconds_of(reply)
        if node in self.persons and seconds is not None:
            self.outcome.evaluations += 1
            self.outcome.evaluation_seconds += seconds

    def _mean(self, number: int, confusions: Confusions) -> float | None:
        told = {name: counts for name, counts in confusions.items() if counts.any()}
        scores = {name: self.watch.score(counts) for name, counts in told.items()}
        self.watch.people(number, scores)
        return float(np.mean(list(scores.values()))) if scores else None

    def _fault(self, node: int, text: str) -> None:
        name, line = self._name(node), " | ".join(text.split("\n"))[:500]
        if name not in self.outcome.failures:
            self.watch.tell(f"{self.outcome.strategy}: {name} left out of {line}")
        self.outcome.failures.setdefault(name, []).append(line)

    def _name(self, node: int) -> str:
        return self.persons.get(node) or self.unseen.get(node) or str(node)

    def _forget(self) -> None:
        """Strategies of one run share the devices, not what the devices keep."""
        if isinstance(self.grid, Resettable):
            self.grid.restore({})

    def _checkpoint(self, number: int, arrays: ArrayRecord) -> None:
        states = self.grid.states() if isinstance(self.grid, Devices) else {}
        self.watch.save(
            Checkpoint(
                self.identity,
                number,
                arrays,
                self._state(),
                dict(states),
                progress_of(self.outcome),
                self._course(),
                self._flights(),
            )
        )

    def _state(self) -> dict[str, NDArray[Any]]:
        state = self.strategy.state()
        try:
            return savable(state)
        except TypeError as error:
            raise RoundsError(f"strategy {self.outcome.strategy!r}: {error}") from error

    def _course(self) -> dict[str, Any]:
        """Where things stand between two rounds, as JSON."""
        return {"grid": self.grid.course()} if isinstance(self.grid, Resumable) else {}

    def _flights(self) -> dict[int, NDArray[np.float32]]:
        """Weights sent to devices that are at work, by node."""
        return {}

    def _go_on(self, checkpoint: Checkpoint) -> None:
        """Take up what ``_course`` and ``_flights`` told."""
        if isinstance(self.grid, Resumable):
            self.grid.go_on(checkpoint.course["grid"])

    def _restore(self, checkpoint: Checkpoint) -> ArrayRecord:
        name = self.outcome.strategy
        try:
            self.strategy.load(checkpoint.state)
            if isinstance(self.grid, Resettable):
                self.grid.restore(checkpoint.devices)
            self._go_on(checkpoint)
            self.outcome = outcome_of(name, checkpoint.progress)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            said = " ".join(str(error).split())
            raise CheckpointError(
                f"{name}: its checkpoint does not fit this run: {said}"
            ) from error
        return checkpoint.arrays


def record_of(
    number: int,
    cohort: int,
    parts: list[Admitted],
    seconds: float,
    score: float | None,
) -> RoundRecord:
    """What came of a round, from all replies to it."""
    updates = [update for part in parts for update in part.updates]
    # Who learned from no window (it told its condition alone, say) says 0, which is no loss.
    losses = [_metric(update, "loss") for update in updates if _metric(update, "num-examples")]
    return RoundRecord(
        round=number,
        cohort=cohort,
        loss=float(np.mean(losses)) if losses else float("nan"),
        failures=sum(len(part.failures) for part in parts),
        bytes_down=sum(part.bytes_down for part in parts),
        bytes_up=sum(part.bytes_up for part in parts),
        seconds=seconds,
        macro_f1=score,
        late=sum(len(part.late) for part in parts),
    )


def _own(messages: Iterable[Message]) -> list[Message]:
    """Give every device records of its own: Flower's strategies send all of them the same one."""
    owned = []
    for message in messages:
        content = RecordDict()
        for name, arrays in message.content.array_records.items():
            content[name] = own_arrays(arrays)
        for name, config in message.content.config_records.items():
            content[name] = ConfigRecord(dict(config))
        owned.append(
            Message(
                content,
                dst_node_id=message.metadata.dst_node_id,
                message_type=message.metadata.message_type,
                group_id=message.metadata.group_id,
            )
        )
    return owned


def _metric(update: Message, name: str) -> float:
    return float(update.content.metric_records["metrics"][name])  # type: ignore[arg-type]


__all__ = ["Rounds", "RoundsError", "Watch", "outcome_of", "progress_of", "record_of"]
