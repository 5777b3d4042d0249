from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from schemas.delta import BLOCK, DeltaError, decode, encode
from schemas.payload import Payload
from schemas.payload_object import pack, unpack

lengths = st.one_of(st.integers(1, 3 * BLOCK), st.sampled_from([1, 255, 256, 511, 3000]))
# Whole numbers: many are equal, and many are 0.
vectors = lengths.flatmap(
    lambda n: arrays(np.float32, n, elements=st.integers(-3, 3), fill=st.just(0))
)
shares = st.one_of(st.floats(1e-6, 1), st.sampled_from([0.01, 0.05, 0.5, 1]))


def chosen(delta, share):
    """Positions sent, the slow and obvious way."""
    order = sorted(range(delta.size), key=lambda i: (-abs(delta[i]), i))
    return sorted(i for i in order[: ceil(share * delta.size)] if delta[i])


def positions(gaps):
    at, found = 0, []
    for gap in gaps.tolist():
        at += gap
        if gap < 255:
            found.append(at)
            at += 1
    return found


@given(vectors, shares)
def test_the_largest_are_sent_and_the_rest_is_kept(delta, share):
    coded, residual = encode(delta, None, "topk", share)
    expected = chosen(delta, share)
    assert positions(coded["gaps"]) == expected
    assert coded["codes"].size == len(expected)
    decoded = decode(coded, delta.size, "topk", share)
    assert set(np.flatnonzero(decoded)) == set(expected)
    np.testing.assert_allclose(decoded[expected], delta[expected], atol=0.5001 * 3 / 127)
    np.testing.assert_array_equal(residual, delta - decoded)


@given(vectors, shares)
def test_a_change_survives_its_journey(delta, share):
    coded, _ = encode(delta, None, "topk", share)
    data, _ = pack(Payload(arrays={"delta": coded}))
    arrived = unpack(data, lambda sha: b"").arrays["delta"]
    np.testing.assert_array_equal(
        decode(arrived, delta.size, "topk", share), decode(coded, delta.size, "topk", share)
    )


@given(st.dictionaries(st.sampled_from(["gaps", "codes", "scales"]), st.lists(st.integers(0, 255))))
def test_whatever_comes_is_a_change_or_refused(content):
    dtypes = {"gaps": np.uint8, "codes": np.uint8, "scales": np.float32}
    hostile = {name: np.array(values, dtypes[name]) for name, values in content.items()}
    if "codes" in hostile:
        hostile["codes"] = hostile["codes"].view(np.int8)
    try:
        delta = decode(hostile, 300, "topk", 0.05)
    except DeltaError:
        return
    assert delta.shape == (300,)
    assert np.count_nonzero(delta) <= 15


def test_what_is_small_is_sent_once_it_has_grown():
    delta = np.array([10, 1, 0, 0], np.float32)
    residual, total = None, np.zeros(4)
    for _ in range(22):
        coded, residual = encode(delta, residual, "topk", 0.25)
        total += decode(coded, 4, "topk", 0.25)
    assert total[1] >= 11
    np.testing.assert_allclose(total + residual, 22 * delta, rtol=1e-5)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_an_entry_costs_little_more_than_two_bytes(share):
    length = 100_000
    delta = np.random.default_rng(0).standard_normal(length).astype(np.float32)
    coded, _ = encode(delta, None, "topk", share)
    entries = ceil(share * length)
    assert coded["codes"].size == entries
    assert sum(array.nbytes for array in coded.values()) < 2.12 * entries


def test_zeros_send_nothing():
    coded, residual = encode(np.zeros(300, np.float32), None, "topk")
    assert not any(array.size for array in coded.values())
    assert not decode(coded, 300, "topk").any()
    assert not residual.any()


GOOD = {
    "gaps": np.array([255, 0, 10], np.uint8),
    "codes": np.array([1, -2], np.int8),
    "scales": np.ones(1, np.float32),
}
HOSTILE = {
    "gaps missing": {"codes": GOOD["codes"], "scales": GOOD["scales"]},
    "extra name": {**GOOD, "delta": np.ones(300, np.float32)},
    "gaps wide": {**GOOD, "gaps": GOOD["gaps"].astype(np.int64)},
    "gaps signed": {**GOOD, "gaps": GOOD["gaps"].view(np.int8)},
    "gaps of rank 2": {**GOOD, "gaps": GOOD["gaps"][None]},
    "gaps too few": {**GOOD, "gaps": GOOD["gaps"][:2]},
    "gaps too many": {**GOOD, "gaps": np.array([255, 0, 1, 1], np.uint8)},
    "more escapes than the change has room for": {**GOOD, "gaps": np.full(9, 255, np.uint8)},
    "an entry one past the end": {**GOOD, "gaps": np.array([255, 0, 44], np.uint8)},
    "an escape at the end": {**GOOD, "gaps": np.array([0, 10, 255], np.uint8)},
    "codes too few": {**GOOD, "codes": GOOD["codes"][:1]},
    "codes unsigned": {**GOOD, "codes": GOOD["codes"].view(np.uint8)},
    "codes of rank 2": {**GOOD, "codes": GOOD["codes"][None]},
    "more than asked": {
        "gaps": np.zeros(16, np.uint8),
        "codes": np.ones(16, np.int8),
        "scales": GOOD["scales"],
    },
    "scales missing": {"gaps": GOOD["gaps"], "codes": GOOD["codes"]},
    "scales too many": {**GOOD, "scales": np.ones(2, np.float32)},
    "scales double": {**GOOD, "scales": np.ones(1)},
    "scales NaN": {**GOOD, "scales": np.full(1, np.nan, np.float32)},
    "scales overflow": {**GOOD, "scales": np.full(1, 3e38, np.float32)},
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_hostile_arrays_are_refused(hostile):
    assert np.flatnonzero(decode(GOOD, 300, "topk")).tolist() == [255, 266]
    with pytest.raises(DeltaError):
        decode(hostile, 300, "topk")
