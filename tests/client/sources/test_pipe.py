import contextlib
import functools
import os
import stat
import time
import tracemalloc
from pathlib import Path

import pytest

from client.sources.frames import Silence
from client.sources.pipe import PipeSettings, PipeSource


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sensor" / "pipe"


@pytest.fixture
def source(path):
    return PipeSource(PipeSettings(time=3, channels=2, path=path))


def write(path, data, until):
    until(path.exists)
    with path.open("wb", buffering=0) as pipe:
        pipe.write(data)


def lines(*numbers, label=""):
    return b"".join(f"{n},{n / 2}{label}\n".encode() for n in numbers)


def firsts(sink):
    return [window.values[0] for window in sink.windows]


def test_lines_make_windows(source, path, sink, at_work, until):
    with at_work(source):
        write(path, lines(*range(3)) + lines(3, 4, 5, label=";7") + lines(6), until)
        until(lambda: len(sink.windows) == 2)
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert list(sink.windows[0].values) == [0, 0, 1, 0.5, 2, 1]
    assert [window.label for window in sink.windows] == [-1, 7]
    assert not sink.troubles


def test_the_group_may_write_whatever_the_umask(source, path, at_work, until):
    before = os.umask(0o027)
    try:
        with at_work(source):
            until(path.exists)
            until(lambda: stat.S_IMODE(path.stat().st_mode) == 0o660, 5)
    finally:
        os.umask(before)


def test_writers_come_and_go(source, path, sink, at_work, until):
    with at_work(source):
        for number in range(3):
            write(path, lines(*range(10 * number, 10 * number + 4)), until)
            until(lambda n=number: len(sink.windows) == n + 1)
            time.sleep(0.7)  # it sees that the writer went
    assert firsts(sink) == [0, 10, 20]
    assert not sink.troubles


def test_half_a_line_is_told_and_forgotten(source, path, sink, at_work, until):
    with at_work(source):
        write(path, lines(1, 2) + b"3,1.", until)
        until(lambda: sink.troubles["half a line"] == 1)
        write(path, lines(7, 8, 9), until)
        until(lambda: sink.windows)
    assert firsts(sink) == [7]
    assert sink.troubles == {"half a line": 1}


def test_a_line_may_come_in_parts(source, path, sink, at_work, until):
    with at_work(source):
        until(path.exists)
        with path.open("wb", buffering=0) as pipe:
            for byte in lines(1, 2, 3):
                pipe.write(bytes([byte]))
                time.sleep(0.001)
            until(lambda: sink.windows)
    assert firsts(sink) == [1]


@pytest.mark.parametrize(
    "bad", [b"hello\n", b"1\n", b"1,2,3\n", b"1,2;x\n", b"\xff\xfe\x00\n", b"1;2\n", b"1,2;3;4\n"]
)
def test_a_line_that_is_no_sample_breaks_the_run(source, path, sink, at_work, until, bad):
    with at_work(source):
        write(path, lines(1, 2) + bad + lines(7, 8, 9), until)
        until(lambda: sink.windows)
    assert firsts(sink) == [7]
    assert sink.troubles == {"line": 1}


def test_a_line_without_end_takes_no_memory(source, path, sink, at_work, until):
    with at_work(source):
        until(path.exists)
        with path.open("wb", buffering=0) as pipe:
            for _ in range(20):
                pipe.write(b"1" * 50_000)
            pipe.write(b"\n" + lines(7, 8, 9))
            until(lambda: sink.windows)
    assert firsts(sink) == [7]
    assert set(sink.troubles) == {"line"}
    assert len(source._rest) < 100_000


def test_a_pipe_made_anew_is_found(source, path, sink, at_work, until):
    with at_work(source):
        write(path, lines(1, 2, 3), until)
        until(lambda: len(sink.windows) == 1)
        path.unlink()
        os.mkfifo(path)
        write(path, lines(4, 5, 6), until)
        until(lambda: len(sink.windows) == 2)


def is_open(path):
    """Whether somebody in this process has it open."""
    links = []
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed meanwhile
            links.append(file.readlink())
    return path in links


def write_to_a_reader(path, data):
    with contextlib.suppress(OSError):  # nobody has it open
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        os.write(pipe, data)
        os.close(pipe)
        return True


def test_a_pipe_made_anew_before_anybody_wrote_is_found(source, path, sink, at_work, until):
    """As by a sensor's program that begins with rm and mkfifo: it waited for a reader for ever."""
    with at_work(source):
        until(lambda: is_open(path))
        path.unlink()
        os.mkfifo(path)
        until(lambda: write_to_a_reader(path, lines(1, 2, 3)), 5)
        until(lambda: sink.windows)


def test_a_file_in_its_place_is_named(source, path, sink):
    path.parent.mkdir()
    path.write_text("1,2\n")
    with pytest.raises(OSError, match="is no named pipe"):
        source.run(sink, None)


def test_no_window_spans_an_hour_without_samples(path, sink, at_work, until, monkeypatch):
    hour = [0.0]
    of_the_test = functools.partial(Silence, clock=lambda: hour[0])
    monkeypatch.setattr("client.sources.pipe.Silence", of_the_test)
    source = PipeSource(PipeSettings(time=3, channels=2, path=path, gap=60))
    hour[0] = 3600  # before the first one, there is nothing to break
    with at_work(source):
        until(path.exists)
        with path.open("wb", buffering=0) as pipe:
            pipe.write(lines(0, 1, 2, 3))
            until(lambda: sink.windows)
            hour[0] = 7200
            pipe.write(lines(7, 8, 9))
            until(lambda: len(sink.windows) == 2)
    assert firsts(sink) == [0, 7]
    assert sink.details == ["nothing came for 3600 s; no window spans it"]


def test_a_line_takes_little_memory(source, path, sink, at_work, until):
    """At 64 KiB a read the daemon grew by 4 MB in ten minutes at 1,500 lines a second."""
    with at_work(source):
        until(path.exists)
        with path.open("wb", buffering=0) as pipe:
            pipe.write(lines(1, 2, 3))
            until(lambda: sink.windows)
            tracemalloc.start()
            pipe.write(lines(4, 5, 6))
            until(lambda: len(sink.windows) == 2)
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    assert most < 1 << 15
