import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from schemas.delta import BLOCK, DeltaError, decode, encode

lengths = st.one_of(
    st.integers(1, 3 * BLOCK), st.sampled_from([1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
)
entries = st.floats(-(2.0**60), 2.0**60, width=32)
vectors = lengths.flatmap(lambda length: arrays(np.float32, length, elements=entries))


def spread(scales, length):
    """Each entry's scale."""
    return np.repeat(scales, BLOCK)[:length]


@given(vectors)
def test_float32_is_exact(delta):
    coded, residual = encode(delta, None, "float32")
    assert residual is None
    np.testing.assert_array_equal(decode(coded, delta.size, "float32"), delta)


@given(vectors)
def test_int8_is_within_half_a_step_of_its_own_block(delta):
    coded, residual = encode(delta, None, "int8")
    assert coded["codes"].dtype == np.int8
    assert coded["codes"].shape == delta.shape
    assert coded["scales"].shape == (-(-delta.size // BLOCK),)
    decoded = decode(coded, delta.size, "int8")
    blocks = np.pad(delta, (0, -delta.size % BLOCK)).reshape(-1, BLOCK)
    step = spread(np.abs(blocks).max(1) / 127.0, delta.size)
    tiny = 200 * np.finfo(np.float32).smallest_subnormal  # a subnormal scale cannot be rounded well
    assert (np.abs(decoded - delta) <= 0.501 * step + tiny).all()
    np.testing.assert_allclose(residual, delta - decoded, rtol=1e-6, atol=tiny)


def test_a_large_entry_coarsens_its_own_block_only():
    delta = np.full(2 * BLOCK, 1e-3, np.float32)
    delta[0] = 1e3
    coded, _ = encode(delta, None, "int8")
    decoded = decode(coded, delta.size, "int8")
    assert (decoded[1:BLOCK] == 0).all()
    np.testing.assert_allclose(decoded[BLOCK:], 1e-3, rtol=1e-5)


@pytest.mark.parametrize("encoding", ["int8", "topk"])
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, BLOCK, BLOCK + 7]), st.integers(2, 12))
def test_error_feedback_loses_nothing_over_rounds(encoding, seed, length, rounds):
    rng = np.random.default_rng(seed)
    residual, sent, wanted = None, np.zeros(length), np.zeros(length)
    for _ in range(rounds):
        delta = (rng.normal(size=length) * 10.0 ** rng.integers(-4, 2)).astype(np.float32)
        coded, residual = encode(delta, residual, encoding)
        sent += decode(coded, length, encoding)
        wanted += delta
    np.testing.assert_allclose(sent + residual, wanted, rtol=1e-5, atol=1e-4)


def test_what_one_round_rounds_away_the_next_ones_send():
    delta = np.array([127.0, 0.3], np.float32)
    residual, sent = None, 0.0
    for _ in range(10):
        coded, residual = encode(delta, residual, "int8")
        sent += decode(coded, 2, "int8")[1]
    assert sent == pytest.approx(3.0, abs=0.6)


def test_float32_sends_an_earlier_residual_too():
    delta, residual = np.array([1.0, 2.0], np.float32), np.array([0.25, 0], np.float32)
    coded, left = encode(delta, residual, "float32")
    np.testing.assert_array_equal(coded["delta"], [1.25, 2.0])
    assert left is None


def test_zeros_stay_zeros():
    coded, residual = encode(np.zeros(BLOCK + 1, np.float32), None, "int8")
    assert not decode(coded, BLOCK + 1, "int8").any()
    assert not residual.any()


GOOD = {"codes": np.ones(300, np.int8), "scales": np.ones(2, np.float32)}
NAN = np.array([1, np.nan], np.float32)
HOSTILE = {
    "no arrays": {},
    "codes alone": {"codes": GOOD["codes"]},
    "scales alone": {"scales": GOOD["scales"]},
    "extra name": {**GOOD, "delta": np.ones(300, np.float32)},
    "unknown name": {"weights": np.ones(300, np.float32)},
    "codes too short": {**GOOD, "codes": np.ones(299, np.int8)},
    "codes too long": {**GOOD, "codes": np.ones(301, np.int8)},
    "codes unsigned": {**GOOD, "codes": np.ones(300, np.uint8)},
    "codes wide": {**GOOD, "codes": np.ones(300, np.int64)},
    "codes of rank 2": {**GOOD, "codes": np.ones((1, 300), np.int8)},
    "codes a scalar": {**GOOD, "codes": np.int8(1) * np.ones((), np.int8)},
    "scales too few": {**GOOD, "scales": np.ones(1, np.float32)},
    "scales too many": {**GOOD, "scales": np.ones(3, np.float32)},
    "scales double": {**GOOD, "scales": np.ones(2)},
    "scales NaN": {**GOOD, "scales": NAN},
    "scales infinite": {**GOOD, "scales": np.array([np.inf, 1], np.float32)},
    "scales overflow": {
        "codes": np.full(300, 127, np.int8),
        "scales": np.full(2, 3e38, np.float32),
    },
    "NaN scale of zero codes": {"codes": np.zeros(300, np.int8), "scales": NAN},
    "delta too short": {"delta": np.ones(299, np.float32)},
    "delta double": {"delta": np.ones(300)},
    "delta of objects": {"delta": np.full(300, None, object)},
    "delta of text": {"delta": np.full(300, "1")},
    "delta of rank 2": {"delta": np.ones((300, 1), np.float32)},
    "delta NaN": {"delta": np.r_[np.ones(299), np.nan].astype(np.float32)},
    "delta infinite": {"delta": np.full(300, -np.inf, np.float32)},
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_hostile_arrays_are_refused(hostile):
    assert decode(GOOD, 300, "int8").tolist() == [1.0] * 300
    with pytest.raises(DeltaError):
        decode(hostile, 300, "float32" if "delta" in hostile else "int8")


def test_the_refusal_says_what_came_and_what_was_expected():
    with pytest.raises(DeltaError, match=r"codes is int8\[299\]; expected int8\[300\]"):
        decode(HOSTILE["codes too short"], 300, "int8")
    with pytest.raises(DeltaError, match=r"arrays \['codes'\]; int8 has \['codes', 'scales'\]"):
        decode(HOSTILE["codes alone"], 300, "int8")


@pytest.mark.parametrize("name", ["codes", "delta"])
def test_a_wrong_length_costs_no_memory(name):
    huge = np.broadcast_to(np.zeros(1, np.int8 if name == "codes" else np.float32), (10**9,))
    content = {name: huge} | ({"scales": np.ones(2, np.float32)} if name == "codes" else {})
    tracemalloc.start()
    try:
        with pytest.raises(DeltaError):
            decode(content, 300, "int8" if name == "codes" else "float32")
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["int8", "topk", "float32"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_change_that_is_not_finite_is_not_sent(encoding, bad):
    with pytest.raises(DeltaError, match="NaN or infinity"):
        encode(np.array([1, bad], np.float32), None, encoding)
