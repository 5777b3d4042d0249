"""What stays on the device does not move at the server, whoever sends what."""

import numpy as np
import pytest

from schemas.plan import Train
from server.border import weights_of
from server.strategies.base import classifier_plans
from server.strategies.partial import Ditto, FedBN, FedPer, FedRep


def mark(length, ranges):
    inside = np.zeros(length, bool)
    for start, stop in ranges:
        inside[start:stop] = True
    return inside


@pytest.mark.parametrize(("cls", "part"), [(FedPer, "head"), (FedRep, "head"), (FedBN, "norms")])
@pytest.mark.parametrize("encoding", ["int8", "float32"])
def test_personal_ranges_do_not_move_at_the_server(
    federation, training, trained, admitted, plan_of, cls, part, encoding
):
    strategy = cls(federation(encoding=encoding), cls.Parameters())
    requests = training(strategy)
    start = weights_of(requests[0])
    ranges = getattr(strategy.plans, part)
    assert plan_of(strategy.train_config()).personal == ranges
    assert plan_of(strategy.evaluate_config()).personal == ranges
    replies = [trained(r, np.full(start.size, 0.5), 7, encoding) for r in requests]
    arrays, _ = strategy.aggregate_train(1, admitted(requests, replies))
    moved = arrays["weights"].numpy() - start
    personal = mark(start.size, ranges)
    np.testing.assert_allclose(moved[personal], 0, atol=1e-6)  # the mean of equals rounds
    np.testing.assert_allclose(moved[~personal], 0.5, atol=1e-2)


def test_fedbn_needs_no_adabn(federation, plan_of):
    assert plan_of(FedBN(federation(), FedBN.Parameters()).evaluate_config()).stages == ()


def test_fedrep_learns_the_head_first_then_the_body(federation, plan_of):
    parameters = FedRep.Parameters(steps=8, representation_steps=3)
    head, body = plan_of(FedRep(federation(), parameters).train_config()).stages
    plans = classifier_plans(federation())
    assert isinstance(head, Train)
    assert isinstance(body, Train)
    assert (head.trainable, body.trainable) == (plans.head, plans.body)
    assert (head.steps, body.steps, body.epochs) == (8, 3, 1)


def test_ditto_keeps_a_second_model_pulled_towards_the_shared_one(federation, plan_of):
    strategy = Ditto(federation(), Ditto.Parameters(pull=0.4))
    plan = plan_of(strategy.train_config())
    (shared,), (own,) = plan.stages, plan.own
    assert isinstance(shared, Train)
    assert isinstance(own, Train)
    assert (shared.proximal, own.proximal) == (0.0, 0.4)
    assert shared.graph == own.graph
    assert not plan.personal
    assert plan_of(strategy.evaluate_config()).predict_own
