import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.new_file import NewFile


def write(path: Path, content: bytes = b"new", *, private: bool = False) -> None:
    with NewFile(path, private=private) as file:
        file.write(content)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def careful() -> Iterator[None]:
    """A user whose files are nobody else's."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write(path)
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("careful")
def test_a_new_file_is_as_the_umask_says(tmp_path: Path) -> None:
    write(tmp_path / "out")
    assert mode(tmp_path / "out") == 0o600


@pytest.mark.parametrize("there", [0o600, 0o640, 0o644, 0o664])
def test_a_file_that_was_there_hands_on_its_mode(tmp_path: Path, there: int) -> None:
    path = tmp_path / "out"
    path.touch()
    path.chmod(there)
    write(path)
    assert (path.read_bytes(), mode(path)) == (b"new", there)
    write(path, private=True)
    assert mode(path) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_that_root_replaces_stays_whose_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.touch(0o600)
    os.chown(path, 4321, 4322)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (4321, 4322)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path, *, there: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    link.symlink_to("elsewhere/target")
    if there:
        target.write_bytes(b"old")
    write(link)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert not target.is_symlink()
    assert list(target.parent.iterdir()) == [target]


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write(pipe)
    reader.join(5)
    assert read == [b"new"]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_device_stays() -> None:
    write(Path(os.devnull))
    assert stat.S_ISCHR(Path(os.devnull).lstat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1"])
def test_a_file_that_standard_output_leads_to_keeps_what_it_holds(
    tmp_path: Path, name: str
) -> None:
    script = f"""
import os
from pathlib import Path
from schemas.new_file import NewFile
os.write(1, b"before ")
with NewFile(Path({name!r})) as file:
    file.write(b"new")
os.write(1, b" after")
"""
    path = tmp_path / "log"
    path.write_bytes(b"old ")
    with path.open("ab") as log:
        subprocess.run([sys.executable, "-c", script], stdout=log, check=True)
    assert path.read_bytes() == b"old before new after"


def test_what_was_synced_is_at_its_reader(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    new = NewFile(pipe)
    new.file.write(b"line\n")
    new.sync()
    assert os.read(reader, 99) == b"line\n"
    new.keep()
    os.close(reader)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def failing(_: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(type(error)):
        write(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_it_is_on_the_disk_before_it_takes_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def replaced(path: Path, target: Path) -> Path:
        done.append(target.name)
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", lambda file: (done.append("sync"), sync(file)))
    monkeypatch.setattr(Path, "replace", replaced)
    write(tmp_path / "out", private=True)
    assert done == ["sync", "out", "sync"]


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        NewFile(tmp_path / "no" / "out")
    assert caught.value.filename == str(tmp_path / "no" / "out")
    with pytest.raises(IsADirectoryError):
        NewFile(tmp_path)
