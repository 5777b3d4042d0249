"""Base models: the filter, the fit, and the rule for users without labels."""

import torch

from hypernet.base_models import fit_base_models, kept_latents, nearness
from hypernet.latent import sample_sources
from hypernet.networks.autoencoder import Autoencoder


@torch.no_grad()
def test_a_window_is_kept_where_its_error_is_at_most_the_threshold(sources):
    network = Autoencoder(sources.spec, 4, 5).eval()
    samples = sample_sources(sources, 20)
    errors = network.errors(samples[0].x, samples[0].mean, samples[0].deviation)
    threshold = float(errors.median())
    z, y, kept = kept_latents(network, samples, threshold)
    count = len(samples[0].y)
    assert torch.equal(kept[0, :count], errors <= threshold)
    assert not kept[:, max(len(s.y) for s in samples) :].any()
    assert torch.equal(y[0, :count], samples[0].y)
    expected = network.encode(samples[0].x, samples[0].mean, samples[0].deviation)
    assert torch.equal(z[0, :count], expected)


def test_each_base_model_learns_its_own_source_and_what_was_kept_only():
    torch.manual_seed(0)
    y = torch.arange(30) % 3
    z = torch.eye(3)[y] * 3 + 0.1 * torch.randn(30, 3)
    other = (y + 1) % 3
    kept = torch.ones(2, 30, dtype=torch.bool)
    kept[0, y == 2] = False
    models = fit_base_models(torch.stack([z, z]), torch.stack([y, other]), kept, 3, seed=0)
    with torch.no_grad():
        guess = models(torch.stack([z, z])).argmax(2)
    assert (guess[0] == y)[y != 2].all()
    assert (guess[1] == other).all()
    assert not (guess[0] == y)[y == 2].any(), "what was filtered out was learned"


def test_the_fit_is_the_same_for_the_same_seed_and_leaves_the_global_generator():
    z, y = torch.randn(1, 8, 4), torch.zeros(1, 8, dtype=torch.int64)
    kept = torch.ones(1, 8, dtype=torch.bool)
    state = torch.get_rng_state()
    one, two = (fit_base_models(z, y, kept, 2, seed=5, steps=3) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.weight1, two.weight1)


def test_a_source_of_which_more_is_kept_weighs_more():
    kept = torch.tensor([[True, True, True, False], [True, False, False, False]])
    weights = nearness(kept).softmax(0)
    torch.testing.assert_close(weights, torch.tensor([0.75, 0.25]), atol=2e-3, rtol=0)
