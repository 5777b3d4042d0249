import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_kernels.layout import Shape, pack, round_scales, unpack

HEADER = bytes.fromhex(
    "464c57524c555400"  # FLWRLUT
    "01000000"  # version 1
    "02"  # bits
    "00"  # symmetric
    "4000"  # group 64
    "02000000"  # rows
    "05000000"  # inputs
    "8004000000000000"  # payload: 2 planes of 512 bytes and 128 of scales
    "00000038"  # multiplier 2^-15
)


@st.composite
def weights(draw):
    values = draw(st.sampled_from(["symmetric", "ternary", "zero_points"]))
    bits = 2 if values == "ternary" else draw(st.integers(1, 4))
    group = draw(st.sampled_from([0, 32, 64, 128]))
    shape = Shape(draw(st.integers(1, 150)), draw(st.integers(1, 400)), bits, group, values)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    each = (shape.rows, shape.groups)
    codes = rng.integers(0, shape.levels, (shape.rows, shape.inputs), dtype=np.uint8)
    spread = draw(st.sampled_from([0, 3, 8]))
    scales = rng.standard_normal(each) * 10.0 ** rng.uniform(-spread, 0, each)
    scales *= 2.0 ** draw(st.integers(-90, 90))
    zeros = rng.uniform(0, shape.levels, each).astype(np.float32)
    return shape, codes, scales.astype(np.float32), zeros if values == "zero_points" else None


def packed(shape, codes, scales, zeros=None):
    return pack(codes, scales, bits=shape.bits, group=shape.group, values=shape.values, zeros=zeros)


@settings(max_examples=150, deadline=None)
@given(weights())
def test_unpack_returns_what_was_packed(drawn):
    shape, codes, scales, zeros = drawn
    blob = packed(*drawn)
    back = unpack(blob)
    assert blob.size == shape.size
    assert back.shape == shape
    np.testing.assert_array_equal(back.codes, codes)
    np.testing.assert_array_equal(back.scales, round_scales(scales, shape.group)[0])
    if zeros is None:
        assert back.zeros is None
    else:
        stored = zeros if shape.group == 0 else zeros.astype(np.float16)
        np.testing.assert_array_equal(back.zeros, stored)


def test_a_largest_scale_that_rounds_to_a_power_of_two_packs_again_alike():
    codes = np.ones((1, 64), np.uint8)
    blob = pack(codes, np.full((1, 1), 1 + 1e-5, np.float32), bits=2, group=64)
    back = unpack(blob)
    np.testing.assert_array_equal(pack(back.codes, back.scales, bits=2, group=64), blob)


@settings(max_examples=100, deadline=None)
@given(weights())
def test_packing_again_gives_the_same_bytes(drawn):
    blob = packed(*drawn)
    back = unpack(blob.tobytes())
    again = pack(
        back.codes,
        back.scales,
        bits=back.bits,
        group=back.group,
        values=back.values,
        zeros=back.zeros,
    )
    np.testing.assert_array_equal(again, blob)


@settings(max_examples=100, deadline=None)
@given(weights())
def test_small_scales_keep_their_precision(drawn):
    shape, _, scales, _ = drawn
    rounded, multiplier = round_scales(scales, shape.group)
    assert np.log2(multiplier) == round(np.log2(multiplier))
    finest = np.abs(scales).max() * 2.0**-39
    assert np.all(np.abs(rounded - scales) <= np.maximum(np.abs(scales) * 2.0**-11, finest))


