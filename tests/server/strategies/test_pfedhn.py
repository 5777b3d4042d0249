"""pFedHN's batched step against one device at a time, and its state in a checkpoint."""

import copy

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from pydantic import ValidationError

from server.border import weights_of
from server.checkpoint import Checkpoint
from server.strategies.pfedhn import PFedHN


def make(federation, **parameters):
    small = {"embedding": 3, "hidden": 8, "chunk": 64, "embedding_rate": 0.5} | parameters
    return PFedHN(federation(cohort=3, encoding="float32"), PFedHN.Parameters(**small))


def deltas_for(requests, seed, scale=0.3):
    rng = np.random.default_rng(seed)
    size = weights_of(requests[0]).size
    return [(rng.standard_normal(size) * scale).astype(np.float32) for _ in requests]


@pytest.fixture
def one_round(training, trained, admitted):
    def go(strategy, number, scale=0.3):
        requests = training(strategy, number=number)
        deltas = deltas_for(requests, number, scale)
        replies = [trained(r, d) for r, d in zip(requests, deltas, strict=True)]
        updates = admitted(requests, replies)
        strategy.aggregate_train(number, updates)
        return requests, deltas

    return go


@pytest.mark.parametrize("clip", [50.0, 0.01])
def test_a_round_is_what_one_device_at_a_time_comes_to(federation, one_round, clip):
    strategy = make(federation, clip=clip)
    one_round(strategy, 1)  # away from the zero head, at which embeddings have no gradient
    generator = copy.deepcopy(strategy.generator)
    adam = torch.optim.Adam(generator.parameters(), 1e-3)
    adam.load_state_dict(copy.deepcopy(strategy.optimizer.state_dict()))
    before = dict(zip((1, 2, 3, 4), strategy.condition([1, 2, 3, 4]).clone(), strict=True))

    requests, deltas = one_round(strategy, 2)
    nodes = [request.metadata.dst_node_id for request in requests]
    learns = strategy.plans.spec.trainable_length
    gradients = [torch.zeros_like(p) for p in generator.parameters()]
    for node, request, delta in zip(nodes, requests, deltas, strict=True):
        v = before[node].requires_grad_()
        theta = generator.generate(v[None])[0]
        np.testing.assert_allclose(theta.detach().numpy(), weights_of(request)[:learns], atol=1e-6)
        loss = 0.5 * (theta - (theta.detach() + torch.from_numpy(delta[:learns]))).square().sum()
        own, *shared = torch.autograd.grad(loss, [v, *generator.parameters()])
        for total, gradient in zip(gradients, shared, strict=True):
            total.add_(gradient / len(nodes))
        norm = float(own.norm())
        assert norm > 0
        expected = v.detach() - 0.5 * own * min(1, clip / norm)
        torch.testing.assert_close(strategy.embeddings[node], expected, atol=1e-5, rtol=1e-4)
    norm = float(torch.cat([g.flatten() for g in gradients]).norm())
    for parameter, gradient in zip(generator.parameters(), gradients, strict=True):
        parameter.grad = gradient * min(1, clip / (norm + 1e-6))
    adam.step()
    for ours, hand in zip(strategy.generator.parameters(), generator.parameters(), strict=True):
        torch.testing.assert_close(ours, hand, atol=2e-5, rtol=1e-3)
    mean = np.mean(
        [weights_of(r)[learns:] + d[learns:] for r, d in zip(requests, deltas, strict=True)], 0
    )
    np.testing.assert_allclose(strategy.buffers.numpy(), mean, atol=1e-6)


def test_the_first_round_sends_everyone_the_start(federation, training):
    strategy = make(federation)
    start = strategy.initial()["weights"].numpy()
    for request in training(strategy):
        np.testing.assert_allclose(weights_of(request), start, atol=1e-6)


def test_then_everyone_gets_weights_of_their_own(federation, one_round, training):
    strategy = make(federation)
    for number in (1, 2, 3):
        one_round(strategy, number)
    vectors = [weights_of(request) for request in training(strategy, number=4)]
    assert all(not np.array_equal(vectors[0], other) for other in vectors[1:])


def test_state_and_load_go_on_to_the_last_bit(federation, one_round, training, tmp_path):
    whole, half = make(federation), make(federation)
    for number in (1, 2):
        one_round(whole, number)
        one_round(half, number)
    path = tmp_path / "c"
    path.write_bytes(Checkpoint("i", 2, ArrayRecord(), half.state()).to_bytes())
    resumed = make(federation)
    resumed.load(Checkpoint.read(path, "i").state)
    saved, loaded = half.state(), resumed.state()
    assert saved.keys() == loaded.keys()
    assert any(name.startswith("adam/0/exp_avg") for name in saved)
    for name, array in saved.items():
        assert array.shape == loaded[name].shape
        np.testing.assert_array_equal(array, loaded[name])
    for number in (3, 4):
        one_round(whole, number)
        one_round(resumed, number)
    for name, array in whole.state().items():
        np.testing.assert_array_equal(array, resumed.state()[name], err_msg=name)


def test_adams_moments_matter(federation, one_round):
    """A resume that forgot them would come to something else: the test above can see it."""
    whole, forgetful = make(federation), make(federation)
    for strategy in (whole, forgetful):
        one_round(strategy, 1)
    state = {k: v for k, v in forgetful.state().items() if not k.startswith("adam/")}
    resumed = make(federation)
    resumed.load(state)
    for strategy in (whole, resumed):
        one_round(strategy, 2)
    assert any(
        not np.array_equal(array, resumed.state()[name]) for name, array in whole.state().items()
    )


def test_saved_state_is_not_changed_by_what_follows(federation, one_round):
    strategy = make(federation)
    one_round(strategy, 1)
    state = strategy.state()
    before = copy.deepcopy(state)
    one_round(strategy, 2)
    for name, array in before.items():
        np.testing.assert_array_equal(array, state[name])
    assert any(not np.array_equal(a, strategy.state()[n]) for n, a in before.items())


def test_the_unseen_get_the_mean_embedding_and_change_nothing(federation, one_round):
    strategy = make(federation)
    one_round(strategy, 1)
    one_round(strategy, 2)
    before = copy.deepcopy(strategy.state())
    strategy.join([8, 9], None)
    mean = strategy.condition([1, 2, 3, 4]).mean(0)
    for node in (8, 9):
        torch.testing.assert_close(strategy.embeddings[node], mean)
    for name, array in before.items():
        np.testing.assert_array_equal(array, strategy.state()[name])


def test_exchanges_with_the_unseen_are_no_option_of_it():
    """SemiPFL's: it fits embeddings without labels, and this one has nothing to fit them to."""
    with pytest.raises(ValidationError, match="join_rounds"):
        PFedHN.Parameters(join_rounds=2)


def test_payloads_are_each_device_s_own(federation, training):
    requests = training(make(federation))
    arrays = [request.content["arrays"]["weights"] for request in requests]
    assert len({id(a) for a in arrays}) == len({id(a.data) for a in arrays}) == len(requests)


def test_embeddings_are_by_seed_and_node_and_take_flowers_largest_ids(federation):
    one, other = make(federation), make(federation)
    torch.testing.assert_close(one.condition([2, 1]), other.condition([1, 2]).flip(0))
    assert not torch.equal(one.condition([1]), one.condition([2]))
    big = PFedHN(federation(seed=2**32 - 1), PFedHN.Parameters(embedding=3))
    assert big.condition([2**64 - 1]).shape == (1, 3)
