"""The learner as a Flower ClientApp, through Flower's own messages and contexts."""

import hashlib

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    RecordDict,
)

from client.adapters import AdapterError
from client.app import app
from client.learner import LearnerError
from schemas.delta import decode
from schemas.drift import Drift
from server.flower_private import identify
from tests.client import handmade

NODE = 11


@pytest.fixture(autouse=True)
def _cache(store, monkeypatch):
    monkeypatch.setenv("FLWR_EDGE_CACHE", str(store.folder.parent))
    identify(1, NODE)  # Flower makes no message outside a run


@pytest.fixture
def context(person, tmp_path):
    person.save(tmp_path / "person")
    config = {"windows": str(tmp_path / "person"), "partition-id": 3}
    return Context(1, NODE, config, RecordDict(), {})


def message(kind, plan, weights, number=1, **config):
    content = RecordDict(
        {
            "arrays": ArrayRecord({"weights": Array(weights)}),
            "config": ConfigRecord(
                {"plan": plan.model_dump_json(), "server-round": number, **config}
            ),
        }
    )
    return Message(content, NODE, kind)


def train_once(context, plan, weights, number=1, **config):
    reply = app(message(MessageType.TRAIN, plan, weights, number, **config), context)
    arrays = {k: v.numpy() for k, v in reply.content.array_records["delta"].items()}
    return decode(arrays, plan.length, plan.encoding, plan.topk), reply


def evaluate_once(context, plan, weights, number=1):
    reply = app(message(MessageType.EVALUATE, plan, weights, number), context)
    return reply.content.metric_records["metrics"]


def salt(number):
    return number * 1_000_003 + 3


def state_of(context):
    records = context.state.array_records.get("device", ArrayRecord())
    return {name: array.numpy().copy() for name, array in records.items()}


def close(one, two):
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_train_returns_the_change(context, learner, plan, train, vector):
    wanted = plan(train(epochs=1, batch_size=4))
    delta, reply = train_once(context, wanted, vector(), 5)
    fitted = learner.fit(wanted, vector(), salt=salt(5))
    np.testing.assert_array_equal(delta, fitted.weights - vector())
    assert delta.any()
    metrics = reply.content.metric_records["metrics"]
    assert metrics["num-examples"] == 9
    assert metrics["loss"] == pytest.approx(fitted.loss)
    assert metrics["seconds"] > 0
    assert set(reply.content) == {"delta", "metrics"}
    assert not context.state


def test_rounds_and_nodes_order_batches_differently(context, plan, train, vector):
    wanted = plan(train(epochs=1, batch_size=4))
    deltas = [train_once(context, wanted, vector(), number)[0] for number in (1, 1, 2)]
    other = Context(1, 99, {**context.node_config, "partition-id": 4}, RecordDict(), {})
    renamed = Context(1, 99, context.node_config, RecordDict(), {})
    deltas.append(train_once(other, wanted, vector(), 1)[0])
    np.testing.assert_array_equal(deltas[0], deltas[1])
    np.testing.assert_array_equal(deltas[0], train_once(renamed, wanted, vector(), 1)[0])
    assert not np.array_equal(deltas[0], deltas[2])
    assert not np.array_equal(deltas[0], deltas[3])


@pytest.mark.parametrize("encoding", ["float32", "int8", "topk"])
def test_personal_ranges_stay_and_are_gone_on_from(context, learner, plan, train, vector, encoding):
    ranges = ((10, 60), (200, 210))
    inside = np.zeros(vector().size, bool)
    for start, stop in ranges:
        inside[start:stop] = True
    wanted = plan(train(), personal=ranges, encoding=encoding)
    expected = vector()
    for number in (1, 2, 3):
        sent = vector() + np.float32(0.01 * number)
        start = np.where(inside, expected, sent) if number > 1 else sent
        expected = learner.fit(wanted, start, salt=salt(number)).weights
        delta, _ = train_once(context, wanted, sent, number)
        assert not delta[inside].any(), "personal weights left the device"
        assert delta[~inside].any()
        kept = state_of(context)["personal"]
        np.testing.assert_array_equal(kept[inside], expected[inside])
        assert not np.array_equal(kept[inside], sent[inside])
    residual = state_of(context).get("residual", np.zeros(1))
    assert residual.any() == (encoding != "float32")


