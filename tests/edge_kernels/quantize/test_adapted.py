"""A backbone with an adapter, as a person's model, is plain layers: the adapter is merged."""

import numpy as np
import pytest
import torch

from edge_kernels.integer.net import Product
from edge_kernels.quantize.evaluate import run as evaluate
from edge_kernels.quantize.files import load
from edge_kernels.quantize.quantizer import inputs
from edge_kernels.quantize.reader import read
from hypernet.condition import CONDITIONERS
from hypernet.inference import inference_graph
from hypernet.latent import LatentSources
from hypernet.networks.adapted import AdaptedClassifier
from hypernet.networks.personal import Mixing
from hypernet.networks.refined import RefinedClassifier
from hypernet.parameters import load_vector, vector_of

WIDTHS, CLASSES, LATENT = [4, 8, 8, 6], 3, 6  # of the tests' small classifier


@pytest.mark.parametrize(
    ("adapter", "refined"),
    [
        ("lora", True),
        ("lora", False),
        ("bone", False),
        ("compacter", False),
        ("rows", True),
        ("scale-shift", True),
    ],
)
def test_it_is_read_as_the_backbone_s_own_layers(network, windows, adapter, refined):
    torch.manual_seed(2)
    options = {"layers": "last" if refined else "all"}
    kind = AdaptedClassifier
    if refined:
        kind = RefinedClassifier
        sources = LatentSources(torch.eye(LATENT), torch.randn(2, CLASSES, LATENT))
        options |= {"mixing": Mixing(iterations=2), "sources": sources, "guard": 0.0}
    conditioner = CONDITIONERS["prototypes"](WIDTHS, CLASSES, 0.0)
    made = kind(network("classifier"), adapter, 2, 0.5, conditioner, **options).eval()
    x = torch.from_numpy(windows(30))
    statistics = made.spec.statistics(x)
    vector = vector_of(made)
    weights = vector + 0.1 * torch.rand_like(vector)
    split = read(load(inference_graph(made, "forward", weights, *statistics)))
    assert sum(isinstance(step, Product) for step in split.net.steps) == 5
    load_vector(made, weights)
    with torch.no_grad():
        expected = made(x, *statistics).numpy()
    found = evaluate(split.net, inputs(split, x.numpy()))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
