import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from schemas.payload import Payload, PayloadError
from schemas.payload_object import pack, unpack
from server.transport.records import payload_of, records_of


def test_records_travel_exactly() -> None:
    values = [
        np.array([np.nan, -0.0, 1e-45, np.inf], np.float32),
        np.arange(6, dtype=np.int8).reshape(2, 3),
        np.array(3, np.float32),
        np.zeros((0, 2), np.float64),
    ]
    content = RecordDict(
        {
            "arrays": ArrayRecord({f"{at}/x": Array(value) for at, value in enumerate(values)}),
            "config": ConfigRecord({"i": 1, "f": 1.0, "s": "é", "b": b"\0\xff", "t": True}),
            "lists": ConfigRecord({"i": [1, 2], "f": [1.0], "s": ["a"], "b": [b"x"], "t": [False]}),
            "metrics": MetricRecord({"n": 3, "loss": 0.1, "counts": [1, 2], "shares": [0.5, 1.0]}),
        }
    )
    data, blobs = pack(payload_of(content))
    again = records_of(unpack(data, blobs.__getitem__))
    assert set(again) == set(content)
    for name in content:
        assert again[name] == content[name]
        assert (
            again[name].object_id == content[name].object_id
        )  # all bytes, and types, are the same


@pytest.mark.parametrize(
    "payload",
    [
        Payload(metrics={"m": {"x": "text"}}),
        Payload(config={"c": {"x": {"a": 1}}}),
        Payload(config={"c": {"x": [1, "a"]}}),
    ],
)
def test_what_flower_does_not_take_is_refused(payload: Payload) -> None:
    with pytest.raises(PayloadError, match=r"record '[mc]'"):
        records_of(payload)