def test_a_small_blob_byte_by_byte():
    codes = np.array([[1, 2, 3, 0, 1], [3, 3, 0, 0, 2]], np.uint8)
    blob = packed(Shape(2, 5, 2, 64), codes, np.array([[1.0], [-0.5]], np.float32))
    expected = np.zeros(64 + 2 * 8 * 64 + 128, np.uint8)
    expected[: len(HEADER)] = list(HEADER)
    # Line 0 of each plane holds inputs 0..7; rows 0 and 1 are bytes 0 and 2.
    low, high = 64, 64 + 512
    expected[low] = 0b1_0101
    expected[low + 2] = 0b0_0011
    expected[high] = 0b0_0110
    expected[high + 2] = 0b1_0011
    # 2^15 and -2^14 as fp16
    expected[64 + 1024 : 64 + 1028] = [0x00, 0x78, 0x00, 0xF4]
    np.testing.assert_array_equal(blob, expected)


@pytest.mark.parametrize(
    ("row", "byte"), [(0, 0), (1, 2), (4, 16), (16, 8), (20, 24), (32, 1), (47, 55), (63, 63)]
)
def test_rows_in_a_plane_are_interleaved(row, byte):
    codes = np.zeros((64, 64), np.uint8)
    codes[row, 21] = 1
    blob = packed(Shape(64, 64, 1, 0), codes, np.ones((64, 1), np.float32))
    (at,) = np.flatnonzero(blob[64 : 64 + 512])
    assert (at, blob[64 + at]) == (2 * 64 + byte, 1 << 5)  # octet 2, high nibble, bit 1


@pytest.mark.parametrize(
    ("row", "column", "line", "byte", "value"),
    [(0, 0, 0, 0, 9), (17, 5, 1, 5, 9 << 4), (63, 63, 31, 63, 9 << 4), (50, 10, 7, 10, 9)],
)
def test_four_bits_lie_in_dwords(row, column, line, byte, value):
    codes = np.zeros((64, 64), np.uint8)
    codes[row, column] = 9
    blob = packed(Shape(64, 64, 4, 0), codes, np.ones((64, 1), np.float32))
    (at,) = np.flatnonzero(blob[64 : 64 + 2048])
    assert (at, blob[64 + at]) == (line * 64 + byte, value)


@pytest.mark.parametrize("group", [32, 64, 128])
def test_where_scales_and_zero_points_lie(group):
    shape = Shape(64, 192, 1, group, "zero_points")
    scales = np.zeros((64, shape.groups), np.float32)
    scales[3, 1] = 1.0
    zeros = np.zeros_like(scales)
    zeros[5, 1] = 2.0
    blob = packed(shape, np.zeros((64, 192), np.uint8), scales, zeros)[64:].view("<f2")
    first = {32: 256 + 64, 64: 256 + 128 + 256, 128: 256 + 128 + 256 + 256}[group]
    after = {32: 128, 64: 64, 128: 64}[group]
    assert list(np.flatnonzero(blob)) == [first + 3, first + after + 5]
    assert (blob[first + 3], blob[first + after + 5]) == (2.0**15, 2.0)


def test_scales_of_rows_stand_at_the_end_in_float32():
    shape = Shape(65, 3, 3, 0, "zero_points")
    scales = np.arange(65, dtype=np.float32)[:, None] / 3
    blob = packed(shape, np.zeros((65, 3), np.uint8), scales, -scales)
    ends = blob[64 + 2 * 3 * 512 :].view("<f4").reshape(2, 128)
    np.testing.assert_array_equal(ends[0, :65], scales[:, 0])
    np.testing.assert_array_equal(ends[1, :65], -scales[:, 0])
    assert not ends[:, 65:].any()


ONE = np.ones((1, 1), np.float32)
CODE = np.zeros((1, 1), np.uint8)


