"""A run of functional memory with its backbone sent once, and with one in every graph."""

from io import StringIO

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from server import graphs
from simulations.config import load
from simulations.progress import Progress
from simulations.report.folder import RunFolder
from simulations.run import run
from tests.simulations.conftest import FILE

TABLE = "strategies.functional-memory"
SETTINGS = (
    "strategy='functional-memory'",
    "baselines=[]",
    "data.label_fraction=0.0",
    "rounds=2",
    "model.width=16",
    f"{TABLE}.memory_steps=2",
    f"{TABLE}.memory_persons=2",
    f"{TABLE}.width=8",
    f"{TABLE}.steps=2",
)


@pytest.fixture
def made(recordings_file, edge_cache, tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(FILE.format(path=recordings_file))

    def make(name):
        with Progress(Console(file=StringIO(), width=200)) as progress:
            folder = RunFolder.create("tiny", tmp_path / name)
            return run(load(path, SETTINGS), folder, progress)

    return make


def counts(path):
    with np.load(path / "confusion.npz") as file:
        return {name: file[name].tolist() for name in file}


def learned(path):
    return load_file(path / "checkpoint" / "functional-memory.safetensors")


def test_the_backbone_is_sent_once_and_the_numbers_are_the_same(made, monkeypatch):
    shared = made("shared")
    monkeypatch.setattr(graphs, "apart", lambda graph: (graph, {}))
    whole = made("whole")
    one, other = shared.summary, whole.summary
    assert not one.failures
    assert not other.failures
    assert one.macro_f1 == other.macro_f1
    assert one.bytes_per_participation == other.bytes_per_participation
    assert one.client_updates == other.client_updates > 0
    assert counts(shared.folder.path) == counts(whole.folder.path)
    np.testing.assert_equal(learned(shared.folder.path), learned(whole.folder.path))
    assert one.bytes_graphs < other.bytes_graphs - 10_000
