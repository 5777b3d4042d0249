import functools
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations.data.base import DataError
from simulations.data.download import fetch


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLWR_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine, and its folder."""
    folder = tmp_path / "site"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()
        thread.join()


def test_it_is_fetched_once(site: tuple[str, Path], cache: Path) -> None:
    url, folder = site
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", "b")
    (folder / "set.zip").write_bytes(buffer.getvalue())
    path = fetch(f"{url}/set.zip", "own.zip")
    assert path == cache / "own.zip"
    assert path.read_bytes() == buffer.getvalue()
    (folder / "set.zip").unlink()
    assert fetch(f"{url}/set.zip", "own.zip") == path
    assert list(cache.iterdir()) == [path]


def test_a_page_instead_of_a_zip_is_not_kept(site: tuple[str, Path], cache: Path) -> None:
    url, folder = site
    (folder / "set.zip").write_text("<html>log in first</html>")
    with pytest.raises(DataError, match=r"set.zip: could not be downloaded.*no whole zip"):
        fetch(f"{url}/set.zip", "own.zip")
    with pytest.raises(DataError, match="404"):
        fetch(f"{url}/none.zip", "own.zip")
    assert list(cache.iterdir()) == []


def test_no_network(cache: Path) -> None:
    with pytest.raises(DataError, match=r"by hand and set data.path"):
        fetch("http://127.0.0.1:9/set.zip", "own.zip", timeout=2)
    assert list(cache.iterdir()) == []