@pytest.mark.parametrize(
    ("codes", "scales", "wrong", "says"),
    [
        (CODE.astype(int), ONE, {}, "codes are int64"),
        (CODE[0], ONE, {}, r"must be uint8 \(N, K\)"),
        (np.zeros((0, 4), np.uint8), ONE, {}, "0 rows and 4 inputs"),
        (CODE + np.uint8(4), ONE, {}, "a code is 4; symmetric codes of 2 bits end at 3"),
        (CODE + np.uint8(3), ONE, {"values": "ternary"}, "end at 2"),
        (CODE, ONE, {"values": "ternary", "bits": 3}, "ternary weights take 2 bits, not 3"),
        (CODE, ONE, {"bits": 5}, "bits is 5"),
        (CODE, ONE, {"group": 16}, "group is 16"),
        (CODE, ONE, {"values": "signed"}, "values is 'signed'"),
        (CODE, ONE.astype(float), {}, "scales are float64"),
        (CODE, np.ones((1, 2), np.float32), {}, r"must be float32 \(1, 1\)"),
        (CODE, ONE * np.nan, {}, r"scales\[0, 0\] is nan"),
        (CODE, ONE, {"values": "zero_points"}, "none were given"),
        (CODE, ONE, {"zeros": ONE}, "some were given with 'symmetric'"),
        (CODE, ONE, {"values": "zero_points", "zeros": ONE * 7e4}, "fp16 ends at 65504"),
    ],
)
def test_what_cannot_be_packed_is_named(codes, scales, wrong, says):
    with pytest.raises(ValueError, match=says):
        pack(codes, scales, **({"bits": 2, "group": 64} | wrong))


@pytest.mark.parametrize(
    ("at", "byte", "says"),
    [
        (0, 0, "not packed weights"),
        (8, 2, "version is 2"),
        (12, 0, "bits is 0"),
        (12, 3, "2 x 5 weights of 3 bits, group 64, take 1664 bytes"),
        (13, 3, "values is 3"),
        (13, 1, "code 3 stands in ternary"),
        (14, 65, "group is 65"),
        (19, 255, "4278190082 rows"),
        (19, 63, "take 19"),
        (23, 1, "16777221 inputs"),
        (31, 255, "the header says"),
        (35, 255, "it must be a power of two"),
        (32, 1, "it must be a power of two"),
        (40, 1, "reserved bytes are not zero"),
        (64 + 1024 + 1, 0x7C, "NaN or infinite"),
    ],
)
def test_a_broken_blob_is_refused(at, byte, says):
    codes = np.array([[1, 2, 3, 0, 1], [3, 3, 0, 0, 2]], np.uint8)
    blob = packed(Shape(2, 5, 2, 64), codes, np.ones((2, 1), np.float32))
    blob[at] = byte
    blob[34] = 128 if at == 35 else blob[34]
    with pytest.raises(ValueError, match=says):
        unpack(blob)


@settings(max_examples=300, deadline=None)
@given(weights(), st.data())
def test_hostile_bytes_never_do_more_than_raise(drawn, data):
    blob = packed(*drawn)
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, min(blob.size, 80) - 1))] = data.draw(st.integers(0, 255))
    cut = blob[: data.draw(st.sampled_from([blob.size, blob.size - 1, 63, 64, 0]))]
    try:
        back = unpack(cut)
    except ValueError:
        return
    assert pack_again(back).size == cut.size


def pack_again(back):
    scales = np.nan_to_num(back.scales, posinf=0, neginf=0)
    return pack(
        back.codes,
        scales,
        bits=back.bits,
        group=back.group,
        values=back.values,
        zeros=back.zeros,
    )


@pytest.mark.parametrize("blob", [np.zeros(64, np.int8), np.zeros((1, 64), np.uint8)])
def test_a_blob_is_flat_bytes(blob):
    with pytest.raises(ValueError, match="must be uint8, 1-D"):
        unpack(blob)


def test_a_blob_need_be_neither_contiguous_nor_aligned():
    codes = np.ones((3, 70), np.uint8)
    blob = packed(Shape(3, 70, 1, 0), codes, np.ones((3, 1), np.float32))
    wide = np.zeros((blob.size, 3), np.uint8)
    wide[:, 1] = blob
    np.testing.assert_array_equal(unpack(wide[:, 1]).codes, codes)
    np.testing.assert_array_equal(unpack((b"x" + blob.tobytes())[1:]).codes, codes)
