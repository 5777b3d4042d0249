"""The recipe's plan, and the start that everyone is sent."""

import dataclasses

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, Message

from hypernet.latent import pooled_means, sample_sources
from hypernet.parameters import load_vector
from schemas.plan import Adapt, Blend, Train
from server.border import weights_of
from server.strategies.installed import strategies
from server.strategies.personal import Personal
from server.view import GridView

NODES = (1, 2, 9)


@pytest.fixture
def made(federation):
    def make(**wanted):
        return Personal(federation(), Personal.Parameters(**({"memory": "none"} | wanted)))

    return make


@pytest.fixture
def started(devices, plan_of, trained):
    """Everyone's start after one exchange, by tensor; ``told`` makes conditions, or is None."""

    def ask(strategy, told):
        asked = []

        def answer(message):
            asked.append(message)
            reply = trained(message, np.zeros(strategy.memory.spec.length, np.float32))
            condition = told(message.metadata.dst_node_id)
            reply.content["report"] = ArrayRecord({"condition": Array(condition)})
            return reply

        grid = GridView(devices(NODES, answer if told else _failed), NODES)
        config = strategy.evaluate_config()
        requests = list(strategy.configure_evaluate(1, strategy.initial(), config, grid))
        assert [r.metadata.dst_node_id for r in requests] == list(NODES)
        starts = [torch.from_numpy(weights_of(r).copy()) for r in requests]
        return [strategy.spec.unflatten(start) for start in starts], asked

    return ask


def _failed(message):
    return Message(Error(code=1, reason="no condition"), reply_to=message)


def conditions(strategy, shares=None):
    """A condition for each node, of so many windows of each class."""
    memory = strategy.memory.generator
    shares = np.full(memory.tokens, 1 / memory.tokens) if shares is None else np.array(shares)

    def told(node):
        tokens = np.random.default_rng(node).standard_normal((memory.tokens, memory.channels))
        tokens[:, -1] = np.log(shares + 0.01)
        return tokens.astype(np.float32)

    return told


def test_nobody_is_asked_to_train(made, training):
    assert Personal.rounds == 0
    assert not Personal.needs_labels
    assert training(made()) == []


def test_the_start_is_the_sources_model_with_their_class_means(made, federation):
    strategy = made()
    load_vector(strategy.network, torch.from_numpy(strategy.initial()["weights"].numpy().copy()))
    source = federation().source_model().eval()
    for name, tensor in source.state_dict().items():
        torch.testing.assert_close(strategy.network.state_dict()[name], tensor)
    samples = sample_sources(federation().sources, 20)
    assert strategy.network.replay.any()
    torch.testing.assert_close(strategy.network.replay, pooled_means(source, samples, 3))
    assert not strategy.network.shift_weight.any()


def test_stages_are_chosen_by_the_number_of_labels(made, plan_of):
    plan = plan_of(made(many=50, rounds=2).evaluate_config())
    assert isinstance(plan.stages[0], Adapt)
    learning = [stage for stage in plan.stages if isinstance(stage, Train)]
    assert len(learning) == 4
    assert all(stage.targets and stage.part == "all" for stage in learning)
    for labels in (0, 1, 50, 51, 10_000):
        run = [stage.graph for stage in learning if stage.suits(labels)]
        assert run == [learning[labels > 50].graph] * 2


def test_with_many_0_the_whole_network_learns_always(made, plan_of):
    strategy = made(many=0, rounds=2)
    learning = [s for s in plan_of(strategy.evaluate_config()).stages if isinstance(s, Train)]
    assert len(learning) == 2
    assert all(stage.trainable is None for stage in learning)
    assert all(stage.suits(labels) for stage in learning for labels in (0, 1, 10_000))
    none = plan_of(made(many=0, many_steps=0).evaluate_config()).stages
    assert [stage.kind for stage in none] == ["adapt"]


def test_a_class_that_no_source_has_is_said_to_be_lacking(federation, brief):
    settings = federation()
    sources = dataclasses.replace(settings.sources, y=[y % 2 for y in settings.sources.y])
    lacking = dataclasses.replace(settings, sources=sources)
    for kind in ("personal", "semipfl"):
        strategy = strategies()[kind](lacking, brief(strategies()[kind]))
        made = strategy.network if kind == "personal" else strategy.personaliser.network
        assert made.lacking == (2,), kind


