import os

import pytest

from simulations.engine import arena


def test_blocks_are_used_again_by_size() -> None:
    memory = arena.Arena("test")
    first, second = memory.put([b"a" * 100]), memory.put([b"b" * 5000])
    memory.free(first)
    third = memory.put([b"c" * 50, b"d" * 40])
    assert third.offset == first.offset
    assert arena.read(memory.fd, third.offset, 90) == b"c" * 50 + b"d" * 40
    assert arena.read(memory.fd, second.offset, 5000) == b"b" * 5000
    memory.close()


def test_an_idle_arena_gives_back_what_a_peak_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "_KEEP", 1 << 16)
    memory = arena.Arena("test")
    block = memory.put([b"x" * (1 << 18)])
    memory.free(block)
    assert os.fstat(memory.fd).st_blocks == 0
    again = memory.put([b"y"])
    assert arena.read(memory.fd, again.offset, 1) == b"y"
    memory.close()


def test_many_parts_and_short_reads() -> None:
    memory = arena.Arena("test")
    parts = [bytes([i % 256]) * 3 for i in range(2000)]
    block = memory.put(parts)
    assert arena.read(memory.fd, block.offset, block.length) == b"".join(parts)
    assert arena.read(memory.fd, block.offset, block.length + 10) == b"".join(parts)
    memory.close()
