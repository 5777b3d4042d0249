"""Part of the model is the device's own and never leaves it.

FedPer: Arivazhagan et al., arXiv:1912.00818. FedRep: Collins et al., arXiv:2102.07078. FedBN: Li et
al., arXiv:2102.07623. Ditto: Li et al., arXiv:2012.04221. Algorithm 1 of each (FedPer: 1 and 2).

What is shared is weighted by labelled windows, as in FedPer and in Flower's FedAvg; FedRep, FedBN
and Ditto take a plain mean. Where all persons have equally many labels the two are the same. Local
steps are ``Local``'s, of Adam by default, in the place of the papers' SGD.
"""

from typing import Any

from flwr.app import ConfigRecord
from pydantic import Field

from server.strategies.averaging import FedAvg
from server.strategies.base import Adapts, config_of


class FedPer(FedAvg):
    """The head stays on the device; the encoder is averaged."""

    class Parameters(FedAvg.Parameters):
        """``[strategies.fedper]``."""

    def personal(self) -> Any:
        """Ranges that stay."""
        return self.plans.head

    def train_config(self) -> ConfigRecord:
        """Learn all of it; return the shared part."""
        stages = (self.plans.local(self.parameters),)
        return config_of(self.plans.plan(stages=stages, personal=self.personal()))

    def evaluate_config(self) -> ConfigRecord:
        """Predict with the device's own part."""
        return config_of(self.plans.evaluation(self.parameters, personal=self.personal()))


class FedBN(FedPer):
    """Batch norms stay on the device, statistics and all.

    Statistics are those of training, as in the paper; there a device trains on all of its windows,
    here on the labelled ones alone. ``adapt`` takes all of them for the statistics.
    """

    class Parameters(FedAvg.Parameters):
        """``[strategies.fedbn]``; the norms are the device's already, so no AdaBN."""

        adapt: Adapts = False

    def personal(self) -> Any:
        """Batch norms' scales, shifts and statistics."""
        return self.plans.norms


class FedRep(FedPer):
    """First the head with the encoder fixed, then the encoder with the head fixed.

    The encoder's weights are: batch norms' running statistics move in both stages, as torch's do.
    A device predicts with the head of its last round, which was fitted to the encoder before that
    round's mean.
    """

    class Parameters(FedAvg.Parameters):
        """``[strategies.fedrep]``."""

        representation_steps: int = Field(
            5, ge=0, le=100_000, description="Least number of steps of the encoder, head fixed."
        )

    def train_config(self) -> ConfigRecord:
        """Two stages; return the encoder."""
        assert isinstance(self.parameters, FedRep.Parameters)
        head = self.plans.local(self.parameters, trainable=self.plans.head)
        body = self.plans.local(self.parameters, trainable=self.plans.body)
        body = body.model_copy(update={"steps": self.parameters.representation_steps, "epochs": 1})
        return config_of(self.plans.plan(stages=(head, body), personal=self.personal()))


class Ditto(FedAvg):
    """FedAvg, and beside it each device's own model, pulled towards the average.

    The own model v starts at the weights that the device first receives, and takes as many steps of
    F(v) + λ/2‖v − wₜ‖² as the shared one takes of F(w), wₜ the weights received this round; the
    pull's gradient goes through the optimizer with the loss's. Who learns from no window keeps v
    as it is.
    """

    class Parameters(FedAvg.Parameters):
        """``[strategies.ditto]``."""

        pull: float = Field(0.1, ge=0, le=100, description="λ of λ/2‖own − shared‖².")

    def train_config(self) -> ConfigRecord:
        """Learn the shared model and, next, the own one."""
        assert isinstance(self.parameters, Ditto.Parameters)
        shared = self.plans.local(self.parameters)
        own = shared.model_copy(update={"proximal": self.parameters.pull})
        return config_of(self.plans.plan(stages=(shared,), own=(own,)))

    def evaluate_config(self) -> ConfigRecord:
        """Predict with the device's own model."""
        return config_of(self.plans.evaluation(self.parameters, predict_own=True))
