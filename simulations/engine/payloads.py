"""Which payloads several messages share: each is written to the arena once."""

from collections.abc import Iterator

from flwr.app import ArrayRecord, RecordDict

from simulations.engine.arena import Arena, Block

_SHARE_FROM = 4096  # bytes; what is smaller costs less to copy than to look up


def payloads(records: RecordDict) -> list[bytes]:
    """Return the arrays' payloads that are worth sharing."""
    return [data for data in _all(records) if len(data) >= _SHARE_FROM]


def _all(records: RecordDict) -> Iterator[bytes]:
    for record in records.values():
        if isinstance(record, ArrayRecord):
            for array in record.values():
                yield array.data


class SharedPayloads:
    """Counts by identity who still needs a payload and places it at its first use.

    ``ArrayRecord`` copies the ``Array`` it is given but not its ``bytes``, so identity is that of
    the bytes. Whoever retains a payload keeps a reference to it, so that no other can take its id.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._uses: dict[int, int] = {}
        self._blocks: dict[int, Block] = {}

    def retain(self, held: list[bytes]) -> None:
        """Count one more message that carries these payloads."""
        for data in held:
            self._uses[id(data)] = self._uses.get(id(data), 0) + 1

    def find(self, data: bytes) -> Block | None:
        """Return where a shared payload lies; None if no other message needs it."""
        block = self._blocks.get(id(data))
        if block is None and self._uses.get(id(data), 0) > 1:
            block = self._blocks[id(data)] = self._arena.put([data])
        return block

    def release(self, held: list[bytes]) -> None:
        """Count one message less and free what nobody needs."""
        for data in held:
            left = self._uses[id(data)] - 1
            if left:
                self._uses[id(data)] = left
                continue
            del self._uses[id(data)]
            if block := self._blocks.pop(id(data), None):
                self._arena.free(block)
