"""What a process does that ``simulations.jobs`` starts: it does one request, and tells how.

Standard output carries a JSON object a line: ``note``, a line for people; what else a kind of job
tells; and at the end what its work returned, or ``error`` and ``code``.
"""

import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console

from server import garbage
from simulations.engine.worker import die_with_parent
from simulations.exits import FAILED, INTERRUPTED, explained
from simulations.progress import Progress


class Relay(Progress):
    """Tells the parent each line, and which cell it is about.

    Parameters
    ----------
    parent : TextIO
        Where it listens.
    every : float
        Seconds between two lines of one strategy.
    """

    def __init__(self, parent: TextIO, every: float) -> None:
        super().__init__(Console(file=io.StringIO()), every)
        self._parent, self._cell = parent, ""

    def tell(self, **event: Any) -> None:
        """Say something that is not only for people."""
        self._parent.write(f"{json.dumps(event)}\n")
        self._parent.flush()

    def note(self, text: str) -> None:
        """Say a line."""
        self.tell(note=f"{self._cell}: {text}" if self._cell else text)

    def cell(self, title: str) -> None:
        """A cell starts."""
        self._cell = title

    def cell_done(self) -> None:
        """It has its result."""
        self.tell(done=self._cell)


def serve(work: Callable[[dict[str, Any], Relay], dict[str, Any]], every: float) -> None:
    """Do the request, the last argument; see ``Relay`` for the rest."""
    die_with_parent(0)
    garbage.seldom()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the parent's, not the terminal's
    parent = os.fdopen(os.dup(1), "w")
    with contextlib.suppress(OSError):  # 2 may be closed
        os.dup2(2, 1)  # what else is printed is for people
    relay = Relay(parent, every)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # see ``simulations.jobs``
        relay.tell(**work(json.loads(sys.argv[-1]), relay))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        found = explained(error)
        if found is None:
            raise
        relay.tell(error=found[0], code=found[1])
        sys.exit(FAILED)
