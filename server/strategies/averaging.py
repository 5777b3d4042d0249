"""FedAvg and FedProx as Flower has them, on the devices' plans.

FedAvg: McMahan et al., arXiv:1602.05629, algorithm 1. FedProx: Li et al., arXiv:1812.06127,
algorithm 2. Both papers have plain SGD on the devices; here it is Adam, or SGD with momentum, new
in every round. Batch norms' statistics, which neither paper speaks of, are averaged like weights.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from pydantic import Field

from schemas.base import Strict
from server.federation import Federation
from server.strategies.base import (
    EdgeStrategy,
    Finetune,
    Finetunes,
    Local,
    answered,
    classifier_plans,
    config_of,
    request,
    start_vector,
)
from server.strategies.buffered import Buffered, Returned, averaged


class FedAvg(flower.FedAvg, EdgeStrategy, Buffered):
    """Average the cohort's models, weighted by labelled windows (``flwr``'s own FedAvg)."""

    class Parameters(Local, Finetune):
        """``[strategies.fedavg]``."""

    needs_labels: ClassVar[bool] = True

    def __init__(self, federation: Federation, parameters: Strict) -> None:
        EdgeStrategy.__init__(self, federation, parameters)
        flower.FedAvg.__init__(self, **_sampling(federation))
        self.plans = classifier_plans(federation)

    def initial(self) -> ArrayRecord:
        """The classifier."""
        return start_vector(self.federation, self.parameters.start)

    def train_config(self) -> ConfigRecord:
        """Learn on the labelled windows."""
        return config_of(self.plans.plan(stages=(self.plans.local(self.parameters),)))

    def evaluate_config(self) -> ConfigRecord:
        """Personalise, as the parameters say."""
        return config_of(self.plans.evaluation(self.parameters))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Flower's, where the whole cohort is there; else it would wait: ask who is."""
        there = len(list(grid.get_node_ids()))
        self.min_train_nodes = min(self.federation.cohort, there)
        return flower.FedAvg.configure_train(self, server_round, arrays, config, grid)

    def ask(
        self,
        nodes: Sequence[int],
        arrays: ArrayRecord,
        config: Mapping[str, Any],
        number: int,
        version: int,
    ) -> list[Message]:
        """The same weights to all."""
        return [request(node, MessageType.TRAIN, arrays, config, number) for node in nodes]

    def absorb(
        self, version: int, arrays: ArrayRecord, returned: Sequence[Returned]
    ) -> ArrayRecord:
        """Add the changes' weighted mean."""
        return averaged(arrays, returned)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Flower's weighted mean; who learned from no window weighs nothing."""
        counted = [
            reply
            for reply in answered(replies)
            if reply.content.metric_records["metrics"]["num-examples"] != 0
        ]
        return super().aggregate_train(server_round, counted)

    def summary(self) -> None:
        """Say nothing: the run's own report does."""


class FinetunedFedAvg(FedAvg):
    """FedAvg, then every device learns on from the average."""

    class Parameters(FedAvg.Parameters):
        """``[strategies.fedavg-finetune]``."""

        finetune: Finetunes = True


class FedProx(flower.FedProx, FedAvg):
    """FedAvg with a pull towards the received model (``flwr``'s own FedProx).

    A device minimises F(w) + μ/2‖w − wₜ‖², equation 2, and the pull's gradient goes through the
    optimizer with the loss's. In a few steps of a small rate w hardly leaves wₜ, and the pull is
    hardly felt. The mean is weighted by labelled windows, as Flower's; the paper's is plain, of
    devices that are drawn by their share of the data.
    """

    class Parameters(FedAvg.Parameters):
        """``[strategies.fedprox]``."""

        mu: float = Field(0.1, gt=0, le=100, description="Strength of the pull, μ/2‖w − wₜ‖².")

    def __init__(self, federation: Federation, parameters: Strict) -> None:
        FedAvg.__init__(self, federation, parameters)
        self.proximal_mu = self.parameters.mu

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send μ along, as Flower's FedProx does."""
        return flower.FedProx.configure_train(self, server_round, arrays, config, grid)

    def ask(
        self,
        nodes: Sequence[int],
        arrays: ArrayRecord,
        config: Mapping[str, Any],
        number: int,
        version: int,
    ) -> list[Message]:
        """Send μ along."""
        told = {**config, "proximal-mu": self.proximal_mu}
        return super().ask(nodes, arrays, told, number, version)


def _sampling(federation: Federation) -> dict[str, Any]:
    """Flower's words for: so many a round, evaluate all, wait for nobody."""
    cohort, clients = federation.cohort, len(federation.clients)
    return {
        "fraction_train": cohort / clients,
        "fraction_evaluate": 1.0,
        "min_train_nodes": cohort,
        "min_evaluate_nodes": 1,
        "min_available_nodes": 1,
    }
