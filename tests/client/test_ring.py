import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ring import Ring, RingError, mapped
from client.windows import PersonWindows

TIME, CHANNELS, LIMIT = 5, 3, 40_000
ROOT = Path(__file__).parents[2]


def opened(folder, name="train", **changed):
    shape = {"time": TIME, "channels": CHANNELS, "item": 4, "limit": LIMIT, **changed}
    return Ring(folder / f"{name}.ring", **shape)


@pytest.fixture
def ring(tmp_path):
    opened(tmp_path, "test").close()
    ring = opened(tmp_path)
    yield ring
    ring.close()


def window(number):
    return [number + i / 100 for i in range(TIME * CHANNELS)]


def fill(ring, count, first=0):
    for number in range(first, first + count):
        ring.append(window(number), number % 4 - 1)


def firsts(folder):
    return mapped(folder).train[:, 0, 0].tolist()


def test_windows_come_back_mapped_and_in_order(ring, tmp_path):
    fill(ring, 7)
    person = mapped(tmp_path)
    assert isinstance(person, PersonWindows)
    assert isinstance(person.train, np.memmap)
    assert not person.train.flags.writeable
    np.testing.assert_array_equal(
        person.train, np.float32([np.reshape(window(n), (TIME, CHANNELS)) for n in range(7)])
    )
    assert person.labels.tolist() == [-1, 0, 1, 2, -1, 0, 1]
    assert person.labelled.tolist() == [1, 2, 3, 5, 6]
    assert person.test.shape == (0, TIME, CHANNELS)
    assert person.test_labels.shape == (0,)


def test_when_the_last_window_came_outlives_a_start_and_a_move(ring, tmp_path, monkeypatch):
    """Files of before do not say it: nothing is made up for them."""
    monkeypatch.setattr("client.ring.time.time", lambda: 1796066656.25)
    assert ring.last_at == 0.0
    fill(ring, 1)
    monkeypatch.undo()
    ring.close()
    ring.__init__(tmp_path / "train.ring", TIME, CHANNELS, 4, LIMIT)
    assert ring.last_at == 1796066656.25
    ring.close()
    ring.__init__(tmp_path / "train.ring", TIME, CHANNELS, 4, LIMIT * 2)  # its file is another
    assert mapped(tmp_path).train_at == ring.last_at == 1796066656.25
    with (tmp_path / "train.ring").open("r+b") as file:
        file.seek(72)
        file.write(bytes(8))
    assert mapped(tmp_path).newest[1] is None


def test_the_newest_stay_under_the_limit_and_in_order(ring, tmp_path):
    most = 0
    for number in range(1000):
        fill(ring, 1, number)
        most = max(most, sum(f.stat().st_size for f in tmp_path.glob("*train.ring*")))
    held = firsts(tmp_path)
    assert held == list(map(float, range(1000 - len(held), 1000)))
    assert 0 < len(held) < 1000
    assert len(held) * 60 > LIMIT / 8
    assert most <= LIMIT
    assert ring.ever == 1000


def test_a_mapping_does_not_change_while_windows_come(ring, tmp_path):
    fill(ring, 50)
    before = mapped(tmp_path)
    copy, labels = before.train.copy(), before.labels.copy()
    fill(ring, 1000)
    np.testing.assert_array_equal(before.train, copy)
    np.testing.assert_array_equal(before.labels, labels)


def test_it_is_taken_up_again(ring, tmp_path):
    fill(ring, 300)
    held, ever = firsts(tmp_path), ring.ever
    ring.close()
    ring.__init__(tmp_path / "train.ring", TIME, CHANNELS, 4, LIMIT)
    assert (firsts(tmp_path), ring.ever) == (held, ever)
    fill(ring, 1, 300)
    assert firsts(tmp_path) == [*held, 300]


def test_float16_halves_the_bytes(tmp_path):
    small = opened(tmp_path, item=2)
    opened(tmp_path, "test", item=2).close()
    fill(small, 3)
    with pytest.raises(ValueError, match="too large for its type"):
        small.append([1e6] * 15)
    assert mapped(tmp_path).train.dtype == np.float16
    assert firsts(tmp_path) == [0, 1, 2]
    small.close()


