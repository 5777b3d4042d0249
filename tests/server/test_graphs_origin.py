"""The book knows what it made a graph of."""

import pytest

from server.graphs import GraphBook


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
