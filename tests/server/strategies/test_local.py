"""Strategies without a round."""

import numpy as np
from flwr.app import ConfigRecord

from schemas.plan import Adapt
from server.strategies.base import start_vector
from server.strategies.local import AdaptedSource, FinetunedSource, LocalOnly, SourceModel
from server.view import GridView

ALL = (SourceModel, AdaptedSource, FinetunedSource, LocalOnly)


def test_nobody_is_ever_asked_to_train(federation, training):
    for cls in ALL:
        assert cls.rounds == 0
        strategy = cls(federation(), cls.Parameters())
        assert training(strategy) == []
        assert strategy.aggregate_train(1, []) == (None, None)


def test_everyone_in_view_is_evaluated_with_records_of_their_own(federation, devices):
    strategy = SourceModel(federation(), SourceModel.Parameters())
    view = GridView(devices([4, 2, 9], None), [2, 4])
    config = ConfigRecord(dict(strategy.evaluate_config()))
    one, two = strategy.configure_evaluate(0, strategy.initial(), config, view)
    assert [one.metadata.dst_node_id, two.metadata.dst_node_id] == [2, 4]
    assert one.content["arrays"]["weights"] is not two.content["arrays"]["weights"]
    assert one.content["config"] is not two.content["config"]


def test_stages(federation, plan_of):
    kinds = {}
    for cls in ALL:
        plan = plan_of(cls(federation(), cls.Parameters()).evaluate_config())
        kinds[cls] = [stage.kind for stage in plan.stages]
        assert plan.predict is not None
        assert plan.own == ()
    assert kinds == {
        SourceModel: [],
        AdaptedSource: ["adapt"],
        FinetunedSource: ["adapt", "train", "train"],
        LocalOnly: ["adapt", "train"],
    }
    plan = plan_of(LocalOnly(federation(), LocalOnly.Parameters()).evaluate_config())
    assert isinstance(plan.stages[0], Adapt)


def test_local_starts_untrained_the_others_from_the_sources(federation):
    fed = federation()
    for cls in ALL:
        kind = "random" if cls is LocalOnly else "source"
        vector = cls(fed, cls.Parameters()).initial()["weights"].numpy()
        np.testing.assert_array_equal(vector, start_vector(fed, kind)["weights"].numpy())


def test_who_needs_labels_says_so():
    assert [cls.needs_labels for cls in ALL] == [False, False, True, True]
