import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.bundle.parts import decode, encode
from schemas.bundle import BundleError


@given(st.binary(max_size=400), st.none() | st.binary(max_size=400))
def test_what_is_coded_is_restored(data, base):
    part, stored = encode("weights", data, base)
    assert (part.stored, part.bytes) == (len(stored), len(data))
    assert part.stored <= part.bytes
    assert decode(part, stored, base) == data


def codes(seed, count=4000):
    return np.random.default_rng(seed).integers(-127, 128, count).astype(np.int8)


def test_codes_near_the_bases_are_a_small_difference():
    base = codes(0)
    moved = base + np.random.default_rng(1).integers(-1, 2, len(base)).astype(np.int8)
    part, stored = encode("weights", moved.tobytes(), base.tobytes())
    assert part.coding == "sub"
    assert len(stored) < 0.3 * len(base)  # three values a code, of 256
    assert decode(part, stored, base.tobytes()) == moved.tobytes()


def test_a_difference_wraps_around():
    base, data = bytes([0, 255] * 300), bytes([255, 0] * 300)
    part, stored = encode("weights", data, base)
    assert decode(part, stored, base) == data


def test_packed_bits_that_flip_are_an_exclusive_or():
    base = codes(0).view(np.uint8)
    flipped = base ^ np.random.default_rng(1).choice([0, 0, 0, 16, 1], len(base)).astype(np.uint8)
    assert encode("weights", flipped.tobytes(), base.tobytes())[0].coding == "xor"


def test_a_base_of_another_length_serves_too():
    base = codes(0).tobytes()
    for data in (base[:3000], base + b"more"):
        part, stored = encode("weights", data, base)
        assert part.coding in ("sub", "xor")
        assert decode(part, stored, base) == data


def test_a_base_that_does_not_help_is_not_used():
    assert encode("weights", codes(0).tobytes(), codes(1).tobytes())[0].coding == "raw"


def test_no_base_where_one_is_needed():
    data = codes(0).tobytes()
    part, stored = encode("weights", data, data)
    with pytest.raises(BundleError, match="the base does not have"):
        decode(part, stored, None)


def test_the_same_bytes_each_time():
    assert encode("graph", b"abc" * 99, b"abd" * 99) == encode("graph", b"abc" * 99, b"abd" * 99)
