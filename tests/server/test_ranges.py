"""Devices' histograms: asked for, checked at the border, merged, each device alike."""

from hashlib import sha256

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict

from edge_kernels.quantize.histogram import Histogram, count, private
from schemas.ranges import RangeTask
from server.ranges import Answers, Survey, ask, merged

SURVEY = Survey(bounds=((-4.0, 4.0), (0.0, 8.0)), bins=32)
GRAPHS = {node: f"graph {node}".encode() for node in (1, 2, 3)}


def sent(seed=0, survey=SURVEY, random=None):
    """What a good device sends."""
    x = np.random.default_rng(seed).standard_normal((2, 400))
    whole = [
        private(count(value, *bound, survey.bins), survey.noise, survey.kind, random).counts
        for value, bound in zip((x[0], np.abs(x[1])), survey.bounds, strict=True)
    ]
    return np.stack(whole).astype(np.float32)


def answering(counts):
    """Devices that take their graph and send ``counts[node]``; an error or None as it is."""
    took = {}

    def answer(message):
        node = message.metadata.dst_node_id
        if message.metadata.message_type == "query.install":
            took[node] = dict(message.content.config_records["graphs"])
            return Message(RecordDict(), reply_to=message)
        assert message.metadata.message_type == "evaluate.ranges"
        task = RangeTask.model_validate_json(str(message.content["config"]["ranges"]))
        assert took[node] == {task.graph: GRAPHS[node]}
        said = counts[node]
        if said is None:
            return None
        if isinstance(said, Error):
            return Message(said, reply_to=message)
        arrays = {} if isinstance(said, str) else {"counts": Array(said)}
        return Message(RecordDict({"ranges": ArrayRecord(arrays)}), reply_to=message)

    return answer


def asked(devices, counts, survey=SURVEY) -> Answers:
    return ask(devices(GRAPHS, answering(counts)), GRAPHS, survey, 60)


def test_each_device_gets_its_own_graph_and_its_counts_come_back(devices):
    found = asked(devices, {node: sent(node) for node in GRAPHS})
    assert not found.failures
    for node, histograms in found.histograms.items():
        np.testing.assert_array_equal([h.counts for h in histograms], sent(node))
        assert [(h.low, h.high) for h in histograms] == list(SURVEY.bounds)
    assert SURVEY.task(b"x").graph == sha256(b"x").hexdigest()


def heavy():
    counts = sent()
    counts[0] *= 1.5
    return counts


def negative():
    counts = sent()
    counts[1, 3] = -0.01
    return counts


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (None, "no reply within 60 s"),
        (Error(1, "LearnerError: 3 training windows"), "LearnerError: 3 training windows"),
        ("nothing", "refused: KeyError"),
        (sent()[:1], r"counts are float32\[1, 32\]; expected float32\[2, 32\]"),
        (sent().astype(np.float64), "counts are float64"),
        (np.full((2, 32), np.nan, np.float32), "NaN, infinity or numbers below 0"),
        (negative(), "numbers below 0"),
        (heavy(), r"counts of 1\.5 of one value; a device has 1 in all"),
    ],
)
def test_one_bad_device_is_left_out_with_the_reason(devices, wrong, says):
    found = asked(devices, {1: sent(1), 2: wrong, 3: sent(3)})
    assert sorted(found.histograms) == [1, 3]
    assert list(found.failures) == [2]
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(found.failures[2])


def test_ranges_are_those_of_all_devices(devices):
    found = asked(devices, {node: sent(node) for node in GRAPHS})
    (low, high), (floor, top) = merged(list(found.histograms.values()), SURVEY)
    values = np.stack([np.random.default_rng(n).standard_normal((2, 400)) for n in GRAPHS])
    width = 8 / SURVEY.bins
    assert values[:, 0].min() - width <= low <= values[:, 0].min()
    assert values[:, 0].max() <= high <= values[:, 0].max() + width
    assert floor == 0
    assert top == pytest.approx(np.abs(values[:, 1]).max(), abs=width)


def test_noise_is_let_through_and_told_from_counts(devices):
    noisy = Survey(SURVEY.bounds, 32, noise=2e-3)
    random = np.random.default_rng(5)
    found = asked(devices, {node: sent(node, noisy, random) for node in GRAPHS}, noisy)
    assert not found.failures
    assert min(h.counts.min() for h in found.histograms[1]) < 0
    exact = merged([private_histograms(node) for node in GRAPHS], SURVEY)
    for got, right in zip(merged(list(found.histograms.values()), noisy), exact, strict=True):
        assert 0.5 * right[1] <= got[1] <= 1.2 * right[1]


def private_histograms(node):
    return [
        Histogram(*bound, row.astype(np.float64))
        for bound, row in zip(SURVEY.bounds, sent(node), strict=True)
    ]


def test_nothing_to_merge():
    with pytest.raises(ValueError, match="no device told its counts"):
        merged([], SURVEY)
    loud = Survey(SURVEY.bounds, 32, noise=5.0)
    with pytest.raises(ValueError, match="noise of 5 hides all counts of 2 of 2 values of 3"):
        merged([private_histograms(node) for node in GRAPHS], loud)
