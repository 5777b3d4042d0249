"""What a disk spoilt in the cache of exported graphs is made anew, and stays whole from then on."""

import os

import pytest

from hypernet.networks.inputs import InputSpec
from server import graphs
from server.graphs import GraphBook


@pytest.fixture
def exports(monkeypatch):
    """Graphs that were exported; an export takes seconds."""
    made = []

    def export(spec):
        made.append(spec)
        return b"a graph"

    monkeypatch.setattr(graphs, "statistics_graph", export)
    return made


def digest(cache):
    return GraphBook(cache).statistics(InputSpec(4, 2))


def test_a_graph_is_exported_once(tmp_path, exports):
    assert digest(tmp_path / "cache") == digest(tmp_path / "cache")
    assert len(exports) == 1


@pytest.mark.parametrize("spoilt", [b"", b"a gr", b"a grapH"])
def test_a_spoilt_graph_is_exported_anew_once(tmp_path, exports, spoilt):
    whole = digest(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(spoilt)
    assert digest(tmp_path) == whole
    assert file.read_bytes() == b"a graph"
    assert list(tmp_path.iterdir()) == [file]
    assert digest(tmp_path) == whole
    assert len(exports) == 2


def test_a_graph_is_on_the_disk_before_it_has_its_name(tmp_path, exports, monkeypatch):
    synced = []
    sync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (synced.append(list(tmp_path.iterdir())), sync(file))
    )
    digest(tmp_path)
    assert [path.suffix for path in synced[0]] == [".part"]
    assert [path.suffix for path in synced[1]] == [".onnx"]
