"""Everything that a device may send wrong is refused, named and counted; nothing slips through."""

import io

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from schemas.delta import BLOCK, DeltaError, encode
from schemas.plan import Plan
from server.border import admit, confusion_of, payload, weights_of, weights_record
from server.strategies.base import config_of, request

LENGTH = BLOCK + 7
START = np.linspace(-1, 1, LENGTH).astype(np.float32)
DIGEST = "0" * 64


def ask(node=1, **plan):
    config = config_of(Plan(length=LENGTH, statistics=DIGEST, **plan))
    return request(node, "train", weights_record(START), config, 3)


def change(seed=0, scale=0.1):
    return (np.random.default_rng(seed).standard_normal(LENGTH) * scale).astype(np.float32)


def refusal(asked, reply, max_norm=1e4):
    admitted = admit([asked], [reply], max_norm, 60)
    assert admitted.updates == []
    assert admitted.bytes_up == 0
    return admitted.failures[asked.metadata.dst_node_id]


def with_delta(asked, trained, arrays):
    reply = trained(asked)
    reply.content["delta"] = ArrayRecord(arrays)
    return reply


@pytest.mark.parametrize("encoding", ["int8", "topk", "float32"])
def test_a_good_change_is_added_to_what_was_sent(trained, encoding):
    asked, delta = ask(encoding=encoding), change()
    reply = trained(asked, delta)
    (update,) = admit([asked], [reply], 1e4, 60).updates
    coded, _ = encode(delta, None, encoding)
    decoded = delta
    if encoding == "int8":
        scales = np.repeat(coded["scales"], BLOCK)[:LENGTH]
        decoded = coded["codes"].astype(np.float32) * scales
    if encoding == "topk":
        largest = np.sort(np.argsort(-np.abs(delta))[:14])  # 5% of 263, rounded up
        decoded = np.zeros(LENGTH, np.float32)
        decoded[largest] = coded["codes"] * coded["scales"]
    np.testing.assert_array_equal(weights_of(update), START + decoded)
    assert update.metadata.src_node_id == 1
    assert dict(update.content["metrics"]) == {"num-examples": 10, "loss": 0.5, "seconds": 0.25}


def test_updates_come_in_the_order_of_requests_whatever_comes_first(trained):
    asked = [ask(node) for node in (3, 1, 2)]
    replies = [trained(asked[i]) for i in (2, 0, 1)]
    admitted = admit(asked, replies, 1e4, 60)
    assert [update.metadata.src_node_id for update in admitted.updates] == [3, 1, 2]


def test_silence_is_a_failure_that_names_the_wait():
    admitted = admit([ask()], [], 1e4, 2.5)
    assert admitted.failures == {1: "no reply within 2.5 s"}


@pytest.mark.parametrize(
    ("error", "said"), [(Error(3, "out of battery"), "out of battery"), (Error(3), "error 3")]
)
def test_an_error_is_a_failure_with_its_reason(error, said):
    asked = ask()
    assert refusal(asked, Message(error, reply_to=asked)) == said


def test_a_reply_that_nobody_asked_for_is_not_admitted(trained):
    asked = ask(1)
    admitted = admit([asked], [trained(asked), trained(ask(2))], 1e4, 60)
    assert [update.metadata.src_node_id for update in admitted.updates] == [1]


CODES, SCALES = np.zeros(LENGTH, np.int8), np.zeros(2, np.float32)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"delta": START[:-1]},
        {"delta": START.astype(np.float64)},
        {"delta": START.reshape(1, -1)},
        {"delta": np.where(START > 0.9, np.nan, START)},
        {"delta": np.where(START > 0.9, np.inf, START)},
        {"delta": START, "more": START},
        {"weights": START},
        {"codes": CODES},
        {"codes": CODES, "scales": SCALES[:1]},
        {"codes": CODES[:-1], "scales": SCALES},
        {"codes": CODES.astype(np.int16), "scales": SCALES},
        {"codes": CODES + np.int8(1), "scales": np.array([np.nan, 0], np.float32)},
        {"codes": CODES + np.int8(1), "scales": np.array([np.inf, 0], np.float32)},
    ],
)
def test_a_change_of_wrong_names_types_shapes_or_values_is_refused(trained, arrays):
    asked = ask()
    reply = with_delta(asked, trained, {name: Array(array) for name, array in arrays.items()})
    assert refusal(asked, reply).startswith("refused: ")


