"""The sources' autoencoder is trained once for all that depends on it."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from hypernet.parameters import vector_of
from server.strategies import autoencoder_training
from server.strategies.autoencoder_training import trained_autoencoder
from tests.server.conftest import NoGraphs


@pytest.fixture
def place(federation, tmp_path):
    return replace(federation(), graphs=NoGraphs(tmp_path))


@pytest.fixture
def trainings(monkeypatch):
    """How often it was trained."""
    made, train = [], autoencoder_training.train_autoencoder

    def counted(*arguments):
        made.append(arguments)
        return train(*arguments)

    monkeypatch.setattr(autoencoder_training, "train_autoencoder", counted)
    return made


@pytest.mark.parametrize("taken", [True, False])
def test_what_was_kept_is_what_was_trained(place, federation, trainings, taken):
    encoder = place.source_model() if taken else None
    first, again = (trained_autoencoder(place, 3, encoder) for _ in range(2))
    bare = trained_autoencoder(federation(), 3, encoder)  # keeps nothing
    assert len(trainings) == 2
    for other in (again, bare):
        assert torch.equal(vector_of(other), vector_of(first))
        assert not other.training
        assert all(each.requires_grad for each in other.parameters())


def test_drawing_numbers_goes_on_as_if_nothing_had_been_made(place):
    states = []
    for _ in range(2):  # trained, then read
        torch.manual_seed(0)
        trained_autoencoder(place, 3)
        states.append(torch.random.get_rng_state())
    assert torch.equal(*states)


def test_another_is_trained_for_all_that_it_depends_on(place, trainings):
    encoder, other = place.source_model(), deepcopy(place.source_model())
    with torch.no_grad():
        other.encoder.conv1.weight.add_(1)
    sources = replace(place.sources, y=[y.flip(0) for y in place.sources.y])
    config = place.config
    turned = config.source.model_copy(update={"virtual_users": not config.source.virtual_users})
    federations = [
        place,
        replace(place, sources=sources),
        replace(place, config=config.model_copy(update={"seed": 5})),
        replace(place, config=config.model_copy(update={"source": turned})),
    ]
    for _ in range(2):
        for each in federations:
            trained_autoencoder(each, 2, encoder)
        trained_autoencoder(place, 3, encoder)
        trained_autoencoder(place, 2)
        trained_autoencoder(place, 2, other)
    assert len(trainings) == 7
    assert len(list(place.graphs.cache.glob("autoencoder-*.safetensors"))) == 7
