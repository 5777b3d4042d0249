"""Functional memory as a strategy: who is asked what, what is learned, what is refused."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from pydantic import ValidationError

from hypernet.parameters import vector_of
from schemas.delta import DeltaError
from server.border import admit, weights_of
from server.checkpoint import Checkpoint
from server.strategies.functional_memory import FunctionalMemoryStrategy
from server.view import GridView
from tests.server.conftest import NoGraphs


def make(federation, cohort=4, **parameters):
    small = {"width": 8, "blocks": 1, "patch": 16, "rank": 2, "memory_steps": 2}
    small |= {"memory_persons": 2, "scale": 1.0, "generator_rate": 1e-2}
    made = FunctionalMemoryStrategy.Parameters(**(small | parameters))
    return FunctionalMemoryStrategy(federation(cohort=cohort), made)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 10}, "multiple of 4"),
        ({"adapter": "none"}, "no adapter 'none'; installed: bone, compacter, lora, rows"),
        ({"layers": "all"}, "the adapter 'rows' is made for the head alone"),
        ({"condition": "moments"}, "needs a token for each class; take 'prototypes' or 'layers'"),
    ],
)
def test_what_does_not_go_together_is_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        FunctionalMemoryStrategy.Parameters(**wrong)
    FunctionalMemoryStrategy.Parameters(adapter="lora", layers="all", condition="moments")


@pytest.mark.parametrize("adapter", ["rows", "lora"])
def test_every_adapter_has_its_memory(adapter, federation, devices, answered):
    strategy = make(federation, adapter=adapter)
    assert strategy.settings.place == {"rows": "head", "lora": "last"}[adapter]
    one, two, _ = (weights_of(r) for r in evaluations(strategy, devices, answered))
    assert not np.array_equal(one, two)


def test_a_memory_is_not_found_again_for_other_sources(federation, tmp_path):
    """Not even where the sources' model is the same, as it is untrained."""
    one = replace(federation(), graphs=NoGraphs(tmp_path))
    one.source_model().eval()  # as a trained one is
    sources = replace(one.sources, y=[y.flip(0) for y in one.sources.y])
    for each, kept in ((one, 1), (one, 1), (replace(one, sources=sources), 2)):
        make(lambda each=each, **_: each)
        assert len(list(tmp_path.glob("memory-*.safetensors"))) == kept


