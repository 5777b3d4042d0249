"""Devices that live through days: each day one says whether it needs another adapter."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MessageType
from flwr.serverapp import Grid
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from schemas.base import ConfigError, Strict
from schemas.distance import distance
from schemas.drift import CONDITION, RECORD, Choice, Drift
from schemas.npy import array_values
from server.border import WRONG, payload, weights_record
from server.outcome import DayExchange
from server.strategies.base import config_of, request

if TYPE_CHECKING:
    from server.strategies.functional_memory import FunctionalMemoryStrategy

QUERY: Final = "query.drift"
WINDOWS: Final = 256  # of a report, on a device


class Noticing(Strict):
    """When a device that lives through days asks for another adapter."""

    regenerate: Literal["always", "noticed", "never"] = Field(
        "always",
        description="Data of kind days: a person's device asks for an adapter every day, where "
        "its condition has drifted, or on its first day alone.",
    )
    drift_quantile: float = Field(
        0.6,
        gt=0,
        le=1,
        description="Of distances between days of the sources, one person's at a time: a condition "
        "that far from all that a device has adapters for has drifted.",
    )
    kept_adapters: int = Field(
        8, ge=1, le=1024, description="Adapters that a device keeps, to bring back."
    )


def threshold_of(memory: "FunctionalMemoryStrategy") -> float | None:
    """Distance from which a condition has drifted, as ``regenerate`` says.

    Two halves of one day lie nearer together than any two days, so that they tell nothing of which
    days may share an adapter: it is a quantile of distances between a source person's days.

    Raises
    ------
    ConfigError
        Where no person is the source of two days or more.
    """
    settings, federation = memory.settings, memory.federation
    if settings.regenerate != "noticed":
        return 0.0 if settings.regenerate == "always" else None
    told = [_told(memory, x) for x in federation.sources.x]
    pairs = combinations(zip(federation.owners, told, strict=True), 2)
    far = [distance(one, other) for (who, one), (also, other) in pairs if who == also]
    if not far:
        problem = "'noticed' needs two days or more of a source person; see data.source_days"
        raise ConfigError("strategies.functional-memory.regenerate", [problem])
    return float(np.quantile(far, settings.drift_quantile))


@torch.no_grad()
def _told(memory: "FunctionalMemoryStrategy", x: Tensor) -> NDArray[np.float32]:
    """The condition of a source's windows (windows, time, channels), as its device would say."""
    mean, deviation = memory.network.spec.statistics(x.float())
    rows = torch.linspace(0, len(x) - 1, min(len(x), WINDOWS)).long()
    told: NDArray[np.float32] = memory.network.condition(x[rows].float(), mean, deviation).numpy()
    return told


class Stream:
    """Asks devices in the order of days, and answers those that need an adapter.

    A device's condition stays where it is unless it asks.

    Parameters
    ----------
    memory : FunctionalMemoryStrategy
        Its federation says which node is which person's, on which day.
    threshold : float or None
        See ``Drift``.

    Attributes
    ----------
    exchanges : dict[int, DayExchange]
        What each node said the last time, and bytes of the question, its answer and the adapter.
    """

    def __init__(self, memory: "FunctionalMemoryStrategy", threshold: float | None) -> None:
        self.memory, self.lives = memory, memory.federation.lives
        self.drift = Drift(
            backbone=memory.network.version,
            threshold=threshold,
            most=memory.settings.kept_adapters,
        )
        self.exchanges: dict[int, DayExchange] = {}
        first: dict[str, int] = {}
        for person, day in self.lives.values():
            first[person] = min(day, first.get(person, day))
        self._first = {node for node, (p, day) in self.lives.items() if first[p] == day}

    def turns(self, nodes: Iterable[int]) -> list[list[int]]:
        """Nodes by day, in the days' order: a person's device is asked once at a time."""
        days: dict[int, list[int]] = {}
        for node in sorted(nodes):
            days.setdefault(self.lives[node][1], []).append(node)
        return [days[day] for day in sorted(days)]

    def requests(self, nodes: Sequence[int], grid: Grid, server_round: int = 0) -> list[Message]:
        """Ask a day's devices, then make their evaluations: an adapter for those that asked alone.

        Who says nothing, or what cannot be answered, gets the mean condition's adapter, and why
        stands in its exchange.
        """
        asked = [self._question(node, server_round) for node in nodes]
        replies = {r.metadata.src_node_id: r for r in grid.send_and_receive(asked, timeout=None)}
        for question in asked:
            node = question.metadata.dst_node_id
            self.exchanges[node] = self._answer(question, replies.get(node))
        sent = self._evaluations(nodes, server_round)
        for message in sent:
            self.exchanges[message.metadata.dst_node_id].bytes_down += payload(message.content)
        return sent

    def _question(self, node: int, server_round: int) -> Message:
        drift = self.drift.model_copy(update={"begin": node in self._first})
        config = config_of(self.memory.plan((), tell=True, drift=drift))
        return request(node, QUERY, ArrayRecord(), config, server_round)

    def _answer(self, question: Message, reply: Message | None) -> DayExchange:
        exchange = DayExchange("failed", bytes_down=payload(question.content))
        if reply is None or reply.has_error():
            exchange.reason = "no reply" if reply is None else reply.error.reason or "an error"
            return exchange
        try:
            said = reply.content.config_records[RECORD]
            choice, far = said["choice"], float(said.get("distance", 0.0))  # type: ignore[arg-type]
            if choice not in get_args(Choice) or not np.isfinite(far):
                raise ValueError(f"choice {choice!r} at distance {far}")
            if choice == "ask":
                told = array_values(reply.content.array_records["report"][CONDITION])
                self._remember(question.metadata.dst_node_id, told)
            exchange.choice = str(choice)
            exchange.distance = far if "distance" in said else None
            exchange.bytes_up = payload(reply.content)
        except WRONG as error:
            exchange.reason = f"refused: {type(error).__name__}: {error}"
        return exchange

    def _remember(self, node: int, told: NDArray[np.float32]) -> None:
        memory = self.memory.generator
        condition = torch.from_numpy(np.array(told, np.float32))
        self.memory.embeddings[node] = memory.check(condition, self.drift.backbone)

    def _evaluations(self, nodes: Sequence[int], server_round: int) -> list[Message]:
        said = {node: self.exchanges[node].choice for node in nodes}
        made = [node for node in nodes if said[node] in ("ask", "failed")]
        vectors = dict(zip(made, self.memory.vectors(made).numpy(), strict=True)) if made else {}
        kept = config_of(self.memory.evaluation(drift=self.drift))
        plain = config_of(self.memory.evaluation())
        none = np.zeros(0, np.float32)
        return [
            request(
                node,
                MessageType.EVALUATE,
                weights_record(vectors.get(node, none)),
                plain if said[node] == "failed" else kept,
                server_round,
            )
            for node in nodes
        ]
