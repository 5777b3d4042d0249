"""The recipe's plan, and the start that everyone is sent."""

import numpy as np
import pytest
import torch

from hypernet.latent import pooled_means, sample_sources
from hypernet.parameters import load_vector
from schemas.plan import Adapt, Train
from server.strategies.personal import Personal


@pytest.fixture
def made(federation):
    def make(**wanted):
        return Personal(federation(), Personal.Parameters(**wanted))

    return make


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

    assert kinds(rounds=0) == ["adapt"]
    assert kinds(rounds=0, adapt=False) == []
    assert kinds(rounds=0, prototypes=3) == ["adapt", "adapt"]
    assert kinds(rounds=1, many_steps=0, adapt=False) == ["train"]


def test_what_is_taken_to_be_true_is_part_of_the_networks_name(made):
    wanted = ({}, {"balanced_classes": True}, {"guard": 0.5}, {"stay": 0.5}, {"prototypes": 1})
    assert len({repr(made(**one).network) for one in wanted}) == len(
        wanted
    )  # graphs are kept by it
