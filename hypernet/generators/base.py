"""The seam of all generators: conditions to weights, and changes of weights back."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class WeightGenerator(nn.Module, ABC):
    """Maps conditions (an embedding, a summary of data) to a network's trainable vector.

    A device returns Δ = θ − θ̃, where θ was generated and θ̃ is what the device learned from it. The
    vector–Jacobian products g_φ = (∂θ/∂φ)ᵀΔ and g_v = (∂θ/∂v)ᵀΔ are the gradient of ½‖θ̃ − h(v; φ)‖²
    (pFedHN, arXiv:2103.04628).
    """

    @abstractmethod
    def generate(self, conditions: Tensor) -> Tensor:
        """Conditions (cohort, condition) → weights (cohort, length), differentiable."""

    def pull_back(self, conditions: Tensor, deltas: Tensor) -> Tensor:
        """Accumulate (∂θ/∂φ)ᵀΔ, averaged over the cohort, in the parameters' ``grad``.

        One forward and one backward pass serve the whole cohort.

        Parameters
        ----------
        conditions : (cohort, condition)
        deltas : (cohort, length)
            Δ = generated − learned, one a device.

        Returns
        -------
        (cohort, condition)
            (∂θ/∂v)ᵀΔ of each device: its own, not averaged.

        Raises
        ------
        ValueError
            Where there is no device, counts differ or a change is not finite; nothing is
            accumulated then.
        """
        if len(conditions) != len(deltas) or not len(deltas):
            raise ValueError(f"{len(conditions)} conditions and {len(deltas)} changes")
        if not bool(torch.isfinite(deltas).all()):
            raise ValueError("a change holds NaN or infinity")
        leaves = conditions.detach().requires_grad_()
        weights = self.generate(leaves)
        if weights.shape != deltas.shape:
            raise ValueError(f"changes {tuple(deltas.shape)}; expected {tuple(weights.shape)}")
        parameters = [p for p in self.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(
            weights, [leaves, *parameters], grad_outputs=deltas, allow_unused=True
        )
        for parameter, gradient in zip(parameters, gradients[1:], strict=True):
            if gradient is not None:
                share = gradient / len(deltas)
                parameter.grad = share if parameter.grad is None else parameter.grad + share
        return torch.zeros_like(leaves) if gradients[0] is None else gradients[0]
