"""A checkpoint gives back what went in, or says in one line why it cannot."""

import json
import pickle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from safetensors.numpy import load, save

from server.checkpoint import FORMAT, Checkpoint, CheckpointError


@pytest.fixture
def checkpoint():
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    return Checkpoint(
        identity="abc",
        round=7,
        arrays=ArrayRecord({"weights": Array(weights), "other": Array(weights[:, 1])}),
        state={
            "adam/0/step": np.array(5.0, np.float32),
            "moments/0": np.arange(4, dtype=np.float64)[::2],
            "names": np.array([1, -2], np.int64),
        },
        devices={3: b"\x00state\xff", 2**63: b"x"},
        progress={"rounds": [{"loss": None}], "failures": {"Ann": ["round 1: no reply"]}},
    )


def test_round_trip(checkpoint, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(checkpoint.to_bytes())
    read = Checkpoint.read(path, "abc")
    assert (read.identity, read.round, read.devices) == ("abc", 7, checkpoint.devices)
    assert read.progress == checkpoint.progress
    for name, array in checkpoint.arrays.items():
        np.testing.assert_array_equal(read.arrays[name].numpy(), array.numpy())
    assert read.state.keys() == checkpoint.state.keys()
    for name, array in checkpoint.state.items():
        np.testing.assert_array_equal(read.state[name], array)
        assert (read.state[name].dtype, read.state[name].shape) == (array.dtype, array.shape)


def test_nothing_but_arrays_round_trips_too(tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = ArrayRecord({"weights": Array(np.zeros(2, np.float32))})
    path.write_bytes(Checkpoint("abc", 0, arrays).to_bytes())
    read = Checkpoint.read(path, "abc")
    assert (read.state, read.devices, read.progress) == ({}, {}, {})


def test_the_file_is_plain_safetensors_without_pickle(checkpoint):
    content = checkpoint.to_bytes()
    assert set(load(content)) >= {"arrays/weights", "state/adam/0/step", "device/3"}
    assert pickle.dumps(b"")[:2] not in content[:2]


def refusal(path, content, identity="abc"):
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.read(path, identity)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    return said


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 100, pickle.dumps([1, 2])])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    assert "not a readable checkpoint" in refusal(tmp_path / "a", content)


def test_a_truncated_one_is_refused_at_every_length(checkpoint, tmp_path):
    content = checkpoint.to_bytes()
    for length in range(0, len(content), 53):
        assert "not a readable checkpoint" in refusal(tmp_path / "a", content[:length])


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            Checkpoint.read(path, "abc")


def test_other_safetensors_are_foreign(tmp_path):
    content = save({"weights": np.zeros(2, np.float32)})
    assert "format None; this version reads" in refusal(tmp_path / "a", content)


def test_a_later_format_is_refused(tmp_path):
    content = save({"a": np.zeros(2)}, {"format": "flwr-edge checkpoint 2", "identity": "abc"})
    assert "flwr-edge checkpoint 2" in refusal(tmp_path / "a", content)


def test_another_run_is_refused_with_the_way_out(checkpoint, tmp_path):
    said = refusal(tmp_path / "a", checkpoint.to_bytes(), identity="xyz")
    assert "another configuration" in said
    assert "--out" in said


@pytest.mark.parametrize(
    "metadata",
    [
        {"round": "7"},
        {"round": "seven", "progress": "{}"},
        {"round": "7", "progress": "{"},
        {"progress": json.dumps({})},
    ],
)
def test_damaged_metadata_are_refused(tmp_path, metadata):
    content = save({"a": np.zeros(2)}, {"format": FORMAT, "identity": "abc", **metadata})
    assert "not a readable checkpoint" in refusal(tmp_path / "a", content)


def test_a_device_that_is_no_node_is_refused(tmp_path):
    metadata = {"format": FORMAT, "identity": "abc", "round": "1", "progress": "{}"}
    content = save({"device/Ann": np.zeros(2, np.uint8)}, metadata)
    assert "not a readable checkpoint" in refusal(tmp_path / "a", content)
