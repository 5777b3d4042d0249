import os
import time
import tracemalloc

import numpy as np
import pytest
from pydantic import ValidationError

from client.sources import Gatherer
from client.sources.folder import FolderSettings, FolderSource
from schemas.base import ConfigError


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def source(folder):
    def make(**changed):
        settings = {"time": 4, "channels": 2, "path": folder, "every": 0.05, "settled": 0}
        return FolderSource(FolderSettings(**settings | changed))

    return make


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def numbers(window):
    return list(window.values)


def test_files_are_taken_oldest_first_and_deleted(source, folder, sink, at_work, until):
    for age, name in enumerate(["c", "a", "b"]):
        np.save(folder / f"{name}.npy", np.full((4, 2), age, np.float32))
        os.utime(folder / f"{name}.npy", (1000 + age, 1000 + age))
    with at_work(source()):
        until(lambda: len(sink.windows) == 3)
        np.save(folder / "later@3.npy", np.full((2, 4, 2), 9.0))
        until(lambda: len(sink.windows) == 5)
        until(lambda: not names(folder))
    assert [window.values[0] for window in sink.windows] == [0, 1, 2, 9, 9]
    assert [window.label for window in sink.windows] == [-1, -1, -1, 3, 3]
    assert {window.shape for window in sink.windows} == {(4, 2)}
    assert not sink.troubles


def test_csv_with_and_without_names(source, folder, sink, at_work, until):
    rows = "".join(f"{n},{-n}\n" for n in range(8))
    (folder / "plain@1.csv").write_text(rows)
    (folder / "zipped.csv").write_text("x,y\n\n" + rows)
    (folder / "zzz.csv").write_text(rows, encoding="utf-8-sig")  # as a spreadsheet saves it
    with at_work(source()):
        until(lambda: len(sink.windows) == 6)
    assert numbers(sink.windows[1]) == [4, -4, 5, -5, 6, -6, 7, -7]
    assert sorted(window.label for window in sink.windows) == [-1, -1, -1, -1, 1, 1]


def test_kept_files_move(source, folder, sink, at_work, until):
    np.save(folder / "a.npy", np.zeros((4, 2)))
    with at_work(source(after="keep")):
        until(lambda: names(folder) == ["taken/a.npy"])
        time.sleep(0.15)
    assert len(sink.windows) == 1


def test_kept_files_of_one_name_are_all_kept(source, folder, sink):
    reader = source(after="keep")
    for value in range(3):
        for name in ("a", "b@2"):
            np.save(folder / f"{name}.npy", np.full((4, 2), value, np.float32))
        FolderSource.run(reader, sink, StopAfter(4))
    taken = ["a-2.npy", "a-3.npy", "a.npy", "b-2@2.npy", "b-3@2.npy", "b@2.npy"]
    assert names(folder) == [f"taken/{name}" for name in taken]
    assert np.load(folder / "taken" / "b-3@2.npy")[0, 0] == 2
    np.save(folder / "a.npy", np.zeros((4, 2)))
    FolderSource.run(source(after="keep"), sink, StopAfter(3))  # of a later life
    assert (folder / "taken" / "a-4.npy").exists()


def test_refused_files_of_one_name_are_all_there(source, folder, sink):
    for _ in range(2):
        (folder / "a.csv").write_text("words\nwords\n")
        FolderSource.run(source(), sink, StopAfter(3))
    assert names(folder) == ["refused/a-2.csv", "refused/a.csv"]


@pytest.mark.parametrize("after", ["delete", "keep"])
@pytest.mark.parametrize("content", ["1,2\n" * 4, "words\nwords\n"])
def test_a_file_that_takes_the_place_of_one_being_read_is_read_too(
    source, folder, sink, monkeypatch, after, content
):
    (folder / "a.csv").write_text(content)
    (folder / ".next").write_text("7,8\n" * 4)
    windows = FolderSource._windows

    def late(self, *what):
        if (folder / ".next").exists():
            (folder / ".next").rename(folder / "a.csv")
        return windows(self, *what)

    monkeypatch.setattr(FolderSource, "_windows", late)
    FolderSource.run(source(after=after), sink, StopAfter(5))
    first = [] if "words" in content else [1]
    assert [window.values[0] for window in sink.windows] == [*first, 7]