@pytest.mark.parametrize(
    ("torn", "ever"), [([9], 9), ([8, 9], 8), ([0], 10), ([3, 9], 9), (list(range(10)), 0)]
)
def test_torn_windows_are_dropped_at_opening_and_no_other(ring, tmp_path, torn, ever):
    fill(ring, 10)
    ring.close()
    at = ring._at
    with (tmp_path / "train.ring").open("r+b") as file:
        for slot in torn:
            file.seek(at.windows + slot * at.window + at.window // 2)
            file.write(bytes(at.window - at.window // 2))
    ring.__init__(tmp_path / "train.ring", TIME, CHANNELS, 4, LIMIT)
    assert firsts(tmp_path) == [n for n in range(10) if n not in torn]
    assert ring.ever == ever


def test_a_count_that_promises_more_than_was_written(ring, tmp_path):
    fill(ring, 4)
    ring.close()
    with (tmp_path / "train.ring").open("r+b") as file:
        file.seek(64)
        file.write(b"\xff" * 8)
    ring.__init__(tmp_path / "train.ring", TIME, CHANNELS, 4, LIMIT)
    assert firsts(tmp_path) == [0, 1, 2, 3]


def test_another_limit_is_taken_up(ring, tmp_path):
    fill(ring, 100)
    held = firsts(tmp_path)
    ring.close()
    ring.__init__(tmp_path / "train.ring", TIME, CHANNELS, 4, LIMIT * 2)
    assert firsts(tmp_path) == held
    ring.close()
    ring.__init__(tmp_path / "train.ring", TIME, CHANNELS, 4, 18_000)
    few = firsts(tmp_path)
    assert few == held[-len(few) :]
    assert len(few) < len(held)


@pytest.mark.parametrize("changed", [{"time": 6}, {"channels": 2}, {"item": 2}])
def test_windows_of_another_shape_are_not_mixed(ring, tmp_path, changed):
    ring.close()
    with pytest.raises(RingError, match=r"holds windows of 5 x 3 float32, not of .*move it away"):
        opened(tmp_path, **changed)
    ring.__init__(tmp_path / "train.ring", TIME, CHANNELS, 4, LIMIT)


NO_RINGS = [b"", b"FLWRING1", os.urandom(5000), b"FLWRING1" + bytes(5000)]


@pytest.mark.parametrize("content", NO_RINGS)
def test_a_foreign_file_is_left_alone_by_who_reads(tmp_path, content):
    path = tmp_path / "train.ring"
    path.write_bytes(content)
    with pytest.raises(RingError, match="move it away"):
        mapped(tmp_path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", NO_RINGS)
def test_what_is_no_ring_is_set_aside_and_begun_afresh(tmp_path, content, caplog):
    opened(tmp_path, "test").close()
    path, spoilt = tmp_path / "train.ring", tmp_path / "train.ring.spoilt"
    spoilt.write_bytes(b"of an earlier time: the newest alone is kept")
    path.write_bytes(content)
    ring = opened(tmp_path)
    fill(ring, 2)
    ring.close()
    assert spoilt.read_bytes() == content
    assert firsts(tmp_path) == [0, 1]
    (line,) = caplog.messages
    assert str(path) in line
    assert "begun afresh, it is train.ring.spoilt now" in line


def test_a_ring_that_was_cut_short_stops_nothing(ring, tmp_path):
    fill(ring, 9)
    ring.close()
    os.truncate(tmp_path / "train.ring", 6000)
    ring.__init__(tmp_path / "train.ring", TIME, CHANNELS, 4, LIMIT)
    fill(ring, 1, 9)
    assert firsts(tmp_path) == [9]
    assert (tmp_path / "train.ring.spoilt").stat().st_size == 6000


def test_a_limit_with_no_room_says_so(tmp_path):
    with pytest.raises(RingError, match="16500 bytes have no room for windows of 72 bytes"):
        opened(tmp_path, limit=16_500)


def test_only_one_process_appends(ring, tmp_path):
    with pytest.raises(OSError, match="another process has these windows open"):
        opened(tmp_path)


def test_a_full_disk_adds_nothing(ring, tmp_path, monkeypatch):
    fill(ring, 3)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            fill(ring, 1, 3)
    assert firsts(tmp_path) == [0, 1, 2]
    fill(ring, 1, 4)
    assert firsts(tmp_path) == [0, 1, 2, 4]


def test_a_move_that_finds_no_room_leaves_the_windows(ring, tmp_path, monkeypatch):
    fill(ring, ring._at.capacity)
    held = firsts(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            fill(ring, 1, 1000)
    assert firsts(tmp_path) == held
    assert not list(tmp_path.glob("*.part"))
    fill(ring, 1, 1000)
    assert firsts(tmp_path)[-1] == 1000


STEPS = st.one_of(
    st.integers(1, 150),
    st.sampled_from(["reopen", "smaller", "larger", "torn", "left over"]),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(STEPS, max_size=12))
def test_whatever_happens_the_newest_are_there(steps):
    with tempfile.TemporaryDirectory() as name:
        folder, limit, ever = Path(name), LIMIT, 0
        opened(folder, "test").close()
        ring = opened(folder)
        for step in steps:
            if isinstance(step, int):
                fill(ring, step, ever)
                ever += step
                continue
            limit = {"smaller": 25_000, "larger": 60_000}.get(step, limit)
            ring.close()
            if step == "torn":  # the count did not reach the disk, or more of it than the windows
                with (folder / "train.ring").open("r+b") as file:
                    file.seek(64)
                    file.write((len(ring) + 5).to_bytes(8, "little"))
            if step == "left over":
                (folder / ".train.ring.part").write_bytes(b"half of it")
            ring = opened(folder, limit=limit)
            assert not (folder / ".train.ring.part").exists()
            assert ring.ever == ever
        held, least = firsts(folder), min(ever, 39)
        assert held[-least:] == list(map(float, range(ever - least, ever)))[-least:]
        assert held == list(map(float, range(ever - len(held), ever)))
        ring.close()


KILLED = """
import sys
from pathlib import Path
from client.ring import Ring
ring = Ring(Path(sys.argv[1]) / "train.ring", 5, 3, 4, 40_000)
print("ready", ring.ever, flush=True)
for number in range(ring.ever, 10**9):
    ring.append([number] * 15, number % 7)
    if number % 10 == 0:
        print(number, flush=True)
"""


def test_a_kill_at_any_moment_leaves_whole_windows(ring, tmp_path):
    ring.close()
    said = 0
    for life in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        for _ in range(60 + 7 * life):
            said = int(process.stdout.readline().split()[-1])
        process.send_signal(signal.SIGKILL)
        process.communicate()
    ring.__init__(tmp_path / "train.ring", TIME, CHANNELS, 4, LIMIT)
    person = mapped(tmp_path)
    numbers = person.train[:, 0, 0].astype(int)
    assert ring.ever > said
    assert numbers.tolist() == list(range(ring.ever - len(numbers), ring.ever))
    assert (person.train == numbers[:, None, None]).all()
    assert (person.labels == numbers % 7).all()


def test_appending_loads_no_numpy():
    script = "import sys, client.sources, client.ring; print('numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"
