"""Counts that leave a device: of its own windows, clipped, few enough to hide a person."""

import json

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from pydantic import ValidationError

from client.app import app
from client.daemon import ACTIONS
from client.device import Device
from client.graphs import GraphError, GraphStore
from client.learner import Learner, LearnerError
from client.ranges import shares
from client.windows import PersonWindows
from edge_kernels.quantize import calibrate
from edge_kernels.quantize.quantizer import inputs
from edge_kernels.quantize.range_graph import range_graph
from edge_kernels.quantize.reader import read
from schemas.payload import Payload
from schemas.ranges import RangeTask
from server.flower_private import identify
from tests.client import small_models
from tests.client.handmade import _graph, _value

BINS = 16


def person_of(count, seed=3):
    x = small_models.windows(count, seed)
    return PersonWindows(x, np.full(count, -1, np.int64), x[:2], np.zeros(2, np.int64))


@pytest.fixture
def graphs(tmp_path):
    return GraphStore(tmp_path / "edge-cache" / "graphs")


@pytest.fixture
def split():
    return read(small_models.floats())


@pytest.fixture
def bounds(split):
    seen = inputs(split, small_models.windows(40, 7))
    return calibrate.bounds(split.net, seen, 1.5)


@pytest.fixture
def task(graphs, split, bounds):
    made = range_graph(split, bounds, BINS).SerializeToString(deterministic=True)
    return RangeTask(graph=graphs.put(made), bins=BINS)


def counting(values, graphs, name="counts"):
    """A store's graph that says ``values`` (values, bins) of every window."""
    from onnx import helper, numpy_helper

    constants = [
        numpy_helper.from_array(np.asarray(values, np.float32)[None], "told"),
        numpy_helper.from_array(np.zeros((), np.float32), "zero"),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["windows"], ["mean"], axes=[1, 2], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "told"], [name]),
    ]
    shape = ("count", small_models.TIME, small_models.CHANNELS)
    made = _graph(
        nodes,
        [_value("windows", *shape)],
        [_value(name, "count", *np.shape(values))],
        constants,
    )
    return RangeTask(graph=graphs.put(made), bins=np.shape(values)[1])


def test_shares_are_the_means_of_the_windows(graphs, task, split, bounds):
    person = person_of(37)
    found = shares(task, person, graphs)
    assert found.shape == (len(bounds), BINS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-5)
    right = calibrate.histograms(split.net, inputs(split, person.train), bounds, BINS)
    for mine, whole in zip(found, right, strict=True):
        np.testing.assert_allclose(mine, whole.counts / whole.counts.sum(), atol=1e-3)


def test_only_so_many_windows_are_counted(graphs, task):
    person = person_of(64)
    few = task.model_copy(update={"windows": 16})
    chosen = np.linspace(0, 63, 16).astype(int)
    some = PersonWindows(
        person.train[chosen], person.labels[chosen], person.test, person.test_labels
    )
    np.testing.assert_array_equal(shares(few, person, graphs), shares(task, some, graphs))


def test_a_device_with_many_windows_weighs_no_more(graphs, task):
    assert shares(task, person_of(200), graphs).sum() == pytest.approx(
        shares(task, person_of(20), graphs).sum(), rel=1e-4
    )


def test_noise_is_the_device_s_own_and_as_large_as_asked(graphs, task):
    person, exact = person_of(20), shares(task, person_of(20), graphs)
    noisy = task.model_copy(update={"noise": 0.1})
    one, other = (shares(noisy, person, graphs) for _ in range(2))
    assert not np.array_equal(one, other)
    random = np.random.default_rng(0)
    drawn = np.stack([shares(noisy, person, graphs, random) - exact for _ in range(60)])
    assert np.abs(drawn).mean() == pytest.approx(0.1, rel=0.15)
    gauss = task.model_copy(update={"noise": 0.1, "kind": "gaussian"})
    drawn = np.stack([shares(gauss, person, graphs, random) - exact for _ in range(60)])
    assert drawn.std() == pytest.approx(0.1, rel=0.15)


def test_a_graph_that_counts_too_much_is_cut(graphs):
    whole = shares(counting([[1e6, 3e6], [0.25, 0.25]], graphs), person_of(20), graphs)
    np.testing.assert_allclose(whole, [[0.25, 0.75], [0.25, 0.25]], rtol=1e-6)


def test_what_does_not_fit_is_refused(graphs, task):
    person = person_of(20)
    with pytest.raises(LearnerError, match="15 training windows; counts of fewer than 16 stay"):
        shares(task, person_of(15), graphs)
    with pytest.raises(LearnerError, match=r"counted \[16, 3, 16\]; expected .* 17 bins"):
        shares(task.model_copy(update={"bins": 17}), person, graphs)
    for wrong in ([[-1.0, 2.0]], [[np.nan, 1.0]]):
        with pytest.raises(LearnerError, match="NaN, infinity or numbers below 0"):
            shares(counting(wrong, graphs), person, graphs)
    longer = np.zeros((20, 41, 3), np.float32)
    other = PersonWindows(longer, person.labels, longer, person.labels)
    with pytest.raises(LearnerError, match="the graph of counts takes"):
        shares(task, other, graphs)
    with pytest.raises(GraphError, match="not on this device"):
        shares(task.model_copy(update={"graph": "0" * 64}), person, graphs)


def asked(task):
    return Payload(config={"config": {"ranges": task.model_dump_json()}})


def test_a_device_answers_and_keeps_nothing(graphs, task):
    device = Device(graphs, lambda: Learner(person_of(20), graphs), 1)
    before = device.kept
    answer = device.answer("evaluate.ranges", asked(task))
    assert device.kept is before
    assert list(answer.arrays) == ["ranges"]
    assert not answer.config
    assert not answer.metrics
    expected = shares(task, person_of(20), graphs)
    np.testing.assert_array_equal(answer.arrays["ranges"]["counts"], expected)
    assert "evaluate.ranges" in ACTIONS  # the daemon lets it through


def test_a_question_that_is_none(graphs):
    device = Device(graphs, lambda: Learner(person_of(20), graphs), 1)
    text = json.dumps({"graph": "0" * 64, "windows": 1})
    with pytest.raises(ValidationError, match="greater than or equal to 16"):
        device.answer("evaluate.ranges", Payload(config={"config": {"ranges": text}}))


def test_through_flower(graphs, task, tmp_path, monkeypatch):
    monkeypatch.setenv("FLWR_EDGE_CACHE", str(tmp_path / "edge-cache"))
    identify(1, 5)
    person_of(20).save(tmp_path / "person")
    context = Context(1, 5, {"windows": str(tmp_path / "person")}, RecordDict(), {})
    content = RecordDict({"config": ConfigRecord({"ranges": task.model_dump_json()})})
    reply = app(Message(content, 5, "evaluate.ranges"), context)
    found = reply.content.array_records["ranges"]["counts"].numpy()
    np.testing.assert_array_equal(found, shares(task, person_of(20), graphs))