def test_a_file_that_is_written_to_while_it_is_read_is_read_again(source, folder, sink):
    path = folder / "a.csv"
    path.write_text("1,2\n" * 4)

    def written(_):
        sink.says = lambda _: ""
        path.write_text("7,8\n" * 4)
        os.utime(path, (1000, 1000))  # the clocks of file systems are coarse
        return ""

    sink.says = written
    FolderSource.run(source(), sink, StopAfter(5))
    assert [window.values[0] for window in sink.windows] == [1, 7]


def test_suffixes_may_be_in_capitals(source, folder, sink, at_work, until):
    (folder / "A@1.CSV").write_text("1,2\n" * 4)
    with (folder / "B.Npy").open("wb") as file:
        np.save(file, np.zeros((4, 2)))
    with at_work(source()):
        until(lambda: not names(folder))
    assert sorted(window.label for window in sink.windows) == [-1, 1]


def npy(shape):
    text = f"{{'descr':'<f4','fortran_order':False,'shape':{shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


BAD = {
    "empty.npy": b"",
    "text.npy": b"1,2\n",
    "flat.npy": b"\x93NUMPY\x01\x00"
    + (50).to_bytes(2, "little")
    + b"{'descr':'<f4','fortran_order':False,'shape':(8,)}",
    "short.npy": b"\x93NUMPY\x01\x00"
    + (53).to_bytes(2, "little")
    + b"{'descr':'<f4','fortran_order':False,'shape':(4, 2)}\n",
    "huge.npy": b"\x93NUMPY\x01\x00"
    + (67).to_bytes(2, "little")
    + b"{'descr':'<f4','fortran_order':False,'shape':(4, 1000000, 1000000)}",
    "endless.npy": npy((10**12, 0, 2)),
    "unhashable.npy": b"\x93NUMPY\x01\x00\x07\x00{[]: 1}",
    "sets.npy": b"\x93NUMPY\x01\x00\x04\x00{{}}",
    "cut.npy": npy((3, 4, 2)) + bytes(4 * 20),
    "other.npy": npy((10**4, 1, 1)) + bytes(4 * 10**4),
    "empty.csv": b"",
    "words.csv": b"1,2\n3,four\n",
    "rows.csv": b"1,2\n" * 5,
    "wide.csv": b"1,2,3\n" * 4,
    "binary.csv": bytes(range(256)),
    "long.csv": b"1" * 200_000,
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_window_is_refused_and_told(source, folder, sink, at_work, until, name):
    (folder / name).write_bytes(BAD[name])
    with at_work(source()):
        until(lambda: names(folder) == [f"refused/{name}"])
        np.save(folder / "good.npy", np.zeros((4, 2)))
        until(lambda: len(sink.windows) == 1)
    assert sink.troubles == {"file": 1}
    assert name in sink.details[0]
    assert len(sink.windows) == 1, "of a refused file nothing is taken"


def test_files_that_are_none_do_not_hang_it(source, folder, sink, at_work, until):
    os.mkfifo(folder / "pipe.npy")
    (folder / "folder.csv").mkdir()
    (folder / "link.npy").symlink_to("/etc/passwd")
    (folder / "notes.txt").write_text("hello")
    with at_work(source()):
        until(lambda: sink.troubles["file"] == 3)
    assert not sink.windows
    assert (folder / "notes.txt").exists()


def test_a_large_file_is_refused(source, folder, sink, at_work, until):
    np.save(folder / "large.npy", np.zeros((100, 4, 2)))
    with at_work(source(max_file_bytes=1000)):
        until(lambda: names(folder) == ["refused/large.npy"])
    assert "has 6528 bytes; at most 1000 are read" in sink.details[0]


def test_a_file_still_being_written_is_left_alone(source, folder, sink, at_work, until):
    path = folder / "a.npy"
    np.save(path, np.zeros((4, 2)))
    with at_work(source(settled=60)):
        time.sleep(0.2)
        assert not sink.windows
        os.utime(path, (time.time() - 90, time.time() - 90))
        until(lambda: len(sink.windows) == 1)


def test_a_clock_that_went_back_holds_no_file_back(source, folder, sink, at_work, until):
    np.save(folder / "a.npy", np.zeros((4, 2)))
    os.utime(folder / "a.npy", (time.time() + 86_400,) * 2)
    with at_work(source(settled=60)):
        until(lambda: len(sink.windows) == 1)


def test_a_full_disk_leaves_the_file(source, folder, sink):
    np.save(folder / "a.npy", np.zeros((4, 2)))
    sink.says = lambda _: "disk"
    with pytest.raises(OSError, match="is left for later"):
        FolderSource.run(source(), sink, StopAfter(3))
    assert names(folder) == ["a.npy"]


class StopAfter:
    """An event that is set at the nth look."""

    def __init__(self, looks):
        self.left = looks

    def is_set(self):
        self.left -= 1
        return self.left < 0

    def wait(self, _):
        return self.is_set()


def test_a_file_that_cannot_be_moved_is_taken_once(source, folder, sink, monkeypatch):
    np.save(folder / "a.npy", np.zeros((4, 2)))

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.unlink", denied)
    FolderSource.run(source(every=0.05), sink, StopAfter(10))
    assert len(sink.windows) == 1
    assert sink.troubles == {"folder": 1}


def test_a_relative_folder_is_refused():
    with pytest.raises(ValidationError, match="expected an absolute path"):
        FolderSettings(time=1, channels=1, path="here")


def test_no_file_keeps_those_behind_it_waiting(source, folder, sink, at_work, until, monkeypatch):
    """Whatever a reader raises."""
    (folder / "poison.csv").write_text("1,2\n")
    os.utime(folder / "poison.csv", (1000, 1000))
    np.save(folder / "good.npy", np.zeros((4, 2)))

    def broken(*_):
        raise KeyError("a bug")

    monkeypatch.setattr("client.sources.folder._numbers", broken)
    with at_work(source()):
        until(lambda: len(sink.windows) == 1)
        until(lambda: names(folder) == ["refused/poison.csv"])
    assert sink.troubles == {"file": 1}


def test_a_long_line_is_refused_before_it_fills_the_memory(source, folder, sink):
    (folder / "long.csv").write_text("1," * (2 << 20))
    tracemalloc.start()
    try:
        FolderSource.run(source(), sink, StopAfter(4))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sink.details == ["long.csv is refused: line 1: longer than 192 characters"]
    assert most < 1 << 20


def test_lines_as_long_as_numbers_are_taken(source, folder, sink, at_work, until):
    row = ",".join("-1.2345678901234567890123456789e-10" for _ in range(2))
    (folder / "a.csv").write_text("acceleration in m/s²,turn rate in rad/s\n" + f"{row}\n" * 4)
    with at_work(source()):
        until(lambda: len(sink.windows) == 1)


def test_refused_files_are_kept_up_to_a_limit(source, folder, sink, at_work, until):
    limit = 1 << 20
    refused = folder / "refused"
    with at_work(source(limit_bytes=limit)):
        for number in range(6):
            (folder / f"{number}.csv").write_bytes(b"x" * (limit // 3))
            until(lambda number=number: (refused / f"{number}.csv").exists())
        until(lambda: names(folder) == [f"refused/{number}.csv" for number in (3, 4, 5)])
        (folder / "larger.csv").write_bytes(b"x" * 2 * limit)
        until(lambda: names(folder) == ["refused/larger.csv"])


def test_small_refused_files_are_kept_up_to_a_number(source, folder, sink, monkeypatch):
    monkeypatch.setattr("client.sources.folder._MOST_REFUSED", 3)
    for number in range(5):
        (folder / f"{number}.csv").touch()
        os.utime(folder / f"{number}.csv", (1000 + number, 1000 + number))
    FolderSource.run(source(), sink, StopAfter(7))
    assert len(names(folder)) == 3


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_files_cannot_leave_is_refused_at_the_start(tmp_path, monkeypatch, there):
    """Its files would be taken again at each start."""
    path = tmp_path / "in"
    if there:
        path.mkdir()
    settings = {"time": 4, "channels": 2, "path": path}
    Gatherer(FolderSource, settings, tmp_path / "kept").stop()
    denied = path if there else tmp_path
    monkeypatch.setattr(os, "access", lambda asked, _: asked != denied)
    with pytest.raises(ConfigError, match=f"cannot remove files in {denied}; make it writable"):
        Gatherer(FolderSource, settings, tmp_path / "kept")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "in").touch()
    problems = FolderSettings(time=4, channels=2, path=tmp_path / "in").problems()
    assert "cannot remove files in" in problems[0]
