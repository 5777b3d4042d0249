"""PeFLL shares the functional memory's exchange: here is what differs."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord

from hypernet.parameters import vector_of
from server.border import weights_of
from server.strategies.pefll import PeFLLStrategy


def make(federation, **parameters):
    small = {"embedding": 3, "hidden": 8, "chunk": 64, "server_steps": 3, "server_persons": 2}
    small |= {"scale": 1.0, "server_rate": 0.05}
    return PeFLLStrategy(federation(), PeFLLStrategy.Parameters(**(small | parameters)))


@pytest.fixture
def one_round(training, trained, admitted):
    def go(strategy, number):
        requests = training(strategy, number=number)
        replies = []
        for request in requests:
            size, node = weights_of(request).size, request.metadata.dst_node_id
            rng = np.random.default_rng(node)
            reply = trained(request, 0.05 * rng.standard_normal(size).astype(np.float32))
            told = rng.standard_normal((1, 3)).astype(np.float32)
            reply.content["report"] = ArrayRecord({"condition": Array(told)})
            replies.append(reply)
        strategy.aggregate_train(number, admitted(requests, replies))
        return [weights_of(request) for request in requests]

    return go


def test_all_weights_are_generated_from_an_embedding(federation, one_round):
    strategy = make(federation)
    assert strategy.spec.length == vector_of(strategy.federation.source_model()).numel()
    one_round(strategy, 1)
    one, two, *_ = one_round(strategy, 2)
    assert not np.allclose(one, two, atol=1e-6)
    before = vector_of(strategy.generator)
    one_round(strategy, 3)
    assert not torch.equal(vector_of(strategy.generator), before)


def test_statistics_that_the_server_does_not_read_stay_on_devices(federation, plan_of):
    strategy = make(federation)
    size, length = strategy.spec.trainable_length, strategy.spec.length
    assert plan_of(strategy.train_config()).unsent == ((size, length),)


def test_an_embedding_does_not_depend_on_the_order_of_windows(federation):
    network = make(federation).network
    x = torch.randn(9, network.spec.time, network.spec.channels)
    mean, deviation = network.spec.statistics(x)
    told = network.condition(x, mean, deviation)
    assert told.shape == (1, 3)
    torch.testing.assert_close(network.condition(x.flip(0), mean, deviation), told)


@pytest.mark.parametrize("given", ["static", "none"])
def test_ablations_give_everyone_the_same(given, federation, one_round):
    strategy = make(federation, given=given)
    one_round(strategy, 1)
    one, two, *_ = one_round(strategy, 2)
    assert np.array_equal(one, two)
    start = vector_of(strategy.federation.source_model()).numpy()
    assert np.allclose(one, start, atol=1e-6) == (given == "none")


def test_a_batch_of_persons_equals_one_by_one(federation):
    from hypernet.networks.norm import norms
    from hypernet.parameters import ParameterSpec, load_vector

    strategy = make(federation, given="none")
    network = strategy.network
    backbone = strategy.federation.source_model()
    spec = ParameterSpec.of(backbone)
    x = torch.randn(2, 5, network.spec.features, network.spec.time)
    weights = torch.randn(2, spec.trainable_length) * 0.3
    together = network.batched(x, weights, spec)
    buffers = vector_of(backbone)[spec.trainable_length :]
    for person in range(2):
        load_vector(backbone, torch.cat([weights[person], buffers]))
        for norm in norms(backbone):
            norm.adapting = 0.5
        alone = backbone.eval().head(backbone.encoder(x[person]))
        torch.testing.assert_close(together[person], alone, rtol=1e-4, atol=1e-4)
