import pytest

from schemas.os_errors import told


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied", "a/b"), "a/b: Permission denied"),
        (OSError("no luck"), "no luck"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_a_line_names_the_file_where_there_is_one(error, says):
    assert told(error) == says


def test_where_caches_cannot_be_written_the_variable_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("FLWR_EDGE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    hint = "FLWR_EDGE_CACHE names another folder"
    for path in (".cache", ".cache/flwr-edge", ".cache/flwr-edge/graphs/0a.onnx"):
        assert hint in told(PermissionError(13, "Permission denied", str(tmp_path / path)))
    for path in ("", "runs", ".cache/other"):
        assert hint not in told(PermissionError(13, "Permission denied", str(tmp_path / path)))
