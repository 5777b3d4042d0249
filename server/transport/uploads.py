"""Answers on their way here: each device is asked for one chunk at a time."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from schemas.objects import Incoming, ObjectError, ObjectStore, StoreFullError
from schemas.wire import ObjectRef
from server.transport.inbox import DroppedError, Part

FIRST_WAIT: Final = 5.0  # seconds until a chunk is asked for again; doubles up to …
LONGEST_WAIT: Final = 60.0
ATTEMPTS: Final = 2  # at an object whose bytes do not match its name


@dataclass(eq=False)
class Fetch:
    """The objects of one task's answer.

    Attributes
    ----------
    refs
        Those that are not here yet; the first is on its way.
    missing
        Chunks of it that have not come; the first was asked for.
    again
        When to ask again, on the clock of ``Uploads``.
    """

    task: str
    device: str
    refs: deque[ObjectRef]
    incoming: Incoming | None = None
    missing: deque[int] = field(default_factory=deque)
    again: float = 0.0
    wait: float = FIRST_WAIT
    broken: int = 0


@dataclass(frozen=True)
class Told:
    """Who is told what.

    Attributes
    ----------
    ask : callable(fetch, object, chunk's number)
    done : callable(task)
    failed : callable(task, reason)
    room : callable(bytes)
        Asks for room where the store is full.
    trouble : callable(device, error)
        No room, or a broken disk: it is tried again by and by.
    """

    ask: Callable[[Fetch, ObjectRef, int], None]
    done: Callable[[str], None]
    failed: Callable[[str, str], None]
    room: Callable[[int], None]
    trouble: Callable[[str, OSError], None]


class Uploads:
    """All fetches, by task. Whoever calls holds the courier's lock.

    Parameters
    ----------
    objects : ObjectStore
    told : Told
    clock : callable() -> float
    """

    def __init__(self, objects: ObjectStore, told: Told, clock: Callable[[], float]) -> None:
        self._objects, self._told, self._clock = objects, told, clock
        self._fetches: dict[str, Fetch] = {}

    def begin(self, task: str, device: str, refs: list[ObjectRef]) -> None:
        """Fetch an answer's objects; what is here or on its way is not asked for again."""
        if task not in self._fetches:
            self._fetches[task] = Fetch(task, device, deque(refs))
            self._advance(self._fetches[task])

    def forget(self, task: str) -> None:
        """Fetch a task's answer no further; what came of it stays."""
        fetch = self._fetches.pop(task, None)
        if fetch is not None and fetch.incoming is not None:
            self._let_others(fetch.incoming.ref.sha256, fetch)

    def awaits(self, sha: str) -> bool:
        """Whether chunks of an object are to come."""
        return any(each.incoming and each.incoming.ref.sha256 == sha for each in self._all())

    def take(self, device: str, chunk: Part) -> None:
        """Keep a chunk that came.

        Raises
        ------
        DroppedError
            Where it was not asked for, is another device's to send, is here, or is wrong.
        """
        fetch = self._of(device, chunk)
        incoming = fetch.incoming
        assert incoming is not None
        where = f"chunk {chunk.number} of {chunk.sha[:12]}"
        if chunk.number not in fetch.missing:
            known = 0 <= chunk.number < incoming.ref.chunks
            raise DroppedError(device, "duplicate" if known else "malformed", f"{where}: not due")
        if chunk.number != fetch.missing[0]:
            raise DroppedError(device, "unasked", f"{where}: {fetch.missing[0]} was asked for")
        try:
            incoming.add(chunk.number, chunk.data)
        except ObjectError as error:
            raise DroppedError(device, "malformed", f"{where}: {error}") from error
        fetch.missing.popleft()
        fetch.wait = FIRST_WAIT
        if fetch.missing:
            self._ask(fetch)
        else:
            self._finish(fetch, incoming)

    def tick(self, online: Callable[[str], bool]) -> None:
        """Ask again for what did not come, of devices that are online."""
        now = self._clock()
        for fetch in list(self._fetches.values()):
            if fetch.again > now or not online(fetch.device):
                continue
            fetch.wait = min(2 * fetch.wait, LONGEST_WAIT)
            if fetch.incoming is None:
                self._advance(fetch)
            else:
                self._ask(fetch)

    def wake(self, device: str) -> None:
        """Ask at once: the device, or the link, is back."""
        for fetch in list(self._fetches.values()):
            if fetch.device == device and fetch.incoming is not None:
                fetch.wait = FIRST_WAIT
                self._ask(fetch)

    def _of(self, device: str, chunk: Part) -> Fetch:
        under_way = [
            fetch
            for fetch in self._fetches.values()
            if fetch.incoming is not None and fetch.incoming.ref.sha256 == chunk.sha
        ]
        if not under_way:
            here = "duplicate" if self._objects.has(chunk.sha) else "unasked"
            raise DroppedError(device, here, f"chunk of {chunk.sha[:12]}, which nobody asked for")
        if under_way[0].device != device:
            asked = under_way[0].device
            raise DroppedError(device, "foreign", f"chunk of {chunk.sha[:12]}: {asked} was asked")
        return under_way[0]

    def _advance(self, fetch: Fetch) -> None:
        """Begin with the next object that is not here."""
        while fetch.refs and self._objects.has(fetch.refs[0].sha256):
            fetch.refs.popleft()
        if not fetch.refs:
            del self._fetches[fetch.task]
            self._told.done(fetch.task)
            return
        fetch.again = self._clock() + fetch.wait
        sha = fetch.refs[0].sha256
        if any(other.incoming and other.incoming.ref.sha256 == sha for other in self._all()):
            return  # it comes from another device; see _let_others
        try:
            fetch.incoming = self._begun(fetch.refs[0])
        except OSError as error:
            self._told.trouble(fetch.device, error)
            return
        fetch.missing = deque(fetch.incoming.missing())
        if fetch.missing:
            self._ask(fetch)
        else:
            self._finish(fetch, fetch.incoming)

    def _begun(self, ref: ObjectRef) -> Incoming:
        try:
            return self._objects.incoming(ref)
        except StoreFullError:
            self._told.room(ref.bytes)
            return self._objects.incoming(ref)

    def _all(self) -> list[Fetch]:
        return list(self._fetches.values())

    def _ask(self, fetch: Fetch) -> None:
        assert fetch.incoming is not None
        fetch.again = self._clock() + fetch.wait
        self._told.ask(fetch, fetch.incoming.ref, fetch.missing[0])

    def _finish(self, fetch: Fetch, incoming: Incoming) -> None:
        fetch.incoming = None
        try:
            incoming.finish()
        except ObjectError as error:
            self._broken(fetch, error)
        except OSError as error:
            self._told.trouble(fetch.device, error)
        else:
            self._advance(fetch)
        finally:
            self._let_others(incoming.ref.sha256, fetch)

    def _broken(self, fetch: Fetch, error: ObjectError) -> None:
        name = f"object {fetch.refs[0].sha256[:12]}: {error}"
        fetch.broken += 1
        if fetch.broken < ATTEMPTS:
            self._advance(fetch)
        else:
            del self._fetches[fetch.task]
            self._told.failed(fetch.task, name)
        raise DroppedError(fetch.device, "wrong-hash", name)

    def _let_others(self, sha: str, but: Fetch) -> None:
        for fetch in self._all():
            waits = fetch.incoming is None and fetch.refs and fetch.refs[0].sha256 == sha
            if waits and fetch is not but and fetch.task in self._fetches:
                self._advance(fetch)
