import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from simulations.engine import codec
from simulations.engine.arena import Arena, read
from simulations.engine.payloads import SharedPayloads, payloads

KEYS = st.text(max_size=5)
INTS = st.integers(-(2**63), 2**64 - 1)
FLOATS = st.floats(allow_nan=False)
SCALARS = (INTS, FLOATS, st.text(max_size=9), st.booleans(), st.binary(max_size=9))
CONFIGS = st.dictionaries(KEYS, st.one_of(*SCALARS, *map(st.lists, SCALARS)), max_size=4)
METRICS = st.dictionaries(
    KEYS, st.one_of(INTS, FLOATS, st.lists(INTS), st.lists(FLOATS)), max_size=4
)
ARRAYS = st.dictionaries(
    KEYS, st.binary(max_size=64).map(lambda data: Array("u1", (len(data),), "raw", data))
)
RECORDS = st.one_of(CONFIGS.map(ConfigRecord), METRICS.map(MetricRecord), ARRAYS.map(ArrayRecord))


def decode(frame: bytes) -> tuple[RecordDict | None, object]:
    return codec.decode(lambda offset, length: frame[offset : offset + length])


@given(st.dictionaries(KEYS, RECORDS, max_size=4))
def test_records_come_back_as_they_were(records: dict) -> None:
    sent = RecordDict(records)
    frame = b"".join(codec.encode(sent, {"head": [1, None]}))
    got, head = decode(frame)
    assert got == sent
    assert list(got) == list(sent)
    assert {k: type(v) for k, v in got.items()} == {k: type(v) for k, v in sent.items()}
    assert head == {"head": [1, None]}
    codec.check_state(frame)


@given(st.binary(max_size=200))
def test_noise_is_refused_with_a_value_error(noise: bytes) -> None:
    try:
        codec.check_state(noise)
    except ValueError:
        return
    assert not noise or decode(noise)


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b'{"records":[["a","metric",{"x":null}]]}',
        b'{"head":0,"records":[["a","metric",{"x":null}]]}',
        b'{"head":0,"records":[["a","other",{}]]}',
        b'{"head":0,"records":[["a","array",[["w",1,[2],"s",0]]]]}',
        b'{"head":0,"records":[["a","array",[["w","f",[2],"s",9]]]]}',
    ],
)
def test_a_hostile_state_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a"):
        codec.check_state(len(text).to_bytes(4, "little") + text)


def test_a_shared_payload_is_written_once_and_freed_at_the_end() -> None:
    arena = Arena("test")
    shared = SharedPayloads(arena)
    array = Array(np.arange(9000.0))
    records = [RecordDict({"w": ArrayRecord({"w": array})}) for _ in range(3)]
    for record in records:
        shared.retain(payloads(record))
    frames = [codec.encode(record, None, shared.find) for record in records]
    assert all(len(frame) == 1 for frame in frames)
    for frame in frames:
        block = arena.put(frame)
        got, _ = codec.decode(lambda o, n: read(arena.fd, o, n), block.offset, block.length)
        assert got["w"]["w"].data == array.data
    for record in records:
        shared.release(payloads(record))
    assert shared.find(array.data) is None
    arena.close()
