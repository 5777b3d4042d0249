"""Envelopes, topics and frames: round trips, and what is refused before it costs anything."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.wire import (
    CHUNK,
    HEADER,
    KINDS,
    MAX_ENVELOPE,
    MAX_OBJECT,
    Accepted,
    Bound,
    Cancel,
    Envelope,
    Failed,
    ObjectRef,
    Received,
    Result,
    State,
    Task,
    Want,
    WireError,
    canonical,
    decode,
    encode,
    envelope,
    every,
    frame,
    new_id,
    node_of,
    parse_frame,
    parse_topic,
    topic,
)

SHA = "ab" * 32
REF = ObjectRef(sha256=SHA, bytes=300_000)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
devices = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=63)
refs = st.builds(ObjectRef, sha256=digests, bytes=st.integers(0, MAX_OBJECT))
many_refs = st.lists(refs, max_size=3).map(tuple)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
names = texts.filter(bool)
bodies = st.one_of(
    st.builds(
        Task,
        run=names,
        action=names,
        payload=refs,
        objects=many_refs,
        group=texts,
        bound=st.none() | st.builds(Bound, device=devices, id=ids),
        signature=st.none() | st.binary(min_size=64, max_size=64).map(bytes.hex),
    ),
    st.builds(Cancel, task=ids),
    st.builds(Received, object=digests),
    st.just(Accepted()),
    st.builds(Result, payload=refs, objects=many_refs),
    st.builds(Failed, reason=texts),
    st.builds(
        State,
        online=st.booleans(),
        version=texts,
        isa=st.none() | texts,
        task=st.none() | ids,
        paused=st.booleans(),
        waiting=st.none() | texts,
        battery=st.none() | st.floats(0, 1),
        on_power=st.none() | st.booleans(),
    ),
    st.just(Want.of(REF, 0, 2)),
)
envelopes = st.builds(
    Envelope,
    id=ids,
    re=st.none() | ids,
    at=st.floats(0, 1e12),
    ttl=st.floats(0.001, 1e6),
    body=bodies,
)


@given(envelopes)
def test_envelopes_come_back(message):
    assert decode(encode(message)) == message


@given(envelopes, st.data())
def test_a_truncated_envelope_is_refused(message, data):
    whole = encode(message)
    with pytest.raises(WireError):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(st.binary(max_size=200))
def test_random_bytes_are_no_envelope(data):
    with pytest.raises(WireError):
        decode(data)


@given(envelopes, st.data())
def test_a_flipped_bit_is_refused_or_another_envelope(message, data):
    whole = bytearray(encode(message))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = decode(bytes(whole))
    except WireError:
        return
    assert found != message


def plain(**changes):
    return json.loads(encode(envelope(Accepted(), ttl=5, re=new_id()))) | changes


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b" " * (MAX_ENVELOPE + 1), "at most 65536"),
        (b"[" * MAX_ENVELOPE, "no JSON"),
        (b'"\xff"', "no JSON"),
        (b"[]", "no JSON object"),
        (json.dumps(plain(v=2)).encode(), "version 2; this side speaks 1"),
        (json.dumps(plain(v=True)).encode(), "version True"),
        (json.dumps(plain(v=1.0)).encode(), "version 1.0"),
        (json.dumps(plain(ttl=0)).encode(), "ttl = 0"),
        (json.dumps(plain(ttl="5")).encode(), "ttl"),
        (json.dumps(plain(at=-1)).encode(), "at = -1"),
        (json.dumps(plain(id="A" * 32)).encode(), "id ="),
        (json.dumps(plain(id="a" * 32 + "\n")).encode(), "id ="),
        (json.dumps(plain(extra=1)).encode(), "unknown key"),
        (json.dumps(plain(body={"kind": "reboot"})).encode(), "reboot"),
        (json.dumps(plain(body={"kind": "failed", "reason": "x" * 501})).encode(), "reason"),
        (b'{"v": 1, "at": NaN}', "no JSON|missing|at"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(data, said):
    with pytest.raises(WireError, match=said) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_an_envelope_that_is_too_long_is_not_written():
    many = (ObjectRef(sha256=SHA, bytes=MAX_OBJECT),) * 256
    assert len(encode(envelope(Result(payload=REF, objects=many), ttl=5))) < MAX_ENVELOPE
    task = Task(run="€" * 200, action="train", payload=REF, objects=many, group="€" * 200)
    assert len(encode(envelope(task, ttl=5))) < MAX_ENVELOPE
    with pytest.raises(WireError, match="at most 65536"):
        encode(envelope(Failed.model_construct(kind="failed", reason="x" * 70_000), ttl=5))


@pytest.mark.parametrize(
    "chunks", [(), ((0, 0),), ((2, 1),), ((0, 4),), ((-1, 1),), ((0, 1),) * 65]
)
def test_a_want_asks_for_chunks_that_there_are(chunks):
    with pytest.raises(ValidationError):
        Want(object=REF, chunks=chunks)


def test_a_want_names_each_chunk_once():
    assert REF.chunks == 3
    assert Want(object=REF, chunks=((1, 3), (0, 2))).numbers() == [0, 1, 2]
    assert Want.of(REF, 2).numbers() == [2]


@given(devices, st.sampled_from(KINDS))
def test_topics_come_back(device, kind):
    assert parse_topic(topic(device, kind)) == (device, kind)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "flwr/v1",
        "flwr/v1/dev/",
        "flwr/v1//cmd",
        "flwr/v2/dev/cmd",
        "flwr/v1/Dev/cmd",
        "flwr/v1/dev\n/cmd",
        f"flwr/v1/{'d' * 64}/cmd",
        "flwr/v1/dev/cmd/x",
        "flwr/v1/dev/obj",
        "/flwr/v1/dev/cmd",
        "x/" * 30_000,
    ],
)
def test_other_topics_are_refused(name):
    with pytest.raises(WireError) as caught:
        parse_topic(name)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("device", ["", "+", "#", "a/b", "Ä", "d" * 64, "a\n"])
def test_a_device_id_is_checked_before_it_is_a_topic(device):
    with pytest.raises(WireError, match="device id"):
        topic(device, "cmd")


def test_filters():
    assert every("obj/req") == "flwr/v1/+/obj/req"
    with pytest.raises(WireError, match="no topic kind"):
        every("#")


@given(devices)
def test_nodes_are_positive_and_fit_63_bits(device):
    assert 0 < node_of(device) < 2**63


def test_a_node_is_the_same_for_ever():
    assert node_of("dev-1") == 254_729_779_094_788_626


@given(digests, st.integers(0, MAX_OBJECT // CHUNK - 1), st.binary(min_size=1, max_size=500))
def test_frames_come_back(sha, number, data):
    assert parse_frame(frame(sha, number, data)) == (sha, number, data)


def test_the_largest_frame():
    data = bytes(CHUNK)
    assert parse_frame(frame(SHA, 0, data)) == (SHA, 0, data)
    with pytest.raises(WireError, match="expected 1 to 131072"):
        frame(SHA, 0, data + b"1")
    with pytest.raises(WireError, match="chunk number"):
        frame(SHA, MAX_OBJECT // CHUNK, b"1")


@given(st.data())
def test_a_truncated_or_longer_frame_is_refused(data):
    whole = frame(SHA, 1, bytes(100))
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(WireError):
        parse_frame(whole[:cut])
    with pytest.raises(WireError):
        parse_frame(whole + bytes(cut + 1))


@given(st.binary(max_size=300))
def test_random_bytes_are_a_frame_only_by_chance(data):
    try:
        sha, number, chunk = parse_frame(data)
    except WireError:
        return
    assert frame(sha, number, chunk) == data


def test_a_huge_declared_length_allocates_nothing():
    hostile = bytes(32) + (0).to_bytes(4, "little") + b"\xff" * 4
    assert len(hostile) == HEADER
    tracemalloc.start()
    with pytest.raises(WireError, match="chunk of 4294967295 bytes"):
        parse_frame(hostile)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_canonical_bytes_hold_all_but_the_signature():
    task = Task(run="r", action="train", payload=REF)
    assert canonical(task) == canonical(task.model_copy(update={"signature": "0" * 128}))
    for change in ({"run": "s"}, {"objects": (REF,)}, {"group": "1"}, {"action": "evaluate"}):
        assert canonical(task.model_copy(update=change)) != canonical(task)
    assert canonical(task).startswith(b'flwr-edge task v1\n{"action":"train","bound":null')
