"""Sources in a person's latent space."""

import pytest
import torch

from hypernet.latent import adapt, latent_sources, sample_sources, whitening
from hypernet.networks.norm import norms, set_own
from hypernet.networks.personal import PersonalModel
from hypernet.sources import Sources


def network_for(sources: Sources) -> PersonalModel:
    torch.manual_seed(0)
    return PersonalModel(sources.spec, sources.classes, len(sources), 4, 5).eval()


def test_whitening_makes_the_covariance_the_identity():
    x = torch.randn(500, 6) @ torch.randn(6, 6)
    covariance = x.T @ x / 500
    root = whitening(covariance)
    ridge = 0.05 * covariance.diagonal().mean() * torch.eye(6)
    torch.testing.assert_close(
        root.T @ (covariance + ridge) @ root, torch.eye(6), atol=1e-2, rtol=1e-2
    )


@torch.no_grad()
def test_base_models_are_class_means_of_each_source_with_its_own_norms(sources):
    network = network_for(sources)
    samples = sample_sources(sources, 50)
    before = [buffer.clone() for buffer in network.buffers()]
    found = latent_sources(network, samples, sources.classes)
    assert all(torch.equal(a, b) for a, b in zip(before, network.buffers(), strict=True))
    alone = network_for(sources)
    z = adapt(alone, samples[1])
    expected = z[samples[1].y == 2].mean(0) @ found.whiten
    torch.testing.assert_close(found.base[1, 2], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_share_of_own_statistics_is_the_network_s(sources):
    sample = sample_sources(sources, 50)[0]
    whole, half = network_for(sources), network_for(sources)
    set_own(whole, 1.0)
    adapt(whole, sample)
    adapt(half, sample)
    for one, other in zip(norms(whole)[:1], norms(half)[:1], strict=True):
        start = norms(network_for(sources))[0].mean
        torch.testing.assert_close(other.mean, (start + one.mean) / 2)


@torch.no_grad()
def test_a_class_that_a_source_lacks_has_the_others_mean(sources):
    lacking = Sources(
        sources.spec,
        [sources.x[0], sources.x[1][sources.y[1] != 0], sources.x[2]],
        [sources.y[0], sources.y[1][sources.y[1] != 0], sources.y[2]],
        sources.classes,
    )
    found = latent_sources(network_for(lacking), sample_sources(lacking, 50), 3)
    assert found.base.isfinite().all()
    torch.testing.assert_close(
        found.base[1, 0], found.base[[0, 2], 0].mean(0), atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
def test_a_class_that_no_source_has_is_named_as_lacking(sources):
    known = [y.clamp(max=1) for y in sources.y]
    without = Sources(sources.spec, sources.x, known, 3)
    found = latent_sources(network_for(without), sample_sources(without, 50), 3)
    assert found.lacking == without.lacking == (2,)
    assert not found.base[:, 2].any()
    assert latent_sources(network_for(sources), sample_sources(sources, 50), 3).lacking == ()


@pytest.mark.parametrize("most", [1, 4])
def test_a_sample_takes_at_most_so_many_windows_of_each_class(sources, most):
    for sample, y in zip(sample_sources(sources, most), sources.y, strict=True):
        counts = torch.bincount(sample.y, minlength=3)
        assert torch.equal(counts, torch.bincount(y, minlength=3).clamp(max=most))
