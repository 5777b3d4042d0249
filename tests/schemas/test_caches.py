from pathlib import Path

from client.graphs import default_folder
from schemas.caches import cache_folder
from server.graphs import default_cache


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("FLWR_EDGE_CACHE", "/edge")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/edge")
    assert {default_folder(), default_cache()} == {Path("/edge/graphs"), Path("/edge/server")}
    monkeypatch.delenv("FLWR_EDGE_CACHE")
    assert cache_folder() == Path("/xdg/flwr-edge")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/flwr-edge"
