import torch

from hypernet.networks.norm import norms
from hypernet.parameters import vector_of
from hypernet.source_training import new_classifier, train_source
from schemas.simulation import Model, Source

MODEL = Model(width=8, latent=8)
CONFIG = Source(steps=30, persons_per_step=3, windows_per_person=8, learning_rate=1e-2)


def loss_on(sources, network):
    losses = []
    for x, y in zip(sources.x, sources.y, strict=True):
        losses.append(network.classification_loss(x, y, *sources.spec.statistics(x)).item())
    return sum(losses) / len(losses)


def test_training_lowers_the_loss_of_real_windows(sources):
    untrained = new_classifier(sources, MODEL, 0).eval()
    trained = train_source(sources, MODEL, CONFIG.model_copy(update={"steps": 150}), 0)
    assert loss_on(sources, trained) < 0.8 * loss_on(sources, untrained)
    assert not trained.training
    assert all(norm.groups == 1 for norm in norms(trained))


def test_one_seed_gives_one_network_whatever_was_drawn_before(sources):
    first = vector_of(train_source(sources, MODEL, CONFIG, 3))
    torch.randn(100)
    assert torch.equal(vector_of(train_source(sources, MODEL, CONFIG, 3)), first)
    assert not torch.equal(vector_of(train_source(sources, MODEL, CONFIG, 4)), first)


def test_the_global_random_state_is_left_alone(sources):
    state = torch.random.get_rng_state()
    train_source(sources, MODEL, CONFIG.model_copy(update={"steps": 2}), 0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_steps_give_the_untrained_network(sources):
    network = train_source(sources, MODEL, CONFIG.model_copy(update={"steps": 0}), 5)
    assert torch.equal(vector_of(network), vector_of(new_classifier(sources, MODEL, 5)))
    assert not network.training


def test_virtual_users_can_be_left_out(sources):
    turned = train_source(sources, MODEL, CONFIG, 0)
    still = train_source(sources, MODEL, CONFIG.model_copy(update={"virtual_users": False}), 0)
    assert not torch.equal(vector_of(turned), vector_of(still))


def test_the_model_has_the_size_asked_for(sources):
    network = new_classifier(sources, Model(width=5, latent=7), 0)
    assert network.encoder.conv1.weight.shape == (5, sources.spec.features, 9)
    assert network.head.weight.shape == (3, 7)
