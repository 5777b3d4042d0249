"""Cohorts, plans and start vectors that strategies share."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from pydantic import ValidationError

from schemas.plan import Adapt, Train
from schemas.simulation import Data
from server.strategies.base import (
    Finetune,
    Local,
    classifier_plans,
    own_arrays,
    request,
    sample,
    start_vector,
)
from server.strategies.installed import strategies

NODES = [11, 3, 8, 5, 1]


def test_a_cohort_is_a_matter_of_seed_and_round_only():
    assert sample(NODES, 3, 7, 2) == sample(NODES[::-1], 3, 7, 2)
    rounds = {tuple(sample(NODES, 3, 7, number)) for number in range(20)}
    seeds = {tuple(sample(NODES, 3, seed, 2)) for seed in range(20)}
    assert len(rounds) > 5
    assert len(seeds) > 5


def test_a_cohort_is_without_replacement_and_no_larger_than_the_fleet():
    for number in range(50):
        cohort = sample(NODES, 3, 0, number)
        assert cohort == sorted(set(cohort))
        assert len(cohort) == 3
        assert set(cohort) <= set(NODES)
    assert sample(NODES, 9, 0, 1) == sorted(NODES)
    assert sample([], 3, 0, 1) == []


def test_every_node_is_drawn_about_as_often():
    counts = np.bincount([n for r in range(2000) for n in sample(NODES, 2, 0, r)], minlength=12)
    assert all(abs(counts[n] / 2000 - 0.4) < 0.05 for n in NODES)


def test_own_arrays_share_only_bytes():
    one = ArrayRecord({"w": Array(np.zeros(3, np.float32))})
    other = own_arrays(one)
    assert other["w"] is not one["w"]
    assert other["w"].data is one["w"].data  # the engine writes shared bytes once
    np.testing.assert_array_equal(other["w"].numpy(), one["w"].numpy())


def test_requests_are_each_device_s_own():
    arrays = ArrayRecord({"weights": Array(np.zeros(3, np.float32))})
    config = {"plan": "p"}
    a, b = (request(node, "train", arrays, config, 4) for node in (1, 2))
    a.content["config"]["plan"] = "q"
    a.content["arrays"]["weights"].data = b""
    assert b.content["config"]["plan"] == config["plan"] == "p"
    assert b.content["arrays"]["weights"].data == arrays["weights"].data != b""
    assert b.content["config"]["server-round"] == 4
    assert (a.metadata.dst_node_id, a.metadata.group_id) == (1, "4")


def test_start_vectors(federation):
    fed = federation()
    source = start_vector(fed, "source")["weights"].numpy()
    random = start_vector(fed, "random")["weights"].numpy()
    assert source.shape == random.shape == (classifier_plans(fed).spec.length,)
    assert source.dtype == np.float32
    assert not np.array_equal(source, random)
    np.testing.assert_array_equal(random, start_vector(federation(), "random")["weights"].numpy())
    other = start_vector(federation(seed=1), "random")["weights"].numpy()
    assert not np.array_equal(random, other)


def test_parts_of_the_vector(federation):
    plans = classifier_plans(federation())
    length, learns = plans.spec.length, plans.spec.trainable_length
    marks = {name: np.zeros(length, int) for name in ("head", "body", "norms")}
    for name, mark in marks.items():
        for start, stop in getattr(plans, name):
            mark[start:stop] += 1
        assert mark.max() == 1
        assert mark.any()
    assert not (marks["head"] & marks["body"]).any()
    assert not marks["body"][learns:].any()
    assert (marks["head"] | marks["body"])[:learns].all()
    assert marks["norms"][learns:].all()  # running statistics are norms'


def test_every_graph_of_a_plan_is_in_the_book(federation):
    fed = federation(seed=3, encoding="float32")
    plans = classifier_plans(fed)
    plan = plans.evaluation(Finetune(finetune=True))
    assert plan.graphs() <= fed.graphs.graphs.keys()
    assert (plan.seed, plan.encoding, plan.length) == (3, "float32", plans.spec.length)


@pytest.mark.parametrize("few", [0, 7])
def test_few_labels_tune_the_head_more_the_whole_none_nothing(federation, few):
    plans = classifier_plans(federation())
    stages = plans.personal(Finetune(adapt=False, finetune=True, few=few))
    for labels in range(20):
        ran = [stage for stage in stages if stage.suits(labels)]
        assert len(ran) == (labels > 0)
        if ran:
            assert (ran[0].trainable == plans.head) == (labels <= few)
            assert all(stage.part == "labelled" for stage in ran)


def test_adabn_comes_first_and_can_be_left_out(federation):
    plans = classifier_plans(federation())
    assert isinstance(plans.personal(Finetune(finetune=True))[0], Adapt)
    assert plans.personal(Finetune(adapt=False)) == ()


@pytest.mark.parametrize(
    "name", ["adabn", "finetune", "functional-memory", "personal", "semipfl", "source"]
)
def test_the_share_of_own_statistics_is_the_file_s(name, federation, plan_of, brief):
    kind = strategies()[name]
    strategy = kind(federation(own_statistics=0.8), brief(kind))
    strategy.initial()
    configs = (strategy.evaluate_config(), strategy.train_config())
    plans = [plan_of(config) for config in configs if "plan" in config]
    mixes = [
        stage.mix
        for plan in plans
        for stage in plan.stages
        if isinstance(stage, Adapt) and stage.windows <= 512
    ]
    assert set(mixes) <= {0.8}
    assert mixes or name == "source"


def test_a_round_s_training_is_what_the_parameters_say(federation):
    plans = classifier_plans(federation())
    local = Local(epochs=3, steps=4, batch_size=5, learning_rate=0.5, optimizer="sgd")
    stage = plans.local(local)
    assert isinstance(stage, Train)
    assert (stage.epochs, stage.steps, stage.batch_size, stage.learning_rate) == (3, 4, 5, 0.5)
    assert stage.part == "labelled"
    assert stage.graph == plans.step("sgd", batch=True)
    assert stage.graph not in {plans.step("adam", batch=True), plans.step("sgd", batch=False)}


def test_one_labelled_window_alone_teaches_a_round_nothing(federation):
    """Normalised by itself, what is behind the last batch norm does not depend on the window."""
    stage = classifier_plans(federation()).local(Local())
    assert [stage.suits(labelled) for labelled in range(4)] == [False, False, True, True]
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        Local(batch_size=1)


@pytest.mark.parametrize("name", sorted(strategies()))
@pytest.mark.parametrize("labels", [0.0, 0.2])
def test_every_installed_strategy_plans_what_its_network_can_do(
    name, labels, federation, plan_of, brief
):
    kind = strategies()[name]
    if kind.needs_labels and not labels:
        return  # such a file is refused
    strategy = kind(federation(data=Data(label_fraction=labels)), brief(kind))
    strategy.initial()
    strategy.train_config()
    assert plan_of(strategy.evaluate_config()).predict is not None
