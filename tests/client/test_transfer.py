"""Chunks: asked for one by one, asked again when they do not come, served from the disk."""

import hashlib
import threading
import time

import pytest

from client import transfer
from client.transfer import Downloads, GivenUp, PutOff, TransferError, chunks_of
from schemas.objects import MissingObjectError, ObjectStore
from schemas.wire import CHUNK, ObjectRef, Want, frame, parse_frame

DATA = bytes(range(256)) * 2048 + b"tail"  # four chunks and a little


def never() -> bool:
    return False


@pytest.fixture
def store(tmp_path):
    return ObjectStore(tmp_path / "objects", 1 << 24)


@pytest.fixture
def reference():
    return ObjectRef(sha256=hashlib.sha256(DATA).hexdigest(), bytes=len(DATA))


class Sender:
    """Answers requests as a link's thread does, but for what a test takes away."""

    def __init__(self, data=DATA) -> None:
        self.data, self.asked, self.frames = data, [], lambda number, frames: frames

    def __call__(self, want) -> bool:
        number = want.numbers()[0]
        self.asked.append(number)
        part = self.data[number * CHUNK : (number + 1) * CHUNK]
        frames = self.frames(number, [frame(want.object.sha256, number, part)])
        for each in frames:
            threading.Thread(target=self.downloads.on_frame, args=(each,)).start()
        return True


@pytest.fixture
def sender(store):
    sender = Sender()
    sender.downloads = Downloads(store, sender, wait=0.05)
    return sender


def test_chunks_are_asked_for_in_turn(store, sender, reference):
    assert sender.downloads.pull([reference], never) == len(DATA)
    assert store.get(reference.sha256) == DATA
    assert sender.asked == [0, 1, 2, 3, 4]
    assert sender.downloads.pull([reference], never) == 0


def test_a_chunk_that_is_lost_is_asked_for_again(sender, reference):
    lost = [2, 2]

    def drop(number, frames):
        return [] if lost and lost[0] == number and lost.pop() else frames

    sender.frames = drop
    sender.downloads.pull([reference], never)
    assert sender.asked == [0, 1, 2, 2, 2, 3, 4]


def test_who_waits_in_vain_makes_way_for_others_and_keeps_what_came(sender, reference):
    sender.frames = lambda number, frames: frames if number < 2 else []
    with pytest.raises(PutOff):
        sender.downloads.pull([reference], never, lambda: True)
    assert sender.asked == [0, 1, 2]
    sender.frames = lambda number, frames: frames
    sender.downloads.pull([reference], never, lambda: True)
    assert sender.asked == [0, 1, 2, 2, 3, 4]


def test_another_life_asks_for_what_is_missing_alone(store, sender, reference):
    stop = []
    sender.frames = lambda number, frames: frames if number < 3 else stop.append(1) or []
    with pytest.raises(GivenUp):
        sender.downloads.pull([reference], lambda: bool(stop))
    again = Sender()
    again.downloads = Downloads(ObjectStore(store.folder, 1 << 24), again)
    again.downloads.pull([reference], never)
    assert again.asked == [3, 4]


def test_a_link_that_is_back_is_asked_at_once(store, reference):
    sender = Sender()
    sender.downloads = Downloads(store, sender, wait=30.0)
    sender.frames = lambda number, frames: frames if len(sender.asked) > 1 else []
    timer = threading.Timer(0.2, sender.downloads.nudge)
    timer.start()
    began = time.monotonic()
    sender.downloads.pull([reference], never)
    assert time.monotonic() - began < 20
    assert sender.asked[:2] == [0, 0]


def test_doubled_and_foreign_frames_change_nothing(store, sender, reference):
    other = frame("0" * 64, 0, b"x")
    sender.frames = lambda number, frames: [other, *frames, *frames, b"short"]
    sender.downloads.pull([reference], never)
    assert store.get(reference.sha256) == DATA
    assert sender.downloads.stray >= 10


def test_a_chunk_of_another_length_is_asked_for_again(sender, reference):
    short = [True]
    sender.frames = lambda number, frames: (
        [frame(reference.sha256, number, b"x")] if number == 1 and short and short.pop() else frames
    )
    sender.downloads.pull([reference], never)
    assert sender.asked.count(1) == 2


def test_wrong_bytes_are_given_up_in_the_end(store, reference):
    sender = Sender(DATA[:-1] + b"?")
    sender.downloads = Downloads(store, sender)
    with pytest.raises(TransferError, match="3 times"):
        sender.downloads.pull([reference], never)
    assert sender.asked == [0, 1, 2, 3, 4] * 3
    assert not store.has(reference.sha256)
    assert not list(store.folder.iterdir())


def test_an_empty_object(store, sender):
    empty = ObjectRef(sha256=hashlib.sha256(b"").hexdigest(), bytes=0)
    sender.downloads.pull([empty], never)
    assert store.get(empty.sha256) == b""


def test_a_full_store_is_said(tmp_path, reference):
    sender = Sender()
    sender.downloads = Downloads(ObjectStore(tmp_path / "small", 1000), sender)
    with pytest.raises(OSError, match="limit"):
        sender.downloads.pull([reference], never)
    assert not sender.asked


def test_what_is_asked_for_is_served(store, reference):
    store.put(DATA)
    want = Want(object=reference, chunks=((1, 2), (4, 5)))
    served = [parse_frame(data) for data in chunks_of(store, want)]
    assert [(number, chunk) for _, number, chunk in served] == [
        (1, DATA[CHUNK : 2 * CHUNK]),
        (4, DATA[4 * CHUNK :]),
    ]


def test_no_more_than_a_few_chunks_a_request(store, reference, monkeypatch):
    monkeypatch.setattr(transfer, "_MOST_CHUNKS", 2)
    store.put(DATA)
    assert len(list(chunks_of(store, Want(object=reference, chunks=((0, 5),))))) == 2


def test_what_is_not_here_is_not_served(store, reference):
    with pytest.raises(MissingObjectError):
        list(chunks_of(store, Want(object=reference, chunks=((0, 1),))))
    store.put(b"short")
    name = hashlib.sha256(b"short").hexdigest()
    with pytest.raises(TransferError, match="5 bytes, not 6"):
        list(chunks_of(store, Want(object=ObjectRef(sha256=name, bytes=6), chunks=((0, 1),))))
