"""A process that runs one group of a sweep's cells; ``simulations.sweep_jobs`` starts it.

Standard output carries a JSON object a line: ``note``, a line for people; ``done``, a cell's title;
and at the end ``failed``, what is wrong with the cells without a result, or ``error`` and ``code``.
"""

import contextlib
import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final, TextIO

from rich.console import Console

from simulations.engine.worker import die_with_parent
from simulations.exits import FAILED, INTERRUPTED, explained
from simulations.progress import Progress
from simulations.report.files import RunError
from simulations.run import prepare
from simulations.sweep_cells import load_sweep, run_group, tasks_of

_EVERY: Final = 60.0  # seconds between two lines of one job


class Relay(Progress):
    """Tells the parent each line, and which cell it is about."""

    def __init__(self, parent: TextIO) -> None:
        super().__init__(Console(file=io.StringIO()), _EVERY)
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


def main() -> None:
    """Run the cells of the request, the last argument."""
    die_with_parent(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the parent's, not the terminal's
    parent = os.fdopen(os.dup(1), "w")
    with contextlib.suppress(OSError):  # 2 may be closed
        os.dup2(2, 1)  # what else is printed is for people
    relay = Relay(parent)
    try:
        relay.tell(failed=_run(json.loads(sys.argv[-1]), relay))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        found = explained(error)
        if found is None:
            raise
        relay.tell(error=found[0], code=found[1])
        sys.exit(FAILED)


def _run(request: dict[str, Any], relay: Relay) -> list[str]:
    loaded = load_sweep(Path(request["file"]))
    tasks = [task for task in tasks_of(loaded) if task.key in request["cells"]]
    if len(tasks) != len(request["cells"]):
        raise RunError(f"{loaded.path}: was changed while its sweep began; start it again")
    prepare()
    return run_group(tasks, Path(request["folder"]), relay, request["workers"])