def test_a_full_disk_leaves_no_half_of_a_memory(federation, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        make(lambda **_: replace(federation(), graphs=NoGraphs(tmp_path)))
    assert not list(tmp_path.iterdir())


def told(strategy, node, scale=1.0):
    """A condition, each node's another."""
    rng = np.random.default_rng(node)
    memory = strategy.generator
    return (rng.standard_normal((memory.tokens, memory.channels)) * scale).astype(np.float32)


@pytest.fixture
def answered(trained, plan_of):
    """A device's answer: a change where it learned, its condition where it was asked."""

    def answer(strategy, request, scale=0.05, condition=None):
        plan = plan_of(request.content.config_records["config"])
        node = request.metadata.dst_node_id
        delta = np.zeros(plan.length, np.float32)
        if any(stage.kind == "train" for stage in plan.stages):
            delta += np.random.default_rng(node).standard_normal(plan.length) * scale
        reply = trained(request, delta)
        if plan.report:
            mine = told(strategy, node) if condition is None else condition
            reply.content["report"] = ArrayRecord({"condition": Array(mine)})
        return reply

    return answer


@pytest.fixture
def one_round(training, answered, admitted):
    def go(strategy, number=1):
        requests = training(strategy, number=number)
        replies = [answered(strategy, request) for request in requests]
        strategy.aggregate_train(number, admitted(requests, replies))
        return requests

    return go


def evaluations(strategy, devices, answered, nodes=(1, 2, 9)):
    grid = GridView(devices(nodes, lambda m: answered(strategy, m)), nodes)
    told = strategy.evaluate_config()
    return list(strategy.configure_evaluate(1, strategy.initial(), told, grid))


def kinds(request, plan_of):
    plan = plan_of(request.content.config_records["config"])
    return [stage.kind for stage in plan.stages], set(plan.report)


def test_first_a_condition_then_an_adapter(federation, one_round, plan_of):
    strategy = make(federation)
    for request in one_round(strategy, 1):
        assert kinds(request, plan_of) == ([], {"condition"})
    for request in one_round(strategy, 2):
        assert kinds(request, plan_of) == (["adapt", "train"], {"condition"})


@pytest.mark.parametrize(
    ("parameters", "learning"),
    [({}, True), ({"prototypes": 1}, True), ({"steps": 0}, False), ({"given": "none"}, False)],
)
def test_what_the_server_does_not_read_stays_on_devices(federation, plan_of, parameters, learning):
    strategy = make(federation, **parameters)
    size, length = strategy.spec.trainable_length, strategy.spec.length
    assert plan_of(strategy.train_config()).unsent == ((size if learning else 0, length),)
    assert plan_of(strategy.evaluate_config()).unsent is None


def test_prototypes_follow_the_adapter_and_travel_within_the_bound(
    federation, devices, answered, plan_of
):
    strategy = make(federation, prototypes=2)
    requests = evaluations(strategy, devices, answered)
    plan = plan_of(requests[0].content.config_records["config"])
    assert [stage.kind for stage in plan.stages] == ["adapt", "adapt"]
    assert plan.stages[0].graph != plan.stages[1].graph
    classes, latent = strategy.network.shift_weight.shape
    assert plan.length == make(federation).spec.length + classes * (latent + 1)
    assert 4 * plan.length < 32_000


def test_persons_get_their_own_adapters_small_enough_to_travel(federation, one_round, training):
    strategy = make(federation)
    one_round(strategy)
    vectors = [weights_of(request) for request in training(strategy, number=2)]
    size = strategy.spec.trainable_length
    assert not np.allclose(vectors[0][:size], vectors[1][:size], atol=1e-6)
    assert np.array_equal(vectors[0][size:], vectors[1][size:])
    assert strategy.spec.length < vector_of(strategy.federation.source_model()).numel()


def test_a_round_of_changes_moves_the_generator(federation, one_round):
    strategy = make(federation)
    one_round(strategy, 1)
    before = {k: v.clone() for k, v in strategy.generator.state_dict().items()}
    one_round(strategy, 2)
    after = strategy.generator.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    assert torch.equal(before["center"], after["center"])


def test_the_unseen_are_asked_once_and_answered(federation, devices, answered):
    strategy = make(federation)
    requests = evaluations(strategy, devices, answered)
    assert set(strategy.embeddings) == {1, 2, 9}
    size = strategy.spec.trainable_length
    vectors = [weights_of(request)[:size] for request in requests]
    assert not np.allclose(vectors[0], vectors[2], atol=1e-6)
    again = evaluations(strategy, devices, lambda *_: None)
    np.testing.assert_array_equal(weights_of(again[2]), weights_of(requests[2]))


@pytest.mark.parametrize("given", ["mean", "static", "none"])
def test_ablations_give_everyone_the_same(given, federation, devices, answered):
    strategy = make(federation, given=given)
    one, two, _ = (weights_of(r) for r in evaluations(strategy, devices, answered))
    assert np.array_equal(one, two)
    if given == "none":
        np.testing.assert_allclose(one, vector_of(strategy.network), atol=1e-6)


def test_random_is_another_persons(federation, devices, answered):
    matched, other = make(federation), make(federation, given="random")
    own = [weights_of(r) for r in evaluations(matched, devices, answered)]
    swapped = [weights_of(r) for r in evaluations(other, devices, answered)]
    for mine, theirs in zip([own[1], own[2], own[0]], swapped, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_without_adapter_nothing_is_trained(federation, one_round, plan_of):
    strategy = make(federation, given="none")
    before = vector_of(strategy.generator)
    one_round(strategy, 1)
    for request in one_round(strategy, 2):
        assert kinds(request, plan_of)[0] == ["adapt"]
    assert torch.equal(vector_of(strategy.generator), before)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (np.ones((2, 2), np.float32), r"has shape \(2, 2\); expected \(3, "),
        ("nan", "NaN or infinity"),
        ("double", "is float64; expected float32"),
    ],
)
def test_a_wrong_condition_is_refused_with_the_reason(
    condition, message, federation, training, answered
):
    strategy = make(federation)
    if isinstance(condition, str):
        right = told(strategy, 1)
        condition = right.astype(np.float64) if condition == "double" else right * np.nan
    requests = training(strategy)
    replies = [answered(strategy, requests[0], condition=condition)]
    replies += [answered(strategy, request) for request in requests[1:]]
    found = admit(requests, replies, 1e4, 60)
    with pytest.raises(DeltaError, match=message):
        raise DeltaError(found.failures[requests[0].metadata.dst_node_id])
    strategy.aggregate_train(1, found.updates)
    assert len(strategy.embeddings) == len(requests) - 1


def test_noise_and_shape_are_in_the_plan(federation, plan_of):
    strategy = make(federation, noise=0.5)
    plan = plan_of(strategy.asking_config())
    memory = strategy.generator
    assert (plan.noise, plan.shapes) == (0.5, {"condition": (memory.tokens, memory.channels)})


def test_a_checkpoint_goes_on_as_if_never_stopped(federation, one_round, training, tmp_path):
    straight, stopped = make(federation), make(federation)
    for number in (1, 2):
        one_round(straight, number)
        one_round(stopped, number)
    path = tmp_path / "c.safetensors"
    path.write_bytes(Checkpoint("me", 2, stopped.initial(), stopped.state()).to_bytes())
    resumed = make(federation)
    resumed.load(Checkpoint.read(path, "me").state)
    for strategy in (straight, resumed):
        one_round(strategy, 3)
    assert torch.equal(straight.vectors([1, 2, 3, 4]), resumed.vectors([1, 2, 3, 4]))


def test_a_checkpoint_of_another_backbone_is_refused(federation):
    strategy = make(federation)
    state = strategy.state()
    with torch.no_grad():
        strategy.federation.source_model().head.bias += 1
    other = FunctionalMemoryStrategy(strategy.federation, strategy.parameters)
    with pytest.raises(ValueError, match="belongs to backbone"):
        other.load(state)


def test_asynchronous_updates_are_pulled_back_where_they_came_from(federation, answered, admitted):
    from server.strategies.buffered import Returned

    strategy = make(federation)
    config, arrays = strategy.train_config(), strategy.initial()

    def exchange(version, number):
        asked = strategy.ask([1, 2], arrays, config, number, version)
        updates = admitted(asked, [answered(strategy, r) for r in asked])
        return [
            Returned(request, update, version, 1.0)
            for request, update in zip(asked, updates, strict=True)
        ]

    before = vector_of(strategy.generator)
    strategy.absorb(1, arrays, exchange(0, 1))
    assert torch.equal(vector_of(strategy.generator), before)
    strategy.absorb(2, arrays, exchange(1, 2))
    assert not torch.equal(vector_of(strategy.generator), before)