@pytest.mark.parametrize("encoding", ["float32", "int8", "topk"])
def test_what_the_server_does_not_read_stays_and_takes_no_place(
    context, learner, plan, train, adapt, vector, encoding
):
    """AdaBN changes statistics far more than a step changes weights: codes must not be shared."""
    from schemas.delta import decode, encode

    size = vector().size - 64  # at the end are batch norms' statistics
    stages = (adapt(mix=1.0), train(steps=2, learning_rate=1e-5))
    wanted = plan(*stages, unsent=((size, vector().size),), encoding=encoding)
    change = learner.fit(wanted, vector(), salt=salt(1)).weights - vector()
    assert np.abs(change[size:]).max() > 100 * np.abs(change[:size]).max()
    alone = np.concatenate([change[:size], np.zeros(64, np.float32)])
    delta, _ = train_once(context, wanted, vector(), 1)
    np.testing.assert_array_equal(
        delta, decode(encode(alone, None, encoding)[0], delta.size, encoding)
    )
    residual = state_of(context).get("residual", np.zeros(delta.size))
    assert not residual[size:].any()
    again = learner.fit(wanted, vector(), salt=salt(2)).weights
    delta, _ = train_once(context, wanted, vector(), 2)
    left = state_of(context).get("residual", np.zeros(delta.size))
    close((delta + left)[:size], (residual + again - vector())[:size])


def test_what_an_earlier_plan_left_over_stays_where_this_one_sends_nothing(
    context, plan, train, adapt, vector
):
    size = vector().size - 64
    stages = (adapt(mix=1.0), train())
    train_once(context, plan(*stages, encoding="int8"), vector(), 1)
    assert state_of(context)["residual"][size:].any()
    wanted = plan(*stages, unsent=((size, vector().size),), encoding="int8")
    delta, _ = train_once(context, wanted, vector(), 2)
    assert not delta[size:].any()
    assert not state_of(context)["residual"][size:].any()


def test_the_residual_is_kept_and_sent_later(context, learner, plan, train, vector):
    wanted = plan(train(), encoding="int8")
    sent = total = np.zeros(vector().size)
    for number in range(1, 6):
        delta, reply = train_once(context, wanted, vector(), number)
        assert set(reply.content.array_records["delta"]) == {"codes", "scales"}
        sent = sent + delta
        total = total + (learner.fit(wanted, vector(), salt=salt(number)).weights - vector())
    residual = state_of(context)["residual"]
    assert residual.any()
    np.testing.assert_allclose(sent + residual, total, rtol=1e-4, atol=1e-6)


def test_the_own_vector_is_kept_and_never_sent(context, learner, plan, train, vector):
    own = (train(steps=4, proximal=0.5),)
    ditto, plain = plan(train(), own=own), plan(train())
    kept = None
    for number in (1, 2, 3):
        sent = vector() + np.float32(0.01 * number)
        delta, reply = train_once(context, ditto, sent, number)
        fitted = learner.fit(ditto, sent, kept, salt=salt(number))
        kept = fitted.own
        np.testing.assert_array_equal(state_of(context)["own"], kept)
        close(delta, learner.fit(plain, sent, salt=salt(number)).weights - sent)
        assert set(reply.content) == {"delta", "metrics"}


def test_evaluate_counts_with_what_the_device_would_use(context, learner, plan, train, vector):
    evaluation = plan(train(steps=5))
    metrics = evaluate_once(context, evaluation, vector(), 2)
    fitted = learner.fit(evaluation, vector(), salt=salt(2))
    expected = learner.evaluate(evaluation, fitted.weights)
    assert metrics["confusion"] == expected.ravel().tolist()
    assert metrics["num-examples"] == 7


def test_evaluate_predicts_with_the_own_vector(context, learner, plan, train, vector):
    train_once(context, plan(train(), own=(train(steps=30, learning_rate=0.05),)), vector())
    own = state_of(context)["own"]
    with_own = evaluate_once(context, plan(predict_own=True), vector())["confusion"]
    without = evaluate_once(context, plan(), vector())["confusion"]
    assert with_own == learner.evaluate(plan(), own).ravel().tolist()
    assert without == learner.evaluate(plan(), vector()).ravel().tolist()
    assert with_own != without


def test_evaluate_predicts_with_the_personal_ranges(context, learner, plan, train, vector):
    everything = ((0, vector().size),)
    train_once(context, plan(train(steps=40), personal=everything), vector())
    kept = state_of(context)["personal"]
    metrics = evaluate_once(context, plan(personal=everything), vector())
    assert metrics["confusion"] == learner.evaluate(plan(), kept).ravel().tolist()
    assert metrics["confusion"] != learner.evaluate(plan(), vector()).ravel().tolist()


def test_evaluate_changes_no_state(context, plan, train, vector):
    wanted = plan(train(), own=(train(),), personal=((0, 9),), encoding="int8")
    evaluate_once(context, wanted, vector())
    assert not context.state
    train_once(context, wanted, vector())
    before = state_of(context)
    evaluate_once(context, wanted.model_copy(update={"predict_own": True}), vector(), 2)
    after = state_of(context)
    assert set(after) == set(before) == {"personal", "own", "residual"}
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_flowers_proximal_mu_is_obeyed(context, learner, plan, train, vector):
    wanted = plan(train(steps=4))
    pulled, _ = train_once(context, wanted, vector(), **{"proximal-mu": 50.0})
    free, _ = train_once(context, wanted, vector())
    fitted = learner.fit(wanted.with_proximal(50.0), vector(), salt=salt(1))
    np.testing.assert_array_equal(pulled, fitted.weights - vector())
    assert np.linalg.norm(pulled) < 0.9 * np.linalg.norm(free)


