"""The rounds of one strategy: with checkpoints, evaluation by person, and faults left out.

Flower's own ``Strategy.start`` cannot resume and tells nothing by device; this loop calls the
same four methods of any Flower strategy.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from server.border import WRONG, Admitted, admit, confusion_of, payload
from server.checkpoint import Checkpoint, CheckpointError
from server.install import install
from server.outcome import Outcome, RoundRecord
from server.strategies.base import EdgeStrategy, own_arrays
from server.view import GridView

Confusions = dict[str, NDArray[np.int64]]


class Devices(Protocol):
    """A grid whose devices' own state a checkpoint can hold."""

    def states(self) -> Mapping[int, bytes]:
        """What each device keeps."""

    def restore(self, states: Mapping[int, bytes]) -> None:
        """Give it back."""


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
    """

    on_round: Callable[[RoundRecord], None]
    save: Callable[[Checkpoint], None]
    score: Callable[[NDArray[np.int64]], float]
    tell: Callable[[str], None]


class Rounds:
    """Runs one strategy.

    Parameters
    ----------
    name : str
        The strategy's.
    strategy : EdgeStrategy
    grid : Grid
        With ``states`` and ``restore`` where devices keep something (see ``Devices``).
    persons, unseen : dict[int, str]
        Names by node: who takes part, and who only meets the result.
    rounds : int
    watch : Watch
    identity : str
        Of the run, for its checkpoints.
    """

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
        self.outcome = Outcome(name)

    def run(self, resume: Checkpoint | None = None) -> Outcome:
        """Run all rounds, or those that a checkpoint lacks, and evaluate everyone."""
        arrays, done = self.strategy.initial(), 0
        self._forget()
        if resume is not None:
            arrays, done = self._restore(resume), resume.round
        started = time.perf_counter() - self.outcome.wall_seconds
        train_config = self.strategy.train_config()
        evaluate_config = self.strategy.evaluate_config()
        graphs = self.strategy.federation.graphs.graphs
        install(self.grid, graphs, self.config.cohort.timeout_seconds)
        for number in range(done + 1, self.rounds + 1):
            arrays = self._round(number, arrays, train_config, evaluate_config)
            self.outcome.wall_seconds = time.perf_counter() - started
            self._checkpoint(number, arrays)
        self._finish(arrays, evaluate_config)
        self.outcome.wall_seconds = time.perf_counter() - started
        return self.outcome

    def _round(
        self, number: int, arrays: ArrayRecord, train: ConfigRecord, evaluate: ConfigRecord
    ) -> ArrayRecord:
        began = time.perf_counter()
        # Flower's strategies sample with the global generator: seed it, so that a resumed run
        # draws the cohorts that an unbroken one would have drawn.
        random.seed(f"{self.config.seed} {number}")
        requests = _own(
            self.strategy.configure_train(number, arrays, ConfigRecord(dict(train)), self.clients)
        )
        admitted = self._ask(requests)
        aggregated, _ = self.strategy.aggregate_train(number, admitted.updates)
        arrays = aggregated if aggregated is not None else arrays
        score = None
        if number % self.config.evaluate_every == 0 and number < self.rounds:
            score = self._mean(self._evaluate(number, arrays, evaluate, self.persons))
        self._record(number, requests, admitted, score, time.perf_counter() - began)
        return arrays

    def _ask(self, requests: list[Message]) -> Admitted:
        timeout = self.config.cohort.timeout_seconds
        replies = self.grid.send_and_receive(requests, timeout=None) if requests else []
        return admit(requests, replies, self.config.upload.max_norm, timeout)

    def _record(
        self,
        number: int,
        requests: list[Message],
        admitted: Admitted,
        score: float | None,
        seconds: float,
    ) -> None:
        outcome = self.outcome
        losses = [_metric(update, "loss") for update in admitted.updates]
        outcome.client_updates += len(admitted.updates)
        outcome.device_seconds += sum(_metric(u, "seconds") for u in admitted.updates)
        outcome.bytes_down += admitted.bytes_down
        outcome.bytes_up += admitted.bytes_up
        for node, reason in admitted.failures.items():
            self._fault(node, f"round {number}: {reason}")
        record = RoundRecord(
            round=number,
            cohort=len(requests),
            loss=float(np.mean(losses)) if losses else float("nan"),
            failures=len(admitted.failures),
            bytes_down=admitted.bytes_down,
            bytes_up=admitted.bytes_up,
            seconds=seconds,
            macro_f1=score,
        )
        outcome.rounds.append(record)
        self.watch.on_round(record)

    def _finish(self, arrays: ArrayRecord, config: ConfigRecord) -> None:
        """Evaluate all clients, take the unseen in and evaluate them."""
        last = self.rounds
        down = 0 if self.outcome.client_updates else None
        self.outcome.confusion = self._evaluate(last, arrays, config, self.persons, down)
        if self.unseen:
            view = GridView(self.grid, self.unseen)
            self.strategy.join(sorted(self.unseen), view)
            self.outcome.unseen = self._evaluate(last, arrays, config, self.unseen, down)
        score = self._mean(self.outcome.confusion)
        if self.outcome.rounds:
            self.outcome.rounds[-1].macro_f1 = score
            self.watch.on_round(self.outcome.rounds[-1])
        else:
            record = RoundRecord(0, 0, float("nan"), 0, 0, 0, 0.0, score)
            self.outcome.rounds.append(record)
            self.watch.on_round(record)

    def _evaluate(
        self,
        number: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        persons: Mapping[int, str],
        bytes_down: int | None = 0,
    ) -> Confusions:
        """Counts by person; who fails is left out and named.

        Where nobody trains, evaluation is the one participation: its download is counted
        (``bytes_down`` None).
        """
        view = GridView(self.grid, persons)
        requests = _own(
            self.strategy.configure_evaluate(number, arrays, ConfigRecord(dict(config)), view)
        )
        replies = list(self.grid.send_and_receive(requests, timeout=None))
        answered = {reply.metadata.src_node_id: reply for reply in replies}
        confusions: Confusions = {}
        for request in requests:
            node = request.metadata.dst_node_id
            reason = self._take_counts(answered.get(node), node, confusions)
            if reason:
                self._fault(node, f"evaluation after round {number}: {reason}")
        if bytes_down is None:
            self.outcome.bytes_down += sum(payload(request.content) for request in requests)
        return confusions

    def _take_counts(self, reply: Message | None, node: int, into: Confusions) -> str | None:
        if reply is None:
            return "no reply"
        if reply.has_error():
            return reply.error.reason or f"error {reply.error.code}"
        try:
            into[self._name(node)] = confusion_of(reply, self.strategy.federation.classes)
        except WRONG as error:
            return f"refused: {error}"
        return None

    def _mean(self, confusions: Confusions) -> float | None:
        scores = [self.watch.score(confusion) for confusion in confusions.values()]
        return float(np.mean(scores)) if scores else None

    def _fault(self, node: int, text: str) -> None:
        name, line = self._name(node), " | ".join(text.split("\n"))[:500]
        if name not in self.outcome.failures:
            self.watch.tell(f"{self.outcome.strategy}: {name} left out of {line}")
        self.outcome.failures.setdefault(name, []).append(line)

    def _name(self, node: int) -> str:
        return self.persons.get(node) or self.unseen.get(node) or str(node)

    def _forget(self) -> None:
        """Strategies of one run share the devices, not what the devices keep."""
        if hasattr(self.grid, "restore"):
            self.grid.restore({})

    def _checkpoint(self, number: int, arrays: ArrayRecord) -> None:
        states = self.grid.states() if hasattr(self.grid, "states") else {}
        self.watch.save(
            Checkpoint(
                self.identity,
                number,
                arrays,
                self.strategy.state(),
                dict(states),
                progress_of(self.outcome),
            )
        )

    def _restore(self, checkpoint: Checkpoint) -> ArrayRecord:
        name = self.outcome.strategy
        try:
            self.strategy.load(checkpoint.state)
            if hasattr(self.grid, "restore"):
                self.grid.restore(checkpoint.devices)
            self.outcome = outcome_of(name, checkpoint.progress)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            said = " ".join(str(error).split())
            raise CheckpointError(
                f"{name}: its checkpoint does not fit this run: {said}"
            ) from error
        return checkpoint.arrays


def progress_of(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON can hold it."""
    fields = asdict(outcome)
    for part in ("confusion", "unseen"):
        fields[part] = {name: counts.tolist() for name, counts in getattr(outcome, part).items()}
    for record in fields["rounds"]:
        record["loss"] = None if np.isnan(record["loss"]) else record["loss"]
    return fields


def outcome_of(strategy: str, progress: dict[str, Any]) -> Outcome:
    """The outcome that ``progress_of`` wrote."""
    fields = {**progress, "strategy": strategy}
    records = [
        {**r, "loss": float("nan") if r["loss"] is None else r["loss"]} for r in fields["rounds"]
    ]
    fields["rounds"] = [RoundRecord(**record) for record in records]
    for part in ("confusion", "unseen"):
        fields[part] = {n: np.asarray(c, np.int64) for n, c in fields[part].items()}
    return Outcome(**fields)


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


__all__ = ["Rounds", "Watch", "outcome_of", "progress_of"]
