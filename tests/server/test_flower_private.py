import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, Error, Message, RecordDict

from server import flower_private as private

RELEASES = ("1.41.0", "1.42.0")


def test_the_installed_release_is_in_the_range() -> None:
    assert (1, 41) <= tuple(map(int, version("flwr").split(".")[:2])) < (1, 43)


def test_messages_know_where_they_come_from() -> None:
    private.identify(run_id=5, node_id=9, task_id=3)
    message = Message(RecordDict(), 4, "train")
    assert (message.metadata.run_id, message.metadata.src_node_id) == (5, 9)
    private.assign_id(message, "5-1")
    assert message.metadata.message_id == "5-1"


def test_a_message_is_rebuilt_as_it_was() -> None:
    private.identify(run_id=5, node_id=9)
    message = Message(RecordDict({"c": ConfigRecord({"x": 1})}), 4, "train.x", group_id="2", ttl=9)
    private.assign_id(message, "5-2")
    for body in (message.content, Error(2, "why")):
        again = private.rebuild(private.metadata_fields(message), body)
        assert vars(again.metadata) == vars(message.metadata)
    assert Message(RecordDict(), reply_to=again).metadata.reply_to_message_id == "5-2"


def test_filled_records_are_those_that_flower_makes() -> None:
    made = Array(np.arange(6.0).reshape(2, 3))
    array = private.make_array(made.dtype, made.shape, made.stype, made.data)
    assert array == made
    assert array.object_id == made.object_id
    assert np.array_equal(array.numpy(), made.numpy())
    record = private.fill(ConfigRecord(), {"a": 1, "b": [b"x"]})
    assert record == ConfigRecord({"a": 1, "b": [b"x"]})
    assert record.object_id == ConfigRecord({"a": 1, "b": [b"x"]}).object_id


def test_an_empty_run_has_its_id() -> None:
    assert private.empty_run(7).run_id == 7


@pytest.mark.study
@pytest.mark.parametrize("release", RELEASES)
def test_the_engine_runs_on_each_release(release: str, tmp_path: Path) -> None:
    """Put a release before the installed packages; run this file and the engine's tests on it."""
    wheels = os.environ.get("FLWR_EDGE_WHEELS")
    source = ["--no-index", "--find-links", wheels] if wheels else []
    words = ["install", "--quiet", "--no-deps", "--target", str(tmp_path), *source]
    pip = [sys.executable, "-m", "pip", *words, f"flwr=={release}"]
    if subprocess.run(pip, check=False).returncode:
        pytest.skip(f"flwr {release} cannot be had here")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    engine = Path(__file__).parents[1] / "simulations" / "engine"
    tests = [sys.executable, "-m", "pytest", "-m", "not study", __file__, str(engine)]
    subprocess.run(tests, check=True, env=env)
