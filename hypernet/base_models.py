"""Base models at the server: what is like the user is kept, encoded as the user, and learned."""

import torch
from torch import Tensor

from hypernet.latent import Sample
from hypernet.networks.autoencoder import Autoencoder
from hypernet.networks.mixture import BaseModels


@torch.no_grad()
def kept_latents(
    network: Autoencoder, samples: list[Sample], threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Encode the sources with a user's autoencoder and filter by reconstruction error.

    Parameters
    ----------
    network : Autoencoder
        The user's, in evaluation mode.
    samples : list[Sample]
        One a source, equally many windows each.
    threshold : float
        τ: a window with a larger error is not kept.

    Returns
    -------
    z : (sources, windows, latent)
    y : (sources, windows)
    kept : (sources, windows), bool
    """
    longest = max(len(sample.y) for sample in samples)
    rows = [_encoded(network, sample, threshold, longest) for sample in samples]
    z, y, kept = (torch.stack(column) for column in zip(*rows, strict=True))
    return z, y, kept


def fit_base_models(
    z: Tensor, y: Tensor, kept: Tensor, classes: int, seed: int, steps: int = 150
) -> BaseModels:
    """Train one base model a source on its kept windows, all in one batch (Adam, 1e-2)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        models = BaseModels(len(z), classes, z.shape[2])
    optimizer = torch.optim.Adam(models.parameters(), 1e-2)
    weight = kept / kept.sum(1, keepdim=True).clamp(min=1)
    target = torch.nn.functional.one_hot(y, classes).float()
    for _ in range(steps):
        loss = -(target * torch.log_softmax(models(z), 2)).sum(2)
        optimizer.zero_grad()
        (loss * weight).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return models


def nearness(kept: Tensor) -> Tensor:
    """Combination logits (sources,) for a user without labels: log share of windows kept."""
    share = kept.float().mean(1)
    return (share + 1e-3).log()


def _encoded(
    network: Autoencoder, sample: Sample, threshold: float, longest: int
) -> tuple[Tensor, Tensor, Tensor]:
    z = network.encode(sample.x, sample.mean, sample.deviation)
    kept = network.errors(sample.x, sample.mean, sample.deviation) <= threshold
    missing = longest - len(z)
    return (
        torch.cat([z, z.new_zeros(missing, z.shape[1])]),
        torch.cat([sample.y, sample.y.new_zeros(missing)]),
        torch.cat([kept, kept.new_zeros(missing)]),
    )
