"""Strategies that can learn from updates as they come, made for weights of different ages.

FedBuff: Nguyen et al., arXiv:2106.06639. A strategy that can do so inherits ``Buffered`` beside
``EdgeStrategy``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from flwr.app import ArrayRecord, Message

from server.border import keep_variances, weights_of, weights_record

_TWINS: Final = {"configure_train": "ask", "aggregate_train": "absorb"}  # of rounds, one by one


@dataclass(frozen=True)
class Returned:
    """An admitted update with what it was made for.

    Attributes
    ----------
    request : Message
        Holds the weights that the device started from.
    update : Message
        Of ``admit``: those weights plus the device's change.
    version : int
        The server's steps when the request was made.
    weight : float
        (1 + staleness)^-a, 1 for an update that is not stale.
    """

    request: Message
    update: Message
    version: int
    weight: float

    @property
    def node(self) -> int:
        """Who made it."""
        return int(self.update.metadata.src_node_id)

    @property
    def examples(self) -> int:
        """Windows that it learned from."""
        return int(self.update.content.metric_records["metrics"]["num-examples"])  # type: ignore[arg-type]


class Buffered(ABC):
    """What a strategy must be able to do to run asynchronously."""

    @abstractmethod
    def ask(
        self,
        nodes: Sequence[int],
        arrays: ArrayRecord,
        config: Mapping[str, Any],
        number: int,
        version: int,
    ) -> list[Message]:
        """Training requests, one a node.

        Parameters
        ----------
        nodes : Sequence[int]
        arrays : ArrayRecord
            The shared arrays, as they are now.
        config : Mapping[str, Any]
            Of ``train_config``.
        number : int
            Told to the devices as the round; no device is told one twice.
        version : int
            The server's steps so far. What pulling a change back will need is kept under it.
        """

    @abstractmethod
    def absorb(
        self, version: int, arrays: ArrayRecord, returned: Sequence[Returned]
    ) -> ArrayRecord:
        """Learn from a full buffer; the new arrays, of step ``version``."""

    def forget(self, versions: set[int]) -> None:  # noqa: B027 - most keep nothing
        """Drop what was kept under other versions than these: nobody works on them any more."""


def unbuffered(cls: type) -> str:
    """Why a class's updates cannot be taken one by one; "" where they can.

    Who overrides what rounds call, and not its twin, would be run as the base that has the twin.
    """
    if not issubclass(cls, Buffered):
        return "it is no Buffered strategy"
    for of_rounds, one_by_one in _TWINS.items():
        own, twin = _definer(cls, of_rounds), _definer(cls, one_by_one)
        if cls.__mro__.index(own) < cls.__mro__.index(twin):
            return (
                f"{own.__module__}.{own.__qualname__} overrides {of_rounds}, and the "
                f"{one_by_one} that would run in its place is {twin.__qualname__}'s"
            )
    return ""


def _definer(cls: type, method: str) -> type:
    """The class whose method an object of ``cls`` has."""
    return next(base for base in cls.__mro__ if method in vars(base))


def averaged(arrays: ArrayRecord, returned: Sequence[Returned]) -> ArrayRecord:
    """FedBuff's step: add the changes' mean by examples, each times its weight.

    Where nothing is stale, this is FedAvg's mean of the models.
    """
    total = sum(one.examples for one in returned)
    if not total:
        return arrays
    before = arrays["weights"].numpy()
    weights = before.astype(np.float64)
    for one in returned:
        share = one.weight * one.examples / total
        weights += share * (weights_of(one.update) - weights_of(one.request).astype(np.float64))
    return weights_record(keep_variances(returned[0].request, weights, before).astype(np.float32))