def test_a_report_goes_back_beside_the_change(context, learner, plan, train, vector, digest):
    report = {"logits": digest("forward", "classifier", "forward")}
    wanted = plan(train(), report=report)
    _, reply = train_once(context, wanted, vector())
    fitted = learner.fit(wanted, vector(), salt=salt(1))
    (name, array), *rest = reply.content.array_records["report"].items()
    assert (name, rest) == ("logits", [])
    np.testing.assert_array_equal(array.numpy(), fitted.report["logits"])


def test_a_round_that_fails_changes_no_state(context, plan, train, vector):
    wanted = plan(train(), own=(train(),), personal=((0, 9),), encoding="int8")
    train_once(context, wanted, vector())
    before = state_of(context)
    with pytest.raises(LearnerError):
        train_once(context, wanted, vector() * np.float32("nan"), 2)
    after = state_of(context)
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_a_node_without_windows_says_so(plan, train, vector):
    nobody = Context(1, NODE, {}, RecordDict(), {})
    with pytest.raises(ValueError, match="names no folder of windows"):
        train_once(nobody, plan(train()), vector())


def query(context, action, name, content):
    asked = Message(RecordDict({name: ConfigRecord(content)}), NODE, f"query.{action}")
    return app(asked, context).content


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A device that has no graph."""
    monkeypatch.setenv("FLWR_EDGE_CACHE", str(tmp_path))
    return Context(1, NODE, {}, RecordDict(), {})


def test_missing_graphs_are_told_and_installed(bare, tmp_path, graph):
    contents = [graph("statistics"), graph("step", "mlp", "sgd", "frozen")]
    digests = [hashlib.sha256(content).hexdigest() for content in contents]

    def missing():
        reply = query(bare, "graphs", "graphs", {"digests": digests})
        return reply.config_records["graphs"]["missing"]

    assert missing() == digests
    query(bare, "install", "graphs", {digests[0]: contents[0]})
    assert missing() == digests[1:]
    query(bare, "install", "graphs", dict(zip(digests, contents, strict=True)))
    assert missing() == []
    assert sorted(path.stem for path in (tmp_path / "graphs").iterdir()) == sorted(digests)


def test_a_graph_is_stored_under_its_own_digest_whatever_the_server_calls_it(bare, tmp_path):
    content = handmade.statistics()
    query(bare, "install", "graphs", {"../../evil": content})
    (path,) = (tmp_path / "graphs").iterdir()
    assert path.name == hashlib.sha256(content).hexdigest() + ".onnx"


def test_a_graph_that_is_not_bytes_is_refused(bare, tmp_path):
    with pytest.raises(TypeError, match="as bytes"):
        query(bare, "install", "graphs", {"0" * 64: "text"})
    assert not (tmp_path / "graphs").exists()


def test_place_tells_the_nodes_number(context, bare):
    assert query(context, "place", "x", {}).config_records["place"] == {"partition-id": 3}
    assert query(bare, "place", "x", {}).config_records["place"] == {}


def test_begin_forgets_and_names_the_windows(context, plan, train, vector):
    train_once(context, plan(train(), personal=((0, 9),)), vector())
    folder = context.node_config.pop("windows")
    query(context, "begin", "begin", {"windows": folder})
    assert state_of(context) == {}
    delta, _ = train_once(context, plan(train()), vector())
    assert delta.any()


def test_drift_is_noticed_with_what_the_folder_keeps(context, digest, plan, vector, tmp_path):
    told = plan(
        report={"condition": digest("forward", "classifier", "forward")},
        drift=Drift(backbone="ab" * 32, threshold=0.1),
    )
    asked = {"plan": told.model_dump_json(), "server-round": 1}

    def choices(count):
        for _ in range(count):
            content = query(context, "drift", "config", asked)
            choice = content.config_records["drift"]["choice"]
            evaluate_once(context, told, vector() if choice == "ask" else vector()[:0])
            yield choice, "report" in content

    with pytest.raises(AdapterError, match="no adapter"):
        evaluate_once(context, told, vector()[:0])
    assert list(choices(2)) == [("ask", True)] * 2, "without a folder nothing is kept"
    query(context, "begin", "begin", {"adapters": str(tmp_path / "adapters")})
    assert list(choices(2)) == [("ask", True), ("keep", False)]
