import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations.report import RunError, atomic_write
from simulations.report import files as files_module
from simulations.report.files import make_folder

LIMITED = """
import resource, sys
from pathlib import Path
from simulations.report.files import RunError, atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    atomic_write(Path(sys.argv[1]), bytes(8192))
except RunError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, where this user may mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("only root may mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    atomic_write(path, b"one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    atomic_write(tmp_path / "link", b"one")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"one"


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tiny_disk: Path) -> None:
    path = tiny_disk / "summary.json"
    atomic_write(path, b"old")
    with pytest.raises(
        RunError, match=r"summary\.json: cannot be written: No space left"
    ) as caught:
        atomic_write(path, bytes(200_000))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert list(tiny_disk.iterdir()) == [path]


def test_a_file_size_limit_reads_like_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    root = Path(files_module.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"{path}: cannot be written: File too large\n"
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "x", b"content")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_or_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file/run: cannot make this folder"):
        make_folder(tmp_path / "file" / "run")
    with pytest.raises(RunError, match="cannot be written: No such file"):
        atomic_write(tmp_path / "nowhere" / "x", b"")
