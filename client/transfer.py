"""Objects by chunk: pulls what a task names, and serves the chunks of answers."""

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from schemas.objects import ObjectError, ObjectStore
from schemas.wire import CHUNK, ObjectRef, Want, WireError, frame, parse_frame

_log = logging.getLogger("flwr_edge.transfer")
FIRST_WAIT, LONGEST_WAIT = 5.0, 60.0  # seconds for a chunk, before it is asked for again
_TRIES: Final = 3  # downloads of an object whose bytes do not match its name
_MOST_CHUNKS: Final = 64  # served for one request


class TransferError(RuntimeError):
    """An object that cannot be had."""


class PutOff(Exception):  # noqa: N818 (no error: it is asked for again later)
    """A chunk does not come, and other work waits."""


class GivenUp(Exception):  # noqa: N818 (no error: nobody wants the object any more)
    """The download was stopped from outside."""


class Downloads:
    """Pulls objects, one chunk at a time: a link that breaks costs at most the one under way.

    Parameters
    ----------
    objects : ObjectStore
    ask : callable(Want) -> bool
        Sends a request; False where there is no link at the moment.
    wait : float
        Seconds for a chunk before it is asked for again, the first time.
    """

    def __init__(
        self, objects: ObjectStore, ask: Callable[[Want], bool], wait: float = FIRST_WAIT
    ) -> None:
        self.objects, self._ask, self._wait = objects, ask, wait
        self._change = threading.Condition()
        self._expected: tuple[str, int] | None = None
        self._came: bytes | None = None
        self._nudged = False
        self.stray = 0

    def on_frame(self, data: bytes) -> None:
        """Take a data frame from the link; one that nobody asked for is counted and dropped."""
        try:
            name, number, chunk = parse_frame(data)
        except WireError as error:
            _log.warning("dropped a data frame: %s", error)
            self.stray += 1
            return
        with self._change:
            if self._expected != (name, number):
                self.stray += 1
                return
            self._expected, self._came = None, chunk
            self._change.notify_all()

    def nudge(self) -> None:
        """Look again at once: the link is back, or nobody wants the object any more."""
        with self._change:
            self._nudged = True
            self._change.notify_all()

    def pull(
        self,
        references: Iterable[ObjectRef],
        given_up: Callable[[], bool],
        others_wait: Callable[[], bool] = lambda: False,
    ) -> int:
        """Pull what is not here; the bytes that came.

        Parameters
        ----------
        references : iterable of ObjectRef
        given_up : callable() -> bool
            Looked at several times a second.
        others_wait : callable() -> bool
            Looked at where a chunk was asked for and did not come: whoever asked may be gone for
            hours, and others need not wait for that.

        Raises
        ------
        GivenUp
            ``given_up()`` said so.
        PutOff
            ``others_wait()`` said so; what came is kept.
        TransferError
            An object's bytes do not match its name, again and again.
        OSError
            The disk is full.
        """
        lacking = [one for one in references if not self.objects.has(one.sha256)]
        return sum(self._pull(one, given_up, others_wait) for one in lacking)

    def _pull(
        self, reference: ObjectRef, given_up: Callable[[], bool], others_wait: Callable[[], bool]
    ) -> int:
        error: ObjectError | None = None
        for _ in range(_TRIES):
            incoming = self.objects.incoming(reference)
            for number in list(incoming.missing()):
                chunk = self._chunk(reference, number, given_up, others_wait)
                incoming.add(number, chunk)
            try:
                incoming.finish()
            except ObjectError as wrong:
                _log.warning("object %s: %s; asking afresh", reference.sha256[:12], wrong)
                error = wrong
            else:
                return reference.bytes
        self.objects.remove(reference.sha256)
        raise TransferError(f"object {reference.sha256[:12]}: {error}; {_TRIES} times")

    def _chunk(
        self,
        reference: ObjectRef,
        number: int,
        given_up: Callable[[], bool],
        others_wait: Callable[[], bool],
    ) -> bytes:
        length = min(CHUNK, reference.bytes - number * CHUNK)
        wait = self._wait
        while True:
            chunk = self._asked(reference, number, wait, given_up)
            if chunk is not None and len(chunk) == length:
                return chunk
            if chunk is not None:
                name = reference.sha256[:12]
                _log.warning("object %s: chunk %d is %d bytes long", name, number, len(chunk))
                _pause(wait, given_up)
            elif not self._nudged and others_wait():
                raise PutOff
            wait = min(wait * 2, LONGEST_WAIT)

    def _asked(
        self, reference: ObjectRef, number: int, wait: float, given_up: Callable[[], bool]
    ) -> bytes | None:
        with self._change:
            self._expected, self._came, self._nudged = (reference.sha256, number), None, False
        self._ask(Want(object=reference, chunks=((number, number + 1),)))
        end = time.monotonic() + wait * random.uniform(0.8, 1.2)  # noqa: S311 (jitter)
        with self._change:
            while self._came is None and not self._nudged:
                if given_up():
                    self._expected = None
                    raise GivenUp
                if (left := end - time.monotonic()) <= 0:
                    break
                self._change.wait(min(left, 0.5))
            self._expected = None
            return self._came


def _pause(seconds: float, given_up: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if given_up():
            raise GivenUp
        time.sleep(min(0.1, seconds))


def chunks_of(objects: ObjectStore, want: Want) -> Iterator[bytes]:
    """Frames of the chunks asked for, read from the disk one by one.

    Raises
    ------
    MissingObjectError, OSError
        Where the object is not here.
    TransferError
        Where it has another size than the request says.
    """
    name = want.object.sha256
    if (size := objects.ref(name).bytes) != want.object.bytes:
        raise TransferError(f"object {name[:12]} has {size} bytes, not {want.object.bytes}")
    for number in itertools.islice(want.numbers(), _MOST_CHUNKS):
        yield frame(name, number, objects.chunk(name, number))
