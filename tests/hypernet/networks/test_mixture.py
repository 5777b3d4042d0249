"""SemiPFL's mixture: probabilities of base models, weighted."""

import torch
from torch.nn.functional import softmax

from hypernet.networks.inputs import InputSpec
from hypernet.networks.mixture import Mixture

SPEC = InputSpec(20, 6, ((0, 1, 2), (3, 4, 5)))


@torch.no_grad()
def test_a_mixture_is_the_weighted_sum_of_its_models_probabilities():
    torch.manual_seed(0)
    network = Mixture(SPEC, classes=3, sources=2, width=4, latent=5).eval()
    network.combination.copy_(torch.tensor([1.0, -0.5]))
    x = torch.randn(7, 20, 6)
    stats = SPEC.statistics(x)
    z = network.encode(x, *stats)
    weights = softmax(network.combination, 0)
    expected = torch.zeros(7, 3)
    models = network.models
    for m in range(2):
        hidden = (z @ models.weight1[m] + models.bias1[m]).relu()
        expected += weights[m] * softmax(hidden @ models.weight2[m] + models.bias2[m], 1)
    torch.testing.assert_close(network(x, *stats).exp(), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(network(x, *stats).exp().sum(1), torch.ones(7), atol=1e-4, rtol=0)


def test_only_the_combination_can_be_left_to_learn():
    network = Mixture(SPEC, classes=3, sources=2, width=4, latent=5).eval()
    x, y = torch.randn(9, 20, 6), torch.arange(9) % 3
    loss = network.classification_loss(x, y, *SPEC.statistics(x))
    (gradient,) = torch.autograd.grad(loss, network.combination)
    assert gradient.abs().sum() > 0