GOOD = Array(START)
HUGE = GOOD.data.replace(f"({LENGTH},)".encode(), b"(9999999999999,)")


def zipped():
    """What ``np.load`` opens as an archive, and so as no array."""
    buffer = io.BytesIO()
    np.savez(buffer, START)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        Array("float32", (LENGTH,), "numpy.ndarray", b""),
        Array("float32", (LENGTH,), "numpy.ndarray", b"not an array"),
        Array("float32", (LENGTH,), "numpy.ndarray", GOOD.data[:-5]),
        Array("float32", (LENGTH,), "numpy.ndarray", GOOD.data[:20]),
        Array("float32", (LENGTH,), "torch.pickle", GOOD.data),
        Array("float32", (LENGTH,), "numpy.ndarray", HUGE),
        Array(np.array(["a"] * LENGTH)),
        Array("float32", (LENGTH,), "numpy.ndarray", zipped()),
        Array("float32", (LENGTH,), "numpy.ndarray", b"\x93NUMPY\x01\x00\x04\x00(((\n"),
    ],
)
def test_bytes_that_are_no_array_are_refused_and_do_not_end_the_round(trained, array):
    bad, good = ask(1), ask(2)
    admitted = admit(
        [bad, good], [with_delta(bad, trained, {"delta": array}), trained(good)], 1e4, 60
    )
    assert list(admitted.failures) == [1]
    assert "\n" not in admitted.failures[1]
    assert len(admitted.updates) == 1


def test_a_pickle_is_never_opened(trained):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()], dtype=object), allow_pickle=True)
    asked = ask()
    array = Array("object", (1,), "numpy.ndarray", buffer.getvalue())
    assert "refused" in refusal(asked, with_delta(asked, trained, {"delta": array}))


def test_a_change_at_the_largest_norm_is_taken_and_one_above_is_not(trained):
    asked = ask()
    delta = np.zeros(LENGTH, np.float32)
    delta[0] = 5
    assert len(admit([asked], [trained(asked, delta)], 5.0, 60).updates) == 1
    said = refusal(asked, trained(asked, delta), max_norm=4.99)
    assert said == "refused: the change's norm is 5; at most 4.99 is allowed"


def test_a_change_whose_square_overflows_is_refused(trained):
    asked = ask()
    assert "refused" in refusal(asked, trained(asked, np.full(LENGTH, 1e30)))


@pytest.mark.parametrize("name", ["num_examples", "loss", "seconds"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e13, [1.0], None, 2**80])
def test_a_metric_that_is_no_finite_number_in_its_range_is_refused(trained, name, value):
    metrics = {name: value} if name != "num_examples" else {"num-examples": value}
    asked = ask()
    admitted = admit([asked], [trained(asked, change(), **metrics)], 1e4, 60)
    assert admitted.updates == []
    assert admitted.failures[1].startswith("refused: ")


HIGHEST = {"num-examples": 100_000, "loss": 1e12, "seconds": 1e9}


@pytest.mark.parametrize("name", HIGHEST)
def test_a_metric_at_its_limit_is_taken_and_one_above_is_refused_by_name(trained, name):
    asked, most = ask(), HIGHEST[name]
    at = trained(asked, change(), **{name.replace("-", "_"): most})
    assert len(admit([asked], [at], 1e4, 60).updates) == 1
    above = [most + 1, 2**80, 1e300, 1.7e308]
    for value in above:
        asked = ask()
        reply = trained(asked, change(), **{name.replace("-", "_"): value})
        assert refusal(asked, reply).startswith(f"refused: metric {name} = {value!r}; expected a ")


