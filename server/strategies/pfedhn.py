"""pFedHN: a hypernetwork over the clients' classifiers (Shamsian et al., arXiv:2103.04628)."""

from collections.abc import Iterable
from typing import ClassVar

from flwr.app import ConfigRecord
from flwr.serverapp import Grid
from pydantic import Field
from torch import from_numpy

from schemas.base import Strict
from server.federation import Federation
from server.strategies.base import (
    Finetune,
    Local,
    classifier_plans,
    config_of,
    start_vector,
)
from server.strategies.generated import GeneratedStrategy, Generating


class PFedHN(GeneratedStrategy):
    """Generate each client's classifier from its embedding; pull its supervised change back.

    Algorithm 1, for a cohort at once: φ moves by the mean of (∂θ/∂φ)ᵀΔ with Adam, each v by its own
    (∂θ/∂v)ᵀΔ with plain SGD. The public code takes one client a step, and SGD with momentum for
    both. Generated is a residual, in units of ``scale``, on a centre that all share and that starts
    at the sources' model; batch norms' statistics are shared. Unseen persons, who have no label
    to fit an embedding to, get the weights of the mean one.
    """

    class Parameters(Generating, Local, Finetune):
        """``[strategies.pfedhn]``."""

        epochs: int = Field(2, ge=0, le=1000, description="Passes over the labelled windows.")

    needs_labels: ClassVar[bool] = True

    def __init__(self, federation: Federation, parameters: Strict) -> None:
        super().__init__(federation, parameters)
        self.plans = classifier_plans(federation)
        start = start_vector(federation, self.settings.start)["weights"].numpy()
        self.begin(from_numpy(start), self.plans.spec.trainable_length)

    def train_config(self) -> ConfigRecord:
        """Learn on the labelled windows."""
        return config_of(self.plans.plan(stages=(self.plans.local(self.settings),)))

    def evaluate_config(self) -> ConfigRecord:
        """Personalise, as the parameters say."""
        return config_of(self.plans.evaluation(self.settings))

    def join(self, nodes: Iterable[int], grid: Grid) -> None:
        """Give every unseen person the mean of the known embeddings."""
        known = self.condition(sorted(self.federation.clients))
        for node in nodes:
            self.embeddings[node] = known.mean(0)