def test_the_last_layers_are_what_few_labels_train(made, plan_of):
    strategy = made()
    stage = next(s for s in plan_of(strategy.evaluate_config()).stages if isinstance(s, Train))
    mask = np.zeros(strategy.spec.length, bool)
    for start, stop in stage.trainable:
        mask[start:stop] = True
    marks = strategy.spec.unflatten(torch.from_numpy(mask))
    learns = {name for name, mark in marks.items() if mark.all()}
    assert learns == {
        *("encoder.linear.weight", "encoder.norm4.weight", "encoder.norm4.bias"),
        *("head.weight", "head.bias"),
    }
    assert not any(mark.any() for name, mark in marks.items() if name not in learns)


def test_each_step_can_be_left_out(made, plan_of):
    def kinds(**wanted):
        return [stage.kind for stage in plan_of(made(**wanted).evaluate_config()).stages]

    assert kinds(rounds=1) == ["adapt", "train", "train", "blend"]
    assert kinds(rounds=1, trust=1.0) == ["adapt", "train", "train"]
    assert kinds(rounds=1, balanced_classes=True) == ["adapt", "train", "train"]
    assert kinds(rounds=0) == ["adapt"]
    assert kinds(rounds=0, adapt=False) == []
    assert kinds(rounds=0, prototypes=3) == ["adapt", "adapt"]
    assert kinds(rounds=1, many_steps=0, adapt=False, trust=1.0) == ["train"]


def test_without_labels_a_share_of_what_was_learned_is_kept(made, plan_of):
    plan = plan_of(made(prototypes=1, trust=0.5).evaluate_config())
    blend = plan.stages[-1]
    assert blend == Blend(since=2, share=0.5, at_most=0)
    assert [stage.kind for stage in plan.stages[:3]] == ["adapt", "adapt", "train"]


def test_what_is_taken_to_be_true_is_part_of_the_networks_name(made):
    wanted = ({}, {"balanced_classes": True}, {"guard": 0.5}, {"stay": 0.5}, {"prototypes": 1})
    assert len({repr(made(**one).network) for one in wanted}) == len(
        wanted
    )  # graphs are kept by it


def test_each_head_is_made_for_its_persons_condition_and_all_else_is_shared(
    made, started, federation
):
    strategy = made(memory="matched", memory_steps=2)
    torch.nn.init.normal_(strategy.memory.generator.say.weight)
    starts, asked = started(strategy, conditions(strategy))
    assert len(asked) == 3
    shared = strategy.spec.unflatten(torch.from_numpy(strategy.initial()["weights"].numpy().copy()))
    for name, tensor in shared.items():
        alike = [torch.equal(start[name], tensor) for start in starts]
        assert alike == [not name.startswith("head.")] * 3, name
    assert not torch.equal(starts[0]["head.weight"], starts[1]["head.weight"])
    network, vector = strategy.memory.network, strategy.memory.vectors([2])[0]
    load_vector(network, vector)
    torch.testing.assert_close(starts[1]["head.weight"], network.body.head.merged()[0])
    again, asked = started(strategy, conditions(strategy))
    assert not asked
    assert torch.equal(again[1]["head.bias"], starts[1]["head.bias"])


def test_who_has_few_classes_starts_from_the_sources_head(made, started):
    strategy = made(memory="matched", memory_steps=2)
    torch.nn.init.normal_(strategy.memory.generator.say.weight)
    starts, _ = started(strategy, conditions(strategy, [0.9, 0.1, 0.0]))
    source = strategy.network.head.weight
    assert all(torch.equal(start["head.weight"], source) for start in starts)


def test_who_does_not_answer_starts_from_what_the_mean_condition_gets(made, started):
    strategy = made(memory="matched", memory_steps=2)
    torch.nn.init.normal_(strategy.memory.generator.start)
    starts, _ = started(strategy, None)
    assert torch.equal(starts[0]["head.weight"], starts[2]["head.weight"])
    assert not torch.equal(starts[0]["head.weight"], strategy.network.head.weight)


def test_without_the_memory_nobody_is_asked(made, started):
    strategy = made()
    starts, asked = started(strategy, lambda _: pytest.fail("asked"))
    assert not asked
    assert strategy.state() == {}
    assert torch.equal(starts[0]["head.weight"], strategy.network.head.weight)


def test_a_checkpoint_brings_conditions_back_and_refuses_another_backbone(made, started):
    strategy = made(memory="matched", memory_steps=2)
    torch.nn.init.normal_(strategy.memory.generator.say.weight)
    starts, _ = started(strategy, conditions(strategy))
    state = strategy.state()
    other = made(memory="matched", memory_steps=0)
    other.load(state)
    again, asked = started(other, conditions(other))
    assert not asked
    assert all(
        torch.equal(a["head.weight"], b["head.weight"]) for a, b in zip(again, starts, strict=True)
    )
    state["backbone"] = state["backbone"][::-1].copy()
    with pytest.raises(ValueError, match="belongs to backbone"):
        other.load(state)
