from pathlib import Path

import pytest

from schemas.os_errors import meant, told


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


def test_who_writes_beside_names_what_was_meant(tmp_path):
    path, part = tmp_path / "none" / "x", tmp_path / "none" / ".x.part"
    with pytest.raises(FileNotFoundError) as caught, meant(path, part):
        part.open("wb")
    assert told(caught.value) == f"{path}: No such file or directory"
    (tmp_path / "folder").mkdir()
    part = tmp_path / "p"
    part.touch()
    with pytest.raises(IsADirectoryError) as caught, meant(tmp_path / "folder", part):
        part.replace(tmp_path / "folder")
    assert str(tmp_path / "p") not in str(caught.value)
    with pytest.raises(FileNotFoundError) as caught, meant(path, part):
        Path(tmp_path / "another").read_bytes()
    assert caught.value.filename.endswith("another")
