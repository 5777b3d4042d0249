"""Objects on their way: any order, any number of lives, a stop at every step."""

import errno
import hashlib
import os
import random
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import schemas.incoming
from schemas.incoming import ObjectError
from schemas.objects import ObjectStore
from schemas.wire import CHUNK, ObjectRef

LENGTH = 3 * CHUNK + 100
DATA = random.Random(0).randbytes(LENGTH)
REF = ObjectRef(sha256=hashlib.sha256(DATA).hexdigest(), bytes=LENGTH)


def piece(number, data=DATA):
    return data[number * CHUNK : (number + 1) * CHUNK]


@pytest.fixture
def store(tmp_path):
    return ObjectStore(tmp_path, 1 << 24)


def whole(store):
    """Whether the folder holds the object and nothing else."""
    return [p.name for p in store.folder.iterdir()] == [REF.sha256] and (
        store.get(REF.sha256) == DATA
    )


def fill(incoming):
    for number in incoming.missing():
        incoming.add(number, piece(number))


def test_chunks_in_any_order_make_the_object(store):
    incoming = store.incoming(REF)
    assert incoming.missing() == [0, 1, 2, 3]
    for number in (2, 0, 3, 1):
        assert not incoming.done
        assert incoming.add(number, piece(number))
        assert not incoming.add(number, piece(number)), "a second time is no event"
    assert incoming.done
    assert not store.has(REF.sha256), "not before its hash was checked"
    assert incoming.finish() == incoming.finish() == REF
    assert whole(store)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3) | st.none(), max_size=20))
def test_it_resumes_wherever_it_was_left(tmp_path_factory, steps):
    """A number is a chunk that comes; None is a new life of the process."""
    store = ObjectStore(tmp_path_factory.mktemp("objects"), 1 << 24)
    incoming, came = store.incoming(REF), set()
    for step in steps:
        if step is None:
            incoming = ObjectStore(store.folder, 1 << 24).incoming(REF)
        else:
            assert incoming.add(step, piece(step)) == (step not in came)
            came.add(step)
        assert incoming.missing() == sorted({0, 1, 2, 3} - came)
    fill(incoming)
    assert incoming.finish() == REF
    assert whole(store)


@pytest.mark.parametrize(
    "data", [b"", b"1", random.Random(1).randbytes(CHUNK), random.Random(2).randbytes(9 * CHUNK)]
)
def test_objects_of_every_length(store, data):
    incoming = store.incoming(ObjectRef(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)))
    for number in incoming.missing():
        incoming.add(number, piece(number, data))
    assert store.get(incoming.finish().sha256) == data


@pytest.mark.parametrize(
    ("number", "length"), [(-1, CHUNK), (4, 100), (0, CHUNK - 1), (0, 0), (3, CHUNK), (3, 99)]
)
def test_a_chunk_of_another_object_is_refused(store, number, length):
    incoming = store.incoming(REF)
    with pytest.raises(ObjectError, match=r"has .* (chunks|bytes)"):
        incoming.add(number, bytes(length))
    assert incoming.missing() == [0, 1, 2, 3]


def test_it_is_not_finished_before_it_is_whole(store):
    incoming = store.incoming(REF)
    incoming.add(0, piece(0))
    with pytest.raises(ObjectError, match="lacks 3 of 4 chunks"):
        incoming.finish()
    assert incoming.missing() == [1, 2, 3]


def test_wrong_bytes_are_thrown_away_and_asked_for_afresh(store):
    incoming = store.incoming(REF)
    for number in range(4):
        incoming.add(number, bytes(len(piece(number))))
    with pytest.raises(ObjectError, match="thrown away"):
        incoming.finish()
    assert not store.has(REF.sha256)
    assert incoming.missing() == store.incoming(REF).missing() == [0, 1, 2, 3]
    fill(incoming)
    incoming.finish()
    assert whole(store)


def test_an_object_that_is_here_already_is_done(store):
    incoming = store.incoming(REF)
    incoming.add(0, piece(0))
    store.put(DATA)
    again = store.incoming(REF)
    assert again.done
    assert again.missing() == []
    assert not again.add(1, piece(1))
    assert again.finish() == REF
    assert whole(store), "what was on its way is swept up"


