"""No federation: each device alone, or the sources' model as it is or tuned."""

from collections.abc import Iterable
from typing import ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid

from schemas.base import Strict
from server.federation import Federation
from server.strategies.base import (
    Adapts,
    BodyEpochs,
    BodySteps,
    EdgeStrategy,
    Few,
    Finetune,
    Finetunes,
    classifier_plans,
    config_of,
    request,
    start_vector,
)


class Unfederated(EdgeStrategy):
    """One vector for everyone, sent once. No rounds: what is personal happens on the device."""

    rounds: ClassVar[int | None] = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nobody."""
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Keep what is there."""
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The same weights and plan to every device."""
        nodes = sorted(grid.get_node_ids())
        return [request(n, MessageType.EVALUATE, arrays, config, server_round) for n in nodes]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Leave the counts to the run."""
        return None


class SourceModel(Unfederated):
    """The model trained on the sources, sent once."""

    class Parameters(Finetune):
        """``[strategies.source]``."""

        adapt: Adapts = False

    def __init__(self, federation: Federation, parameters: Strict) -> None:
        super().__init__(federation, parameters)
        self.plans = classifier_plans(federation)

    def initial(self) -> ArrayRecord:
        """The sources' classifier."""
        return start_vector(self.federation, "source")

    def evaluate_config(self) -> ConfigRecord:
        """Personalise, as the parameters say."""
        return config_of(self.plans.evaluation(self.parameters))


class AdaptedSource(SourceModel):
    """The sources' model with AdaBN on each device.

    Li et al., arXiv:1603.04779, algorithm 1; but running statistics become a mix of the sources'
    and the person's own, layer by layer. ``model.own_statistics`` is the person's share, 1 there.
    """

    class Parameters(Finetune):
        """``[strategies.adabn]``."""


class FinetunedSource(SourceModel):
    """The sources' model, AdaBN, then fine-tuning on each device's labels."""

    class Parameters(Finetune):
        """``[strategies.finetune]``."""

        finetune: Finetunes = True

    needs_labels: ClassVar[bool] = True


class LocalOnly(SourceModel):
    """Each device alone, from an untrained network, on its own labels.

    As fine-tuning does, it keeps batch norms' statistics fixed while it learns: those that AdaBN
    measured on the untrained network.
    """

    class Parameters(Finetune):
        """``[strategies.local]``."""

        finetune: Finetunes = True
        few: Few = 0
        body_steps: BodySteps = 300
        body_epochs: BodyEpochs = 10

    needs_labels: ClassVar[bool] = True

    def initial(self) -> ArrayRecord:
        """An untrained classifier."""
        return start_vector(self.federation, "random")
