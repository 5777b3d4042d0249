"""Files that are whole, whose they are, and what kills leave."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from client.files import make_folder, read_plain, sweep, write_file, write_private, write_whole

ROOT = Path(__file__).parents[2]
KILLED = """
import os, sys
from pathlib import Path
from client.files import write_whole
Path.replace = lambda *_: os.kill(os.getpid(), 9)
write_whole(Path(sys.argv[1]) / "graph", b"half")
"""


def test_what_a_kill_left_is_swept_once_it_is_old(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=ROOT, check=False)
    (left,) = tmp_path.iterdir()
    sweep(tmp_path)
    assert left.exists(), "another process may be writing"
    older = tmp_path / "tmpab_cdef1"  # as versions before named it
    older.mkdir()
    write_whole(tmp_path / "tmpfile", b"mine")
    for path in (left, older, tmp_path / "tmpfile"):
        os.utime(path, (1000, 1000))
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tmpfile"]
    sweep(tmp_path / "none")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_mode_holds_whatever_the_umask(tmp_path, mode):
    before = os.umask(0o077)
    try:
        write_file(tmp_path / "a", b"1", mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
    assert (tmp_path / "a").read_bytes() == b"1"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_private_files_name_is_on_the_disk_too(tmp_path, monkeypatch):
    synced = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda f: (synced.append(os.fstat(f).st_mode), sync(f)))
    write_private(tmp_path / "a", b"1")
    assert [stat.S_ISDIR(mode) for mode in synced] == [False, True]


def test_a_pipe_is_not_waited_on(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"1")
    assert read_plain(tmp_path / "file") == b"1"
    for name in ("pipe", "."):
        with pytest.raises(OSError, match=r"is no plain file|Is a directory"):
            read_plain(tmp_path / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_folders_are_given_and_links_are_not_followed(tmp_path):
    make_folder(tmp_path / "a" / "b", (4321, 4322), 0o700)
    assert [(tmp_path / name).stat().st_uid for name in ("a", "a/b")] == [4321, 4321]
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    make_folder(tmp_path, (4321, 4322))
    assert tmp_path.stat().st_uid == 0, "what is there stays whose it is"
