"""The store of objects: whole or not at all, within its limit, and named by what is in them."""

import errno
import hashlib
import os

import pytest

from schemas.objects import MissingObjectError, ObjectError, ObjectStore, StoreFullError
from schemas.wire import CHUNK, ObjectRef

MIB = 1 << 20


def sha_of(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def store(tmp_path):
    return ObjectStore(tmp_path / "objects", MIB)


@pytest.mark.parametrize("data", [b"", b"1", bytes(CHUNK), os.urandom(CHUNK * 2 + 7)])
def test_objects_come_back(store, data):
    reference = store.put(data)
    assert reference == ObjectRef(sha256=sha_of(data), bytes=len(data))
    assert store.put(data) == reference
    assert store.has(reference.sha256)
    assert store.get(reference.sha256) == data
    assert store.ref(reference.sha256) == reference
    chunks = [store.chunk(reference.sha256, number) for number in range(reference.chunks)]
    assert b"".join(chunks) == data
    with pytest.raises(MissingObjectError, match="no chunk"):
        store.chunk(reference.sha256, reference.chunks)
    assert store.names() == [reference.sha256]


def test_a_store_reopened_has_what_it_had_and_no_leftovers(store):
    reference = store.put(b"kept")
    (store.folder / "new-abc").write_bytes(b"a write that was killed")
    again = ObjectStore(store.folder, MIB)
    assert again.get(reference.sha256) == b"kept"
    assert [path.name for path in store.folder.iterdir()] == [reference.sha256]


def test_removed_objects_are_gone(store):
    sha = store.put(b"data").sha256
    store.remove(sha)
    store.remove(sha)
    assert not store.has(sha)
    for ask in (store.get, store.ref, lambda sha: store.chunk(sha, 0)):
        with pytest.raises(MissingObjectError, match="no object"):
            ask(sha)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_names_are_checked(store, name):
    for ask in (store.has, store.get, store.remove, store.path):
        with pytest.raises(ObjectError, match="64 hexadecimal digits"):
            ask(name)


def test_what_the_disk_spoilt_is_found_and_removed(store):
    sha = store.put(b"data").sha256
    store.path(sha).write_bytes(b"dada")
    with pytest.raises(MissingObjectError, match="spoilt"):
        store.get(sha)
    assert not store.has(sha)


def test_the_limit_holds_for_whole_objects_and_those_on_their_way(store):
    store.put(bytes(MIB - 10))
    with pytest.raises(StoreFullError, match="limit is 1048576") as caught:
        store.put(b"x" * 11)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(StoreFullError):
        store.incoming(ObjectRef(sha256="ab" * 32, bytes=11))
    store.put(b"x" * 10)
    assert len(list(store.folder.iterdir())) == 2


def test_an_object_on_its_way_has_its_room_reserved(store):
    big = ObjectRef(sha256="ab" * 32, bytes=MIB - 100)
    store.incoming(big)
    with pytest.raises(StoreFullError):
        store.put(bytes(200))
    store.incoming(big)  # not counted twice
    store.remove(big.sha256)
    store.put(bytes(200))


def test_a_huge_declared_length_is_refused_and_leaves_nothing(store):
    with pytest.raises(StoreFullError):
        store.incoming(ObjectRef(sha256="ab" * 32, bytes=1 << 30))
    assert not list(store.folder.iterdir())


def test_make_room_removes_the_oldest_use_first(store):
    shas = [store.put(bytes([number]) * 300_000).sha256 for number in range(3)]
    for age, sha in enumerate(shas):
        os.utime(store.path(sha), (1000 + age, 1000 + age))
    store.get(shas[0])
    store.make_room(400_000)
    assert store.names() == sorted([shas[0], shas[2]])
    store.make_room(MIB, keep={shas[2]})
    assert store.names() == [shas[2]]


def test_a_full_disk_is_said_and_leaves_nothing(store, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.put(b"data")
    assert not list(store.folder.iterdir())
