"""The book knows what it made a graph of."""

import pytest

import server.graphs
from server.graphs import GraphBook, code_digest


def test_a_forward_graph_s_network_and_method_are_known(network, tmp_path):
    first, second = network("classifier"), network("classifier")
    book = GraphBook(tmp_path)
    digest = book.forward(first)
    assert book.origin(digest) == (first, "forward")
    read = GraphBook(tmp_path)  # from the cache, not made
    assert read.forward(second) == digest
    assert read.origin(digest) == (second, "forward")


def test_other_graphs_have_no_origin(spec, network):
    book = GraphBook()
    with pytest.raises(KeyError):
        book.origin(book.statistics(spec))


@pytest.mark.parametrize("name", ["onnx", "onnx-ir", "onnxscript"])
def test_another_release_of_the_exporter_exports_anew(monkeypatch, name):
    """Releases that do not fit torch's write graphs that do not load."""
    before, version = code_digest.__wrapped__(), server.graphs.version
    monkeypatch.setattr(server.graphs, "version", lambda of: "9" if of == name else version(of))
    assert code_digest.__wrapped__() != before
