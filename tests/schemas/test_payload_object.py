"""Payloads as objects: bit-exact, always the same bytes, and hostile ones refused in their size."""

import hashlib
import json
import math
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save

from schemas.payload import Payload, PayloadError
from schemas.payload_object import MAGIC, pack, unpack

DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
records = names.filter(lambda name: "/" not in name)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | texts
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))
)
settings_ = scalars | st.binary(max_size=9) | st.lists(scalars) | st.lists(st.binary(max_size=9))
payloads = st.builds(
    Payload,
    st.dictionaries(records, st.dictionaries(names, arrays, max_size=3), max_size=3),
    st.dictionaries(names, st.dictionaries(names, settings_, max_size=3), max_size=3),
    st.dictionaries(names, st.dictionaries(names, st.integers() | st.floats()), max_size=2),
)


def nothing(sha):
    raise KeyError(sha)


def same(one, other):
    """Equal in type, order and bits."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        alike = (one.dtype, one.shape) == (other.dtype, other.shape)
        return alike and one.tobytes() == other.tobytes()
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return type(one) is type(other) and one == other


@settings(deadline=None)
@given(payloads)
def test_payloads_come_back(payload):
    data, objects = pack(payload)
    assert all(hashlib.sha256(blob).hexdigest() == sha for sha, blob in objects.items())
    back = unpack(data, objects.__getitem__)
    for part in ("arrays", "config", "metrics"):
        assert same(getattr(payload, part), getattr(back, part))
    assert pack(back) == (data, objects)


def test_nan_infinity_and_minus_zero_come_back_bit_by_bit():
    bits = np.array([0x7FC00001, 0xFFC12345, 0x7F800000, 0x80000000, 1], np.uint32)
    data, _ = pack(Payload({"arrays": {"weights": bits.view(np.float32)}}))
    back = unpack(data, nothing).arrays["arrays"]["weights"]
    assert back.view(np.uint32).tolist() == bits.tolist()
    back[0] = 1  # a learner may change it


def test_views_and_foreign_byte_orders_travel_by_value():
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    data, _ = pack(Payload({"a": {"t": array.T, "s": array[::2, ::3], "b": array.astype(">f4")}}))
    back = unpack(data, nothing).arrays["a"]
    assert (back["t"] == array.T).all()
    assert (back["s"] == array[::2, ::3]).all()
    assert (back["b"] == array).all()


def test_a_graph_travels_by_itself():
    graph = bytes(100_000)
    data, objects = pack(Payload(config={"graphs": {"a": graph, "b": graph, "c": b"other"}}))
    assert len(data) < 500
    assert sorted(objects.values()) == sorted([graph, b"other"])
    back = unpack(data, objects.__getitem__)
    assert back.config["graphs"] == {"a": graph, "b": graph, "c": b"other"}


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (Payload({"a": {"x": np.array(["text"])}}), "cannot travel"),
        (Payload({"a": {"x": np.array([object()])}}), "cannot travel"),
        (Payload({"a": {"b/c": np.zeros(1)}, "a/b": {"c": np.zeros(1)}}), "one name"),
        (Payload(config={"a": {"x": {"nested": 1}}}), "a dict cannot travel"),
        (Payload(config={"a": {"x": None}}), "a NoneType cannot travel"),
        (Payload(config={"a": {"x": np.float32(1)}}), "a float32 cannot travel"),
        (Payload(metrics={"a": {"x": b"blob"}}), "a bytes cannot travel"),
        (Payload(config={"a": {"x": "long" * (1 << 20)}}), "of settings and names"),
    ],
)
def test_what_cannot_travel_is_said_at_the_sender(payload, said):
    with pytest.raises(PayloadError, match=said):
        pack(payload)


WHOLE, BLOBS = pack(
    Payload({"a": {"x": np.arange(50, dtype=np.float32)}}, {"c": {"g": b"blob", "n": 1}})
)


@given(st.data())
def test_truncated_or_longer_payloads_are_refused(data):
    cut = data.draw(st.integers(0, len(WHOLE) - 1))
    for hostile in (WHOLE[:cut], WHOLE + WHOLE[: cut + 1]):
        with pytest.raises(PayloadError):
            unpack(hostile, BLOBS.__getitem__)


@given(st.data())
def test_a_flipped_bit_is_refused(data):
    hostile = bytearray(WHOLE)
    hostile[data.draw(st.integers(0, len(WHOLE) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        back = unpack(bytes(hostile), BLOBS.__getitem__)
    except PayloadError:
        return
    assert pack(back)[0] == WHOLE, "only where zlib's own header says the same otherwise"


@given(st.binary(max_size=300), st.integers(0, 2**32 - 1))
def test_random_bytes_are_refused(junk, length):
    for hostile in (
        junk,
        MAGIC + struct.pack("<I", length) + junk,
        wrapped(junk),
        wrapped(struct.pack("<Q", len(junk)) + junk),
    ):
        with pytest.raises(PayloadError):
            unpack(hostile, nothing)


def wrapped(file, declared=None):
    return (
        MAGIC + struct.pack("<I", len(file) if declared is None else declared) + zlib.compress(file)
    )


def described(payload, tensors=None):
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return wrapped(save(tensors or {}, {"payload": text}))


GOOD = {"arrays": {}, "config": {}, "metrics": {}}
REFERENCE = {"object": hashlib.sha256(b"blob").hexdigest(), "bytes": 4}


@pytest.mark.parametrize(
    ("hostile", "said"),
    [
        (b"", "its head alone"),
        (b"PK\3\4" + WHOLE[4:], "begins with b'PK"),
        (MAGIC + b"\xff" * 4 + WHOLE[8:], "declares 4294967295"),
        (MAGIC + struct.pack("<I", 7) + WHOLE[8:], "declares 7"),
        (wrapped(bytes(1000), 999), "declared 999"),
        (wrapped(bytes(1000), 1001), "declared 1001"),
        (wrapped(b"\xff" * 8 + bytes(100)), "header is longer"),
        (wrapped(save({"a/x": np.zeros(3)})), "no payload"),
        (described("{"), "no payload"),
        (described("[" * 100_000), "no payload"),
        (described("[]"), "no payload"),
        (described({"arrays": {}}), "no payload: KeyError"),
        (described(GOOD | {"arrays": {"a": ["x"]}}), "no payload: KeyError"),
        (described(GOOD | {"arrays": {"a": 1}}), "no payload: TypeError"),
        (described(GOOD | {"arrays": {"a": ["x", "x"]}}, {"a/x": np.zeros(3)}), "KeyError"),
        (described(GOOD, {"a/x": np.zeros(3)}), "arrays of no record"),
        (described(GOOD | {"config": {"a": [1]}}), "no payload: AttributeError"),
        (described(GOOD | {"config": {"a": {"x": None}}}), "a NoneType as a setting"),
        (described(GOOD | {"config": {"a": {"x": {"y": 1}}}}), "a dict as a setting"),
        (described(GOOD | {"config": {"a": {"x": REFERENCE | {"bytes": 5}}}}), "not the 5 bytes"),
        (described(GOOD | {"config": {"a": {"x": REFERENCE | {"object": "../x"}}}}), "KeyError"),
        (described(GOOD | {"metrics": {"a": {"x": REFERENCE}}}), "a dict as a setting or metric"),
    ],
)
def test_hostile_payloads_are_refused_with_the_reason(hostile, said):
    with pytest.raises(PayloadError, match=said) as caught:
        unpack(hostile, {REFERENCE["object"]: b"blob"}.__getitem__)
    assert len(str(caught.value)) < 400


def test_an_object_of_other_bytes_is_refused():
    with pytest.raises(PayloadError, match="is not the 4 bytes"):
        unpack(WHOLE, lambda sha: b"glob")


def test_a_bomb_costs_no_more_than_it_declares():
    bomb = zlib.compress(bytes(100 << 20), 9)
    for declared in (1 << 29, 1 << 20, 8):
        tracemalloc.start()
        with pytest.raises(PayloadError):
            unpack(MAGIC + struct.pack("<I", declared) + bomb, nothing, 64 << 20)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3 << 20