@pytest.mark.parametrize("value", [-1e12, -1, -0.25])
def test_a_loss_may_be_below_zero_and_a_time_may_not(trained, value):
    """The negative logarithm of a density is, where the density is above 1."""
    asked = ask()
    assert admit([asked], [trained(asked, change(), loss=value)], 1e4, 60).failures == {}
    said = refusal(asked, trained(asked, change(), seconds=value))
    assert said.endswith("expected a finite number from 0 to 1,000,000,000")


@pytest.mark.parametrize("value", [5.0, 0.5, -1, 31])
def test_examples_are_a_whole_number_up_to_what_is_configured(trained, value):
    asked = ask()
    reply = trained(asked, change(), num_examples=value)
    admitted = admit([asked], [reply], 1e4, 60, max_examples=30)
    said = f"refused: metric num-examples = {value!r}; expected a whole number from 0 to 30"
    assert admitted.failures == {1: said}
    for good in (0, 30):
        reply = trained(asked := ask(), change(), num_examples=good)
        assert admit([asked], [reply], 1e4, 60, max_examples=30).failures == {}


def test_missing_records_are_named(trained):
    asked = ask()
    for name in ("delta", "metrics"):
        reply = trained(asked, change())
        del reply.content[name]
        assert refusal(asked, reply) == f"refused: '{name}' is missing"


def test_what_was_not_asked_for_does_not_reach_the_strategy(trained):
    asked = ask()
    reply = trained(asked, change(), surprise=1.0)
    reply.content["report"] = ArrayRecord({"x": Array(START)})
    reply.content["more"] = MetricRecord({"y": 1})
    (update,) = admit([asked], [reply], 1e4, 60).updates
    assert set(update.content) == {"arrays", "metrics"}
    assert set(update.content["metrics"]) == {"num-examples", "loss", "seconds"}


def test_a_report_comes_along_where_the_plan_asked_for_it(trained):
    asked = ask(report={"errors": DIGEST})
    reply = trained(asked, change())
    reply.content["report"] = ArrayRecord({"errors": Array(START), "more": Array(START)})
    (update,) = admit([asked], [reply], 1e4, 60).updates
    assert list(update.content["report"]) == ["errors"]


@pytest.mark.parametrize(
    "arrays",
    [
        None,
        {"else": START},
        {"errors": np.array([1, np.nan], np.float32)},
        {"errors": np.array([1, np.inf], np.float32)},
        {"errors": np.array(["text"])},
        {"errors": np.array([1, 2], np.int64)},
    ],
)
def test_a_wrong_report_is_refused(trained, arrays):
    asked = ask(report={"errors": DIGEST})
    reply = trained(asked, change())
    if arrays is not None:
        reply.content["report"] = ArrayRecord({k: Array(v) for k, v in arrays.items()})
    assert refusal(asked, reply).startswith("refused: ")


@pytest.mark.parametrize("encoding", ["int8", "float32"])
def test_a_device_cannot_move_what_the_plan_calls_personal(trained, encoding):
    asked = ask(personal=((3, 9), (250, 260)), encoding=encoding)
    reply = trained(asked, np.full(LENGTH, 0.5))
    (update,) = admit([asked], [reply], 1e4, 60).updates
    moved = weights_of(update) != START
    assert not moved[3:9].any()
    assert not moved[250:260].any()
    assert moved.sum() == LENGTH - 16


@pytest.mark.parametrize("asked_for", ["int8", "topk", "float32"])
@pytest.mark.parametrize("sent", ["int8", "topk", "float32"])
def test_the_encoding_is_the_one_asked_for(trained, asked_for, sent):
    asked = ask(encoding=asked_for)
    admitted = admit([asked], [trained(asked, change(), encoding=sent)], 1e4, 60)
    assert len(admitted.updates) == (asked_for == sent)
    assert asked_for == sent or f"{asked_for} has" in admitted.failures[1]


def test_more_entries_than_the_plan_allows_are_refused(trained):
    asked = ask(encoding="topk", topk=0.02)
    coded, _ = encode(change(), None, "topk", 0.03)
    reply = with_delta(asked, trained, {name: Array(array) for name, array in coded.items()})
    assert refusal(asked, reply) == "refused: 8 entries of 263; at most 6 asked"


