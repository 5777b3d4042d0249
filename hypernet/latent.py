"""The sources in a person's latent space: class means by source, and a shared covariance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from hypernet.networks.norm import adapt_norms, rest_norms
from hypernet.sources import Sources

RIDGE: Final = 0.05  # share of the mean variance added to the covariance's diagonal


@dataclass(frozen=True)
class Sample:
    """Some windows of each class of one source, with the person's input statistics.

    Attributes
    ----------
    x : (windows, time, channels)
    y : (windows,)
    mean, deviation : (features,)
    """

    x: Tensor
    y: Tensor
    mean: Tensor
    deviation: Tensor


@dataclass(frozen=True)
class LatentSources:
    """What base models are made of.

    Attributes
    ----------
    whiten : (latent, latent)
        W with Σ⁻¹ = W Wᵀ; Σ is the covariance within class and person.
    base : (sources, classes, latent)
        Class means, whitened. A class that a source lacks has the others' mean.
    lacking : tuple[int, ...]
        Classes that no source has: their means are zeros, and mean nothing.
    """

    whiten: Tensor
    base: Tensor
    lacking: tuple[int, ...] = ()


def sample_sources(sources: Sources, windows_per_class: int) -> list[Sample]:
    """Take evenly spread windows of each source and class."""
    samples = []
    for x, y in zip(sources.x, sources.y, strict=True):
        rows = torch.cat([_spread(y, label, windows_per_class) for label in range(sources.classes)])
        mean, deviation = sources.spec.statistics(x.float())
        samples.append(Sample(x[rows].float(), y[rows], mean, deviation))
    return samples


def adapt(network: nn.Module, sample: Sample) -> Tensor:
    """AdaBN on a sample; return its latent vectors. The network's statistics are changed."""
    adapt_norms(network)
    try:
        latent: Tensor = network.encode(sample.x, sample.mean, sample.deviation)  # type: ignore[operator]
    finally:
        rest_norms(network)
    return latent


@torch.no_grad()
def latent_sources(
    network: nn.Module,
    samples: list[Sample],
    classes: int,
    prepare: Callable[[Sample], None] = lambda _: None,
) -> LatentSources:
    """Encode the sources, each with its own batch-norm statistics, and sum them up.

    Parameters
    ----------
    network : nn.Module
        With ``encode(x, mean, deviation)``; as it was when this returns.
    samples, classes
        See ``sample_sources``.
    prepare : callable
        Makes the network a source's own, before AdaBN; its parameters stay the last one's.
    """
    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
    means, scatter, count = [], torch.zeros(0), 0
    for sample in samples:
        network.load_state_dict(kept, strict=False)
        prepare(sample)
        z = adapt(network, sample)
        mean = torch.stack([_mean(z[sample.y == label]) for label in range(classes)])
        centred = z - mean[sample.y]
        scatter = centred.T @ centred + (scatter if scatter.numel() else 0)
        count += len(z)
        means.append(mean)
    network.load_state_dict(kept, strict=False)
    found = torch.stack(means)
    nobody = found.isnan().all(2).all(0)
    lacking = tuple(int(label) for label in nobody.nonzero())
    whiten = whitening(scatter / count)
    return LatentSources(whiten, _without_gaps(found) @ whiten, lacking)


@torch.no_grad()
def pooled_means(network: nn.Module, samples: list[Sample], classes: int) -> Tensor:
    """Class means of the sources before the encoder's last layers, each source with AdaBN.

    Parameters
    ----------
    network : nn.Module
        With ``spec`` and ``encoder.pool``; as it was when this returns.

    Returns
    -------
    (sources, classes, pooled). A class that a source lacks has the others' mean; one that no source
    has, zeros (``Sources.lacking``).
    """
    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
    means = []
    for sample in samples:
        network.load_state_dict(kept, strict=False)
        adapt(network, sample)
        x = network.spec.normalise(sample.x, sample.mean, sample.deviation)  # type: ignore[operator, union-attr]
        pooled = network.encoder.pool(x)  # type: ignore[operator, union-attr]
        means.append(torch.stack([_mean(pooled[sample.y == label]) for label in range(classes)]))
    network.load_state_dict(kept, strict=False)
    return _without_gaps(torch.stack(means))


def whitening(covariance: Tensor) -> Tensor:
    """W (latent, latent) with Σ⁻¹ = W Wᵀ, Σ with a ridge on its diagonal."""
    size = len(covariance)
    ridge = RIDGE * covariance.diagonal().mean() + 1e-6
    root: Tensor = torch.linalg.cholesky(torch.linalg.inv(covariance + ridge * torch.eye(size)))
    return root


def _spread(y: Tensor, label: int, most: int) -> Tensor:
    rows = torch.nonzero(y == label).flatten()
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most).long()]


def _mean(z: Tensor) -> Tensor:
    return z.mean(0) if len(z) else torch.full(z.shape[1:], float("nan"))


def _without_gaps(means: Tensor) -> Tensor:
    """Of (sources, classes, numbers): the others' mean where a source lacks a class, or zeros."""
    return torch.where(means.isnan(), means.nanmean(0).nan_to_num(), means)
