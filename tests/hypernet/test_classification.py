"""The generator's steps on the sources' labels."""

import torch

from hypernet.classification import SourceClassification
from hypernet.generators.hypernetwork import Hypernetwork
from hypernet.networks.autoencoder import Autoencoder
from hypernet.networks.losses import cross_entropy
from hypernet.parameters import ParameterSpec, load_vector, vector_of
from hypernet.virtual_users import STILL, VirtualUsers


def test_the_batched_loss_equals_one_network_at_a_time(sources):
    torch.manual_seed(0)
    network = Autoencoder(sources.spec, 4, 5).eval()
    head = torch.nn.Linear(5, 3)
    size = ParameterSpec.of(network).trainable_length
    start = vector_of(network)
    generator = Hypernetwork(start[:size], 2, hidden=8, code=4, chunk=64)
    torch.nn.init.normal_(generator.head.weight, std=0.1)
    embeddings = torch.randn(3, 2)

    def users() -> VirtualUsers:
        return VirtualUsers(sources, STILL, torch.Generator().manual_seed(3))

    labels = SourceClassification(network, head, users(), weight=0.5, persons=2, windows=6)
    found = labels.loss(generator, embeddings, start[size:])
    x, y, who = users().draw(2, 6)
    logits, squares = [], []
    for number, source in enumerate(who.tolist()):
        vector = generator.generate(embeddings[source][None])[0]
        load_vector(network, torch.cat([vector.detach(), start[size:]]))
        mine = x[6 * number : 6 * number + 6]
        z = network.encoder(mine)
        logits.append(head(z))
        squares.append((network.decoder(z) - mine).square())
    expected = cross_entropy(torch.cat(logits), y) + 0.5 * torch.cat(squares).mean()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_its_gradient_reaches_generator_and_embeddings(sources):
    network = Autoencoder(sources.spec, 4, 5).eval()
    size = ParameterSpec.of(network).trainable_length
    start = vector_of(network)
    generator = Hypernetwork(start[:size], 2, hidden=8, code=4, chunk=64)
    torch.nn.init.normal_(generator.head.weight, std=0.1)
    embeddings = torch.randn(3, 2, requires_grad=True)
    users = VirtualUsers(sources, STILL, torch.Generator().manual_seed(0))
    labels = SourceClassification(network, torch.nn.Linear(5, 3), users, persons=3, windows=4)
    labels.loss(generator, embeddings, start[size:]).backward()
    assert embeddings.grad is not None
    assert embeddings.grad.abs().sum() > 0
    assert generator.head.weight.grad.abs().sum() > 0