@pytest.mark.parametrize("where", ["personal", "unsent"])
def test_what_stays_on_a_device_is_no_change_whoever_sends_it(trained, where):
    asked, delta = ask(**{where: ((100, LENGTH),)}, encoding="float32"), change()
    delta[100:] = 1e6  # above the largest norm
    (update,) = admit([asked], [trained(asked, delta)], 1e4, 60).updates
    np.testing.assert_array_equal(weights_of(update)[100:], START[100:])
    np.testing.assert_array_equal(weights_of(update)[:100], START[:100] + delta[:100])


@pytest.mark.parametrize("encoding", ["int8", "topk", "float32"])
def test_no_change_takes_a_variance_to_zero(trained, encoding):
    inside = slice(200, 210)
    asked = ask(variances=((200, 210),), encoding=encoding, topk=1)
    (update,) = admit([asked], [trained(asked, np.full(LENGTH, -5))], 1e4, 60).updates
    weights = weights_of(update)
    np.testing.assert_array_equal(weights[inside], START[inside] / 16)
    np.testing.assert_allclose(weights[:200], START[:200] - 5, rtol=1e-5)


def test_a_variance_that_shrinks_as_it_may_is_left_alone(trained):
    asked = ask(variances=((200, 210),))
    (update,) = admit([asked], [trained(asked, -0.9 * START)], 1e4, 60).updates
    np.testing.assert_array_equal(weights_of(update), START + np.float32(-0.9) * START)


def test_bytes_are_all_requests_and_the_good_replies(trained):
    asked = [ask(1), ask(2), ask(3, encoding="int8")]
    good, other = trained(asked[0], change()), trained(asked[2], change(1))
    bad = with_delta(asked[1], trained, {"delta": Array(np.full(LENGTH, np.nan, np.float32))})
    admitted = admit(asked, [good, bad, other], 1e4, 60)
    plan = asked[0].content["config"]["plan"]
    weights = len(asked[0].content["arrays"]["weights"].data)
    assert weights >= 4 * LENGTH
    plans = 2 * len(plan) + len(asked[2].content["config"]["plan"])
    assert admitted.bytes_down == 3 * weights + plans
    coded = sum(len(array.data) for array in other.content["delta"].values())
    assert admitted.bytes_up == len(good.content["delta"]["delta"].data) + coded


def test_int8_is_a_quarter_of_float32(trained):
    sizes = {}
    for encoding in ("int8", "float32"):
        asked = ask(encoding=encoding)
        sizes[encoding] = admit([asked], [trained(asked, change())], 1e4, 60).bytes_up
    assert sizes["int8"] < LENGTH + 2 * 4 + 2 * 200
    assert sizes["float32"] >= 4 * LENGTH


def test_payload_counts_arrays_texts_and_blobs():
    content = RecordDict(
        {
            "a": ArrayRecord({"x": Array("float32", (2,), "numpy.ndarray", b"12345678")}),
            "c": ConfigRecord({"text": "abc", "blob": b"12", "number": 5}),
            "m": MetricRecord({"loss": 0.5}),
        }
    )
    assert payload(content) == 8 + 3 + 2


def evaluation(confusion):
    asked = ask()
    metrics = {} if confusion is None else {"confusion": confusion}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=asked)


def test_counts_are_read_row_by_row():
    counts = confusion_of(evaluation([1, 2, 3, 4]), 2)
    assert counts.tolist() == [[1, 2], [3, 4]]
    assert counts.dtype == np.int64


@pytest.mark.parametrize(
    "counts",
    [
        None,
        [],
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        4,
        [1, 2, 3, -1],
        [1.0, 2.0, 3.0, float("nan")],
        [1.5, 2.0, 3.0, 4.0],
        [1, 2, 3, 2**70],
    ],
)
def test_wrong_counts_are_refused(counts):
    with pytest.raises(DeltaError, match="counts"):
        confusion_of(evaluation(counts), 2)


def test_an_evaluation_without_metrics_is_refused():
    with pytest.raises(DeltaError, match="counts"):
        confusion_of(Message(RecordDict(), reply_to=ask()), 2)
