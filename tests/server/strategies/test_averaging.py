"""FedAvg and FedProx against the arithmetic done by hand."""

import random

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord

from schemas.delta import decode, encode
from server.border import weights_of
from server.strategies.averaging import FedAvg, FedProx, FinetunedFedAvg
from server.strategies.buffered import Returned
from server.view import GridView


@pytest.mark.parametrize("encoding", ["int8", "topk", "float32"])
def test_the_aggregate_is_the_weighted_mean_of_the_decoded_changes(
    federation, training, trained, admitted, encoding
):
    strategy = FedAvg(federation(encoding=encoding), FedAvg.Parameters())
    requests = training(strategy)
    start = weights_of(requests[0])
    rng = np.random.default_rng(1)
    replies, expected, examples = [], np.zeros(start.size), [1, 10, 3, 50]
    for request, count in zip(requests, examples, strict=True):
        delta = (0.1 * rng.standard_normal(start.size)).astype(np.float32)
        replies.append(trained(request, delta, count, encoding))
        coded, _ = encode(delta, None, encoding)
        expected += (
            count / sum(examples) * (start + decode(coded, start.size, encoding)).astype(np.float64)
        )
    arrays, _ = strategy.aggregate_train(1, admitted(requests, replies))
    result = arrays["weights"].numpy()
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_no_updates_no_new_arrays(federation):
    strategy = FedAvg(federation(), FedAvg.Parameters())
    assert strategy.aggregate_train(1, []) == (None, None)


@pytest.mark.parametrize("cohort", [1, 2, 3, 4, None])
def test_a_round_asks_a_cohort_of_clients_and_an_evaluation_asks_all(
    federation, training, devices, cohort
):
    strategy = FedAvg(federation(cohort=cohort), FedAvg.Parameters())
    for number in range(10):
        random.seed(number)
        nodes = [m.metadata.dst_node_id for m in training(strategy, number=number + 1)]
        assert len(set(nodes)) == len(nodes) == (cohort or 4)
        assert 9 not in nodes
    view = GridView(devices([1, 2, 3, 4, 9], None), [1, 2, 3, 4])
    config = ConfigRecord(dict(strategy.evaluate_config()))
    asked = strategy.configure_evaluate(1, strategy.initial(), config, view)
    assert sorted(m.metadata.dst_node_id for m in asked) == [1, 2, 3, 4]


def test_a_cohort_larger_than_the_federation_waits_for_nobody(federation, training):
    """A training file names its size before anybody knows how many devices there are."""
    strategy = FedAvg(federation(cohort=10), FedAvg.Parameters())
    assert strategy.fraction_train == 1  # more, and Flower would wait for so many, for ever
    assert {m.metadata.dst_node_id for m in training(strategy)} == {1, 2, 3, 4}


def test_finetuning_is_the_evaluation_s(federation, plan_of):
    plain = FedAvg(federation(), FedAvg.Parameters())
    tuned = FinetunedFedAvg(federation(), FinetunedFedAvg.Parameters())
    assert plan_of(plain.train_config()) == plan_of(tuned.train_config())
    assert len(plan_of(plain.evaluate_config()).stages) == 1
    assert len(plan_of(tuned.evaluate_config()).stages) == 3


def test_fedprox_sends_its_pull_and_fedavg_none(federation, training):
    strategy = FedProx(federation(), FedProx.Parameters(mu=0.7))
    requests = training(strategy)
    assert [m.content["config"]["proximal-mu"] for m in requests] == [0.7] * 4
    plain = training(FedAvg(federation(), FedAvg.Parameters()))
    assert "proximal-mu" not in plain[0].content["config"]


def test_where_it_starts_is_a_parameter(federation):
    for start in ("source", "random"):
        strategy = FedAvg(federation(), FedAvg.Parameters(start=start))
        vector = strategy.initial()["weights"].numpy()
        same = FedAvg(federation(), FedAvg.Parameters()).initial()["weights"].numpy()
        assert np.array_equal(vector, same) == (start == "source")


@pytest.mark.parametrize("now", [1.0, 0.1])
def test_a_stale_change_takes_no_variance_to_zero(federation, training, trained, admitted, now):
    strategy = FedAvg(federation(encoding="float32"), FedAvg.Parameters())
    requests = training(strategy)
    change = np.zeros(weights_of(requests[0]).size, np.float32)
    start, stop = strategy.plans.variances[0]
    change[start:stop] = -0.5 * weights_of(requests[0])[start:stop]
    (update,) = admitted(requests[:1], [trained(requests[0], change)])
    current = weights_of(requests[0]).copy()
    current[start:stop] *= np.float32(now)
    arrays = ArrayRecord({"weights": Array(current)})
    moved = strategy.absorb(1, arrays, [Returned(requests[0], update, 0, 1.0)])["weights"].numpy()
    least = 0.5 if now == 1 else 1 / 16
    np.testing.assert_allclose(moved[start:stop], least * current[start:stop], rtol=1e-5)