@pytest.mark.parametrize("spoilt", ["part", "map"])
@pytest.mark.parametrize("how", ["gone", "short", "long"])
def test_files_that_do_not_fit_begin_afresh(store, spoilt, how):
    incoming = store.incoming(REF)
    incoming.add(0, piece(0))
    file = store.path(REF.sha256).with_suffix(f".{spoilt}")
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] if how == "short" else file.read_bytes() + b"1")
    again = store.incoming(REF)
    assert again.missing() == [0, 1, 2, 3]
    fill(again)
    again.finish()
    assert whole(store)


def test_the_part_is_sparse_and_costs_no_memory(store):
    incoming = ObjectStore(store.folder, 1 << 30).incoming(
        ObjectRef(sha256="ab" * 32, bytes=(1 << 30) - (1 << 20))
    )
    part = store.path("ab" * 32).with_suffix(".part")
    assert part.stat().st_blocks * 512 < 1 << 20
    assert len(incoming.missing()) == 8184


def test_discarded_chunks_leave_nothing(store):
    incoming = store.incoming(REF)
    incoming.add(0, piece(0))
    incoming.discard()
    assert not list(store.folder.iterdir())


def test_a_full_disk_is_said_and_the_chunk_stays_missing(store, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    incoming = store.incoming(REF)
    incoming.add(0, piece(0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        with pytest.raises(OSError, match="No space left"):
            incoming.add(1, piece(1))
    assert incoming.missing() == store.incoming(REF).missing() == [1, 2, 3]
    fill(incoming)
    incoming.finish()
    assert whole(store)


class StopError(BaseException):
    """The process ends here."""


def stopping_at(monkeypatch, step):
    """Let the step-th system call that writes not happen, and all that follow it neither."""
    from pathlib import Path

    left = [step]

    def counted(original):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise StopError
            return original(*args, **kwargs)

        return call

    for owner, name in [
        (os, "fdatasync"),
        (os, "fsync"),
        (Path, "replace"),
        (Path, "unlink"),
        (Path, "open"),
        (schemas.incoming, "sync_folder"),
    ]:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


@pytest.mark.parametrize("step", range(30))
def test_an_abrupt_stop_at_every_step_loses_at_most_one_chunk(store, monkeypatch, step):
    acknowledged = set()
    stopped = False
    with monkeypatch.context() as patch:
        stopping_at(patch, step)
        try:
            incoming = store.incoming(REF)
            for number in range(4):
                incoming.add(number, piece(number))
                acknowledged.add(number)
            incoming.finish()
        except StopError:
            stopped = True
    assert stopped or step >= 18, "every step was stopped at"
    again = ObjectStore(store.folder, 1 << 24).incoming(REF)
    assert not acknowledged & set(again.missing())
    fill(again)
    assert again.finish() == REF
    assert whole(store)


def test_killed_for_good_it_goes_on(tmp_path):
    """A process that takes chunks for ever is killed (-9); the next life has what it had said."""
    program = textwrap.dedent(f"""
        import pathlib, random
        from schemas.objects import ObjectStore
        from schemas.wire import CHUNK, ObjectRef
        data = random.Random(0).randbytes({100 * CHUNK})
        import hashlib
        ref = ObjectRef(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        incoming = ObjectStore(pathlib.Path({str(tmp_path)!r}), 1 << 30).incoming(ref)
        for number in incoming.missing():
            incoming.add(number, data[number * CHUNK : (number + 1) * CHUNK])
            print(number, flush=True)
    """)
    data = random.Random(0).randbytes(100 * CHUNK)
    ref = ObjectRef(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    before = -1
    for seed in range(3):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
            first = int(child.stdout.readline())
            time.sleep(0.02 * seed)
            child.kill()
            said = [first, *map(int, child.stdout.read().split(b"\n")[:-1])]
        assert before < said[0] <= before + 2, "nothing that was kept comes twice"
        before = said[-1]
    incoming = ObjectStore(tmp_path, 1 << 30).incoming(ref)
    for number in incoming.missing():
        incoming.add(number, data[number * CHUNK : (number + 1) * CHUNK])
    assert incoming.finish() == ref
