import hashlib
import os
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from client import graphs
from client.bundle.predictor import NotRunnableError, session
from client.graphs import GraphError, GraphLimits, GraphStore
from tests.client import handmade


@pytest.fixture
def fresh(tmp_path):
    return GraphStore(tmp_path / "graphs")


def files(store):
    return sorted(path.name for path in store.folder.rglob("*")) if store.folder.exists() else []


def test_a_graph_is_stored_under_its_digest(fresh, graph):
    content = graph("statistics")
    digest = fresh.put(content)
    assert digest == hashlib.sha256(content).hexdigest()
    assert files(fresh) == [f"{digest}.onnx"]
    assert fresh.has(digest)
    assert (fresh.folder / f"{digest}.onnx").stat().st_mode & 0o077 == 0o044 & ~umask()
    assert fresh.put(content) == digest
    assert files(fresh) == [f"{digest}.onnx"]


def umask():
    text = Path("/proc/self/status").read_text()
    return int(text.split("Umask:")[1].split()[0], 8)


def test_a_session_is_made_once_and_runs_on_one_thread(fresh, graph):
    digest = fresh.put(graph("statistics"))
    session = fresh.session(digest)
    assert session.get_session_options().intra_op_num_threads == 1
    assert session.get_session_options().inter_op_num_threads == 1
    (fresh.folder / f"{digest}.onnx").unlink()
    assert fresh.session(digest) is session
    assert fresh.has(digest)


def test_a_missing_graph_says_so(fresh):
    assert not fresh.has("0" * 64)
    with pytest.raises(GraphError, match="graph 000000000000 is not on this device"):
        fresh.session("0" * 64)


def altered(content):
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


@pytest.mark.parametrize("harm", [altered, lambda c: c[:-1], lambda c: c + b"x", lambda c: b""])
def test_bytes_that_do_not_match_the_name_are_removed_and_refused(fresh, graph, harm):
    content = graph("statistics")
    digest = fresh.put(content)
    path = fresh.folder / f"{digest}.onnx"
    path.write_bytes(harm(content))
    with pytest.raises(GraphError, match="do not match its name; removed"):
        fresh.session(digest)
    assert not path.exists()
    assert not fresh.has(digest), "the next plan could not bring it"
    fresh.put(content)
    fresh.session(digest)


@pytest.mark.parametrize("cut", [0, 1, 500, -1])
def test_a_graph_that_is_none_is_refused_before_it_is_written(fresh, graph, cut):
    with pytest.raises(GraphError, match="is no ONNX model"):
        fresh.put(graph("statistics")[:cut])
    assert files(fresh) == []


def test_a_graph_that_passes_and_does_not_load(fresh):
    content = handmade.statistics().replace(b"ReduceMean", b"ReduceMint")
    with pytest.raises(GraphError, match="does not load"):
        fresh.session(fresh.put(content))


def test_a_graph_is_checked_again_before_it_is_loaded(fresh, graph):
    digest = fresh.put(graph("statistics"))
    strict = GraphStore(fresh.folder, GraphLimits(nodes=1))
    with pytest.raises(GraphError, match=rf"graph {digest[:12]} .* nodes; at most 1"):
        strict.session(digest)


def test_an_oversized_graph_is_refused_before_it_is_written(tmp_path, graph):
    store = GraphStore(tmp_path / "graphs", GraphLimits(bytes=10))
    with pytest.raises(GraphError, match=r"a graph of \d+ bytes; at most 10"):
        store.put(graph("statistics"))
    assert files(store) == []


def test_a_session_reads_bytes_as_onnx_alone(tmp_path, graph):
    """Whatever the check may have missed: nothing in ONNX Runtime's own format is loaded."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "graph.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(graph("statistics"), options)
    own = (tmp_path / "graph.ort").read_bytes()
    assert own[4:8] == b"ORTM"
    with pytest.raises(GraphError, match="does not load"):
        graphs._session(own, "0" * 64, lean=False)
    with pytest.raises(NotRunnableError, match="does not load"):
        session("qdq", own)


@pytest.mark.parametrize("left", [b"", b"half"])
def test_what_a_power_cut_left_is_missing_and_written_again(fresh, graph, left):
    content = graph("statistics")
    digest = fresh.put(content)
    path = fresh.folder / f"{digest}.onnx"
    path.write_bytes(left)
    assert not fresh.has(digest)
    fresh.put(content)
    assert path.read_bytes() == content
    assert fresh.has(digest)


@pytest.mark.parametrize("when", ["write_bytes", "replace"])
def test_put_is_whole_or_not_at_all(fresh, graph, monkeypatch, when):
    def full(self, *_):
        if when == "write_bytes":
            with self.open("wb") as file:
                file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, when, full)
    with pytest.raises(OSError, match="No space"):
        fresh.put(graph("statistics"))
    monkeypatch.undo()
    assert files(fresh) == []


def test_a_lean_store_gives_the_same_numbers(tmp_path, graph, windows):
    stores = [GraphStore(tmp_path / "graphs", lean=lean) for lean in (False, True)]
    digest = stores[0].put(graph("statistics"))
    feed = {"windows": windows(5)}
    kept, returned = (store.session(digest).run(None, feed) for store in stores)
    for one, other in zip(kept, returned, strict=True):
        np.testing.assert_array_equal(one, other)


def aged(store, digest, days):
    when = time.time() - 86_400 * days
    os.utime(store.folder / f"{digest}.onnx", (when, when))


def test_graphs_unused_for_longest_make_room(tmp_path):
    contents = [handmade.statistics(), handmade.step(), handmade.forward()]
    store = GraphStore(tmp_path / "graphs", lean=True, kept=sum(map(len, contents)) - 1)
    first, second = map(store.put, contents[:2])
    aged(store, first, days=3)
    aged(store, second, days=2)
    third = store.put(contents[2])
    assert files(store) == sorted(f"{digest}.onnx" for digest in (second, third))


def test_a_graph_of_a_clock_that_ran_ahead_makes_room_too(tmp_path):
    contents = [handmade.statistics(), handmade.step(), handmade.forward()]
    store = GraphStore(tmp_path / "graphs", lean=True, kept=1)
    young, ahead = map(store.put, contents[:2])
    aged(store, ahead, days=-900)
    assert files(store) == sorted(f"{one}.onnx" for one in (young, ahead))
    newest = store.put(contents[2])
    assert files(store) == sorted(f"{one}.onnx" for one in (young, newest))


@pytest.mark.parametrize("use", ["has", "get", "put", "session", "young", "simulation"])
def test_a_graph_in_use_stays(tmp_path, use):
    store = GraphStore(tmp_path / "graphs", lean=use != "simulation", kept=1)
    digest = store.put(handmade.statistics())
    if use == "session":
        store.session(digest)
    aged(store, digest, days=0 if use == "young" else 9)
    if use in ("has", "get"):
        getattr(store, use)(digest)
    if use == "put":
        store.put(handmade.statistics())
    other = store.put(handmade.forward())
    assert files(store) == sorted(f"{one}.onnx" for one in (digest, other))


def test_what_a_kill_left_is_swept(tmp_path):
    left = tmp_path / "graphs" / ".part-abcdefgh"
    left.mkdir(parents=True)
    os.utime(left, (1000, 1000))
    GraphStore(tmp_path / "graphs")
    assert not left.exists()
